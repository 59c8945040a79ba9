# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Baselines under the same protocol: content-blind judges, scalar reward models, LLM-as-a-Judge."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..judge.critiques import Critique
from ..judge.meta_scoring import meta_scores
from ..judge.modeling_meta_rm import require_head
from ..judge.orders import ORDERS, SAMPLES_PER_ROW, count_occurrences, draw_orders, row_seed
from ..judge.preferences import Preference
from ..judge.prompts import choice_messages
from ..judge.sampling import (
    EngineError,
    PromptTooLongError,
    Sample,
    check_lengths,
    check_tokenizer,
    context_length,
    derive_seed,
    encode_prompts,
    read_sample,
)
from ..judge.templates import CHOICE
from ..judge.voting import VOTING_TEMPERATURE
from .judgments import Judge, Judgment, described_model


def _random_scores(row: Preference, seed: int) -> list[float]:
    draw = random.Random(derive_seed(seed, "blind"))
    return [float(draw.randint(0, 1))] if len(row) == 1 else [draw.random() for _ in row.responses]


CONTENT_BLIND: dict[str, Callable[[Preference, int], list[float]]] = {
    "first": lambda row, seed: [float(place == 0) for place in range(len(row))],
    "random": _random_scores,
    "longest": lambda row, seed: [float(len(text)) for text in row.responses],
    "shortest": lambda row, seed: [-float(len(text)) for text in row.responses],
}
"""Scores of content-blind judges, from a row and its seed: first in the data, a coin, most or fewest characters. For a
single response `first` scores 1, and lengths give a ranking (ROC-AUC) but no 0/1 score."""


class ContentBlindJudge(Judge):
    """A judge of [`CONTENT_BLIND`]. With `binary`, single responses are judged 0 or 1; lengths then have no scores,
    with the problem `"no verdict"`."""

    def __init__(self, name: str, seed: int = 0, binary: bool = False):
        if name not in CONTENT_BLIND:
            raise ValueError(f"Found {name!r}; expected one of {sorted(CONTENT_BLIND)}.")
        self.name, self.seed, self.binary = name, seed, binary
        self.settings = {"judge": name, "binary": binary, **({"seed": seed} if name == "random" else {})}

    def __call__(self, rows: Sequence[Preference], occurrences: Sequence[int] | None = None) -> list[Judgment]:
        occurrences = count_occurrences(rows) if occurrences is None else occurrences
        return [Judgment((), (self._critique(row, number),)) for row, number in zip(rows, occurrences, strict=True)]

    def _critique(self, row: Preference, occurrence: int) -> Critique:
        if self.binary and len(row) == 1 and self.name in ("longest", "shortest"):
            return Critique("", None, "no verdict", order=(0,), num_tokens=0)
        return _critique(CONTENT_BLIND[self.name](row, row_seed(self.seed, row, occurrence)))


