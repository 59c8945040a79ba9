# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judgments of unlabeled rows, with all of their critiques, in resumable shards."""

import os
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Features, List, Value

from ..evaluation.judgments import CRITIQUE_FEATURES, PipelineJudge, judge_in_shards
from ..jobs import ShardedJob, rows_digest
from .rows import LabelRows

JUDGMENT_FEATURES = Features(
    {
        "row": Value("int64"),
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
`totals` over `weight` means per vote, and `refused` is the cause if the row was not judged at all."""


class LabelingJudge(PipelineJudge):
    """A judge whose judgments are the outputs of its pipeline, and which may stop early or judge in blocks."""

    def __init__(self, pipe, k: int, batch_size: int | None = None, binary: bool = False, **parameters: Any):
        self.stops = {name: parameters.pop(name, None) for name in ("early_stopping", "max_responses_per_prompt")}
        super().__init__(pipe, k, batch_size, binary, **parameters)
        stops = {name: value for name, value in self.stops.items() if value}
        self.options = {"k": k, "binary": binary, **self.parameters, **stops}
        self.judging = pipe.judging(**self.options)
        guidance = self.judging.guidance  # decides the stored votes
        self.settings = {**self.settings, **stops, "guidance": None if guidance is None else str(guidance)}

    @property
    def protocol(self) -> dict[str, Any]:
        return {**super().protocol, **self.stops}

    def judgment(self, output: Mapping[str, Any]) -> Any:
        return output


def judge_dataset(
    judge: LabelingJudge, rows: LabelRows, folder: str | os.PathLike, rows_per_shard: int = 64, **options: Any
) -> Dataset:
    """Judges rows and writes the judgments in shards of a folder. A restart with the same settings judges the missing
    shards. For options see [`~trl_spct.evaluation.judgments.judge_in_shards`]; rows left out have no scores.

    Returns one judgment per row, in the order of the rows, with [`JUDGMENT_FEATURES`]."""
    job = labeling_job(judge.settings, rows, folder, rows_per_shard)
    return judge_in_shards(job, judge, rows, rows.row_numbers, to_record, **options)


def labeling_job(
    settings: Mapping[str, Any], rows: LabelRows, folder: str | os.PathLike, rows_per_shard: int
) -> ShardedJob:
    """The job of rows and of a judge with these settings."""
    digest = rows_digest((row.query, row.responses, row.reference, row.principles) for row in rows)
    settings = {"kind": "judgments", **settings, "data": digest}
    return ShardedJob(folder, len(rows), rows_per_shard, JUDGMENT_FEATURES, settings)


def to_record(number: int, judgment: Mapping[str, Any] | None, cause: str | None) -> dict[str, Any]:
    """The record of a row from an output of the pipeline, or from the cause of its refusal."""
    judgment = judgment or {"scores": None, "weight": 0, "best": None, "tied": [], "critiques": []}
    return {
        "row": number,
        "totals": judgment["scores"],
        **{name: judgment[name] for name in ("weight", "best", "tied", "critiques")},
        "refused": cause,
        **{name: judgment.get(name) is not None for name in ("blocks", "truncated")},
    }
