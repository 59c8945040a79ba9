# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Blocks: every response once, the anchor everywhere, and one scale in the end."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_spct.judge.blocks import align_blocks, split_blocks


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
