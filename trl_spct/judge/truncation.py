# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Length of a judge's prompt, and the fair cutting of texts to fit it (not in the paper)."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from .fence import Fence
from .preferences import Preference
from .prompts import judge_messages
from .sampling import check_tokenizer, encode_prompts, special_tokens

MARK = " […] ({count} tokens left out) "
EARLIER = "[…] ({count} earlier tokens left out)\n"
MIN_TOKENS = 64
QUERY_SHARE = 0.25


@dataclass(frozen=True)
class Cuts:
    """Tokens that were cut from the query, from each of the responses and from the reference. False if none."""

    query: int
    responses: tuple[int, ...]
    reference: int = 0

    def __bool__(self) -> bool:
        return bool(self.query or self.reference or any(self.responses))


def prompt_length(
    preference: Preference,
    tokenizer: PreTrainedTokenizerBase,
    template: str = "paper",
    binary: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> int:
    """Tokens of the judge's prompt, chat template and generation prompt included."""
    check_tokenizer(tokenizer)
    messages = judge_messages(preference, template, binary, special_tokens=special_tokens(tokenizer))
    return len(encode_prompts(tokenizer, [messages], chat_template_kwargs)[0])


def fit_preference(
    preference: Preference,
    tokenizer: PreTrainedTokenizerBase,
    room: int,
    length: Callable[[Preference], int],
    min_tokens: int = MIN_TOKENS,
) -> tuple[Preference, Cuts]:
    """Shortens texts until the prompt has at most `room` tokens by `length`; one that fits is returned as it is.

    Responses and the reference are cut to a common length, shorter ones stay whole. The query gets a quarter of the
    room for texts and what the others leave; of a conversation the oldest turns go first. Texts lose their middle and
    say in its place how many tokens are missing. The template and the principles are never cut, and no text to less
    than `min_tokens`, so that the prompt may still not fit. Texts that were cut are fenced.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"Found {type(tokenizer).__name__}, which has no character offsets; expected a fast tokenizer. Shorten or "
            "drop the rows that are too long."
        )
    if length(preference) <= room:
        return preference, Cuts(0, (0,) * len(preference))
    texts = _Texts.of(preference, tokenizer, min_tokens)
    fitted = texts.cut(0)
    low, high = 0, min(sum(map(len, (*texts.turns, *texts.judged))), room) + 1  # it fits with `low` tokens, if at all
    while high - low > 1:
        middle = (low + high) // 2
        candidate = texts.cut(middle)
        if length(candidate[0]) <= room:
            low, fitted = middle, candidate
        else:
            high = middle
    return fitted


def water_level(lengths: Sequence[int], budget: int) -> int:
    """The highest level with `sum(min(length, level)) <= budget`; the greatest length if all fit."""
    levels = range(1, max(lengths, default=0) + 1)
    return bisect.bisect_right(levels, budget, key=lambda level: sum(min(length, level) for length in lengths))


@dataclass(frozen=True)
class _Text:
    """A text as the judge reads it, and where in it each token begins and ends."""

    raw: str
    fenced: str
    offsets: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.offsets)

    def cut(self, length: int, mark_length: int) -> tuple[str, int]:
        """The text in at most `length` tokens, mark included, and how many of its own are missing."""
        if len(self) <= length:
            return self.raw, 0
        kept = max(0, length - mark_length)
        begin, end = self.offsets[kept - kept // 2][0], self.offsets[len(self) - kept // 2 - 1][1]
        head, tail = self.fenced[:begin].rstrip(" "), self.fenced[end:].lstrip(" ")
        return head + MARK.format(count=len(self) - kept) + tail, len(self) - kept


@dataclass(frozen=True)
class _Texts:
    """All texts of a preference that may be cut, in tokens."""

    preference: Preference
    turns: tuple[_Text, ...]
    judged: tuple[_Text, ...]  # the responses, and the reference if there is one
    mark_length: int
    min_tokens: int

    @classmethod
    def of(cls, preference: Preference, tokenizer: PreTrainedTokenizerBase, min_tokens: int) -> "_Texts":
        query = preference.query
        turns = [query] if isinstance(query, str) else [message["content"] for message in query]
        reference = [] if preference.reference is None else [preference.reference]
        raw = [*turns, *preference.responses, *reference]
        fenced = [*map(Fence(special_tokens(tokenizer)), raw), MARK.format(count=10_000)]
        encoded = tokenizer(fenced, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        *offsets, mark = map(tuple, encoded["offset_mapping"])
        texts = tuple(map(_Text, raw, fenced, offsets))
        return cls(preference, texts[: len(turns)], texts[len(turns) :], len(mark), min_tokens)

    def cut(self, room: int) -> tuple[Preference, Cuts]:
        """The preference with its texts in about `room` tokens, but none below the minimum."""
        lengths, count = list(map(len, self.judged)), len(self.preference)
        for_query = max(self.min_tokens, int(room * QUERY_SHARE), room - sum(lengths))
        query, query_cut = self._cut_query(for_query)
        level = max(self.min_tokens, water_level(lengths, room - min(for_query, sum(map(len, self.turns)))))
        texts, cuts = zip(*(text.cut(level, self.mark_length) for text in self.judged), strict=True)
        reference = None if self.preference.reference is None else texts[count]
        fitted = replace(self.preference, query=query, responses=texts[:count], reference=reference)
        return fitted, Cuts(query_cut, cuts[:count], sum(cuts[count:]))

    def _cut_query(self, room: int) -> tuple[str | tuple[Mapping[str, str], ...], int]:
        """The query in about `room` tokens, the newest turns first, and how many of its tokens are missing."""
        if isinstance(self.preference.query, str):
            return self.turns[0].cut(room, self.mark_length)
        if sum(map(len, self.turns)) <= room:
            return self.preference.query, 0
        older = list(zip(self.preference.query, self.turns, strict=True))
        kept: list[dict[str, str]] = []
        missing, left = 0, room
        while older and (not kept or left >= min(self.min_tokens, len(older[-1][1]))):
            message, text = older.pop()
            content, cut = text.cut(left, self.mark_length)
            kept.insert(0, {**message, "content": content})
            missing, left = missing + cut, left - len(text)
        if dropped := sum(len(text) for _, text in older):
            kept[0]["content"] = EARLIER.format(count=dropped) + kept[0]["content"]
        return tuple(kept), missing + dropped
