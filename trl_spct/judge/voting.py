# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""k critiques, one verdict: voting and Meta-RM-guided voting (paper, section 6)."""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


Scores = Sequence[float] | None

VOTING_TEMPERATURE = 0.5
"""Sampling temperature of all scaling runs in the paper (section 6); critiques are greedy otherwise."""

DEFAULT_SHARE = 0.5
"""The share of critiques that vote under a Meta RM: the paper's k/2 (section 6)."""

GUIDES = ("top", "soft")


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
    return weighted_vote(rows, [1] * len(rows))


def weighted_vote(rows: Sequence[Scores], weights: Sequence[float]) -> tuple[float, ...] | None:
    """Adds up the scores of k critiques, each as much as it weighs: `S*_i = Σ_j w_j S_ij` (ours).

    Args:
        rows (sequence of k score rows): As for [`vote`]. The weight of an unreadable critique is ignored.
        weights (sequence of k `float`): Not negative; a weight of 0 is no vote. Whole weights keep sums whole.

    Returns:
        `tuple[float, ...]` of length n, or `None` if no critique votes. The order of the critiques does not matter.
    """
    if len(rows) != len(weights):
        raise ValueError(f"Found {len(weights)} weights for {len(rows)} critiques; expected one per critique.")
    if any(not 0 <= weight < math.inf for weight in weights):
        raise ValueError(f"Found the weights {list(weights)}; expected finite numbers that are not negative.")
    votes = [(weight, row) for weight, row in zip(weights, rows, strict=True) if row is not None and weight > 0]
    if len({len(row) for _, row in votes}) > 1:
        raise ValueError(
            f"Found critiques that score {sorted({len(row) for _, row in votes})} responses; expected one n."
        )
    if not votes:
        return None
    total = sum if all(isinstance(weight, int) for weight, _ in votes) else math.fsum
    columns = zip(*(row for _, row in votes), strict=True)
    return tuple(total(weight * score for (weight, _), score in zip(votes, column, strict=True)) for column in columns)


def guided_vote(
    rows: Sequence[Scores], meta_scores: Sequence[float | None], k_meta: int | float | None = None
) -> tuple[float, ...] | None:
    """Adds up only the `k_meta` readable critiques that the Meta RM scores highest (paper, section 6).

    Args:
        rows (sequence of k score rows): As for [`vote`].
        meta_scores (sequence of k `float`): The Meta RM's logits, one per critique. Those of unreadable critiques are
            ignored.
        k_meta (`int` or `float`, *optional*, defaults to `max(1, k // 2)`):
            How many critiques vote, or which share of all k of them; see [`num_voters`].

    Returns:
        `tuple[float, ...]` of length n, or `None` if no critique could be read.
    """
    return vote([rows[j] for j in guided_selection(rows, meta_scores, k_meta)])


def guided_selection(
    rows: Sequence[Scores], meta_scores: Sequence[float | None], k_meta: int | float | None = None
) -> tuple[int, ...]:
    """Indices, ascending, of the critiques that vote under [`guided_vote`]; the earlier one wins a tie."""
    voters = num_voters(k_meta, len(rows))
    readable = _scored(rows, meta_scores)
    return tuple(sorted(sorted(readable, key=lambda j: -meta_scores[j])[:voters]))


def num_voters(k_meta: int | float | None, k: int) -> int:
    """How many of k critiques vote at most: `k_meta` itself, or `max(1, floor(k_meta * k))` if it is a share.

    Args:
        k_meta (`int` or `float`, *optional*):
            A whole number of critiques, or a `float` in (0, 1], the share of all k. `None` is 0.5, the paper's k/2.
        k (`int`): Critiques sampled, those that cannot be read included.
    """
    k_meta = checked_k_meta(k_meta)
    if k_meta is None:
        k_meta = DEFAULT_SHARE
    # A share that was written down in decimals must not lose a critique to its binary form: .29 * 100 is 28.99….
    return k_meta if isinstance(k_meta, int) else max(1, math.floor(k_meta * k + 1e-9))


