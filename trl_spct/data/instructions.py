# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""General instruction data beside a judge's critiques: any of TRL's shapes to `prompt` and `completion` messages."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from datasets import Dataset, Features, List, Value, concatenate_datasets
from transformers import PreTrainedTokenizerBase


_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_FEATURES = Features({"prompt": _MESSAGES, "completion": _MESSAGES})


def instruction_rows(
    dataset: Dataset | Sequence[Dataset], tokenizer: PreTrainedTokenizerBase, name: str = "general_dataset"
) -> Dataset:
    """Instruction data as `prompt` and `completion` messages, checked before anything is sampled or trained.

    Of a conversation in `messages` the last turn is the completion, and the only one that is learned.

    Args:
        dataset ([`~datasets.Dataset`] or sequence of them):
            With `messages`, or with `prompt` and `completion`, texts or messages. Several are joined.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The judge's; for each sequence of roles one row is rendered in its chat template.
        name (`str`, *optional*, defaults to `"general_dataset"`): What errors call the dataset.

    Returns:
        [`~datasets.Dataset`]

    Raises:
        `ValueError`: for columns or a row that cannot be used, naming it.
        `TypeError`: for anything but a `Dataset`.
    """
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        parts = [instruction_rows(part, tokenizer, f"{name}[{i}]") for i, part in enumerate(dataset)]
        if not parts:
            return Dataset.from_dict({column: [] for column in _FEATURES}, features=_FEATURES)
        return concatenate_datasets(parts)
    _check_columns(dataset, name)
    rendered: set[tuple[str, ...]] = set()

    def convert(row: dict[str, Any], number: int) -> dict[str, Any]:
        made = _messages(row, f"{name} row {number}")
        turns = [*made["prompt"], *made["completion"]]
        roles = tuple(turn["role"] for turn in turns)
        if roles not in rendered:
            _check_renders(turns, tokenizer, f"{name} row {number}")
            rendered.add(roles)
        return made

    return dataset.with_format(None).map(
        convert,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=_FEATURES,
        load_from_cache_file=False,
    )


def _check_columns(dataset: Any, name: str) -> None:
    if not isinstance(dataset, Dataset):
        raise TypeError(f"{name} is {type(dataset).__name__}; expected a `datasets.Dataset`.")
    columns = set(dataset.column_names)
    shaped = "messages" in columns or {"prompt", "completion"} <= columns
    if not shaped or columns & {"responses", "label", "chosen", "rejected"}:
        raise ValueError(
            f"{name}: found the columns {sorted(columns)}; expected instruction data with `messages`, or with "
            "`prompt` and `completion`, or trajectories of `collect()`. Preference rows hold no critique to learn "
            "from: collect trajectories of them, or measure a judge on them with `recipes/evaluate.py`."
        )


def _messages(row: Mapping[str, Any], name: str) -> dict[str, list[dict[str, str]]]:
    prompt, completion = row.get("prompt"), row.get("completion")
    if row.get("messages"):
        prompt, completion = row["messages"][:-1], row["messages"][-1:]
    if not prompt or not completion:
        raise ValueError(f"{name}: found no prompt or no completion; expected both.")
    prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    if completion[-1]["role"] != "assistant":
        raise ValueError(f"{name}: found a last turn of the role {completion[-1]['role']!r}; expected 'assistant'.")
    for turn in (*prompt, *completion):
        if not isinstance(turn["content"], str):
            raise ValueError(
                f"{name}: found the content {turn['content']!r} in a turn of the role {turn['role']!r}; expected a "
                "text. Leave such rows out."
            )
    return {"prompt": _plain(prompt), "completion": _plain(completion)}


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _check_renders(turns: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    try:
        tokenizer.apply_chat_template(turns, tokenize=False)
    except (jinja2.TemplateError, ValueError) as error:
        raise ValueError(
            f"{name}: the judge's chat template refuses turns of the roles {[turn['role'] for turn in turns]} "
            f"({error}). Join a system turn with the first user turn, or leave such rows out."
        ) from error
