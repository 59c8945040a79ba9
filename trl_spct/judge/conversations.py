# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Conversations as text: role names, tool calls with their arguments, and tool results."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]

ROLES = ("system", "developer", "tools", "user", "assistant", "tool", "function")
_SPEAKER = "speaker"  # before the name of any other role
_ROLE_LINE = re.compile(rf"^(?= *(?:{'|'.join(map(str.capitalize, (*ROLES, _SPEAKER)))})\b[^\n:]*:)", re.MULTILINE)
_NAME = r'(?:[\w./-]+|"(?:[^"\\]|\\.)*")'
_TURN_ROLE = re.compile(rf"(?:{'|'.join(ROLES)}|{_SPEAKER} {_NAME})(?: calls)?(?: {_NAME})?(?: \(call \d+\))?")
_CALLS = ("tool_calls", "function_call")
# Keys of messages whose content no judge reads.
_UNREAD = ("refusal", "audio", "image", "images", "video", "videos", "files", "attachments", "documents")


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

    `content` is a text, a list of text parts, or `None` beside `tool_calls` in OpenAI's form or as `{"name",
    "arguments"}`. A tool call becomes a turn of its own, `assistant calls NAME`, with its arguments as JSON; a tool's
    result is a turn `tool NAME`. Ids become numbers, `(call 1)`, and a role beside `ROLES` becomes `speaker ROLE`.

    Normalized away are: the case of the roles in `ROLES`, thoughts beside the content (`reasoning_content`), the order
    of keys in arguments, those that are `None`, and whether an assistant's text and calls share a message.
    """
    turns: list[dict[str, str]] = []
    numbers: dict[str, int] = {}
    names: dict[str, str] = {}

    def label(role: str, name: Any, call_id: str) -> str:
        number = [f"(call {numbers.setdefault(call_id, len(numbers) + 1)})"] if call_id else []
        return " ".join((role, *([_word(name)] if name else []), *number))

    for message in messages:
        if unread := [name for name in _UNREAD if message.get(name)]:
            raise InvalidPreference(
                f"Found a message with {unread}; expected all of it as text in `content`. Judges read text only: "
                "describe other content in words, or drop the row.",
                cause,
            )
        role, calls = _role(message["role"]), [_call(call, cause) for call in _calls_of(message)]
        call_id = _id(message.get("tool_call_id"))
        name = message.get("name") or names.get(call_id)
        text = message_text(message.get("content"), cause, optional=bool(calls))
        if text or not calls:
            turns.append({"role": label(role, name, call_id), "content": text})
        for call_id, called, arguments in calls:
            if call_id:
                names[call_id] = called
            turns.append({"role": label(f"{role} calls", called, call_id), "content": arguments})
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
    return "\n".join(
        f"{turn['role'][:1].upper()}{turn['role'][1:]}: {_ROLE_LINE.sub(' ', turn['content'])}" for turn in turns
    )


def response_text(response: Any) -> Any:
    """A response as text: one message of an assistant without calls is its text, other messages are rendered by
    [`conversation_text`], and any other value is returned as it is."""
    if isinstance(response, Mapping) and ("content" in response or is_message(response)):
        response = [{"role": "assistant", **response}]  # the assistant's without a role
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
    parts = list(content) if isinstance(content, (list, tuple)) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts]
    if isinstance(content, (list, tuple)) and all(isinstance(text, str) for text in texts):
        return "".join(filter(None, texts))
    kinds = {str(part.get("type")) if isinstance(part, Mapping) else type(part).__name__ for part in parts}
    raise InvalidPreference(
        f"Found message content of type {', '.join(sorted(kinds))} that is not text; expected a text or a list of "
        '`{"type": "text", "text": …}` parts. Judges read text only: describe other parts in words, or drop the row.',
        cause,
    )


def tools_text(tools: Any) -> str:
    """The `tools` column of a row as JSON; its entries may be JSON texts."""
    tools = _read_json(tools)
    return _json([_read_json(tool) for tool in tools] if isinstance(tools, (list, tuple)) else tools)


def _role(role: str) -> str:
    if role.lower() in ROLES:
        return role.lower()
    return role if _TURN_ROLE.fullmatch(role) else f"{_SPEAKER} {_word(role)}"


def _word(name: Any) -> str:
    """A name in one word, between quotation marks if it has other signs."""
    name = str(name)
    return name if re.fullmatch(r"[\w./-]+", name) and name != "calls" else json.dumps(name, ensure_ascii=False)


def _calls_of(message: Mapping[str, Any]) -> list[Any]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, (list, tuple)):
        calls = [calls]
    return [*calls, *([message["function_call"]] if message.get("function_call") else [])]


def _id(value: Any) -> str:
    return "" if value is None else str(value)


def _call(call: Any, cause: str) -> tuple[str, str, str]:
    """(id, name, arguments) of a tool call."""
    function = call.get("function") or call if isinstance(call, Mapping) else {}
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidPreference(
            f"Found the tool call {call!r:.120}; expected a `name` and `arguments`, or them under `function`.", cause
        )
    return _id(call.get("id")), name, _json(_read_json(function.get("arguments")))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _read_json(value: Any) -> Any:
    """The object or list that a JSON text holds; a mapping or a list without the `None` with which datasets fill."""
    if not isinstance(value, str):
        return _without_none(value)
    try:
        read = json.loads(value)
    except json.JSONDecodeError:
        return value
    return read if isinstance(read, (dict, list)) else value


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, (list, tuple)) else value
