# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judgments as a dataset: its card, what is pushed, and what never is."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from hub_server import USER, HubServer
from paths import ROOT
from test_benchmarks import SECRET, Worth, judgebench, realmistake

from trl_spct.evaluation.baselines import ContentBlindJudge
from trl_spct.evaluation.benchmark_loading import load_benchmark
from trl_spct.evaluation.benchmark_results import benchmark_results, judge_benchmark
from trl_spct.evaluation.diagnostics import diagnose
from trl_spct.evaluation.publishing import write_judgments_card


MADE = {"judgebench-gpt": judgebench, "realmistake": realmistake}


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """An evaluation of two benchmarks, one of them private, as the script leaves it."""
    monkeypatch.setattr("trl_spct.evaluation.benchmark_results.RESAMPLES", 20)
    out = tmp_path / "out"
    results, report = [], {"judge": "worth", "items": {}, "protocol": {}, "diagnosis": {}}
    for name, make in MADE.items():
        make(tmp_path / name)
        loaded = load_benchmark(name, str(tmp_path / name), check=False)
        judgments = judge_benchmark(Worth(k=2), loaded, out / "judgments" / name)
        results += benchmark_results(loaded, judgments, stage="worth")
        blind = judge_benchmark(ContentBlindJudge("first"), loaded, out / "baselines" / "first" / name)
        results += benchmark_results(loaded, blind, stage="first", baseline=True)
        report["items"][name] = loaded.facts
        report["protocol"][name] = {"seed": 7, "template_digest": "0123abc"}
        report["diagnosis"][name] = diagnose(judgments)
    (out / "results.json").write_text(json.dumps(results))
    (out / "report.json").write_text(json.dumps(report))
    return out


def test_a_card(evaluated):
    write_judgments_card(evaluated)
    card = (evaluated / "README.md").read_text(encoding="utf-8")
    for part in (
        "config_name: judgments-judgebench-gpt", "| worth | plain | 2 |", "0123abc",
        "Of realmistake `text` holds hashes",
        "CC-BY-SA-4.0", "calibration error", "* `judgments`: the judge's votes",
    ):  # fmt: skip
        assert part in card, part
    configs = yaml.safe_load(card.split("---")[1])["configs"]
    assert {config["config_name"]: config["data_files"] for config in configs} == {
        "judgments-judgebench-gpt": "judgments/judgebench-gpt/shard-*.parquet",
        "judgments-realmistake": "judgments/realmistake/shard-*.parquet",
        "baselines-first-judgebench-gpt": "baselines/first/judgebench-gpt/shard-*.parquet",
        "baselines-first-realmistake": "baselines/first/realmistake/shard-*.parquet",
    }
    assert SECRET not in card and str(evaluated) not in card and "scaling.png" not in card and "`greedy`" not in card


CLIENT = """
import json, sys
from datasets import load_dataset
from trl_spct.evaluation.publishing import push_judgments

folder, repository = sys.argv[1:]
push_judgments(folder, repository, private=True)
rows = load_dataset(repository, "judgments-realmistake", split="train")
print(json.dumps([rows.column_names, rows[0]]))
"""


def test_judgments_are_pushed_and_read_back(evaluated, tmp_path):
    """By the real client, without a text of a private row, and without what names places on this machine."""
    with HubServer() as hub:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, evaluated, f"{USER}/judged"],
            capture_output=True, text=True, timeout=300, cwd=tmp_path,
            env={**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        repository = hub.repositories["dataset", f"{USER}/judged"]
    columns, row = json.loads(done.stdout.splitlines()[-1])
    assert repository.private and {"id", "labels", "critiques", "truncated"} <= set(columns)
    assert all(critique["text"].startswith("blake2b:") for critique in row["critiques"])
    assert [critique["scores"] for critique in row["critiques"]] == [[1.0], [1.0]]
    assert {"README.md", "results.json", "report.json"} <= set(repository.files)
    assert len([path for path in repository.files if path.endswith(".parquet")]) == 4
    assert not [path for path in repository.files if "manifest" in path]
    for path, file in repository.files.items():
        assert SECRET.encode() not in file.content and str(tmp_path).encode() not in file.content, path
