# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Answers of OpenAI-compatible servers: completions, broken answers, refusals of a prompt and failures."""

import json
import logging
import math
import re
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from transformers import PreTrainedTokenizerBase

from .judge.costs import spend
from .judge.sampling import EngineError, Refusal, Sample, decode_completions, storable

logger = logging.getLogger(__name__)


# vLLM reads what a request leaves open from the model's generation config, which often sets a top-k of 20 or 50. Token
# ids count the tokens of each sample, where the usage knows only their sum.
_PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
VLLM_FIELDS = {"top_k": -1, "min_p": 0.0, **_PENALTIES, "return_token_ids": True}
STRUCTURED = {"vllm": "structured_outputs"}
"""By dialect, the field that binds a completion to a regular expression."""

DIALECTS: dict[str, dict[str, Any]] = {"vllm": VLLM_FIELDS, "openai": {}}
POOLING: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vllm": ("/pooling", "input", {"task": "classify", "use_activation": False}),
    "sglang": ("/classify", "input_ids", {}),
}
"""By server, the endpoint of sequence classifiers, its field for token ids, and the other fields."""

# Finish reasons of OpenAI, vLLM, TGI, SGLang, Anthropic, Gemini and Mistral, in lower case.
_ENDED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "end_of_text", "complete", "completed"}
_CUT = {"length", "max_tokens", "max_length", "max_output_tokens", "max_new_tokens", "model_length"}
_FILTERED = {"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii", "refusal"}
_BROKEN_OFF = {"", "none", "null", "abort", "error"}

_CONTEXT = re.compile(
    r"(?i)context[ _](length|size|window)|max_model_len|longer than the max|(prompt|input) is too long|too many tokens"
)
_CONTENT = re.compile(
    r"(?i)content[ _-]?(filter|management|polic)|ResponsibleAI|moderation|flagged|safety (system|filter|polic)"
)
_REQUEST = re.compile(
    r"(?i)extra[ _](inputs|fields)|(unknown|unexpected|unrecognized|unsupported)[ _\w]*(field|param|argument|key)"
)


class BrokenAnswer(Exception):
    """An answer without whole completions, which the same request may get."""


class Refused(Exception):
    """A request that the server refuses because of its prompt."""

    def __init__(self, cause: str, message: str, status: int = 200):
        super().__init__(message)
        self.refusal, self.status = Refusal(cause, message), status


def parse_answer(data: bytes) -> dict[str, Any]:
    """The JSON object of a successful answer."""
    answer = _parse_json(data)
    if not isinstance(answer, dict) or answer.get("error"):
        raise BrokenAnswer(f"Found no completions in the answer: {error_message(data)}.")
    return answer


def error_message(data: bytes) -> str:
    """The message of an error, in the shapes of OpenAI, vLLM and FastAPI, or the beginning of another answer."""
    error = _parse_json(data)
    while isinstance(error, dict) and (inner := error.get("error") or error.get("message") or error.get("detail")):
        error = inner
    text = error if isinstance(error, str) else json.dumps(error) if error else data.decode(errors="replace")
    return text.strip().rstrip(".")


def _parse_json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError):
        return None


def refusal(message: str, status: int, payload: str, attempts: int) -> Exception:
    """The exception that a status and an answer mean: a prompt that is refused, or a server that fails."""
    if status in (408, 409, 429) or status >= 500:
        return EngineError(f"{message} Gave up after {attempts} attempts.", status=status)
    if any(name in message for name in VLLM_FIELDS):
        message += ' `dialect="openai"` leaves out the fields that only vLLM knows.'
    elif status in (400, 403, 413, 422) and _CONTENT.search(payload):
        return Refused("content_filter", message, status)
    elif status == 413 or status in (400, 422) and _CONTEXT.search(payload):
        advice = "Shorten or drop the row, lower `max_new_tokens`, or start the server with a longer context."
        return Refused("context_length", f"{message} {advice}", status)
    elif status in (400, 422) and not _REQUEST.search(payload):
        return Refused("refused", message, status)
    return EngineError(message, status=status)


