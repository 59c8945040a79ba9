# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""May we stop sampling? A proof must hold against anything that could still come; a bet must keep its word."""

import random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from trl_spct.judge.outcomes import highest
from trl_spct.judge.stopping import decided, next_round
from trl_spct.judge.voting import Guidance, vote, weighted_vote

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine

guidances = st.one_of(
    st.none(),
    st.just(Guidance(guide="soft")),
    st.one_of(st.none(), st.integers(1, 6), st.floats(0.1, 1)).map(Guidance),
)


@st.composite
def tables(draw, most=12, least=1):
    """(score range, rows of all k critiques, their meta scores): lopsided, unreadable, of one response."""
    n, k = draw(st.integers(least, 4)), draw(st.integers(1, most))
    low, high = (0, 1) if n == 1 else draw(st.sampled_from([(1, 10), (0, 1), (1, 2)]))
    favorite = draw(st.integers(0, n))
    score = st.integers(low, high)
    row = st.tuples(*(st.just(high) if i == favorite else score for i in range(n)))
    rows = draw(st.lists(st.one_of(st.none(), row, row, row), min_size=k, max_size=k))
    metas = draw(st.lists(st.integers(-5, 5), min_size=k, max_size=k))
    return (low, high), rows, metas


def winners(rows, metas=None, guidance=None):
    """Of a single response: the majority of its verdicts."""
    weights = [1] * len(rows) if guidance is None else guidance.weights(rows, metas)
    votes = weighted_vote(rows, weights)
    if votes is None:
        return ()
    if len(votes) == 1:
        against = sum(weight for weight, row in zip(weights, rows) if row is not None) - votes[0]
        votes = (against, votes[0])
    return highest(votes)


# --- proofs ---


def test_by_hand():
    assert not decided([(10, 1)], 2), "the other could come level"
    assert decided([(10, 1)] * 2, 3)
    assert not decided([(10, 1), None], 3) and decided([(10, 1), None], 2)
    assert not decided([(10, 1, 10)] * 9, 10) and decided([(10, 1, 9)] * 10, 11)
    assert decided([(2, 1)] * 2, 3, (1, 2)) and not decided([(2, 1)] * 2, 4, (1, 2))
    assert not decided([], 1) and not decided([None, None], 3) and decided([], 0)


def test_single_responses_have_a_verdict_but_no_winner():
    assert decided([(1,), (1,)], 3, (0, 1)) and decided([(0,), None, (0,)], 4, (0, 1))
    assert not decided([(1,), (0,)], 3, (0, 1)) and not decided([(1,)], 2, (0, 1))
    assert not decided([(9,)] * 31, 32), "a score from 1 to 10 is the sum of all"


@patient
@given(tables(), guidances)
def test_a_proof_names_the_winner_of_the_full_vote(case, guidance):
    score_range, rows, metas = case
    for drawn in range(len(rows)):
        if decided(rows[:drawn], len(rows), score_range, 0, metas[:drawn], guidance):
            first = winners(rows[:drawn], metas[:drawn], guidance)
            assert len(first) == 1 and first == winners(rows, metas, guidance)


@patient
@given(tables(least=2), st.integers(1, 6))
def test_what_is_not_proved_could_still_turn(case, left):
    """Critiques that are all against the leader undo every lead that is not decided."""
    (low, high), rows, _ = case
    k = len(rows) + left
    scores = vote(rows)
    assume(scores is not None)
    leaders = highest(scores)
    rest = [i for i in range(len(scores)) if i != leaders[0]]
    second = max(rest, key=scores.__getitem__)
    against = tuple(high if i == second else low for i in range(len(scores)))
    turned = highest(vote([*rows, *[against] * left])) != (leaders[0],)
    assert decided(rows, k, (low, high)) is not turned


def test_better_critiques_may_push_others_out():
    """Two of four vote: of three for the first response, two critiques that are left could replace both voters."""
    rows, metas = [(10, 1)] * 2, [1.0, 2.0]
    assert not decided(rows, 4, meta_scores=metas, guidance=Guidance())
    rows, metas = [(10, 1)] * 3, [1.0, 2.0, 3.0]
    assert not decided(rows, 4, meta_scores=metas, guidance=Guidance()), "one in, one out: level"
    assert decided(rows, 4, meta_scores=metas, guidance=Guidance(3))
    assert not decided([(10, 1)] * 5, 6, meta_scores=[0.0] * 5, guidance=Guidance(1))


