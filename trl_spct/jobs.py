# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Resumable jobs: folders that belong to one configuration and one run, and records written in shards."""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from filelock import FileLock, Timeout

from .judge.costs import Cost, metered
from .judge.dates import on_day

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STARTED = "started_on"
SHARDS = "shard-*.parquet"
_COST = b"cost"  # in the metadata of a shard
_CACHE = os.path.join(".cache", "huggingface")  # `upload_folder` ignores this folder


class FolderInUseError(RuntimeError):
    """Another run writes into the folder."""


@contextmanager
def in_one_step(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary file, which replaces `path` when the block ends without an error."""
    partial = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file [`in_one_step`]."""
    with in_one_step(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def rows_digest(rows: Iterable[Any]) -> str:
    """Hash of the `repr` of rows, for a manifest."""
    state = hashlib.blake2b(digest_size=16)
    for row in rows:
        state.update(repr(row).encode("utf-8", "surrogatepass"))
    return state.hexdigest()


@contextmanager
def locked(folder: str | os.PathLike, process_index: int = 0) -> Iterator[None]:
    """Holds the exclusive right of a run to write into a folder, which is created if it does not exist.

    The first process of the run takes the lock, which the operating system releases if the process dies. Raises
    [`FolderInUseError`] if another run holds it.
    """
    path = Path(folder, _CACHE, "run.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        if process_index == 0:
            lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"{folder} is in use by another run; expected one at a time. Wait for that run, stop it, or choose "
            "another output folder."
        ) from None
    except OSError as error:
        logger.warning("%s cannot be locked (%s): nothing keeps another run from writing into it.", folder, error)
    try:
        yield
    finally:
        lock.release()


def check_folder(folder: str | os.PathLike, settings: Mapping[str, Any]) -> bool:
    """Whether a folder holds a run with these settings. One with others raises a `FileExistsError` that names each
    difference, unless there is nothing beside its manifest."""
    manifest = Path(folder, MANIFEST)
    if not manifest.exists():
        return False
    present = json.loads(manifest.read_text(encoding="utf-8"))
    settings = json.loads(json.dumps(settings))
    present.pop(STARTED, None)
    differing = [name for name in {**present, **settings} if present.get(name) != settings.get(name)]
    if not differing:
        return True
    if all(path.name == MANIFEST or path.name.startswith(".") for path in manifest.parent.iterdir()):
        return False
    changes = "; ".join(f"{name}: {present.get(name)!r} there, {settings.get(name)!r} now" for name in differing)
    raise FileExistsError(
        f"{folder} holds a run with another configuration ({changes}). Choose another output folder, delete this one, "
        "or repeat the run with its configuration to resume it."
    )


def claim_folder(folder: str | os.PathLike, settings: Mapping[str, Any]) -> Path:
    """Creates a folder with the manifest and the day of a run, or takes the one it holds; see [`check_folder`]."""
    if not check_folder(folder, settings):
        os.makedirs(folder, exist_ok=True)
        write_json(Path(folder, MANIFEST), {**settings, STARTED: date.today().isoformat()})
    return Path(folder)


class ShardedJob:
    """Records of the rows 0 … n−1, written in parquet shards by any number of processes, over any number of starts.

    Process i of p writes the shards i, i + p, … of a folder that all processes see. A restart with the same settings,
    JSON-like values that determine the records, writes the missing shards; raises as [`check_folder`] with others.
    """

    def __init__(
        self, folder: str | os.PathLike, num_rows: int, rows_per_shard: int, features: Features, settings: Mapping
    ) -> None:
        if rows_per_shard < 1:
            raise ValueError(f"Found rows_per_shard={rows_per_shard}; expected at least 1.")
        self.folder, self.features = Path(folder), features
        self.settings = {**settings, "rows": num_rows, "rows_per_shard": rows_per_shard}
        check_folder(folder, self.settings)
        starts = range(0, num_rows, rows_per_shard)
        ranges = [range(first, min(first + rows_per_shard, num_rows)) for first in starts]
        self.shards = [(self.folder / f"shard-{number:05d}.parquet", rows) for number, rows in enumerate(ranges)]

    @property
    def num_missing(self) -> int:
        """Number of shards that are not written yet."""
        return sum(not path.exists() for path, _ in self.shards)

    @property
    def day(self) -> date:
        """The day of the first start."""
        manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        return date.fromisoformat(manifest.get(STARTED) or date.today().isoformat())

    def path_of(self, rows: range) -> Path:
        """Path of the shard of these rows. Files `{stem}.*.partial` beside it are deleted when it is written."""
        return self.shards[rows.start // self.settings["rows_per_shard"]][0]

    def run(
        self, work: Callable[[range], list[dict]], process_index: int = 0, num_processes: int = 1, concurrency: int = 1
    ) -> Iterator[range]:
        """Writes this process's missing shards, and yields the rows of each of its shards once it is written.

        `work` makes the records of a range of rows, for `concurrency` shards at once, in threads. If one fails, no
        further one begins, and those in work are still written. Prompts have the date of the first start. Raises as
        [`locked`] and [`check_folder`].
        """
        stopping = threading.Event()

        def write(path: Path, rows: range) -> range | None:
            if path.exists():
                return rows
            if stopping.is_set():
                return None
            try:
                self.write(path, rows, work)
            except BaseException:
                stopping.set()
                raise
            return rows

        with locked(self.folder, process_index):
            for partial in self.folder.glob(".*.partial") if num_processes == 1 else ():
                partial.unlink()  # left by a start that was killed while it wrote
            claim_folder(self.folder, self.settings)
            share = self.shards[process_index::num_processes]
            if concurrency == 1:
                yield from (rows for path, rows in share if write(path, rows))
                return
            with ThreadPoolExecutor(concurrency, "shard") as executor:
                try:
                    for future in [executor.submit(write, *shard) for shard in share]:
                        if (rows := future.result()) is not None:
                            yield rows
                finally:
                    stopping.set()

    def write(self, path: Path, rows: range, work: Callable[[range], list[dict]]) -> None:
        """Writes a shard in one step, with its cost. Prompts have the date of the first start."""
        with on_day(self.day), metered() as spent:
            records = work(rows)
        _write(path, records, self.features, sum(spent, Cost()))

    def read(self) -> Dataset:
        """All records in the order of the rows, mapped into memory. Every process may read once all have written."""
        if not self.shards:
            return Dataset.from_dict({name: [] for name in self.features}, features=self.features)
        stats = [(path.name, stat.st_size, stat.st_mtime_ns) for path, _ in self.shards for stat in (path.stat(),)]
        digest = hashlib.blake2b(repr(stats).encode(), digest_size=8).hexdigest()  # changes with any shard
        arrow = self.folder / _CACHE / f"{digest}.arrow"
        if not arrow.exists():
            arrow.parent.mkdir(parents=True, exist_ok=True)
            schema = self.features.arrow_schema
            with in_one_step(arrow) as partial, pa.ipc.new_stream(str(partial), schema) as writer:
                for path, _ in self.shards:
                    writer.write_table(pq.read_table(path).cast(schema))
        return Dataset.from_file(str(arrow))


def _write(path: Path, records: list[dict[str, Any]], features: Features, cost: Cost) -> None:
    columns = {name: [record[name] for record in records] for name in features}  # `from_list` takes no empty list
    table = Dataset.from_dict(columns, features=features).with_format("arrow")[:]
    schema = features.arrow_schema
    schema = schema.with_metadata({**(schema.metadata or {}), _COST: json.dumps(asdict(cost))})
    with in_one_step(path) as partial:
        pq.write_table(table.cast(schema), partial)
    for partial in path.parent.glob(f"{path.stem}.*.partial"):
        partial.unlink(missing_ok=True)


def stored_cost(*folders: str | os.PathLike) -> Cost | None:
    """What the shards of these folders cost, over all starts; `None` if there are none, or one does not say."""
    paths = [path for folder in folders for path in Path(folder).glob(SHARDS)]
    stored = [pq.read_metadata(path).metadata or {} for path in paths]
    if not stored or not all(_COST in metadata for metadata in stored):
        return None
    return sum((Cost(**json.loads(metadata[_COST])) for metadata in stored), Cost())
