# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Loading of benchmarks, from the Hub or from a local copy, with a check of their counts and balances."""

import gzip
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from huggingface_hub.errors import HfHubHTTPError

from ..data.loading import load_named
from ..data.preparation import InvalidRows, prepare_preferences
from ..jobs import rows_digest
from ..judge.preferences import InvalidPreference
from .benchmarks import BENCHMARKS, Benchmark, Item, Part, preference_items


logger = logging.getLogger(__name__)

Rows: TypeAlias = Dataset | Sequence[Mapping[str, Any]]
_COMMIT = re.compile("[0-9a-f]{40}")
_READABLE = (".json", ".jsonl", ".gz", ".parquet", ".csv")


class ChangedBenchmark(ValueError):
    """The rows of a benchmark differ from the recorded ones."""


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark with its items.

    Args:
        benchmark ([`Benchmark`]): The benchmark.
        items (tuple of [`Item`]): Its items.
        facts (`dict`): JSON-like, for results and cards: source and Hub `revisions`, numbers of rows, `digest` of the
            items, `differences` from the recorded counts, and which counts are `unrecorded`.
    """

    benchmark: Benchmark
    items: tuple[Item, ...]
    facts: dict[str, Any]

    def sampled(self, max_items: int | None, seed: int = 0) -> "LoadedBenchmark":
        """The benchmark with a random sample of `max_items` items, in their order."""
        if max_items is None or max_items >= len(self.items):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.items)), max_items))
        items = tuple(self.items[i] for i in chosen)
        facts = {**self.facts, "sampled_items": max_items, "sample_seed": seed, "digest": items_digest(items)}
        return replace(self, items=items, facts=facts)


def load_benchmark(name: str, path: str | None = None, check: bool = True) -> LoadedBenchmark:
    """Loads a benchmark and compares it with the recorded counts and balances.

    Args:
        name (`str`): One of [`~trl_spct.evaluation.benchmarks.BENCHMARKS`].
        path (`str`, *optional*):
            A local copy: a file for a benchmark of one table, else a folder, such as a clone of its repository.
            Defaults to the Hub.
        check (`bool`, *optional*, defaults to `True`):
            Raise if counts or balances differ. Otherwise a warning is logged and the facts hold the difference.
            Missing tables and columns always raise.

    Raises:
        [`ChangedBenchmark`]: With the differences.
        `FileNotFoundError`: With the missing table.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"Found benchmark {name!r}; expected one of {sorted(BENCHMARKS)}.")
    benchmark = BENCHMARKS[name]
    items: list[Item] = []
    counts, differences, revisions = {}, [], {}
    for part in benchmark.parts:
        rows = _part_rows(benchmark, part, path)
        revisions.update(_revision(part, rows))
        differences += _differences(benchmark, part, rows)
        counts[part.name] = len(rows)
        items += _read(benchmark, part, rows)
    if differences:
        message = f"{name} differs from the recorded benchmark: {'; '.join(differences)}."
        if check:
            raise ChangedBenchmark(
                f"{message} Use the authors' files, or accept the difference, which the results will state "
                "(`check=False`; `--allow_changed` for the script)."
            )
        logger.warning("%s Results are not comparable with published ones.", message)
    unique = _with_unique_ids(items)
    unrecorded = _unrecorded(benchmark)
    if unrecorded:
        logger.warning("%s: not recorded, and so not compared: %s.", name, "; ".join(unrecorded))
    facts = {
        "benchmark": name,
        "from": Path(path).name if path else sorted({part.path for part in benchmark.parts if part.path is not None}),
        "revisions": revisions,
        "rows": counts,
        "items": len(unique),
        "digest": items_digest(unique),
        "differences": differences,
        "unrecorded": unrecorded,
    }
    return LoadedBenchmark(benchmark, unique, facts)


def load_rows(
    benchmark: Benchmark,
    rows: Rows,
    source: str | None = None,
    invalid_rows: InvalidRows = "error",
    group_column: str | None = None,
    where: str | None = None,
) -> LoadedBenchmark:
    """Loads user rows, in any shape or schema that [`~trl_spct.data.preparation.prepare_preferences`] reads.

    Args:
        benchmark ([`Benchmark`]): From [`~trl_spct.evaluation.benchmarks.rows_benchmark`].
        rows ([`~datasets.Dataset`] or sequence of rows): With labels.
        source, invalid_rows: See [`~trl_spct.data.preparation.prepare_preferences`].
        group_column (`str`, *optional*): Column whose values are the groups.
        where (`str`, *optional*): Source of the rows, for the facts.
    """
    prepared = prepare_preferences(rows, source, invalid_rows, benchmark.name)
    items = _with_unique_ids(list(preference_items(prepared.dataset, group_column)))
    facts: dict[str, Any] = {
        "benchmark": benchmark.name,
        "from": where,
        "rows": {benchmark.name: prepared.num_read},
        "dropped": prepared.dropped,
        "items": len(items),
        "digest": items_digest(items),
        "differences": [],
    }
    return LoadedBenchmark(benchmark, items, facts)


def items_digest(items: Sequence[Item]) -> str:
    """A hash of the prompts and labels of items."""
    return rows_digest(
        (item.id, item.group, item.labels, [(r.query, r.responses, r.reference, r.principles) for r in item.rows])
        for item in items
    )


