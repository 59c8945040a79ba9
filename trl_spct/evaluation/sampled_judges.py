# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Other judges that write: LLM-as-a-Judge (majority, TokenProb) and semi-scalar reward models."""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress, repeat
from typing import Any

import torch
from transformers import PreTrainedModel, pipeline

from ..judge.costs import spend
from ..judge.critiques import Critique, boxed_span
from ..judge.fence import Fence
from ..judge.generation import evaluating
from ..judge.meta_scoring import meta_scores
from ..judge.orders import ORDERS, SAMPLES_PER_ROW, count_occurrences, draw_orders, row_seed
from ..judge.pipelines import TASK, GRMRewardPipeline, register
from ..judge.preferences import Messages, Preference
from ..judge.prompts import choice_messages, judge_messages, judge_template
from ..judge.sampling import (
    TRUNCATED,
    EngineError,
    PromptTooLongError,
    Sample,
    check_lengths,
    decode_completions,
    derive_seed,
    encode_prompts,
    read_sample,
)
from ..judge.shared_prompts import left_padded
from ..judge.templates import CHOICE, JudgeTemplate
from ..judge.voting import VOTING_TEMPERATURE
from .baselines import load_classifier, some_of
from .judgments import Judge, Judgment, described_model

Drawn = Sequence[tuple[Messages, list[Sample]]]
"""The prompts of a row with their samples."""


