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

from datasets import Dataset, load_dataset
from huggingface_hub.errors import HfHubHTTPError

from ..data.loading import load_named
from ..data.preparation import InvalidRows, prepare_preferences
from ..jobs import rows_digest
from ..judge.preferences import Preference
from .benchmarks import BENCHMARKS, ROC_AUC, Benchmark, Item, Part

logger = logging.getLogger(__name__)

Rows: TypeAlias = Dataset | Sequence[Mapping[str, Any]]
_COMMIT = re.compile("[0-9a-f]{40}")
_READABLE = (".json", ".jsonl", ".gz", ".parquet", ".csv")


class ChangedBenchmark(ValueError):
    """The rows of a benchmark differ from the recorded ones."""


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark with its items, and JSON-like facts for results and cards: source and Hub `revisions`, numbers of
    rows, `digest` of the items, and `differences` from the recorded counts."""

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
    """Loads one of [`~trl_spct.evaluation.benchmarks.BENCHMARKS`] from the Hub, or from a local copy: a file for one
    table, else a folder, for instance a clone of its repository.

    With `check`, other counts or balances than the recorded ones raise a [`ChangedBenchmark`]; otherwise a warning is
    logged and the facts hold the differences. Missing tables and columns always raise."""
    if name not in BENCHMARKS:
        raise ValueError(f"Found benchmark {name!r}; expected one of {sorted(BENCHMARKS)}.")
    benchmark = BENCHMARKS[name]
    items: list[Item] = []
    counts, differences = dict[str, int](), list[str]()
    revisions: dict[str | None, str] = {}
    for part in benchmark.parts:
        rows = _hub_rows(benchmark, part) if path is None else _local_rows(benchmark, part, Path(path))
        revisions |= _revision(part, rows)
        counts[part.name] = len(rows)
        items += _read(benchmark, part, rows)
        differences += _differences(benchmark, part, rows)
    if differences:
        message = f"{name} differs from the recorded benchmark: {'; '.join(differences)}."
        if check:
            raise ChangedBenchmark(
                f"{message} Use the authors' files, or accept the difference, which the results will state "
                "(`check=False`; `--allow_changed` for the script)."
            )
        logger.warning("%s Results are not comparable with published ones.", message)
    source = Path(path).name if path else sorted({part.path for part in benchmark.parts if part.path is not None})
    facts = {"from": source, "revisions": revisions, "rows": counts, "differences": differences}
    return _loaded(benchmark, items, facts)


def load_rows(
    benchmark: Benchmark,
    rows: Rows,
    source: str | None = None,
    invalid_rows: InvalidRows = "error",
    group_column: str | None = None,
    where: str | None = None,
    prompt_column: str | None = None,
) -> LoadedBenchmark:
    """Loads labeled user rows, in any shape that [`~trl_spct.data.preparation.prepare_preferences`] reads, grouped by
    `group_column`; `where` names the source of the rows in the facts."""
    prepared = prepare_preferences(rows, source, invalid_rows, benchmark.name, prompt_column=prompt_column)
    counts = {benchmark.name: prepared.num_read}
    facts: dict[str, Any] = {"from": where, "rows": counts, "dropped": prepared.dropped, "differences": []}
    items = []
    for number, row in zip(prepared.row_numbers, prepared.dataset, strict=True):
        preference = Preference.from_row(row)
        if preference.labels is None:
            raise ValueError(f"Row {number} has no labels; expected ground truth to compare a judge with.")
        if group_column is not None and group_column not in row:
            raise ValueError(f"Row {number} has no column `{group_column}`; found {sorted(row)}.")
        group = "rows" if group_column is None else str(row[group_column])
        name = str(number if row.get("id") in (None, "") else row["id"])
        if benchmark.metric is ROC_AUC and len(preference) > 1:
            raise ValueError(f"Row {name} has several responses; expected one per row for the metric ROC-AUC.")
        items.append(Item(name, group, (replace(preference, labels=None),), (preference.labels,)))
    return _loaded(benchmark, items, facts)


def _loaded(benchmark: Benchmark, items: Sequence[Item], facts: Mapping[str, Any]) -> LoadedBenchmark:
    seen, unique = Counter[str](), []
    for item in items:
        seen[item.id] += 1
        unique.append(item if seen[item.id] == 1 else replace(item, id=f"{item.id}#{seen[item.id]}"))
    facts = {"benchmark": benchmark.name, **facts, "items": len(unique), "digest": items_digest(unique)}
    return LoadedBenchmark(benchmark, tuple(unique), facts)


def items_digest(items: Sequence[Item]) -> str:
    """A hash of the prompts and labels of items."""
    return rows_digest(
        (item.id, item.group, item.labels, [(r.query, r.responses, r.reference, r.principles) for r in item.rows])
        for item in items
    )


def _read(benchmark: Benchmark, part: Part, rows: Rows) -> list[Item]:
    items: list[Item] = []
    number = 0
    try:
        for number, row in enumerate(rows):
            if (item := benchmark.read(part, row, number)) is not None:
                items.append(item)
        return benchmark.join(items)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = "" if benchmark.private else f" ({type(error).__name__}: {error})"  # errors quote rows
        raise ChangedBenchmark(
            f"{benchmark.name}, {part.name}: row {number} is not in the authors' schema{reason}; expected their files."
        ) from (None if benchmark.private else error)


def _differences(benchmark: Benchmark, part: Part, rows: Rows) -> list[str]:
    differences = []
    expected = part.rows if part.balance is None else sum(part.balance.values())
    if expected is not None and len(rows) != expected:
        differences.append(f"{part.name} has {len(rows)} rows instead of {expected}")
    if part.balance is not None and benchmark.balance_of is not None:
        counts, recorded = Counter(map(benchmark.balance_of, rows)), Counter(part.balance)
        if changed := [value for value in {**recorded, **counts} if counts[value] != recorded[value]]:
            shown = [f"{counts[value]} {value} instead of {recorded[value]}" for value in changed[:3]]
            differences.append(f"{part.name} has {', '.join(shown)}{', …' if len(changed) > 3 else ''}")
    return differences


def _revision(part: Part, rows: Rows) -> dict[str | None, str]:
    """Repository to commit, for rows from the Hub: the commit names the cache folder of `datasets`."""
    files = rows.cache_files if isinstance(rows, Dataset) else ()
    commit = next((name for file in files if _COMMIT.fullmatch(name := Path(file["filename"]).parent.name)), None)
    return {} if commit is None else {part.path: commit}


def _local_rows(benchmark: Benchmark, part: Part, path: Path) -> Rows:
    if path.is_file() and len(benchmark.parts) == 1:
        return _read_file(path)
    for pattern in part.files:
        if files := sorted(file for file in path.glob(pattern) if file.suffix in _READABLE and file.is_file()):
            return [row for file in files for row in _read_file(file)]
    raise FileNotFoundError(
        f"{benchmark.name}: found no file for {part.name} in {path}; expected a folder with one like "
        f"{' or '.join(part.files)}."
    )


def _hub_rows(benchmark: Benchmark, part: Part) -> Rows:
    local = f"name a local copy (`path`; `--benchmarks {benchmark.name}=FOLDER` for the script)."
    if part.path is None:
        raise FileNotFoundError(f"{benchmark.name} is not on the Hub; {local}")
    try:
        return load_dataset(part.path, name=part.config, split=part.split)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"{benchmark.name}: could not load {part.path}{f' ({part.config})' if part.config else ''}, split "
            f"`{part.split}`, from the Hub. Check the network and, for gated data, your login, or {local}"
        ) from error


def _read_file(file: Path) -> list[Mapping[str, Any]]:
    """Rows of a file. JSON is read without `datasets`, whose tables cannot hold columns of mixed types."""
    if not {".json", ".jsonl"}.intersection(file.suffixes):
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
