# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Orders: fair to every response, few distinct ones, and the same for fewer critiques."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_spct.judge.orders import ORDERS, draw_orders


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
