# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judging with Ray Data: operators for the rows of any dataset, and for the shards of a folder of judgments."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from transformers import AutoConfig, AutoTokenizer

from ..data.preparation import InvalidRows
from ..engines import OpenAIEngine
from ..evaluation.judgments import judge_all, naming_rows
from ..jobs import ShardedJob, claim_folder, locked
from ..judge.dates import on_day
from ..judge.orders import count_occurrences
from ..judge.pipelines import GRMRewardPipeline
from ..judge.sampling import EngineError, context_length
from .judgments import JUDGMENT_FEATURES, LabelingJudge, labeling_job, to_record
from .labels import score_columns
from .rows import LabelRows, prepare_rows

if TYPE_CHECKING:
    import ray

_SAMPLING = {"temperature": pa.float64(), "top_p": pa.float64(), "max_tokens": pa.int64(), "seed": pa.int64()}
_REQUESTS = {"shard": pa.int64(), "seed": pa.int64(), "tokenized_prompt": pa.list_(pa.int32())}
_REQUESTS |= {"sampling_params": pa.struct(_SAMPLING)}


class RayJudge:
    """Judges batches of rows in an actor of Ray that loads its judge once. Needs `pip install "trl-spct[ray]"`.

    ```python
    >>> load = partial(pipeline, "grm-reward", model="me/judge")  # or partial(GRMRewardPipeline, OpenAIEngine(…))
    >>> actors = {"compute": ray.data.ActorPoolStrategy(size=8), "num_gpus": 1, "batch_format": "pyarrow"}
    >>> rows.map_batches(RayJudge, fn_constructor_kwargs={"load": load, "k": 8}, batch_size=64, **actors)
    ```

    `load` returns the pipeline, `options` are those of [`~trl_spct.labeling.judgments.LabelingJudge`]. Rows in a shape
    of [`~trl_spct.labeling.rows.prepare_rows`] keep their columns and get those of
    [`~trl_spct.labeling.labels.score_columns`] and `critiques`. With `invalid_rows="drop"` rows that do not fit, or
    that a server refuses, have no scores. Equal rows of different batches share their critiques.
    """

    def __init__(self, load: Callable[..., GRMRewardPipeline], invalid_rows: InvalidRows = "error", **options: Any):
        self.judge, self.invalid_rows = LabelingJudge(load(), **options), invalid_rows

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = prepare_rows(Dataset(batch), name="batch")
        records = self.records(rows, count_occurrences(rows), range(len(rows)))
        columns = {name: [record[name] for record in records] for name in JUDGMENT_FEATURES}
        judgments = Dataset.from_dict(columns, features=JUDGMENT_FEATURES)
        parts = [rows.originals, score_columns(rows, judgments), judgments.select_columns("critiques")]
        return concatenate_datasets(parts, axis=1).with_format("arrow")[:]

    def records(self, rows: LabelRows, occurrences: Sequence[int], numbers: range) -> list[dict[str, Any]]:
        """Judgments of rows by number, with [`JUDGMENT_FEATURES`]."""
        batch, drop = [rows[number] for number in numbers], self.invalid_rows == "drop"
        with naming_rows(numbers, rows.row_numbers, private=False):
            judged, causes = judge_all(self.judge, batch, [occurrences[number] for number in numbers], drop)
        return [to_record(number, judged.get(place), causes.get(place)) for place, number in enumerate(numbers)]


class ShardJudge(RayJudge):
    """Judges the shards of a job and writes them, from the tokens of a stage if there are any."""

    def __init__(self, job: ShardedJob, rows: LabelRows, occurrences: Sequence[int], **options: Any):
        super().__init__(**options)
        self.job, self.work = job, partial(self.records, rows, occurrences)

    def __call__(self, batch: pa.Table) -> pa.Table:
        shards = dict.fromkeys(batch["shard"].to_pylist()) if batch.num_rows else ()  # an empty block has no columns
        if "generated_tokens" in batch.column_names:
            answers = {row["seed"]: row["generated_tokens"] for row in batch.to_pylist()}
            self.judge.pipe.engine.client.answers = answers
        for path, numbers in map(self.job.shards.__getitem__, shards):
            if not path.exists():
                self.job.write(path, numbers, self.work)
        return pa.table({"shard": pa.array(shards, pa.int64())})


