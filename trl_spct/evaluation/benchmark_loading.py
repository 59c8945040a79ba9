# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks from the Hub or from a local copy, compared with what is recorded of them before anything is judged."""

import gzip
import json
import logging
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from huggingface_hub.errors import HfHubHTTPError

from ..data.loading import load_named
from ..data.preparation import prepare_preferences
from ..jobs import rows_digest
from ..judge.preferences import InvalidPreference
from .benchmarks import BENCHMARKS, Benchmark, Item, Part, preference_items


logger = logging.getLogger(__name__)

Rows = Dataset | Sequence[Mapping[str, Any]]
_NAMED = 3
_COMMIT = re.compile("[0-9a-f]{40}")
_READABLE = (".json", ".jsonl", ".gz", ".parquet", ".csv")


class ChangedBenchmark(ValueError):
    """A benchmark whose rows are not those that are recorded of it."""


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark with its items.

    Args:
        benchmark ([`Benchmark`]): What it is.
        items (tuple of [`Item`]): What is judged.
        facts (`dict`): Where the rows came from, how many there are, a hash of the items, and how they differ from
            what is recorded, as far as something is (`unrecorded`); the `revisions` of Hub repositories that they
            were read from; for results and cards.
    """

    benchmark: Benchmark
    items: tuple[Item, ...]
    facts: dict[str, Any]

    def sampled(self, max_items: int | None, seed: int = 0) -> "LoadedBenchmark":
        """The same benchmark with a random sample of so many items, in their order."""
        if max_items is None or max_items >= len(self.items):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.items)), max_items))
        items = tuple(self.items[i] for i in chosen)
        facts = {**self.facts, "sampled_items": max_items, "sample_seed": seed, "digest": items_digest(items)}
        return replace(self, items=items, facts=facts)


def load_benchmark(name: str, path: str | None = None, check: bool = True) -> LoadedBenchmark:
    """Loads a benchmark and compares it with what is recorded of it.

    Args:
        name (`str`): One of [`~trl_spct.evaluation.benchmarks.BENCHMARKS`].
        path (`str`, *optional*):
            A local copy: a file for a benchmark of one table, else a folder, such as a clone of its repository. Read
            from the Hub if not given.
        check (`bool`, *optional*, defaults to `True`):
            Whether rows that differ in number or balance from what is recorded are an error. They are a warning
            otherwise, and named in the facts. Missing tables and columns are an error in any case.

    Raises:
        [`ChangedBenchmark`]: naming what differs.
        `FileNotFoundError`: naming the table that is not there.
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
        message = f"{name} is not what is recorded of it: {'; '.join(differences)}."
        if check:
            raise ChangedBenchmark(
                f"{message} Take the authors' files, or accept the difference, which the results will state "
                "(`check=False`; `--allow_changed` for the script)."
            )
        logger.warning("%s Results are not comparable with published ones.", message)
    unique = _with_unique_ids(items)
    unrecorded = _unrecorded(benchmark)
    if unrecorded:
        logger.warning("%s: not recorded, and so not compared: %s.", name, "; ".join(unrecorded))
    facts = {
        "benchmark": name,
        "from": Path(path).name if path else sorted({part.path for part in benchmark.parts}),
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
    invalid_rows: str = "error",
    group_column: str | None = None,
    where: str | None = None,
) -> LoadedBenchmark:
    """Rows of one's own, in any shape or schema that [`~trl_spct.data.preparation.prepare_preferences`] reads.

    Args:
        benchmark ([`Benchmark`]): What [`~trl_spct.evaluation.benchmarks.rows_benchmark`] returns.
        rows ([`~datasets.Dataset`] or sequence of rows): With labels.
        source, invalid_rows: See [`~trl_spct.data.preparation.prepare_preferences`].
        group_column (`str`, *optional*): The column by whose values results are broken down.
        where (`str`, *optional*): Where the rows came from, for the facts.
    """
    prepared = prepare_preferences(rows, source, invalid_rows, benchmark.name)
    items = _with_unique_ids(list(preference_items(prepared.dataset, group_column)))
    facts = {
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
    """A hash of what a judge is asked and of what is true."""
    return rows_digest(
        (item.id, item.group, item.labels, [(r.query, r.responses, r.reference, r.principles) for r in item.rows])
        for item in items
    )


def _read(benchmark: Benchmark, part: Part, rows: Rows) -> list[Item]:
    try:
        return list(benchmark.read(part, rows))
    except InvalidPreference as error:
        message = f"{benchmark.name}, {part.name}: "
        # What is wrong with a row is told by quoting it.
        message += f"a row cannot be read ({error.cause})." if benchmark.private else str(error)
        raise InvalidPreference(message, error.cause) from None
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
    found = []
    if part.rows is not None and len(rows) != part.rows:
        found.append(f"{part.name} has {len(rows)} rows instead of {part.rows}")
    if part.balance is not None:
        counted = Counter(benchmark.balance_of(row) for row in rows)
        changed = [value for value in {**part.balance, **counted} if counted[value] != part.balance.get(value, 0)]
        named = [f"{counted[value]} {value} instead of {part.balance.get(value, 0)}" for value in changed[:_NAMED]]
        if changed:
            more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
            found.append(f"{part.name} has {', '.join(named)}{more}")
    return found


def _unrecorded(benchmark: Benchmark) -> list[str]:
    """What nobody could be sure of, and what therefore may change unnoticed."""
    counts = [f"number of rows of {part.name}" for part in benchmark.parts if part.rows is None]
    if benchmark.balance_of is None:
        return counts
    return counts + [f"balance of {part.name}" for part in benchmark.parts if part.balance is None]


def _revision(part: Part, rows: Rows) -> dict[str, str]:
    """From the repository to its commit, for rows from the Hub: `datasets` names the folder of its cache after it."""
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
        return _file_rows([place])
    if not place.is_dir():
        raise FileNotFoundError(f"{benchmark.name}: found no file or folder {path}.")
    if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
        loaded = load_from_disk(path)
        return loaded if isinstance(loaded, Dataset) else _split(benchmark, part, loaded)
    for pattern in part.files:
        files = sorted(file for file in place.glob(pattern) if file.suffix in _READABLE and file.is_file())
        if files:
            return _file_rows(files)
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


def _file_rows(files: Sequence[Path]) -> list[Mapping[str, Any]]:
    return [row for file in files for row in _rows_of_file(file)]


def _rows_of_file(file: Path) -> list[Mapping[str, Any]]:
    """JSON is read as it is: tables of `datasets` cannot hold columns of mixed types."""
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
            f"{file} is not JSON: {error}. It may have been cut off, or be a pointer of Git LFS (`git lfs pull`)."
        ) from None
