# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Trajectories from recorded critiques: GPT-3.5's and PandaLM-7B's of PandaLM's test set (Wang et al., 2024; Apache-2.0).

    python tests/measurements/recorded_critiques.py --data pandalm --output recorded_critiques

The folder holds `all.jsonl.gz` (pairs with the votes of three annotators) and `recorded_critiques.jsonl.gz` (`idx`,
`judge`, `result`, `reason`). A result becomes a verdict, and "garbage" a text without scores. Both judges read the
responses in the order of the row. `--output` writes the trajectories, for `recipes/rft.py --trajectories`.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path

import measuring  # noqa: F401
from tiny_models import tiny_tokenizer

from trl_spct.trainers.recorded import recorded_trajectories
from trl_spct.trainers.rejection_report import rejection_report

VERDICTS = {"1": "0", "2": "1", "0": "tie", "Tie": "tie"}
SHOWN = ("trajectories", "rows", "outcomes", "ties", "problems", "places", "accuracy", "remarks")


def lines_of(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def critique_of(recorded: dict) -> dict:
    verdict = VERDICTS.get(str(recorded["result"]))
    return {"text": recorded["reason"]} if verdict is None else {"reason": recorded["reason"], "verdict": verdict}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of the pairs and the critiques.")
    parser.add_argument("--output", type=Path, help="Folder for the trajectories of both judges.")
    parser.add_argument("--template", default="paper")
    parser.add_argument("--of", type=Path, help="JSON lines whose `idx` say which pairs are read, not all of them.")
    options = parser.parse_args()
    rows, recorded = (lines_of(options.data / f"{name}.jsonl.gz") for name in ("all", "recorded_critiques"))
    if options.of is not None:
        read = {json.loads(line)["idx"] for line in options.of.read_text().splitlines()}
        rows = [row for row in rows if row["idx"] in read]
        recorded = [critique for critique in recorded if critique["idx"] in read]
    judges = sorted({critique["judge"] for critique in recorded})
    reports = {}
    for name, used in (*((judge, [judge]) for judge in judges), ("both", judges)):
        critiques: dict[int, list[dict]] = {row["idx"]: [] for row in rows}
        for critique in recorded:
            if critique["judge"] in used:
                critiques[critique["idx"]].append(critique_of(critique))
        trajectories = recorded_trajectories(
            [{**row, "critiques": critiques[row["idx"]]} for row in rows],
            tiny_tokenizer(),
            options.template,
            invalid_rows="drop",
        )
        report = rejection_report(trajectories)
        reports[name] = {key: report[key] for key in SHOWN}
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        trajectories.to_parquet(options.output / "shard-00000.parquet")
    sys.stdout.write(json.dumps(reports, indent=2) + "\n")


if __name__ == "__main__":
    main()