def prompt_tokens(answer: Mapping[str, Any], body: Mapping[str, Any]) -> int:
    """Tokens of a request's prompt, as the answer says, else its token ids, else a quarter of the bytes."""
    usage = answer.get("usage", answer.get("meta_info"))
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if type(tokens) is int and tokens >= 0:
        return tokens
    ids = body.get("prompt") or body.get("input") or body.get("input_ids")
    return len(ids) if ids else len(json.dumps(body["messages"]).encode()) // 4


def read_logit(answer: dict[str, Any]) -> float:
    """The logit in an answer of vLLM or SGLang."""
    match answer:
        case {"data": [{"data": [int() | float() as logit]}]} | {"embedding": [int() | float() as logit]}:
            if math.isfinite(logit):
                return float(logit)
    advice = "expected one finite logit: serve a sequence classifier with one label, in bfloat16 or float32."
    raise EngineError(f"Found the answer {json.dumps(answer)}; {advice}", status=200)


def read_choices(answer: dict[str, Any], size: int, tokenizer: PreTrainedTokenizerBase | None) -> list[Sample]:
    """The samples of a request."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise BrokenAnswer(f"Found no choices in the answer {json.dumps(answer)}.")
    if len(choices) != size:
        advice = ' `dialect="openai"` requests one at a time.' if size > 1 else ""
        raise EngineError(f"Found {len(choices)} choices; expected the {size} requested.{advice}", status=200)
    usage = answer.get("usage")
    total = usage.get("completion_tokens") if isinstance(usage, dict) and size == 1 else None
    if all(isinstance(choice.get("index"), int) for choice in choices):
        choices = sorted(choices, key=itemgetter("index"))
    drawn = [_read_choice(choice, total, tokenizer) for choice in choices]
    spend(written=sum(sample.num_tokens for sample in drawn))
    return drawn


def _read_choice(choice: dict[str, Any], total: Any, tokenizer: PreTrainedTokenizerBase | None) -> Sample:
    reason = str(choice.get("finish_reason") or "").lower()
    if reason in _BROKEN_OFF:
        raise BrokenAnswer(f"Found a completion that the server broke off ({choice.get('finish_reason')}).")
    if reason not in _ENDED | _CUT:
        cause = "content_filter" if reason in _FILTERED else "unreadable"
        raise Refused(cause, f"Found the finish reason {choice['finish_reason']!r}; expected 'stop' or 'length'.")
    text = _content(choice)
    if text is None:
        raise Refused("unreadable", f"Found a choice without text: {json.dumps(choice)}.")
    text, ids, tokens = storable(text), choice.get("token_ids"), None
    if isinstance(ids, list) and ids and all(type(token) is int and 0 <= token < 2**31 for token in ids):
        if tokenizer is not None:  # the text as a model in this process has it
            text = decode_completions(tokenizer, [ids])[0]
            tokens = tuple(ids)
        total = len(ids)
    if type(total) is not int or total < 0:
        total = _count(text, tokenizer)
    logprobs: tuple[float, ...] | None = None
    match choice.get("logprobs"):  # if `extra_body` asks for them
        case {"token_logprobs": [*values]} if tokens is not None and len(values) == len(tokens):
            logprobs = tuple(values)
    return Sample(text, total, truncated=reason in _CUT, ids=tokens, logprobs=logprobs)


def _content(choice: dict[str, Any]) -> str | None:
    """The text of a choice: of `/completions`, of a message, of its parts, or of a refusal in its place."""
    message = choice.get("message")
    message = message if isinstance(message, dict) else {"content": choice.get("text")}
    text = message.get("content")
    if isinstance(text, list):
        parts = [part for part in text if isinstance(part, dict)]
        texts = [part.get("text", part.get("refusal")) for part in parts if part.get("type") != "thinking"]
        text = "".join(part for part in texts if isinstance(part, str)) if parts else None
    text = message.get("refusal") if text is None else text
    if text is None and (message.get("reasoning") or message.get("reasoning_content")):
        return ""
    return text if isinstance(text, str) else None


def _count(text: str, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Tokens of a completion, its end included, for a server that counts none."""
    if tokenizer is not None:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) + 1
    logger.warning_once(  # type: ignore[attr-defined]
        "The server gives no number of tokens; `num_tokens` is estimated as a quarter of the bytes."
    )
    return len(text.encode()) // 4 + 1
