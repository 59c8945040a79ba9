# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The Meta RM: a decoder with one logit, "is this critique correct?" (paper, sections 2.4 and 6)."""

import copy
import functools
import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING
from transformers.utils import can_return_tuple

from .compat import CACHE
from .repositories import HUB_KWARGS, adapter_base, read_json, with_adapter
from .voting import Guidance

EXTRAS_NAME = "meta_rm.json"
"""Beside an adapter, which is saved without a config: the content of `config.meta_rm`."""
_LABEL = "correct"
_WEIGHT_KWARGS = ("dtype", "torch_dtype", "quantization_config")


@dataclass
class MetaRMConfig:
    """
    The entry `meta_rm` of a Meta RM's config, which is otherwise the decoder's own.

    Args:
        k_meta (`int` or `float`, *optional*):
            How many critiques vote, or which share of all k, see [`num_voters`]. `None` stands for `max(1, k // 2)`,
            the paper's k/2 **[P]**. [`choose_guidance`] finds the best one.
        guide (`str`, *optional*): `"top"`, the default, or `"soft"`, see [`~trl_spct.judge.voting.Guidance`].
        template, tokenizer (`str`, *optional*):
            Digests of the judge's template, and of the tokenizer and chat template that it was trained with.
    """

    k_meta: int | float | None = None
    guide: str | None = None
    template: str | None = None
    tokenizer: str | None = None

    def __post_init__(self):
        Guidance(self.k_meta, self.guide or "top")

    @property
    def extras(self) -> dict[str, Any]:
        """The values that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def native_config(config: PreTrainedConfig, extras: dict[str, Any] | None = None) -> PreTrainedConfig:
    """A copy of a decoder's config with one label, binary cross-entropy and a `meta_rm` entry, in which `extras` win.

    A config that has them is returned as it is. Two labels without a classification architecture, with which every
    config starts, count as unset; any other number is refused.
    """
    if not isinstance(config, PreTrainedConfig):
        raise TypeError(f"Found a config of type {type(config).__name__}; expected a `PreTrainedConfig`.")
    stored, problem = getattr(config, "meta_rm", None), "multi_label_classification"
    if extras is None and isinstance(stored, dict) and (config.num_labels, config.problem_type) == (1, problem):
        return config
    config = copy.deepcopy(config)
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if config.num_labels == 2 and not classifies:
        config.id2label, config.label2id = {0: _LABEL}, {_LABEL: 0}
    _require_one_label(config.num_labels)
    config.problem_type = problem
    config.meta_rm = {**(stored or {}), **(extras or {})}
    return config


def _require_one_label(num_labels: int) -> None:
    if num_labels != 1:
        raise ValueError(
            f"Found num_labels={num_labels}; expected 1, since a Meta RM gives one logit per critique: a causal LM or "
            "a checkpoint with one label."
        )


class MetaRMForSequenceClassification(PreTrainedModel):
    r"""
    A Meta RM over any decoder: one logit per conversation, trained with binary cross-entropy.

    An instance belongs to a subclass that is also the backbone's own `XxxForSequenceClassification`, with its name and
    its parameter names, so that a checkpoint loads with `AutoModelForSequenceClassification`, PEFT and serving engines
    where this package is absent. Backbones without such a class, for instance Granite, get one made of the same parts.

    Unlike in the native class, the logit is pooled at the right-most *attended* token, so that a final end-of-sequence
    token counts even where it doubles as padding, and the pooled state is cast to the dtype of the head.

    ```python
    >>> model = MetaRMForSequenceClassification.from_pretrained("google/gemma-2-27b")  # with a fresh head
    >>> type(model).__name__
    'Gemma2ForSequenceClassification'
    ```
    """

    # `Trainer` divides the loss by the accumulation steps only for models that say so.
    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __new__(cls, config: PreTrainedConfig | None = None, *args, **kwargs):
        if cls is MetaRMForSequenceClassification:
            cls = meta_rm_class(type(native_config(config)))  # type: ignore[arg-type]
        return super().__new__(cls)

    def __init__(self, config: PreTrainedConfig, *args, **kwargs):
        super().__init__(native_config(config), *args, **kwargs)
        if not isinstance(getattr(self, "score", None), nn.Module):
            raise ValueError(
                f"Found {type(self).__name__}, which has no `score` head; expected a decoder architecture, for "
                "instance Gemma-2, Llama or Qwen."
            )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args,
        config: PreTrainedConfig | MetaRMConfig | str | os.PathLike | None = None,
        **kwargs,
    ) -> "MetaRMForSequenceClassification":
        """
        Loads a Meta RM from a native one-label checkpoint, from a causal LM (with a fresh head), or from an adapter,
        as a trainable `PeftModel`. As [`~transformers.PreTrainedModel.from_pretrained`]; a [`MetaRMConfig`] as
        `config` adds its values to those of the checkpoint.
        """
        path = pretrained_model_name_or_path
        if cls is not MetaRMForSequenceClassification:
            return super().from_pretrained(path, *model_args, config=config, **kwargs)
        _require_one_label(kwargs.pop("num_labels", 1))
        if kwargs.get("subfolder") and os.path.isdir(path):
            # beside a whole judge transformers would take this one for the base of an adapter in a subfolder
            path = os.path.join(path, kwargs.pop("subfolder"))
        hub = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        base = adapter_base(path, **hub)
        if base is not None:
            return cls._from_adapter(path, base, hub, *model_args, config=config, **kwargs)
        extras = None
        if isinstance(config, MetaRMConfig):
            extras, config = config.extras, None
        if not isinstance(config, PreTrainedConfig):
            weights = {name: kwargs.pop(name) for name in _WEIGHT_KWARGS if name in kwargs}
            config, kwargs = AutoConfig.from_pretrained(config or path, return_unused_kwargs=True, **kwargs)
            kwargs = {**kwargs, **hub, **weights}
        config = native_config(config, extras)
        return meta_rm_class(type(config)).from_pretrained(path, *model_args, config=config, **kwargs)  # type: ignore[arg-type]

    @classmethod
    def _from_adapter(cls, path, base: str, hub: dict[str, Any], *model_args, output_loading_info=False, **kwargs):
        """The `PeftModel` over a base; the loading info is about both, so that it names a missing head."""
        kwargs = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
        config = kwargs["config"]
        chosen = config.extras if isinstance(config, MetaRMConfig) else getattr(config, "meta_rm", None) or {}
        model, info = cls.from_pretrained(base, *model_args, output_loading_info=True, **kwargs)
        stored = read_json(path, EXTRAS_NAME, **hub) or {}
        model.config.meta_rm = {**model.config.meta_rm, **stored, **chosen}
        model, names = with_adapter(model, path, hub, is_trainable=True)
        missing = set(info["missing_keys"])
        if any(name.endswith("score.weight") for name in names):
            missing.discard("score.weight")
        return (model, {**info, "missing_keys": missing}) if output_loading_info else model

    @classmethod
    def load_trained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """
        Loads a Meta RM for inference: as [`~MetaRMForSequenceClassification.from_pretrained`], but a checkpoint or an
        adapter without weights of the `score` head, as a causal LM, is refused.
        """
        model, info = cls.from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        require_head(info, pretrained_model_name_or_path)
        return model

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        r"""
        Scores B conversations of up to T tokens.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`, *optional*): Padded left or right.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for tokens, 0 for padding.
            labels (`torch.Tensor` of shape `(B,)` or `(B, 1)`, *optional*): 1 if the critique is correct, else 0.

        Returns unbounded `logits` of shape `(B, 1)` and, with labels, their binary cross-entropy as `loss`.
        """
        # Some decoders do not know every name, so that only those with a value are passed on.
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        outputs = self.base_model(**{name: value for name, value in inputs.items() if value is not None})
        if kwargs.get(CACHE) is not None and attention_mask is not None:  # it covers the cached tokens, too
            attention_mask = attention_mask[:, -outputs.last_hidden_state.shape[1] :]
        pooled = last_attended(outputs.last_hidden_state, attention_mask)
        logits = self.score(pooled.to(self.score.weight.dtype))
        return SequenceClassifierOutputWithPast(
            loss=None if labels is None else meta_loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: getattr(outputs, CACHE, None)},
        )


def require_head(loading_info: dict[str, Any], name: str | os.PathLike) -> None:
    """Refuses a classifier whose head is drawn at random, by the loading info of `from_pretrained`."""
    missing = sorted(key for key in loading_info["missing_keys"] if key.startswith(("score.", "classifier.")))
    if missing:
        raise ValueError(
            f"Found no weights for {missing} in {str(name)!r}; expected a trained model with a one-label head of this "
            "name. A causal LM has none: train it with `MetaRMTrainer`."
        )


def last_attended(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The state of each row's right-most attended token, of shape `(B, H)`, from states of shape `(B, T, H)`."""
    if attention_mask is None:
        return hidden_states[:, -1]
    if attention_mask.shape != hidden_states.shape[:2]:
        raise ValueError(
            f"Found an attention mask of shape {tuple(attention_mask.shape)}; expected (batch, length) = "
            f"{tuple(hidden_states.shape[:2])}. Packed or cached sequences cannot be pooled."
        )
    positions = torch.arange(hidden_states.shape[1], device=hidden_states.device)
    last = (positions * attention_mask.to(hidden_states.device).bool()).argmax(dim=-1)
    return hidden_states[torch.arange(len(last), device=last.device), last]


def meta_loss(logits: torch.Tensor, labels: torch.Tensor, pos_weight: float | None = None) -> torch.Tensor:
    """Binary cross-entropy on "is this critique correct" (paper, section 6), averaged over the batch, in float32, with
    the weight `pos_weight` of correct critiques."""
    logits, labels = logits.reshape(-1).float(), labels.reshape(-1).to(logits.device).float()
    if len(logits) != len(labels):
        raise ValueError(f"Found {len(labels)} labels for {len(logits)} critiques; expected one label per critique.")
    weight = None if pos_weight is None else torch.tensor(pos_weight, device=logits.device)
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)


@functools.cache
def meta_rm_class(config_class: type[PreTrainedConfig]) -> type[MetaRMForSequenceClassification]:
    """The Meta RM class of an architecture: one class per config class, named like the native one."""
    native = _native_class(config_class)
    body = {"config_class": config_class, "__module__": __name__, "__doc__": MetaRMForSequenceClassification.__doc__}
    return type(native.__name__, (MetaRMForSequenceClassification, native), body)


def as_meta_rm(model: PreTrainedModel) -> MetaRMForSequenceClassification:
    """Turns a native classifier with one label into a Meta RM, in place and without copying weights."""
    if isinstance(model, MetaRMForSequenceClassification):
        return model
    native = _native_class(type(model.config))
    if type(model) is not native or "forward" in vars(model):
        raise TypeError(
            f"Found a {type(model).__name__}; expected a {native.__name__} with one label and without hooks "
            "(`device_map`). Load the checkpoint with `MetaRMForSequenceClassification.from_pretrained`."
        )
    _require_one_label(model.config.num_labels)
    model.config.problem_type = "multi_label_classification"
    model.config.meta_rm = getattr(model.config, "meta_rm", None) or {}
    model.__class__ = meta_rm_class(type(model.config))  # type: ignore[arg-type]  # classes are hashable
    return model


def _native_class(config_class: type[PreTrainedConfig]) -> type[PreTrainedModel]:
    """The native classifier of a decoder, made of the parts of the others where there is none."""
    if config_class in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        native = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[config_class]
        return native[0] if isinstance(native, tuple) else native
    if config_class not in MODEL_MAPPING:
        raise ValueError(f"Found {config_class.__name__}; expected a decoder's config, for instance `Gemma2Config`.")
    decoder = MODEL_MAPPING[config_class]
    name = f"{decoder.__name__.removesuffix('Model')}ForSequenceClassification"
    parent = next(base for base in decoder.__mro__[1:] if issubclass(base, PreTrainedModel))
    return type(name, (GenericForSequenceClassification, parent), {"__module__": __name__})
