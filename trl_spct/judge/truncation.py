# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""How long a judge's prompt is, and how what is judged can be shortened fairly until it fits.

Nothing here runs unless it is asked for: elsewhere a prompt that is too long is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from .fence import Fence
from .preferences import Preference
from .prompts import judge_messages
from .sampling import PromptTooLongError, check_tokenizer, encode_prompts, special_tokens


MARK = " […] ({count} tokens left out) "
EARLIER = "[…] ({count} earlier tokens left out)\n"


@dataclass(frozen=True)
class Cuts:
    """How many tokens of each text [`fit_preference`] left out. False if it left out none.

    Args:
        query (`int`): Tokens of the query, all turns together.
        responses (`tuple[int, ...]`): Tokens of each response, in the preference's order.
        reference (`int`): Tokens of the reference answer.
    """

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
    hint: bool = False,
) -> int:
    """Tokens of the judge's prompt, chat template and generation prompt included.

    Args:
        preference ([`Preference`]): What is judged.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The judge's, with a chat template and a pad token.
        template, binary, hint: See [`~trl_spct.judge_messages`].
    """
    check_tokenizer(tokenizer)
    messages = judge_messages(preference, template, binary, hint, special_tokens(tokenizer))
    return len(encode_prompts(tokenizer, [messages])[0])


def fit_preference(
    preference: Preference,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    max_new_tokens: int = 0,
    *,
    template: str = "paper",
    binary: bool = False,
    hint: bool = False,
    query_share: float = 0.25,
    min_tokens: int = 64,
    row: int = 0,
) -> tuple[Preference, Cuts]:
    """Shortens what is judged until its prompt fits; a preference that fits is returned as it is (not in the paper).

    The length is searched by halving: the prompt is rendered about log2(`limit`) times.

    Responses are treated alike, whatever their order: all that are longer than a common cap are cut down to it, and
    shorter ones stay whole, as water fills vessels to one level. The reference counts as one of them. The query gets
    `query_share` of the room for texts, and whatever the responses leave; of a conversation the oldest turns go first.
    Texts lose their middle, since a judge needs both how a response begins and what it concludes, and say in its place
    how many tokens are missing. The template, the principles and the hint are never cut.

    Args:
        preference ([`Preference`]): What is judged.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The judge's, with a chat template and a pad token; a fast one, which tells where in a text its tokens are.
        limit (`int`, *optional*): Positions of the judge, see [`context_length`]. `None`: no limit.
        max_new_tokens (`int`, *optional*, defaults to `0`): How many of them are kept free for the critique.
        template, binary, hint: See [`~trl_spct.judge_messages`].
        query_share (`float`, *optional*, defaults to `0.25`):
            The least share of the room for texts that the query may use, if it needs it.
        min_tokens (`int`, *optional*, defaults to `64`): No text is cut to less, the mark included.
        row (`int`, *optional*, defaults to `0`): Number of the row in messages.

    Returns:
        `tuple[Preference, Cuts]`: the preference to be judged, and what was left out of it. Texts that were cut hold
        what the judge reads, in which its special tokens are broken up.

    Raises:
        [`PromptTooLongError`]: if the prompt does not even fit with all texts cut to `min_tokens`, with the numbers.
        `ValueError`: if the tokenizer is not a fast one, or an option is out of its range.
    """
    _check_options(tokenizer, query_share, min_tokens)
    room = None if limit is None else limit - max_new_tokens

    def length(candidate: Preference) -> int:
        return prompt_length(candidate, tokenizer, template, binary, hint)

    if room is None or limit is None or length(preference) <= room:
        return preference, Cuts(0, (0,) * len(preference))
    texts = _Texts.of(preference, tokenizer, min_tokens, query_share)
    fitted = texts.cut(0)
    if (least := length(fitted[0])) > room:
        raise PromptTooLongError(f"Row {row}, its texts cut to {min_tokens} tokens", least, max_new_tokens, limit, row)
    low, high = 0, min(texts.length, room) + 1  # the prompt fits with `low` tokens of text
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
    lengths, left = sorted(lengths), budget
    for place, length in enumerate(lengths):
        share = max(0, left) // (len(lengths) - place)
        if length > share:
            return share
        left -= length
    return lengths[-1] if lengths else 0


def _check_options(tokenizer: PreTrainedTokenizerBase, query_share: float, min_tokens: int) -> None:
    if not tokenizer.is_fast:
        raise ValueError(
            f"Found {type(tokenizer).__name__}, which does not tell where in a text its tokens are; expected a fast "
            "tokenizer. Shorten or drop the rows that are too long."
        )
    if not 0 <= query_share <= 1:
        raise ValueError(f"Found query_share={query_share}; expected a share from 0 to 1.")
    least = _mark_length(tokenizer) + 2
    if min_tokens < least:
        raise ValueError(
            f"Found min_tokens={min_tokens}; expected at least {least}, since the mark in a cut text has {least - 2} "
            "tokens of its own."
        )


def _mark_length(tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer(MARK.format(count=10_000), add_special_tokens=False)["input_ids"])


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
    responses: tuple[_Text, ...]
    reference: tuple[_Text, ...]  # one or none
    mark_length: int
    min_tokens: int
    query_share: float

    @classmethod
    def of(cls, preference: Preference, tokenizer: PreTrainedTokenizerBase, min_tokens: int, query_share: float):
        query = preference.query
        turns = [query] if isinstance(query, str) else [message["content"] for message in query]
        reference = [] if preference.reference is None else [preference.reference]
        raw = [*turns, *preference.responses, *reference]
        fenced = list(map(Fence(special_tokens(tokenizer)), raw))
        encoded = tokenizer(fenced, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        texts = tuple(map(_Text, raw, fenced, map(tuple, encoded["offset_mapping"])))
        first, last = len(turns), len(turns) + len(preference)
        parts = (texts[:first], texts[first:last], texts[last:])
        return cls(preference, *parts, _mark_length(tokenizer), min_tokens, query_share)

    @property
    def length(self) -> int:
        return sum(map(len, (*self.turns, *self.responses, *self.reference)))

    def cut(self, room: int) -> tuple[Preference, Cuts]:
        """The preference with its texts in about `room` tokens, but none below the minimum."""
        judged, count = (*self.responses, *self.reference), len(self.responses)
        lengths = list(map(len, judged))
        for_query = max(self.min_tokens, int(room * self.query_share), room - sum(lengths))
        query, query_cut = self._cut_query(for_query)
        level = max(self.min_tokens, water_level(lengths, room - min(for_query, sum(map(len, self.turns)))))
        texts, cuts = zip(*(text.cut(level, self.mark_length) for text in judged), strict=True)
        reference = texts[count] if self.reference else None
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
