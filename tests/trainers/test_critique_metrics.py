# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import math

import pytest

from trl_spct import Critique
from trl_spct.trainers.critique_metrics import count_principles, critique_metrics


def critique(scores=None, problem=None, text=""):
    return Critique(text, scores, problem)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Specific Criteria: 1. Brevity (weight 2)\n2. Tone (weight 1)\nAnalysis: x", 2),
        ("Specific Criteria:\n- Brevity\n* Tone\n• Truth\nAnalysis: x", 3),
        ("Specific Criteria: Brevity (60%), Tone (40 %).\nAnalysis: x", 2),
        ("Specific Criteria: Brevity\nAnalysis: 1. x\n2. y", 1),
        ("Analysis: x", 0),
        ("Specific Criteria:\nAnalysis: x", 0),
        ("", 0),
    ],
)
def test_principles_are_counted(text, number):
    assert count_principles(critique(text=text)) == number


def test_metrics_by_hand():
    critiques = [
        critique((2, 9), text="Specific Criteria: Tone (weight 1)\nAnalysis: x"),
        critique((9, 2)),
        critique((5, 5)),
        critique((2, 9)),
        critique((1, 2, 3)),
        critique((0,)),
        critique(problem="missing"),
        critique(problem="truncated"),
    ]
    pair, three, one = [0.0, 1.0], [1.0, 0.0, 0.0], [1.0]
    labels = [pair, pair, pair, [1.0, 0.0], three, one, one, pair]
    found = critique_metrics(critiques, labels, [10] * 6 + [30, 30], ["a", "a", "b", "b", None, None, None, "b"])
    scores = {2: 3, 9: 3, 5: 2, 1: 1, 3: 1}
    expected = {
        "accuracy": 1 / 8,
        "accuracy_n1": 0,
        "accuracy_n2": 1 / 5,
        "accuracy_n3": 0,
        "accuracy_place1": 0,
        "accuracy_place2": 1 / 3,
        "accuracy_a": 1 / 2,
        "accuracy_b": 0,
        "tie": 1 / 8,
        "unreadable": 2 / 8,
        "unreadable_missing": 1 / 8,
        "unreadable_truncated": 1 / 8,
        "unreadable_count": 0,
        "unreadable_range": 0,
        "unreadable_value": 0,
        "margin": (7 - 7 + 0 - 7 - 2) / 5,
        "principles": 1 / 8,
        "length": 15,
        "same_scores": 3 / 5,  # 2 of 4 pairs, 1 of 1 triple
        "same_place": 3 / 4,  # 2 of 3 pairs without a tie, 1 of 1 triple
    }
    # The pair (1, 2, 3) adds one more 2 to the scores above.
    counts = {**scores, 2: 3}
    total = sum(counts.values()) + 1
    counts[2] += 1
    expected["score_entropy"] = -sum(c / total * math.log(c / total) for c in counts.values())
    assert found == pytest.approx(expected)


def test_what_does_not_occur_is_left_out():
    found = critique_metrics([critique((1,)), critique(problem="value")], [[1.0], [0.0]])
    assert {"margin", "score_entropy", "same_scores", "same_place", "length", "accuracy_place1"}.isdisjoint(found)
    assert found["accuracy_n1"] == found["accuracy"] == 0.5


def test_places_are_those_in_which_the_judge_read():
    labels = [[1.0, 0.0]] * 3
    found = critique_metrics([Critique("", (9, 2), None, order) for order in ((0, 1), (1, 0), (1, 0))], labels)
    assert (found["accuracy"], found["accuracy_place1"], found["accuracy_place2"]) == (1, 1, 1)
    assert found["same_place"] == found["same_scores"] == 2 / 3, "2 of 3 wrote (2, 9)"
    found = critique_metrics([Critique("", scores, None, (1, 0)) for scores in ((9, 2), (2, 9), (2, 9))], labels)
    assert (found["accuracy"], found["accuracy_place2"]) == (1 / 3, 1 / 3) and "accuracy_place1" not in found