def checked_k_meta(k_meta: int | float | None) -> int | float | None:
    """`k_meta` itself if it is a number of critiques, a share of them or `None`; a `ValueError` otherwise."""
    is_count = isinstance(k_meta, int) and not isinstance(k_meta, bool) and k_meta >= 1
    if k_meta is None or is_count or (isinstance(k_meta, float) and 0 < k_meta <= 1):
        return k_meta
    raise ValueError(
        f"Found k_meta={k_meta!r}; expected at least 1 critique (`int`), or a share of them in (0, 1] (`float`)."
    )


@dataclass(frozen=True)
class Guidance:
    """How a Meta RM guides a vote: which critiques vote, or how much each of them counts.

    Args:
        k_meta (`int` or `float`, *optional*):
            For `guide="top"`: how many critiques vote, or which share of them; see [`num_voters`]. With 1.0 all do, as
            without a Meta RM.
        guide (`str`, *optional*, defaults to `"top"`):
            `"top"`: the `k_meta` critiques with the highest meta scores vote alike (paper, section 6). `"soft"`: each
            readable critique counts by the Meta RM's own probability that it is correct, `w = sigmoid(meta score)`
            (ours).

    Raises:
        `ValueError`: for another `guide`, for a `k_meta` that is neither a number nor a share of critiques, and for a
            `k_meta` under `"soft"`, which has no use for it.
    """

    k_meta: int | float | None = None
    guide: str = "top"

    def __post_init__(self):
        checked_k_meta(self.k_meta)
        if self.guide not in GUIDES:
            raise ValueError(f"Found guide={self.guide!r}; expected one of {list(GUIDES)}.")
        if self.guide == "soft" and self.k_meta is not None:
            raise ValueError(
                f"Found k_meta={self.k_meta} with guide='soft', under which all critiques vote; expected one of them."
            )

    @classmethod
    def of(
        cls, stored: Mapping[str, Any] | None, k_meta: int | float | None = None, guide: str | None = None
    ) -> "Guidance":
        """What is asked for, else what is stored with the Meta RM (`config.meta_rm`), else the paper's k/2."""
        if k_meta is not None:
            return cls(k_meta, guide or "top")
        stored = cls(**{name: value for name, value in (stored or {}).items() if name in ("k_meta", "guide")})
        return stored if guide in (None, stored.guide) else cls(guide=guide)

    @property
    def settings(self) -> dict[str, Any]:
        """What [`Guidance.of`] reads: the entries of a Meta RM's `config.meta_rm`."""
        return {"k_meta": self.k_meta, "guide": self.guide}

    @property
    def plain(self) -> bool:
        """Whether all readable critiques vote alike, as without a Meta RM, whose scores are then not needed."""
        return self.guide == "top" and isinstance(self.k_meta, float) and self.k_meta == 1.0

    def weights(self, rows: Sequence[Scores], meta_scores: Sequence[float | None]) -> tuple[float, ...]:
        """How much each of k critiques counts in a [`weighted_vote`]; 0 if it has no vote or cannot be read.

        Args:
            rows, meta_scores: As for [`guided_vote`]. Under plain voting no meta scores are needed.
        """
        if self.plain:
            return tuple(int(row is not None) for row in rows)
        if self.guide == "soft":
            readable = set(_scored(rows, meta_scores))
            return tuple(_sigmoid(meta) if j in readable else 0 for j, meta in enumerate(meta_scores))
        voters = set(guided_selection(rows, meta_scores, self.k_meta))
        return tuple(int(j in voters) for j in range(len(rows)))

    def __str__(self) -> str:
        if self.guide == "soft":
            return "soft"
        return "top half" if self.k_meta is None else f"top {self.k_meta}"


