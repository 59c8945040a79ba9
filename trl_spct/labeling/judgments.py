# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judgments of unlabeled rows, with all of their critiques, in resumable shards."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from ..data.preparation import InvalidRows
from ..evaluation.judgments import PipelineJudge
from ..jobs import ShardedJob, rows_digest
from ..judge.orders import count_occurrences
from ..judge.pipelines import GRMRewardPipeline
from ..judge.preferences import Preference
from ..judge.sampling import PromptTooLongError
from ..judge.truncation import prompt_length
from .rows import LabelRows


TOO_LONG = "length"
"""Cause of a row that was not judged because it does not fit into the judge's context."""

_STOPS = ("early_stopping", "max_responses_per_prompt")
_CRITIQUES_PER_BATCH = 256
_LEAST_BATCHES = 8

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
        "texts": List(Value("string")),
        "scores": List(List(Value("float64"))),
        "problems": List(Value("string")),
        "orders": List(List(Value("int64"))),
        "num_tokens": List(Value("int64")),
        "meta_scores": List(Value("float64")),
        "counted": List(Value("bool")),
    }
)
"""Columns of stored judgments: one record per row, with one list entry per critique in the last seven.

`totals` are the sums of the votes in the order of the row's responses, and `totals` over `weight` are means per vote.
`refused` is the cause if the row was not judged at all.
"""

_CRITIQUE_COLUMNS = {
    "texts": "text",
    "scores": "scores",
    "problems": "problem",
    "orders": "order",
    "num_tokens": "num_tokens",
    "meta_scores": "meta_score",
    "counted": "counted",
}


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
        pipe ([`GRMRewardPipeline`]): The judge.
        rows ([`LabelRows`]): From [`prepare_rows`].
        k (`int`): Critiques per row.
        folder (`str` or path): Folder of the shards, in parquet.
        invalid_rows (`str`, *optional*, defaults to `"error"`):
            `"error"` refuses rows that do not fit into the judge's context, before any row is judged; `"drop"` stores
            them without scores, with the cause `"length"`.
        rows_per_shard (`int`, *optional*, defaults to `64`): Rows per shard: at most the work that a kill loses.
        batch_size (`int`, *optional*):
            Rows judged together, which does not change the result. By default 256 critiques, in at least 8 batches.
        binary (`bool`, *optional*, defaults to `False`): Ask for 0 or 1 for single responses, as in training.
        progress (`str`, *optional*): Title of a progress bar over rows.
        process_index, num_processes (`int`, *optional*): This process's share of the shards.
        wait (`Callable`, *optional*): A barrier among the processes.
        **parameters: Passed to the pipeline: `seed` (0 by default), `temperature`, `early_stopping` and others.

    Returns:
        [`~datasets.Dataset`] with [`JUDGMENT_FEATURES`]: one judgment per row, in the order of the rows.

    Raises:
        [`~trl_spct.judge.sampling.PromptTooLongError`]: with the number of a row that does not fit.
        `FileExistsError`: if the folder holds judgments of another judge, other rows or other settings.
    """
    stops = {name: parameters.pop(name) for name in _STOPS if parameters.get(name)}
    batch_size = batch_size or _default_batch_size(rows, k, stops.get("max_responses_per_prompt"))
    judge = PipelineJudge(pipe, k, batch_size, binary, **parameters)
    settings = {"kind": "judgments", **judge.settings, **stops, "data": _digest(rows)}
    job = ShardedJob(folder, len(rows), rows_per_shard, JUDGMENT_FEATURES, settings)
    options = {"k": k, "binary": binary, "batch_size": batch_size, **judge.parameters, **stops}
    lengths = None if stops.get("max_responses_per_prompt") else _Lengths.of(judge)
    batch = _Batch(pipe, rows, count_occurrences(rows), options, lengths, invalid_rows == "drop")
    if lengths is not None and invalid_rows == "error":
        missing = [numbers for path, numbers in job.shards[process_index::num_processes] if not path.exists()]
        _check_lengths(rows, chain.from_iterable(missing), lengths)

    with tqdm(total=len(rows), desc=progress, disable=progress is None, unit="row") as bar:

        def work(numbers: range) -> list[dict[str, Any]]:
            records = []
            for part in batches(numbers, batch_size):
                records += batch.judge(part)
                bar.update(len(part) * num_processes)
            return records

        written = {numbers for path, numbers in job.shards if path.exists()}
        for numbers in job.run(work, process_index, num_processes):
            if numbers in written:
                bar.update(len(numbers) * num_processes)
    if wait is not None:
        wait()
    return job.read()


def judging_protocol(
    pipe: GRMRewardPipeline, k: int, batch_size: int | None = None, binary: bool = False, **parameters: Any
) -> dict[str, Any]:
    """Protocol of [`judge_dataset`] for cards, see [`PipelineJudge.protocol`]."""
    stops = {name: parameters.pop(name, None) for name in _STOPS}
    return {**PipelineJudge(pipe, k, batch_size, binary, **parameters).protocol, **stops}


def _default_batch_size(rows: LabelRows, k: int, max_responses: int | str | None) -> int:
    longest = max(map(len, rows.preferences["responses"]), default=1)
    blocks = 1
    if max_responses is not None:  # blocks share an anchor, and those of "auto" may have two responses
        blocks = max(1, math.ceil((longest - 1) / ((2 if max_responses == "auto" else int(max_responses)) - 1)))
    return max(1, min(_CRITIQUES_PER_BATCH // (k * blocks), math.ceil(len(rows) / _LEAST_BATCHES)))


def _digest(rows: LabelRows) -> str:
    return rows_digest((row.query, row.responses, row.reference, row.principles) for row in rows)


@dataclass(frozen=True)
class _Lengths:
    """Token counts that decide whether a row fits into the judge's context."""

    judge: PipelineJudge
    template: str
    max_new_tokens: int
    context: int

    @classmethod
    def of(cls, judge: PipelineJudge) -> "_Lengths | None":
        """`None` if the tokenizer or the context is unknown, or if long rows are cut."""
        protocol = judge.protocol
        if protocol["context"] is None or judge.pipe.tokenizer is None or judge.parameters.get("truncation"):
            return None
        return cls(judge, protocol["template"], protocol["max_new_tokens"], protocol["context"])

    def of_row(self, row: Preference) -> tuple[int, int, int]:
        binary = self.judge.binary and len(row) == 1
        return prompt_length(row, self.judge.pipe.tokenizer, self.template, binary), self.max_new_tokens, self.context

    def fit(self, row: Preference) -> bool:
        length, max_new_tokens, context = self.of_row(row)
        return length + max_new_tokens <= context


