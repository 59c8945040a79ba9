# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rows for a Meta RM: unhinted critiques, correct and incorrect, split by query (paper, section 6)."""

import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, concatenate_datasets

from ..judge.outcomes import meta_label
from .loading import with_same_columns
from .preparation import split_by_query

logger = logging.getLogger(__name__)

OUTCOMES = ("correct", "incorrect", "close", "hinted", "unreadable")
_KEPT = ("query", "responses", "scores", "labels", "order")
# Trajectories of the version that wrote no `completion_ids` have their responses in the order that the judge read.
_TRAJECTORY = (*_KEPT, "completion", "completion_ids", "hinted")


@dataclass(frozen=True)
class MetaData:
    """Rows for [`MetaRMTrainer`], and what they were made of.

    `train` are rows of [`meta_rows`] with their `source`, `held_out` those of other queries, and `counts` the
    trajectories of each source by outcome."""

    train: Dataset
    held_out: Dataset | None
    counts: dict[str, dict[str, int]]

    def __str__(self) -> str:
        sizes = f"{len(self.train)} rows to train on, {len(self.held_out or ())} held out"
        parts = (f"{name}: {', '.join(f'{n} {k}' for k, n in of.items() if n)}" for name, of in self.counts.items())
        return f"{sizes}; {'; '.join(parts)}"

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `train.parquet` and, if rows were held out, `test.parquet`, which `load_dataset(folder)` reads."""
        self.train.to_parquet(Path(folder, "train.parquet"))
        if self.held_out is not None:
            self.held_out.to_parquet(Path(folder, "test.parquet"))


def meta_rows(trajectories: Dataset, source: str | None = None, min_margin: float = 0.0) -> Dataset:
    """A Meta RM's training rows: the unhinted, readable trajectories, correct and incorrect (paper, section 6).

    `trajectories` are what [`~trl_spct.RejectiveSampler.collect`] returns, `source` is their origin, for a column.
    Correct ones whose best of several responses is less than `min_margin` points ahead, maybe by luck, are left out
    (not in the paper).

    Returns `query`, `responses`, `read_order` (`read_order[p]` is the response that the judge read as number p + 1),
    `critique` and `label` (1 if the critique is correct, else 0); and `scores` and `labels`, with which a held-out set
    can vote. Responses, scores and labels are in the order of the row."""
    outcomes = _outcomes(trajectories, source or "trajectories", min_margin)
    origin = {} if source is None else {"source": source}

    def to_meta(row: dict[str, Any]) -> dict[str, Any]:
        label = meta_label(row["scores"], row["labels"])
        return {"critique": row["completion"][-1]["content"], "label": label, **origin}

    features = {name: trajectories.features[name] for name in _KEPT}
    features |= {"critique": Value("string"), "label": Value("int64"), **dict.fromkeys(origin, Value("string"))}
    chosen = [i for i, outcome in enumerate(outcomes) if outcome in ("correct", "incorrect")]
    rows = trajectories.with_format(None).select(chosen)
    unread = [name for name in rows.column_names if name not in _KEPT]
    rows = rows.map(to_meta, remove_columns=unread, features=Features(features), load_from_cache_file=False)
    return rows.rename_column("order", "read_order")


def prepare_meta_rows(
    trajectories: Mapping[str, Dataset], held_out_share: float = 0.0, seed: int = 0, min_margin: float = 0.0
) -> MetaData:
    """From trajectories to rows for a Meta RM, split by query, with counts by source and outcome.

    The paper takes the unhinted trajectories of stage 1, right and wrong, and fresh samples of the trained judge.

    `trajectories` are those of [`meta_rows`] by source; the rows of a share of the queries are held out."""
    found = {name: Counter(_outcomes(part, name, min_margin)) for name, part in trajectories.items()}
    counts = {name: {outcome: of[outcome] for outcome in OUTCOMES} for name, of in found.items()}
    if not any(of["correct"] + of["incorrect"] for of in counts.values()):
        raise ValueError(f"Found no unhinted readable critique ({counts}); expected at least one to learn from.")
    parts = [meta_rows(part, name, min_margin) for name, part in trajectories.items()]
    rows = concatenate_datasets(with_same_columns(parts))
    data = MetaData(*split_by_query(rows, held_out_share, seed), counts)
    logger.info("Meta RM rows: %s", data)
    return data


def _outcomes(trajectories: Dataset, name: str, min_margin: float) -> list[str]:
    """One of `OUTCOMES` for each trajectory."""
    missing = sorted({*_TRAJECTORY}.difference(trajectories.column_names))
    if missing:
        raise ValueError(
            f"The trajectories {name!r} have the columns {sorted(trajectories.column_names)} and lack {missing}; "
            "expected what `RejectiveSampler.collect` writes. Collect them again if an earlier version wrote them."
        )

    def outcome(row: Mapping[str, Any]) -> str:
        if row["hinted"]:
            return "hinted"
        if row["scores"] is None:
            return "unreadable"
        if not meta_label(row["scores"], row["labels"]):
            return "incorrect"
        second, first = [-math.inf, *sorted(row["scores"])][-2:]
        return "close" if first - second < min_margin else "correct"

    return [*map(outcome, trajectories.select_columns(["hinted", "scores", "labels"]).with_format(None))]
