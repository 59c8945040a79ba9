# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The command line `trl-spct VERB …`: runs the recipes from any folder, through `accelerate launch` where they train.

`--help` imports the standard library alone.
"""

import argparse
import difflib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import trl_spct


VERBS = {
    "card": "Results into a judge's card, and judges to the Hub",
    "evaluate": "Evaluate a judge",
    "label": "Scores, best of n and DPO pairs",
    "math-rows": "Preference rows by rule",
    "meta-rm": "Train a Meta RM",
    "policy": "RL with a judge as reward",
    "rft": "Rejective fine-tuning",
    "spct": "Rule-based RL of a judge",
    "view": "One judgment as a picture",
}
"""The recipes: `meta-rm` is `recipes/meta_rm.py`."""

_EMBEDDED = {"spct": ("wants_embedded_default", "tiny.job"), "policy": ("wants_embedded_example", "tiny.policy")}
"""The functions that say whether a recipe runs its embedded example, and the module whose parser it then has."""

_EPILOG = """\
`trl-spct VERB --help` shows the options of a verb. Those of `accelerate launch` are accepted as well, for instance
--num_processes 8, --config_file FILE, and --accelerate_config NAME for a file or a configuration of this package or of
TRL. --config NAME is a YAML file, or one of this package's.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the verb that the command line names.

    Args:
        argv (sequence of `str`, *optional*, defaults to `sys.argv[1:]`): Verb and arguments.

    Returns:
        `int`: exit status.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _make_parser()
    if not argv:
        parser.print_help()
        return 0
    verb = parser.parse_args([argv[0].replace("_", "-")]).verb
    script = recipes_folder() / f"{verb.replace('-', '_')}.py"
    try:
        arguments = with_packaged_config(argv[1:], script.parent)
    except FileNotFoundError as error:
        parser.error(str(error))
    trl_spct.register()
    module = _load(script)
    recipe_parser, launched = _recipe_parser(module, verb, arguments)
    recipe_parser.prog = f"trl-spct {verb}"
    if not launched:
        module.main(recipe_parser.parse_args(arguments))
        return 0
    with tempfile.TemporaryDirectory(prefix="trl-spct-") as scratch:
        return _launch(script, *split_arguments(recipe_parser, arguments, scratch), recipe_parser)


