# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Conversations as text: role names, tool calls with their arguments, and tool results."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any


Messages = Sequence[Mapping[str, Any]]

ROLES = ("system", "developer", "tools", "user", "assistant", "tool", "function")
_ROLE_LINE = re.compile(rf"^(?= *(?:{'|'.join(role.capitalize() for role in ROLES)})\b[^\n:]*:)", re.MULTILINE)
_CALLS = ("tool_calls", "function_call")


class InvalidPreference(ValueError):
    """A row that cannot be judged or learned from.

    `cause` is `"shape"`, `"query"`, `"responses"`, `"empty"`, `"labels"`, `"count"`, `"ties"` or `"identical"`.
    """

    def __init__(self, message: str, cause: str):
        super().__init__(message)
        self.cause = cause


def is_message(message: Any) -> bool:
    """Whether a value is a mapping with a `role`, and a `content` or tool calls."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    return "content" in message or any(message.get(name) for name in _CALLS)


def is_conversation(side: Any) -> bool:
    """Whether a value is a non-empty list of messages."""
    return isinstance(side, (list, tuple)) and bool(side) and all(map(is_message, side))


def turns_of(messages: Messages, cause: str = "query") -> tuple[dict[str, str], ...]:
    """Messages as turns of `role` and `content` alone, both texts; turns are returned unchanged.

    A tool call becomes a turn of its own, `assistant calls NAME`, with its arguments as JSON; a tool's result is a
    turn `tool NAME`. Calls with an id are numbered in the order in which the ids occur: `(call 1)`.

    Normalized away are: the case of the roles in `ROLES`, ids, thoughts beside the content (`reasoning_content`),
    arguments as a JSON text or as a mapping, the order of their keys, keys that are `None`, the parts of a content,
    and whether an assistant's text and calls stand in one message or in several.

    Args:
        messages (sequence of messages):
            With `content` as a text, a list of text parts, or `None` beside `tool_calls` in OpenAI's form or the form
            `{"name", "arguments"}`.
        cause (`str`, *optional*): The cause of errors.
    """
    turns: list[dict[str, str]] = []
    numbers: dict[str, int] = {}
    names: dict[str, str] = {}

    def label(role: str, name: Any, call: Any) -> str:
        words = [role, *([name] if isinstance(name, str) and name else [])]
        if isinstance(call, str) and call:
            words.append(f"(call {numbers.setdefault(call, len(numbers) + 1)})")
        return " ".join(" ".join(words).split())  # one line, which no name can leave to forge a turn

    for message in messages:
        role = message["role"].lower() if message["role"].lower() in ROLES else message["role"]
        calls = [_call(call, cause) for call in _calls_of(message)]
        call_id = message.get("tool_call_id")
        name = message.get("name") or names.get(call_id or "")
        text = message_text(message.get("content"), cause, optional=bool(calls))
        if text or not calls:
            turns.append({"role": label(role, name, call_id), "content": text})
        for id_, called, arguments in calls:
            if id_:
                names[id_] = called
            turns.append({"role": label(f"{role} calls", called, id_), "content": arguments})
    return tuple(turns)


def conversation_text(query: str | Messages, speaker: bool = True) -> str:
    """A query as text, in lines of `Role: text` as in public copies of the prompt **[C]**.

    A line of a message that begins like a turn, as `User: …`, gets one more space in front, so that different
    conversations have different texts. Without `speaker` a single user turn does not name its role.
    """
    if isinstance(query, str):
        return f"User: {query}" if speaker else query
    turns = turns_of(query)
    if len(turns) == 1 and turns[0]["role"] == "user" and not speaker:
        return _ROLE_LINE.sub(" ", turns[0]["content"])
    return "\n".join(f"{_title(turn['role'])}: {_ROLE_LINE.sub(' ', turn['content'])}" for turn in turns)


def response_text(response: Any) -> Any:
    """A response as text; a value that is neither a text nor messages is returned as it is.

    A single message of an assistant without calls is its text, other messages are rendered by [`conversation_text`].
    """
    if is_message(response):
        response = [response]
    elif isinstance(response, Mapping) and "content" in response:  # without a role: the assistant's
        response = [{"role": "assistant", **response}]
    if not is_conversation(response):
        return "" if isinstance(response, (list, tuple)) and not response else response
    turns = turns_of(response, "responses")
    if not any(turn["content"].strip() for turn in turns):
        return ""
    if len(turns) > 1 or turns[0]["role"] != "assistant":
        return conversation_text(turns)
    return re.sub(_ROLE_LINE.pattern, " ", turns[0]["content"], count=1)  # only where it begins like a turn


def message_text(content: Any, cause: str = "query", optional: bool = False) -> str:
    """The text of a message's content: a text, a list of text parts, or `None` where it is optional."""
    if isinstance(content, str):
        return content
    if content is None and optional:
        return ""
    if isinstance(content, (list, tuple)) and all(_is_text_part(part) for part in content):
        return "".join(part["text"] for part in content)
    kind = f"type {type(content).__name__}"
    if isinstance(content, (list, tuple)):
        kinds = {str(part.get("type")) if isinstance(part, Mapping) else type(part).__name__ for part in content}
        kind = f"parts {sorted(kinds)}"
    raise InvalidPreference(
        f"Found message content of {kind} that is not text; expected a text or a list of "
        '`{"type": "text", "text": …}` parts. Judges read text only: describe other parts in words, or drop the row.',
        cause,
    )


def tools_text(tools: Any) -> str:
    """The `tools` column of a row as JSON."""
    return _json(tools)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _title(role: str) -> str:
    return role[:1].upper() + role[1:]


def _calls_of(message: Mapping[str, Any]) -> list[Any]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, (list, tuple)):
        calls = [calls]
    return [*calls, *([message["function_call"]] if message.get("function_call") else [])]


def _call(call: Any, cause: str) -> tuple[str | None, str, str]:
    """(id, name, arguments) of a tool call."""
    function = call.get("function") or call if isinstance(call, Mapping) else {}
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidPreference(
            f"Found the tool call {call!r:.120}; expected a `name` and `arguments`, or them under `function`.", cause
        )
    return call.get("id"), name, _json(function.get("arguments"))


def _json(value: Any) -> str:
    """A canonical JSON text; a text that is JSON is read first."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            pass
    return json.dumps(_without_none(value), ensure_ascii=False, sort_keys=True, default=str)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [json.loads(item) if _is_json_object(item) else _without_none(item) for item in value]
    return value


def _is_json_object(value: Any) -> bool:
    """Whether a list of tools holds its entries as JSON texts."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(value), dict)
    except json.JSONDecodeError:
        return False
