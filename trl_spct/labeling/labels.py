# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Scores, the best of n, and preference pairs from stored judgments."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from datasets import Dataset, Features, List, Value

from ..evaluation.diagnostics import agreement
from ..judge.orders import count_occurrences, derive_seed, row_seed
from .rows import LabelRows

PAIRS = ("best-vs-worst", "best-vs-random", "all")
"""Which responses of a row make pairs, see [`preference_pairs`]."""

_COLUMNS = {
    "scores": List(Value("float64")),
    "best": Value("int64"),
    "tied": List(Value("int64")),
    "votes": Value("int64"),
    "confidence": Value("float64"),
    "problems": List(Value("string")),
}
COLUMNS = tuple(_COLUMNS)
"""Columns that [`score_columns`] adds to a row."""


def score_columns(rows: LabelRows, judgments: Dataset) -> Dataset:
    """Columns with the scores of each row, which the card of the labels describes."""

    def to_columns(record: dict[str, Any]) -> dict[str, Any]:
        voters = [critique["scores"] for critique in record["critiques"] if critique["counted"]]
        compared = len(record["totals"] or ()) > 1 and not record["blocks"]
        number, scores = record["row"], mean_scores(record)
        winners = [i in record["tied"] for i in range(len(scores or ()))]
        chosen = [i == record["best"] for i in range(len(scores or ()))]
        return {
            "scores": None if scores is None else rows.in_place(number, scores),
            "best": None if scores is None else rows.in_place(number, chosen).index(True),
            "tied": [place for place, wins in enumerate(rows.in_place(number, winners)) if wins],
            "votes": len(voters),
            "confidence": agreement(voters, record["best"]) if compared else None,
            "problems": problems_of(record),
        }

    options = {"features": Features(_COLUMNS), "keep_in_memory": True, "load_from_cache_file": False}
    return judgments.map(to_columns, remove_columns=judgments.column_names, **options)


def check_columns(rows: LabelRows, prefix: str = "") -> None:
    """Refuses rows with columns that [`score_columns`] would overwrite."""
    if clashing := [prefix + name for name in COLUMNS if prefix + name in rows.originals.column_names]:
        raise ValueError(
            f"Found the columns {clashing} in the rows; expected none of the names that the judge's columns have. "
            'Rename them, or give a prefix for the judge\'s columns: `prefix="judge_"`.'
        )


def mean_scores(record: Mapping[str, Any]) -> list[float] | None:
    """Mean score per vote of each response of a stored judgment."""
    if record["totals"] is None or not record["weight"]:
        return None
    return [total / record["weight"] for total in record["totals"]]


def problems_of(record: Mapping[str, Any]) -> list[str]:
    """Causes why critiques of a stored judgment cannot be read, or why the row was not judged."""
    if record["refused"] is not None:
        return [record["refused"]]
    return [critique["problem"] for critique in record["critiques"] if critique["problem"] is not None]


def best_of_n(rows: LabelRows, judgments: Iterable[Mapping], messages: bool = True) -> Iterator[dict[str, Any]]:
    """Yields the best response to each query, drawn among tied ones by the pipeline, as rows of `prompt` and
    `completion`, with `score` and `row`. Rows without scores are left out."""
    messages = messages or rows.have_messages
    for number, record in enumerate(judgments):
        scores, best = mean_scores(record), record["best"]
        if scores is not None:
            texts = rows.for_trainers(number, messages, completion=best)
            yield {**texts, "score": scores[best], "row": rows.row_numbers[number]}


def preference_pairs(
    rows: LabelRows,
    judgments: Iterable[Mapping[str, Any]],
    pairs: str = "best-vs-worst",
    min_margin: float = 0.0,
    seed: int = 0,
    messages: bool = True,
    skipped: Counter[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields pairs of responses with different scores in TRL's preference format. No column is named `margin`, which
    [`~trl.RewardTrainer`] would subtract in its loss.

    Args:
        pairs (`str`, *optional*, defaults to `"best-vs-worst"`):
            `"best-vs-worst"` and `"best-vs-random"` (any other that may be paired with it): one pair per row. `"all"`:
            any two responses. Ties for the best or the worst are broken by a draw, never by the place.
        min_margin (`float`, *optional*, defaults to `0.0`): Points per vote that the scores must exceed in difference.
        seed, messages: Seed of the draws, and whether texts are written as messages.
        skipped (`Counter`, *optional*): Counts candidates without a pair, and rows without candidates, by cause.
    """
    check_pairs(pairs, min_margin)
    skipped = Counter() if skipped is None else skipped
    messages, occurrences = messages or rows.have_messages, count_occurrences(rows)
    for number, (occurrence, row, record) in enumerate(zip(occurrences, rows, judgments, strict=True)):
        scores, totals, weight = mean_scores(record), record["totals"], record["weight"]
        if scores is None or len(row) == 1:
            skipped["single" if len(row) == 1 else "unreadable"] += 1
            continue
        refusal = partial(_refusal, row.responses, totals, weight, min_margin)
        draw = random.Random(row_seed(derive_seed(seed, "pair"), row, occurrence))
        for chosen, rejected in _candidates(totals, pairs, record["best"], refusal, draw):
            if (cause := refusal(chosen, rejected)) is not None:
                skipped[cause] += 1
                continue
            yield {
                **rows.for_trainers(number, messages, chosen=chosen, rejected=rejected),
                "score_chosen": scores[chosen],
                "score_rejected": scores[rejected],
                "score_margin": (totals[chosen] - totals[rejected]) / weight,
                "row": rows.row_numbers[number],
            }


def check_pairs(pairs: str, min_margin: float) -> None:
    """Refuses arguments that [`preference_pairs`] does not accept."""
    if pairs not in PAIRS:
        raise ValueError(f"Found pairs={pairs!r}; expected one of {', '.join(map(repr, PAIRS))}.")
    if not min_margin >= 0:
        raise ValueError(f"Found min_margin={min_margin}; expected points per vote >= 0.")


def _refusal(
    responses: Sequence[str], totals: Sequence[float], weight: float, min_margin: float, chosen: int, rejected: int
) -> str | None:
    """Cause why two responses make no pair. Sums are compared, since means of three votes are not exact."""
    margin = (totals[chosen] - totals[rejected]) / weight
    if margin <= min_margin:
        return "margin" if margin > 0 else "tie"
    return "duplicate" if responses[chosen] == responses[rejected] else None


def _candidates(
    totals: Sequence[float], pairs: str, best: int, refusal: Callable[[int, int], str | None], draw: random.Random
) -> list[tuple[int, int]]:
    others = [i for i in range(len(totals)) if i != best]
    if pairs == "all":
        return list(combinations(sorted([best, *others], key=lambda i: -totals[i]), 2))
    if pairs == "best-vs-random":
        return [(best, draw.choice([i for i in others if refusal(best, i) is None] or others))]
    lowest = min(totals[i] for i in others)
    return [(best, draw.choice([i for i in others if totals[i] == lowest]))]
