# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What a Meta RM learns from: unhinted critiques, right and wrong, held apart by query (paper, section 6)."""

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets
from huggingface_hub import DatasetCard, DatasetCardData

from ..cards import dataset_card
from ..judge.hub import PushError, push_folder
from ..judge.outcomes import meta_label
from .loading import with_same_columns
from .preparation import meta_rows, split_by_query


logger = logging.getLogger(__name__)

_FILES = ("*.parquet", "README.md")
OUTCOMES = ("correct", "incorrect", "hinted", "unreadable")


@dataclass(frozen=True)
class MetaData:
    """Rows for [`MetaRMTrainer`], and what they were made of.

    Args:
        train ([`~datasets.Dataset`]): Rows of [`~trl_spct.data.preparation.meta_rows`], with their `source`.
        held_out ([`~datasets.Dataset`], *optional*): Rows of other queries.
        counts (`dict[str, dict[str, int]]`): For each source, how many of its trajectories are correct, incorrect, and
            left out since they are hinted or unreadable (hinted ones are not looked at further).
    """

    train: Dataset
    held_out: Dataset | None
    counts: dict[str, dict[str, int]]

    def __str__(self) -> str:
        sizes = f"{len(self.train)} rows to train on, {len(self.held_out or ())} held out"
        parts = (
            f"{name}: {', '.join(f'{n} {k}' for k, n in found.items() if n)}" for name, found in self.counts.items()
        )
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
        self._card(folder.name).save(folder / "README.md")
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        folder: str | os.PathLike | None = None,
    ) -> str:
        """Pushes the splits as a dataset, with its card.

        Args:
            repo_id (`str`): Such as `"username/reponame"`.
            private (`bool`, *optional*): Whether a new repository is private; the account's default if `None`.
            token (`str`, *optional*): The one that is logged in with by default.
            folder (`str` or path, *optional*): Where [`~MetaData.save`] has written them; a temporary one by default.

        Returns:
            `str`: address of the commit.

        Raises:
            [`~trl_spct.judge.hub.PushError`]: if it fails, saying how to push again.
        """
        if folder is not None:
            return self._push(folder, repo_id, private, token)
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.save(Path(temporary, repo_id.rsplit("/", 1)[-1]))
            try:
                return self._push(folder, repo_id, private, token)
            except PushError as error:
                raise PushError(
                    f"Could not push to {repo_id}: {error.__cause__}\nNothing is lost: the rows are in memory. Push "
                    f"again with\n    data.push_to_hub({repo_id!r})\nor keep them with `data.save(folder)`."
                ) from error.__cause__

    def _push(self, folder: str | os.PathLike, repo_id: str, private: bool | None, token: str | None) -> str:
        return push_folder(folder, repo_id, "dataset", "Upload Meta RM rows", _FILES, private, token)

    def _card(self, name: str) -> DatasetCard:
        configs = [{"split": split, "path": f"{split}.parquet"} for split in self.splits]
        return dataset_card(
            "meta_rows.md",
            DatasetCardData(
                tags=["trl", "spct", "meta-rm"], configs=[{"config_name": "default", "data_files": configs}]
            ),
            name=name,
            repository=name,
            counts=self.counts,
            outcomes=OUTCOMES,
            sizes={split: len(rows) for split, rows in self.splits.items()},
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
        seed (`int`, *optional*, defaults to `0`): Of the split.

    Returns:
        [`MetaData`]

    Raises:
        `ValueError`: if there are no trajectories, if columns are missing, or if no critique can be learned from.
    """
    if not trajectories:
        raise ValueError("Found no trajectories; expected at least one source, for instance those of stage 1.")
    for name, part in trajectories.items():
        _check_columns(name, part)
    counts = {name: _counts(part) for name, part in trajectories.items()}
    if not any(found["correct"] + found["incorrect"] for found in counts.values()):
        raise ValueError(f"Found no unhinted readable critique ({counts}); expected at least one to learn from.")
    rows = concatenate_datasets(with_same_columns([meta_rows(part, name) for name, part in trajectories.items()]))
    made = MetaData(*split_by_query(rows, held_out_share, seed), counts)
    logger.info("Meta RM rows: %s", made)
    return made


def _check_columns(name: str, part: Dataset) -> None:
    expected = ("query", "responses", "labels", "order", "completion", "hinted", "scores")
    missing = [column for column in expected if column not in part.column_names]
    if missing:
        raise ValueError(
            f"The trajectories {name!r} have the columns {sorted(part.column_names)} and lack {missing}; expected "
            "what `RejectiveSampler.collect` writes."
        )


def _counts(part: Dataset) -> dict[str, int]:
    counts = dict.fromkeys(OUTCOMES, 0)
    for row in part.select_columns(["hinted", "scores", "labels"]):
        if row["hinted"]:
            counts["hinted"] += 1
        elif row["scores"] is None:
            counts["unreadable"] += 1
        else:
            counts["correct" if meta_label(row["scores"], row["labels"]) else "incorrect"] += 1
    return counts
