# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The operators of Ray Data without Ray: batches of rows, shards in any order, and the two halves around a stage."""

import importlib
import json
import pickle
import random
import sys
from functools import partial

import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from paths import RECIPES
from test_engines import serving
from test_labels import SHORT, rows_of
from tiny_models import save_writing, tiny_config, tiny_tokenizer
from transformers import AutoConfig, AutoTokenizer, pipeline

from trl_spct import MetaRMForSequenceClassification, OpenAIEngine
from trl_spct.jobs import claim_folder, stored_cost
from trl_spct.judge.orders import count_occurrences, derive_seed
from trl_spct.judge.pipelines import GRMRewardPipeline
from trl_spct.judge.preferences import InvalidPreference
from trl_spct.judge.sampling import EngineError, PromptTooLongError
from trl_spct.labeling.distributed import RayJudge, ShardJudge, ShardRequests, judge_on_ray, stage_judge
from trl_spct.labeling.judgments import LabelingJudge, judge_dataset, labeling_job
from trl_spct.labeling.labels import COLUMNS, score_columns
from trl_spct.labeling.rows import prepare_rows

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"k": 4, **SHORT}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_writing(tmp_path_factory.mktemp("judges") / "writing")


@pytest.fixture(scope="module")
def load(model):
    return partial(pipeline, "grm-reward", model=model)


def equal_rows(count):
    """Rows of which each third one is the first again."""
    rows = rows_of(count).to_list()
    return Dataset.from_list([{**row, **({"prompt": "q", "responses": ["a", "b"]} if i % 3 == 0 else {})}
                              for i, row in enumerate(rows)])  # fmt: skip


def work_of(rows, folder, load, rows_per_shard=4, **options):
    """What the actors of a run get."""
    judge = {"load": load, **OPTIONS, **options}
    loaded = LabelingJudge(
        load(), **{name: value for name, value in judge.items() if name not in ("load", "invalid_rows")}
    )
    job = labeling_job(loaded.settings, rows, folder, rows_per_shard)
    claim_folder(job.folder, job.settings)
    return {"job": job, "rows": rows, "occurrences": count_occurrences(rows), **judge}


def shard(number):
    return pa.table({"shard": [number]})


# Batches of rows


def test_rows_come_back_with_the_columns_of_labels(load, tmp_path):
    data = equal_rows(7)
    rows = prepare_rows(data)
    judgments = judge_dataset(LabelingJudge(load(), **OPTIONS), rows, tmp_path / "a")
    judged = RayJudge(load=load, **OPTIONS)(data.with_format("arrow")[:])
    assert judged.column_names == [*data.column_names, *COLUMNS, "critiques"]
    assert judged.select(COLUMNS).to_pylist() == score_columns(rows, judgments).to_list()
    assert judged["critiques"].to_pylist() == judgments["critiques"][:]
    assert judged.select(data.column_names).to_pylist() == data.to_list()


def test_bad_rows_are_named_and_those_that_do_not_fit_may_stay(load):
    long = [*rows_of(2), {"prompt": "long", "responses": ["a " * 5000, "b"], "kept": 2}]
    judge = RayJudge(load=load, **OPTIONS)
    with pytest.raises(InvalidPreference, match="batch row 3: Response 1 is empty"):
        judge(pa.Table.from_pylist([*long, {"prompt": "q", "responses": ["", "b"], "kept": 3}]))
    with pytest.raises(PromptTooLongError, match="Row 2.*invalid_rows"):
        judge(pa.Table.from_pylist(long))
    judged = RayJudge(load=load, invalid_rows="drop", **OPTIONS)(pa.Table.from_pylist(long)).to_pylist()
    assert [row["kept"] for row in judged] == [0, 1, 2]
    assert judged[2]["scores"] is None and judged[2]["problems"] == ["length"] and judged[1]["scores"]


# Shards


def test_shards_in_any_order_are_those_of_label(load, tmp_path, monkeypatch):
    """Equal rows in different shards have critiques of their own; what is written is not judged again."""
    rows = prepare_rows(equal_rows(10))
    expected = judge_dataset(LabelingJudge(load(), **OPTIONS), rows, tmp_path / "label", 4)
    work = work_of(rows, tmp_path / "ray", load)
    assert ShardJudge(**work)(shard(2)).to_pylist() == [{"shard": 2}]
    another = ShardJudge(**work)
    another(pa.table({"shard": [1, 0]}))
    assert work["job"].read().to_list() == expected.to_list()
    texts = [str(expected[number]["critiques"]) for number in (0, 3, 6, 9)]
    assert len(set(texts)) == 4
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("label", "ray")]
    assert manifests[0] == manifests[1]
    costs = [stored_cost(tmp_path / name) for name in ("label", "ray")]
    assert costs[0].written == costs[1].written > 0 and costs[1].read > 0
    monkeypatch.setattr(LabelingJudge, "__call__", lambda *args, **options: pytest.fail("judged again"))
    another(shard(0))
    judge_dataset(LabelingJudge(load(), **OPTIONS), rows, tmp_path / "ray", 4)


