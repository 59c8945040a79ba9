# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judging of rows: options, prompts of a row, rounds of critiques, and the count of the votes."""

import inspect
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from numbers import Integral
from typing import Any

from transformers import PreTrainedTokenizerBase

from .closing import with_closed
from .critiques import Critique
from .meta_scoring import Conversation
from .orders import ORDERS, SAMPLES_PER_ROW, align_blocks, derive_seed, draw_orders, row_seed, split_blocks
from .outcomes import highest
from .preferences import InvalidPreference, Preference
from .prompts import OFFICIAL, judge_messages, judge_template, meta_messages
from .sampling import EngineError, PromptTooLongError, Sample, check_sampling, read_sample
from .stopping import decided, next_round, stopping_error
from .truncation import Cuts, fit_preference, prompt_length
from .voting import Guidance, Scores, mean_scores, weighted_vote

NEXT_STEPS = {
    "missing": r"no closed `\boxed{…}`: check that `template` is the one the judge was trained with, or set "
    "`close_critiques`, which decodes the scores behind the text",
    "count": "not one score per response: check `template`, or lower `max_responses_per_prompt`",
    "range": "a score outside of the template's range: check `template` and `binary`",
    "value": "a score that is not a whole number: check `template`",
    "truncated": "the token limit was reached: raise `max_new_tokens`, bound a draft by "
    "`max_thinking_tokens`, or set `close_critiques`",
}
"""What each problem of a critique means and what to do."""


@dataclass(frozen=True)
class JudgingOptions:
    """Options of judging that a pipeline or a call sets; see [`GRMRewardPipeline`] for each of them."""

    k: int = 1
    temperature: float | None = None
    top_p: float = 1.0
    max_new_tokens: int | None = None
    max_thinking_tokens: int | None = None
    seed: int | None = None
    order: str = ORDERS[0]
    early_stopping: str | float | bool | None = None
    guide: str | None = None
    k_meta: int | float | None = None
    template: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    binary: bool = False
    max_responses_per_prompt: int | str | None = None
    truncation: str | bool | None = None
    close_critiques: bool = False

    def __post_init__(self) -> None:
        check_whole("k", self.k, 1, "a whole number of critiques, at least 1")
        for name, least in (("max_new_tokens", 1), ("max_thinking_tokens", 1), ("seed", None)):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least)
        check_sampling(self.temperature, self.top_p, self.max_new_tokens)
        draw_orders(1, 1, self.order, random.Random(0))
        Guidance(self.k_meta, self.guide or "top")
        if self.template not in (None, OFFICIAL):  # whose card depends on the model
            judge_template(self.template)
        if self.chat_template_kwargs is not None:
            _check_variables(self.chat_template_kwargs)
        stopping_error(self.early_stopping)
        if self.max_responses_per_prompt not in (None, "auto"):
            most = self.max_responses_per_prompt
            check_whole("max_responses_per_prompt", most, 2, "'auto', or at least 2 responses")
        if self.truncation not in (None, False, "fair"):
            raise ValueError(f"Found truncation={self.truncation!r}; expected 'fair' or False.")