def _read(benchmark: Benchmark, part: Part, rows: Rows) -> list[Item]:
    try:
        return list(benchmark.read(part, rows))
    except InvalidPreference as error:
        reason = f"a row cannot be read ({error.cause})." if benchmark.private else str(error)  # errors quote rows
        raise InvalidPreference(f"{benchmark.name}, {part.name}: {reason}", error.cause) from None
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ChangedBenchmark(
            f"{benchmark.name}, {part.name}: found a row that is not in the authors' schema "
            f"({type(error).__name__}: {error}); expected their files."
        ) from error


def _differences(benchmark: Benchmark, part: Part, rows: Rows) -> list[str]:
    columns = set(rows.column_names) if isinstance(rows, Dataset) else {column for row in rows for column in row}
    missing = sorted(benchmark.columns - columns)
    if missing:
        raise ChangedBenchmark(
            f"{benchmark.name}, {part.name}: found the columns {sorted(columns)}; expected {missing} among them."
        )
    differences = []
    if part.rows is not None and len(rows) != part.rows:
        differences.append(f"{part.name} has {len(rows)} rows instead of {part.rows}")
    if part.balance is not None and benchmark.balance_of is not None:
        counts = Counter(map(benchmark.balance_of, rows))
        recorded = Counter(part.balance)
        changed = [value for value in {**recorded, **counts} if counts[value] != recorded[value]]
        if changed:
            shown = ", ".join(f"{counts[value]} {value} instead of {recorded[value]}" for value in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            differences.append(f"{part.name} has {shown}{more}")
    return differences


def _unrecorded(benchmark: Benchmark) -> list[str]:
    """Counts and balances that are not known for certain, so that a change in them goes unnoticed."""
    counts = [f"number of rows of {part.name}" for part in benchmark.parts if part.rows is None]
    if benchmark.balance_of is None:
        return counts
    return counts + [f"balance of {part.name}" for part in benchmark.parts if part.balance is None]


def _revision(part: Part, rows: Rows) -> dict[str | None, str]:
    """Repository to commit, for rows from the Hub: the commit names the cache folder of `datasets`."""
    files = rows.cache_files if isinstance(rows, Dataset) else ()
    commit = next((name for file in files if _COMMIT.fullmatch(name := Path(file["filename"]).parent.name)), None)
    return {} if commit is None else {part.path: commit}


def _with_unique_ids(items: Sequence[Item]) -> tuple[Item, ...]:
    seen: Counter[str] = Counter()
    unique = []
    for item in items:
        seen[item.id] += 1
        unique.append(item if seen[item.id] == 1 else replace(item, id=f"{item.id}#{seen[item.id]}"))
    return tuple(unique)


# --- tables ---


def _part_rows(benchmark: Benchmark, part: Part, path: str | None) -> Rows:
    if path is None:
        return _hub_rows(benchmark, part)
    place = Path(path)
    if place.is_file():
        if len(benchmark.parts) > 1:
            raise FileNotFoundError(
                f"{benchmark.name} has {len(benchmark.parts)} tables; expected a folder, found the file {path}."
            )
        return _read_file(place)
    if not place.is_dir():
        raise FileNotFoundError(f"{benchmark.name}: found no file or folder {path}.")
    if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
        loaded = load_from_disk(path)
        return loaded if isinstance(loaded, Dataset) else _split(benchmark, part, loaded)
    for pattern in part.files:
        files = sorted(file for file in place.glob(pattern) if file.suffix in _READABLE and file.is_file())
        if files:
            return [row for file in files for row in _read_file(file)]
    raise FileNotFoundError(
        f"{benchmark.name}: found no file for {part.name} in {path}; expected one like {' or '.join(part.files)}."
    )


def _hub_rows(benchmark: Benchmark, part: Part) -> Rows:
    if part.path is None:
        raise FileNotFoundError(
            f"{benchmark.name} is not on the Hub; name a local copy of its files (`path`; `--benchmarks "
            f"{benchmark.name}=FOLDER` for the script)."
        )
    try:
        return load_dataset(part.path, name=part.config, split=part.split)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"{benchmark.name}: could not load {part.path}{f' ({part.config})' if part.config else ''}, split "
            f"`{part.split}`, from the Hub. Check the network and, for gated data, your login, or name a local copy "
            f"(`path`; `--benchmarks {benchmark.name}=FOLDER` for the script)."
        ) from error


def _split(benchmark: Benchmark, part: Part, loaded: DatasetDict) -> Dataset:
    if part.split not in loaded:
        raise FileNotFoundError(f"{benchmark.name}: found the splits {sorted(loaded)}; expected `{part.split}`.")
    return loaded[part.split]


def _read_file(file: Path) -> list[Mapping[str, Any]]:
    """Rows of a file. JSON is read without `datasets`, whose tables cannot hold columns of mixed types."""
    suffixes = [suffix for suffix in file.suffixes if suffix in _READABLE]
    if ".json" not in suffixes and ".jsonl" not in suffixes:
        return list(load_named(str(file))["train"])
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as stream:
        text = stream.read()
    try:
        if text.lstrip().startswith("["):
            return json.loads(text)
        return [json.loads(line) for line in text.split("\n") if line.strip()]  # texts may hold other separators
    except json.JSONDecodeError as error:
        raise ChangedBenchmark(
            f"{file} is not JSON: {error}. It may be truncated, or a Git LFS pointer (`git lfs pull`)."
        ) from None
