# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The report of rejective sampling, against counts by hand."""

import json

import pytest
from datasets import Dataset

from trl_spct.trainers.rejection_report import MAX_DOMAINS, rejection_metrics, rejection_report


def record(row, outcome, hinted=False, best=0, n=2, tokens=10, problem=None, domain="math", lengths=None):
    lengths = lengths or [5] * n
    labels = [float(place == best) for place in range(n)] if n > 1 else [1.0]
    return {
        "row": row,
        "sample": 0,
        "hinted": hinted,
        "outcome": outcome,
        "problem": problem,
        "num_tokens": tokens,
        "responses": ["x" * length for length in lengths],
        "labels": labels,
        "order": list(range(n)),
        "domain": domain,
    }


def trajectories(domain=True):
    records = [
        # Row 0, best of two in place 1 and the longer: one of three right; the hint is followed.
        record(0, "kept", tokens=20, best=0),
        record(0, "incorrect", tokens=30, best=0),
        record(0, "unreadable", tokens=64, best=0, problem="truncated"),
        record(0, "kept", hinted=True, tokens=6, best=0),
        # Row 1, best in place 2 and the shorter: none right, but with the hint.
        record(1, "incorrect", tokens=10, best=1, domain="chat"),
        record(1, "incorrect", tokens=12, best=1, domain="chat"),
        record(1, "incorrect", tokens=14, best=1, domain="chat"),
        record(1, "kept", hinted=True, tokens=8, best=1, domain="chat"),
        # Row 2, three responses: too easy.
        *[record(2, "too_easy", n=3, best=2, domain="chat") for _ in range(3)],
        record(2, "incorrect", hinted=True, n=3, best=2, domain="chat"),
        # Row 3, one response: none right, with the hint either.
        *[record(3, "incorrect", n=1, domain=None) for _ in range(2)],
        record(3, "unreadable", n=1, domain=None, problem="missing"),
        record(3, "unreadable", n=1, domain=None, hinted=True, problem="missing"),
    ]
    rows = Dataset.from_list(records)
    return rows if domain else rows.remove_columns("domain")


@pytest.fixture(scope="module")
def report():
    return rejection_report(trajectories())


def test_outcomes_and_causes(report):
    assert (report["trajectories"], report["rows"]) == (16, 4)
    assert report["outcomes"] == {"kept": 1, "incorrect": 6, "unreadable": 2, "too_easy": 3}
    assert report["hinted_outcomes"] == {"kept": 2, "incorrect": 1, "unreadable": 1, "too_easy": 0}
    assert report["problems"] == {"missing": 2, "truncated": 1}
    assert report["shares"] == pytest.approx(
        {
            "kept": 3 / 16,
            "incorrect": 7 / 16,
            "unreadable": 3 / 16,
            "too_easy": 3 / 16,
            "accuracy": 4 / 12,
            "hinted_kept": 2 / 3,
        }
    )


def test_pass_rates(report):
    assert report["pass_rates"] == {"0/3": 2, "1/3": 1, "2/3": 0, "3/3": 1}


def test_by_number_of_responses_and_domain(report):
    assert list(report["by_n"]) == ["1", "2", "3"]
    assert [group["rows"] for group in report["by_n"].values()] == [1, 2, 1]
    assert report["by_n"]["2"]["accuracy"] == pytest.approx(1 / 6)
    assert report["by_n"]["2"]["kept"] == pytest.approx(3 / 8)
    assert report["by_n"]["3"]["too_easy"] == pytest.approx(3 / 4)
    assert list(report["by_domain"]) == ["chat", "math"], "rows without a domain are in none"
    assert report["by_domain"]["chat"] == pytest.approx(
        {
            "rows": 2,
            "trajectories": 8,
            "kept": 1 / 8,
            "incorrect": 4 / 8,
            "unreadable": 0,
            "too_easy": 3 / 8,
            "accuracy": 3 / 6,
            "hinted_kept": 1,
        }
    )


def test_lengths(report):
    assert report["tokens"] == pytest.approx(
        {
            "kept": (20 + 6 + 8) / 3,
            "kept_unhinted": 20,
            "kept_hinted": 7,
            "rejected": (30 + 64 + 10 + 12 + 14 + 4 * 10 + 4 * 10) / 13,
        }
    )


def test_what_hangs_on_hints(report):
    assert report["hints"] == {"rows_unsolved": 2, "solved_by_hint": 1, "accuracy": 0.5}


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
    assert metrics["rft/kept"] == pytest.approx(3 / 16)
    assert metrics["rft/problem/truncated"] == pytest.approx(1 / 16)
    assert metrics["rft/rows_with_0/3"] == 0.5
    assert metrics["rft/n=2/accuracy"] == pytest.approx(1 / 6)
    assert metrics["rft/domain=chat/kept"] == pytest.approx(1 / 8)
    assert metrics["rft/tokens/kept_hinted"] == 7
    assert metrics["rft/hint/rows_solved"] == 0.25


def test_without_domains_hints_or_rows():
    assert rejection_report(trajectories(domain=False))["by_domain"] == {}
    unhinted = trajectories().filter(lambda row: not row["hinted"])
    report = rejection_report(unhinted)
    assert report["hints"]["accuracy"] is None and "rft/hint/accuracy" not in rejection_metrics(report)
    hinted = rejection_report(trajectories().filter(lambda row: row["hinted"]))
    assert hinted["shares"]["accuracy"] is None and hinted["pass_rates"] == {}
    for some in (report, hinted, rejection_report(trajectories().select([]))):
        json.dumps(some)
        rejection_metrics(some)


def test_of_many_domains_the_largest_are_shown():
    rows = [record(i, "kept", domain=f"d{i % 30}" if i < 60 else "large") for i in range(70)]
    report = rejection_report(Dataset.from_list(rows))
    assert len(report["by_domain"]) == 31
    shown = {name.split("/")[1] for name in rejection_metrics(report) if "domain=" in name}
    assert len(shown) == MAX_DOMAINS and "domain=large" in shown
