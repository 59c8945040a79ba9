# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Fidelity: right critiques with sound reasons, by a Meta RM or a generative meta-judge (not in the paper)."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from ..judge.critiques import Critique
from ..judge.preferences import Preference
from ..judge.prompts import meta_messages
from .benchmark_metrics import worth
from .judgments import Judge, Judgment, record_judgments
from .statistics import bootstrap_interval, mean

SOUND = (
    "The response is an analysis of the responses above it. Is this analysis sound? It is correct only if its "
    "criteria are what the query calls for, if what it says of each response is true, and if its scores follow from "
    "both (weight 5). Right scores for a wrong reason, by luck, or without any analysis are not correct (weight 5)."
)
"""What a meta-judge reads as the given criteria."""


def fidelity(judgments: Sequence[Judgment]) -> dict[str, float] | None:
    """Right critiques by their reasons, which a meta score above 0 calls sound: `right`, their share of all; of those
    with a meta score the share `sound`, `low` and `high` (95 % bootstrap interval over rows) and their number
    `critiques`. `None` if no right critique has a meta score."""
    right = [list(_right(judgment)) for judgment in judgments]
    sound = [[c.meta_score > 0 for c in critiques if c.meta_score is not None] for critiques in right]
    if not (sound := [row for row in sound if row]):
        return None
    counts = list(map(len, sound))
    low, high = bootstrap_interval(list(map(mean, sound)), weights=counts)
    share = sum(map(len, right)) / sum(len(judgment.critiques) for judgment in judgments)
    verdicts = list(chain.from_iterable(sound))
    return {"right": share, "sound": mean(verdicts), "low": low, "high": high, "critiques": len(verdicts)}


def meta_judged(
    judgments: Sequence[Judgment],
    rows: Iterable[Preference],
    judge: Judge,
    folder: str | os.PathLike,
    criteria: str | None = SOUND,
    only_right: bool = True,
    **options: Any,
) -> list[Judgment]:
    """The judgments with the meta scores of a generative meta-judge: any [`PipelineJudge`], which reads row and
    critique, and the `criteria`, and scores the critique 0 or 1, m = `judge.k` times.

    The meta score of y times 1 among m readable scores is `log((y + 1/2) / (m - y + 1/2))`, above 0 by majority. It
    ranks and guides as a Meta RM's does. Critiques that are not read have none: by default those that are not right,
    with `only_right=False` only unreadable ones. `folder` and options are those of [`record_judgments`]."""
    read: list[dict[Critique, Preference]] = []
    for judgment, row in zip(judgments, rows, strict=True):
        wanted = _right(judgment) if only_right else (c for c in judgment.critiques if c.scores is not None)
        read.append({critique: analysis(row, critique, criteria) for critique in wanted})
    distinct = list(dict.fromkeys(chain.from_iterable(of_row.values() for of_row in read)))
    options = {"invalid_rows": "drop", **options, "labels": [(1.0,)] * len(distinct)}
    verdicts = record_judgments(judge, distinct, folder, **options) if distinct else []
    scores = dict(zip(distinct, map(_log_odds, verdicts), strict=True))
    scored = []
    for judgment, of_row in zip(judgments, read, strict=True):
        critiques = [replace(c, meta_score=scores.get(of_row[c]) if c in of_row else None) for c in judgment.critiques]
        scored.append(replace(judgment, critiques=tuple(critiques)))
    return scored


def analysis(row: Preference, critique: Critique, criteria: str | None = SOUND) -> Preference:
    """A critique as the only response to its row, in the order in which the judge read its responses."""
    shown = row if critique.order is None else row.permuted(critique.order)
    return Preference(meta_messages(shown, critique.text)[0]["content"], (critique.text,), principles=criteria)


def _right(judgment: Judgment) -> Iterable[Critique]:
    for critique in judgment.critiques:
        if worth(critique.scores, judgment.labels) == 1:
            yield critique


def _log_odds(judgment: Judgment) -> float | None:
    votes = [scores[0] for scores in judgment.scores if scores is not None]
    return math.log((sum(votes) + 0.5) / (len(votes) - sum(votes) + 0.5)) if votes else None
