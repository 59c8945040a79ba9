# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The report of rejective sampling, against counts by hand."""

import json

import pytest
from datasets import Dataset

from trl_spct.trainers.rejection_report import rejection_metrics, rejection_report


def record(row, outcome, hinted=False, problem=None):
    return {"row": row, "sample": 0, "hinted": hinted, "outcome": outcome, "problem": problem}


def trajectories():
    records = [
        # Row 0: one of three right; the hint is followed.
        record(0, "kept"),
        record(0, "incorrect"),
        record(0, "unreadable", problem="truncated"),
        record(0, "kept", hinted=True),
        # Row 1: none right, but with the hint.
        *[record(1, "incorrect") for _ in range(3)],
        record(1, "kept", hinted=True),
        # Row 2: too easy.
        *[record(2, "too_easy") for _ in range(3)],
        record(2, "incorrect", hinted=True),
        # Row 3: none right, with the hint either.
        *[record(3, "incorrect") for _ in range(2)],
        record(3, "unreadable", problem="missing"),
        record(3, "unreadable", hinted=True, problem="missing"),
    ]
    return Dataset.from_list(records)


@pytest.fixture(scope="module")
def report():
    return rejection_report(trajectories())


def test_outcomes_and_causes(report):
    assert (report["trajectories"], report["rows"]) == (16, 4)
    assert report["outcomes"] == {"kept": 1, "incorrect": 6, "unreadable": 2, "too_easy": 3}
    assert report["hinted_outcomes"] == {"kept": 2, "incorrect": 1, "unreadable": 1, "too_easy": 0}
    assert report["problems"] == {"missing": 2, "truncated": 1}
    assert report["accuracy"] == pytest.approx(4 / 12)


def test_pass_rates(report):
    assert report["pass_rates"] == {"0/3": 2, "1/3": 1, "2/3": 0, "3/3": 1}


def test_remarks(report):
    remarks = " ".join(report["remarks"])
    assert "67% of the kept critiques were hinted" in remarks and "max_hinted_share" in remarks
    fine = rejection_report(Dataset.from_list([record(0, "kept"), record(0, "incorrect")]))
    assert fine["remarks"] == []


def test_the_report_is_json(report):
    assert json.loads(json.dumps(report)) == report


def test_metrics_are_numbers_with_one_prefix(report):
    metrics = rejection_metrics(report)
    assert all(name.startswith("rft/") and isinstance(value, (int, float)) for name, value in metrics.items())
    shares = {"kept": 3 / 16, "incorrect": 7 / 16, "unreadable": 3 / 16, "too_easy": 3 / 16, "accuracy": 4 / 12}
    assert {name: metrics[f"rft/{name}"] for name in shares} == pytest.approx(shares)
    assert metrics["rft/problem/truncated"] == pytest.approx(1 / 16)
    assert metrics["rft/rows_with_0/3"] == 0.5


def test_without_hints_or_rows():
    unhinted = rejection_report(trajectories().filter(lambda row: not row["hinted"]))
    assert sum(unhinted["hinted_outcomes"].values()) == 0 and unhinted["accuracy"] == pytest.approx(4 / 12)
    hinted = rejection_report(trajectories().filter(lambda row: row["hinted"]))
    assert hinted["accuracy"] is None and "rft/accuracy" not in rejection_metrics(hinted)
    assert hinted["pass_rates"] == {}
    for some in (unhinted, hinted, rejection_report(trajectories().select([]))):
        json.dumps(some)
        rejection_metrics(some)
