# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What every trainer of a judge does first: load its tokenizer, read its rows, refuse what does not fit."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file
from trl.trainer.utils import create_model_from_path

from ..data.preparation import prepare_judge_rows
from ..judge.prompts import judge_template
from ..judge.sampling import context_length


logger = logging.getLogger(__name__)


def load_config(model: str | PreTrainedModel | PeftModel, args: Any = None) -> PreTrainedConfig:
    """A judge's configuration, without loading its weights if it is given by name; an adapter's is its base's.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or `PeftModel`): What a trainer was given.
        args ([`~transformers.TrainingArguments`], *optional*): `model_init_kwargs` and `trust_remote_code` are used.
    """
    if not isinstance(model, str):
        return model.config
    given = _init_kwargs(args)
    base = adapter_base(model, args)
    if base is not None:
        given.pop("revision", None)
    return AutoConfig.from_pretrained(base or model, **_of_the_hub(given))


def load_tokenizer(
    model: str | PreTrainedModel | PeftModel, config: PreTrainedConfig, args: Any = None
) -> PreTrainedTokenizerBase:
    """The tokenizer beside a judge, or beside the base of an adapter that has none of its own."""
    name = model if isinstance(model, str) else config._name_or_path
    if not name:
        raise ValueError(
            "The model was made in memory and names no folder with a tokenizer; pass one as `processing_class`."
        )
    given = _of_the_hub(_init_kwargs(args))
    if adapter_base(name, args) and not _holds(name, "tokenizer_config.json", given.get("revision")):
        name = config._name_or_path
        given.pop("revision", None)
    return _read_tokenizer(name, args, given)


def _read_tokenizer(name: str, args: Any, given: dict[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer with a pad token: TRL's trainers take the end-of-sequence token where there is none, as for Llama,
    but after rows are measured."""
    tokenizer = AutoTokenizer.from_pretrained(name, **given)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = getattr(args, "pad_token", None) or tokenizer.eos_token
    return tokenizer


def load_adapter(
    model: str | PreTrainedModel | PeftModel, args: Any, kwargs: dict[str, Any]
) -> str | PreTrainedModel | PeftModel:
    """The path or id of an adapter as a trainable `PeftModel`; anything else as it is.

    TRL's trainers read full models by path, and adapters only as instances. The trainer's `quantization_config` is
    taken out of its keyword arguments when the base has been loaded with it.
    """
    base = adapter_base(model, args) if isinstance(model, str) else None
    if base is None:
        return model
    given = _init_kwargs(args)
    revision = given.pop("revision", None)
    if kwargs.get("quantization_config") is not None:
        given["quantization_config"] = kwargs.pop("quantization_config")
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        given["device_map"] = None
    loaded = create_model_from_path(base, **given)
    return PeftModel.from_pretrained(loaded, model, is_trainable=True, revision=revision)


def check_arguments(args: Any, expected: type) -> None:
    """Refuses TRL's own configuration, which lacks what ours adds and changes."""
    if not isinstance(args, expected):
        raise TypeError(f"`args` is {type(args).__name__}; expected {expected.__name__}.")


def load_sampler(model: str, args: Any) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Another judge by path or id, with its own tokenizer, in the precision of the one that is trained."""
    given = {name: value for name, value in _init_kwargs(args).items() if name != "revision"}
    hub = _of_the_hub(given)
    base = adapter_base(model)
    config = AutoConfig.from_pretrained(base or model, **hub)
    if args.distributed_state.distributed_type != "NO":
        given["device_map"] = {"": args.device}
    loaded = create_model_from_path(base or model, **given)
    own = base is None or _holds(model, "tokenizer_config.json", None)
    tokenizer = _read_tokenizer(model if own else config._name_or_path, args, hub)
    return (PeftModel.from_pretrained(loaded, model) if base else loaded), tokenizer


def adapter_base(model: str, args: Any = None) -> str | None:
    """The base of an adapter that is given by path or id, or `None` for a full model."""
    revision = _init_kwargs(args).get("revision")
    if _holds(model, "config.json", revision) or not _holds(model, "adapter_config.json", revision):
        return None
    return PeftConfig.from_pretrained(model, revision=revision).base_model_name_or_path


def _holds(model: str, file: str, revision: str | None) -> bool:
    if os.path.isdir(model):
        return os.path.isfile(os.path.join(model, file))
    found = cached_file(
        model,
        file,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found is not None


def _init_kwargs(args: Any) -> dict[str, Any]:
    trusted = {"trust_remote_code": getattr(args, "trust_remote_code", False)}
    return {**trusted, **(getattr(args, "model_init_kwargs", None) or {})}


def _of_the_hub(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("revision", "trust_remote_code") if given.get(name) is not None}


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
    limits = [limit for limit in (context_length(config), args.max_context_length) if limit is not None]
    return prepare_judge_rows(
        dataset,
        tokenizer,
        source=args.source,
        invalid_rows=args.invalid_rows,
        name=name,
        template=args.template,
        seed=args.seed,
        shuffle_responses=args.shuffle_responses,
        max_completion_length=args.max_completion_length or 1,
        context_length=min(limits, default=None),
    ).dataset


def saved_weights_digest(model: Any, blocks: int = 64, size: int = 4096) -> str | None:
    """A hash of samples of the weight files in a local folder, however they are loaded; `None` for anything else.

    A judge that was trained further in its folder is another judge.
    """
    path = model if isinstance(model, str) else getattr(getattr(model, "config", None), "_name_or_path", None)
    files = sorted(Path(path).glob("*.safetensors")) if path and os.path.isdir(path) else []
    state = hashlib.blake2b(digest_size=8)
    for file in files:
        length = file.stat().st_size
        state.update(f"{file.name} {length}".encode())
        with open(file, "rb") as weights:
            for start in range(0, length, max(size, length // blocks)):
                weights.seek(start)
                state.update(weights.read(size))
    return state.hexdigest() if files else None


def name_template(config: PreTrainedConfig, template: str) -> None:
    """Writes into a judge's configuration how it was prompted, so that the pipeline prompts it alike."""
    named = (getattr(config, "grm", None) or {}).get("template", template)
    if named != template:
        logger.warning("The judge was trained with the template %r, and now goes on with %r.", named, template)
    digests = [judge_template(template, binary).digest for binary in (False, True)]
    config.grm = {**(getattr(config, "grm", None) or {}), "template": template, "template_digests": digests}