def _scored(rows: Sequence[Scores], meta_scores: Sequence[float | None]) -> list[int]:
    """Indices of the readable critiques, each of which must have a meta score."""
    if len(rows) != len(meta_scores):
        raise ValueError(f"Found {len(meta_scores)} meta scores for {len(rows)} critiques; expected one per critique.")
    readable = [j for j, row in enumerate(rows) if row is not None]
    unscored = [j for j in readable if meta_scores[j] is None or meta_scores[j] != meta_scores[j]]
    if unscored:
        raise ValueError(
            f"Found no meta score (None or NaN) for the readable critiques {unscored}; score every critique before a "
            "guided vote."
        )
    return readable


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(min(-logit, 700.0)))  # never 0: somebody always has a vote


def decided(
    rows: Sequence[Scores],
    k: int,
    score_range: tuple[int, int] = (1, 10),
    error: float = 0.0,
    meta_scores: Sequence[float | None] | None = None,
    guidance: Guidance | None = None,
) -> bool:
    """Whether the first critiques of k already decide who wins the vote of all k (ours).

    With `error=0` the answer is a proof. One critique moves two responses apart by `high - low` at most, and an
    unreadable one not at all: the leader has won if its lead exceeds what the critiques that are left can make up. A
    lead that they could only equalize is not enough, since the full vote would be a tie.

    With `error > 0` the leader may also have won *in all probability*: against each other response a bet is made,
    critique by critique, that the full vote does put the leader ahead of it, and the leader has won when each bet has
    multiplied its stake by (n - 1) / error. So does a risk-limiting audit stop counting ballots: with a betting
    martingale, sampling without replacement from the k scores (Waudby-Smith and Ramdas, "Estimating means of bounded
    random variables by betting", 2024; Stark, "ALPHA", 2023). Whenever and however often one looks, the winner is one
    that the full vote puts behind another with probability `error` at most, provided that critiques could as well have
    come in any other sequence, as those in random or fixed orders. Balanced orders are mixed more evenly than that,
    which the statement does not cover.

    Args:
        rows (sequence of score rows): Those of the critiques drawn so far, in the sequence in which they were drawn.
        k (`int`): How many critiques make the full vote.
        score_range (`tuple[int, int]`, *optional*, defaults to `(1, 10)`): Lowest and highest score.
        error (`float`, *optional*, defaults to `0.0`):
            Largest probability of naming a winner that the full vote does not; 0 asks for a proof.
        meta_scores (sequence of `float`, *optional*): As for [`guided_vote`], of the critiques drawn so far.
        guidance ([`Guidance`], *optional*): How a Meta RM guides the vote. Under `"top"` critiques that are left may
            push others out, of which the proof takes account; a bet does not.

    Returns:
        `bool`. A single response has a winner only as a verdict, with scores of 0 and 1: the majority. Its score from
        1 to 10 needs all critiques.

    Raises:
        `ValueError`: for an `error` outside of [0, 1), and for `error > 0` with a guidance of `"top"`.
    """
    if not 0 <= error < 1:
        raise ValueError(f"Found error={error}; expected a probability from 0, a proof, to less than 1.")
    if error and guidance is not None and guidance.guide == "top":
        raise ValueError(
            f"Found error={error} with a Meta RM that picks the best critiques of all {k}; expected `error=0`, since "
            "which of the critiques drawn so far will vote is open until the last."
        )
    left = k - len(rows)
    if left <= 0:
        return True
    rows, span = _opponents(rows, score_range)
    if guidance is not None and guidance.guide == "top":
        return _top_decided(rows, meta_scores, num_voters(guidance.k_meta, k), left, span)
    weights = [1] * len(rows) if guidance is None else guidance.weights(rows, meta_scores)
    leads = _leads(weighted_vote(rows, weights))
    if leads is None:
        return False
    leader, lead = leads
    if lead > left * span + 1e-9 * (guidance is not None):
        return True
    return error > 0 and lead > 0 and _audited(rows, weights, leader, k, span, error)


