# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rows for a Meta RM: unhinted critiques, correct and incorrect, split by query (paper, section 6)."""

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets
from huggingface_hub import DatasetCardData

from ..cards import dataset_card
from ..judge.hub import push_folder
from ..judge.outcomes import meta_label
from .loading import with_same_columns
from .preparation import split_by_query


logger = logging.getLogger(__name__)

OUTCOMES = ("correct", "incorrect", "hinted", "unreadable")
_KEPT = ("query", "responses", "scores", "labels", "order")
# Trajectories of the version that wrote no `completion_ids` have their responses in the order that the judge read.
_TRAJECTORY = (*_KEPT, "completion", "completion_ids", "hinted")


@dataclass(frozen=True)
class MetaData:
    """Rows for [`MetaRMTrainer`], and what they were made of.

    Args:
        train ([`~datasets.Dataset`]): Rows of [`meta_rows`], with their `source`.
        held_out ([`~datasets.Dataset`], *optional*): Rows of other queries.
        counts (`dict[str, dict[str, int]]`): For each source, the number of its trajectories that are correct,
            incorrect, hinted and unreadable.
    """

    train: Dataset
    held_out: Dataset | None
    counts: dict[str, dict[str, int]]

    def __str__(self) -> str:
        sizes = f"{len(self.train)} rows to train on, {len(self.held_out or ())} held out"
        parts = (f"{name}: {', '.join(f'{n} {k}' for k, n in of.items() if n)}" for name, of in self.counts.items())
        return f"{sizes}; {'; '.join(parts)}"

    @property
    def splits(self) -> DatasetDict:
        """`train` and, if rows were held out, `test`."""
        return DatasetDict({"train": self.train, **({} if self.held_out is None else {"test": self.held_out})})

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes one parquet file per split and a card, which `load_dataset(folder)` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.splits.items():
            rows.to_parquet(folder / f"{name}.parquet")
        configs = [{"split": split, "path": f"{split}.parquet"} for split in self.splits]
        card = dataset_card(
            "meta_rows.md",
            DatasetCardData(
                tags=["trl", "spct", "meta-rm"], configs=[{"config_name": "default", "data_files": configs}]
            ),
            name=folder.name,
            repository=folder.name,
            counts=self.counts,
            outcomes=OUTCOMES,
            sizes={split: len(rows) for split, rows in self.splits.items()},
        )
        card.save(folder / "README.md")
        return folder


def push_meta_rows(
    folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes what [`MetaData.save`] wrote, as [`~trl_spct.judge.hub.push_folder`] does."""
    files = ("*.parquet", "README.md")
    return push_folder(folder, repo_id, "dataset", "Upload Meta RM rows", files, private, token)


def meta_rows(trajectories: Dataset, source: str | None = None) -> Dataset:
    """A Meta RM's training rows: the unhinted, readable trajectories, correct and incorrect (paper, section 6).

    Unreadable critiques never vote, and need no score.

    Args:
        trajectories ([`~datasets.Dataset`]): What [`~trl_spct.RejectiveSampler.collect`] returns.
        source (`str`, *optional*): Origin of the trajectories, for a column `source`.

    Returns:
        [`~datasets.Dataset`] with `query`, `responses`, `read_order` (`read_order[p]` is the response that the judge
        read as number p + 1), `critique` and `label` (1 if the critique is correct, else 0); and `scores` and
        `labels`, with which a held-out set can vote. Responses, scores and labels are in the order of the row.

    Raises:
        `ValueError`: if columns are missing, for instance in trajectories of an earlier version.
    """
    _check_columns(trajectories, source or "trajectories")
    origin = {} if source is None else {"source": source}

    def to_meta(row: dict[str, Any]) -> dict[str, Any]:
        label = meta_label(row["scores"], row["labels"])
        return {"critique": row["completion"][-1]["content"], "label": label, **origin}

    features = {name: trajectories.features[name] for name in _KEPT}
    features |= {"critique": Value("string"), "label": Value("int64"), **dict.fromkeys(origin, Value("string"))}
    trajectories = trajectories.with_format(None)
    outcomes = _outcomes(trajectories)
    return (
        trajectories.select([i for i, outcome in enumerate(outcomes) if outcome in OUTCOMES[:2]])
        .map(
            to_meta,
            remove_columns=[name for name in trajectories.column_names if name not in _KEPT],
            features=Features(features),
            load_from_cache_file=False,
        )
        .rename_column("order", "read_order")
    )


def prepare_meta_rows(trajectories: Mapping[str, Dataset], held_out_share: float = 0.0, seed: int = 0) -> MetaData:
    """From trajectories to rows for a Meta RM, split by query, with counts by source and label.

    The paper takes the unhinted trajectories of stage 1, right and wrong, and fresh samples of the trained judge.

    Args:
        trajectories (mapping of [`~datasets.Dataset`]):
            What [`~trl_spct.RejectiveSampler.collect`] returned, by the name of the source, for instance
            `{"rft": …, "fresh": …}`.
        held_out_share (`float`, *optional*, defaults to `0.0`):
            Share of the queries whose rows are held out. All rows of a query fall on one side, whatever their source.
        seed (`int`, *optional*, defaults to `0`): Seed of the split.

    Raises:
        `ValueError`: if there are no trajectories, if columns are missing, or if no critique can be learned from.
    """
    if not trajectories:
        raise ValueError("Found no trajectories; expected at least one source, for instance those of stage 1.")
    for name, part in trajectories.items():
        _check_columns(part, name)
    found = {name: Counter(_outcomes(part)) for name, part in trajectories.items()}
    counts = {name: {outcome: of[outcome] for outcome in OUTCOMES} for name, of in found.items()}
    if not any(of["correct"] + of["incorrect"] for of in counts.values()):
        raise ValueError(f"Found no unhinted readable critique ({counts}); expected at least one to learn from.")
    rows = concatenate_datasets(with_same_columns([meta_rows(part, name) for name, part in trajectories.items()]))
    data = MetaData(*split_by_query(rows, held_out_share, seed), counts)
    logger.info("Meta RM rows: %s", data)
    return data


def _check_columns(trajectories: Dataset, name: str) -> None:
    missing = sorted({*_TRAJECTORY}.difference(trajectories.column_names))
    if missing:
        raise ValueError(
            f"The trajectories {name!r} have the columns {sorted(trajectories.column_names)} and lack {missing}; "
            "expected what `RejectiveSampler.collect` writes. Collect them again if an earlier version wrote them."
        )


def _outcomes(trajectories: Dataset) -> list[str]:
    """The outcome of each trajectory; hinted ones are not looked at further."""
    rows = trajectories.select_columns(["hinted", "scores", "labels"]).with_format(None)
    return [*map(_outcome, rows)]


def _outcome(row: Mapping[str, Any]) -> str:
    if row["hinted"]:
        return "hinted"
    if row["scores"] is None:
        return "unreadable"
    return "correct" if meta_label(row["scores"], row["labels"]) else "incorrect"
