# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Reading of dataset rows as preferences: the shapes, the sources, labels or none, and missing values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..judge.implicit_prompts import split_turn
from ..judge.preferences import PROMPT_ADVICE, InvalidPreference, Preference
from .sources import Source

QUERIES = frozenset(("query", "prompt", "messages"))
"""Columns that hold the query."""


@dataclass(frozen=True)
class RowReader:
    """From a row to its preferences, and the columns that these are read from."""

    source: Source | None = None
    require_labels: bool = True
    read_labels: bool = True
    prompt_column: str | None = None
    drop_responses: bool = False
    possible_prompts: tuple[str, ...] = ()

    def __call__(self, row: Mapping[str, Any]) -> list[tuple[Preference, tuple[int, ...] | None]]:
        """Preferences, each with the numbers of its responses if some were dropped."""
        plain = self._plain(row) if isinstance(row, Mapping) else row
        parts = [plain] if self.source is None else self._of_source(plain)
        numbers = [self._valid_responses(part) for part in parts]
        preferences = [
            Preference.from_row(
                part if kept is None else {**part, "responses": [part["responses"][i] for i in kept]}, self.read_labels
            )
            for part, kept in zip(parts, numbers, strict=True)
        ]
        if self.source is None:
            self._check_query(plain)
        if self.require_labels and any(preference.labels is None for preference in preferences):
            raise InvalidPreference(
                f"Found no labels among the columns {sorted(row)}; expected `labels`, `scores` or `best_index` for "
                "training.",
                "labels",
            )
        return list(zip(preferences, numbers, strict=True))

    def consumed(self, row: Mapping[str, Any]) -> frozenset[str]:
        """Columns of a row that its preferences are read from."""
        if self.source is not None:
            return frozenset((self.source.consumed or self.source.columns).split(","))
        columns = consumed_columns(self._plain(row))
        return columns if self.prompt_column is None else columns - QUERIES | {self.prompt_column}

    def _plain(self, row: Mapping[str, Any]) -> dict[str, Any]:
        plain = {name: plain_value(value) for name, value in row.items()}
        if self.prompt_column is not None:
            prompt = plain.get(self.prompt_column)
            unread = QUERIES | {self.prompt_column}
            plain = {"prompt": prompt, **{name: value for name, value in plain.items() if name not in unread}}
        return plain

    def _check_query(self, row: Mapping[str, Any]) -> None:
        """Refuses to make a query of the words that two texts share, where another column may hold it."""
        columns = sorted(QUERIES & row.keys()) or self.possible_prompts
        if not columns or any(row.get(column) is not None for column in QUERIES):
            return
        chosen, rejected = row.get("chosen"), row.get("rejected")
        is_invented = isinstance(chosen, str) and isinstance(rejected, str) and split_turn(chosen, rejected) is None
        if is_invented or self.prompt_column is not None:
            name = self.prompt_column or columns[0]
            raise InvalidPreference(f"Found no prompt; expected one, maybe in `{name}`. {PROMPT_ADVICE}", "query")

    def _of_source(self, row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        assert self.source is not None
        try:
            return self.source.read(row, self.read_labels)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise InvalidPreference(
                f"Found a row that is not in the source's schema ({error!r}); expected "
                f"{self.source.description}. Name another `source`.",
                "shape",
            ) from error

    def _valid_responses(self, row: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Numbers of the responses with a text; `None` for all, or if none has one."""
        responses = row.get("responses") if self.drop_responses and isinstance(row, Mapping) else None
        if not isinstance(responses, (list, tuple)):
            return None
        valid = tuple(number for number, response in enumerate(responses) if _has_text(response))
        return valid if 0 < len(valid) < len(responses) else None


def plain_value(value: Any) -> Any:
    """Arrays and tensors as lists and numbers; a NaN as `None`."""
    if hasattr(value, "tolist") and not isinstance(value, str):
        value = value.tolist()
    if type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value):
        return None
    return value


def _has_text(response: Any) -> bool:
    if isinstance(response, str):
        return bool(response.strip())
    turns = response if isinstance(response, (list, tuple)) else [response]
    return any(isinstance(turn, Mapping) and (turn.get("content") or turn.get("tool_calls")) for turn in turns)


def consumed_columns(row: Mapping[str, Any]) -> frozenset[str]:
    """Columns of a row that [`Preference.from_row`] reads, or would read if they had a value."""
    present = [column for column, value in row.items() if value is not None]
    query = [column for column in ("query", "prompt", "messages") if column in present][:1]
    if query and "responses" in present:
        labels = [column for column in ("labels", "scores", "best_index") if column in present][:1]
        read = ["responses", "labels", *labels]
    else:
        read = ["chosen", "rejected"] if {"chosen", "rejected"} <= {*present} else ["completion", "label"]
    return frozenset({*query, *read, "reference", "principles"} & row.keys())
