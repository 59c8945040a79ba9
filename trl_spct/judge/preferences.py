# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Preferences: a query, the responses to it, and their labels (paper, section 2.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Integral, Real
from typing import Any, TypeVar

from .conversations import (
    InvalidPreference,
    Messages,
    is_conversation,
    message_text,
    response_text,
    tools_text,
    turns_of,
)
from .implicit_prompts import possible_prompts, split_turn, split_words, without_prompt

Score = TypeVar("Score")

PROMPT_ADVICE = (
    "Rename the column with the prompt to `prompt`, or name it as `prompt_column`; remove columns that hold none."
)
ACCEPTED_SHAPES = (
    "query + responses [+ labels]",
    "[prompt +] chosen + rejected",
    "prompt + completion + label",
    "prompt (or messages) + responses + scores | best_index | labels",
)
_NOT_USERS = frozenset(("assistant", "system", "developer", "gpt", "model", "bot"))


@dataclass(frozen=True)
class Preference:
    """A query and n ≥ 1 responses, with the ground truth if there is one.

    Args:
        query (`str` or sequence of messages):
            Messages become turns of role and text, see [`~trl_spct.judge.conversations.turns_of`].
        responses (sequence of `str`): The n responses, in the order in which the judge reads them.
        labels (sequence of `float`, *optional*):
            Ground truth, one number per response. For n ≥ 2 only their order matters, with a single maximum; for n = 1
            it is 1 (correct) or 0 (incorrect).
        reference (`str`, *optional*): A reference answer that the judge may read.
        principles (`str`, *optional*): The principles that the judge must use (paper, sections 1 and 10).
    """

    query: str | tuple[Mapping[str, str], ...]
    responses: tuple[str, ...]
    labels: tuple[float, ...] | None = None
    reference: str | None = None
    principles: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "query", _checked_query(self.query))
        object.__setattr__(self, "responses", _checked_responses(self.responses))
        if self.labels is not None:
            object.__setattr__(self, "labels", checked_labels(self.labels, len(self.responses)))
            _check_distinct(self.responses, self.labels)
        for name in ("reference", "principles"):
            text = getattr(self, name)
            if text is not None:
                _check_text(text, f"`{name}`", "query")
                object.__setattr__(self, name, text if text.strip() else None)

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def best(self) -> int | None:
        """Index of the single best response; `None` without labels and for n = 1."""
        if self.labels is None or len(self) == 1:
            return None
        return max(range(len(self)), key=self.labels.__getitem__)

    def permuted(self, order: Sequence[int]) -> "Preference":
        """The same preference with response `order[p]` in place p. [`restore_order`] undoes it on scores."""
        order = _checked_order(order, len(self))
        labels = None if self.labels is None else tuple(self.labels[i] for i in order)
        return replace(self, responses=tuple(self.responses[i] for i in order), labels=labels)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], read_labels: bool = True) -> "Preference":
        """Reads a dataset row in any accepted shape.

        | columns | n | labels |
        |---|---|---|
        | `query`, `responses`, [`labels`] | ≥ 1 | as given |
        | [`prompt`], `chosen`, `rejected` (texts or messages, prompt explicit or implicit) | 2 | (1, 0) |
        | `prompt`, `completion`, `label` | 1 | 1 if `label` else 0 |
        | `prompt` or `messages`, `responses`, `scores` or `best_index` or `labels` | ≥ 1 | as given |

        Each may have a `reference` and `principles`, and a `system` prompt and `tools`, which the judge reads before
        the conversation. Rows with `images` are refused. Other columns, and those that are `None`, are ignored.
        Without `read_labels` so are all labels, valid or not, and a `completion` needs no `label`.
        """
        if not isinstance(row, Mapping):
            raise InvalidPreference(f"Found a row of type {type(row).__name__}; expected a mapping.", "shape")
        unread = () if read_labels else ("labels", "scores", "best_index")
        columns = {name: value for name, value in row.items() if value is not None and name not in unread}
        if not read_labels and "completion" in columns:
            columns["label"] = True
        query, responses, labels = read_columns(columns)
        return cls(
            query=_with_columns(query, columns),
            responses=tuple(map(response_text, responses)) if _is_list(responses) else responses,
            labels=labels if read_labels else None,
            reference=columns.get("reference"),
            principles=columns.get("principles"),
        )


def restore_order(scores: Sequence[Score] | None, order: Sequence[int]) -> tuple[Score, ...] | None:
    """Moves scores of permuted responses back to the original order: the inverse of [`Preference.permuted`]."""
    if scores is None:
        return None
    order = _checked_order(order, len(scores))
    return tuple(scores[place] for place in sorted(range(len(order)), key=order.__getitem__))


