# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Orders: fair to every response, few distinct ones, and the same for fewer critiques."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_spct import Preference
from trl_spct.judge.orders import (
    ORDERS,
    align_blocks,
    count_occurrences,
    draw_orders,
    row_key,
    row_seed,
    split_blocks,
)

sizes = st.integers(1, 7), st.integers(0, 30), st.integers(0, 2**32)


@pytest.mark.parametrize("kind", ORDERS)
@given(*sizes)
def test_orders_are_permutations_and_repeatable(kind, n, k, seed):
    orders = draw_orders(n, k, kind, random.Random(seed))
    assert len(orders) == k and all(sorted(order) == list(range(n)) for order in orders)
    assert orders == draw_orders(n, k, kind, random.Random(seed))


@pytest.mark.parametrize("kind", ORDERS)
@given(*sizes)
def test_fewer_critiques_are_the_first_of_more(kind, n, k, seed):
    assert draw_orders(n, k, kind, random.Random(seed)) == draw_orders(n, 40, kind, random.Random(seed))[:k]


@given(*sizes)
def test_balanced_orders_are_fair_after_any_number_of_critiques(n, k, seed):
    orders = draw_orders(n, k, "balanced", random.Random(seed))
    stood = Counter((place, response) for order in orders for place, response in enumerate(order))
    counts = [stood[place, response] for place in range(n) for response in range(n)]
    assert max(counts) - min(counts) <= 1 and sum(counts) == n * k
    assert len(set(orders)) == min(n, k)


def test_balanced_orders_are_drawn():
    """All six orders of three responses come first alike, and no rotation always follows another."""
    first, following = Counter(), Counter()
    for seed in range(600):
        one, two, *_ = draw_orders(3, 3, "balanced", random.Random(seed))
        first[one] += 1
        following[(two[0] - one[0]) % 3] += 1
    assert len(first) == 6 and all(70 < count < 130 for count in first.values())
    assert following.keys() == {1, 2} and all(250 < count < 350 for count in following.values())


def test_orders_by_hand():
    assert draw_orders(3, 2, "fixed", random.Random(0)) == [(0, 1, 2)] * 2
    assert draw_orders(1, 3, "balanced", random.Random(0)) == [(0,)] * 3
    assert sorted(draw_orders(2, 2, "balanced", random.Random(5))) == [(0, 1), (1, 0)]
    with pytest.raises(ValueError, match="'sorted'"):
        draw_orders(2, 2, "sorted", random.Random(0))


# --- blocks ---


@given(st.integers(1, 60), st.integers(2, 12), st.integers(0, 2**32))
def test_every_response_is_in_one_block_and_the_anchor_in_all(n, most, seed):
    blocks = split_blocks(n, most, random.Random(seed))
    if n <= most:
        assert blocks == [tuple(range(n))]
        return
    (anchor,) = {block[0] for block in blocks}
    others = [response for block in blocks for response in block[1:]]
    assert sorted([anchor, *others]) == list(range(n))
    sizes = {len(block) for block in blocks}
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1
    assert len(blocks) == -(-(n - 1) // (most - 1)), "as few as possible"


def test_the_anchor_is_drawn():
    assert {split_blocks(5, 3, random.Random(seed))[0][0] for seed in range(60)} == set(range(5))
    with pytest.raises(ValueError, match="Found 1 responses per prompt"):
        split_blocks(5, 1, random.Random(0))


def test_alignment_by_hand():
    """The second block scores everything 2 higher; the anchor, response 1, has 5 and 7: 6 on the common scale."""
    blocks = [(1, 0, 3), (1, 2, 4)]
    assert align_blocks(blocks, [(5, 4, 9), (7, 6, 11)]) == (5, 6, 5, 10, 10)
    assert align_blocks(blocks, [(5, 4, 9), None]) is None
    assert align_blocks([(0, 1)], [(3, 4)]) == (3, 4)


@given(st.integers(3, 20), st.integers(2, 6), st.randoms())
def test_shifts_of_whole_blocks_do_not_matter(n, most, draw):
    worth = [draw.randint(1, 10) for _ in range(n)]
    blocks = split_blocks(n, most, draw)
    shifts = [draw.uniform(-2, 2) for _ in blocks]
    means = [[worth[member] + shift for member in block] for block, shift in zip(blocks, shifts)]
    aligned = align_blocks(blocks, means)
    mean_shift = sum(shifts) / len(shifts)
    assert aligned == pytest.approx([value + mean_shift for value in worth], abs=1e-6)
    assert [value == max(aligned) for value in aligned] == [value == max(worth) for value in worth], "ties are kept"


# --- seeds ---


def test_seeds_depend_on_the_whole_row_and_on_nothing_else():
    row = Preference("q", ("a", "b"))
    others = [
        Preference("p", ("a", "b")),
        Preference("q", ("b", "a")),
        Preference("q", ("a", "b"), reference="r"),
        Preference("q", ("a", "b"), principles="r"),
        Preference([{"role": "system", "content": "q"}, {"role": "user", "content": "q"}], ("a", "b")),
    ]
    seeds = {row_seed(0, other) for other in (row, *others)}
    assert len(seeds | {row_seed(1, row), row_seed(0, row, 1), row_seed(0, row, 2)}) == 9
    assert row_seed(0, row) == row_seed(0, Preference("q", ["a", "b"], labels=(0, 1)))


def test_occurrences_number_equal_rows():
    rows = [Preference("q", ("a", text)) for text in "bcbbc"]
    assert count_occurrences(rows) == [0, 0, 1, 2, 1]
    seen = Counter()
    assert [count_occurrences(rows[:2], seen), count_occurrences(rows[2:], seen)] == [[0, 0], [1, 2, 1]]
    assert row_key(rows[0]) == row_key(rows[2]) != row_key(rows[1])


@pytest.mark.parametrize("kind", ["balanced", "random"])
@pytest.mark.parametrize("rows", ["alike", "equal", "short"])
def test_each_response_comes_first_equally_often(kind, rows):
    """Over rows with the same responses, over equal rows, and over rows of which only one character differs."""
    table = {
        "alike": [Preference(f"Is {i} prime?", ("Yes", "No", "Maybe")) for i in range(600)],
        "equal": [Preference("Is it?", ("Yes", "No", "Maybe"))] * 600,
        "short": [Preference("?", ("Yes", "No", chr(200 + i))) for i in range(600)],
    }[rows]
    first = Counter()
    for row, occurrence in zip(table, count_occurrences(table), strict=True):
        first[draw_orders(3, 1, kind, random.Random(row_seed(0, row, occurrence)))[0][0]] += 1
    assert all(150 < first[response] < 250 for response in range(3)), first
