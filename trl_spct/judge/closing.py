# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Closing of critiques that ended without scores: the scores alone are decoded behind the text (not in the paper)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from .critiques import MISSING, closing_tag
from .generation import Decoder, evaluating, generating
from .preferences import Messages
from .sampling import (
    TRUNCATED,
    Sample,
    context_length,
    decode_completions,
    encode_prompts,
    end_of_prompt,
    generation_settings,
    prefilled_batches,
    read_sample,
    special_ids,
)
from .templates import JudgeTemplate

CLOSABLE = (MISSING, TRUNCATED)
"""Problems of critiques that can be closed: no scores were written. Wrong scores are not replaced."""


@dataclass(frozen=True)
class ScoreLine:
    r"""The texts with which a critique of n responses may end: n scores, and the n + 1 texts around them.

    `("\n\nScores: \boxed{", ", ", "}")` for two responses of the paper's template. The first text, `opening`, is
    appended as it is; what follows is decoded.
    """

    texts: tuple[str, ...]
    scores: tuple[str, ...]

    @classmethod
    def of(cls, template: JudgeTemplate, num_responses: int) -> "ScoreLine":
        """The line that the template asks for, with the last word before the scores in its output format."""
        form, names = template.score_form, template.names(num_responses)
        before = template.output_format.partition(re.split(r"\{scores?\}", form.replace("{i}", names[0]))[0])[0]
        label = (re.findall(r"[^\W\d_][\w ]*:", before) or ["Scores:"])[-1]
        parts = [form] if "{scores}" in form else [form.replace("{i}", name) for name in names]
        line = "\n".join(parts).replace("{scores}", ", ".join(["{score}"] * num_responses))
        low, high = template.score_range
        return cls(tuple(f"\n\n{label} {line}".split("{score}")), tuple(map(str, range(low, high + 1))))

    @property
    def opening(self) -> str:
        return self.texts[0]

    def before(self, text: str) -> str:
        """The text without a score line that it begins and does not end."""
        label, _, form = self.opening.partition(": ")
        head, opened, tail = text.rpartition(form) if form else ("", "", "")
        if not opened or not self.allows(tail) or self.is_complete(tail):
            return text
        return head.rstrip().removesuffix(f"{label.strip()}:").rstrip()

    @cached_property
    def pattern(self) -> str:
        """A regular expression of what follows the opening, for engines with structured outputs."""
        score = f"({'|'.join(self.scores)})"
        # `re.escape` escapes spaces and line breaks too, which the grammars of servers do not all read
        return "".join(score + re.sub(r"([][\\^$.|?*+(){}])", r"\\\1", text) for text in self.texts[1:])

    def is_complete(self, text: str) -> bool:
        """Whether a text behind the opening has all scores."""
        return re.fullmatch(self.pattern, text) is not None

    def allows(self, text: str) -> bool:
        """Whether a text behind the opening can be continued to one that is complete, or is one."""
        return _begins(text, self.texts[1:], self.scores)

    @cached_property
    def max_tokens(self) -> int:
        """A bound of the tokens of what follows the opening, the end token included."""
        return sum(len(text) + len(self.scores[-1]) for text in self.texts[1:]) + 1


def _begins(text: str, behind: Sequence[str], scores: Sequence[str]) -> bool:
    if not text or not behind:
        return not text
    rests = [text.removeprefix(score) for score in scores if text.startswith(score)]
    if any(begun.startswith(text) for begun in scores) or any(behind[0].startswith(rest) for rest in rests):
        return True
    deeper = [rest.removeprefix(behind[0]) for rest in rests if rest.startswith(behind[0])]
    return any(_begins(rest, behind[1:], scores) for rest in deeper)


def with_closed(
    close: Callable[..., list[Sample]],
    prompts: Sequence[Messages],
    samples: Sequence[Sequence[Sample]],
    asked: Sequence[tuple[JudgeTemplate, int]],
) -> list[list[Sample]]:
    """The samples of each prompt, of which those without scores, as opposed to wrong ones, are closed.

    `close(prompts, samples, lines)` is [`close_critiques`] or an engine's; `asked` has the template and the number of
    responses of each prompt.
    """
    drawn = [list(of_prompt) for of_prompt in samples]
    places = [
        (row, place)
        for row, of_prompt in enumerate(drawn)
        for place, sample in enumerate(of_prompt)
        if read_sample(sample, asked[row][1], asked[row][0]).problem in CLOSABLE
    ]
    if places:
        line_of = {row: ScoreLine.of(*asked[row]) for row, _ in places}
        unscored = [drawn[row][place] for row, place in places]
        closed = close([prompts[row] for row, _ in places], unscored, [line_of[row] for row, _ in places])
        for (row, place), sample in zip(places, closed, strict=True):
            drawn[row][place] = sample
    return drawn


def closer_of(engine: Any) -> Callable[..., list[Sample]]:
    """The method of an engine that closes samples as [`close_critiques`] does."""
    if not hasattr(engine, "close_critiques"):
        raise ValueError(
            f"Found close_critiques over a sampler of type {type(engine).__name__}; expected a model, or an engine "
            "with a method `close_critiques(prompts, samples, lines)` such as `OpenAIEngine`."
        )
    engine.close_critiques([], [], [])  # refuses what it cannot do before anything is sampled
    return engine.close_critiques


