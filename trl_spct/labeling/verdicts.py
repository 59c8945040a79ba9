# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rows → a judge's verdicts with all of their critiques, written as they come."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from ..data.preparation import InvalidRows
from ..evaluation.judgments import PipelineJudge
from ..jobs import ShardedJob, rows_digest
from ..judge.preferences import Preference
from ..judge.sampling import PromptTooLongError
from ..judge.truncation import prompt_length
from .rows import LabelRows


TOO_LONG = "length"
"""The cause of a row that was not judged since it does not fit into the judge's context."""

_STOPS = ("early_stopping", "max_responses_per_prompt")

VERDICT_FEATURES = Features(
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
"""Columns of stored verdicts: one record per row, with one list entry per critique in the last seven.

`totals` are the votes' sums, in the order of the row's responses, and `weight` is what they are the sums of; `refused`
says why a row was not judged at all.
"""


def collect_verdicts(
    pipe,
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
    **parameters,
) -> Dataset:
    """Judges rows and writes as it goes; a restart with the same settings resumes, and judges no written row again.

    Args:
        pipe ([`GRMRewardPipeline`]): The judge.
        rows ([`LabelRows`]): Of [`prepare_rows`].
        k (`int`): Critiques per row.
        folder (`str` or path): Where the verdicts are written as parquet.
        invalid_rows (`str`, *optional*, defaults to `"error"`):
            What becomes of rows that do not fit into the judge's context: `"error"` refuses them before any row is
            judged, `"drop"` leaves them without scores, with the cause `"length"`.
        rows_per_shard (`int`, *optional*, defaults to `64`): Rows written at once; what a kill costs at most.
        batch_size (`int`, *optional*): Rows judged together; by default as many as make 256 critiques.
        binary (`bool`, *optional*, defaults to `False`): Ask for 0 or 1 for single responses, as in training.
        progress (`str`, *optional*): Title of a progress bar over rows.
        process_index, num_processes (`int`, *optional*): This process's share of the rows.
        wait (`Callable`, *optional*): A barrier among the processes.
        **parameters: Passed to the pipeline: `seed` (0 by default), `temperature`, `early_stopping` and the like.

    Returns:
        [`~datasets.Dataset`] with [`VERDICT_FEATURES`]: one verdict per row, in order.

    Raises:
        [`~trl_spct.judge.sampling.PromptTooLongError`]: with the number of a row that does not fit.
        `FileExistsError`: if the folder holds verdicts of another judge, other rows or other settings.
    """
    stops = {name: parameters.pop(name) for name in _STOPS if parameters.get(name)}
    batch_size = batch_size or max(1, 256 // (k * _most_blocks(rows, stops.get("max_responses_per_prompt"))))
    judge = PipelineJudge(pipe, k, batch_size, binary, **parameters)
    settings = {"kind": "verdicts", **judge.settings, **stops, "data": _digest(rows)}
    job = ShardedJob(folder, len(rows), rows_per_shard, VERDICT_FEATURES, settings)
    options = {"k": k, "binary": binary, "batch_size": judge.batch_size, **judge.parameters, **stops}
    measure = None if stops.get("max_responses_per_prompt") else _measure(judge)
    drop = invalid_rows == "drop"
    if measure is not None and not drop:
        missing = [numbers for path, numbers in job.shards[process_index::num_processes] if not path.exists()]
        _check_lengths(rows, chain.from_iterable(missing), measure)

    def work(numbers: range) -> list[dict[str, Any]]:
        parts = batches(numbers, judge.batch_size)
        return [record for part in parts for record in _judge(pipe, rows, part, drop, measure, options)]

    with tqdm(total=len(rows), desc=progress, disable=progress is None, unit="row") as bar:
        for numbers in job.run(work, process_index, num_processes):
            bar.update(len(numbers) * num_processes)
    if wait is not None:
        wait()
    return job.read()


def judging_protocol(
    pipe, k: int, batch_size: int | None = None, binary: bool = False, **parameters
) -> dict[str, Any]:
    """How the critiques of [`collect_verdicts`] come about, for cards: see [`PipelineJudge.protocol`]."""
    stops = {name: parameters.pop(name, None) for name in _STOPS}
    return {**PipelineJudge(pipe, k, batch_size, binary, **parameters).protocol, **stops}


def _most_blocks(rows: LabelRows, most: int | str | None) -> int:
    """In how many blocks a row is judged, at most; those of `"auto"` may have two responses."""
    if most is None:
        return 1
    longest = max(map(len, rows.preferences["responses"]), default=1)
    return max(1, math.ceil((longest - 1) / ((2 if most == "auto" else most) - 1)))


def _digest(rows: LabelRows) -> str:
    return rows_digest((row.query, row.responses, row.reference, row.principles) for row in rows)


def _measure(judge: PipelineJudge) -> Callable[[Preference], tuple[int, int, int]] | None:
    """What tells of a row (tokens of its prompt, of a critique, of the judge's context); `None` if nothing can, or if
    what is too long is cut."""
    protocol, tokenizer = judge.protocol, judge.pipe.tokenizer
    if protocol["context"] is None or tokenizer is None or judge.parameters.get("truncation"):
        return None

    def measure(row: Preference) -> tuple[int, int, int]:
        length = prompt_length(row, tokenizer, protocol["template"], judge.binary and len(row) == 1)
        return length, protocol["max_new_tokens"], protocol["context"]

    return measure


def _check_lengths(rows: LabelRows, numbers: Iterable[int], measure) -> None:
    """Refuses a row that does not fit before the first one is judged."""
    for number in numbers:
        lengths = measure(rows[number])
        if _exceeds(*lengths):
            raise _too_long(rows, number, *lengths)


def _exceeds(length: int, max_new_tokens: int, limit: int) -> bool:
    return length + max_new_tokens > limit


def _too_long(rows: LabelRows, number: int, *lengths: int) -> PromptTooLongError:
    return PromptTooLongError(f"Row {rows.row_numbers[number]}", *lengths, number)


def _judge(pipe, rows: LabelRows, numbers: list[int], drop: bool, measure, options) -> list[dict[str, Any]]:
    """The verdicts of some rows. Those that are too long go before the others are judged, if they may."""
    started = time.perf_counter()
    judged = [number for number in numbers if not (drop and measure and _exceeds(*measure(rows[number])))]
    verdicts = {}
    while judged:
        try:
            verdicts = dict(zip(judged, pipe([rows[number] for number in judged], **options), strict=True))
            break
        except PromptTooLongError as error:  # in an order that takes a token more, or in blocks
            if not drop:
                raise _too_long(rows, judged[error.row], *error.lengths) from None
            del judged[error.row]
    seconds = (time.perf_counter() - started) / len(numbers)
    return [{"row": n, "seconds": seconds, **_record(verdicts.get(n, _REFUSED))} for n in numbers]


_REFUSED = {"scores": None, "weight": 0, "best": None, "tied": [], "critiques": [], "blocks": None, "truncated": None}


def _record(verdict: Mapping[str, Any]) -> dict[str, Any]:
    names = {"text": "texts", "scores": "scores", "problem": "problems", "order": "orders"}
    names |= {"num_tokens": "num_tokens", "meta_score": "meta_scores", "counted": "counted"}
    return {
        "totals": verdict["scores"],
        "weight": verdict["weight"],
        "best": verdict["best"],
        "tied": verdict["tied"],
        "refused": TOO_LONG if verdict is _REFUSED else None,
        "blocks": verdict["blocks"] is not None,
        "truncated": verdict["truncated"] is not None,
        **{column: [critique[name] for critique in verdict["critiques"]] for name, column in names.items()},
    }


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of items, `size` of them in each but the last."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch
