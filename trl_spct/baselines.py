# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judges to compare with, under the same protocol: judges that read nothing, and scalar reward models.

A number is only worth what it is above these: on some benchmarks the longer response alone is right three times in
four, and where the best response always stands first, so is a judge that never reads.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .meta_scoring import meta_scores
from .preferences import Preference
from .sampling import check_lengths, check_tokenizer, context_length, derive_seed


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
    """

    def __init__(self, name: str, seed: int = 0):
        if name not in CONTENT_BLIND:
            raise ValueError(f"Found {name!r}; expected one of {sorted(CONTENT_BLIND)}.")
        self.name, self.seed = name, seed
        self.settings = {"judge": name, **({"seed": seed} if name == "random" else {})}

    def __call__(self, rows: Sequence[Preference]) -> Critiques:
        return [[_critique(CONTENT_BLIND[self.name](row, self.seed))] for row in rows]


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
        self.settings = {"judge": "scalar", "model": model.config._name_or_path}

    def __call__(self, rows: Sequence[Preference]) -> Critiques:
        conversations = [_conversation(row, response) for row in rows for response in row.responses]
        encoded = self.tokenizer.apply_chat_template(conversations, tokenize=True, return_dict=False)
        check_lengths([len(ids) for ids in encoded], 0, context_length(self.model.config), "Response")
        scores = iter(meta_scores(self.model, self.tokenizer, conversations, self.batch_size))
        return [[_critique([next(scores) for _ in row.responses])] for row in rows]


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
