# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Long jobs write as they go: a folder of parquet shards, each written whole or not at all, and a manifest."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from .manifests import claim_folder


SHARDS = "shard-*.parquet"
# Uploads to the Hub leave this folder out by themselves.
_CACHE = os.path.join(".cache", "huggingface")


class ShardedJob:
    """Work over rows 0 … n−1, done and written in shards by any number of processes over any number of starts.

    Shard i is done by process i modulo their number. A restart with the same settings finds what is there and does the
    rest; other settings on the same folder are refused.

    Args:
        folder (`str` or path): Where the shards go. All processes must see it.
        num_rows (`int`): How many rows there are.
        rows_per_shard (`int`): Rows that are written at once; what a kill costs at most, per process.
        features ([`~datasets.Features`]): Columns and types of what is written.
        settings (mapping): What determines the result, see [`~trl_spct.manifests.claim_folder`].
        recorded (mapping, *optional*): What the manifest says besides, and what a restart may change.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        num_rows: int,
        rows_per_shard: int,
        features: Features,
        settings: Mapping[str, Any],
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        if rows_per_shard < 1:
            raise ValueError(f"Found rows_per_shard={rows_per_shard}; expected at least 1.")
        self.features = features
        self.rows_per_shard = rows_per_shard
        self.folder = claim_folder(folder, {**settings, "rows": num_rows, "rows_per_shard": rows_per_shard}, recorded)
        starts = range(0, num_rows, rows_per_shard)
        ranges = [range(first, min(first + rows_per_shard, num_rows)) for first in starts]
        self.shards = [(self.path_of(rows), rows) for rows in ranges]

    @property
    def num_missing(self) -> int:
        """How many shards are still to be done."""
        return sum(not path.exists() for path, _ in self.shards)

    def path_of(self, rows: range) -> Path:
        """Where the shard of these rows is. What is left beside it as `{stem}.*.partial` goes when it is written."""
        return self.folder / f"shard-{rows.start // self.rows_per_shard:05d}.parquet"

    def run(
        self,
        work: Callable[[range], list[dict[str, Any]]],
        process_index: int = 0,
        num_processes: int = 1,
        concurrency: int = 1,
    ) -> Iterator[range]:
        """Does this process's missing shards, and yields the rows of each shard of its own once it is there.

        Args:
            work (`Callable`): From a range of row numbers to the records to write.
            process_index, num_processes (`int`): Which share of the shards to do.
            concurrency (`int`, *optional*, defaults to `1`):
                Shards in work at once. More than one are worked on in threads; if one fails, no further one is begun,
                and those in work are still written before the error is raised.
        """
        own = self.shards[process_index::num_processes]
        if concurrency > 1:
            yield from self._run_in_threads(work, own, concurrency)
            return
        for path, rows in own:
            if not path.exists():
                _write(path, work(rows), self.features)
            yield rows

    def _run_in_threads(self, work, own: list[tuple[Path, range]], concurrency: int) -> Iterator[range]:
        there = [path.exists() for path, _ in own]
        yield from (rows for (_, rows), exists in zip(own, there, strict=True) if exists)
        missing = iter([shard for shard, exists in zip(own, there, strict=True) if not exists])
        running: dict[Future, tuple[Path, range]] = {}
        failures = []
        with ThreadPoolExecutor(concurrency, "shard") as executor:
            while True:
                for path, rows in islice(missing, 0 if failures else concurrency - len(running)):
                    running[executor.submit(work, rows)] = (path, rows)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    path, rows = running.pop(future)
                    if future.exception() is not None:
                        failures.append(future.exception())
                        continue
                    _write(path, future.result(), self.features)
                    yield rows
        if failures:
            raise failures[0]

    def read(self) -> Dataset:
        """All records, in the order of the rows; every process may call this once all are done.

        They are mapped into memory from an Arrow file, which is made of the shards the first time.
        """
        if not self.shards:
            return Dataset.from_dict({name: [] for name in self.features}, features=self.features)
        paths = [path for path, _ in self.shards]
        arrow = self.folder / _CACHE / f"{_stamp(paths)}.arrow"
        if not arrow.exists():
            _join(paths, arrow, self.features.arrow_schema)
        return Dataset.from_file(str(arrow))


def _stamp(paths: list[Path]) -> str:
    """Changes with every shard that is written again."""
    found = [(path.name, stat.st_size, stat.st_mtime_ns) for path in paths for stat in (path.stat(),)]
    return hashlib.blake2b(repr(found).encode(), digest_size=8).hexdigest()


def _join(paths: list[Path], arrow: Path, schema: pa.Schema) -> None:
    arrow.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(arrow)
    with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for path in paths:
            writer.write_table(pq.read_table(path).cast(schema))
    os.replace(partial, arrow)


def _write(path: Path, records: list[dict[str, Any]], features: Features) -> None:
    """A shard appears under its name when it is whole, whatever happens before."""
    partial = _partial(path)
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        Dataset.from_list(records, features=features).to_parquet(partial)
    finally:
        if shown:
            enable_progress_bar()
    os.replace(partial, path)
    for left in path.parent.glob(f"{path.stem}.*.partial"):  # of starts that were killed
        left.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_suffix(f".{os.getpid()}.partial")
