# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The description of a Meta RM, and its translation into the backbone's own config (paper, section 2.4)."""

import copy
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .voting import Guidance


LABEL = "correct"
EXTRAS = ("k_meta", "guide", "template", "tokenizer")


class MetaRMConfig(PreTrainedConfig):
    r"""
    Describes a Meta RM: any decoder backbone with one logit that says whether a critique is correct.

    Checkpoints hold the backbone's own config instead, whose entry `meta_rm` has the last four of these values, so
    that they load where this package is absent.

    Args:
        backbone (`str`, *optional*): Path or Hub id whose config describes the decoder.
        backbone_config (`PreTrainedConfig` or `dict`, *optional*): The decoder's config, instead of `backbone`.
        k_meta (`int` or `float`, *optional*):
            How many critiques vote, or which share of all k, see [`num_voters`]. `None` stands for `max(1, k // 2)`,
            the paper's k/2 **[P]**. [`choose_guidance`] finds the best one.
        guide (`str`, *optional*): `"top"`, the default, or `"soft"`, see [`~trl_spct.judge.voting.Guidance`].
        template (`str`, *optional*):
            [`JudgeTemplate.digest`] of the prompt whose critiques this Meta RM learned from.
        tokenizer (`str`, *optional*): Digest of the tokenizer and chat template that it was trained with.
    """

    model_type = "meta_rm"

    backbone: str | None = None
    backbone_config: dict | PreTrainedConfig | None = None
    k_meta: int | float | None = None
    guide: str | None = None
    template: str | None = None
    tokenizer: str | None = None

    def __post_init__(self, **kwargs):
        if self.backbone is not None and self.backbone_config is not None:
            raise ValueError("Found both `backbone` and `backbone_config`; expected one of them. Drop either.")
        Guidance(self.k_meta, self.guide or "top")
        if isinstance(self.backbone_config, dict):
            self.backbone_config = AutoConfig.for_model(**self.backbone_config)
        if self.id2label is None:
            self.id2label = {0: LABEL}
        self.problem_type = "multi_label_classification"
        super().__post_init__(**kwargs)

    def to_native(self) -> PreTrainedConfig:
        """The backbone's own config for one logit and binary cross-entropy, with a `meta_rm` entry."""
        if self.backbone is None and self.backbone_config is None:
            raise ValueError("Found a `MetaRMConfig` without `backbone` or `backbone_config`; expected one of them.")
        return native_config(self.backbone_config or AutoConfig.from_pretrained(self.backbone), self.extras)

    @property
    def extras(self) -> dict[str, Any]:
        """The `meta_rm` entry of the native config."""
        return {name: getattr(self, name) for name in EXTRAS if getattr(self, name) is not None}


def native_config(config: PreTrainedConfig, extras: dict[str, Any] | None = None) -> PreTrainedConfig:
    """
    A copy of a decoder's config with one label, binary cross-entropy and a `meta_rm` entry, in which `extras` win.

    A config that has them comes back as it is. Two labels without a classification architecture are what every config
    starts with, and count as unset; any other number is refused.
    """
    if not isinstance(config, PreTrainedConfig):
        raise TypeError(f"Found a config of type {type(config).__name__}; expected a `PreTrainedConfig`.")
    if isinstance(config, MetaRMConfig):
        return native_config(config.to_native(), extras)
    stored, problem = getattr(config, "meta_rm", None), "multi_label_classification"
    if extras is None and isinstance(stored, dict) and (config.num_labels, config.problem_type) == (1, problem):
        return config
    config = copy.deepcopy(config)
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if config.num_labels == 2 and not classifies:
        config.id2label, config.label2id = {0: LABEL}, {LABEL: 0}
    require_one_label(config.num_labels)
    config.problem_type = problem
    config.meta_rm = {**(stored or {}), **(extras or {})}
    return config


def require_one_label(num_labels: int) -> None:
    """Raises a `ValueError` unless there is one label."""
    if num_labels != 1:
        raise ValueError(
            f"Found num_labels={num_labels}; expected 1: a Meta RM gives one logit per critique. Start from a causal "
            "LM or from a checkpoint with one label, and leave `num_labels` out."
        )
