"""Voting and guided voting: sums per response, and `None` never votes."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trl_spct.judge.preferences import restore_order
from trl_spct.judge.voting import (
    Guidance,
    guided_selection,
    guided_vote,
    mean_scores,
    num_voters,
    vote,
    weighted_vote,
)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine

FIGURE_3 = [(1, 5), (5, 6), (4, 8), (7, 6)]
NAN = float("nan")


def test_figure_3_vote():
    assert vote(FIGURE_3) == (17, 25)


def test_figure_3_guided_vote_keeps_samples_1_and_3():
    """With k_meta = k/2 = 2 by default; the logits are unbounded, so negative ones rank as well."""
    assert guided_vote(FIGURE_3, (1.67, -15.78, 1.31, -3.0), k_meta=2) == (5, 13)
    assert guided_vote(FIGURE_3, (1.67, -15.78, 1.31, -3.0)) == (5, 13)
    assert guided_vote(FIGURE_3, (-1, -9, -2, -8)) == (5, 13)
    assert guided_selection(FIGURE_3, (1.67, -15.78, 1.31, -3.0)) == (0, 2)


def test_table_17_votes_over_restored_orders():
    boxes = [((8, 8), (0, 1)), ((9, 5), (1, 0)), ((10, 7), (1, 0))]
    assert vote([restore_order(box, order) for box, order in boxes]) == (20, 27)


def test_plain_int_sums_stay_ints():
    assert all(type(total) is int for total in vote([(1, 5), (5, 6)]))


@pytest.mark.parametrize("rows", [[], [None], [None, None], ()])
def test_nobody_votes(rows):
    assert vote(rows) is None
    assert guided_vote(rows, [1.0] * len(rows)) is None


def test_one_sample_guided_is_one_sample():
    assert guided_vote([(8, 3)], [-9.0]) == vote([(8, 3)]) == (8, 3)


@pytest.mark.parametrize(("k_meta", "votes"), [(1, (4, 8)), (2, (5, 13)), (3, (12, 19)), (4, (17, 25)), (9, (17, 25))])
def test_k_meta(k_meta, votes):
    assert guided_vote(FIGURE_3, (1.0, -2.0, 2.0, 0.0), k_meta) == votes


def test_k_meta_is_half_of_k_with_the_unreadable_ones():
    rows = [None, (1, 5), None, (5, 6), (4, 8)]
    assert guided_selection(rows, [None, 1, None, 3, 2]) == (3, 4)


def test_an_unreadable_critique_never_takes_a_place():
    assert guided_vote([None, (8, 3), (2, 4)], [99.0, 1.0, 2.0], k_meta=1) == (2, 4)


def test_the_earlier_one_wins_a_tie():
    assert guided_selection([(1, 2)] * 4, [5, 7, 7, 7], k_meta=2) == (1, 2)


def test_infinite_logits_rank_and_numpy_is_read():
    assert guided_vote(FIGURE_3, (float("inf"), -float("inf"), 3, 2)) == (5, 13)
    assert guided_vote(np.array(FIGURE_3), np.array([1.0, -2.0, 2.0, 0.0])) == (5, 13)


@pytest.mark.parametrize("bad", [None, NAN])
def test_a_readable_critique_needs_a_meta_score(bad):
    with pytest.raises(ValueError, match=r"\[1\]"):
        guided_vote([(8, 3), (2, 4), None], [1.0, bad, bad])


@pytest.mark.parametrize("k_meta", [0, -1])
def test_somebody_must_vote(k_meta):
    with pytest.raises(ValueError, match="k_meta"):
        guided_vote(FIGURE_3, [1, 2, 3, 4], k_meta)


def test_counts_must_match():
    with pytest.raises(ValueError, match="3 meta scores for 4 critiques"):
        guided_vote(FIGURE_3, [1, 2, 3])
    with pytest.raises(ValueError, match="one n"):
        vote([(1, 2), (1, 2, 3)])


@st.composite
def ballots(draw, all_readable=False):
    n, k = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    row = st.lists(st.integers(1, 10), min_size=n, max_size=n).map(tuple)
    rows = [draw(row) if all_readable or draw(st.booleans()) else None for _ in range(k)]
    meta = draw(st.lists(st.integers(-20, 20), min_size=k, max_size=k, unique=True))
    return n, rows, meta


@patient
@given(ballots(), st.data())
def test_permuting_responses_permutes_the_vote(case, data):
    n, rows, meta = case
    order = data.draw(st.permutations(range(n)))
    shown = [None if row is None else tuple(row[i] for i in order) for row in rows]
    assert restore_order(vote(shown), order) == vote(rows)
    assert restore_order(guided_vote(shown, meta), order) == guided_vote(rows, meta)


@patient
@given(ballots(), st.randoms())
def test_the_order_of_samples_does_not_matter(case, random):
    _, rows, meta = case
    order = list(range(len(rows)))
    random.shuffle(order)
    assert vote([rows[j] for j in order]) == vote(rows)
    assert guided_vote([rows[j] for j in order], [meta[j] for j in order]) == guided_vote(rows, meta)


@patient
@given(ballots(), st.integers(0, 8), st.integers(1, 8))
def test_none_rows_never_change_a_vote(case, where, k_meta):
    _, rows, meta = case
    assert vote([*rows[:where], None, *rows[where:]]) == vote(rows)
    more_meta = [*meta[:where], 99, *meta[where:]]
    assert guided_vote([*rows[:where], None, *rows[where:]], more_meta, k_meta) == guided_vote(rows, meta, k_meta)


@patient
@given(ballots(all_readable=True))
def test_all_critiques_guided_is_a_plain_vote(case):
    _, rows, meta = case
    assert guided_vote(rows, meta, len(rows)) == vote(rows) == tuple(map(sum, zip(*rows)))


# --- shares, weights and the choice between them ---


@pytest.mark.parametrize(
    ("k_meta", "k", "voters"),
    [(None, 32, 16), (None, 5, 2), (None, 1, 1), (0.5, 5, 2), (0.29, 100, 29), (0.7, 10, 7), (1.0, 7, 7), (0.01, 8, 1),
     (1, 8, 1), (9, 8, 9)],
)  # fmt: skip
def test_k_meta_is_a_number_or_a_share(k_meta, k, voters):
    assert num_voters(k_meta, k) == voters


@pytest.mark.parametrize("k_meta", [0, -1, 0.0, 1.5, 2.0, NAN, True, "8"])
def test_a_share_is_a_float_up_to_one(k_meta):
    for refuse in (lambda: guided_vote(FIGURE_3, [1, 2, 3, 4], k_meta), lambda: Guidance(k_meta)):
        with pytest.raises(ValueError, match="at least 1 critique .*share of them in"):
            refuse()


def test_weighted_vote_by_hand():
    assert weighted_vote([(1, 5), None, (5, 6)], [0.5, 9, 0.25]) == (1.75, 4.0)
    assert weighted_vote([(1, 5), (5, 6)], [2, 0]) == (2, 10)
    assert weighted_vote([(1, 5), (5, 6, 7)], [1, 0]) == (1, 5), "who has no vote is not read"
    assert weighted_vote([(1, 5)], [0.0]) is weighted_vote([None], [1.0]) is weighted_vote([], []) is None


def test_soft_weights_are_probabilities():
    """sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4."""
    weights = Guidance(guide="soft").weights([(8, 2), None, (2, 4)], [0.0, 99.0, float(np.log(3))])
    assert weights == pytest.approx((0.5, 0, 0.75))
    assert weighted_vote([(8, 2), None, (2, 4)], weights) == pytest.approx((5.5, 4.0))


@pytest.mark.parametrize("logit", [-1e9, -800.0, -float("inf")])
def test_soft_weights_never_vanish(logit):
    rows = [(8, 2), (7, 1)]
    first, second = weighted_vote(rows, Guidance(guide="soft").weights(rows, [logit] * 2))
    assert first > second > 0
    assert Guidance(guide="soft").weights(rows, [float("inf"), logit])[0] == 1


@pytest.mark.parametrize("weights", [[-1, 1], [NAN, 1], [float("inf"), 1], [1]])
def test_weights_are_finite_and_one_each(weights):
    with pytest.raises(ValueError, match="weights"):
        weighted_vote([(1, 2), (3, 4)], weights)


def test_guidance_is_checked():
    with pytest.raises(ValueError, match="guide='best'; expected one of"):
        Guidance(guide="best")
    with pytest.raises(ValueError, match="k_meta=4 with guide='soft'"):
        Guidance(4, "soft")


@pytest.mark.parametrize(
    ("stored", "asked", "found"),
    [
        (None, {}, (None, "top")),
        ({"template": "0123"}, {}, (None, "top")),
        ({"k_meta": 0.75}, {}, (0.75, "top")),
        ({"k_meta": 0.75}, {"guide": "top"}, (0.75, "top")),
        ({"k_meta": 0.75}, {"guide": "soft"}, (None, "soft")),
        ({"k_meta": 0.75}, {"k_meta": 2}, (2, "top")),
        ({"guide": "soft"}, {}, (None, "soft")),
        ({"guide": "soft"}, {"guide": "top"}, (None, "top")),
        ({"guide": "soft"}, {"k_meta": 2}, (2, "top")),
    ],
)
def test_what_is_asked_for_wins_over_what_is_stored(stored, asked, found):
    guidance = Guidance.of(stored, **asked)
    assert (guidance.k_meta, guidance.guide) == found
    assert Guidance.of(guidance.settings) == guidance


GUIDANCES = st.one_of(
    st.builds(Guidance, st.one_of(st.none(), st.integers(1, 9), st.floats(0.01, 1.0))),
    st.just(Guidance(guide="soft")),
)


@patient
@given(ballots(), GUIDANCES, st.integers(0, 8), st.sampled_from([None, NAN, -99.0, 99.0, float("inf")]))
def test_unreadable_critiques_never_vote_whatever_their_meta_score(case, guidance, where, meta_score):
    """A count votes as without them; a share is one of all k critiques, so that it may name one voter more."""
    _, rows, meta = case
    more, more_meta = [*rows[:where], None, *rows[where:]], [*meta[:where], meta_score, *meta[where:]]
    weights = guidance.weights(more, more_meta)
    assert all(weight == 0 for weight, row in zip(weights, more) if row is None)
    if guidance.guide == "soft" or isinstance(guidance.k_meta, int):
        assert weighted_vote(more, weights) == weighted_vote(rows, guidance.weights(rows, meta))


@patient
@given(ballots(), GUIDANCES, st.randoms())
def test_weighted_votes_do_not_depend_on_the_order_of_samples(case, guidance, random):
    _, rows, meta = case
    order = random.sample(range(len(rows)), len(rows))
    shown, shown_meta = [rows[j] for j in order], [meta[j] for j in order]
    assert weighted_vote(shown, guidance.weights(shown, shown_meta)) == weighted_vote(
        rows, guidance.weights(rows, meta)
    )


@patient
@given(ballots(), st.one_of(st.none(), st.integers(1, 9), st.floats(0.01, 1.0)))
def test_guided_vote_is_the_weighted_vote_of_its_guidance(case, k_meta):
    _, rows, meta = case
    votes = weighted_vote(rows, Guidance(k_meta).weights(rows, meta))
    assert votes == guided_vote(rows, meta, k_meta)
    assert votes is None or all(isinstance(total, int) for total in votes)


@patient
@given(ballots())
def test_a_meta_rm_that_knows_nothing_leaves_the_vote_as_it_is(case):
    _, rows, _ = case
    soft = weighted_vote(rows, Guidance(guide="soft").weights(rows, [0.0] * len(rows)))
    assert soft == (None if vote(rows) is None else tuple(0.5 * total for total in vote(rows)))
    assert weighted_vote(rows, Guidance(1.0).weights(rows, [0.0] * len(rows))) == vote(rows)


# --- exact sums and means ---


@given(st.floats(1e-300, 1), st.floats(1e-300, 1), st.integers(1, 10), st.integers(1, 12))
def test_the_mean_of_equal_scores_is_that_score(first, second, score, k):
    """7 * w / w is not always 7 in floating point."""
    assert mean_scores([(score,)] * k, [first] * k) == mean_scores([(score,)] * k, [second] * k) == (score,)
    assert mean_scores([(score,), None, (score,)], [first, 1.0, second]) == (score,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_equal_weighted_sums_are_equal_in_any_order(weights, draw):
    rows = [(draw.randint(1, 10), draw.randint(1, 10)) for _ in weights]
    mirrored = [*rows, *((second, first) for first, second in rows)]
    both = weighted_vote(mirrored, [*weights, *weights])
    assert both is None or both[0] == both[1]
    shuffled = draw.sample(range(len(mirrored)), len(mirrored))
    doubled = [*weights, *weights]
    assert weighted_vote([mirrored[j] for j in shuffled], [doubled[j] for j in shuffled]) == both
    assert mean_scores([mirrored[j] for j in shuffled], [doubled[j] for j in shuffled]) == mean_scores(
        mirrored, doubled
    )


def test_means_by_hand():
    assert mean_scores([(1, 5), (5, 6), None, (4, 8), (7, 6)]) == (17 / 4, 25 / 4)
    assert mean_scores([(2, 4), (8, 4)], [0.25, 0.75]) == (6.5, 4.0)
    assert mean_scores([None]) is None is mean_scores([(1, 2)], [0])
    with pytest.raises(ValueError, match="1 weights for 2 critiques"):
        mean_scores([(1,), (2,)], [1])