def test_label_finishes_what_a_cluster_began(load, tmp_path):
    rows = prepare_rows(equal_rows(10))
    expected = judge_dataset(LabelingJudge(load(), **OPTIONS), rows, tmp_path / "label", 4)
    ShardJudge(**work_of(rows, tmp_path / "ray", load))(shard(1))
    finished = judge_dataset(LabelingJudge(load(), **OPTIONS), rows, tmp_path / "ray", 4)
    assert finished.to_list() == expected.to_list()


def test_a_row_of_a_shard_is_named_as_it_was_read(load, tmp_path):
    given = [
        {"prompt": " ", "responses": ["a", "b"]},
        *rows_of(4),
        {"prompt": "long", "responses": ["a " * 5000, "b"]},
    ]
    rows = prepare_rows(given, invalid_rows="drop")
    with pytest.raises(PromptTooLongError, match="Row 5:"):
        ShardJudge(**work_of(rows, tmp_path, load))(shard(1))
    ShardJudge(**work_of(rows, tmp_path, load, invalid_rows="drop"))(pa.table({"shard": [0, 1]}))
    assert work_of(rows, tmp_path, load)["job"].read()["refused"] == [None] * 4 + ["length"]


def test_without_ray_it_is_said_what_to_install(load, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"trl-spct\[ray\]"):
        judge_on_ray(prepare_rows(rows_of(1)), tmp_path, load, **OPTIONS)


def test_the_recipe_writes_what_label_does(model, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.syspath_prepend(RECIPES)
    label, label_ray = importlib.import_module("label"), importlib.import_module("label_ray")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in equal_rows(10)))
    options = ["--model_name_or_path", model, "--dataset_name", str(rows), "--k", "4", "--template", "compact"]
    options += ["--max_new_tokens", "32", "--rows_per_shard", "4", "--batch_size", "3", "--output_dir"]
    label.main(*label.make_parser().parse_args_and_config([*options, str(tmp_path / "one")]))

    def here(rows, folder, load, rows_per_shard, invalid_rows, stage, num_workers, num_cpus, num_gpus, **options):
        """Stands for Ray: the judge is loaded by what travels."""
        assert (num_workers, num_cpus, num_gpus, stage) == (2, 0.5, 0, None)
        judge = LabelingJudge(pickle.loads(pickle.dumps(load))(), **options)
        return judge_dataset(judge, rows, folder, rows_per_shard, invalid_rows=invalid_rows), judge.protocol

    monkeypatch.setattr(label_ray, "judge_on_ray", here)
    workers = ["--num_workers", "2", "--num_cpus", "0.5"]
    label_ray.main(*label_ray.make_parser().parse_args_and_config([*options, str(tmp_path / "two"), *workers]))
    for name in ("preferences/data.parquet", "best_of_n/data.parquet", "scores/data.parquet"):
        one, two = (Dataset.from_parquet(str(tmp_path / folder / name)).to_list() for folder in ("one", "two"))
        assert one == two and one, name
    reports = [json.loads((tmp_path / folder / "report.json").read_text()) for folder in ("one", "two")]
    assert reports[0]["pairs"] == reports[1]["pairs"] and (tmp_path / "two" / "README.md").exists()


# Around a stage


class Writer:
    """The same token ids for the same prompt and seed, from a server or a stage."""

    def __init__(self, model):
        self.tokenizer, self.prompts = AutoTokenizer.from_pretrained(model), set()

    def text(self, prompt, seed):
        draw = random.Random(derive_seed(seed, *prompt))
        return rf"\boxed{{{draw.randint(1, 10)}, {draw.randint(1, 10)}}}" if draw.random() < 0.8 else "no box"

    def ids(self, prompt, seed):
        return [
            *self.tokenizer(self.text(prompt, seed), add_special_tokens=False)["input_ids"],
            self.tokenizer.eos_token_id,
        ]

    def answer(self, path, body, number):
        if path.endswith("/models"):
            return {"data": [{"id": "judge", "max_model_len": 4096}]}
        choices = []
        for place in range(body.get("n", 1)):
            ids = self.ids(body["prompt"], body["seed"] + place)
            choices.append({"index": place, "text": "", "token_ids": ids, "finish_reason": "stop"})
        return {"choices": choices}

    def stage(self, requests):
        """What a stage makes of the requests of a shard, in the order of its own."""
        rows = requests.to_pylist()
        random.Random(0).shuffle(rows)
        for row in rows:
            self.prompts.add(tuple(row["tokenized_prompt"]))
            row["generated_tokens"] = self.ids(row.pop("tokenized_prompt"), row.pop("sampling_params")["seed"])
        return pa.Table.from_pylist(rows)  # as in Ray, an empty block has no columns


@pytest.fixture(scope="module")
def meta_rm(tmp_path_factory):
    path = tmp_path_factory.mktemp("meta")
    torch.manual_seed(0)
    MetaRMForSequenceClassification(tiny_config("gemma2")).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


