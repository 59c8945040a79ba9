# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judges without text: content-blind ones, scalar and pairwise reward models. They do not vary: k is 1."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, permutations
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..judge.critiques import Critique
from ..judge.meta_scoring import meta_scores
from ..judge.modeling_meta_rm import require_head
from ..judge.orders import count_occurrences, derive_seed, row_seed
from ..judge.preferences import Preference
from ..judge.prompts import meta_messages
from ..judge.repositories import read_json
from ..judge.sampling import PromptTooLongError, check_lengths, check_tokenizer, context_length, special_tokens
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

    kind = "scalar"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8):
        check_tokenizer(tokenizer)
        if model.config.num_labels != 1:
            count = model.config.num_labels
            raise ValueError(f"Found a classifier with {count} labels; expected a reward model with one.")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.context = context_length(model.config)
        self.settings = {"judge": self.kind, **described_model(model)}

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, device: Any = None, **kwargs: Any) -> "ScalarJudge":
        """Loads a trained model and its tokenizer; without a trained head it raises."""
        model = load_classifier(name, **kwargs)
        return cls(model if device is None else model.to(device), AutoTokenizer.from_pretrained(name))

    def check(self, row: Preference, number: int = 0) -> None:
        encoded = self.tokenizer.apply_chat_template(self._conversations(row), tokenize=True, return_dict=False)
        try:
            check_lengths(list(map(len, encoded)), 0, self.context)
        except PromptTooLongError as error:
            raise PromptTooLongError(f"Row {number}", *error.lengths, number) from None

    def __call__(self, rows: Sequence[Preference], occurrences: Sequence[int] | None = None) -> list[Judgment]:
        for number, row in enumerate(rows):
            self.check(row, number)
        conversations = [self._conversations(row) for row in rows]
        logits = iter(meta_scores(self.model, self.tokenizer, [*chain.from_iterable(conversations)], self.batch_size))
        read = [[next(logits) for _ in of_row] for of_row in conversations]
        return [Judgment((), (_critique(self._scores(len(row), of)),)) for row, of in zip(rows, read, strict=True)]

    def _conversations(self, row: Preference) -> list[list[Mapping[str, str]]]:
        query = [{"role": "user", "content": row.query}] if isinstance(row.query, str) else row.query
        return [[*query, {"role": "assistant", "content": response}] for response in row.responses]

    def _scores(self, num_responses: int, logits: Sequence[float]) -> Sequence[float]:
        return logits


class PairwiseJudge(ScalarJudge):
    """A pairwise reward model, whose logit says that the first of two responses is better. A pair is read in both
    orders, whose logits are averaged; the score of a response is the number of others that it beats. Single responses
    are refused.

    The model is a classifier with one label that reads [`PairwiseJudge.messages`], which a subclass may override."""

    kind = "pairwise"

    def check(self, row: Preference, number: int = 0) -> None:
        if len(row) == 1:
            raise ValueError("Found a single response; expected at least two, since a pairwise model compares.")
        super().check(row, number)

    def _conversations(self, row: Preference) -> list[list[Mapping[str, str]]]:
        return [self.messages(some_of(row, pair)) for pair in _pairs(len(row))]

    def messages(self, pair: Preference) -> list[Any]:
        """The conversation that the model reads: the user turn of [`~trl_spct.judge.prompts.meta_messages`]."""
        return meta_messages(pair, "", special_tokens(self.tokenizer))[:1]

    def _scores(self, num_responses: int, logits: Sequence[float]) -> Sequence[float]:
        logit, wins = dict(zip(_pairs(num_responses), logits, strict=True)), [0.0] * num_responses
        for i, j in logit:
            wins[i] += 0.5 * (1 + (logit[i, j] > logit[j, i]) - (logit[i, j] < logit[j, i]))
        return wins


def load_classifier(name: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """Loads a classifier with one label, or an adapter of one; another layout has no trained head and raises."""
    config = read_json(name, "config.json")
    if config is not None and "model_type" not in config:  # a layout that transformers does not know
        require_head({"missing_keys": ["score.weight"]}, name)
    load = AutoModelForSequenceClassification.from_pretrained
    model, info = load(name, output_loading_info=True, **kwargs)
    require_head(info, name)
    adapters = getattr(model, "peft_config", {})
    if adapters and not any(hasattr(module, "modules_to_save") for module in model.modules()):
        base = next(iter(adapters.values())).base_model_name_or_path  # without a head in the adapter
        require_head(load(base, config=model.config, output_loading_info=True)[1], base)
    return model.eval()


def some_of(row: Preference, places: Sequence[int]) -> Preference:
    """A row with some of its responses, without labels."""
    return replace(row, responses=tuple(row.responses[place] for place in places), labels=None)


def _pairs(num_responses: int) -> list[tuple[int, ...]]:
    return [*permutations(range(num_responses), 2)]


def _critique(scores: Sequence[float]) -> Critique:
    order = tuple(range(len(scores)))
    return Critique("", tuple(scores), order=order, num_tokens=0)  # type: ignore[arg-type]  # a judge's are whole