def critiques_to_go(
    rows: Sequence[Scores],
    k: int,
    num_responses: int,
    score_range: tuple[int, int] = (1, 10),
    error: float = 0.0,
    meta_scores: Sequence[float | None] | None = None,
    guidance: Guidance | None = None,
) -> int:
    """How many more critiques it takes until the vote can be [`decided`], if all of them are for the leader.

    0 if it is decided: so many critiques can be sampled at once, without a look that is bound to be in vain.

    Args:
        num_responses (`int`): n.
        rows, k, score_range, error, meta_scores, guidance: As for [`decided`].
    """
    low, high = score_range
    totals = vote(rows) or [0] * num_responses
    leader = max(range(num_responses), key=totals.__getitem__)
    if num_responses == 1:
        favor = (high if 2 * totals[0] >= sum(row is not None for row in rows) * (low + high) else low,)
    else:
        favor = tuple(high if i == leader else low for i in range(num_responses))

    def is_decided(more: int) -> bool:
        metas = None if meta_scores is None else [*meta_scores, *[math.inf] * more]
        return decided([*rows, *[favor] * more], k, score_range, error, metas, guidance)

    return bisect.bisect_left(range(k - len(rows)), True, key=is_decided)


def _opponents(rows: Sequence[Scores], score_range: tuple[int, int]) -> tuple[list[Scores], float]:
    """Score rows with two or more opponents, and how far one critique can part them. A verdict of 0 or 1 on a single
    response is a score for "incorrect" and one for "correct"."""
    low, high = score_range
    if any(row is not None and len(row) == 1 for row in rows):
        if (low, high) != (0, 1):
            return [None] * len(rows), high - low
        return [None if row is None else (1 - row[0], row[0]) for row in rows], 1
    return list(rows), high - low


def _leads(totals: tuple[float, ...] | None) -> tuple[int, float] | None:
    """The leading response and how far it is ahead of the second."""
    if totals is None:
        return None
    leader = max(range(len(totals)), key=totals.__getitem__)
    return leader, totals[leader] - max(total for i, total in enumerate(totals) if i != leader)


def _top_decided(rows, meta_scores, voters: int, left: int, span: float) -> bool:
    """Whatever number of the critiques that are left will be among the voters, the same response leads."""
    leaders = set()
    for newcomers in range(min(left, voters) + 1):
        stay = guided_selection(rows, meta_scores, voters - newcomers) if newcomers < voters else ()
        leads = _leads(vote([rows[j] for j in stay]))
        if leads is None or leads[1] <= newcomers * span:
            return False
        leaders.add(leads[0])
    return len(leaders) == 1


_STAKE = 0.8
"""Share of the capital that is bet on each critique. Any keeps the promise; a large one stops clear votes early."""


def _audited(rows, weights, leader: int, k: int, span: float, error: float) -> bool:
    """Whether the bets against every opponent of the leader have paid enough."""
    opponents = [i for i in range(len(next(row for row in rows if row is not None))) if i != leader]
    goal = math.log(len(opponents) / error)
    return all(
        _log_capital(
            [
                0.0 if row is None else weight * (row[leader] - row[other])
                for weight, row in zip(weights, rows, strict=True)
            ],
            k,
            span,
        )
        >= goal
        for other in opponents
    )


def _log_capital(leads: Sequence[float], k: int, span: float) -> float:
    """The most that bets on leads in [-span, span] have made of a stake of 1, if k of them sum to 0 or less.

    Raised by `span`, leads are not negative and k of them sum to `k * span` or less. Before each critique the rest of
    this sum over the critiques that are left is their mean, `fair`; a bet of the share s of all capital multiplies it
    by `1 - s + s * lead / fair`, which is 1 on average at best.
    """
    log, most, rest = 0.0, 0.0, k * span
    for drawn, lead in enumerate(leads):
        fair, lead = rest / (k - drawn), lead + span
        rest -= lead
        if rest < -1e-9:
            return math.inf  # no leads of the critiques that are left are low enough
        if fair > 0:
            log += math.log1p(_STAKE * (lead / fair - 1))
            most = max(most, log)
    return most
