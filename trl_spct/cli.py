# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""`trl-spct VERB …`: the recipes, from wherever the package is installed. Each verb is a script of the recipes folder.

Nothing but the standard library is imported before a recipe is run.
"""

import argparse
import ast
import difflib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import trl_spct


_EMBEDDED = {"spct": "tiny.job", "policy": "tiny.policy"}
"""What a recipe runs if no model is named, and whose parser then says which arguments are its own."""

_EPILOG = """\
`trl-spct VERB --help` shows the options of a verb. Those of `accelerate launch` are taken as well, such as
--num_processes 8, --config_file FILE, and --accelerate_config NAME for a file, or a name that comes with this package
or with TRL. --config NAME is a YAML file, or one that comes with this package.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the verb that the command line names.

    Args:
        argv (sequence of `str`, *optional*, defaults to `sys.argv[1:]`): Verb and arguments.

    Returns:
        `int`: exit status.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    recipes = find_recipes(recipes_folder())
    parser = _make_parser(recipes)
    if not argv:
        parser.print_help()
        return 0
    verb = parser.parse_args([argv[0].replace("_", "-")]).verb
    script = recipes[verb]
    try:
        arguments = with_packaged_config(argv[1:], script.parent)
    except FileNotFoundError as error:
        parser.error(str(error))
    trl_spct.register()
    recipe_parser = _recipe_parser(script, f"trl-spct {verb}", arguments)
    if recipe_parser is None:
        return _run_here(script, verb, arguments)
    with tempfile.TemporaryDirectory(prefix="trl-spct-") as scratch:
        return _launch(script, *split_arguments(recipe_parser, arguments, scratch), recipe_parser)


