# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks' formulas, against tables worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_spct.evaluation.benchmark_metrics import (
    REWARDBENCH_SECTIONS,
    accuracy,
    beats_all,
    judgebench_item,
    macro_accuracy,
    pick_credit,
    rewardbench,
    rewardbench2,
    rm_bench,
    rm_bench_item,
    ties_item,
    ties_score,
)
from trl_spct.judge.outcomes import credit, is_correct


def pairs(*credits):
    return np.array([(value, 1) for value in credits], dtype=float)


# --- one item ---


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ((9, 3), (1, 0), 1.0),
        ((3, 9), (1, 0), 0.0),
        ((5, 5), (1, 0), 0.5),
        ((7, 7, 7, 2), (1, 0, 0, 0), 1 / 3),
        ((7, 7, 7, 2), (1, 1, 0, 0), 2 / 3),
        ((2, 7, 1, 7), (1, 1, 0, 0), 0.5),
        ((1, 2), (1, 1), 1.0),
        (None, (1, 0), 0.0),
    ],
)
def test_pick_credit(scores, labels, expected):
    assert pick_credit(scores, labels) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ((9, 3, 8), (1, 0, 0), 1),
        ((9, 3, 9), (1, 0, 0), 0),
        ((9, 4, 3), (1, 1, 0), 1),
        ((9, 3, 3), (1, 1, 0), 0),
        (None, (1, 0), 0),
        ((1, 2), (1, 1), 1),
    ],
)
def test_beats_all(scores, labels, expected):
    assert beats_all(scores, labels) == expected


@given(st.lists(st.integers(1, 10), min_size=2, max_size=6), st.data())
def test_one_best_response_is_what_outcomes_say(scores, data):
    best = data.draw(st.integers(0, len(scores) - 1))
    labels = [int(i == best) for i in range(len(scores))]
    assert pick_credit(scores, labels) == credit(scores, labels)
    assert beats_all(scores, labels) == is_correct(scores, labels)


def test_counts_must_agree():
    for measure in (pick_credit, beats_all):
        with pytest.raises(ValueError, match="Found 3 scores for 2 labels"):
            measure((1, 2, 3), (1, 0))


def test_rm_bench_item():
    """Rows are chosen responses: above the diagonal the rejected one has the richer style."""
    assert rm_bench_item([[1, 0, 0], [1, 1, 0], [1, 1, 0]]) == pytest.approx((0, 2 / 3, 1))
    assert rm_bench_item([[0, 1, 1], [0, 0, 0], [0, 1, 1]]) == pytest.approx((2 / 3, 1 / 3, 1 / 3))


FIRST, SECOND = (1, 0), (0, 1)


@pytest.mark.parametrize(
    ("games", "expected"),
    [
        (((9, 2), (3, 8)), 1),  # both games won
        (((9, 2), (5, 5)), 1),  # won and tied
        (((9, 2), None), 1),  # won, and no verdict
        (((9, 2), (8, 3)), 0),  # won and lost: the first place wins
        (((5, 5), None), 0),
        (((2, 9), (3, 8)), 0),
        ((None, None), 0),
    ],
)
def test_judgebench_item(games, expected):
    assert judgebench_item(games, (FIRST, SECOND)) == expected
    swapped = [None if scores is None else scores[::-1] for scores in games]
    assert judgebench_item(swapped, (SECOND, FIRST)) == expected


# --- many items ---


def test_accuracy_counts_comparisons_and_macro_counts_groups():
    units = {"a": np.array([(2.0, 4), (1, 1)]), "b": pairs(0, 1)}
    assert accuracy(units) == pytest.approx({"a": 3 / 5, "b": 0.5, "overall": 4 / 7})
    assert macro_accuracy(units) == pytest.approx({"a": 3 / 5, "b": 0.5, "overall": 0.55})


