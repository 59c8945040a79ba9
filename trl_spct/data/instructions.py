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

    A dataset has `messages`, whose last turn is the completion, or `prompt` and `completion`, texts or messages;
    several are joined. Of each sequence of roles one row is rendered in the judge's chat template.
    """
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        parts = [instruction_rows(part, tokenizer, f"{name}[{i}]") for i, part in enumerate(dataset)]
        empty = Dataset.from_dict({column: [] for column in _FEATURES}, features=_FEATURES)
        return concatenate_datasets(parts) if parts else empty
    _check_columns(dataset, name)
    rendered: set[tuple[str, ...]] = set()

    def convert(row: dict[str, Any], number: int) -> dict[str, Any]:
        converted = _messages(row, f"{name} row {number}")
        turns = [*converted["prompt"], *converted["completion"]]
        roles = tuple(turn["role"] for turn in turns)
        if roles not in rendered:
            try:
                tokenizer.apply_chat_template(turns, tokenize=False)
            except (jinja2.TemplateError, ValueError) as error:
                raise ValueError(
                    f"{name} row {number}: the judge's chat template refuses turns of the roles {[*roles]} ({error}). "
                    "Join a system turn with the first user turn, or leave such rows out."
                ) from error
            rendered.add(roles)
        return converted

    return dataset.with_format(None).map(
        convert, with_indices=True, remove_columns=dataset.column_names, features=_FEATURES, load_from_cache_file=False
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
    sides = {}
    for column, side, role in (("prompt", prompt, "user"), ("completion", completion, "assistant")):
        messages = [{"role": role, "content": side}] if isinstance(side, str) else side
        sides[column] = [{"role": message["role"], "content": message["content"]} for message in messages]
    last = sides["completion"][-1]["role"]
    if last != "assistant":
        raise ValueError(f"{name}: found a last turn of the role {last!r}; expected 'assistant'.")
    for turn in (*sides["prompt"], *sides["completion"]):
        if not isinstance(turn["content"], str):
            raise ValueError(
                f"{name}: found the content {turn['content']!r} in a turn of the role {turn['role']!r}; expected a "
                "text. Leave such rows out."
            )
    return sides