def _check_lengths(rows: LabelRows, numbers: Iterable[int], lengths: _Lengths) -> None:
    for number in numbers:
        if not lengths.fit(rows[number]):
            raise _too_long(rows, number, lengths.of_row(rows[number]))


def _too_long(
    rows: LabelRows, number: int, lengths: tuple[int, int, int], truncation: str | None = None
) -> PromptTooLongError:
    advice = (
        'Set `truncation="fair"` to cut the longest texts, or `invalid_rows="drop"` to leave the row without scores.'
    )
    if truncation:
        advice = 'Its texts are cut to the minimum already: lower `max_new_tokens`, or set `invalid_rows="drop"`.'
    return PromptTooLongError(f"Row {rows.row_numbers[number]}", *lengths, number, advice)


@dataclass(frozen=True)
class _Batch:
    """Judges batches of rows, and refuses or drops those that do not fit."""

    pipe: GRMRewardPipeline
    rows: LabelRows
    occurrences: Sequence[int]
    options: Mapping[str, Any]
    lengths: _Lengths | None
    drop: bool

    def judge(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """One record per row; without scores for dropped rows."""
        started = time.perf_counter()
        remaining = list(numbers)
        if self.drop and self.lengths is not None:
            remaining = [number for number in numbers if self.lengths.fit(self.rows[number])]
        judgments: dict[int, Mapping[str, Any]] = {}
        while remaining:
            try:
                outputs: Any = self.pipe(  # a list for a list
                    [self.rows[number] for number in remaining],
                    occurrences=[self.occurrences[number] for number in remaining],
                    **self.options,
                )
                judgments = dict(zip(remaining, outputs, strict=True))
                break
            except PromptTooLongError as error:  # an order may take a token more, and blocks are measured here only
                if not self.drop:
                    number, truncation = remaining[error.row], self.options.get("truncation")
                    raise _too_long(self.rows, number, error.lengths, truncation) from None
                del remaining[error.row]
        seconds = (time.perf_counter() - started) / len(numbers)
        return [{"row": number, "seconds": seconds, **_record(judgments.get(number))} for number in numbers]


def _record(judgment: Mapping[str, Any] | None) -> dict[str, Any]:
    refused = TOO_LONG if judgment is None else None
    if judgment is None:
        judgment = {"scores": None, "weight": 0, "best": None, "tied": [], "critiques": []}
    critiques = judgment["critiques"]
    return {
        "totals": judgment["scores"],
        "weight": judgment["weight"],
        "best": judgment["best"],
        "tied": judgment["tied"],
        "refused": refused,
        "blocks": judgment.get("blocks") is not None,
        "truncated": judgment.get("truncated") is not None,
        **{column: [critique[name] for critique in critiques] for column, name in _CRITIQUE_COLUMNS.items()},
    }


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yields lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
