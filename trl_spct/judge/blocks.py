# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""More responses than one prompt holds: judged in blocks that share one response, and brought to one scale (ours).

Scores of different prompts do not compare, since a judge scores a response as it looks beside the others. Every block
therefore holds the same response, the anchor. What a block gives the anchor more, or less, than the blocks do on
average is the block's own generosity, and is taken off all of its scores.
"""

import random
from collections.abc import Sequence


def split_blocks(n: int, most: int, draw: random.Random) -> list[tuple[int, ...]]:
    """Splits n responses into as few blocks of at most `most` as possible, of nearly the same size.

    Args:
        n (`int`): Number of responses.
        most (`int`): Responses that one prompt holds, the anchor included: at least 2.
        draw (`random.Random`): Draws the anchor, and which response is in which block.

    Returns:
        `list[tuple[int, ...]]`: the responses of each block, the anchor first. A single block if all fit.
    """
    if n <= most:
        return [tuple(range(n))]
    if most < 2:
        raise ValueError(f"Found {most} responses per prompt; expected at least 2, since blocks share one.")
    anchor, *others = draw.sample(range(n), n)
    count = -(-len(others) // (most - 1))
    return [(anchor, *sorted(others[start::count])) for start in range(count)]


def align_blocks(blocks: Sequence[Sequence[int]], means: Sequence[Sequence[float] | None]) -> tuple[float, ...] | None:
    """The scores of all responses on one scale.

    Args:
        blocks (sequence of index sequences): What [`split_blocks`] returns.
        means (sequence of sequences of `float`): The mean score per critique of each response of each block, in the
            block's order, or `None` for a block of which no critique could be read.

    Returns:
        `tuple[float, ...]` of length n, or `None` if a block could not be read, since its responses have no scores.
    """
    if any(block is None for block in means):
        return None
    level = sum(block[0] for block in means) / len(means)
    aligned = {}
    for members, block in zip(blocks, means, strict=True):
        aligned.update({member: score - (block[0] - level) for member, score in zip(members, block, strict=True)})
    # Sums of the same numbers in another sequence must still tie.
    return tuple(round(aligned[member], 9) for member in sorted(aligned))
