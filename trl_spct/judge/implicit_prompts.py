# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Prompts that `chosen` and `rejected` texts repeat, where a row has no column with the prompt.

Every split is lossless: the prompt and a response, joined, are the text that they were read from.
"""

import re
import unicodedata
from collections.abc import Mapping
from os.path import commonprefix
from typing import Any

# Heads of an assistant's turn; those of the second pattern also occur within answers.
_TURNS = (
    re.compile(
        r"\n[ \t]*(?:Assistant:|### ?(?:Assistant|Response|Answer):?|<\|(?:assistant|ASSISTANT)\|>)"
        r"|<\|im_start\|>assistant\n?|<start_of_turn>model\n?|\[/INST\]"
    ),
    re.compile(r"\n[ \t]*(?:AI|Bot|Answer|Response|TL;DR|A):"),
)
# Scripts that write no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_BOUNDARY = re.compile(r"\s+(?=\S|$)")
_UNSPACED_BOUNDARY = re.compile(r"\s+(?=\S|$)|(?<=[。！？；：，、…」』》）])")
_NO_PROMPTS = frozenset(
    ("chosen", "rejected", "reference", "principles", "system", "system_prompt", "tools")
    + ("source", "domain", "category", "subset", "split", "dataset", "language", "license", "id")
)
_PROMPT_NAME = re.compile(
    r"^(?!.*id$).*(?:prompt|quer|question|instruction|input|problem|task|post|text|context|history|dialog|article|document|passage"
    r"|conversation|message|request|title|topic|user|human|trajectory)",
    re.IGNORECASE,
)


def split_turn(chosen: str, rejected: str) -> tuple[str, str, str] | None:
    """(prompt, chosen, rejected) of two dialogues that end with an assistant's turn, as in HH-RLHF: the prompt ends
    with the last head that both share, for instance `"\\n\\nAssistant:"`. `None` without one."""
    shared = commonprefix((chosen, rejected))
    for pattern in _TURNS:
        ends = [match.end() for match in pattern.finditer(shared) if shared[: match.start()].strip()]
        if ends:
            return shared[: ends[-1]], chosen[ends[-1] :], rejected[ends[-1] :]
    return None


def split_words(chosen: str, rejected: str) -> tuple[str, str, str] | None:
    """(prompt, chosen, rejected) of two texts, where the prompt is the whole words that both begin with.

    Whitespace behind it belongs to the responses, as in TRL. Scripts without spaces are split behind punctuation, or
    between characters. `None` if the texts share no word that leaves both a response.
    """
    shared = commonprefix((chosen, rejected))
    longest = min(len(shared), *(len(text.rstrip()) - 1 for text in (chosen, rejected)))
    unspaced = bool(_UNSPACED.search(shared))
    pattern = _UNSPACED_BOUNDARY if unspaced else _BOUNDARY
    cuts = [match.start() for match in pattern.finditer(shared)]
    if all(text[len(shared) :][:1].isspace() for text in (chosen, rejected)):
        cuts.append(len(shared))
    cuts = [cut for cut in cuts if cut <= longest and shared[:cut].strip()]
    if not cuts and unspaced:
        cuts = [cut for cut in range(1, longest + 1) if not _continues(chosen, cut) and not _continues(rejected, cut)]
        cuts = [cut for cut in cuts if shared[:cut].strip()]
    return (shared[: cuts[-1]], chosen[cuts[-1] :], rejected[cuts[-1] :]) if cuts else None


def _continues(text: str, place: int) -> bool:
    """Whether a character belongs to the one before it, for instance a vowel sign."""
    return unicodedata.category(text[place]).startswith("M")


def without_prompt(prompt: str, chosen: str, rejected: str) -> tuple[str, str]:
    """The responses, where both repeat a prompt of three or more words in front; otherwise the texts as they are."""
    sides = (chosen, rejected)
    if len(prompt.split()) < 3 or not all(side.startswith(prompt) and side[len(prompt) :].strip() for side in sides):
        return sides
    return chosen[len(prompt) :], rejected[len(prompt) :]


def possible_prompts(row: Mapping[str, Any]) -> list[str]:
    """Columns of a row that may hold the prompt: messages, lists, and texts of more than one word, or of one in a
    column with a name like `question`."""
    columns = {str(name): value for name, value in row.items() if name not in _NO_PROMPTS}
    return sorted(name for name, value in columns.items() if _may_be_prompt(value, bool(_PROMPT_NAME.search(name))))


def _may_be_prompt(value: Any, named: bool) -> bool:
    if isinstance(value, str):
        return len(value.split()) > (0 if named else 1) or bool(_UNSPACED.search(value))
    if isinstance(value, Mapping):
        return any(_may_be_prompt(item, named) for item in value.values())
    return isinstance(value, (list, tuple)) and any(isinstance(item, (str, Mapping)) for item in value)
