"""One predicate (Eq. 10) and its projections: reward (Eq. 11), meta label, credit."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trl_spct.judge.outcomes import credit, highest, is_correct, meta_label, outcome_reward

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "labels", "correct"),
    [
        ((8, 3), (1, 0), True),
        ((3, 8), (1, 0), False),
        ((8, 8), (1, 0), False),  # a tie is incorrect
        ((3, 8), (0, 1), True),
        ((2, 9, 4), (0.1, 0.9, 0.5), True),
        ((4, 9, 2), (0.1, 0.9, 0.5), True),  # only the best counts, not the order below it
        ((2, 9, 9), (0.1, 0.9, 0.5), False),
        ((9, 9, 4), (0, 0, 1), False),
        ((9, 9, 10), (0, 0, 1), True),  # a tie below the best is no tie
        ((8, 3), (-1, -2), True),
        (None, (1, 0), False),
        ((1,), (1,), True),
        ((0,), (0,), True),
        ((1,), (0,), False),
        ((0,), (1,), False),
        ((7,), (1,), False),
        (None, (1,), False),
        ([8, 3], [1, 0], True),
        ((8.5, 8.4), (True, False), True),
        ((NAN, 3), (1, 0), False),
        ((8, NAN), (1, 0), False),
        ((10**400, 3), (1, 0), True),
    ],
)
def test_eq_10_and_eq_11(scores, labels, correct):
    assert is_correct(scores, labels) is correct
    assert outcome_reward(scores, labels) == (1.0 if correct else -1.0)
    assert meta_label(scores, labels) == int(correct)
    assert type(outcome_reward(scores, labels)) is float and type(meta_label(scores, labels)) is int


def test_figure_3_samples_against_the_better_second_response():
    """Samples 1, 2 and 3 put the second response higher, sample 4 the first."""
    assert [is_correct(s, (0, 1)) for s in [(1, 5), (5, 6), (4, 8), (7, 6)]] == [True, True, True, False]


def test_numpy_scores_give_plain_values():
    assert is_correct(np.array([8, 3]), [np.int64(1), np.int64(0)]) is True
    assert is_correct(np.array([1.0]), [np.float32(1)]) is True
    assert credit(np.array([8, 8]), [1, 0]) == 0.5


@pytest.mark.parametrize("function", [is_correct, outcome_reward, meta_label, credit])
@pytest.mark.parametrize("scores", [None, (8, 3)])
@pytest.mark.parametrize("labels", [(1, 1), (0, 0), (), None, 5, "10", (NAN, 1), (float("inf"), 0), (None, 1), (2,)])
def test_labels_without_one_maximum_are_value_errors_even_without_scores(function, scores, labels):
    with pytest.raises(ValueError):
        function(scores, labels)


@pytest.mark.parametrize("function", [is_correct, credit])
@pytest.mark.parametrize(("scores", "labels"), [((8,), (1, 0)), ((8, 3, 1), (1, 0)), ((), (1, 0)), ((8, 3), (1,))])
def test_one_score_per_label(function, scores, labels):
    with pytest.raises(ValueError):
        function(scores, labels)


@pytest.mark.parametrize(
    ("scores", "labels", "worth"),
    [
        ((8, 3), (1, 0), 1.0),
        ((3, 8), (1, 0), 0.0),
        ((8, 8), (1, 0), 0.5),
        ((8, 8, 8), (0, 0, 1), 1 / 3),
        ((8, 8, 3), (0, 0, 1), 0.0),
        (None, (1, 0), 0.0),
        (None, (0,), 0.0),
        ((1,), (1,), 1.0),
        ((0,), (1,), 0.0),
        ((7,), (1,), 0.0),
    ],
)
def test_credit_is_what_shuffling_before_the_argmax_is_worth(scores, labels, worth):
    assert credit(scores, labels) == worth


@pytest.mark.parametrize(("scores", "winners"), [((8, 3), (0,)), ((3, 8, 8), (1, 2)), ((5,), (0,)), ((2, 2), (0, 1))])
def test_highest(scores, winners):
    assert highest(scores) == winners


@pytest.mark.parametrize("scores", [(), (NAN, 1), (1, NAN), (NAN,)])
def test_nothing_is_the_highest_of_nothing_or_nan(scores):
    with pytest.raises(ValueError, match="highest"):
        highest(scores)


@st.composite
def judged(draw):
    """Scores, labels with one maximum, and an order."""
    n = draw(st.integers(2, 6))
    labels = draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n))
    labels[draw(st.integers(0, n - 1))] = 6
    scores = draw(st.lists(st.integers(1, 10), min_size=n, max_size=n))
    return tuple(scores), tuple(labels), draw(st.permutations(range(n)))


def moved(values, order):
    return tuple(values[i] for i in order)


@patient
@given(judged())
def test_permuting_responses_changes_no_outcome(case):
    scores, labels, order = case
    for function in (is_correct, outcome_reward, meta_label, credit):
        assert function(moved(scores, order), moved(labels, order)) == function(scores, labels)
    assert {order[i] for i in highest(moved(scores, order))} == set(highest(scores))


@patient
@given(judged())
def test_correct_is_full_credit(case):
    scores, labels, _ = case
    assert is_correct(scores, labels) == (credit(scores, labels) == 1)


@pytest.mark.parametrize(
    ("votes_for", "votes", "label", "worth"),
    [(3, 4, 1, 1.0), (1, 4, 1, 0.0), (2, 4, 1, 0.5), (2, 4, 0, 0.5), (0, 3, 0, 1.0)],
)
def test_votes_on_a_single_response_decide_by_majority(votes_for, votes, label, worth):
    assert credit((votes_for,), (label,), votes) == worth
