# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Dates in chat templates: Llama 3.2's prints today's, so that the same row has another prompt on another day."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

_FORMATS = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1""")
_MACRO = "{%%- macro strftime_now(format) -%%}{{ %s }}{%%- endmacro -%%}"
_day: ContextVar[date | None] = ContextVar("spct_day", default=None)


@contextmanager
def on_day(day: date) -> Iterator[None]:
    """In it, prompts are rendered as on that day."""
    token = _day.set(day)
    try:
        yield
    finally:
        _day.reset(token)


def dated_template(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The `chat_template` with the dates of [`on_day`]; empty outside of it, and for templates without a date."""
    day, template = _day.get(), _template_of(tokenizer)
    formats = {form for _, form in _FORMATS.findall(template)} if day else set()
    dates = json.dumps({form: day.strftime(form) for form in formats}, ensure_ascii=False) if day else ""
    return {"chat_template": f"{_MACRO % f'{dates}[format]'}{template}"} if formats else {}


def undated_template(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The `chat_template` with the formats of dates in place of dates; empty for templates without a date."""
    template = _template_of(tokenizer)
    return {"chat_template": f"{_MACRO % 'format'}{template}"} if "strftime_now" in template else {}


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.get_chat_template() if tokenizer.chat_template else ""


def prints_date(tokenizer: PreTrainedTokenizerBase, chat_template_kwargs: Mapping[str, Any]) -> bool:
    """Whether prompts hold today's date; variables such as `date_string` may replace it."""
    undated, conversation = undated_template(tokenizer), [{"role": "user", "content": "Score the responses."}]
    render = partial(tokenizer.apply_chat_template, conversation, tokenize=False, **chat_template_kwargs)
    return bool(undated) and _day.get() is None and render() != render(**undated)