def close_critiques(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    samples: Sequence[Sample],
    lines: Sequence[ScoreLine],
    *,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    batch_size: int = 64,
) -> list[Sample]:
    """Continues each sample with its score line, of which the likeliest scores are decoded one after the other.

    An open draft is closed first, and a score line that was begun is taken back. A sample that does not fit into the
    context with its scores is returned as it is.

    Args:
        prompts, samples, lines (sequences of one length): The prompt and the line of each sample.
        chat_template_kwargs, batch_size: As for [`~trl_spct.judge.sampling.sample_critiques`].
    """
    limit = context_length(model.config)
    beginnings = unfinished(tokenizer, prompts, samples, lines, chat_template_kwargs)
    fitting = [
        place
        for place, (prompt, ids) in enumerate(beginnings)
        if limit is None or len(prompt) + len(ids) + lines[place].max_tokens <= limit
    ]
    closed = list(samples)
    encoded = [beginnings[place][0] + beginnings[place][1] for place in fitting]
    settings = generation_settings(model, tokenizer, max((lines[place].max_tokens for place in fitting), default=1))
    decoder = Decoder(model, settings, temperature=0.0, top_p=1.0)
    with torch.no_grad(), evaluating(model), generating(model, settings):
        for batch, prefill in prefilled_batches(decoder, encoded, [1] * len(encoded), batch_size):
            of_batch = [lines[fitting[i]] for i in batch]
            decoder.constraint = ScoresOnly(tokenizer, of_batch, settings.eos_token_id)
            completions = decoder.complete([encoded[i] for i in batch], [*range(len(batch))], None, prefill)
            for i, ids in zip(batch, completions, strict=True):
                place = fitting[i]
                closed[place] = with_scores(tokenizer, samples[place], [*beginnings[place][1], *ids])
    return closed


def unfinished(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    samples: Sequence[Sample],
    lines: Sequence[ScoreLine],
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[tuple[list[int], list[int]]]:
    """The token ids of each prompt, and of its sample up to the scores."""
    encoded = encode_prompts(tokenizer, prompts, chat_template_kwargs)
    beginnings, ends = [], special_ids(tokenizer)[0]
    for prompt, sample, line in zip(encoded, samples, lines, strict=True):
        ids = list(sample.ids or tokenizer(sample.text, add_special_tokens=False)["input_ids"])
        while ids and ids[-1] in ends:
            ids.pop()
        whole = line.before(sample.text)
        while len(whole) < len(sample.text) and len(decode_completions(tokenizer, [ids])[0]) > len(whole):
            ids.pop()
        tag = closing_tag((end_of_prompt(tokenizer, prompt) if sample.prefilled else "") + sample.text)
        opening = (f"\n{tag}" if tag else "") + line.opening
        beginnings.append((prompt, [*ids, *tokenizer(opening, add_special_tokens=False)["input_ids"]]))
    return beginnings


def with_scores(tokenizer: PreTrainedTokenizerBase, sample: Sample, ids: Sequence[int]) -> Sample:
    """A closed sample, whose tokens are those of the sample, its score line and an end token."""
    (text,) = decode_completions(tokenizer, [ids])
    return replace(sample, text=text, num_tokens=len(ids), truncated=False, ids=tuple(ids), closed=True)


class ScoresOnly(LogitsProcessor):
    """Leaves the tokens with which each row's [`ScoreLine`] can go on, and the end token behind it.

    `rows` are the numbers of the rows that are decoded, and `start` is where their completions begin.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, lines: Sequence[ScoreLine], ends: Sequence[int]):
        self.tokenizer, self.lines, self.ends = tokenizer, lines, list(ends)
        self.rows: Sequence[int] = range(len(lines))
        self.start = 0
        characters = frozenset("".join(text for line in lines for text in (*line.texts[1:], *line.scores)))
        self.pieces = _pieces(tokenizer, characters)
        self._allowed: dict[tuple[ScoreLine, str], list[int]] = {}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        masked = torch.full_like(scores, -torch.inf)
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], clean_up_tokenization_spaces=False)
        for place, (row, text) in enumerate(zip(self.rows, texts, strict=True)):
            state = (self.lines[row], text)
            if state not in self._allowed:
                self._allowed[state] = self._tokens_behind(*state)
            allowed = self._allowed[state]
            masked[place, allowed] = scores[place, allowed]
        return masked

    def _tokens_behind(self, line: ScoreLine, text: str) -> list[int]:
        if line.is_complete(text):
            return self.ends
        return [token for token, piece in self.pieces if line.allows(text + piece)] or self.ends


@lru_cache(maxsize=8)
def _pieces(tokenizer: PreTrainedTokenizerBase, characters: frozenset[str]) -> list[tuple[int, str]]:
    """The tokens that are made of these characters alone, with their texts inside of a text."""
    (anchor,) = tokenizer("1", add_special_tokens=False)["input_ids"][-1:]
    numbers = [number for number in range(len(tokenizer)) if number not in tokenizer.all_special_ids]
    options: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    before = len(tokenizer.decode([anchor], **options))
    texts = tokenizer.batch_decode([[anchor, number] for number in numbers], **options)
    pieces = ((number, text[before:]) for number, text in zip(numbers, texts, strict=True))
    return [(number, piece) for number, piece in pieces if piece and characters.issuperset(piece)]
