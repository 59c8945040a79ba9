# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What every trainer of a judge does first: load its tokenizer, read its rows, refuse what does not fit."""

from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .data import prepare_judge_rows
from .prompts import judge_template
from .sampling import context_length


def load_config(model: str | PreTrainedModel | PeftModel, model_init_kwargs: dict | None = None) -> PreTrainedConfig:
    """A model's configuration, without loading its weights if it is given by name."""
    if not isinstance(model, str):
        return model.config
    given = {name: value for name, value in (model_init_kwargs or {}).items() if name in _CONFIG_KWARGS}
    return AutoConfig.from_pretrained(model, **given)


_CONFIG_KWARGS = ("revision", "trust_remote_code")


def load_tokenizer(config: PreTrainedConfig, model_init_kwargs: dict | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model."""
    if not config._name_or_path:
        raise ValueError(
            "The model was made in memory and names no folder with a tokenizer; pass one as `processing_class`."
        )
    given = {name: value for name, value in (model_init_kwargs or {}).items() if name in _CONFIG_KWARGS}
    return AutoTokenizer.from_pretrained(config._name_or_path, **given)


def rows_for(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, args: Any, config: PreTrainedConfig, name: str
) -> Dataset:
    """Preference rows in any shape → rows with a judge's `prompt`, checked against the model's context.

    Args:
        dataset ([`~datasets.Dataset`]): Rows in any accepted shape, with labels.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The judge's.
        args ([`RejectiveSamplerConfig`] or [`SPCTConfig`]): Template, seed, lengths and what to do with bad rows.
        config ([`~transformers.PreTrainedConfig`]): The judge's; says how long its context is.
        name (`str`): How errors call the dataset.
    """
    judge_template(args.template)
    return prepare_judge_rows(
        dataset,
        tokenizer,
        source=args.source,
        invalid_rows=args.invalid_rows,
        name=name,
        template=args.template,
        seed=args.seed,
        shuffle_responses=args.shuffle_responses,
        max_completion_length=args.max_completion_length,
        context_length=context_length(config),
    ).dataset


def name_template(config: PreTrainedConfig, template: str) -> None:
    """Writes into a judge's configuration how it was prompted, so that the pipeline prompts it alike."""
    digests = [judge_template(template, verdict).digest for verdict in (False, True)]
    config.grm = {**(getattr(config, "grm", None) or {}), "template": template, "template_digests": digests}