def check_whole(name: str, value: Any, least: int | None, expected: str = "") -> None:
    """Refuses what is not a whole number, or less than `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or (least is not None and int(value) < least):
        expected = expected or ("a whole number" if least is None else f"a whole number of at least {least}")
        raise ValueError(f"Found {name}={value!r}; expected {expected}.")


def _check_variables(chat_template_kwargs: Mapping[str, Any]) -> None:
    taken = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    try:
        fine = not taken & json.loads(json.dumps(chat_template_kwargs)).keys()
    except (TypeError, AttributeError):
        fine = False
    if not fine:
        raise ValueError(
            f"Found chat_template_kwargs={chat_template_kwargs!r}; expected variables of the chat template that JSON "
            "can hold, and no argument of `apply_chat_template`."
        )


@dataclass
class Block:
    """What one prompt holds of a row, all of its responses or some, with the critiques drawn so far.

    `members` are numbers in the row; orders and critiques are in numbers of the block. The judge reads `preference`.
    """

    members: tuple[int, ...]
    preference: Preference
    binary: bool
    orders: list[tuple[int, ...]]
    cuts: Cuts | None = None
    critiques: list[Critique] = field(default_factory=list)

    @property
    def scores(self) -> list[Scores]:
        return [critique.scores for critique in self.critiques]

    @property
    def meta_scores(self) -> list[float | None]:
        return [critique.meta_score for critique in self.critiques]


@dataclass
class JudgedRow:
    """A row while it is judged: its place in the call, the number of equal rows before it, its [`row_seed`], and its
    blocks, usually one."""

    number: int
    occurrence: int
    seed: int
    preference: Preference
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """The next `count` critiques of a block in this order, of which `past` were drawn before."""

    row: JudgedRow
    block: Block
    order: tuple[int, ...]
    count: int
    past: int


@dataclass(frozen=True)
class Judging:
    """How a call judges: its options with all defaults resolved, and the models behind them.

    `sample(prompts, counts, seed, firsts)` returns samples of each prompt, `meta_score(conversations)` the Meta RM's
    logits. `guidance` is `None` if all readable critiques vote alike, `context` if unknown.
    """

    options: JudgingOptions
    template: str
    seed: int
    temperature: float
    max_new_tokens: int
    guidance: Guidance | None
    tokenizer: Any  # None for some engines
    special_tokens: tuple[str, ...]
    context: int | None
    chat_template_kwargs: Mapping[str, Any]
    sample: Callable[..., list[list[Sample]]]
    meta_score: Callable[[Sequence[Conversation]], list[float]] | None = None
    meta_special_tokens: tuple[str, ...] = ()
    close: Callable[..., list[Sample]] | None = None

    def __post_init__(self) -> None:
        options = self.options
        if (options.max_responses_per_prompt == "auto" or options.truncation) and self.tokenizer is None:
            raise ValueError(
                "Found max_responses_per_prompt='auto' or a truncation over an engine without a tokenizer; expected "
                "one to count tokens with: `GRMRewardPipeline(engine, tokenizer=…)`."
            )
        if (error := stopping_error(options.early_stopping)) is not None:
            decided((), 0, error=error, guidance=self.guidance)  # refuses combinations that cannot be decided

    def read(self, number: int, row: Preference | Mapping[str, Any]) -> Preference:
        """The preference of a row, without its labels."""
        try:
            return replace(row if isinstance(row, Preference) else Preference.from_row(row), labels=None)
        except InvalidPreference as error:
            raise InvalidPreference(f"Row {number}: {error}", error.cause) from None

    def prepare(self, number: int, preference: Preference, occurrence: int = 0) -> JudgedRow:
        """Draws a row's blocks and orders, and checks that its prompts can be rendered and fit."""
        row = JudgedRow(number, occurrence, row_seed(self.seed, preference, occurrence), preference)
        try:
            row.blocks += [self._block(row, place, *part) for place, part in enumerate(self._split(row))]
        except PromptTooLongError:
            raise
        except ValueError as error:
            raise ValueError(f"Row {number}: {error}") from error
        return row

    def _split(self, row: JudgedRow) -> list[tuple[tuple[int, ...], Preference]]:
        """What is judged in one prompt each: the whole row, or its blocks."""
        most, responses = self.options.max_responses_per_prompt, row.preference.responses

        def blocks_of(most: int) -> list[tuple[tuple[int, ...], Preference]]:
            blocks = split_blocks(len(responses), most, random.Random(derive_seed(row.seed, "blocks")))
            return [(block, replace(row.preference, responses=tuple(responses[i] for i in block))) for block in blocks]

        blocks = blocks_of(len(responses) if most in (None, "auto") else int(most))
        while most == "auto" and len(blocks[0][0]) > 2 and not all(self._fits(block) for _, block in blocks):
            blocks = blocks_of(len(blocks[0][0]) - 1)  # the first block is of the largest
        return blocks

    def _block(self, row: JudgedRow, place: int, members: tuple[int, ...], preference: Preference) -> Block:
        cuts = None
        if self.options.truncation and self.context is not None:
            room = self.context - self.max_new_tokens
            preference, cuts = fit_preference(preference, self.tokenizer, room, self._length)
        if not self._fits(preference):
            assert self.context is not None
            raise self._too_long(row.number, self._length(preference), self.max_new_tokens, self.context)
        draw = random.Random(derive_seed(row.seed, "order", *([place] if place else [])))
        orders = draw_orders(len(members), self.options.k, self.options.order, draw)
        return Block(members, preference, self._binary(preference), orders, cuts)

    def _binary(self, preference: Preference) -> bool:
        return self.options.binary and len(preference) == 1

    def _fits(self, preference: Preference) -> bool:
        """Whether the prompt leaves room for a critique; always rendered, since a chat template may refuse it."""
        length = 0 if self.tokenizer is None else self._length(preference)
        return self.tokenizer is None or self.context is None or length + self.max_new_tokens <= self.context

    def _length(self, preference: Preference) -> int:
        binary = self._binary(preference)
        try:
            return prompt_length(preference, self.tokenizer, self.template, binary, self.chat_template_kwargs)
        except Exception as error:
            message = f"the judge's tokenizer cannot render the prompt ({type(error).__name__}: {error})."
            if judge_template(self.template, binary).system is not None:
                message += (
                    f" The template {self.template!r} begins with a system turn: use a template without one, or a "
                    "judge whose chat template accepts system turns."
                )
            raise ValueError(message) from error

    def _too_long(self, number: int, length: int, max_new_tokens: int, limit: int) -> PromptTooLongError:
        cut, further = "", "cut the texts with `truncation='fair'`"
        if self.options.truncation:
            cut, further = "The texts are cut already (`truncation='fair'`). ", "set `max_responses_per_prompt`"
        advice = f"{cut}Shorten or drop the row, lower `max_new_tokens`, use a shorter `template`, or {further}."
        return PromptTooLongError(f"Row {number}", length, max_new_tokens, limit, number, advice)

    def judge(self, rows: Sequence[JudgedRow]) -> None:
        """Draws the critiques of a batch of rows, in rounds where rows may stop early."""
        while requests := [request for row in rows for block in row.blocks for request in self._requests(row, block)]:
            self._draw(requests)

    def finished(self, row: JudgedRow) -> bool:
        """Whether no more critiques of a row are needed."""
        return not any(self._requests(row, block) for block in row.blocks)

    def _requests(self, row: JudgedRow, block: Block) -> list[Request]:
        """The next critiques of a block by order, see [`next_round`]. Rows in blocks never stop early."""
        error = stopping_error(self.options.early_stopping) if len(row.blocks) == 1 else None
        score_range = judge_template(self.template, block.binary).score_range
        metas = None if self.guidance is None else block.meta_scores
        drawn, n = len(block.critiques), len(block.preference)
        count = next_round(block.scores, self.options.k, n, score_range, error, metas, self.guidance)
        past, new = block.orders[:drawn], block.orders[drawn : drawn + count]
        return [Request(row, block, order, new.count(order), past.count(order)) for order in dict.fromkeys(new)]

    def _draw(self, requests: Sequence[Request]) -> None:
        """Samples, reads and scores one round. If the sampler fails, what it completed is kept."""
        prompts = []
        for block, order in ((request.block, request.order) for request in requests):
            read = block.preference.permuted(order)
            prompts.append(judge_messages(read, self.template, block.binary, special_tokens=self.special_tokens))
        counts = [request.count for request in requests]
        firsts = [request.row.occurrence * SAMPLES_PER_ROW + request.past for request in requests]
        failure = None
        try:
            samples = self.sample(prompts, counts, self.seed, firsts)
        except PromptTooLongError as error:
            raise self._too_long(requests[error.row].row.number, *error.lengths) from None
        except EngineError as error:
            failure = error
            samples = [error.completed.get(number, []) for number in range(len(requests))]
        if failure is None and (drawn := [*map(len, samples)]) != counts:
            raise ValueError(f"Found a sampler that returned {drawn} samples of the prompts; expected {counts}.")
        if self.close is not None:
            blocks = [request.block for request in requests]
            asked = [(judge_template(self.template, block.binary), len(block.preference)) for block in blocks]
            dead = failure is not None and not failure.refusals  # what needs a line of scores is drawn again
            close: Any = self.close if not dead else lambda _, unscored, lines: [None] * len(unscored)
            samples = [[] if None in drawn else drawn for drawn in with_closed(close, prompts, samples, asked)]
        self._read(requests, samples)
        if failure is not None:
            raise failure.renumbered([request.row.number for request in requests], {}) from failure.__cause__

    def _read(self, requests: Sequence[Request], samples: Sequence[list[Sample]]) -> None:
        """Adds the critiques of a round to their blocks, in the order drawn; none to a block with a sample missing."""
        new: list[tuple[Request, Critique]] = []
        for _, of_block in groupby(zip(requests, samples, strict=True), key=lambda pair: id(pair[0].block)):
            pairs = list(of_block)
            if any(len(drawn) != request.count for request, drawn in pairs):
                continue
            block, first = pairs[0][0].block, len(pairs[0][0].block.critiques)
            left = {request.order: iter(drawn) for request, drawn in pairs}
            template = judge_template(self.template, block.binary)
            for order in block.orders[first : first + sum(request.count for request, _ in pairs)]:
                sample = next(left[order])
                critique = read_sample(sample, len(order), template).in_row_order(order)
                new.append((pairs[0][0], replace(critique, num_tokens=sample.num_tokens)))
        for request, critique in self._scored(new):
            request.block.critiques.append(critique)

    def _scored(self, new: Sequence[tuple[Request, Critique]]) -> Sequence[tuple[Request, Critique]]:
        """Readable critiques with the Meta RM's scores, if it guides."""
        if self.guidance is None or self.meta_score is None:
            return new
        readable = [(request, critique) for request, critique in new if critique.scores is not None]
        conversations = []
        for request, critique in readable:
            read = request.block.preference.permuted(critique.order or ())
            conversations.append(meta_messages(read, critique.text, self.meta_special_tokens))
        try:
            scores = iter(self.meta_score(conversations))
        except EngineError as error:
            raise error.renumbered([request.row.number for request, _ in readable], {}) from error.__cause__
        return [
            (request, critique if critique.scores is None else replace(critique, meta_score=next(scores)))
            for request, critique in new
        ]

    def result(self, row: JudgedRow) -> dict[str, Any]:
        """The judgment of a row, as the pipeline returns it."""
        k, blocks, single = self.options.k, row.blocks, len(row.blocks) == 1
        weighted = [(block, self._weights(block)) for block in blocks]
        block_means = [mean_scores(block.scores, votes) for block, votes in weighted]
        if single:
            scores, means = weighted_vote(blocks[0].scores, weighted[0][1]), block_means[0]
        else:
            means = align_blocks([block.members for block in blocks], block_means)
            scores = None if means is None else tuple(round(k * mean, 9) for mean in means)
        tied = [] if scores is None else list(highest(scores))
        critiques = [entry for block, votes in weighted for entry in _critiques(block, votes, len(row.preference))]
        return {
            "scores": None if scores is None else list(scores),
            "means": None if means is None else list(means),
            "best": random.Random(derive_seed(row.seed, "tie")).choice(tied) if tied else None,
            "tied": tied,
            "k": k,
            "drawn": len(critiques),
            "votes": sum(critique["counted"] for critique in critiques),
            "weight": sum(weighted[0][1]) if single else k,
            "closed": sum(critique["closed"] for critique in critiques),
            "problems": dict(Counter(critique["problem"] for critique in critiques if critique["problem"])),
            "critiques": critiques,
            "truncated": _truncated(row),
            "blocks": None
            if single
            else {
                "responses": [list(block.members) for block in blocks],
                "anchor": blocks[0].members[0],
                "anchor_scores": [None if mean is None else mean[0] for mean in block_means],
            },
        }

    def _weights(self, block: Block) -> tuple[float, ...]:
        rows = block.scores
        if self.guidance is None:
            return tuple(int(row is not None) for row in rows)
        # The share that votes is one of all k critiques, those that were not needed included.
        missing = [None] * (self.options.k - len(rows))
        return self.guidance.weights([*rows, *missing], [*block.meta_scores, *missing])[: len(rows)]

    def explain(self, row: JudgedRow, judgment: Mapping[str, Any]) -> str:
        """Why a row without scores has none, and what to do."""
        problems: Mapping[str, int] = judgment["problems"]
        causes = "; ".join(f"{count} {cause} ({NEXT_STEPS[cause]})" for cause, count in problems.items())
        return (
            f"Row {row.number} has no scores: {sum(problems.values())} of its {judgment['drawn']} critiques could not "
            f"be read: {causes}. Here `template` is {self.template!r}, `max_new_tokens` {self.max_new_tokens}. "
            "A judge that cannot write critiques yet learns it by rejective fine-tuning (`RejectiveSampler`)."
        )

    def with_completed(self, error: Exception, judged: dict[int, dict[str, Any]]) -> Exception:
        """The error with its attribute `completed`, and with how to judge the remaining rows."""
        advice = (
            f"{len(judged)} judgments that were not returned are in `completed`, by the number of their row. To go "
            f"on, judge the remaining rows with seed={self.seed}, and with `occurrences` if some rows are equal."
        )
        if isinstance(error, EngineError):
            return type(error)(error.reason, error.row, error.status, judged, error.refusals, advice, "Row")
        error.completed = judged  # type: ignore[attr-defined]
        error.add_note(advice)
        return error


