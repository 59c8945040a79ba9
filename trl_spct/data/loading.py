# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What the recipes share: reading preference rows from wherever they are, and what comes before and after training."""

import gzip
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.constants import ENDPOINT
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments
from trl.scripts.utils import DatasetConfig

from ..judge.hub import PushError, model_push_command
from .preparation import prepare_preferences


logger = logging.getLogger(__name__)

_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def load_preferences(
    script_args: ScriptArguments,
    dataset_args: DatasetMixtureConfig,
    source: str | None = None,
    invalid_rows: str = "error",
    seed: int = 42,
    splits: Sequence[str] | None = None,
) -> DatasetDict:
    """Preference rows from a Hub id, a local folder, a JSON, parquet or CSV file, or a mixture of such.

    Each part of a mixture is brought to preference rows on its own, so that parts may differ in their schemas;
    `fraction` and `test_split_size` mean what they mean in [`~trl.DatasetMixtureConfig`].

    Args:
        script_args ([`~trl.ScriptArguments`]): `dataset_name` is an id, a folder or a file.
        dataset_args ([`~trl.DatasetMixtureConfig`]): `datasets` is the mixture; it goes before `dataset_name`.
        source (`str`, *optional*): Source adapter for all parts; recognized by columns if not given.
        invalid_rows (`str`, *optional*, defaults to `"error"`): See [`prepare_preferences`].
        seed (`int`, *optional*, defaults to `42`): Of the test split.
        splits (sequence of `str`, *optional*): The splits that are needed; all by default.

    Returns:
        [`~datasets.DatasetDict`] of preference rows by split.
    """
    if script_args.dataset_streaming:
        raise ValueError("`dataset_streaming` is not supported: all preference rows are checked before training.")
    if dataset_args.datasets:
        if script_args.dataset_name:
            logger.warning("Both `datasets` and `dataset_name` are given; `dataset_name` is ignored.")
        loaded = _load_mixture(dataset_args, source, invalid_rows, seed)
        _check_splits("The mixture", loaded, splits)
        return loaded
    if not script_args.dataset_name:
        raise ValueError("Either `datasets` or `dataset_name` must be provided.")
    loaded = load_rows(script_args.dataset_name, script_args.dataset_config, splits)
    return DatasetDict(
        {
            split: prepare_preferences(rows, source, invalid_rows, split).dataset
            for split, rows in loaded.items()
            if splits is None or split in splits
        }
    )


def load_rows(
    name: str, config: str | None = None, splits: Sequence[str] | None = None
) -> Mapping[str, Dataset | list[dict[str, Any]]]:
    """Rows as they are, by split. Those of a JSON lines file that mixes types in a column come as a list.

    Args:
        name, config: See [`load_named`].
        splits (sequence of `str`, *optional*): The splits that must be there.
    """
    try:
        loaded = load_named(name, config)
    except DatasetGenerationError:
        if not _is_json_lines(name):
            raise
        logger.warning("%s holds values of different types in one column; reading it row by row.", name)
        loaded = {"train": _read_json_lines(name)}
    _check_splits(name, loaded, splits)
    return loaded


def _check_splits(name: str, loaded: Mapping[str, Any], splits: Sequence[str] | None) -> None:
    missing = sorted(set(splits or ()) - set(loaded))
    if missing:
        raise ValueError(
            f"{name} has the splits {sorted(loaded)}; expected {missing} among them. `dataset_train_split` and "
            "`dataset_test_split` name them; `test_split_size` cuts one from a mixture."
        )


def dataset_name_of(script_args: ScriptArguments, dataset_args: DatasetMixtureConfig) -> str | None:
    """What a card calls the data; a mixture has no name."""
    return None if dataset_args.datasets else script_args.dataset_name


def load_named(name: str, config: str | None = None) -> DatasetDict:
    """A dataset by Hub id, from a local folder, or from a JSON, parquet or CSV file."""
    path = Path(name)
    suffix = next((suffix for suffix in reversed(path.suffixes) if suffix in _BUILDERS), None)
    if suffix and (path.is_file() or "*" in name):
        return load_dataset(_BUILDERS[suffix], data_files=name)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        loaded = load_from_disk(name)
        return DatasetDict({"train": loaded}) if isinstance(loaded, Dataset) else loaded
    return load_dataset(name, name=config, cache_dir=_cache_of(path) if path.is_dir() else None)


def _cache_of(folder: Path) -> str:
    """A cache of its own for a local folder as it is now.

    `datasets` (5.2) knows a folder with a card by the folder's last name and the card: it would read one run's
    `trajectories` from the cache of another's, or of what they were before.
    """
    state = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=16)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        found = file.stat()
        state.update(f"{file.relative_to(folder)} {found.st_size} {found.st_mtime_ns}".encode())
    return os.path.join(datasets.config.HF_DATASETS_CACHE, "folders", state.hexdigest())


def _is_json_lines(name: str) -> bool:
    return ".jsonl" in Path(name).suffixes and Path(name).is_file()