def recipes_folder() -> Path:
    """The recipes: inside of the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    folders = (package / "recipes", package.parent / "recipes")
    return next(folder for folder in folders if (folder / "spct.py").exists())


def find_recipes(folder: Path) -> dict[str, Path]:
    """The scripts in a folder that have a `make_parser`, by verb: `meta_rm.py` is `meta-rm`."""
    scripts = (
        path for path in sorted(folder.glob("*.py")) if "\ndef make_parser(" in path.read_text(encoding="utf-8")
    )
    return {path.stem.replace("_", "-"): path for path in scripts}


def describe_recipe(script: Path) -> str:
    """One line on a script, without importing it: the `help` of its `add_parser`, or how its docstring begins."""
    module = ast.parse(script.read_text(encoding="utf-8"))
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_parser":
            for keyword in node.keywords:
                if keyword.arg == "help" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    sentence = " ".join((ast.get_docstring(module) or "").partition("\n\n")[0].split()).partition(". ")[0]
    return sentence.partition(": ")[0].rstrip(".")


def with_packaged_config(arguments: Sequence[str], folder: Path) -> list[str]:
    """The arguments with the full path of a `--config` that is no file here, but came with the recipes.

    Raises:
        `FileNotFoundError`: if it is neither, naming some that came.
    """
    arguments = list(arguments)
    if "--config" not in arguments[:-1]:
        return arguments
    place = arguments.index("--config") + 1
    name = arguments[place]
    if not os.path.isfile(name):
        packaged = folder / name.removeprefix("recipes/")  # as their headers call them
        if not packaged.is_file():
            there = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.yaml"))]
            there = [path for path in there if not path.startswith("accelerate_configs/")]
            near = difflib.get_close_matches(name, there, n=6) or there
            raise FileNotFoundError(
                f"Found --config {name}, which is no file here; expected a file, or one that comes with this package, "
                f"such as {', '.join(near)}."
            )
        arguments[place] = str(packaged)
    return arguments


def split_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str], scratch: str | os.PathLike
) -> tuple[list[str], list[str]]:
    """What of a command line, and of the YAML file that it names, is for `accelerate launch`, and what for a recipe.

    The recipe takes what it knows, and the rest is accelerate's, as in TRL's own command line. Recipes refuse keys
    that they do not know, so that a file with keys for accelerate is handed on without these.

    Args:
        parser ([`~trl.TrlParser`] or `ArgumentParser`): The recipe's.
        arguments (sequence of `str`): Behind the verb.
        scratch (`str` or path): A folder that lives as long as the recipe, for that file.

    Returns:
        `tuple[list[str], list[str]]`: (for accelerate, for the recipe).
    """
    own, config = list(arguments), {}
    if "--config" in own[:-1] and hasattr(parser, "set_defaults_with_config"):
        place = own.index("--config")
        config = _read_config(own[place + 1])
        foreign = parser.set_defaults_with_config(**config)[::2]
        _, unknown = parser.parse_known_args(own[:place] + own[place + 2 :])
        launch = {key: value for key, value in config.items() if f"--{key}" in foreign and f"--{key}" not in unknown}
        if foreign:
            own[place + 1] = _write_config({k: v for k, v in config.items() if f"--{k}" not in foreign}, scratch)
        return [*_as_arguments(launch), *unknown], _without(own, unknown)
    _, unknown = parser.parse_known_args(own)
    return unknown, _without(own, unknown)


def _make_parser(recipes: Mapping[str, Path]) -> argparse.ArgumentParser:
    width = max(map(len, recipes))
    verbs = "\n".join(f"  {verb:{width}}  {describe_recipe(script)}" for verb, script in recipes.items())
    parser = argparse.ArgumentParser(
        prog="trl-spct",
        usage="trl-spct VERB [arguments]",
        description=f"Generative reward models for TRL: train, evaluate and use judges that write.\n\nverbs:\n{verbs}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("trl-spct"))
    parser.add_argument("verb", choices=list(recipes), metavar="VERB", help=argparse.SUPPRESS)
    return parser


def _recipe_parser(script: Path, prog: str, arguments: list[str]) -> argparse.ArgumentParser | None:
    """The parser of a recipe that `accelerate launch` runs; `None` for a script that runs in one process."""
    from trl import TrlParser

    module = _load(script)
    wants_embedded = [value for name, value in vars(module).items() if name.startswith("wants_embedded")]
    if any(wants(arguments) for wants in wants_embedded):
        sys.path.insert(0, str(script.parent))
        parser = importlib.import_module(_EMBEDDED[script.stem]).make_parser()
        parser.prog = prog
        return parser
    parser = module.make_parser()
    return module.make_parser(prog=prog) if isinstance(parser, TrlParser) else None


def _load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"trl_spct_recipe_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def _run_here(script: Path, verb: str, arguments: list[str]) -> int:
    sys.argv = [f"trl-spct {verb}", *arguments]
    sys.path.insert(0, str(script.parent))
    spec = importlib.util.spec_from_file_location("__main__", script)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # `runpy` would call the program by its path
    return 0


def _launch(script: Path, launch: list[str], arguments: list[str], parser: argparse.ArgumentParser) -> int:
    from accelerate.commands.launch import launch_command, launch_command_parser

    launch = _with_accelerate_config(launch, script.parent)
    options, unknown = launch_command_parser().parse_known_args([*launch, str(script), *arguments])
    if unknown or options.training_script != str(script):
        parser.exit(
            2,
            f"{parser.prog}: error: found the arguments {unknown or launch}, which neither the recipe nor `accelerate "
            f"launch` knows; `{parser.prog} --help` shows the recipe's.\n",
        )
    try:
        launch_command(options)
    except subprocess.CalledProcessError as error:  # the recipe has said what is wrong
        return error.returncode
    return 0


def _with_accelerate_config(launch: list[str], folder: Path) -> list[str]:
    """`--accelerate_config NAME` as `--config_file`: a file, one that comes with the recipes, or one of TRL's."""
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    launch = list(launch)
    if "--accelerate_config" in launch[:-1]:
        place = launch.index("--accelerate_config") + 1
        packaged = folder / "accelerate_configs" / f"{launch[place]}.yaml"
        if not os.path.isfile(launch[place]) and packaged.is_file():
            launch[place] = str(packaged)
    return resolve_accelerate_config_argument(launch)


def _read_config(path: str) -> dict[str, Any]:
    """A YAML file without its `env`, which is set for the recipe's processes."""
    import yaml

    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}; expected a YAML mapping of options.")
    os.environ.update({name: str(value) for name, value in (config.pop("env", None) or {}).items()})
    return config


def _write_config(config: Mapping[str, Any], folder: str | os.PathLike) -> str:
    import yaml

    path = Path(folder) / "config.yaml"
    path.write_text(yaml.safe_dump(dict(config), allow_unicode=True), encoding="utf-8")
    return str(path)


def _as_arguments(options: Mapping[str, Any]) -> list[str]:
    arguments = []
    for name, value in options.items():
        if value is not None and value is not False:
            arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return arguments


def _without(arguments: Sequence[str], taken: Sequence[str]) -> list[str]:
    """The arguments without an ordered subsequence of them."""
    rest, taken = [], list(taken)
    for argument in arguments:
        if taken and argument == taken[0]:
            taken.pop(0)
        else:
            rest.append(argument)
    return rest


if __name__ == "__main__":
    raise SystemExit(main())
