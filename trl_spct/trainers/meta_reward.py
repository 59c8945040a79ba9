# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What a Meta RM says of critiques as a factor of the outcome reward (not in the paper)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoTokenizer

from ..judge.critiques import Critique
from ..judge.meta_scoring import check_fit, load_meta_rm, meta_scores
from ..judge.preferences import Preference
from ..judge.prompts import meta_messages
from ..judge.sampling import check_tokenizer, special_tokens

META_REWARDS: dict[str, Callable[[float], float]] = {
    "product": lambda score: math.tanh(score / 2),  # 2 m - 1
    "gate": lambda score: 1.0 if score > 0 else -1.0,
    "none": lambda score: 1.0,
}
"""By name, the reward of a correct critique from its meta score."""


class MetaReward:
    """Meta scores of correct critiques by a frozen Meta RM, and their `reward`.

    With m = sigmoid(meta score) it is `2 m - 1` under `"product"`, and 1 under `"gate"` where m > 1/2, else −1: the
    product of R_score and R_meta of DeepSeekMath-V2 (Eq. 3), in the range of the outcome reward. There, a generative
    verifier gives R_meta. `"none"` leaves the paper's reward, and only logs the scores. Critiques that are not correct
    are worth −1 unread: praise of itself saves none.

    Args:
        name (`str`): Path or id of the Meta RM. It must know the judge's `template`.
        rule (`str`): One of `META_REWARDS`.
    """

    def __init__(self, name: str, rule: str, template: str, dtype: torch.dtype, device: Any, batch_size: int = 32):
        self.reward, self.batch_size = META_REWARDS[rule], batch_size
        self.model = load_meta_rm(name, dtype, {}).to(device).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        check_tokenizer(self.tokenizer)
        check_fit(self.model, self.tokenizer, template)
        self.variables = (getattr(self.model.config, "meta_rm", None) or {}).get("chat_template_kwargs")
        self.special_tokens = special_tokens(self.tokenizer)

    def __call__(self, preferences: Sequence[Preference], critiques: Sequence[Critique]) -> list[float]:
        """One meta score for each critique of a preference in the order of its row."""
        read = [
            meta_messages(preference.permuted(critique.order or ()), critique.text, self.special_tokens)
            for preference, critique in zip(preferences, critiques, strict=True)
        ]
        return meta_scores(self.model, self.tokenizer, read, self.batch_size, self.variables)
