# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Repositories of judges and Meta RMs: descriptions beside the weights, and adapters, which are loaded by PEFT.

`config.grm` describes a judge, and for an adapter, which has no config of its own, the file `grm.json` beside it:

- `template` (`str`): See [`~trl_spct.judge.prompts.judge_template`].
- `chat_template_kwargs` (`dict`): Variables of the chat template.
- `meta_rm` (`str`): The Meta RM's id or path; beginning with `./`, a folder of the judge's own repository.
"""

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file

from .prompts import CARD, OFFICIAL

ADAPTER_FILE = "grm.json"
RELEASED_JUDGES = ("BBQGOD/DeepSeek-GRM-16B", "BBQGOD/DeepSeek-GRM-27B")
META_RM_FOLDER = "./meta_rm"
HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class JudgeForCausalLM(AutoModelForCausalLM):
    """Loads full models as transformers does, and adapters as a `PeftModel` whose config holds `grm.json`."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        hub = {name: kwargs[name] for name in HUB_KWARGS if kwargs.get(name) is not None}
        # A pipeline resolves the revision to a commit of the base; the adapter's is the one that was asked for.
        hub["revision"] = getattr(kwargs.get("revision"), "initial", kwargs.get("revision"))
        base = adapter_base(pretrained_model_name_or_path, **hub)
        if base is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = super().from_pretrained(base, *model_args, **kwargs)
        model, _ = with_adapter(model, pretrained_model_name_or_path, hub)
        entry = read_json(pretrained_model_name_or_path, ADAPTER_FILE, **hub)
        if entry is not None:
            model.config.grm = {**described(model.config), **entry}
            model.judge_repository = (str(pretrained_model_name_or_path), hub["revision"])
        return model


def adapter_base(home: str | os.PathLike, **hub: Any) -> str | None:
    """The base model that an adapter names; `None` for a full model."""
    if os.path.isfile(os.path.join(home, hub.get("subfolder") or "", "config.json")):
        return None
    file = find_adapter_config_file(str(home), **hub)
    if file is None:
        return None
    return json.loads(Path(file).read_text(encoding="utf-8"))["base_model_name_or_path"]


def with_adapter(
    model: PreTrainedModel, home: str | os.PathLike, hub: dict[str, Any], is_trainable: bool = False
) -> tuple[Any, set[str]]:
    """The model under the adapter of a folder or a repository, as a `PeftModel`, and the names of its weights."""
    try:  # needed for adapters only; code on the Hub must not require it otherwise
        from peft import PeftModel
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise ImportError(f"{home} is an adapter, which needs PEFT: `pip install peft`") from error
    try:
        model = PeftModel.from_pretrained(model, home, is_trainable=is_trainable, **hub)
    except KeyError as error:
        raise ValueError(f"Found no weights for {error} in the adapter {home}, which replaces them.") from error
    return model, set(load_peft_weights(str(home), device="cpu", **hub))


def described(config: PreTrainedConfig) -> dict[str, Any]:
    """The description of a judge in its config; empty if there is none."""
    return getattr(config, "grm", None) or {}


def locate_meta_rm(model: PreTrainedModel) -> tuple[str, dict[str, Any]] | None:
    """The Meta RM that a judge's repository carries or names, as the arguments of `from_pretrained`."""
    name = described(model.config).get("meta_rm")
    if not name:
        return None
    if not name.startswith("./"):
        return name, {}
    default = (model.config._name_or_path, getattr(model.config, "_commit_hash", None))
    home, revision = getattr(model, "judge_repository", default)
    if not home:
        raise ValueError(
            f"The judge's config names the Meta RM {name!r} of its own repository, but the judge was made in memory. "
            "Pass `meta_rm`, or `meta_rm=None` to vote without one."
        )
    return home, {"subfolder": name.removeprefix("./"), **({"revision": revision} if revision else {})}


def usual_template(config: PreTrainedConfig) -> str:
    """The template of a judge where none is named: the stored one, else a released judge's prompt, else `paper`."""
    home = getattr(config, "_name_or_path", None)
    return described(config).get("template") or (f"{OFFICIAL}:{home}" if home in RELEASED_JUDGES else "paper")


def official_template(template: str, config: PreTrainedConfig) -> str:
    """The template `"official"` as the one on the card of a released judge, or of a folder whose config names no
    template; every other template as it is."""
    home = str(getattr(config, "_name_or_path", None) or "")
    has_prompt = home in RELEASED_JUDGES or (
        bool(home) and "template" not in described(config) and os.path.isfile(os.path.join(home, CARD))
    )
    return f"{OFFICIAL}:{home}" if template == OFFICIAL and has_prompt else template


def describe_adapter(folder: str | os.PathLike, entry: dict[str, Any], file: str = ADAPTER_FILE) -> None:
    """Writes the description of a judge or a Meta RM beside its adapter."""
    Path(folder, file).write_text(json.dumps(entry, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def find_file(home: str | os.PathLike, name: str, **hub: Any) -> str | None:
    """A file of a repository or folder; `None` if there is none, or it cannot be read from here."""
    reasons = ("gated_repo", "missing_entries", "connection_errors")
    return cached_file(home, name, **{f"_raise_exceptions_for_{reason}": False for reason in reasons}, **hub)


def read_json(home: str | os.PathLike, name: str, **hub: Any) -> dict[str, Any] | None:
    """A JSON file of a repository or folder; `None` if there is none, or it cannot be read from here."""
    try:
        file = find_file(home, name, **hub)
    except OSError:  # neither a folder nor a repository
        return None
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


@contextmanager
def changed_config(config: PreTrainedConfig, **entries):
    """Changes entries of a config while it is saved; `None` removes one. Other copies of the model do not change."""
    before = vars(config).copy()
    for name, value in entries.items():
        vars(config).pop(name, None)
        if value is not None:
            setattr(config, name, value)
    try:
        yield
    finally:
        for name in entries:
            vars(config).pop(name, None)
        vars(config).update({name: before[name] for name in entries if name in before})
