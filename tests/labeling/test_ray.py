# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judging on a local Ray with two workers: actors, a stage between two halves, and errors."""

import pytest

ray = pytest.importorskip("ray")

from functools import partial  # noqa: E402

from datasets import Dataset  # noqa: E402
from test_distributed import OPTIONS, Writer, equal_rows, meta_rm, serving  # noqa: E402, F401
from test_labels import rows_of  # noqa: E402
from tiny_models import save_writing  # noqa: E402
from transformers import pipeline  # noqa: E402

from trl_spct import OpenAIEngine  # noqa: E402
from trl_spct.judge.pipelines import GRMRewardPipeline  # noqa: E402
from trl_spct.judge.sampling import PromptTooLongError  # noqa: E402
from trl_spct.labeling.distributed import RayJudge, judge_on_ray, stage_judge  # noqa: E402
from trl_spct.labeling.judgments import LabelingJudge, judge_dataset  # noqa: E402
from trl_spct.labeling.labels import COLUMNS, score_columns  # noqa: E402
from trl_spct.labeling.rows import prepare_rows  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, object_store_memory=300 * 2**20, include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_writing(tmp_path_factory.mktemp("judges") / "writing")


class Stage:
    """An actor that samples in place of vLLM's."""

    def __init__(self, model):
        self.writer = Writer(model)

    def __call__(self, batch):
        return self.writer.stage(batch)


def sampled(model, requests):
    actor = {"fn_constructor_kwargs": {"model": model}, "compute": ray.data.ActorPoolStrategy(size=1)}
    # Batches smaller than a shard, as vLLM's stage has them
    return requests.map_batches(Stage, batch_format="pyarrow", batch_size=5, num_cpus=0.5, **actor)


def test_over_a_server_in_actors_and_with_a_stage(model, meta_rm, tmp_path):  # noqa: F811
    """Three ways to the same guided votes; the engine travels to the actors."""
    rows, writer, guided = prepare_rows(equal_rows(23)), Writer(model), {**OPTIONS, "k_meta": 1}
    with serving(writer.answer) as server:
        load = partial(GRMRewardPipeline, OpenAIEngine(model, base_url=server.url, tokenizer=model), meta_rm=meta_rm)
        expected = judge_dataset(LabelingJudge(load(), **guided), rows, tmp_path / "label", 4)
        judged, protocol = judge_on_ray(rows, tmp_path / "ray", load, 4, num_workers=2, num_cpus=0.5, **guided)
    assert protocol["engine"] == "OpenAIEngine" and judged.to_list() == expected.to_list()
    load = partial(stage_judge, model, meta_rm=meta_rm)
    options = {"stage": partial(sampled, model), "num_cpus": 0.5, **guided}
    staged, _ = judge_on_ray(rows, tmp_path / "stage", load, 4, **options)
    assert staged.to_list() == expected.to_list()
    assert all(sum(critique["counted"] for critique in record["critiques"]) <= 1 for record in staged)


def test_a_row_that_does_not_fit_is_named_and_the_others_are_kept(model, tmp_path):
    given = [*rows_of(8), {"prompt": "long", "responses": ["a " * 5000, "b"]}]
    rows, load = prepare_rows(given), partial(pipeline, "grm-reward", model=model)
    with pytest.raises(PromptTooLongError, match=r"Row 8: .*invalid_rows"):
        judge_on_ray(rows, tmp_path, load, 4, **OPTIONS)
    judged, _ = judge_on_ray(rows, tmp_path, load, 4, "drop", **OPTIONS)
    assert judged["refused"] == [None] * 8 + ["length"]


def test_the_rows_of_a_dataset_of_ray(model, tmp_path):
    data = rows_of(12)
    load = partial(pipeline, "grm-reward", model=model)
    judgments = judge_dataset(LabelingJudge(load(), **OPTIONS), prepare_rows(data), tmp_path)
    actors = {"compute": ray.data.ActorPoolStrategy(size=2), "num_cpus": 0.5, "batch_format": "pyarrow"}
    rows = ray.data.from_arrow(data.with_format("arrow")[:])
    judged = rows.map_batches(RayJudge, fn_constructor_kwargs={"load": load, **OPTIONS}, batch_size=5, **actors)
    records = sorted(judged.take_all(), key=lambda row: row["kept"])
    columns = Dataset.from_list([{name: record[name] for name in COLUMNS} for record in records])
    assert columns["scores"][:] == score_columns(prepare_rows(data), judgments)["scores"][:]
    assert [r["critiques"][0]["text"] for r in records] == [r["critiques"][0]["text"] for r in judgments]
