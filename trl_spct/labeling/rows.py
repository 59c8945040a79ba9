# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Unlabeled rows of any shape, with all of their columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, List, Value, concatenate_datasets
from trl.trainer.utils import remove_none_values

from ..data.preparation import RESERVED_COLUMNS, InvalidRows, Rows, preference_of, prepare_preferences
from ..data.reading import QUERIES
from ..judge.preferences import Preference, read_columns

_LABELS = frozenset(("labels", "scores", "best_index", "label"))
_ANSWERS = frozenset(("responses", "completions", "chosen", "rejected", "completion"))
_ASIDE = ("reference", "principles")


@dataclass(frozen=True)
class LabelRows:
    """Rows to judge: item i is row i as a [`Preference`] without labels, as in `preferences`.

    `originals` has all columns of these rows, `raw` those that they are read from, except for a source's.
    `row_numbers` are their numbers among the `num_read` rows read, `dropped` counts the others by cause, and
    `response_numbers` has the places of the responses that are left of rows with empty ones."""

    originals: Dataset
    preferences: Dataset
    raw: Dataset | None
    num_read: int
    dropped: dict[str, int]
    row_numbers: tuple[int, ...] = field(repr=False)
    response_numbers: Mapping[int, tuple[int, ...]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.preferences)

    def __getitem__(self, number: int) -> Preference:
        return preference_of(self.preferences[number])

    def __iter__(self) -> Iterator[Preference]:
        return map(preference_of, self.preferences)

    @property
    def columns(self) -> Features:
        """Types of the columns that rows are read from."""
        return (self.preferences if self.raw is None else self.raw).features

    @property
    def have_messages(self) -> bool:
        """Whether rows hold messages, or need them for a system prompt or tools."""
        read = [self.columns[name] for name in self.columns.keys() & (QUERIES | _ANSWERS)]
        texts = all(isinstance(getattr(feature, "feature", feature), Value) for feature in read)
        return not texts or not self.columns.keys().isdisjoint(("system", "tools"))

    def for_trainers(self, number: int, messages: bool, **places: int) -> dict[str, Any]:
        """The prompt of a row and the responses in these places in TRL's format: all texts, or all messages, which are
        those of the row as it was read, with its system prompt and its tools."""
        row, raw = self[number], {}
        query, responses = row.query, list(row.responses)
        if not messages:
            return {"prompt": query, **{name: responses[place] for name, place in places.items()}}
        if self.raw is not None:
            raw = {name: value for name, value in self.raw[number].items() if value is not None}
            query, responses, _ = read_columns({"label": True, **raw})
            responses = [responses[place] for place in self.response_numbers.get(number, range(len(responses)))]
        prompt, system = _turns(query, "user"), {"role": "system", "content": raw.get("system")}
        if system["content"] and system not in prompt:
            prompt.insert(0, system)
        values: dict[str, Any] = {name: _turns(responses[place], "assistant") for name, place in places.items()}
        if "tools" in self.columns:
            tools = raw.get("tools")
            is_text = isinstance(tools, str) or not tools
            values["tools"] = tools if is_text else json.dumps(remove_none_values(tools), ensure_ascii=False)
        return {"prompt": prompt, **values}

    def in_place(self, number: int, values: Sequence[Any]) -> list[Any]:
        """Values of the responses that were judged, in the order of the row as it was read, with `None` for others."""
        if self.raw is None or number not in self.response_numbers:
            return list(values)
        placed = dict(zip(self.response_numbers[number], values, strict=True))
        return [placed.get(place) for place in range(len(self.raw[number]["responses"]))]


def _turns(side: Any, role: str) -> list[dict[str, Any]]:
    """A text, a message or messages as messages, without keys that are `None`."""
    turns = side if isinstance(side, (list, tuple)) else [{"content": side} if isinstance(side, str) else side]
    return [{"role": role, "content": None, **remove_none_values(turn)} for turn in turns]


def prepare_rows(
    dataset: Rows,
    source: str | None = None,
    invalid_rows: InvalidRows = "error",
    name: str = "dataset",
    prompt_column: str | None = None,
    invalid_responses: InvalidRows = "error",
) -> LabelRows:
    """Reads and checks rows without labels.

    | columns | n |
    |---|---|
    | `query`, `prompt` or `messages`, and `responses` or `completions` | ≥ 1 |
    | [`prompt`], `chosen`, `rejected` (prompt explicit or implicit) | 2 |
    | `query`, `prompt` or `messages`, and `completion` | 1 |
    | `messages` that end with the assistant's | 1 |
    | those of a source of [`~trl_spct.data.sources.SOURCES`], which then become `query` and `responses` | ≥ 1 |

    Texts may be messages everywhere. Labels are kept like all other columns, and never shown to the judge. For the
    arguments see [`~trl_spct.data.preparation.prepare_preferences`].
    """
    dataset = _as_dataset(dataset)
    raw = _raw_columns(dataset, prompt_column, name) if isinstance(dataset, Dataset) and source is None else dataset
    prepared = prepare_preferences(
        raw, source, invalid_rows, name, require_labels=False, read_labels=False, invalid_responses=invalid_responses
    )
    preferences, originals, numbers = prepared.dataset, prepared.dataset, prepared.row_numbers
    is_source = prepared.source is not None
    if isinstance(dataset, Dataset):
        originals = dataset.select(numbers).with_format(None)
        if is_source:
            added = preferences.select_columns(["query", "responses"])
            kept = [column for column in originals.column_names if column not in added.column_names]
            originals = concatenate_datasets([added, originals.select_columns(kept)], axis=1)
    used = [column for column in ("query", "responses", *_ASIDE) if column in preferences.column_names]
    read = raw.select(numbers) if isinstance(raw, Dataset) and not is_source else None
    facts = (prepared.num_read, dict(prepared.dropped), numbers, prepared.response_numbers)
    return LabelRows(originals, preferences.select_columns(used), read, *facts)


def _as_dataset(rows: Rows) -> Rows:
    """Rows as a dataset, in which a column of mixed types is JSON; anything else is left for the checks."""
    if not isinstance(rows, Sequence):
        return rows
    try:
        columns = dict.fromkeys(column for row in rows for column in row)
        values = {column: [row.get(column) for row in rows] for column in columns}
        return Dataset.from_dict(values, on_mixed_types="use_json")
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, AttributeError):
        return rows


def _raw_columns(dataset: Dataset, prompt_column: str | None, name: str) -> Dataset:
    """The columns that may be read: not labels, and not those that trainers reserve. All of a source."""
    dataset = dataset.with_format(None)
    if prompt_column is not None:
        if prompt_column not in dataset.column_names:
            found = sorted(dataset.column_names)
            raise ValueError(f"{name}: found the columns {found}; expected prompt_column={prompt_column!r}.")
        others = [column for column in dataset.column_names if column in QUERIES and column != prompt_column]
        dataset = dataset.remove_columns(others)
        dataset = dataset if prompt_column == "prompt" else dataset.rename_column(prompt_column, "prompt")
    columns = set(dataset.column_names)
    if "messages" in columns and not columns & _ANSWERS:
        turns = dataset.features["messages"]
        kept = dataset.select_columns([column for column in (*_ASIDE, "system", "tools") if column in columns])
        features = Features({"prompt": turns, "responses": List(turns)})
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
