# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Loading of preference rows for the recipes, and the end of a training script."""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import datasets
import fsspec
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.constants import ENDPOINT
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

from ..judge.hub import PushError, is_repo_id, model_push_command
from .preparation import InvalidRows, prepare_preferences

logger = logging.getLogger(__name__)

_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def load_preferences(
    script_args: ScriptArguments,
    dataset_args: DatasetMixtureConfig,
    source: str | None = None,
    invalid_rows: InvalidRows = "error",
    seed: int = 42,
    splits: Sequence[str] | None = None,
    prompt_column: str | None = None,
) -> DatasetDict:
    """Preference rows by split, from a Hub id, a local folder, a JSON, parquet or CSV file, or a mixture of these.

    The parts of a mixture may differ in their schemas: each is prepared on its own, see [`prepare_preferences`].
    `splits` are those that are needed, all by default; `seed` draws the test split of a mixture."""
    if script_args.dataset_streaming or dataset_args.streaming:
        raise ValueError("Found streaming of the dataset; expected none: all preference rows are checked first.")
    options: dict[str, Any] = {"source": source, "invalid_rows": invalid_rows}
    if dataset_args.datasets:
        if script_args.dataset_name:
            logger.warning("Both `datasets` and `dataset_name` are given; `dataset_name` is ignored.")
        loaded = _load_mixture(dataset_args, seed, prompt_column, options)
        _check_splits("The mixture", loaded, splits)
        return loaded
    if not script_args.dataset_name:
        raise ValueError("Either `datasets` or `dataset_name` must be provided.")
    options["prompt_column"] = prompt_column
    loaded = load_rows(script_args.dataset_name, script_args.dataset_config, splits)
    return DatasetDict(
        {name: prepare_preferences(loaded[name], name=name, **options).dataset for name in splits or loaded}
    )


def load_rows(
    name: str, config: str | None = None, splits: Sequence[str] | None = None
) -> Mapping[str, Dataset | list[dict[str, Any]]]:
    """As [`load_named`], but JSON lines that mix types in a column are read as a list; `splits` must be there."""
    loaded: Mapping[str, Dataset | list[dict[str, Any]]]
    try:
        loaded = load_named(name, config)
    except DatasetGenerationError:
        if _builder_of(name) != "json" or not os.path.isfile(name):
            raise
        logger.warning("%s holds values of different types in one column; reading it row by row.", name)
        loaded = {"train": _read_json(name)}
    _check_splits(name, loaded, splits)
    return loaded


def _check_splits(name: str, loaded: Mapping[str, Any], splits: Sequence[str] | None) -> None:
    missing = sorted(set(splits or ()) - set(loaded))
    if missing:
        raise ValueError(
            f"{name} has the splits {sorted(loaded)}; expected {missing} among them. Name another split, "
            "or cut one from a mixture (`test_split_size`)."
        )


def dataset_name_of(script_args: ScriptArguments, dataset_args: DatasetMixtureConfig) -> str | None:
    """Name of the data on a model card; a mixture has none."""
    return None if dataset_args.datasets else script_args.dataset_name


def load_named(name: str, config: str | None = None) -> DatasetDict:
    """A dataset by Hub id, from a local folder, or from a JSON, parquet or CSV file, which may be compressed; `*`
    names several. Errors name the line that is not JSON."""
    path = Path(name)
    if (builder := _builder_of(name)) and not path.is_dir():
        return _load_files(name, builder)
    if not path.exists() and not is_repo_id(name):
        raise FileNotFoundError(
            f"Found no file or folder {os.path.abspath(name)}; expected one, or the id of a dataset on the Hub."
        )
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        loaded = load_from_disk(name)
        return DatasetDict({"train": loaded}) if isinstance(loaded, Dataset) else loaded
    return load_dataset(name, name=config, cache_dir=_cache_of(path) if path.is_dir() else None)


def _builder_of(name: str) -> str | None:
    return next((_BUILDERS[suffix] for suffix in reversed(Path(name).suffixes) if suffix in _BUILDERS), None)