def _read_json_lines(name: str) -> list[dict[str, Any]]:
    with (gzip.open if name.endswith(".gz") else open)(name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _load_mixture(mixture: DatasetMixtureConfig, source: str | None, invalid_rows: str, seed: int) -> DatasetDict:
    if mixture.streaming:
        raise ValueError("`streaming` is not supported: all preference rows are checked before training.")
    parts = []
    for part in mixture.datasets:
        name = part.data_files if isinstance(part.data_files, str) else part.path
        parts.append(prepare_preferences(_load_part(part), source, invalid_rows, name).dataset)
    rows = concatenate_datasets(with_same_columns(_at_fractions(parts, [part.fraction for part in mixture.datasets])))
    if mixture.test_split_size is None:
        return DatasetDict({"train": rows})
    return rows.train_test_split(test_size=mixture.test_split_size, seed=seed)


def _load_part(part: DatasetConfig) -> Dataset:
    """As [`~trl.get_dataset`] does, but for the cache, see [`_cache_of`]."""
    folder = Path(part.path)
    rows = load_dataset(
        part.path,
        part.name,
        data_dir=part.data_dir,
        data_files=part.data_files,
        split=part.split,
        cache_dir=_cache_of(folder) if folder.is_dir() else None,
    )
    return rows if part.columns is None else rows.select_columns(part.columns)


def _at_fractions(parts: list[Dataset], fractions: list[float | None]) -> list[Dataset]:
    if all(fraction is None for fraction in fractions):
        return parts
    if any(fraction is None for fraction in fractions):
        raise ValueError("`fraction` must be set for either all datasets in the mixture or none of them.")
    weights = [fraction / sum(fractions) for fraction in fractions]
    total = min(len(part) / weight for part, weight in zip(parts, weights, strict=True) if weight > 0)
    return [part.select(range(round(weight * total))) for part, weight in zip(parts, weights, strict=True)]


def with_same_columns(parts: list[Dataset]) -> list[Dataset]:
    """Keeps what all parts understand alike: their own columns, and others of the same type everywhere."""
    if len(parts) == 1:
        return parts
    types: dict[str, set[str]] = {}
    for part in parts:
        for name, feature in part.features.items():
            types.setdefault(name, set()).add(str(feature))
    mixed = sorted(name for name, found in types.items() if len(found) > 1)
    if {"query", "responses", "labels"}.intersection(mixed):
        parts = [_as_messages(part) for part in parts]
        mixed = [name for name in mixed if name != "query"]
    if mixed:
        logger.warning("Left out the columns %s, whose types differ between the parts of the mixture.", mixed)
    return [part.remove_columns([name for name in mixed if name in part.column_names]) for part in parts]


def _as_messages(part: Dataset) -> Dataset:
    """Queries as message lists, which read the same to a judge as texts."""
    if not part.features["query"] or getattr(part.features["query"], "dtype", None) != "string":
        return part
    queries = [[{"role": "user", "content": query}] for query in part["query"]]
    return part.remove_columns("query").add_column("query", queries)


def set_model_init_kwargs(training_args: Any, model_args: ModelConfig) -> None:
    """Moves the model options of the command line to where the trainers look for them, as TRL's scripts do."""
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }


def find_chat_template(training_args: Any, recipes: Path) -> None:
    """Finds a chat template that came with the recipes, `recipes/chat_templates/…`, wherever a script is started."""
    path = Path(training_args.chat_template_path or "")
    if path.parts[:1] == ("recipes",) and not path.exists():
        beside = recipes.joinpath(*path.parts[1:])
        if beside.is_file():
            training_args.chat_template_path = str(beside)


def finish(trainer: Any, dataset_name: str | None = None) -> None:
    """Saves the model with tokenizer and card, pushes it if asked to, and closes the trackers.

    Raises:
        `SystemExit`: with a message for the terminal if a push failed, of the model now or of anything before. What
            was to be pushed is on this machine, and the message says how to push it again.
    """
    args = trainer.args
    place = os.path.abspath(args.output_dir)
    try:
        if args.push_to_hub:
            again = model_push_command(trainer.hub_model_id or Path(place).name, args)
            trainer.accelerator.print(
                f"Saving to {place}, then pushing. If that is cut off, push again with\n    {again}"
            )
            with trainer.tolerating_push_errors():
                trainer.push_to_hub(dataset_name=dataset_name)  # saves before it pushes
                trainer.accelerator.print(f"Pushed to {ENDPOINT}/{trainer.hub_model_id}")
        else:
            trainer.save_model(args.output_dir)
            trainer.create_model_card(model_name=Path(args.output_dir).name, dataset_name=dataset_name)
        trainer.accelerator.print(f"Saved to {place}")
    finally:
        trainer.end()
    exit_on_push_errors(trainer)


def exit_on_push_errors(trainer: Any) -> None:
    """Ends a script with all that could not be pushed, if anything could not."""
    _exit_with(trainer.push_errors)


def push_or_exit(*pushes: Callable[[], Any]) -> None:
    """Makes all of these pushes, and then ends a script with what could not be pushed, if anything could not."""
    errors = []
    for push in pushes:
        try:
            push()
        except PushError as error:
            errors.append(error)
    _exit_with(errors)


def _exit_with(errors: Sequence[PushError]) -> None:
    if errors:
        raise SystemExit("\n".join(map(str, errors)))
