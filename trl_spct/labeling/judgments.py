# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judgments of unlabeled rows, with all of their critiques, in resumable shards."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from ..data.preparation import InvalidRows
from ..evaluation.judgments import CRITIQUE_FEATURES, PipelineJudge, judge_all
from ..jobs import ShardedJob, rows_digest
from ..judge.judging import Judging
from ..judge.orders import count_occurrences
from ..judge.pipelines import GRMRewardPipeline
from ..judge.sampling import EngineError, PromptTooLongError
from .rows import LabelRows


_STOPS = ("early_stopping", "max_responses_per_prompt")
_DROP = '`invalid_rows="drop"` leaves such rows without scores and counts them by cause.'

JUDGMENT_FEATURES = Features(
    {
        "row": Value("int64"),
        "seconds": Value("float64"),
        "totals": List(Value("float64")),
        "weight": Value("float64"),
        "best": Value("int64"),
        "tied": List(Value("int64")),
        "refused": Value("string"),
        "blocks": Value("bool"),
        "truncated": Value("bool"),
        "critiques": List(CRITIQUE_FEATURES),
    }
)
"""Columns of stored judgments, one record per row: `totals` are sums of votes in the order of the row's responses,
`totals` over `weight` means per vote, and `refused` is the cause if the row was not judged at all.
"""


def judge_dataset(
    pipe: GRMRewardPipeline,
    rows: LabelRows,
    k: int,
    folder: str | os.PathLike,
    invalid_rows: InvalidRows = "error",
    rows_per_shard: int = 64,
    batch_size: int | None = None,
    binary: bool = False,
    progress: str | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    wait: Callable[[], None] | None = None,
    **parameters: Any,
) -> Dataset:
    """Judges rows and writes the judgments in shards. A restart with the same settings judges only missing rows.

    Args:
        pipe, rows, k, folder: The judge, rows of [`prepare_rows`], critiques per row, and the folder of the shards.
        invalid_rows (`str`, *optional*, defaults to `"error"`):
            `"drop"` stores rows that do not fit, or that a server refuses, without scores and with the cause.
        batch_size (`int`, *optional*):
            Rows judged together, which does not change the result. By default 256 critiques, in at least 8 batches.
        binary, rows_per_shard, progress, process_index, num_processes, wait: As in [`record_judgments`].
        **parameters: Passed to the pipeline: `seed` (0 by default), `temperature`, `early_stopping` and others.

    Returns:
        [`~datasets.Dataset`] with [`JUDGMENT_FEATURES`]: one judgment per row, in the order of the rows.

    Raises:
        [`PromptTooLongError`] before any row is judged, [`EngineError`] with the number of a refused row, and
        `FileExistsError` if the folder holds judgments of another judge, other rows or other settings.
    """
    stops = {name: parameters.pop(name) for name in _STOPS if parameters.get(name)}
    batch_size = batch_size or max(1, min(256 // k, math.ceil(len(rows) / 8)))
    judge = PipelineJudge(pipe, k, binary=binary, **parameters)
    digest = rows_digest((row.query, row.responses, row.reference, row.principles) for row in rows)
    settings = {"kind": "judgments", **judge.settings, **stops, "data": digest}
    job = ShardedJob(folder, len(rows), rows_per_shard, JUDGMENT_FEATURES, settings)
    options = {"k": k, "binary": binary, **judge.parameters, **stops}
    batch = _Batch(pipe, rows, count_occurrences(rows), options, batch_size, invalid_rows == "drop")
    if invalid_rows == "error":
        for path, numbers in job.shards[process_index::num_processes]:
            if not path.exists():
                batch.fitting(numbers)
    done = sum(len(numbers) for path, numbers in job.shards if path.exists())
    with tqdm(total=len(rows), initial=done, desc=progress, disable=progress is None, unit="row") as bar:

        def work(numbers: range) -> list[dict[str, Any]]:
            records = []
            for part in batches(numbers, batch_size):
                records += batch.judge(part)
                bar.update(len(part) * num_processes)
            return records

        for _ in job.run(work, process_index, num_processes):
            pass
    if wait is not None:
        wait()
    return job.read()


def judging_protocol(pipe: GRMRewardPipeline, k: int, binary: bool = False, **parameters: Any) -> dict[str, Any]:
    """Protocol of [`judge_dataset`] for cards, see [`PipelineJudge.protocol`]."""
    stops = {name: parameters.pop(name, None) for name in _STOPS}
    return {**PipelineJudge(pipe, k, binary=binary, **parameters).protocol, **stops}


@dataclass
class _Batch:
    """Judges batches of rows, and refuses or drops those that do not fit."""

    pipe: GRMRewardPipeline
    rows: LabelRows
    occurrences: Sequence[int]
    options: Mapping[str, Any]
    batch_size: int
    drop: bool

    @cached_property
    def _judging(self) -> Judging:
        return self.pipe.judging(**self.options)

    def fitting(self, numbers: Iterable[int]) -> list[int]:
        """The rows that fit into the judge's context. Others are refused unless they are dropped."""
        fitting = []
        for number in numbers:
            try:
                self._judging.prepare(self.rows.row_numbers[number], self.rows[number], self.occurrences[number])
                fitting.append(number)
            except PromptTooLongError as error:
                if not self.drop:
                    raise self._too_long(number, error) from None
        return fitting

    def _too_long(self, number: int, error: PromptTooLongError) -> PromptTooLongError:
        row = self.rows.row_numbers[number]
        return PromptTooLongError(f"Row {row}", *error.lengths, row, f"{error.advice} {_DROP}")

    def judge(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """One record per row; without scores for dropped rows."""
        started = time.perf_counter()
        fitting = self.fitting(numbers) if self.drop else list(numbers)
        call: Any = partial(self.pipe, batch_size=self.batch_size, **self.options)  # a list for a list
        occurrences = [self.occurrences[number] for number in fitting]
        try:
            judged, causes = judge_all(call, [self.rows[number] for number in fitting], occurrences, self.drop)
        except PromptTooLongError as error:  # the context of a server may be shorter
            raise self._too_long(fitting[error.row], error) from None
        except EngineError as error:
            note = f"Judged shards are kept: the same call judges the others. {_DROP if error.refusals else ''}"
            raise error.renumbered([self.rows.row_numbers[number] for number in fitting], note=note) from error
        judgments = {fitting[place]: judgment for place, judgment in judged.items()}
        refused = {fitting[place]: cause for place, cause in causes.items()}
        seconds = (time.perf_counter() - started) / len(numbers)
        return [{"row": n, "seconds": seconds, **_record(judgments.get(n), refused.get(n, "length"))} for n in numbers]


def _record(judgment: Mapping[str, Any] | None, refused: str) -> dict[str, Any]:
    cause = refused if judgment is None else None
    judgment = judgment or {"scores": None, "weight": 0, "best": None, "tied": [], "critiques": []}
    return {
        "totals": judgment["scores"],
        **{name: judgment[name] for name in ("weight", "best", "tied", "critiques")},
        "refused": cause,
        **{name: judgment.get(name) is not None for name in ("blocks", "truncated")},
    }


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yields lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