# --- bets ---


@patient
@given(tables(most=8), st.sampled_from([0.01, 0.05, 0.3]))
def test_a_bet_is_never_more_cautious_than_a_proof(case, error):
    score_range, rows, _ = case
    k = len(rows) + 2
    if decided(rows, k, score_range):
        assert decided(rows, k, score_range, error)
    if decided(rows, k, score_range, error):
        assert decided(rows, k, score_range, 0.5)


@pytest.mark.parametrize(
    "population",
    [
        [(10, 1), (1, 10)] * 15 + [(5, 6)],
        [(6, 5), (5, 6)] * 15 + [(5, 6)],
        [(10, 4, 2)] * 4 + [(3, 6, 3)] * 12 + [None] * 4,
        [(1,), (0,)] * 20 + [(1,)],
    ],
    ids=["far apart", "close", "rare but large", "verdicts"],
)
@pytest.mark.parametrize("error", [0.05, 0.3])
def test_a_bet_keeps_its_word(population, error):
    """The last response wins, or the second of three, and by a hair: a stop with another leader is an error."""
    score_range = (0, 1) if len(population[0]) == 1 else (1, 10)
    assert winners(population) == (1,)
    draw, wrong, runs = random.Random(0), 0, 150
    for _ in range(runs):
        rows = draw.sample(population, len(population))
        stop = next(drawn for drawn in range(len(rows) + 1) if decided(rows[:drawn], len(rows), score_range, error))
        wrong += winners(rows[:stop]) != (1,)
    assert wrong <= error * runs


def test_a_bet_stops_early():
    rows = [(8, 5), (7, 6), (9, 4), (8, 6)] * 3
    assert decided(rows, 32, error=0.05) and not decided(rows, 32) and not decided(rows[:1], 32, error=0.05)
    soft = Guidance(guide="soft")
    assert decided(rows, 32, error=0.05, meta_scores=[4.0] * 12, guidance=soft)
    assert not decided(rows, 32, error=0.05, meta_scores=[-4.0] * 12, guidance=soft)


def test_refusals():
    for error in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="error="):
            decided([(1, 2)], 4, error=error)
    with pytest.raises(ValueError, match="picks the best of all critiques"):
        decided([(1, 2)], 4, error=0.1, meta_scores=[0.0], guidance=Guidance())


# --- when to look ---


@patient
@given(tables(most=8), st.integers(0, 8), st.sampled_from([0, 0.1]), guidances)
def test_a_look_is_never_in_vain_by_design(case, left, error, guidance):
    (low, high), rows, metas = case
    assume(not error or guidance is None or guidance.guide == "soft")
    k, n = len(rows) + left, len(next((row for row in rows if row), (1, 1)))
    asked = (k, n, (low, high), error)
    go = next_round(rows, *asked, metas, guidance)
    assert (go == 0) is decided(rows, k, (low, high), error, metas, guidance) and go <= left
    if guidance is None and not error:
        for leader in range(n):
            favor = (high,) if n == 1 else tuple(high if i == leader else low for i in range(n))
            assert not any(decided([*rows, *[favor] * more], k, (low, high)) for more in range(go))


def test_the_first_look_by_hand():
    assert next_round([], 32, 2) == 17 and next_round([], 1, 2) == 1
    assert next_round([(10, 1)] * 16, 32, 2) == 2, "a round has a sixteenth of all critiques"
    assert decided([(10, 1)] * 17, 32) and next_round([(10, 1)] * 17, 32, 2) == 0
    assert next_round([], 32, 1) == 32, "the score of a single response needs all critiques"
    assert next_round([], 32, 1, (0, 1)) == 17
    assert next_round([], 32, 2, error=0.05) < 10
    assert next_round([], 32, 2, meta_scores=[], guidance=Guidance()) > 17
