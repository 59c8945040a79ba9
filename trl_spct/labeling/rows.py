# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Unlabeled rows of any shape, with all of their columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, List, Value, concatenate_datasets

from ..data.preparation import RESERVED_COLUMNS, InvalidRows, Rows, preference_of, prepare_preferences
from ..data.reading import QUERIES
from ..judge.preferences import InvalidPreference, Preference


_LABELS = frozenset(("labels", "scores", "best_index", "label"))
_ANSWERS = frozenset(("responses", "completions", "chosen", "completion"))
_ASIDE = ("reference", "principles")


@dataclass(frozen=True)
class LabelRows:
    """Rows to judge. Item i is row i as a [`Preference`] without labels.

    Args:
        originals ([`~datasets.Dataset`]): The rows with all of their columns, without dropped ones.
        preferences ([`~datasets.Dataset`]): `query` and `responses` of the same rows, `reference` and `principles` if
            present.
        num_read (`int`): Number of rows read.
        dropped (`dict[str, int]`): Number of dropped rows by cause.
        row_numbers (`tuple[int, ...]`): For each row, its number among the rows read.
    """

    originals: Dataset
    preferences: Dataset
    num_read: int
    dropped: dict[str, int]
    row_numbers: tuple[int, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.preferences)

    def __getitem__(self, number: int) -> Preference:
        return preference_of(self.preferences[number])

    def __iter__(self) -> Iterator[Preference]:
        return map(preference_of, self.preferences)

    def labels(self) -> Iterator[tuple[float, ...] | None]:
        """Yields the labels that rows have of their own; `None` for rows without, or with other responses."""
        known = {*_LABELS, "chosen"}.intersection(self.originals.column_names)
        for row, original in zip(self, self.originals if known else repeat(None)):
            try:
                labeled = None if original is None else Preference.from_row(original)
            except InvalidPreference:
                labeled = None
            yield labeled.labels if labeled is not None and labeled.responses == row.responses else None

    @property
    def have_messages(self) -> bool:
        """Whether queries are messages."""
        return not isinstance(self.preferences.features["query"], Value)


def prepare_rows(
    dataset: Rows, source: str | None = None, invalid_rows: InvalidRows = "error", name: str = "dataset"
) -> LabelRows:
    """Reads and checks rows without labels.

    | columns | n |
    |---|---|
    | `query`, `prompt` or `messages`, and `responses` or `completions` | ≥ 1 |
    | [`prompt`], `chosen`, `rejected` (prompt explicit or implicit) | 2 |
    | `query`, `prompt` or `messages`, and `completion` | 1 |
    | `messages` that end with the assistant's | 1 |
    | those of a source of [`~trl_spct.data.sources.SOURCES`], which then become `query` and `responses` | ≥ 1 |

    Texts may be messages everywhere. Labels are kept like all other columns, and never shown to the judge.

    Args:
        dataset ([`~datasets.Dataset`] or sequence of mappings): The rows.
        source, invalid_rows, name: See [`~trl_spct.data.preparation.prepare_preferences`].

    Raises:
        [`InvalidPreference`]: for a row that cannot be judged, with its number.
    """
    dataset = _as_dataset(dataset)
    read = _read_columns(dataset) if isinstance(dataset, Dataset) and source is None else dataset
    prepared = prepare_preferences(read, source, invalid_rows, name, require_labels=False, read_labels=False)
    preferences, originals = prepared.dataset, prepared.dataset
    if isinstance(dataset, Dataset):
        originals = dataset.select(prepared.row_numbers)
        if prepared.source is not None:
            added = preferences.select_columns(["query", "responses"])
            kept = [column for column in originals.column_names if column not in added.column_names]
            originals = concatenate_datasets([added, originals.select_columns(kept)], axis=1)
    used = [column for column in ("query", "responses", *_ASIDE) if column in preferences.column_names]
    preferences = preferences.select_columns(used)
    return LabelRows(originals, preferences, prepared.num_read, dict(prepared.dropped), prepared.row_numbers)


def _as_dataset(rows: Rows) -> Rows:
    """Rows as a dataset; unchanged if a column mixes types, so that the reader names the row."""
    if not isinstance(rows, Sequence):
        return rows
    try:
        columns = dict.fromkeys(column for row in rows for column in row)
        return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, AttributeError):
        return rows


def _read_columns(dataset: Dataset) -> Dataset:
    """The columns that may be read: not labels, and not those that trainers reserve. All of a source."""
    columns = set(dataset.column_names)
    dataset = dataset.with_format(None)
    if "messages" in columns and not columns & _ANSWERS:
        turns = dataset.features["messages"]
        features = Features({"prompt": turns, "responses": List(turns)})
        kept = dataset.select_columns([column for column in (*_ASIDE, "system", "tools") if column in columns])
        split = dataset.select_columns("messages").map(
            _last_turns, remove_columns="messages", features=features, load_from_cache_file=False
        )
        return concatenate_datasets([split, kept], axis=1) if kept.column_names else split
    if not (columns & QUERIES and columns & _ANSWERS) and not {"chosen", "rejected"} <= columns:
        return dataset
    if "completions" in columns and "responses" not in columns:
        dataset = dataset.rename_column("completions", "responses")
    return dataset.remove_columns(sorted((RESERVED_COLUMNS | _LABELS).intersection(dataset.column_names)))


def _last_turns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation as a prompt and one response, the assistant's last turns."""
    messages = list(row["messages"] or ())
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    return {"prompt": messages[:end] or None, "responses": [messages[end:]] if messages[end:] else None}
