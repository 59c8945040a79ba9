# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Results as people read them."""

import math

import pytest
from huggingface_hub import ModelCardData

from trl_spct.reports import breakdown_table, card_results, markdown_table, mean_results, plot_scaling


def result(stage, benchmark, accuracy, k=1, guided=False, temperature=0.5, **more):
    return {
        "stage": stage, "benchmark": benchmark, "metric": "ROC-AUC" if benchmark == "realmistake" else "accuracy",
        "k": k, "guided": guided, "temperature": temperature, "accuracy": accuracy, "low": accuracy - 0.03,
        "high": accuracy + 0.04, "n": 100, "rows": 200, "unreadable": 0.0, "ties": 0.0, "tokens": 10.0 * k,
        "seconds": 0.1 * k, "values": {"easy": [0.5, 0.4, 0.6]}, "seed": 0, **more,
    }  # fmt: skip


RESULTS = [
    result("spct", "rmb", 0.7),
    result("spct", "rmb", 0.75, k=8),
    result("spct", "rmb", 0.8, k=8, guided=True),
    result("spct", "realmistake", 0.6),
    result("spct", "realmistake", 0.65, k=8),
    result("longest", "rmb", 0.5, baseline=True, tokens=0.0),
    result("longest", "realmistake", float("nan"), baseline=True, tokens=0.0),
    result("spct", "rmb", 0.72, temperature=0.0),
]


def test_judges_by_benchmarks():
    lines = markdown_table(RESULTS).splitlines()
    assert lines[0] == "| judge | vote | k | rmb | realmistake | mean |"
    assert lines[2] == "| spct | plain | 1 | 70.0 (67.0–74.0) | 60.0 (57.0–64.0) | 65.0 |"
    assert lines[4] == "| spct | guided | 8 | 80.0 (77.0–84.0) | – | – |", "no mean over what is missing"
    assert lines[5] == "| longest | – | 1 | 50.0 (47.0–54.0) | – | – |"
    assert lines[6].startswith("| spct | greedy | 1 | 72.0")
    assert lines[-2:] == ["* rmb: accuracy, n = 100", "* realmistake: ROC-AUC, n = 100"]
    alone = markdown_table(RESULTS[:1], intervals=False).splitlines()
    assert alone[0] == "| judge | vote | k | rmb |" and alone[2] == "| spct | plain | 1 | 70.0 |"


def test_subsets():
    lines = breakdown_table([*RESULTS[:1], result("x", "rmb", 0.1, values={"hard": [0.25, 0, 1]})]).splitlines()
    assert lines[0] == "| judge | vote | k | easy | hard |"
    assert lines[2:] == ["| spct | plain | 1 | 50.0 | – |", "| x | plain | 1 | – | 25.0 |"]


def test_means_over_benchmarks():
    first, second = mean_results(RESULTS[:2] + RESULTS[3:5])
    assert (first["k"], first["accuracy"]) == (1, pytest.approx(0.65))
    assert first["accuracy"] - first["low"] == pytest.approx(math.sqrt(2 * 0.03**2) / 2)
    assert second["tokens"] == 80 and second["stage"] == "spct"
    assert len(mean_results(RESULTS[:4])) == 1, "only where all benchmarks are there"


@pytest.mark.parametrize("against", ["k", "tokens", "seconds"])
def test_figures(against, tmp_path):
    path = tmp_path / "figure.png"
    plot_scaling(mean_results([r for r in RESULTS if r["benchmark"] == "rmb"]), path, against=against)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_model_card():
    protocol = {"seed": 0, "template": "paper", "template_digest": "abc", "max_new_tokens": 64}
    entries = card_results(RESULTS, protocol)
    found = {(entry.dataset_name, entry.metric_name): entry for entry in entries}
    assert set(found) == {
        ("rmb", "accuracy, Voting@8"),
        ("rmb", "accuracy, MetaRM@8"),
        ("rmb", "accuracy, greedy"),
        ("realmistake", "ROC-AUC, Voting@8"),
    }
    entry = found["realmistake", "ROC-AUC, Voting@8"]
    assert entry.metric_type == "roc_auc" and entry.metric_value == 65.0
    assert entry.metric_args == {**protocol, "k": 8, "interval": "95 % interval 62.0 to 69.0, n = 100"}
    data = ModelCardData(model_name="judge", eval_results=entries)
    assert "model-index" in data.to_yaml() and "template_digest" in data.to_yaml()
