# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Long jobs write as they go: a folder of parquet shards, each written whole or not at all, and a manifest."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, concatenate_datasets
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from .manifests import claim_folder


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
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        num_rows: int,
        rows_per_shard: int,
        features: Features,
        settings: Mapping[str, Any],
    ) -> None:
        if rows_per_shard < 1:
            raise ValueError(f"Found rows_per_shard={rows_per_shard}; expected at least 1.")
        self.features = features
        self.folder = claim_folder(folder, {**settings, "rows": num_rows, "rows_per_shard": rows_per_shard})
        starts = range(0, num_rows, rows_per_shard)
        self.shards = [
            (self.folder / f"shard-{number:05d}.parquet", range(first, min(first + rows_per_shard, num_rows)))
            for number, first in enumerate(starts)
        ]

    def run(
        self, work: Callable[[range], list[dict[str, Any]]], process_index: int = 0, num_processes: int = 1
    ) -> Iterator[range]:
        """Does this process's missing shards, and yields the rows of each shard of its own once it is there.

        Args:
            work (`Callable`): From a range of row numbers to the records to write.
            process_index, num_processes (`int`): Which share of the shards to do.
        """
        for path, rows in self.shards[process_index::num_processes]:
            if not path.exists():
                _write(path, work(rows), self.features)
            yield rows

    def read(self) -> Dataset:
        """All records, in the order of the rows; every process may call this once all are done."""
        if not self.shards:
            return Dataset.from_dict({name: [] for name in self.features}, features=self.features)
        return concatenate_datasets([Dataset(pq.read_table(path)) for path, _ in self.shards])


def _write(path: Path, records: list[dict[str, Any]], features: Features) -> None:
    """A shard appears under its name when it is whole, whatever happens before."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        Dataset.from_list(records, features=features).to_parquet(partial)
    finally:
        if shown:
            enable_progress_bar()
    os.replace(partial, path)
