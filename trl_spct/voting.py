# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""k critiques, one verdict: voting and Meta-RM-guided voting (paper, section 6)."""

from collections.abc import Sequence


Scores = Sequence[float] | None

VOTING_TEMPERATURE = 0.5
"""Sampling temperature of all scaling runs in the paper (section 6); critiques are greedy otherwise."""


def vote(rows: Sequence[Scores]) -> tuple[float, ...] | None:
    """Adds up the scores of k critiques, response by response: `S*_i = Σ_j S_ij`.

    Args:
        rows (sequence of k score rows):
            Each row holds n scores in the original response order, or is `None` for a critique that could not be read.
            Such critiques do not vote and never count as zero.

    Returns:
        `tuple[float, ...]` of length n, or `None` if no critique could be read.

    Example:

    ```python
    >>> from trl_spct import vote
    >>> vote([(1, 5), (5, 6), None, (4, 8), (7, 6)])
    (17, 25)
    ```
    """
    readable = [row for row in rows if row is not None]
    if not readable:
        return None
    if len({len(row) for row in readable}) != 1:
        raise ValueError(
            f"Found critiques that score {sorted({len(row) for row in readable})} responses; expected one n."
        )
    return tuple(sum(column) for column in zip(*readable, strict=True))


def guided_vote(
    rows: Sequence[Scores], meta_scores: Sequence[float | None], k_meta: int | None = None
) -> tuple[float, ...] | None:
    """Adds up only the `k_meta` readable critiques that the Meta RM scores highest.

    Args:
        rows (sequence of k score rows): As for [`vote`].
        meta_scores (sequence of k `float`): The Meta RM's logits, one per critique. Those of unreadable critiques are
            ignored.
        k_meta (`int`, *optional*, defaults to `max(1, k // 2)`): How many critiques vote.

    Returns:
        `tuple[float, ...]` of length n, or `None` if no critique could be read.
    """
    return vote([rows[j] for j in guided_selection(rows, meta_scores, k_meta)])


def guided_selection(
    rows: Sequence[Scores], meta_scores: Sequence[float | None], k_meta: int | None = None
) -> tuple[int, ...]:
    """Indices, ascending, of the critiques that vote under [`guided_vote`]; the earlier one wins a tie."""
    if len(rows) != len(meta_scores):
        raise ValueError(f"Found {len(meta_scores)} meta scores for {len(rows)} critiques; expected one per critique.")
    if k_meta is None:
        k_meta = max(1, len(rows) // 2)
    if k_meta < 1:
        raise ValueError(f"Found k_meta={k_meta}; expected at least 1.")
    readable = [j for j, row in enumerate(rows) if row is not None]
    unscored = [j for j in readable if meta_scores[j] is None or meta_scores[j] != meta_scores[j]]
    if unscored:
        raise ValueError(
            f"Found no meta score (None or NaN) for the readable critiques {unscored}; score every critique before a "
            "guided vote."
        )
    return tuple(sorted(sorted(readable, key=lambda j: -meta_scores[j])[:k_meta]))
