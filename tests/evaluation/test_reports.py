# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Results as people read them."""

import json
import math

import pytest
from huggingface_hub import ModelCardData

from trl_spct.evaluation.reports import (
    bias_table,
    breakdown_table,
    card_results,
    markdown_table,
    mean_results,
    most_votes,
    plot_scaling,
    read_evaluation,
)


def result(stage, benchmark, accuracy, k=1, guided=False, temperature=0.5, **more):
    return {
        "stage": stage, "benchmark": benchmark, "metric": "ROC-AUC" if benchmark == "realmistake" else "accuracy",
        "k": k, "guided": guided, "temperature": temperature, "accuracy": accuracy, "low": accuracy - 0.03,
        "high": accuracy + 0.04, "n": 100, "rows": 200, "unreadable": 0.0, "ties": 0.0,
        "values": {"easy": [0.5, 0.4, 0.6]}, "seed": 0, **more,
    }  # fmt: skip


RESULTS = [
    result("spct", "rmb", 0.7),
    result("spct", "rmb", 0.75, k=8),
    result("spct", "rmb", 0.8, k=8, guided=True),
    result("spct", "realmistake", 0.6),
    result("spct", "realmistake", 0.65, k=8),
    result("longest", "rmb", 0.5, baseline=True),
    {**result("longest", "realmistake", 0.0, baseline=True), "accuracy": None, "low": None, "high": None},
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
    alone = markdown_table(RESULTS[:1]).splitlines()
    assert alone[0] == "| judge | vote | k | rmb |" and alone[2] == "| spct | plain | 1 | 70.0 (67.0–74.0) |"


def test_subsets():
    other = result("x", "rmb", 0.1, baseline=True, values={"hard": [0.25, 0, 1], "easy": None})
    lines = breakdown_table([*RESULTS[:2], other]).splitlines()
    assert lines[0] == "| subset | spct@8, plain | x@1 |", "of each judge the most votes"
    assert lines[2:] == ["| easy | 50.0 | – |", "| hard | – | 25.0 |"]
    hostile = breakdown_table([result("a|b", "rmb", 0.1, values={"x | y\n\n# z": [0.5, 0, 1]})]).splitlines()
    assert len(hostile) == 3 and hostile[2] == "| x \\| y # z | 50.0 |"


def test_means_over_benchmarks():
    first, second = mean_results(RESULTS[:2] + RESULTS[3:5])
    assert (first["k"], first["accuracy"]) == (1, pytest.approx(0.65))
    assert first["accuracy"] - first["low"] == pytest.approx(math.sqrt(2 * 0.03**2) / 2)
    assert second["k"] == 8 and second["stage"] == "spct"
    assert len(mean_results(RESULTS[:4])) == 1, "only where all benchmarks are there"


def test_figures(tmp_path):
    path = tmp_path / "figure.png"
    plot_scaling(mean_results([r for r in RESULTS if r["benchmark"] == "rmb"]), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_model_card():
    protocol = {"seed": 0, "template": "paper", "template_digest": "abc", "max_new_tokens": 64, "temperature": 0.5}
    entries = card_results(RESULTS, {**protocol, "meta_rm": "m", "guidance": "top half"})
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
    assert found["rmb", "accuracy, MetaRM@8"].metric_args["guidance"] == "top half"
    greedy = found["rmb", "accuracy, greedy"].metric_args
    assert greedy["temperature"] == 0 and greedy["k"] == 1 and "meta_rm" not in greedy
    data = ModelCardData(model_name="judge", eval_results=entries)
    assert "model-index" in data.to_yaml() and "template_digest" in data.to_yaml()


def test_a_model_card_names_what_was_read():
    """The repository, split and commit of a benchmark that has one of each; its name otherwise."""
    read = {"allenai/reward-bench": "c0ffee"}
    (entry,) = card_results([result("spct", "rewardbench", 0.7)], {}, read)
    assert (entry.dataset_type, entry.dataset_split, entry.dataset_revision) == (*read, "filtered", "c0ffee")
    for name in ("ppe-correctness", "rmb", "mine.jsonl"):
        (entry,) = card_results([result("spct", name, 0.7)], {}, read)
        assert (entry.dataset_type, entry.dataset_split, entry.dataset_revision) == (name, None, None)
    assert card_results([RESULTS[6]], {}) == []


DIAGNOSIS = {
    "rows": 2, "critiques": 4, "unreadable": 0.25, "problems": {"count": 1}, "undecided": 0,
    "ties": {"single": 0.5, "vote": 0.0},
    "places": {
        "0": {"accuracy": 1.0, "low": 0.9, "high": 1.0, "critiques": 2},
        "1": {"accuracy": 0.125, "low": 0.0, "high": 0.25, "critiques": 1},
    },
    "chosen_places": {"2": [0.75, 0.25]}, "order_flips": {"flips": 0.5, "rows": 2, "same_order": 0.0},
    "length": {"chosen_longer": 0.6, "pairs": 3},
    "confidence": {"ece": 0.2, "confidence": 1, "accuracy": 1},
}  # fmt: skip


def test_biases():
    lines = bias_table({"rmb": DIAGNOSIS, "single": {"unreadable": 0.0}}).splitlines()
    places = "100.0 (90.0–100.0) / 12.5 (0.0–25.0)"
    shown = f"25.0 % (count 1) | 50.0 %, of votes 0.0 % | {places} | 75.0 / 25.0 | 50.0 % (same order 0.0)"
    shown += " | 60.0 / – | 20.0 | – | –"
    assert lines[2] == f"| rmb | {shown} |"
    assert lines[3] == "| single | 0.0 % | – | – | – | – | – | – | – | – |"
    assert len({line.count("|") for line in lines}) == 1


def test_an_evaluation_is_read_back(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no results\.json and no report\.json; expected the output"):
        read_evaluation(tmp_path)
    facts = {"benchmark": "rmb", "revisions": {}, "sampled_items": 100, "differences": []}
    report = {"judge": "spct", "items": {"rmb": facts}, "protocol": {"rmb": {"seed": 3}}}
    report["diagnosis"] = {"rmb": DIAGNOSIS}
    other = result("other", "rmb", 0.9)
    (tmp_path / "results.json").write_text(json.dumps([*RESULTS, other]))
    (tmp_path / "report.json").write_text(json.dumps(report))
    found = read_evaluation(tmp_path)
    assert {entry.metric_value for entry in found.eval_results} == {72.0, 75.0, 80.0}, "no other judge, no baseline"
    assert {entry.metric_args["seed"] for entry in found.eval_results} == {3}
    assert {entry.metric_args["sampled_items"] for entry in found.eval_results} == {100}
    assert "differences" not in found.eval_results[0].metric_args
    table = markdown_table(most_votes(found.results))
    assert "| spct | plain | 8 |" in table and "| other | plain | 1 |" in table
    assert "| spct | plain | 1 |" not in table
    assert "25.0 % (count 1)" in found.bias_table
    assert "model-index" in ModelCardData(model_name="judge", eval_results=found.eval_results).to_yaml()
