"""The rejection rule of the cold start: incorrect, unreadable and too easy."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trl_spct.trainers.rejection import Outcome, Selection, Trajectory, cap_hinted, select_trajectories

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine

RIGHT, WRONG, TIE, NONE = (8, 3), (3, 8), (8, 8), None


def row(name, *scores, hinted=()):
    return [Trajectory(name, s, (1, 0)) for s in scores] + [Trajectory(name, s, (1, 0), True) for s in hinted]


def values(trajectories, **kwargs):
    return [outcome.value for outcome in select_trajectories(trajectories, **kwargs).outcomes]


@pytest.mark.parametrize(
    ("trajectories", "expected"),
    [
        ([], []),
        (row(0, RIGHT, WRONG, RIGHT), ["kept", "incorrect", "kept"]),
        (row(0, RIGHT, RIGHT, RIGHT), ["too_easy"] * 3),
        (row(0, WRONG, WRONG, WRONG), ["incorrect"] * 3),
        (row(0, RIGHT, RIGHT, TIE), ["kept", "kept", "incorrect"]),
        (row(0, RIGHT, RIGHT, NONE), ["kept", "kept", "unreadable"]),
        (row(0, RIGHT), ["too_easy"]),
        # hinted trajectories: Eq. 10 applies, the too-easy rule does not
        (row(0, RIGHT, RIGHT, RIGHT, hinted=[RIGHT]), ["too_easy"] * 3 + ["kept"]),
        (row(0, RIGHT, RIGHT, RIGHT, hinted=[WRONG]), ["too_easy"] * 3 + ["incorrect"]),
        (row(0, WRONG, RIGHT, RIGHT, hinted=[NONE]), ["incorrect", "kept", "kept", "unreadable"]),
        (row(0, hinted=[RIGHT, RIGHT]), ["kept", "kept"]),
        # rows do not touch each other
        (row(0, RIGHT, WRONG) + row("a", RIGHT, RIGHT), ["kept", "incorrect", "too_easy", "too_easy"]),
    ],
)
def test_the_rule(trajectories, expected):
    assert values(trajectories) == expected


def test_too_easy_can_be_kept():
    assert values(row(0, RIGHT, RIGHT, WRONG) + row(1, RIGHT), reject_too_easy=False) == [
        "kept",
        "kept",
        "incorrect",
        "kept",
    ]


def test_a_single_response_must_equal_its_label():
    trajectories = [Trajectory(0, s, (0,)) for s in [(0,), (1,), None]]
    assert values(trajectories) == ["kept", "incorrect", "unreadable"]


def test_each_trajectory_has_the_labels_of_its_own_order():
    assert values([Trajectory(0, (8, 3), (1, 0)), Trajectory(0, (8, 3), (0, 1))]) == ["kept", "incorrect"]


def test_selection_counts_every_outcome_and_indexes_the_kept():
    selection = select_trajectories(iter(row(0, RIGHT, WRONG, NONE, hinted=[RIGHT]) + row(1, RIGHT)))
    assert selection.kept == (0, 3)
    assert Counter(selection.outcomes) == {"kept": 2, "incorrect": 1, "unreadable": 1, "too_easy": 1}
    assert Selection(()).kept == ()


@pytest.mark.parametrize("labels", [(1, 1), (), None])
def test_labels_that_cannot_reject_raise(labels):
    with pytest.raises(ValueError):
        select_trajectories([Trajectory(0, None, labels)])


trajectories = st.lists(
    st.builds(
        Trajectory,
        st.integers(0, 3),
        st.none() | st.tuples(st.integers(1, 10), st.integers(1, 10)),
        st.sampled_from([(1, 0), (0, 1)]),
        st.booleans(),
    ),
    max_size=20,
)


@patient
@given(trajectories, st.randoms())
def test_the_order_of_trajectories_does_not_matter(items, random):
    outcomes = select_trajectories(items).outcomes
    order = list(range(len(items)))
    random.shuffle(order)
    assert select_trajectories([items[i] for i in order]).outcomes == tuple(outcomes[i] for i in order)


@patient
@given(trajectories)
def test_what_is_kept_is_correct_and_its_row_was_failed_once(items):
    selection = select_trajectories(items)
    assert len(items) == len(selection.outcomes)
    for i in selection.kept:
        best = items[i].labels.index(1)
        assert items[i].scores[best] > items[i].scores[1 - best]
        others = [v for t, v in zip(items, selection.outcomes) if t.row == items[i].row and not t.hinted]
        assert items[i].hinted or {Outcome.INCORRECT, Outcome.UNREADABLE} & set(others)


# --- the cap on hinted trajectories ---

K, W, E = "kept", "incorrect", "too_easy"


def capped(trajectories, share, seed=0):
    """From (row, hinted, outcome) triples."""
    return cap_hinted(*zip(*trajectories), share, seed) if trajectories else cap_hinted([], [], [], share, seed)


# Row 0 was solved with and without a hint, row 1 was too easy, rows 2 and 3 were solved with a hint alone.
MIXED = [(0, False, K), (0, False, W), (0, True, K), (1, False, E), (1, True, K), (2, False, W), (2, True, K)]
MIXED += [(3, False, W), (3, True, K), (4, False, K), (4, True, W)]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, [0, 2, 4, 6, 8, 9]),  # 2 unhinted, 4 hinted: .67
        (0.67, [0, 2, 4, 6, 8, 9]),
        (0.5, [0, 6, 8, 9]),  # at most as many hinted as unhinted: those that only the hint solved
        (0.0, [0, 9]),
    ],
)
def test_the_cap_takes_hints_that_were_not_needed_first(share, expected):
    assert capped(MIXED, share) == expected


def test_the_cap_draws_among_equals():
    hinted = [(i, True, K) for i in range(20)]
    trajectories = [(100 + i, False, K) for i in range(5)] + hinted
    drawn = {tuple(capped(trajectories, 0.5, seed)) for seed in range(4)}
    assert len(drawn) > 1
    assert all(len(indices) == 10 and indices[:5] == (0, 1, 2, 3, 4) for indices in drawn)
    assert capped(trajectories, 0.5, 3) == capped(trajectories, 0.5, 3)


def test_hints_alone_exceed_every_cap_below_one():
    assert capped([(0, True, K), (1, True, K)], 0.99) == []
    assert capped([(0, True, K), (1, True, K)], 1.0) == [0, 1]
    assert capped([], 0.5) == []


@patient
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from([K, W, E, "unreadable"])), max_size=40),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_the_cap_holds_and_no_hint_more_than_needed_goes(trajectories, share, seed):
    indices = capped(trajectories, share, seed)
    kept = [i for i, (_, _, outcome) in enumerate(trajectories) if outcome == K]
    own = [i for i in kept if not trajectories[i][1]]
    told = [i for i in indices if trajectories[i][1]]
    assert indices == sorted(indices) and set(own) <= set(indices) <= set(kept)
    assert len(told) <= share * len(indices) + 1e-6
    if len(indices) < len(kept):
        assert len(told) + 1 > share * (len(indices) + 1) - 1e-6
