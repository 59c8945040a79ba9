# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""In which order each of k critiques reads the n responses; the paper shuffles before each sample (section 6)."""

import random


ORDERS = ("balanced", "random", "fixed")


def draw_orders(n: int, k: int, kind: str, draw: random.Random) -> list[tuple[int, ...]]:
    """The orders of k critiques. The first k of more critiques are what k critiques would have been.

    Args:
        n, k (`int`): Numbers of responses and of critiques.
        kind (`str`):
            `"random"`: each order is drawn from all n! alike, as in the paper; k of them are up to k distinct prompts.

            `"balanced"` (ours): the n rotations of one random order, each n critiques of them in an order of their
            own. After any number of critiques each response has stood in each place equally often, or once more or
            less; there are no more than n distinct prompts.

            `"fixed"`: the row's own order.
        draw (`random.Random`): Where the orders are drawn from.

    Returns:
        `list[tuple[int, ...]]` of length k: `order[p]` is the response that is read as number p + 1.
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
