# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
The rejection rule on real critiques: GenRM-CoT's of GSM8K solutions (Zhang et al., 2024; MIT).

    python tests/measurements/real_critiques.py --data genrm-cot/critiques_sample.jsonl --output real_critiques

Each row is a question, one solution with its `correctness`, and one critique (`verifier_output`) that should end with
"Verification: Is the answer correct (Yes/No)? X". That is a verdict on a single response, in words: the last such
verdict is written as the box that a judge of ours writes, and from there on everything is the library's. A critique
without a verdict is left as it is. With one critique a row every correct one would be too easy, so that rule is off.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from datasets import Dataset

from trl_spct import Preference, select_trajectories
from trl_spct.judge.prompts import judge_template
from trl_spct.trainers.rejection import Trajectory
from trl_spct.trainers.rejection_report import rejection_report

VERDICT = re.compile(r"Verification: Is the answer correct \(Yes/No\)\?[\s*]*(Yes|No)\b")
BOXES = {"Yes": r"\boxed{1}", "No": r"\boxed{0}"}


def with_box(critique: str) -> str:
    """The critique with its last verdict as a box; unchanged if it has none."""
    found = list(VERDICT.finditer(critique))
    if not found:
        return critique
    return critique[: found[-1].start(1)] + BOXES[found[-1][1]] + critique[found[-1].end(1) :]


def judged_trajectories(rows: list[dict]) -> Dataset:
    preferences = [Preference(row["question"], [row["model_output"]], [row["correctness"]]) for row in rows]
    critiques = [judge_template(binary=True).parse(with_box(row["verifier_output"]), 1) for row in rows]
    selection = select_trajectories(
        [Trajectory(i, c.scores, p.labels) for i, (c, p) in enumerate(zip(critiques, preferences, strict=True))],
        reject_too_easy=False,
    )
    return Dataset.from_list(
        [
            {
                "row": i,
                "sample": 0,
                "hinted": False,
                "query": preference.query,
                "responses": list(preference.responses),
                "labels": list(preference.labels),
                "order": [0],
                "domain": "correct solutions" if preference.labels[0] else "incorrect solutions",
                "completion": critique.text,
                "scores": critique.scores,
                "problem": critique.problem,
                "num_tokens": len(critique.text.split()),
                "outcome": outcome.value,
            }
            for i, (preference, critique, outcome) in enumerate(
                zip(preferences, critiques, selection.outcomes, strict=True)
            )
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="`critiques_sample.jsonl`.")
    parser.add_argument("--output", type=Path, help="Folder for the report and the trajectories.")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
    trajectories = judged_trajectories(rows)
    report = rejection_report(trajectories)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        trajectories.to_parquet(options.output / "shard-00000.parquet")
        (options.output / "rejection.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    shown = ("trajectories", "outcomes", "problems", "accuracy")
    sys.stdout.write(json.dumps({name: report[name] for name in shown}, indent=2) + "\n")


if __name__ == "__main__":
    main()
