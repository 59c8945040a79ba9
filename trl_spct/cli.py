# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The command line `trl-spct VERB …`: runs the recipes from any folder, through `accelerate launch` where they train.
`--help` imports the standard library alone."""

import argparse
import difflib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import trl_spct

VERBS = {
    "evaluate": "Evaluate a judge",
    "label": "Scores, best of n and DPO pairs",
    "label-ray": "The same on a cluster of Ray",
    "math-rows": "Preference rows by rule",
    "meta-rm": "Train a Meta RM",
    "policy": "RL with a judge as reward",
    "rft": "Rejective fine-tuning",
    "serve": "A judge as an HTTP server",
    "spct": "Rule-based RL of a judge",
}
# Which functions say whether a recipe runs its embedded example, and whose parser it then has
_EMBEDDED = {"spct": "tiny.job", "policy": "tiny.policy"}
_EPILOG = """\
`trl-spct VERB --help` shows the options of a verb. Those of `accelerate launch` are accepted as well, for instance
--num_processes 8, --config_file FILE, and --accelerate_config NAME for a file or a configuration of this package or of
TRL. --config NAME is a YAML file, or one of this package's.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the verb that the command line names, and returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _make_parser()
    if not argv:
        parser.print_help()
        return 0
    verb = parser.parse_args([argv[0].replace("_", "-")]).verb
    if verb == "serve":  # in this process, which gets the signals
        trl_spct.register()
        importlib.import_module("trl_spct.serving").main(argv[1:])
        return 0
    script = trl_spct.packaged("recipes") / f"{verb.replace('-', '_')}.py"
    arguments = _with_packaged_config(argv[1:], script.parent, parser)
    trl_spct.register()
    from trl import TrlParser

    module = _load(script)
    embedded = verb in _EMBEDDED and module.wants_embedded(arguments)
    recipe_parser = (importlib.import_module(_EMBEDDED[verb]) if embedded else module).make_parser()
    recipe_parser.prog = f"trl-spct {verb}"
    if embedded or isinstance(recipe_parser, TrlParser):
        return _launch(script, *split_arguments(recipe_parser, arguments), recipe_parser)
    module.main(recipe_parser.parse_args(arguments))
    return 0


def _with_packaged_config(arguments: list[str], folder: Path, parser: argparse.ArgumentParser) -> list[str]:
    """The arguments with the full path of a `--config` that is not a file here but one of the recipes'."""
    place = arguments.index("--config") + 1 if "--config" in arguments[:-1] else None
    if place is None or os.path.isfile(arguments[place]):
        return arguments
    packaged = folder / arguments[place].removeprefix("recipes/")
    if not packaged.is_file():
        paths = [path for path in folder.glob("*/*.yaml") if path.parent.name != "accelerate_configs"]
        names = [path.relative_to(folder).as_posix() for path in paths]
        closest = ", ".join(difflib.get_close_matches(arguments[place], names, n=6, cutoff=0))
        parser.error(f"Found --config {arguments[place]}; expected a file or a packaged one, such as {closest}.")
    return [*arguments[:place], str(packaged), *arguments[place + 1 :]]


def split_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits arguments into those for `accelerate launch` and those that the recipe's parser knows."""
    words = [_Word(word) for word in arguments]
    _, unknown = parser.parse_known_args(words)
    if "--config" in unknown[:-1]:  # which `TrlParser` reads apart
        place = unknown.index("--config")
        del unknown[place : place + 2]
    return [*map(str, unknown)], [str(word) for word in words if not any(word is other for other in unknown)]


class _Word(str):
    """An argument that is compared by identity: argparse returns the objects that it does not know."""


def _make_parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {verb:9}  {description}" for verb, description in VERBS.items())
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
    spec: Any = importlib.util.spec_from_file_location(f"trl_spct_recipe_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


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
        names = [word.partition("=")[0] for word in unknown or launch if word.startswith("-")]  # values may be keys
        problem = f"found the arguments {names}, which neither the recipe nor `accelerate launch` knows"
        parser.exit(2, f"{parser.prog}: error: {problem}; `{parser.prog} --help` shows the recipe's.\n")
    try:
        launch_command(options)
    except subprocess.CalledProcessError as error:  # the recipe has printed its own error
        return error.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
