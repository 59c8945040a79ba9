# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Unlabeled rows of any shape, with all of their columns."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, List, Value, concatenate_datasets

from ..data.preparation import InvalidRows, Rows, prepare_preferences
from ..judge.preferences import InvalidPreference, Preference


_QUERIES = ("query", "prompt", "messages")
_ASIDE = ("reference", "principles")
_READ = ("query", "responses", *_ASIDE)
_LABELS = {"labels", "scores", "best_index", "chosen"}


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
        return self._preference(self.preferences[number])

    def __iter__(self) -> Iterator[Preference]:
        return map(self._preference, self.preferences)

    @staticmethod
    def _preference(row: Mapping[str, Any]) -> Preference:
        return Preference(row["query"], row["responses"], None, row.get("reference"), row.get("principles"))

    def labels(self) -> Iterator[tuple[float, ...] | None]:
        """Yields the labels that rows have of their own; `None` for rows without, or with other responses."""
        known = bool(_LABELS & set(self.originals.column_names))
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

    Returns:
        [`LabelRows`]

    Raises:
        [`InvalidPreference`]: for a row that cannot be judged, with its number.
    """
    if isinstance(dataset, Sequence) and source is None:
        dataset = _as_dataset(dataset)
    judged = _judged_columns(dataset) if isinstance(dataset, Dataset) and source is None else None
    prepared = prepare_preferences(
        dataset if judged is None else judged,
        source,
        invalid_rows,
        name,
        require_labels=False,
        read_labels=False,
    )
    numbers, originals = prepared.row_numbers, prepared.dataset
    if isinstance(dataset, Dataset):
        columns = dataset if len(numbers) == len(dataset) else dataset.select(numbers)
        if judged is not None:
            originals = columns
        elif consumed := [name for name in columns.column_names if name not in originals.column_names]:
            originals = concatenate_datasets([originals, columns.select_columns(consumed)], axis=1)
    kept = [column for column in prepared.dataset.column_names if column in _READ]
    preferences = prepared.dataset.select_columns(kept)
    return LabelRows(originals, preferences, prepared.num_read, dict(prepared.dropped), prepared.row_numbers)


def _as_dataset(rows: Rows) -> Rows:
    """Rows as a dataset; unchanged if a column mixes types, so that the reader names the row."""
    try:
        columns = dict.fromkeys(column for row in rows for column in row)
        return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, AttributeError):
        return rows


def _judged_columns(dataset: Dataset) -> Dataset | None:
    """Columns of the shapes that [`Preference.from_row`] reads; `None` for other shapes."""
    columns = dataset.column_names
    used = [name for name in (*_QUERIES, *_ASIDE) if name in columns and _has_values(dataset[name])]
    queries, aside = ([name for name in used if name in names] for names in (_QUERIES, _ASIDE))
    answers = next((name for name in ("responses", "completions") if name in columns), None)
    if queries and answers:
        part = dataset.select_columns([*queries, answers, *aside])
        return part if answers == "responses" else part.rename_column(answers, "responses")
    if {"chosen", "rejected"} <= set(columns):
        return dataset.select_columns([*queries, "chosen", "rejected", *aside])
    if queries and "completion" in columns:
        part = dataset.select_columns([*queries, "completion", *aside])
        return _mapped(part, _alone, "completion", {"responses": List(dataset.features["completion"])})
    if queries == ["messages"]:
        part = dataset.select_columns(["messages", *aside])
        features = {"prompt": dataset.features["messages"], "responses": List(dataset.features["messages"])}
        return _mapped(part, _last_turns, "messages", features)
    return None


def _has_values(column: Iterable[Any]) -> bool:
    return any(value is not None for value in column)


def _mapped(part: Dataset, function: Callable, column: str, added: Mapping[str, Any]) -> Dataset:
    features = {name: feature for name, feature in part.features.items() if name != column}
    return part.with_format(None).map(
        function, remove_columns=column, features=Features({**features, **added}), load_from_cache_file=False
    )


def _alone(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"responses": [row["completion"]]}


def _last_turns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation as a prompt and one response, the assistant's last turns."""
    messages = list(row["messages"] or ())
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    return {"prompt": messages[:end] or None, "responses": [messages[end:]] if messages[end:] else None}
