# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Orders and blocks in which responses are read, and the seeds they are drawn with.

All draws about a row depend on the seed, on the row and on the number of equal rows before it, never on its batch.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence

from .preferences import Preference

ORDERS = ("balanced", "random", "fixed")

SAMPLES_PER_ROW = 2**20
"""Equal rows share prompts: the samples of the i-th of them have numbers from i times this one."""


def derive_seed(seed: int, *parts) -> int:
    """A 64-bit seed that depends on all parts and on nothing else: not on the process, the batch or the hash seed."""
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def row_seed(seed: int, row: Preference, occurrence: int = 0) -> int:
    """The seed of all draws about a row: its orders, blocks and tie-breaks.

    Equal rows draw apart by `occurrence`, see [`count_occurrences`]: with shared draws, the accuracy of a judge that
    does not read them would be far from chance.
    """
    return derive_seed(seed, row_key(row), *([occurrence] if occurrence else []))


def row_key(row: Preference) -> str:
    """A digest of what the judge may read of a row, its labels not among it."""
    fields = {name: value for name, value in vars(row).items() if name != "labels" and value is not None}
    return hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=12).hexdigest()


def count_occurrences(rows: Iterable[Preference], seen: Counter[str] | None = None) -> list[int]:
    """For each row, the number of equal rows before it. `seen` counts earlier rows by [`row_key`] and is updated."""
    seen = Counter() if seen is None else seen
    occurrences = []
    for row in rows:
        key = row_key(row)
        occurrences.append(seen[key])
        seen[key] += 1
    return occurrences


def draw_orders(n: int, k: int, kind: str, draw: random.Random) -> list[tuple[int, ...]]:
    """Draws the orders of k critiques. Those of fewer critiques are the first of those of more.

    `order[p]` is the response that is read as number p + 1. Kinds are `"random"`: uniform over all n! (paper, section
    6); `"balanced"` (not in the paper): the n rotations of one random order, shuffled anew for each n critiques; and
    `"fixed"`: the order of the row.
    """
    places = range(n)
    if kind == "fixed":
        return [tuple(places)] * k
    if kind == "random":
        return [tuple(draw.sample(places, n)) for _ in range(k)]
    if kind != "balanced":
        raise ValueError(f"Found order={kind!r}; expected one of {', '.join(map(repr, ORDERS))}.")
    base = draw.sample(places, n)
    orders: list[tuple[int, ...]] = []
    while len(orders) < k:
        orders += [(*base[turn:], *base[:turn]) for turn in draw.sample(places, n)]
    return orders[:k]


def split_blocks(n: int, most: int, draw: random.Random) -> list[tuple[int, ...]]:
    """Splits n responses into the fewest blocks of at most `most`, of nearly the same size, that share one response.

    This anchor is the first of each block. It relates their scores, which are relative within a prompt: see
    [`align_blocks`].
    """
    if n <= most:
        return [tuple(range(n))]
    if most < 2:
        raise ValueError(f"Found {most} responses per prompt; expected at least 2, since blocks share one.")
    anchor, *others = draw.sample(range(n), n)
    count = -(-len(others) // (most - 1))
    return [(anchor, *sorted(others[start::count])) for start in range(count)]


def align_blocks(blocks: Sequence[Sequence[int]], means: Sequence[Sequence[float] | None]) -> tuple[float, ...] | None:
    """Mean scores of all responses on one scale: each block is shifted so that the anchor gets its average score.

    `means[b]` are in the order of `blocks[b]`. Rounded to 9 decimals so that equal scores tie; `None` if a block is
    unreadable (`None`).
    """
    readable = [block for block in means if block is not None]
    if len(readable) < len(means):
        return None
    level = sum(block[0] for block in readable) / len(readable)
    aligned: dict[int, float] = {}
    for members, block in zip(blocks, readable, strict=True):
        aligned.update({member: score - (block[0] - level) for member, score in zip(members, block, strict=True)})
    return tuple(round(aligned[member], 9) for member in sorted(aligned))
