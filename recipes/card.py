# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Writes evaluation results into the card of a judge, and pushes a judge or a Meta RM with its card to the Hub.

python recipes/card.py judge-spct --evaluation judge-results --push_to someone/judge

`recipes/evaluate.py` writes into the card of a local judge itself. This script is for other evaluations, and for
judges trained without `--push_to_hub`. The card of a judge on the Hub is changed there.
"""

import argparse
from pathlib import Path


def main(arguments: argparse.Namespace) -> None:
    from trl_spct.cards import push_judge
    from trl_spct.data.loading import push_or_exit
    from trl_spct.evaluation.publishing import push_results, write_results

    judge, token = arguments.judge, arguments.hub_token
    if not Path(judge).is_dir():
        if arguments.push_to:
            raise SystemExit(f"Found no folder {judge}; expected the folder of a judge to push.")
        push_or_exit(*(lambda folder=folder: push_results(judge, folder, token) for folder in arguments.evaluation))
        return
    for folder in arguments.evaluation:
        if not write_results(judge, folder):
            raise SystemExit(f"Found no README.md in {judge}; expected the card of a judge, as training writes it.")
    if arguments.push_to:
        push_or_exit(lambda: push_judge(judge, arguments.push_to, arguments.hub_private_repo, token))


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    options = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    if subparsers is not None:
        parser = subparsers.add_parser("card", help="Results into a judge's card, and judges to the Hub", **options)
    else:
        parser = argparse.ArgumentParser(prog=prog, **options)
    parser.add_argument("judge", help="A folder, or an id on the Hub.")
    parser.add_argument("--evaluation", nargs="*", default=[], help="Output folders of recipes/evaluate.py.")
    parser.add_argument("--push_to", help="The repository that the folder goes to.")
    parser.add_argument(
        "--hub_private_repo", action=argparse.BooleanOptionalAction, help="Whether a new repository is private."
    )
    parser.add_argument("--hub_token", help="The one that is logged in with by default.")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