def _load_files(name: str, builder: str) -> DatasetDict:
    files = _files_of(name)
    if not files:
        raise FileNotFoundError(f"Found no file {os.path.abspath(name)}; expected an existing file. Check the path.")
    empty = [file for file in files if not os.path.getsize(file)]
    if empty:
        raise ValueError(f"The file {empty[0]} is empty; expected at least one row.")
    options = _csv_options(builder, files)
    try:
        return load_dataset(builder, data_files=name, **options)
    except (ValueError, EOFError, DatasetGenerationError) as error:
        if "no data" in str(error):
            raise ValueError(f"The file {name} holds no rows; expected at least one.") from error
        for file in files if builder == "json" else ():
            _read_json(file)
        if builder == "json":
            raise
        raise ValueError(f"{name} cannot be read as {builder}: {error.__cause__ or error}") from error


def _files_of(name: str) -> list[str]:
    return glob(name) if "*" in name else [name] if os.path.isfile(name) else []


def _csv_options(builder: str, names: Any) -> dict[str, Any]:
    """How CSV files are read: "NA" may be an answer. Refuses local ones whose rows have too many cells."""
    if builder != "csv":
        return {}
    for part in names.values() if isinstance(names, dict) else [names]:
        for name in [part] if isinstance(part, str) else part or ():
            for file in _files_of(name):
                _check_csv(file)
    return {"keep_default_na": False, "na_values": [""]}


def _read_json(name: str) -> list[Any]:
    """Rows of a file of JSON lines, or of one JSON list."""
    try:
        with fsspec.open(name, "rb", compression="infer") as file:
            content = file.read()
    except EOFError as error:
        raise ValueError(f"The file {name} is cut off: {error}") from error
    is_list = content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    rows = []
    for number, text in enumerate([content] if is_list else content.split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            rows.append(json.loads(text))
        except json.JSONDecodeError as error:
            number, reason = number + error.lineno - 1, f"JSON: {error.msg} at column {error.colno}"
        except UnicodeDecodeError as error:
            number, reason = number + text.count(b"\n", 0, error.start), f"UTF-8: {error.reason}"
        else:
            continue
        raise ValueError(f"{name} line {number} is not {reason}; expected one row a line, or a list of rows.")
    return rows[0] if is_list else rows


def _check_csv(name: str) -> None:
    """Refuses rows of more cells than the header has, whose cells would be read into other columns."""
    csv.field_size_limit(2**31 - 1)
    with fsspec.open(name, "rt", compression="infer", newline="", errors="replace") as file:
        rows = csv.reader(file)
        columns = len(next(rows, []))
        for row in rows:
            if len(row) > columns:
                raise ValueError(
                    f"{name} line {rows.line_num} has {len(row)} cells, and the header has {columns}; expected as "
                    "many. Put texts with commas into quotes."
                )


def _cache_of(folder: Path) -> str:
    """A cache for the present state of a folder: `datasets` (5.2) identifies one with a card by its last name and the
    card, and would read one run's `trajectories` from the cache of another run."""
    state = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=16)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        stat = file.stat()
        state.update(f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}".encode())
    return os.path.join(datasets.config.HF_DATASETS_CACHE, "folders", state.hexdigest())


def _load_mixture(
    mixture: DatasetMixtureConfig, seed: int, prompt_column: str | None, options: dict[str, Any]
) -> DatasetDict:
    parts = []
    for part in mixture.datasets:
        folder = Path(part.path)
        rows = load_dataset(  # as `trl.get_dataset` does, but for the cache
            part.path,
            part.name,
            data_dir=part.data_dir,
            data_files=part.data_files,
            split=part.split,
            cache_dir=_cache_of(folder) if folder.is_dir() else None,
            **_csv_options(part.path, part.data_files),
        )
        rows = rows if part.columns is None else rows.select_columns(part.columns)
        name = part.data_files if isinstance(part.data_files, str) else part.path
        column = prompt_column if prompt_column in rows.column_names else None
        parts.append(prepare_preferences(rows, name=name, prompt_column=column, **options).dataset)
    rows = concatenate_datasets(with_same_columns(_at_fractions(parts, [part.fraction for part in mixture.datasets])))
    if mixture.test_split_size is None:
        return DatasetDict({"train": rows})
    return rows.train_test_split(test_size=mixture.test_split_size, seed=seed)