def _checked_order(order: Sequence[int], count: int) -> tuple[int, ...]:
    order = tuple(order)
    if sorted(order) != list(range(count)):
        raise ValueError(f"order {list(order)} is not a permutation of 0..{count - 1}.")
    return order


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def checked_labels(labels: Sequence[float], num_responses: int | None = None) -> tuple[float, ...]:
    """Labels as plain numbers that Eq. 10 of the paper can be applied to: `num_responses` finite ones, with a single
    maximum, or 0 or 1 if there is one; others are refused with an `InvalidPreference`."""
    if not _is_list(labels):
        raise InvalidPreference(f"`labels` is {type(labels).__name__}; expected one number per response.", "labels")
    if num_responses is None:
        num_responses = max(1, len(labels))
    if len(labels) != num_responses:
        raise InvalidPreference(
            f"Found {len(labels)} labels for {num_responses} responses; expected one label per response.", "count"
        )
    labels = [label.item() if hasattr(label, "item") else label for label in labels]  # numpy and torch scalars
    for label in labels:
        if not isinstance(label, Real) or not (isinstance(label, Integral) or isfinite(label)):
            raise InvalidPreference(f"Found the label {label!r}; expected finite numbers.", "labels")
    values = tuple(int(label) if label == int(label) else float(label) for label in labels)
    if num_responses == 1 and values[0] not in (0, 1):
        raise InvalidPreference(
            f"Found the label {values[0]} for a single response; expected 1 (correct) or 0 (incorrect). Map ratings "
            "to 0/1, or judge several responses to the same query together.",
            "labels",
        )
    if num_responses > 1 and values.count(max(values)) != 1:
        raise InvalidPreference(
            f"Found the labels {list(values)}: {values.count(max(values))} responses share the highest label; "
            "expected a single best response. Drop the tied responses, or such rows (`invalid_rows='drop'`).",
            "ties",
        )
    return values


def _check_distinct(responses: Sequence[str], labels: Sequence[float]) -> None:
    for number, response in enumerate(responses):
        first = responses.index(response)
        if labels[first] != labels[number]:
            raise InvalidPreference(
                f"Responses {first + 1} and {number + 1} are identical and have the labels {labels[first]} and "
                f"{labels[number]}; expected different responses, or the same label. Drop the row "
                "(`invalid_rows='drop'` counts such rows).",
                "identical",
            )


