# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Loading of judges, tokenizers and rows for the trainers, and the checks before anything is loaded."""

import copy
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.utils import create_model_from_path

from ..data.preparation import PreparedPreferences, prepare_judge_rows
from ..judge.prompts import judge_template, portable_template
from ..judge.repositories import (
    ADAPTER_FILE,
    JudgeForCausalLM,
    adapter_base,
    described,
    find_file,
    read_json,
    usual_template,
)
from ..judge.sampling import context_length

logger = logging.getLogger(__name__)

_ADAPTER_WEIGHTS = ("adapter_model*.safetensors", "adapter_model*.bin")
_FULL_WEIGHTS = ("model*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin")  # FSDP names adapters so, too


Judge: TypeAlias = str | PreTrainedModel | PeftModel
"""A path or id, or a model."""


def load_config(model: Judge, args: Any = None) -> PreTrainedConfig:
    """Configuration of a judge, without loading it; for an adapter, its base's with what is stored beside it."""
    if not isinstance(model, str):
        return model.config
    hub, base = _hub_kwargs(args), _base_of(model, args)
    if base is None:
        return AutoConfig.from_pretrained(model, **hub)
    entry = read_json(model, ADAPTER_FILE, revision=hub.pop("revision", None))
    config = AutoConfig.from_pretrained(base, **hub)
    if entry is not None:
        config.grm = {**described(config), **entry}
    return config


def load_tokenizer(model: Judge, config: PreTrainedConfig, args: Any = None) -> PreTrainedTokenizerBase:
    """Tokenizer of a judge: the one beside it, or beside the base of an adapter without one."""
    name = model if isinstance(model, str) else config._name_or_path
    if not name:
        raise ValueError(
            "Found a model in memory without the path of a tokenizer; expected a tokenizer as `processing_class`."
        )
    hub = _hub_kwargs(args)
    revision = hub.get("revision")
    if _base_of(name, args) is not None and find_file(name, "tokenizer_config.json", revision=revision) is None:
        name = config._name_or_path
        hub.pop("revision", None)
    tokenizer = AutoTokenizer.from_pretrained(name, **hub)
    if tokenizer.pad_token is None:  # as TRL's trainers do, but before rows are measured
        tokenizer.pad_token = getattr(args, "pad_token", None) or tokenizer.eos_token
    return tokenizer


def load_adapter(model: Judge, args: Any, kwargs: dict[str, Any]) -> Judge:
    """Loads the path or id of an adapter as a trainable `PeftModel`, which TRL's trainers do not; returns any other
    model as it is. `kwargs` as for [`model_kwargs`]."""
    base = _base_of(model, args)
    if base is None:
        return model
    init_kwargs = model_kwargs(args, kwargs)
    revision = init_kwargs.pop("revision", None)
    loaded = create_model_from_path(base, **init_kwargs)
    return PeftModel.from_pretrained(loaded, model, is_trainable=True, revision=revision)


