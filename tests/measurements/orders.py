# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Which way to draw the orders of the responses debiases better at equal k?

python tests/measurements/orders.py --runs outputs/tiny_world --output outputs/orders

Judges the held-out rows of finished runs of the tiny world with their base judges, whose critiques depend on where the
best response stands. Every vote is drawn anew for each repeat; votes of fewer critiques are the first of those of
more. Finished judgments in the output folder are read, not repeated.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "recipes"))

SEEDS = (0, 1, 2)
ORDERS = ("fixed", "random", "balanced")
VOTES = (2, 4, 8)


def judge_runs(runs: Path, output: Path, repeats: int) -> dict[tuple[int, str], dict]:
    """(run, kind of order) → the judgments of each repeat, seconds per row and prompts read per row."""
    from tiny.job import Job
    from transformers import pipeline

    from trl_spct import Preference
    from trl_spct.evaluation.judgments import PipelineJudge, record_judgments

    found = {}
    for seed in SEEDS:
        rows = list(Job(runs / f"seed{seed}", seed, True).rows("held_out"))
        for order in ORDERS:
            judge = pipeline("grm-reward", model=str(runs / f"seed{seed}" / "base"), device="cpu")
            folder = output / f"seed{seed}-{order}"
            judged, seconds = [], []
            for repeat in range(repeats):
                fresh, started = not (folder / str(repeat)).exists(), time.perf_counter()
                seeded = PipelineJudge(judge, max(VOTES), order=order, seed=repeat)
                preferences = map(Preference.from_row, rows)
                judged.append(record_judgments(seeded, preferences, folder / str(repeat), rows_per_shard=256))
                clock = folder / f"{repeat}.seconds"
                if fresh:
                    clock.write_text(str((time.perf_counter() - started) / len(rows)))
                seconds.append(float(clock.read_text()))
            found[seed, order] = {"judged": judged, "seconds": _mean(seconds)}
    return found


def by_row(judged: list[list], value: Callable) -> list[float]:
    """The mean over repeats of `value(judgment)` for each row."""
    return [_mean([value(judgment) for judgment in repeats]) for repeats in zip(*judged, strict=True)]


def report(found: dict[tuple[int, str], dict]) -> str:
    """Markdown: accuracy, its paired difference to random orders, how often two repeats agree, and the cost."""
    from trl_spct.evaluation.diagnostics import accuracy_by_place
    from trl_spct.evaluation.statistics import paired_interval

    lines = [
        "| seed | order | "
        + " | ".join(f"@{k}" for k in VOTES)
        + " | "
        + " | ".join(f"@{k} − random" for k in VOTES)
        + f" | two votes of {max(VOTES)} agree | prompts per row | ms per row |",
        "|" + "---|" * (2 + 2 * len(VOTES) + 3),
    ]
    for seed in (*SEEDS, "all"):
        for order in ORDERS:
            cells = []
            for k in VOTES:
                cells.append(f"{100 * _mean(_accuracies(found, seed, order, k)):.1f}")
            for k in VOTES:
                difference = paired_interval(*(_accuracies(found, seed, kind, k) for kind in ("random", order)))
                cells.append(
                    "–" if order == "random" else "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * d for d in difference))
                )
            parts = [found[s, order] for s in _runs(seed)]
            cells.append(f"{100 * _mean([_agreement(part['judged']) for part in parts]):.1f} %")
            cells.append(f"{_mean([_prompts(part['judged']) for part in parts]):.2f}")
            cells.append(f"{1000 * _mean([part['seconds'] for part in parts]):.0f}")
            lines.append(f"| {seed} | {order} | {' | '.join(cells)} |")
    lines += ["", "Accuracy of single critiques by the place of the best response:"]
    for seed in SEEDS:
        places = accuracy_by_place([judgment for repeat in found[seed, "random"]["judged"] for judgment in repeat])
        shown = (f"{int(place) + 1}: {at['accuracy']:.3f} ({at['critiques']})" for place, at in places.items())
        lines.append(f"* seed {seed}: {', '.join(shown)}")
    return "\n".join(lines)


def _runs(seed) -> tuple:
    return SEEDS if seed == "all" else (seed,)


def _accuracies(found, seed, order: str, k: int) -> list[float]:
    return [value for s in _runs(seed) for value in by_row(found[s, order]["judged"], lambda j: _credit(j, k))]


def _credit(judgment, k: int) -> float:
    from trl_spct.judge.outcomes import credit
    from trl_spct.judge.voting import vote

    rows = judgment.scores[:k]
    return credit(vote(rows), judgment.labels, sum(row is not None for row in rows) or 1)


def _agreement(judged: list[list]) -> float:
    """How often the votes of two repeats name the same winners (n ≥ 2)."""
    from trl_spct.judge.outcomes import highest
    from trl_spct.judge.voting import vote

    winners = [[highest(scores) if (scores := vote(j.scores)) else None for j in repeat] for repeat in judged]
    several = [len(judgment.labels) > 1 for judgment in judged[0]]
    pairs = [(one, other) for one, other in zip(winners, winners[1:])]
    return _mean([a == b for one, other in pairs for a, b, keep in zip(one, other, several) if keep])


def _prompts(judged: list[list]) -> float:
    return _mean([len(set(judgment.orders)) for repeat in judged for judgment in repeat])


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def main() -> None:
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/tiny_world"))
    parser.add_argument("--output", type=Path, default=Path("outputs/orders"))
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    Console(width=250).print(report(judge_runs(arguments.runs, arguments.output, arguments.repeats)), markup=False)


if __name__ == "__main__":
    main()