def recipes_folder() -> Path:
    """The recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir())


def with_packaged_config(arguments: Sequence[str], folder: Path) -> list[str]:
    """The arguments with the full path of a `--config` that is not a file here but one of the recipes'.

    Raises:
        `FileNotFoundError`: if it is neither, naming the closest of the recipes' files.
    """
    arguments = list(arguments)
    if "--config" not in arguments[:-1]:
        return arguments
    place = arguments.index("--config") + 1
    name = arguments[place]
    if not os.path.isfile(name):
        packaged = folder / name.removeprefix("recipes/")
        if not packaged.is_file():
            files = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.yaml"))]
            files = [file for file in files if not file.startswith("accelerate_configs/")]
            raise FileNotFoundError(
                f"Found --config {name}, which is not a file here; expected a file, or one of this package's, such as "
                f"{', '.join(difflib.get_close_matches(name, files, n=6) or files)}."
            )
        arguments[place] = str(packaged)
    return arguments


def split_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str], scratch: str | os.PathLike
) -> tuple[list[str], list[str]]:
    """Splits a command line, with the YAML file that it names, between `accelerate launch` and a recipe.

    As in TRL's command line, the recipe takes the options that it knows, and accelerate the rest. Recipes refuse
    unknown keys of a file, so that a file with keys for accelerate is written again without them.

    Args:
        parser ([`~trl.TrlParser`] or `ArgumentParser`): The recipe's.
        arguments (sequence of `str`): Behind the verb.
        scratch (`str` or path): Folder for that file; it must exist while the recipe runs.

    Returns:
        `tuple[list[str], list[str]]`: (for accelerate, for the recipe).
    """
    recipe = list(arguments)
    launch: list[str] = []
    file: list[str] = []
    if "--config" in recipe[:-1] and hasattr(parser, "set_defaults_with_config"):
        place = recipe.index("--config")
        file = recipe[place : place + 2]
        del recipe[place : place + 2]
    words = [_Word(word) for word in recipe]
    _, unknown = parser.parse_known_args(words)
    own = [str(word) for word in words if not any(word is other for other in unknown)]
    if file:
        options, file[1] = _split_config(parser, file[1], scratch)
        launch = [word for words in options if words[0] not in unknown for word in words]
    return [*launch, *map(str, unknown)], [*file, *own]


class _Word(str):
    """An argument that is told from an equal one by identity: argparse returns the objects that it does not know."""


def _split_config(parser, path: str, scratch: str | os.PathLike) -> tuple[list[list[str]], str]:
    """The options of a YAML file that are for accelerate, and a file with the others. `env` is set for all."""
    import yaml

    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}; expected a YAML mapping of options.")
    os.environ.update({name: str(value) for name, value in (config.pop("env", None) or {}).items()})
    foreign = {name.removeprefix("--") for name in parser.set_defaults_with_config(**config)[::2]}
    if not foreign:
        return [], path
    rest = Path(scratch, "config.yaml")
    rest.write_text(
        yaml.safe_dump({name: value for name, value in config.items() if name not in foreign}, allow_unicode=True),
        encoding="utf-8",
    )
    values = {name: value for name, value in config.items() if name in foreign and value not in (None, False)}
    return [[f"--{name}"] if value is True else [f"--{name}", str(value)] for name, value in values.items()], str(rest)


def _make_parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {verb:{max(map(len, VERBS))}}  {description}" for verb, description in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="trl-spct",
        usage="trl-spct VERB [arguments]",
        description=f"Generative reward models for TRL: train, evaluate and use judges that write.\n\nverbs:\n{verbs}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("trl-spct"))
    parser.add_argument("verb", choices=list(VERBS), metavar="VERB", help=argparse.SUPPRESS)
    return parser


def _load(script: Path) -> ModuleType:
    sys.path.insert(0, str(script.parent))  # recipes import their neighbors, as when they are run as scripts
    spec = importlib.util.spec_from_file_location(f"trl_spct_recipe_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def _recipe_parser(module: ModuleType, verb: str, arguments: list[str]) -> tuple[argparse.ArgumentParser, bool]:
    """The parser of a recipe, and whether `accelerate launch` runs it."""
    from trl import TrlParser

    if verb in _EMBEDDED and getattr(module, _EMBEDDED[verb][0])(arguments):
        return importlib.import_module(_EMBEDDED[verb][1]).make_parser(), True
    parser = module.make_parser()
    return parser, isinstance(parser, TrlParser)


def _launch(script: Path, launch: list[str], arguments: list[str], parser: argparse.ArgumentParser) -> int:
    from accelerate.commands.launch import launch_command, launch_command_parser
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    if "--accelerate_config" in launch[:-1]:
        place = launch.index("--accelerate_config") + 1
        packaged = script.parent / "accelerate_configs" / f"{launch[place]}.yaml"
        if not os.path.isfile(launch[place]) and packaged.is_file():
            launch[place] = str(packaged)
    launch = resolve_accelerate_config_argument(launch)
    options, unknown = launch_command_parser().parse_known_args([*launch, str(script), *arguments])
    if unknown or options.training_script != str(script):
        parser.exit(
            2,
            f"{parser.prog}: error: found the arguments {unknown or launch}, which neither the recipe nor `accelerate "
            f"launch` knows; `{parser.prog} --help` shows the recipe's.\n",
        )
    if options.cpu and (options.num_processes or 1) > 1:
        parser.exit(
            2,
            f"{parser.prog}: error: found --cpu with --num_processes {options.num_processes}, with which `accelerate "
            f"launch` starts a single process. Leave --num_processes out, or start the processes with "
            f"`torchrun --nproc_per_node {options.num_processes} {script} …`.\n",
        )
    try:
        launch_command(options)
    except subprocess.CalledProcessError as error:  # the recipe has printed its own error
        return error.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