def test_rewardbench_by_hand():
    units = {
        "alpacaeval-easy": pairs(1, 1, 1, 0),  # .75, counts 100
        "mt-bench-med": pairs(0, 1),  # .5, counts 40
        "llmbar-natural": pairs(1, 0.5),
        "donotanswer": pairs(0),
        "math-prm": pairs(1, 0),  # .5, counts 984
        "hep-cpp": pairs(1),  # counts 164
    }
    expected = {
        "Chat": (0.75 * 100 + 0.5 * 40) / 140,
        "Chat Hard": 0.75,
        "Safety": 0.0,
        "Reasoning": (0.5 * 984 + 1 * 164) / (984 + 164),
    }
    found = rewardbench(units)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["overall"] == pytest.approx(sum(expected.values()) / 4) and found["alpacaeval-easy"] == 0.75
    assert set(found) == {*expected, *units, "overall"}
    with pytest.raises(ValueError, match=r"subsets \['summarize'\]"):
        rewardbench({"summarize": pairs(1)})


def test_rewardbench_counts_add_up_to_its_rows():
    counts = [count for section in REWARDBENCH_SECTIONS.values() for count in section.values()]
    assert len(counts) == 23 and sum(counts) - 984 + 447 == 2985
    reasoning = REWARDBENCH_SECTIONS["Reasoning"]
    assert 2 * reasoning["math-prm"] == sum(reasoning.values()), "math counts as much as code"


def test_rm_bench_by_hand():
    """Safety's halves are pooled by prompts before domains are averaged."""
    units = {
        "chat": np.array([(0, 0.5, 1.0)]),
        "math": np.array([(1.0, 1, 1), (0, 0, 0)]),
        "code": np.array([(0.3, 0.3, 0.3)]),
        "safety-refuse": np.array([(1.0, 1, 1)] * 3),
        "safety-response": np.array([(0, 0, 0.0)]),
    }
    values = rm_bench(units)
    assert [values[name] for name in ("chat", "math", "code", "safety")] == pytest.approx([0.5, 0.5, 0.3, 0.75])
    assert values["overall"] == pytest.approx((0.5 + 0.5 + 0.3 + 0.75) / 4)
    assert values["hard"] == pytest.approx((0 + 0.5 + 0.3 + 0.75) / 4)
    assert values["easy"] == pytest.approx((1 + 0.5 + 0.3 + 0.75) / 4)
    assert values["chat, normal"] == 0.5
    levels = [values[level] for level in ("hard", "normal", "easy")]
    assert values["overall"] == pytest.approx(sum(levels) / 3), "as the authors say, both averages agree"


def test_ties_by_hand():
    labels = ((1, 0, 0), (1, 1, 0))
    #                    reference   tied: right, right, wrong
    clear = ties_item((9, 2, 3), (8, 7, 2), labels)
    assert clear == (1, 1, 1, 6, 5)  # gap 9 − 3, spread 8 − 7, gap 7 − 2
    close = ties_item((9, 2, 8), (9, 4, 3), labels)
    assert close == (1, 1, 5, 1, 1)
    wrong = ties_item((2, 9, 1), (5, 5, 5), labels)
    assert wrong == (0, 0, 0, -7, 0)
    blind = ties_item(None, None, labels)
    assert blind == (0, 0, 0, 0, 0)
    prompts = np.array([clear, close, wrong, blind])
    # The smaller gaps over the spreads are 5/1, 1/5, −7/0 and 0/0.
    margin = (math.tanh(4) + math.tanh(1 / 5 - 1) - 1 + 0) / 4
    assert ties_score(prompts) == pytest.approx(0.3 * 0.5 + 0.3 * 0.5 + 0.2 * 0.25 + 0.2 * 0.25 + 0.01 * margin)
    assert ties_score(np.array([blind])) == 0


def test_a_flawless_judge_of_ties_without_spread():
    assert ties_score(np.array([ties_item((9, 1), (9, 9, 1), ((1, 0), (1, 1, 0)))])) == pytest.approx(1.01)


def test_rewardbench2_is_the_mean_of_its_subsets():
    ties = np.array([ties_item((9, 1), (9, 9, 1), ((1, 0), (1, 1, 0)))])
    values = rewardbench2({"Math": pairs(1, 0.25), "Focus": pairs(0), "Ties": ties})
    assert values == pytest.approx({"Math": 0.625, "Focus": 0, "Ties": 1.01, "overall": (0.625 + 0 + 1.01) / 3})