class ShardRequests(ShardJudge):
    """Makes the requests of a shard, one per critique, with order, fence and seed; writes a shard without any."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        (shard,), client = batch["shard"].to_pylist(), self.judge.pipe.engine.client
        client.requests = []
        path, numbers = self.job.shards[shard]
        logging.disable(logging.WARNING)  # that rows have no scores
        with on_day(self.job.day):
            records = self.work(numbers)
        logging.disable(logging.NOTSET)
        if not client.requests:
            self.job.write(path, numbers, lambda _: records)
        requests = [{"shard": shard, **request} for request in client.requests]
        return pa.Table.from_pylist(requests, pa.schema(_REQUESTS))


class StageClient:
    """A server's client in two halves: without `answers` of a stage it notes `requests`; then it gives these token ids
    by seed."""

    api_key, max_retries = "", 0

    def __init__(self, model: str, max_model_len: int | None):
        import httpx  # beside `openai`

        self.base_url = httpx.URL("http://stage")
        self.served = {"data": [{"id": model, "max_model_len": max_model_len}]}
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[int, list[int]] | None = None
        self.ends: Sequence[int] = ()

    def get(self, path: str, **options: Any) -> bytes:
        return json.dumps(self.served).encode()

    def post(self, path: str, body: dict[str, Any], **options: Any) -> bytes:
        ids: list[int] | None = []
        if self.answers is None:
            params = {name: body[name] for name in _SAMPLING}
            prompt = {"seed": body["seed"], "tokenized_prompt": body["prompt"]}
            self.requests.append({**prompt, "sampling_params": params})
        elif not (ids := self.answers.get(body["seed"])):
            raise EngineError("Found no tokens of a critique in its block; expected whole shards as blocks.")
        ended = ids and (len(ids) < body["max_tokens"] or ids[-1] in self.ends)
        choice = {"text": "", "token_ids": ids, "finish_reason": "stop" if ended else "length"}
        return json.dumps({"choices": [choice]}).encode()


def stage_judge(
    model: str, max_model_len: int | None = None, chat_template_kwargs: Any = None, **options: Any
) -> GRMRewardPipeline:
    """The judge over a stage of Ray that samples from `model`; `options` are the pipeline's, such as `meta_rm`."""
    client: Any = StageClient(model, max_model_len or context_length(AutoConfig.from_pretrained(model)))
    tokenizer = AutoTokenizer.from_pretrained(model)
    client.ends = tokenizer.all_special_ids
    options["model"] = OpenAIEngine(
        model, tokenizer=tokenizer, client=client, dialect="openai", chat_template_kwargs=chat_template_kwargs
    )
    return GRMRewardPipeline(**options)


def judge_on_ray(
    rows: LabelRows,
    folder: str | os.PathLike,
    load: Callable[..., GRMRewardPipeline],
    rows_per_shard: int = 64,
    invalid_rows: InvalidRows = "error",
    stage: "Callable[[ray.data.Dataset], ray.data.Dataset] | None" = None,
    num_workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    **options: Any,
) -> tuple[Dataset, dict[str, Any]]:
    """Judges rows as [`~trl_spct.labeling.judgments.judge_dataset`] does, in actors of Ray: the same shards in the
    same folder, which all nodes see, and which either resumes. A shard's rows are checked when it is judged.

    `load` returns the judge. A `stage`, such as a processor of `ray.data.llm`, samples in its place: from
    `tokenized_prompt` and `sampling_params` it makes `generated_tokens`, beside `shard` and `seed`, in whole blocks;
    `load` is then [`stage_judge`] with its arguments bound. `num_cpus` and `num_gpus` are those of each actor. Returns
    the judgments, and the judge's `protocol`.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('Judging on a cluster needs Ray Data: `pip install "trl-spct[ray]"`.') from error

    def describe() -> tuple[Any, dict[str, Any]]:
        judge = LabelingJudge(load(), **options)
        return judge.settings, judge.protocol

    remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_calls=1)  # whose process ends, and frees the GPU
    settings, protocol = ray.get(remote(describe).remote())
    job = labeling_job(settings, rows, folder, rows_per_shard)
    judge = {"load": load, "invalid_rows": invalid_rows, **options}
    work = {"job": job, "rows": rows, "occurrences": count_occurrences(rows)}
    pool = {"compute": ray.data.ActorPoolStrategy(size=num_workers), "num_cpus": num_cpus}
    pool |= {"batch_size": None, "batch_format": "pyarrow"}
    with locked(job.folder):
        claim_folder(job.folder, job.settings)
        if missing := [{"shard": number} for number, (path, _) in enumerate(job.shards) if not path.exists()]:
            shards = ray.data.from_items(missing, override_num_blocks=len(missing))
            shards.context.raise_original_map_exception = True
            shards.context.target_max_block_size = None  # a shard's critiques stay together
            if stage is not None:
                unguided = {**judge, "load": partial(load, meta_rm=None), "guide": None, "k_meta": None}
                shards = stage(shards.map_batches(ShardRequests, fn_constructor_kwargs=work | unguided, **pool))
            try:
                judged = shards.map_batches(ShardJudge, fn_constructor_kwargs=work | judge, **pool, num_gpus=num_gpus)
                judged.materialize()
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
    return job.read(), protocol