def _check_text(text: Any, name: str, cause: str) -> None:
    """Refuses what is no text, or holds lone surrogates."""
    if not isinstance(text, str):
        raise InvalidPreference(
            f"{name} is {type(text).__name__} ({text!r:.40}); expected a text. Convert it, or drop the row "
            "(`invalid_rows='drop'` counts such rows).",
            cause,
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidPreference(
            f"{name} holds {error.object[error.start]!r} at character {error.start}: half of a surrogate pair, which "
            "no tokenizer reads; expected Unicode text. Lone surrogates come from cut or badly decoded text: decode "
            "it again, or replace them (`text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')`).",
            cause,
        ) from None


def _checked_query(query: Any) -> str | tuple[Mapping[str, str], ...]:
    if isinstance(query, str):
        if not query.strip():
            raise InvalidPreference("Found an empty query; expected a text or a list of messages.", "query")
        _check_text(query, "The query", "query")
        return query
    if not is_conversation(query):
        raise InvalidPreference(
            f"Found the query {query!r:.120}; expected a text or a non-empty list of messages with `role` and "
            "`content`.",
            "query",
        )
    turns = turns_of(query)
    for number, turn in enumerate(turns, start=1):
        for text in turn.values():
            _check_text(text, f"Message {number} of the query", "query")
    if not any(turn["content"].strip() for turn in turns):
        raise InvalidPreference("Found a query whose messages are all empty; expected a text in one.", "query")
    return turns


def _checked_responses(responses: Any) -> tuple[str, ...]:
    if not _is_list(responses) or not responses:
        raise InvalidPreference(
            f"Found responses of type {type(responses).__name__}; expected a non-empty list of texts.", "responses"
        )
    for number, response in enumerate(responses, start=1):
        _check_text(response, f"Response {number}", "responses")
        if not response.strip():
            raise InvalidPreference(f"Response {number} is empty; expected a text. Drop the row.", "empty")
    return tuple(responses)


def read_columns(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """(query, responses, labels) of a row without `None` columns."""
    query = row.get("query", row.get("prompt", row.get("messages")))
    if "responses" in row and query is not None:
        return query, row["responses"], _labels_of(row)
    if "chosen" in row and "rejected" in row:
        if query is None and isinstance(row["chosen"], str) and isinstance(row["rejected"], str):
            return _read_texts(row)
        return _read_pair(query, row["chosen"], row["rejected"])
    if "completion" in row and "label" in row and query is not None:
        return query, [row["completion"]], (row["label"],)
    raise InvalidPreference(
        f"Found the columns {sorted(row)}; expected one of: {'; '.join(ACCEPTED_SHAPES)}. Rename the columns, or name "
        "a source adapter.",
        "shape",
    )


def _labels_of(row: Mapping[str, Any]) -> Sequence[float] | None:
    if "labels" in row or "scores" in row:
        return row.get("labels", row.get("scores"))
    if "best_index" not in row or not _is_list(row["responses"]) or not row["responses"]:
        return None
    best, count = row["best_index"], len(row["responses"])
    if not isinstance(best, Integral) or isinstance(best, bool) or not 0 <= int(best) < count:
        raise InvalidPreference(f"`best_index` is {best!r}; expected an index from 0 to {count - 1}.", "labels")
    return tuple(int(i == best) for i in range(count))


def _read_pair(prompt: Any, chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """A TRL preference row. Messages with which both sides begin are the prompt, or repeat it."""
    sides = (chosen, rejected)
    are_conversations = all(map(is_conversation, sides))
    if prompt is None and not are_conversations:
        raise InvalidPreference(
            f"Found `chosen` and `rejected` of types {type(chosen).__name__} and {type(rejected).__name__} without a "
            "`prompt`; expected a prompt beside them, or full message lists.",
            "query",
        )
    if prompt is None or (are_conversations and all(side[0]["role"] != "assistant" for side in sides)):
        different = (n for n, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
        shared = next(different, min(map(len, sides)))
        if all(message["role"] in _NOT_USERS for message in chosen[:shared]):
            raise InvalidPreference(
                "Found `chosen` and `rejected` that do not begin with the same turn of a user; expected both to begin "
                f"with the same conversation, or only the answers beside a `prompt`. {PROMPT_ADVICE}",
                "query",
            )
        if shared == min(map(len, sides)):
            raise InvalidPreference(
                f"Found `chosen` and `rejected` that share all {shared} messages of the shorter one; expected a "
                "different answer in each behind the shared prompt. Drop the row.",
                "identical" if len(chosen) == len(rejected) else "empty",
            )
        prompt = _joined_prompt(prompt, list(chosen[:shared]))
        chosen, rejected = chosen[shared:], rejected[shared:]
    elif all(isinstance(text, str) for text in (prompt, *sides)):
        chosen, rejected = without_prompt(prompt, chosen, rejected)
    return prompt, [chosen, rejected], (1, 0)


def _read_texts(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """A pair of texts without a prompt. It is split only where no other column may hold the prompt."""
    chosen, rejected = row["chosen"], row["rejected"]
    columns = possible_prompts(row)
    parts = None if columns else split_turn(chosen, rejected) or split_words(chosen, rejected)
    if parts is None:
        obstacle = f"beside the columns {columns}" if columns else "that share no words in front"
        raise InvalidPreference(
            f"Found `chosen` and `rejected` as texts without a `prompt`, {obstacle}; expected a `prompt` beside them, "
            f"the same dialogue in front of both, or full message lists. {PROMPT_ADVICE}",
            "query",
        )
    return parts[0], list(parts[1:]), (1, 0)


def _joined_prompt(prompt: Any, shared: Messages) -> Any:
    """The `prompt` and the turns that both sides share: one of them, or a `prompt` of system turns before them."""
    if prompt is None:
        return shared
    if isinstance(prompt, str):
        if prompt.strip() in [message_text(message.get("content"), optional=True).strip() for message in shared]:
            return shared
    elif is_conversation(prompt):
        turns, sides = turns_of(prompt), turns_of(shared)
        if turns[max(0, len(turns) - len(sides)) :] == sides:
            return prompt
        if any(sides[start : start + len(turns)] == turns for start in range(len(sides))):
            return shared
        if all(turn["role"] in ("system", "developer") for turn in turns):
            return [*prompt, *shared]
    raise InvalidPreference(
        "Found a `prompt` that is no part of the conversation with which `chosen` and `rejected` begin; expected the "
        "same turns in both. Drop one of them: the `prompt`, or the shared turns.",
        "query",
    )


def _with_columns(query: Any, columns: Mapping[str, Any]) -> Any:
    """The query behind the system prompt and the tools of a row's own columns."""
    system, tools = columns.get("system"), columns.get("tools")
    if _is_list(columns.get("images")) and columns["images"]:
        raise InvalidPreference("Found the column `images`; judges read text only. Drop the row or column.", "query")
    if system is not None and not isinstance(system, str):
        raise InvalidPreference(
            f"Found the column `system` of type {type(system).__name__}; expected a text. Rename the column.", "query"
        )
    before = [{"role": "system", "content": system}] if (system or "").strip() else []
    before += [{"role": "tools", "content": tools_text(tools)}] if tools else []
    if not before or not query or not (isinstance(query, str) or is_conversation(query)):
        return query
    turns = [{"role": "user", "content": query}] if isinstance(query, str) else list(query)
    return [*(message for message in before if message not in turns), *turns]
