# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Early stopping: whether the first critiques of a row decide the vote of all k (not in the paper).

With `error=0` a decision is a proof: the leader has won if its lead exceeds what the remaining critiques can make up.

With `error > 0` a betting martingale for sampling without replacement decides as well, as in risk-limiting audits
(Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024; Stark, "ALPHA", 2023): the
leader has won when the bets that it is ahead of each other response have multiplied their stakes by (n - 1) / error.
However often this is checked, the full vote puts the winner behind another response with probability `error` at most
if critiques are exchangeable, as with random or fixed orders; for balanced orders the bound is not proven.
"""

import bisect
import math
from collections.abc import Sequence

from .voting import Guidance, Scores, guided_selection, num_voters, vote, weighted_vote


def stopping_error(early_stopping: str | float | None) -> float | None:
    """The `error` of [`decided`] for the option `early_stopping`: `None` without stopping, 0 for `"exact"`."""
    if early_stopping is None or early_stopping is False:
        return None
    if early_stopping == "exact":
        return 0.0
    if isinstance(early_stopping, float) and 0 < early_stopping < 1:
        return early_stopping
    raise ValueError(
        f"Found early_stopping={early_stopping!r}; expected 'exact', a probability of error between 0 and 1, or False."
    )


def decided(
    rows: Sequence[Scores],
    k: int,
    score_range: tuple[int, int] = (1, 10),
    error: float = 0.0,
    meta_scores: Sequence[float | None] | None = None,
    guidance: Guidance | None = None,
) -> bool:
    """Whether the first critiques of k, in the sequence in which they were drawn, decide who wins the vote of all k.

    `error` is the largest probability of naming a winner that the full vote does not name; 0 asks for a proof, the
    only decision under a guidance of `"top"`. A single response has a winner only with scores of 0 and 1: the
    majority. Its score from 1 to 10 needs all critiques.
    """
    if not 0 <= error < 1:
        raise ValueError(f"Found error={error}; expected a probability from 0, a proof, to less than 1.")
    if error and guidance is not None and guidance.guide == "top":
        raise ValueError(
            f"Found error={error} with a Meta RM that picks the best of all critiques; expected `error=0`, since any "
            "of those to come may displace a voter."
        )
    left = k - len(rows)
    if left <= 0:
        return True
    rows, span = _opponents(rows, score_range)
    if guidance is not None and guidance.guide == "top":
        return _top_decided(rows, meta_scores or (), num_voters(guidance.k_meta, k), left, span)
    weights: Sequence[float] = [1] * len(rows) if guidance is None else guidance.weights(rows, meta_scores or ())
    leads = _leads(weighted_vote(rows, weights))
    if leads is None:
        return False
    leader, lead = leads
    if lead > left * span + 1e-9 * (guidance is not None):
        return True
    return error > 0 and lead > 0 and _audited(rows, weights, leader, k, span, error)


def next_round(
    rows: Sequence[Scores],
    k: int,
    num_responses: int,
    score_range: tuple[int, int] = (1, 10),
    error: float | None = 0.0,
    meta_scores: Sequence[float | None] | None = None,
    guidance: Guidance | None = None,
) -> int:
    """How many critiques to sample next: all that remain if `error` is `None`, else the least number after which the
    vote of n can be [`decided`], but a sixteenth of all critiques, since each round reads its prompts anew."""
    left = k - len(rows)
    if not left or error is None:
        return left
    low, high = score_range
    totals = vote(rows) or (0,) * num_responses
    leader = max(range(num_responses), key=totals.__getitem__)
    favor = tuple(high if i == leader else low for i in range(num_responses))
    if num_responses == 1 and 2 * totals[0] < sum(row is not None for row in rows) * (low + high):
        favor = (low,)

    def is_decided(more: int) -> bool:
        metas = None if meta_scores is None else [*meta_scores, *[math.inf] * more]
        return decided([*rows, *[favor] * more], k, score_range, error, metas, guidance)

    least = bisect.bisect_left(range(left), True, key=is_decided)
    return min(max(least, k // 16), left) if least else 0


def _opponents(rows: Sequence[Scores], score_range: tuple[int, int]) -> tuple[list[Scores], float]:
    """Score rows with two or more opponents, and how far one critique can part them; 0 or 1 for a single response is a
    vote for "incorrect" or "correct"."""
    low, high = score_range
    if any(row is not None and len(row) == 1 for row in rows):
        if (low, high) != (0, 1):
            return [None] * len(rows), high - low
        return [None if row is None else (1 - row[0], row[0]) for row in rows], 1
    return list(rows), high - low


def _leads(totals: tuple[float, ...] | None) -> tuple[int, float] | None:
    """The leading response and its lead over the second."""
    if totals is None:
        return None
    leader = max(range(len(totals)), key=totals.__getitem__)
    return leader, totals[leader] - max(total for i, total in enumerate(totals) if i != leader)


def _top_decided(rows: Sequence[Scores], metas: Sequence[float | None], voters: int, left: int, span: float) -> bool:
    """Whether the same response leads however many of the remaining critiques become voters."""
    leaders = set()
    for newcomers in range(min(left, voters) + 1):
        stay = guided_selection(rows, metas, voters - newcomers) if newcomers < voters else ()
        leads = _leads(vote([rows[j] for j in stay]))
        if leads is None or leads[1] <= newcomers * span:
            return False
        leaders.add(leads[0])
    return len(leaders) == 1


_STAKE = 0.8
"""Share of the capital that is bet on each critique. The bound holds for any share."""


def _audited(rows: Sequence[Scores], weights: Sequence[float], leader: int, k: int, span: float, error: float) -> bool:
    """Whether the bets against every opponent of the leader have reached their goal."""
    n = len(next(row for row in rows if row is not None))
    goal = math.log((n - 1) / error)
    for other in {*range(n)} - {leader}:
        leads = [0.0 if row is None else weight * (row[leader] - row[other]) for weight, row in zip(weights, rows)]
        if _log_capital(leads, k, span) < goal:
            return False
    return True


def _log_capital(leads: Sequence[float], k: int, span: float) -> float:
    """The highest log capital of bets on leads in [-span, span] with a stake of 1, if k of them sum to 0 or less.

    Raised by `span`, leads are not negative. `fair` is the mean of those to come if all k sum to `k * span`; a bet of
    the share s of all capital multiplies it by `1 - s + s * lead / fair`, which is 1 on average at most.
    """
    log, most, rest = 0.0, 0.0, k * span
    for drawn, lead in enumerate(leads):
        fair, lead = rest / (k - drawn), lead + span
        rest -= lead
        if rest < -1e-9:
            return math.inf  # no possible leads of the remaining critiques are this low
        if fair > 0:
            log += math.log1p(_STAKE * (lead / fair - 1))
            most = max(most, log)
    return most
