# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judges to compare with, under the same protocol: judges that read nothing, scalar reward models, LLM-as-a-Judge.

A number is only worth what it is above these: on some benchmarks the longer response alone is right three times in
four, and where the best response always stands first, so is a judge that never reads.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..judge.meta_scoring import meta_scores
from ..judge.orders import ORDERS, draw_orders
from ..judge.preferences import Preference
from ..judge.prompts import choice_messages
from ..judge.sampling import (
    PromptTooLongError,
    Sample,
    check_lengths,
    check_tokenizer,
    context_length,
    derive_seed,
    read_sample,
)
from ..judge.templates import CHOICE
from ..judge.voting import VOTING_TEMPERATURE
from .judgments import described_model


Critiques = list[list[Mapping[str, Any]]]


def _first(row: Preference, seed: int) -> list[float]:
    return [float(place == 0) for place in range(len(row))]


def _random(row: Preference, seed: int) -> list[float]:
    draw = random.Random(derive_seed(seed, "blind", row.query, *row.responses))
    return [float(draw.randint(0, 1))] if len(row) == 1 else [draw.random() for _ in row.responses]


def _longest(row: Preference, seed: int) -> list[float]:
    return [float(len(text)) for text in row.responses]


def _shortest(row: Preference, seed: int) -> list[float]:
    return [-float(len(text)) for text in row.responses]


CONTENT_BLIND: dict[str, Callable[[Preference, int], list[float]]] = {
    "first": _first,
    "random": _random,
    "longest": _longest,
    "shortest": _shortest,
}
"""Judges that read nothing: what stands first in the data, a coin, the most and the fewest characters.

`first` shows what a harness is worth that never shuffles. For a single response `first` says that it is right, and the
two that count characters give a ranking (ROC-AUC) but no verdict.
"""


class ContentBlindJudge:
    """A judge of [`CONTENT_BLIND`].

    Args:
        name (`str`): Which one.
        seed (`int`, *optional*, defaults to `0`): Of the random one.
        binary (`bool`, *optional*, defaults to `False`):
            Whether single responses are to be called right or wrong. Lengths cannot tell: they have no scores then,
            with the problem `"no verdict"`.
    """

    def __init__(self, name: str, seed: int = 0, binary: bool = False):
        if name not in CONTENT_BLIND:
            raise ValueError(f"Found {name!r}; expected one of {sorted(CONTENT_BLIND)}.")
        self.name, self.seed, self.binary = name, seed, binary
        self.settings = {"judge": name, "binary": binary, **({"seed": seed} if name == "random" else {})}

    def __call__(self, rows: Sequence[Preference]) -> Critiques:
        return [[self._critique(row)] for row in rows]

    def _critique(self, row: Preference) -> dict[str, Any]:
        found = _critique(CONTENT_BLIND[self.name](row, self.seed))
        if self.binary and len(row) == 1 and self.name in ("longest", "shortest"):
            return {**found, "scores": None, "problem": "no verdict"}
        return found


class ScalarJudge:
    """A scalar reward model, one logit per response: any `AutoModelForSequenceClassification` with one label.

    Each response is read alone, as the assistant's turn after the query, in the tokenizer's chat template.

    Args:
        model ([`~transformers.PreTrainedModel`]): With one label.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): With a chat template and a pad token.
        batch_size (`int`, *optional*, defaults to `8`): Responses read at once.

    Raises:
        `ValueError`: if the model has more than one label, or if a conversation exceeds its context.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8):
        check_tokenizer(tokenizer)
        if model.config.num_labels != 1:
            raise ValueError(
                f"Found a classifier with {model.config.num_labels} labels; expected a reward model with one."
            )
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.settings = {"judge": "scalar", **described_model(self)}

    def __call__(self, rows: Sequence[Preference]) -> Critiques:
        conversations = [_conversation(row, response) for row in rows for response in row.responses]
        encoded = self.tokenizer.apply_chat_template(conversations, tokenize=True, return_dict=False)
        owners = [number for number, row in enumerate(rows) for _ in row.responses]
        try:
            check_lengths([len(ids) for ids in encoded], 0, context_length(self.model.config), "Response")
        except PromptTooLongError as error:
            raise PromptTooLongError(f"Row {owners[error.row]}", *error.lengths, owners[error.row]) from None
        scores = iter(meta_scores(self.model, self.tokenizer, conversations, self.batch_size))
        return [[_critique([next(scores) for _ in row.responses])] for row in rows]


class ChoiceJudge:
    """LLM-as-a-Judge with majority vote: the judge selects the best response and gives no scores (paper, section 2.5).

    A critique is worth 1 for the response that it selects and 0 for the others, so that the vote of k critiques is
    their majority.

    Args:
        pipe ([`GRMRewardPipeline`]): Over the model, or engine, that judges.
        k (`int`): Critiques per row.
        seed, temperature, max_new_tokens, order: See the pipeline.
        batch_size (`int`, *optional*): Rows judged together; by default as many as make 256 critiques.
    """

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
        self.options = {
            "temperature": (VOTING_TEMPERATURE if k > 1 else 0.0) if temperature is None else temperature,
            "top_p": 1.0,
            "max_new_tokens": pipe._default_length() if max_new_tokens is None else max_new_tokens,
        }
        self.settings = {
            "judge": "choice",
            "k": k,
            "seed": seed,
            "order": order,
            "template_digest": CHOICE.digest,
            **described_model(pipe),
            **self.options,
        }

    def __call__(self, rows: Sequence[Preference]) -> Critiques:
        batches = (rows[first : first + self.batch_size] for first in range(0, len(rows), self.batch_size))
        return [critiques for batch in batches for critiques in self._judge(batch)]

    def _judge(self, rows: Sequence[Preference]) -> Critiques:
        drawn = []
        for row in rows:
            draw = random.Random(derive_seed(self.seed, "order", *row.responses))
            drawn.append(draw_orders(len(row), self.k, self.order, draw))
        asked = [(row, order) for row, orders in enumerate(drawn) for order in dict.fromkeys(orders)]
        samples = self.pipe._sample(
            [choice_messages(rows[row].permuted(order), self.pipe._fences()) for row, order in asked],
            [drawn[row].count(order) for row, order in asked],
            self.seed,
            **self.options,
        )
        texts = {request: iter(found) for request, found in zip(asked, samples, strict=True)}
        return [[_choice(next(texts[row, order]), order) for order in orders] for row, orders in enumerate(drawn)]


def _choice(sample: Sample, order: Sequence[int]) -> dict[str, Any]:
    read = read_sample(sample, 1, (1, len(order)))
    chosen = None if read.scores is None else order[read.scores[0] - 1]
    return {
        **_critique([float(i == chosen) for i in range(len(order))]),
        "text": sample.text,
        "scores": None if chosen is None else [float(i == chosen) for i in range(len(order))],
        "problem": read.problem,
        "order": list(order),
        "num_tokens": sample.num_tokens,
    }


def _conversation(row: Preference, response: str) -> list[dict[str, str]]:
    query = [{"role": "user", "content": row.query}] if isinstance(row.query, str) else list(row.query)
    return [*query, {"role": "assistant", "content": response}]


def _critique(scores: list[float]) -> dict[str, Any]:
    return {
        "text": "",
        "scores": scores,
        "problem": None,
        "order": list(range(len(scores))),
        "meta_score": None,
        "num_tokens": 0,
    }
