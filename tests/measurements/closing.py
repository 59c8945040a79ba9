# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
r"""
What is closing worth? Readable critiques, accuracy of closed and of whole ones, and the place of the winner.

    python tests/measurements/closing.py --run outputs/tiny --truncated 0.33 --k 8
    python tests/measurements/closing.py --model FOLDER --data pandalm/all.jsonl.gz --rows 40 --max_new_tokens 96

A judge reads rows with `close_critiques`. With `--truncated` it reads them twice with the same seed: up to
`--max_new_tokens` without closing, and with it up to fewer, which a share of `--truncated` reaches. Both draw the same
tokens, so that a closed critique is compared with what the same critique says when it is left to end. `--run` reads
the held-out rows of a run of the tiny world, `--data` labeled rows in any known schema. Intervals are 95 % bootstrap
intervals over rows.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import measuring  # noqa: F401
import torch
from transformers import pipeline
from transformers.utils import logging

import trl_spct  # noqa: F401
from trl_spct import Preference
from trl_spct.data.preparation import preference_of, prepare_preferences
from trl_spct.evaluation.judgments import Judgment, PipelineJudge, record_judgments, scaling_results
from trl_spct.evaluation.statistics import bootstrap_interval, mean, paired_interval
from trl_spct.judge.critiques import Critique
from trl_spct.judge.outcomes import credit, highest

Critiques = Sequence[tuple[Judgment, Critique]]


def tiny_rows(run: Path, number: int | None) -> list[Preference]:
    """The held-out rows of a run of the tiny world."""
    from tiny.job import COLUMNS, ROWS, SIZES, SPLITS
    from tiny.world import World

    seed = json.loads((run / "manifest.json").read_text())["seed"]
    number = number or ROWS["held_out"]
    rows = World(seed).rows(number, SPLITS["held_out"], seed=list(ROWS).index("held_out"), sizes=SIZES)
    return [Preference.from_row({name: asdict(row)[name] for name in COLUMNS}) for row in rows]


def rows_of(data: Path, number: int | None) -> list[Preference]:
    """The first usable rows of a file of JSON lines."""
    with (gzip.open if data.suffix == ".gz" else open)(data, "rt", encoding="utf-8") as lines:
        prepared = prepare_preferences([json.loads(line) for line in lines], invalid_rows="drop")
    return [preference_of(row) for row in prepared.dataset.select(range(min(number or 10**9, len(prepared.dataset))))]


def without_closed(judgment: Judgment) -> Judgment:
    """The judgment without closing."""
    critiques = (replace(c, scores=None, problem="closed") if c.closed else c for c in judgment.critiques)
    return replace(judgment, critiques=tuple(critiques))


def chosen(judged: Sequence[Judgment], keep: Callable[[int, int], bool]) -> list[list[Critique]]:
    """Per judgment the critiques whose row and number are to be kept."""
    return [[c for n, c in enumerate(j.critiques) if keep(row, n)] for row, j in enumerate(judged)]


def accuracy(judged: Sequence[Judgment], critiques: Sequence[Sequence[Critique]]) -> str:
    """Mean credit of critiques, of which unreadable ones are worth 0, with its interval over rows."""
    pairs = [(j, of_row) for j, of_row in zip(judged, critiques, strict=True) if of_row]
    rows = [(mean([credit(c.scores, j.labels) for c in of_row]), len(of_row)) for j, of_row in pairs]
    if not rows:
        return "–"
    values, weights = zip(*rows, strict=True)
    low, high = bootstrap_interval(values, weights=weights)
    share = sum(value * weight for value, weight in rows) / sum(weights)
    return f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f}), n = {sum(weights)}"


def places(critiques: Iterable[Iterable[Critique]]) -> str:
    """Of readable critiques, the shares whose winner was read first and last, of ties, and what chance gives."""
    first = last = tied = chance = total = 0.0
    for critique in (c for of_row in critiques for c in of_row if c.scores is not None and len(c.scores) > 1):
        winners, n = highest(critique.scores), len(critique.scores)
        place = (critique.order or range(n)).index(winners[0]) if len(winners) == 1 else None
        first, last, tied = first + (place == 0), last + (place == n - 1), tied + (place is None)
        chance, total = chance + 1 / n, total + 1
    if not total:
        return "–"
    first, last, tied, chance = (f"{100 * count / total:.0f}" for count in (first, last, tied, chance))
    return f"{first} / {last} / {tied}, chance {chance}"


def votes(judged: Sequence[Judgment], k: int) -> str:
    (result,) = scaling_results(judged, [k], guided=False)
    return f"{100 * result['accuracy']:.1f} ({100 * result['low']:.1f} to {100 * result['high']:.1f})"


def report(closed: Sequence[Judgment], limit: int, whole: Sequence[Judgment], longest: int, k: int) -> dict[str, str]:
    """Results of judgments up to `limit` with closing, and up to `longest` without (`whole`, may be empty)."""

    def is_closed(row: int, number: int) -> bool:
        return closed[row].critiques[number].closed

    cut, lines, total = [*map(without_closed, closed)], {}, sum(len(j.critiques) for j in closed)
    runs = {
        f"up to {longest} tokens": whole,
        f"up to {limit} tokens": cut,
        f"up to {limit} tokens, then closed": closed,
    }
    for name, judged in runs.items():
        if judged:
            readable = sum(scores is not None for j in judged for scores in j.scores)
            lines[f"readable, {name}"] = f"{100 * readable / total:.1f} % of {total}"
            lines[f"Voting@{k}, {name}"] = votes(judged, k)
    ended = [[c for c in j.critiques if c.scores is not None] for j in cut]
    kinds = {"ended by themselves": (closed, ended), "closed": (closed, chosen(closed, is_closed))}
    if whole:
        kinds["the same, left to end"] = (whole, chosen(whole, is_closed))
        pairs = [
            [mean([credit(c.scores, j.labels) for c in of_row]) for of_row in (one, other)]
            for j, one, other in zip(whole, kinds["the same, left to end"][1], kinds["closed"][1], strict=True)
            if one
        ]
        difference, low, high = paired_interval(*zip(*pairs, strict=True))
        lines["closed minus left to end, by row"] = f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    for name, (judged, critiques) in kinds.items():
        lines[f"accuracy, {name}"] = accuracy(judged, critiques)
        lines[f"winner read first / last / tie in %, {name}"] = places(critiques)
    return lines


def limit_of(whole: Sequence[Judgment], share: float) -> int:
    """The limit that is exceeded by a share of critiques closest to this one."""
    lengths = [c.num_tokens or 0 for judgment in whole for c in judgment.critiques]
    return min({*lengths}, key=lambda limit: abs(mean([length > limit for length in lengths]) - share))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="Folder of a run of the tiny world; its `base` judges by default.")
    parser.add_argument("--model", help="Another judge.")
    parser.add_argument("--data", type=Path, help="Labeled rows, JSON lines, may be gzipped.")
    parser.add_argument("--rows", type=int, help="The first rows only.")
    parser.add_argument("--k", type=int, default=1)
    parser.add_argument("--max_new_tokens", type=int, help="Default: that of the judge.")
    parser.add_argument("--truncated", type=float, help="Share of critiques that the second limit cuts.")
    parser.add_argument("--template")
    parser.add_argument("--output", type=Path, default=Path("outputs/closing"))
    options = parser.parse_args()
    if (options.run is None) == (options.data is None):
        parser.error("expected `--run`, or `--model` and `--data`.")
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    rows = rows_of(options.data, options.rows) if options.data else tiny_rows(options.run, options.rows)
    judge = pipeline("grm-reward", model=options.model or str(options.run / "base"), meta_rm=None, device="cpu")
    length = options.max_new_tokens or judge.default_length
    sampling = {"temperature": 0.5, **({"template": options.template} if options.template else {})}

    def judged(name: str, limit: int, **more) -> list[Judgment]:
        voter = PipelineJudge(judge, options.k, batch_size=16, max_new_tokens=limit, **sampling, **more)
        return record_judgments(voter, rows, options.output / name, rows_per_shard=16)

    whole = [] if options.truncated is None else judged("whole", length)
    limit = limit_of(whole, options.truncated) if whole else length
    closed = judged("closed", limit, close_critiques=True)
    lines = report(closed, limit, whole, length, options.k)
    (options.output / "report.json").write_text(json.dumps(lines, indent=2))
    sys.stdout.write("".join(f"| {name} | {value} |\n" for name, value in lines.items()))


if __name__ == "__main__":
    main()