def _critiques(block: Block, weights: Sequence[float], n: int) -> list[dict[str, Any]]:
    """The critiques of a block in numbers of the row, with the score `None` for responses outside of the block."""
    entries = []
    for critique, weight in zip(block.critiques, weights, strict=True):
        entry = replace(critique, counted=weight > 0).to_dict()
        if len(block.members) < n:
            entry["order"] = [block.members[place] for place in entry["order"]]
            if critique.scores is not None:
                scored = dict(zip(block.members, critique.scores, strict=True))
                entry["scores"] = [scored.get(response) for response in range(n)]
        entries.append(entry)
    return entries


def _truncated(row: JudgedRow) -> dict[str, Any] | None:
    """Tokens cut from the row, for a text in several blocks the most, and responses that the cuts made equal."""
    cut_blocks = [(block, block.cuts) for block in row.blocks if block.cuts]
    if not cut_blocks:
        return None
    originals = row.preference.responses
    responses, made_equal = [0] * len(originals), []
    for block, cuts in cut_blocks:
        same_text: dict[str, list[int]] = {}
        for member, count, text in zip(block.members, cuts.responses, block.preference.responses, strict=True):
            responses[member] = max(responses[member], count)
            same_text.setdefault(text, []).append(member)
        made_equal += [group for group in same_text.values() if len({originals[member] for member in group}) > 1]
    return {
        "query": max(cuts.query for _, cuts in cut_blocks),
        "responses": responses,
        "reference": max(cuts.reference for _, cuts in cut_blocks),
        "made_equal": made_equal,
    }
