# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What hides in an accuracy, worked out by hand."""

import json

import hand_made
import numpy as np
import pytest

from trl_spct.evaluation.diagnostics import (
    calibration,
    chosen_places,
    diagnose,
    length_preference,
    order_flips,
    report_lines,
)
from trl_spct.judge.preferences import Preference


def judged(labels, scores, orders=None, problems=None):
    return hand_made.judged(labels, scores, None, orders or (tuple(range(len(labels))),) * len(scores), problems)


SWAPPED = ((0, 1), (1, 0), (0, 1), (1, 0))


def test_the_place_decides():
    """A judge that always prefers what it reads first."""
    first = judged((1, 0), ((9, 1), (1, 9), (9, 1), (1, 9)), SWAPPED)
    assert chosen_places([first]) == {"2": [1.0, 0.0]}
    assert order_flips([first]) == {"flips": 1.0, "rows": 1, "same_order": 0.0}
    report = diagnose([first])
    assert report["places"] == {"0": {"accuracy": 1.0, "critiques": 2}, "1": {"accuracy": 0.0, "critiques": 2}}


def test_the_content_decides():
    steady = judged((1, 0), ((9, 1),) * 4, SWAPPED)
    assert chosen_places([steady]) == {"2": [0.5, 0.5]}
    assert order_flips([steady]) == {"flips": 0.0, "rows": 1, "same_order": 0.0}
    assert order_flips([judged((1, 0), ((9, 1),) * 4)]) is None, "one order only"


def test_ties_share_a_place_and_differ_from_winners():
    tied = judged((1, 0, 0), ((5, 5, 1), (9, 1, 1)), ((2, 0, 1), (0, 1, 2)))
    assert chosen_places([tied]) == {"3": pytest.approx([0.5, 0.25, 0.25])}
    assert order_flips([tied])["flips"] == 1.0


def test_length():
    rows = [Preference("q", ["aaaa", "a"]), Preference("q", ["aa", "aaaa"]), Preference("q", ["aa", "bb"])]
    judgments = [
        judged((0, 1), ((8, 4), None)),  # longer by two doublings: +4 points, wrongly
        judged((0, 1), ((5, 5),)),  # one doubling, no difference
        judged((1, 0), ((9, 1),)),  # equally long
    ]
    found = length_preference(judgments, rows)
    assert found["chosen_longer"] == 0.75 and found["right_longer"] == 0.5 and found["pairs"] == 2
    # Deviations in doublings: ±1, ±0.5, 0; in points: ±2, 0, ±4.
    assert found["slope"] == pytest.approx((2 * 1 * 2) / (2 * 1 + 2 * 0.25))
    assert length_preference([judged((1,), ((1,),))], [Preference("q", ["a"])]) is None


def test_calibration_by_hand():
    sure = judged((1, 0), ((9, 1),) * 4)  # confidence 1, right
    torn = judged((0, 1), ((9, 1), (8, 1), (7, 1), (1, 2)))  # .75, wrong
    missing = judged((1, 0), ((9, 1), None, None, None))  # 1 of 1, right
    found = calibration([sure, torn, missing])
    assert found["confidence"] == pytest.approx((1 + 0.75 + 1) / 3) and found["accuracy"] == pytest.approx(2 / 3)
    assert found["ece"] == pytest.approx(1 / 3 * 0.75)
    assert [(edge, rows) for edge, rows, *_ in found["bins"]] == [(0.7, 1), (0.9, 2)]
    assert found["auroc"] == 1.0
    assert calibration([judged((1, 0), (None, None))]) is None


def test_calibration_of_honest_confidence():
    """Votes that are right as often as critiques agree have no calibration error."""
    generator = np.random.default_rng(0)
    judgments = []
    for share in generator.integers(6, 11, size=4000):
        first_wins = generator.random() < share / 10
        scores = ((9, 1),) * int(share) + ((1, 8.9),) * int(10 - share)
        judgments.append(judged((1, 0) if first_wins else (0, 1), scores))
    assert calibration(judgments)["ece"] < 0.03


def test_a_report():
    broken = judged((1, 0), ((9, 1), None), problems=(None, "count"))
    lost = judged((1, 0), (None, None), problems=("missing", "count"))
    several = judged((1, 1, 0), ((9, 9, 1), (2, 1, 1)))
    rows = [Preference("q", ["aa", "b"])] * 2 + [Preference("q", ["aa", "b", "c"])]
    report = diagnose([broken, lost, several], rows)
    assert report["critiques"] == 6 and report["unreadable"] == 0.5 and report["undecided"] == 1
    assert report["problems"] == {"count": 2, "missing": 1}
    assert report["scores_used"] == {"1": 4, "2": 1, "9": 3}
    assert report["ties"] == {"single": pytest.approx(1 / 3), "vote": 0.0}
    assert report["tokens"] == 5
    assert json.loads(json.dumps(report)) == report
    text = "\n".join(report_lines(report))
    for part in ("50.0 % unreadable (2 count, 1 missing)", "scores used: 1 × 4", "calibration error"):
        assert part in text, text


def test_reports_on_next_to_nothing():
    for judgments in ([], [judged((1,), ((1,),))], [judged((1, 0), (None,))]):
        report = diagnose(judgments, [Preference("q", ["a"] * len(judgment.labels)) for judgment in judgments])
        assert report_lines(report)[0].startswith(f"{len(judgments)} critiques")