def _at_fractions(parts: list[Dataset], fractions: list[float | None]) -> list[Dataset]:
    shares = [fraction for fraction in fractions if fraction is not None]
    if not shares:
        return parts
    if len(shares) < len(parts):
        raise ValueError("`fraction` must be set for either all datasets in the mixture or none of them.")
    weights = [share / sum(shares) for share in shares]
    total = min(len(part) / weight for part, weight in zip(parts, weights, strict=True) if weight > 0)
    return [part.select(range(round(weight * total))) for part, weight in zip(parts, weights, strict=True)]


def with_same_columns(parts: list[Dataset]) -> list[Dataset]:
    """Removes the columns whose types differ between parts; queries become messages where some parts have these."""
    types: dict[str, set[str]] = {}
    for part in parts:
        for name, feature in part.features.items():
            types.setdefault(name, set()).add(str(feature))
    mixed = sorted(name for name, alternatives in types.items() if len(alternatives) > 1)
    if {"query", "responses", "labels"}.intersection(mixed):
        parts = [_as_messages(part) for part in parts]
        mixed = [name for name in mixed if name != "query"]
    if mixed:
        logger.warning("Left out the columns %s, whose types differ between the parts of the mixture.", mixed)
    return [part.remove_columns([name for name in mixed if name in part.column_names]) for part in parts]


def _as_messages(part: Dataset) -> Dataset:
    """Queries as messages, which a judge reads as it reads texts."""
    if getattr(part.features["query"], "dtype", None) != "string":
        return part
    queries = [[{"role": "user", "content": query}] for query in part["query"]]
    return part.remove_columns("query").add_column("query", queries)


def set_model_init_kwargs(training_args: Any, model_args: ModelConfig) -> None:
    """Copies the model options of the command line to `model_init_kwargs`, as TRL's scripts do."""
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }


def find_templates(training_args: Any, recipes: Path) -> None:
    """Resolves templates that are files of the recipes, such as `recipes/chat_templates/…`, from any folder."""
    for name in ("chat_template_path", "template"):
        path = Path(getattr(training_args, name) or "")
        packaged = recipes.joinpath(*path.parts[1:])
        if path.parts[:1] == ("recipes",) and not path.exists() and packaged.is_file():
            setattr(training_args, name, str(packaged))


def finish(trainer: Any, dataset_name: str | None = None) -> None:
    """Saves the model with tokenizer and card, pushes it if `push_to_hub` is set, and closes the trackers.

    Exits with the commands that push again if a push failed, now or earlier in the run."""
    args = trainer.args
    folder = os.path.abspath(args.output_dir)
    try:
        if args.push_to_hub:
            again = model_push_command(trainer.hub_model_id or Path(folder).name, args)
            trainer.accelerator.print(
                f"Saving to {folder}, then pushing. If that is interrupted, push again with\n    {again}"
            )
            with trainer.tolerating_push_errors():
                trainer.push_to_hub(dataset_name=dataset_name)  # saves before it pushes
                trainer.accelerator.print(f"Pushed to {ENDPOINT}/{trainer.hub_model_id}")
        else:
            trainer.save_model(args.output_dir)
            trainer.create_model_card(model_name=Path(args.output_dir).name, dataset_name=dataset_name)
        trainer.accelerator.print(f"Saved to {folder}")
    finally:
        trainer.end()
    exit_on_push_errors(trainer.push_errors)


def exit_on_push_errors(errors: Sequence[PushError]) -> None:
    """Ends a script with the errors of pushes that failed."""
    if errors:
        raise SystemExit("\n".join(map(str, errors)))


def push_or_exit(*pushes: Callable[[], Any]) -> None:
    """Tries all pushes, then ends the script with the errors of those that failed."""
    errors = []
    for push in pushes:
        try:
            push()
        except PushError as error:
            errors.append(error)
    exit_on_push_errors(errors)
