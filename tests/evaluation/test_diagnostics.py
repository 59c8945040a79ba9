# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What hides in an accuracy, worked out by hand."""

import json
from dataclasses import replace

import hand_made
import numpy as np
import pytest

from trl_spct.evaluation.diagnostics import (
    UNREADABLE_ADVICE,
    accuracy_by_place,
    calibration,
    chosen_places,
    diagnose,
    length_preference,
    order_flips,
    report_lines,
)
from trl_spct.evaluation.reports import bias_table
from trl_spct.judge.preferences import Preference


def judged(labels, scores, orders=None, problems=None):
    return hand_made.judged(labels, scores, None, orders or (tuple(range(len(labels))),) * len(scores), problems)


SWAPPED = ((0, 1), (1, 0), (0, 1), (1, 0))


def test_grades_of_single_responses_leave_pairs_their_accuracy():
    """A grade above 1 is neither right nor wrong; the pair beside it is right."""
    pair, single = judged((0, 1), ((3, 9),)), judged((1,), ((7,),))
    mixed = [
        replace(judgment, critiques=tuple(replace(c, closed=True, meta_score=1.0) for c in judgment.critiques))
        for judgment in (pair, single)
    ]
    report = diagnose(mixed)
    assert report["closed"] == {"share": 1.0, "accuracy": 1.0}
    assert (report["fidelity"]["right"], report["fidelity"]["critiques"]) == (1.0, 1)
    assert diagnose(mixed[1:])["closed"] == {"share": 1.0} and "fidelity" not in diagnose(mixed[1:])


def test_the_place_decides():
    """A judge that always prefers what it reads first."""
    first = judged((1, 0), ((9, 1), (1, 9), (9, 1), (1, 9)), SWAPPED)
    assert chosen_places([first]) == {"2": [1.0, 0.0]}
    assert order_flips([first]) == {"flips": 1.0, "rows": 1, "same_order": 0.0}
    report = diagnose([first])
    certain = {"accuracy": 1.0, "low": 1.0, "high": 1.0, "critiques": 2}
    assert report["places"] == {"0": certain, "1": {**certain, "accuracy": 0.0, "low": 0.0, "high": 0.0}}


def test_accuracy_by_place():
    first = judged((1, 0), ((8, 2), (3, 5), None, (4, 4)), orders=((0, 1), (1, 0), (0, 1), (1, 0)))
    second = judged((0, 5, 1), ((1, 9, 2), (9, 1, 2)), orders=((2, 0, 1), (1, 2, 0)))
    single, several = judged((1,), ((1,),), orders=((0,),)), judged((1, 1, 0), ((9, 1, 1),))
    places = accuracy_by_place([first, second, single, several])
    assert {place: (at["accuracy"], at["critiques"]) for place, at in places.items()} == {
        "0": (0.5, 2), "1": (0.25, 2), "2": (1.0, 1),
    }  # fmt: skip
    assert (places["0"]["low"], places["0"]["high"]) == (0, 1), "of two rows, one right and one wrong"
    assert accuracy_by_place([single]) == {}


def test_intervals_by_place_are_over_rows():
    """Sixteen critiques of a row that agree are not sixteen rows."""
    generator = np.random.default_rng(0)
    rows = [((9, 1),) if right else ((1, 9),) for right in generator.random(100) < 0.7]
    (once,) = accuracy_by_place([judged((1, 0), scores) for scores in rows]).values()
    (often,) = accuracy_by_place([judged((1, 0), scores * 16) for scores in rows]).values()
    assert (once["low"], once["high"]) == pytest.approx((often["low"], often["high"])) and often["critiques"] == 1600
    width = 2 * 1.96 * np.sqrt(once["accuracy"] * (1 - once["accuracy"]) / 100)
    assert once["high"] - once["low"] == pytest.approx(width, rel=0.1)


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
    assert length_preference([judged((1,), ((1,),))], [Preference("q", ["a"])]) is None


def test_calibration_by_hand():
    sure = judged((1, 0), ((9, 1),) * 4)  # confidence 1, right
    torn = judged((0, 1), ((9, 1), (8, 1), (7, 1), (1, 2)))  # .75, wrong
    missing = judged((1, 0), ((9, 1), None, None, None))  # 1 of 1, right
    found = calibration([sure, torn, missing])
    assert found["confidence"] == pytest.approx((1 + 0.75 + 1) / 3) and found["accuracy"] == pytest.approx(2 / 3)
    assert found["ece"] == pytest.approx(1 / 3 * 0.75)
    assert found["rows"] == 3
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
    for part in ("unreadable: 50.0 % (count 2, missing 1)", "scores used: 1 × 4", "calibration error"):
        assert part in text, text


def test_a_run_that_is_mostly_unreadable_says_what_to_do():
    cut = judged((1, 0), (None,) * 3 + ((9, 1),), problems=("truncated", "truncated", "missing", None))
    lines = report_lines(diagnose([cut]))
    assert lines[0].startswith("4 critiques of 1 rows; 0 rows without a vote")
    assert lines[1] == "unreadable: 75.0 % (missing 1, truncated 2)"
    assert UNREADABLE_ADVICE in lines and "raise `max_new_tokens`" in "".join(lines)
    for way in (
        "max_new_tokens", "max_thinking_tokens", "template", "close_critiques", "rejective fine-tuning"
    ):  # fmt: skip
        assert way in UNREADABLE_ADVICE
    half = judged((1, 0), (None, (9, 1)), problems=("truncated", None))
    assert UNREADABLE_ADVICE not in report_lines(diagnose([half]))


def test_reports_on_next_to_nothing():
    for judgments in ([], [judged((1,), ((1,),))], [judged((1, 0), (None,))]):
        report = diagnose(judgments, [Preference("q", ["a"] * len(judgment.labels)) for judgment in judgments])
        assert report_lines(report)[0].startswith(f"{len(judgments)} critiques")
        bias_table({"mine": report})