class ScalarJudge(Judge):
    """A scalar reward model: any `AutoModelForSequenceClassification` with one label. Each response is read alone, as
    the assistant's turn after the query, in the tokenizer's chat template."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8):
        check_tokenizer(tokenizer)
        if model.config.num_labels != 1:
            count = model.config.num_labels
            raise ValueError(f"Found a classifier with {count} labels; expected a reward model with one.")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.settings = {"judge": "scalar", **described_model(model)}

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, device: Any = None, **kwargs: Any) -> "ScalarJudge":
        """Loads a trained reward model, or an adapter of one, and its tokenizer; without a trained head it raises."""
        load = AutoModelForSequenceClassification.from_pretrained
        model, info = load(name, output_loading_info=True, **kwargs)
        require_head(info, name)
        adapters = getattr(model, "peft_config", {})
        if adapters and not any(hasattr(module, "modules_to_save") for module in model.modules()):
            base = next(iter(adapters.values())).base_model_name_or_path  # without a head in the adapter
            require_head(load(base, config=model.config, output_loading_info=True)[1], base)
        model.eval()
        return cls(model if device is None else model.to(device), AutoTokenizer.from_pretrained(name))

    def check(self, row: Preference, number: int = 0) -> None:
        encoded = self.tokenizer.apply_chat_template(self._conversations(row), tokenize=True, return_dict=False)
        try:
            check_lengths(list(map(len, encoded)), 0, context_length(self.model.config))
        except PromptTooLongError as error:
            raise PromptTooLongError(f"Row {number}", *error.lengths, number) from None

    def __call__(self, rows: Sequence[Preference], occurrences: Sequence[int] | None = None) -> list[Judgment]:
        for number, row in enumerate(rows):
            self.check(row, number)
        conversations = [conversation for row in rows for conversation in self._conversations(row)]
        scores = iter(meta_scores(self.model, self.tokenizer, conversations, self.batch_size))
        return [Judgment((), (_critique([next(scores) for _ in row.responses]),)) for row in rows]

    @staticmethod
    def _conversations(row: Preference) -> list[list[Mapping[str, str]]]:
        query = [{"role": "user", "content": row.query}] if isinstance(row.query, str) else row.query
        return [[*query, {"role": "assistant", "content": response}] for response in row.responses]


class ChoiceJudge(Judge):
    """LLM-as-a-Judge with majority vote: a critique scores 1 for the response that it selects as the best, and 0 for
    the others (paper, section 2.5). Options are those of [`PipelineJudge`]."""

    def __init__(
        self,
        pipe,
        k: int,
        seed: int = 0,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
        order: str = ORDERS[0],
        batch_size: int | None = None,
    ):
        self.pipe, self.k, self.seed, self.order = pipe, k, seed, order
        self.batch_size = batch_size or max(1, 256 // k)
        self.options: dict[str, Any] = {
            "temperature": (VOTING_TEMPERATURE if k > 1 else 0.0) if temperature is None else temperature,
            "top_p": 1.0,
            "max_new_tokens": pipe.default_length if max_new_tokens is None else max_new_tokens,
        }
        settings = {"judge": "choice", "k": k, "seed": seed, "order": order, "template_digest": CHOICE.digest}
        variables = {"chat_template_kwargs": pipe.chat_template_kwargs or None}
        self.settings = {**settings, **described_model(pipe.model), **self.options, **variables}

    def check(self, row: Preference) -> None:
        if self.pipe.tokenizer is not None:
            messages = choice_messages(row, self.pipe.special_tokens)
            (ids,) = encode_prompts(self.pipe.tokenizer, [messages], self.pipe.chat_template_kwargs)
            check_lengths([len(ids)], self.options["max_new_tokens"], self.pipe.context)

    def __call__(self, rows: Sequence[Preference], occurrences: Sequence[int] | None = None) -> list[Judgment]:
        occurrences = count_occurrences(rows) if occurrences is None else occurrences
        judged: dict[int, Judgment] = {}
        for first in range(0, len(rows), self.batch_size):
            self._judge(range(first, min(first + self.batch_size, len(rows))), rows, occurrences, judged)
        return list(judged.values())

    def _judge(
        self, numbers: range, rows: Sequence[Preference], occurrences: Sequence[int], judged: dict[int, Judgment]
    ) -> None:
        """Adds judgments to `judged`; errors hold them by row."""
        orders = {}
        for n in numbers:
            draw = random.Random(derive_seed(row_seed(self.seed, rows[n], occurrences[n]), "order"))
            orders[n] = draw_orders(len(rows[n]), self.k, self.order, draw)
        requests = [(n, order) for n, drawn in orders.items() for order in dict.fromkeys(drawn)]
        prompts = [choice_messages(rows[n].permuted(order), self.pipe.special_tokens) for n, order in requests]
        counts = [orders[n].count(order) for n, order in requests]
        firsts = [occurrences[n] * SAMPLES_PER_ROW for n, _ in requests]
        failure = None
        try:
            samples = dict(enumerate(self.pipe.sample(prompts, counts, self.seed, firsts, **self.options)))
        except PromptTooLongError as error:
            number, _ = requests[error.row]
            raise PromptTooLongError(f"Row {number}", *error.lengths, number, completed=judged) from None
        except EngineError as error:
            samples, failure = error.completed, error
        texts = {requests[i]: iter(drawn) for i, drawn in samples.items()}
        for n, drawn in orders.items():
            if all((n, order) in texts for order in drawn):
                judged[n] = Judgment((), tuple(_choice(next(texts[n, order]), order) for order in drawn))
        if failure is not None:
            raise failure.renumbered([n for n, _ in requests], judged) from failure.__cause__


def _choice(sample: Sample, order: Sequence[int]) -> Critique:
    read = read_sample(sample, 1, replace(CHOICE, score_range=(1, len(order))))
    scores = None
    if read.scores is not None:
        chosen = order[read.scores[0] - 1]
        scores = tuple(int(i == chosen) for i in range(len(order)))
    return Critique(sample.text, scores, read.problem, tuple(order), num_tokens=sample.num_tokens)


def _critique(scores: Sequence[float]) -> Critique:
    order = tuple(range(len(scores)))
    return Critique("", tuple(scores), order=order, num_tokens=0)  # type: ignore[arg-type]  # a judge's are whole
