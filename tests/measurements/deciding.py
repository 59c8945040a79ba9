# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
How many votes does stopping when decided save, and how often does it name another winner than the full vote?

python tests/measurements/deciding.py --runs outputs/tiny_world --output outputs/deciding

Replays the rounds of the pipeline over score tables: those of the tiny world's judges (random orders: as its runs left
them; balanced orders: judged here, and read where that is done), random ones, and ones in which the full vote is as
close as can be, where any early stop is as likely wrong as right.
"""

import argparse
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "recipes"))

SEEDS = (0, 1, 2)
VOTES = (8, 32)
RULES = {"exact": 0.0, "1 %": 0.01, "5 %": 0.05, "20 %": 0.2}
Table = Sequence[Sequence[float] | None]


def replay(rows: Table, k: int, score_range: tuple[int, int], error: float) -> tuple[int, int]:
    """(critiques drawn, rounds) of a row whose critiques have these scores."""
    from trl_spct.judge.stopping import next_round

    n = len(next((row for row in rows if row is not None), (0, 0)))
    drawn = rounds = 0
    while count := next_round(rows[:drawn], k, n, score_range, error):
        drawn, rounds = drawn + count, rounds + 1
    return drawn, rounds


def winners(rows: Table) -> tuple[int, ...]:
    """Who wins; of a single response with verdicts of 0 and 1, whether it is correct."""
    from trl_spct.judge.outcomes import highest
    from trl_spct.judge.voting import vote

    votes = vote([row if row is None or len(row) > 1 else (1 - row[0], row[0]) for row in rows])
    return () if votes is None else highest(votes)


def measure(tables: Iterable[Table], k: int, error: float) -> dict[str, float]:
    """Shares over tables: votes saved, rows that stopped early, and those among all rows with another winner."""
    saved, early, flips, rounds, count = 0, 0, 0, 0, 0
    for rows in tables:
        single = any(row is not None and len(row) == 1 for row in rows)
        drawn, looks = replay(rows[:k], k, (0, 1) if single else (1, 10), error)
        saved, early, rounds, count = saved + k - drawn, early + (drawn < k), rounds + looks, count + 1
        flips += not set(winners(rows[:drawn])) <= set(winners(rows[:k]))
    return {"saved": saved / count / k, "early": early / count, "flips": flips / count, "rounds": rounds / count}


def tiny_world(runs: Path, output: Path) -> dict[str, list[Table]]:
    """Score tables of the held-out rows, by stage and kind of order, over all runs."""
    from tiny.job import JUDGES, VOTES, Job
    from transformers import pipeline

    from trl_spct import Preference
    from trl_spct.evaluation.judgments import PipelineJudge, record_judgments
    from trl_spct.judge.voting import VOTING_TEMPERATURE

    found: dict[str, list[Table]] = {}
    for seed in SEEDS:
        folder = runs / f"seed{seed}"
        rows = list(Job(folder, seed, True).rows("held_out"))
        for stage in JUDGES:
            left = folder / "judgments" / f"{stage}-k{VOTES}-T{VOTING_TEMPERATURE:g}"
            found.setdefault(f"{stage}, random", []).extend(stored_tables(left))
        judge = pipeline("grm-reward", model=str(folder / "base"), device="cpu")
        judge = PipelineJudge(judge, VOTES, order="balanced")
        judged = record_judgments(judge, map(Preference.from_row, rows), output / f"seed{seed}-balanced")
        found.setdefault("base, balanced", []).extend([judgment.scores for judgment in judged])
    return found


def stored_tables(folder: Path) -> list[Table]:
    """The scores of finished judgments."""
    from trl_spct.evaluation.judgments import read_judgments

    return [list(judgment.scores) for judgment in read_judgments(folder)]


def random_tables(n: int, k: int, lead: float, noise: float, count: int = 300, seed: int = 0) -> list[Table]:
    """Scores around 5.5, of the first response around `lead` more, one critique in twenty unreadable."""
    draw = random.Random(seed)

    def row() -> tuple[int, ...] | None:
        if draw.random() < 0.05:
            return None
        return tuple(min(10, max(1, round(draw.gauss(5.5 + lead * (i == 0), noise)))) for i in range(n))

    return [[row() for _ in range(k)] for _ in range(count)]


def close_tables(k: int, count: int = 1000, seed: int = 0) -> list[Table]:
    """The second response wins by one point of all; critiques are as far apart as they can be."""
    draw = random.Random(seed)
    table = [(10, 1), (1, 10)] * ((k - 1) // 2) + [(5, 6)] + [None] * ((k - 1) % 2)
    return [draw.sample(table, k) for _ in range(count)]


def report(found: dict[str, list[Table]]) -> str:
    """Markdown: votes saved / other winners in percent of rows, by rule."""
    names = " | ".join(f"{name}: saved / other winner / rounds" for name in RULES)
    lines = [f"| tables | rows | k | {names} |", "|---|---|---|" + "---|" * len(RULES)]
    for name, tables in found.items():
        for k in VOTES:
            if min(map(len, tables)) < k:
                continue
            cells = []
            for error in RULES.values():
                m = measure(tables, k, error)
                cells.append(f"{100 * m['saved']:.0f} % / {100 * m['flips']:.2f} % / {m['rounds']:.1f}")
            lines.append(f"| {name} | {len(tables)} | {k} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="Finished runs of the tiny world; without it, only made tables.")
    parser.add_argument("--output", type=Path, default=Path("outputs/deciding"))
    arguments = parser.parse_args()
    found = {} if arguments.runs is None else tiny_world(arguments.runs, arguments.output)
    for n in (2, 4):
        for lead in (0, 1, 3, 6):
            found[f"random, n = {n}, lead {lead} ± 2"] = random_tables(n, max(VOTES), lead, 2)
    for k in VOTES:
        found[f"as close as can be, k = {k}"] = close_tables(k)
    Console(width=250).print(report(found), markup=False)


if __name__ == "__main__":
    main()
