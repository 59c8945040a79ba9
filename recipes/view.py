# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Judges one row and shows the judgment in the terminal, and as SVG or HTML.

python recipes/view.py --model_name_or_path outputs/tiny/spct --meta_rm outputs/tiny/meta_rm --k 4 \
    --output judgment.svg --row '{"query": "Explain tides to a nurse before an exam.", "responses":
    ["In short, the moon pulls the sea. That is all.", "Respectfully, tides follow the moon."]}'
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from transformers import pipeline

import trl_spct  # noqa: F401 registers the pipeline
from trl_spct.scripts import TEMPLATE_HELP
from trl_spct.view import show


def main(arguments: argparse.Namespace) -> None:
    row = read_row(arguments.row)
    meta_rm = {None: "auto", "none": None}.get(arguments.meta_rm, arguments.meta_rm)
    judge = pipeline("grm-reward", model=arguments.model_name_or_path, meta_rm=meta_rm)
    options = {name: getattr(arguments, name) for name in ("k", "seed", "max_new_tokens", "template")}
    judgment = judge(row, **{name: value for name, value in options.items() if value is not None})
    console = Console(record=True)
    show(judgment, row, arguments.critiques, console)
    for path in arguments.output:
        if path.endswith(".html"):
            console.save_html(path, clear=False)
        else:
            console.save_svg(path, title="trl_spct", clear=False)


def read_row(text: str) -> dict:
    """A row from JSON, or from a `.json` file."""
    if text.endswith(".json"):
        if not Path(text).is_file():
            raise SystemExit(f"Found no file {text}; expected a `.json` file with a row, or the row as JSON.")
        text = Path(text).read_text(encoding="utf-8")
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise SystemExit(f"Found a row that is not JSON ({error}); expected {EXAMPLE}.") from None
    if not isinstance(row, dict):
        raise SystemExit(f"Found JSON of type {type(row).__name__}; expected one row, such as {EXAMPLE}.")
    return row


EXAMPLE = '{"query": "…", "responses": ["…", "…"]}'


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The judge, by path or Hub id.")
    parser.add_argument("--meta_rm", help="Its Meta RM. Default: that of its repository; `none` votes without one.")
    parser.add_argument("--row", required=True, help=f"The row as JSON, {EXAMPLE}, or a `.json` file with it.")
    parser.add_argument("--k", type=int, default=4, help="Critiques.")
    parser.add_argument("--template", help=TEMPLATE_HELP)
    parser.add_argument("--max_new_tokens", type=int, help="Longest critique in tokens.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of orders and samples.")
    parser.add_argument("--critiques", type=int, default=1, help="Critiques that are shown in full.")
    parser.add_argument("--output", nargs="*", default=[], help="`.svg` and `.html` files to write.")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
