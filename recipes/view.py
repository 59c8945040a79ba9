# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
One judgment as a picture: judges a row and shows it in the terminal, and as SVG or HTML where asked for.

python recipes/view.py --model outputs/tiny/spct --meta_rm outputs/tiny/meta_rm --k 4 --output judgment.svg \
    --row '{"query": "Explain tides to a nurse before an exam.", "responses":
    ["In short, the moon pulls the sea. That is all.", "Respectfully, tides follow the moon."]}'
"""

import argparse
import json
from pathlib import Path


def main(arguments: argparse.Namespace) -> None:
    from transformers import pipeline

    import trl_spct  # noqa: F401  registers the pipeline
    from trl_spct.view import show, to_html, to_svg

    row = json.loads(Path(arguments.row).read_text() if arguments.row.endswith(".json") else arguments.row)
    judge = pipeline("grm-reward", model=arguments.model, meta_rm=arguments.meta_rm or "auto")
    verdict = judge(row, k=arguments.k, seed=arguments.seed, max_new_tokens=arguments.max_new_tokens)
    show(verdict, row, arguments.critiques)
    for path in map(Path, arguments.output):
        page = to_html(verdict, row) if path.suffix == ".html" else to_svg(verdict, row, arguments.critiques)
        path.write_text(page, encoding="utf-8")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="The judge, by path or Hub id.")
    parser.add_argument("--meta_rm", help="Its Meta RM; by default the one in its repository, if there is one.")
    parser.add_argument("--row", required=True, help="The row as JSON, or a `.json` file with it.")
    parser.add_argument("--k", type=int, default=4, help="Critiques.")
    parser.add_argument("--max_new_tokens", type=int, help="Longest critique in tokens.")
    parser.add_argument("--seed", type=int, default=0, help="Of orders and samples.")
    parser.add_argument("--critiques", type=int, default=1, help="Critiques that are shown in full.")
    parser.add_argument("--output", nargs="*", default=[], help="`.svg` and `.html` files to write.")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
