# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The description of a Meta RM, and its two-way translation into the backbone's own config (paper, section 2.4)."""

import copy
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .voting import Guidance


LABEL = "correct"
EXTRAS = ("k_meta", "guide", "template", "tokenizer")


class MetaRMConfig(PreTrainedConfig):
    r"""
    Describes a Meta RM: any decoder backbone with one logit that says whether a critique is correct.

    Checkpoints never hold this config. They hold the backbone's own one, see [`~MetaRMConfig.to_native`], so that they
    load where this package is absent.

    Args:
        backbone (`str`, *optional*):
            Path or Hub id whose config describes the decoder.
        backbone_config (`PreTrainedConfig` or `dict`, *optional*):
            The decoder's config itself, instead of `backbone`. A `dict` needs its `model_type`.
        k_meta (`int` or `float`, *optional*):
            How many critiques vote under this Meta RM, or which share of all k, see [`num_voters`].
            `None` stands for `max(1, k // 2)`, the paper's k/2 **[P]**. [`choose_guidance`] finds
            the best one.
        guide (`str`, *optional*):
            `"soft"` if all critiques vote, each weighted by this Meta RM's probability that it is correct; `"top"`,
            or `None`, if the best `k_meta` do. See [`~trl_spct.judge.voting.Guidance`].
        template (`str`, *optional*):
            Digest of the judge template whose critiques this Meta RM learned from
            ([`JudgeTemplate.digest`]). A judge that reads another one is refused by the pipeline.
        tokenizer (`str`, *optional*):
            Digest of the tokenizer and chat template that it was trained with
            ([`~trl_spct.judge.meta_fit.tokenizer_digest`]). Another one is refused by the pipeline.

    Raises:
        `ValueError`: if both `backbone` and `backbone_config` are given, or for a `k_meta` or `guide` that
            [`~trl_spct.judge.voting.Guidance`] refuses.

    Example:

    ```python
    >>> from transformers import Gemma2Config
    >>> from trl_spct import MetaRMConfig, MetaRMForSequenceClassification

    >>> config = MetaRMConfig(backbone_config=Gemma2Config(), k_meta=16)
    >>> model = MetaRMForSequenceClassification(config)
    >>> model.config.model_type, model.config.meta_rm
    ('gemma2', {'k_meta': 16})
    ```
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
        """
        The backbone's own config for one logit and binary cross-entropy; what is ours goes to its `meta_rm` entry.

        Raises:
            `ValueError`: if there is no backbone, or if it has other than one label.
        """
        if self.backbone is None and self.backbone_config is None:
            raise ValueError("Found a `MetaRMConfig` without `backbone` or `backbone_config`; expected one of them.")
        config = self.backbone_config
        if config is None:
            config = AutoConfig.from_pretrained(self.backbone)
        return native_config(config, self.extras)

    @classmethod
    def from_native(cls, config: PreTrainedConfig) -> "MetaRMConfig":
        """The description of the Meta RM that a native config stands for. `to_native` undoes it."""
        return cls(backbone_config=copy.deepcopy(config), **(getattr(config, "meta_rm", None) or {}))

    @property
    def extras(self) -> dict[str, Any]:
        """What a native config cannot say: the content of its `meta_rm` entry."""
        return {name: getattr(self, name) for name in EXTRAS if getattr(self, name) is not None}


def native_config(config: PreTrainedConfig, extras: dict[str, Any] | None = None) -> PreTrainedConfig:
    """
    The config made ready for a Meta RM: one label, `problem_type` for binary cross-entropy, a `meta_rm` entry.

    A config that is ready comes back as it is; any other is copied first.

    Args:
        config (`PreTrainedConfig`): A decoder's config, with or without a classification head, or a [`MetaRMConfig`].
        extras (`dict`, *optional*): Entries of `config.meta_rm`; they win over those that are there.

    Raises:
        `ValueError`: if the config asks for other than one label. Two labels without a classification architecture
            are what every config starts with, and count as unset.
        `TypeError`: if it is no config.
    """
    if not isinstance(config, PreTrainedConfig):
        raise TypeError(f"Found a config of type {type(config).__name__}; expected a `PreTrainedConfig`.")
    if isinstance(config, MetaRMConfig):
        return native_config(config.to_native(), extras)
    if extras is None and _is_ready(config):
        return config
    config = copy.deepcopy(config)
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if config.num_labels == 2 and not classifies:
        config.id2label, config.label2id = {0: LABEL}, {LABEL: 0}
    require_one_label(config.num_labels)
    config.problem_type = "multi_label_classification"
    config.meta_rm = {**(getattr(config, "meta_rm", None) or {}), **(extras or {})}
    return config


def _is_ready(config: PreTrainedConfig) -> bool:
    has_entry = isinstance(getattr(config, "meta_rm", None), dict)
    return has_entry and config.num_labels == 1 and config.problem_type == "multi_label_classification"


def require_one_label(num_labels: int) -> None:
    """Raises a `ValueError` unless there is one label."""
    if num_labels != 1:
        raise ValueError(
            f"Found num_labels={num_labels}; expected 1: a Meta RM gives one logit per critique. Start from a causal "
            "LM or from a checkpoint with one label, and leave `num_labels` out."
        )