class SampledJudge(Judge):
    """A judge that samples with a pipeline: `requests` makes the prompts of a row with the number of samples of each,
    and `read` its k critiques. Options are those of [`~trl_spct.evaluation.judgments.PipelineJudge`]."""

    def __init__(
        self,
        pipe: GRMRewardPipeline,
        k: int,
        seed: int = 0,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ):
        self.pipe, self.k, self.seed = pipe, k, seed
        self.batch_size = batch_size or max(1, 256 // k)
        self.options: dict[str, Any] = {
            "temperature": (VOTING_TEMPERATURE if k > 1 else 0.0) if temperature is None else temperature,
            "top_p": 1.0,
            "max_new_tokens": pipe.default_length if max_new_tokens is None else max_new_tokens,
        }
        asked = {
            "chat_template_kwargs": pipe.chat_template_kwargs or None,
            "extra_body": getattr(pipe.engine, "extra_body", None),
        }
        self.settings = {"k": k, "seed": seed, **settings, **described_model(pipe.model), **self.options, **asked}

    def requests(self, row: Preference, occurrence: int = 0) -> list[tuple[Messages, int]]:
        raise NotImplementedError

    def read(self, row: Preference, occurrence: int, drawn: Drawn) -> Iterable[Critique]:
        raise NotImplementedError

    def check(self, row: Preference) -> None:
        if self.pipe.tokenizer is not None:
            variables = self.options.get("chat_template_kwargs", self.pipe.chat_template_kwargs)
            ids = encode_prompts(self.pipe.tokenizer, [prompt for prompt, _ in self.requests(row)], variables)
            check_lengths([max(map(len, ids))], self.options["max_new_tokens"], self.pipe.context)

    def __call__(self, rows: Sequence[Preference], occurrences: Sequence[int] | None = None) -> list[Judgment]:
        occurrences = count_occurrences(rows) if occurrences is None else occurrences
        judged, failure = dict[int, Judgment](), None
        for first in range(0, len(rows), self.batch_size):
            numbers = range(first, min(first + self.batch_size, len(rows)))
            asked = [(n, *request) for n in numbers for request in self.requests(rows[n], occurrences[n])]
            owners, prompts, counts = map(list, zip(*asked, strict=True))
            firsts = [occurrences[n] * SAMPLES_PER_ROW for n in owners]
            try:
                samples = dict(enumerate(self.pipe.sample(prompts, counts, self.seed, firsts, **self.options)))
            except PromptTooLongError as error:
                number = owners[error.row]
                raise PromptTooLongError(f"Row {number}", *error.lengths, number, completed=judged) from None
            except EngineError as error:
                samples, failure = error.completed, error
            drawn: dict[int, list] = {n: [] for n in numbers}
            for i, n in enumerate(owners):
                drawn[n].append((prompts[i], samples.get(i)))
            for n, of_row in drawn.items():
                if all(found is not None for _, found in of_row):
                    judged[n] = Judgment((), tuple(self.read(rows[n], occurrences[n], of_row)))
            if failure is not None:
                raise failure.renumbered(owners, judged) from failure.__cause__
        return list(judged.values())


class ChoiceJudge(SampledJudge):
    """LLM-as-a-Judge with majority vote: a critique scores 1 for the response that it selects as the best, and 0 for
    the others (paper, section 2.5).

    With `token_prob` a vote weighs the probability of the number's tokens (the paper's TokenProb, section 6), by the
    model's distribution at T = 1 **[?]**; of a server with its tokenizer and `extra_body={"logprobs": 1}`. The box of
    the `template` holds the number of the best response."""

    def __init__(
        self, *args, order: str = ORDERS[0], token_prob: bool = False, template: JudgeTemplate = CHOICE, **options
    ):
        options |= {"judge": "choice", "order": order, "template_digest": template.digest}
        if token_prob:
            options["token_prob"] = True
        super().__init__(*args, **options)
        self.order, self.token_prob, self.template = order, token_prob, template

    def requests(self, row: Preference, occurrence: int = 0) -> list[tuple[Messages, int]]:
        drawn, special = self._orders(row, occurrence), self.pipe.special_tokens
        orders = dict.fromkeys(drawn)
        return [(choice_messages(row.permuted(order), special, self.template), drawn.count(order)) for order in orders]

    def _orders(self, row: Preference, occurrence: int) -> list[tuple[int, ...]]:
        draw = random.Random(derive_seed(row_seed(self.seed, row, occurrence), "order"))
        return draw_orders(len(row), self.k, self.order, draw)

    def read(self, row: Preference, occurrence: int, drawn: Drawn) -> Iterable[Critique]:
        orders = self._orders(row, occurrence)
        of_orders = zip(dict.fromkeys(orders), drawn, strict=True)
        choices = {order: self._choices(prompt, samples, order) for order, (prompt, samples) in of_orders}
        return [next(choices[order]) for order in orders]

    def _choices(self, prompt: Messages, samples: list[Sample], order: tuple[int, ...]) -> Iterator[Critique]:
        template = replace(self.template, score_range=(1, len(order)))
        critiques = [read_sample(sample, 1, template) for sample in samples]
        weights: Iterator[float] = repeat(1.0)
        if self.token_prob:
            readable = compress(samples, [critique.scores is not None for critique in critiques])
            weights = iter(answer_probabilities(self.pipe, prompt, list(readable)))
        for critique, sample in zip(critiques, samples, strict=True):
            scores: Any = None
            if critique.scores is not None:
                best, weight = order[critique.scores[0] - 1], next(weights)
                scores = tuple(weight * (place == best) for place in range(len(order)))
            yield replace(critique, scores=scores, order=order, num_tokens=sample.num_tokens)


def answer_probabilities(pipe: GRMRewardPipeline, prompt: Messages, samples: Sequence[Sample]) -> list[float]:
    """The probability of the tokens with the number in the last box of each sample of a prompt."""
    if pipe.engine is not None and any(sample.logprobs is None for sample in samples):
        expected = 'an `OpenAIEngine` of vLLM with a `tokenizer` and `extra_body={"logprobs": 1}`, or no `token_prob`'
        raise ValueError(f"Found an engine that returns no probabilities of tokens; expected {expected}.")
    answers: list[Any] = [(sample, _number_tokens(pipe.tokenizer, sample)) for sample in samples]
    if pipe.engine is not None:
        return [math.exp(sum(sample.logprobs[t] for t in span)) for sample, span in answers]
    (beginning,) = encode_prompts(pipe.tokenizer, [prompt], pipe.chat_template_kwargs)
    found = []
    with torch.no_grad(), evaluating(pipe.model):
        for batch in (answers[start : start + 8] for start in range(0, len(answers), 8)):
            rows = [[*beginning, *sample.ids[: span.stop - 1]] for sample, span in batch]
            ids, mask = left_padded(rows, pipe.tokenizer.pad_token_id, pipe.model.device)
            spend(read=int(mask.sum()))
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
            longest = max(len(span) for _, span in batch)
            logits = pipe.model(**inputs, logits_to_keep=longest, use_cache=False).logits[:, -longest:]
            for (sample, span), logps in zip(batch, logits.float().log_softmax(dim=-1), strict=True):
                found.append(math.exp(sum(logps[t - span.stop, sample.ids[t]].item() for t in span)))
    return found


def _number_tokens(tokenizer: Any, sample: Sample) -> range:
    (begin, stop), ids = boxed_span(sample.text), sample.ids or ()

    def end(place: int) -> int:
        return len(decode_completions(tokenizer, [ids[: place + 1]])[0])

    first = bisect_right(range(len(ids)), begin, key=end)
    return range(first, bisect_left(range(len(ids)), stop, key=end) + 1)


class SemiScalarJudge(SampledJudge):
    """A semi-scalar reward model: a critic writes about each response, and a head reads both as one scalar; k votes
    are the mean (paper, section 6). Critiques of a row in which one reaches the token limit are `"truncated"`.

    The critic reads single responses in the pipeline's template (`binary` as there, by default as in the head's
    `config.semi_scalar`), and the `head`, a classifier with one label, this prompt and the critique. A subclass may
    override `prompt` and `conversation`."""

    def __init__(self, pipe: GRMRewardPipeline, head: PreTrainedModel, *args, binary: bool | None = None, **options):
        if binary is None:
            binary = bool((getattr(head.config, "semi_scalar", None) or {}).get("binary"))
        self.head, self.binary, self.template = head, binary, pipe.find_template()
        options |= {"judge": "semi-scalar", "head_weights": described_model(head)["model_weights"]}
        digest = judge_template(self.template, binary).digest
        super().__init__(pipe, *args, **options, binary=binary, template_digest=digest)

    @classmethod
    def from_pretrained(
        cls, critic: str, head: str, device: Any = None, dtype: Any = "auto", **options: Any
    ) -> "SemiScalarJudge":
        """Loads a critic and its head; without a trained head it raises."""
        classifier = load_classifier(head, dtype=dtype)
        register()
        pipe: Any = pipeline(TASK, model=critic, meta_rm=None, device=device, dtype=dtype)
        return cls(pipe, classifier.to(pipe.device), **options)

    def prompt(self, row: Preference) -> list[dict[str, str]]:
        """What the critic reads of a row with one response."""
        return judge_messages(row, self.template, self.binary, special_tokens=self.pipe.special_tokens)

    def conversation(self, prompt: Messages, critique: str) -> list[Any]:
        """What the head reads."""
        return [*prompt, {"role": "assistant", "content": Fence(self.pipe.special_tokens)(critique)}]

    def requests(self, row: Preference, occurrence: int = 0) -> list[tuple[Messages, int]]:
        return [(self.prompt(some_of(row, (place,))), self.k) for place in range(len(row))]

    def read(self, row: Preference, occurrence: int, drawn: Drawn) -> Iterable[Critique]:
        talks = [self.conversation(prompt, sample.text) for prompt, samples in drawn for sample in samples]
        logits = meta_scores(self.head, self.pipe.tokenizer, talks)
        for j, samples in enumerate(zip(*[samples for _, samples in drawn], strict=True)):
            text, tokens = "\n\n".join(s.text for s in samples), sum(s.num_tokens for s in samples)
            problem = TRUNCATED if any(sample.truncated for sample in samples) else None
            scores: Any = None if problem else tuple(logits[j :: self.k])
            yield Critique(text, scores, problem, tuple(range(len(row))), num_tokens=tokens)