def model_kwargs(args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `from_pretrained`, by the rules of TRL's trainers; removes `quantization_config` from `kwargs`."""
    init_kwargs = _init_kwargs(args)
    if kwargs.get("quantization_config") is not None:
        init_kwargs["quantization_config"] = kwargs.pop("quantization_config")
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        init_kwargs["device_map"] = None
    return init_kwargs


def load_sampler(model: str, args: Any) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Loads another judge by path or id, with its own tokenizer, in the precision of the trained one."""
    args = copy.copy(args)
    args.model_init_kwargs = kwargs = _init_kwargs(args)
    kwargs.pop("revision", None)
    tokenizer = load_tokenizer(model, load_config(model, args), args)
    if args.distributed_state.distributed_type != "NO":
        kwargs = {**kwargs, "device_map": {"": args.device}}
    return create_model_from_path(model, JudgeForCausalLM, **kwargs), tokenizer


def checked_arguments(model: Judge, args: Any, kind: type, name: str, adapter: Any) -> tuple[Any, PreTrainedConfig]:
    """A copy of a trainer's arguments, and the configuration of its model, before the model is loaded. `adapter` is
    the `peft_config`, if there is one."""
    config = load_config(model, args)
    if args is None:
        args = kind(f"{config._name_or_path.rstrip('/').split('/')[-1]}-{name}")
    if not isinstance(args, kind):  # a configuration of TRL lacks the fields and defaults of this package
        raise TypeError(f"`args` is {type(args).__name__}; expected {kind.__name__}.")
    _check_output_dir(model, args, adapter)
    return copy.copy(args), config


def _check_output_dir(model: Judge, args: Any, peft_config: Any) -> None:
    """Refuses an output folder with weights of the other kind, adapter or full model, which would be loaded, too."""
    is_adapter = peft_config is not None or isinstance(model, PeftModel) or _base_of(model, args) is not None
    folder = Path(args.output_dir)
    for pattern in _FULL_WEIGHTS if is_adapter else _ADAPTER_WEIGHTS:
        for path in sorted([*folder.glob(pattern), *folder.glob(f"checkpoint-*/{pattern}")]):
            trained, present = ("an adapter", "a full model") if is_adapter else ("a full model", "an adapter")
            raise FileExistsError(
                f"Found {path} of {present}, while this run trains {trained}; both in one folder would be loaded on "
                "top of each other. Choose another `output_dir`, or delete this one."
            )


def with_template(args: Any, config: PreTrainedConfig) -> Any:
    """A copy of the arguments, with the template and variables in the judge's configuration as defaults."""
    args = copy.copy(args)
    stored = described(config)
    args.template = args.template or usual_template(config)
    judge_template(args.template)
    if args.chat_template_kwargs is None:
        args.chat_template_kwargs = stored.get("chat_template_kwargs")
    return args


def store_template(config: PreTrainedConfig, args: Any) -> None:
    """Stores the template (the text in place of a file) and `chat_template_kwargs` in a judge's configuration."""
    template, stored = portable_template(args.template), described(config)
    if (known := stored.get("template")) not in (None, template):
        logger.warning("The judge was trained with the template %r, and is now trained with %r.", known, template)
    digests = [judge_template(template, binary).digest for binary in (False, True)]
    config.grm = {**stored, "template": template, "template_digests": digests}
    config.grm.pop("chat_template_kwargs", None)
    if args.variables:
        config.grm["chat_template_kwargs"] = args.variables


def rows_for(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, args: Any, config: PreTrainedConfig, name: str
) -> PreparedPreferences:
    """Prepares labeled preference rows in any shape, and measures their prompts against the judge's context."""
    return prepare_judge_rows(
        dataset,
        tokenizer,
        source=args.source,
        invalid_rows=args.invalid_rows,
        name=name,
        template=args.template,
        chat_template_kwargs=args.variables,
        seed=args.seed,
        shuffle_responses=args.shuffle_responses,
        max_completion_length=args.max_completion_length or 1,
        context_length=longest_sequence(args, config),
    )


def longest_sequence(args: Any, config: PreTrainedConfig) -> int | None:
    """The most tokens that a prompt and a critique may have together; `None` without a limit."""
    limits = [limit for limit in (context_length(config), args.max_context_length) if limit is not None]
    return min(limits, default=None)


def each_set(datasets: Any, prepare: Callable[[Dataset, str], Dataset], name: str = "eval_dataset") -> Any:
    """Applies `prepare(rows, name)` to a dataset, to each of several, or to none."""
    if isinstance(datasets, Mapping):
        return {key: prepare(rows, f"{name}[{key!r}]") for key, rows in datasets.items()}
    return None if datasets is None else prepare(datasets, name)


def read_chat_template(tokenizer: Any, path: str | None) -> None:
    """Rows are measured in the chat template before TRL applies `chat_template_path`."""
    if path is not None and os.path.isfile(path) and path.endswith((".jinja", ".j2")):
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
    elif path is not None:
        tokenizer.chat_template = AutoTokenizer.from_pretrained(path).get_chat_template()


def saved_weights_digest(model: Any, blocks: int = 64, size: int = 4096) -> str | None:
    """Hash of blocks of the weight files in a model's local folder; `None` for anything else."""
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


def _base_of(model: Judge, args: Any) -> str | None:
    revision = _init_kwargs(args).get("revision")
    return adapter_base(model, revision=revision) if isinstance(model, str) else None


def _init_kwargs(args: Any) -> dict[str, Any]:
    trusted = {"trust_remote_code": getattr(args, "trust_remote_code", False)}
    return {**trusted, **(getattr(args, "model_init_kwargs", None) or {})}


def _hub_kwargs(args: Any) -> dict[str, Any]:
    kwargs = _init_kwargs(args)
    return {name: kwargs[name] for name in ("revision", "trust_remote_code") if kwargs.get(name) is not None}