def halves(work, shards, writer):
    """Judges shards as a run with a stage does."""
    unguided = {**work, "load": partial(work["load"], meta_rm=None), "guide": None, "k_meta": None}
    requests, judge = ShardRequests(**unguided), ShardJudge(**work)
    blocks = [writer.stage(requests(shard(number))) for number in shards]
    for block in blocks:
        judge(block)
    return blocks


@pytest.mark.parametrize("guided", [False, True])
def test_the_two_halves_judge_as_over_a_server(model, meta_rm, tmp_path, guided):
    """Orders, fence, seeds, the Meta RM's votes and ties; equal rows have critiques of their own."""
    rows, writer = prepare_rows(equal_rows(10)), Writer(model)
    meta, guidance = ({"meta_rm": meta_rm}, {"k_meta": 1}) if guided else ({"meta_rm": None}, {})
    with serving(writer.answer) as server:
        engine = OpenAIEngine(model, base_url=server.url, tokenizer=model)
        judge = LabelingJudge(GRMRewardPipeline(engine, **meta), **OPTIONS, **guidance)
        expected = judge_dataset(judge, rows, tmp_path / "server", 4)
        prompts = {tuple(body["prompt"]) for body in server.bodies}
    work = work_of(rows, tmp_path / "stage", partial(stage_judge, model, **meta), **guidance)
    blocks = halves(work, (2, 0, 1), writer)
    assert [block.num_rows for block in blocks] == [8, 16, 16] and prompts <= writer.prompts
    judgments = work["job"].read()
    assert judgments.to_list() == expected.to_list()
    critiques = [critique for record in judgments for critique in record["critiques"]]
    assert {critique["problem"] for critique in critiques} == {None, "missing"}
    assert any(critique["meta_score"] is not None for critique in critiques) is guided
    assert (sum(critique["counted"] for critique in critiques) <= 10) is guided


def test_stopping_early_and_closing_over_a_stage(model, tmp_path):
    """All critiques are sampled, and those that a server would not have been asked for are left out."""
    rows, writer, options = prepare_rows(equal_rows(10)), Writer(model), {**OPTIONS, "k": 8, "early_stopping": "exact"}
    with serving(writer.answer) as server:
        pipe = GRMRewardPipeline(OpenAIEngine(model, base_url=server.url, tokenizer=model), meta_rm=None)
        expected = judge_dataset(LabelingJudge(pipe, **options), rows, tmp_path / "server", 4)
    load = partial(stage_judge, model, meta_rm=None)
    work = work_of(rows, tmp_path / "stage", load, k=8, early_stopping="exact")
    assert sum(block.num_rows for block in halves(work, (0, 1, 2), writer)) == 80
    judgments = work["job"].read()
    assert judgments.to_list() == expected.to_list()
    assert sum(map(len, judgments["critiques"])) < 80
    with pytest.raises(ValueError, match="Found close_critiques with dialect='openai'"):
        LabelingJudge(load(), **OPTIONS, close_critiques=True)


def test_a_stage_that_reaches_the_limit(model, tmp_path):
    """A critique that ends at the limit is cut, unless its last token ends it."""
    rows, writer = prepare_rows(rows_of(1)), Writer(model)
    writer.text = lambda prompt, seed: "x" * 31 if seed % 2 else "x" * 32
    work = work_of(rows, tmp_path, partial(stage_judge, model, meta_rm=None), order="fixed")
    requests = ShardRequests(**work)(shard(0))
    assert set(requests["sampling_params"].to_pylist()[0]) == {"temperature", "top_p", "max_tokens", "seed"}
    answers = writer.stage(requests)
    answers = answers.set_column(
        answers.column_names.index("generated_tokens"),
        "generated_tokens",
        pa.array([ids[:32] for ids in answers["generated_tokens"].to_pylist()]),
    )
    ShardJudge(**work)(answers)
    critiques = work["job"].read()[0]["critiques"]
    assert sorted(critique["problem"] for critique in critiques) == ["missing"] * 2 + ["truncated"] * 2


def test_a_shard_without_requests_is_written(model, tmp_path):
    given = [*rows_of(2), *[{"prompt": f"long {i}", "responses": ["a " * 5000, "b"]} for i in range(2)]]
    rows, writer = prepare_rows(given), Writer(model)
    load = partial(stage_judge, model, meta_rm=None)
    work = work_of(rows, tmp_path, load, 2, invalid_rows="drop")
    halves({**work, "invalid_rows": "drop"}, (1, 0), writer)
    assert work["job"].read()["refused"] == [None, None, "length", "length"]


def test_a_part_of_a_shard_is_not_judged(model, tmp_path):
    work = work_of(prepare_rows(rows_of(4)), tmp_path, partial(stage_judge, model, meta_rm=None))
    block = Writer(model).stage(ShardRequests(**work)(shard(0)))
    with pytest.raises(EngineError, match="expected whole shards as blocks"):
        ShardJudge(**work)(block.slice(1))
    assert work["job"].num_missing == 1


def test_the_context_of_a_stage_is_its_models_or_less(model):
    assert stage_judge(model, meta_rm=None).context == AutoConfig.from_pretrained(model).max_position_embeddings
    assert stage_judge(model, 64, meta_rm=None).context == 64
