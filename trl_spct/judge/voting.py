# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Voting and Meta-RM-guided voting over k critiques (paper, section 6)."""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Scores = Sequence[float] | None

VOTING_TEMPERATURE = 0.5
"""Sampling temperature of all scaling runs in the paper (section 6); critiques are greedy otherwise."""

DEFAULT_SHARE = 0.5
"""The share of critiques that vote under a Meta RM: the paper's k/2 (section 6)."""


def vote(rows: Sequence[Scores]) -> tuple[float, ...] | None:
    """Adds up the scores of k critiques, response by response: `S*_i = Σ_j S_ij`; `None` if none could be read.

    Each row holds n scores in the original response order, or is `None` for a critique that could not be read, which
    has no vote.

    ```python
    >>> from trl_spct import vote
    >>> vote([(1, 5), (5, 6), None, (4, 8), (7, 6)])
    (17, 25)
    ```
    """
    return weighted_vote(rows, [1] * len(rows))


def guided_vote(
    rows: Sequence[Scores], meta_scores: Sequence[float | None], k_meta: int | float | None = None
) -> tuple[float, ...] | None:
    """Adds up only the `k_meta` readable critiques that the Meta RM scores highest (paper, section 6).

    `rows` are as for [`vote`], `meta_scores` the k logits of the Meta RM, of which those of unreadable critiques are
    ignored. `k_meta` defaults to `max(1, k // 2)`, see [`num_voters`].
    """
    return vote([rows[j] for j in guided_selection(rows, meta_scores, k_meta)])


def weighted_vote(rows: Sequence[Scores], weights: Sequence[float]) -> tuple[float, ...] | None:
    """Adds up the scores of k critiques with weights: `S*_i = Σ_j w_j S_ij` (not in the paper).

    The sums are exact and rounded once, so that equal sums of other weights compare as equal. Weights are finite and
    not negative; whole weights keep sums whole.
    """
    votes = _votes(rows, weights)
    if not votes:
        return None
    if all(isinstance(weight, int) for weight, _ in votes):
        columns = zip(*([weight * score for score in row] for weight, row in votes), strict=True)
        return tuple(map(sum, columns))
    sums, unit, _ = _exact_sums(votes)
    return tuple(total / unit for total in sums)


def mean_scores(rows: Sequence[Scores], weights: Sequence[float] | None = None) -> tuple[float, ...] | None:
    """Weighted mean score of each response, `Σ_j w_j S_ij / Σ_j w_j`, exact and rounded once."""
    votes = _votes(rows, [1] * len(rows) if weights is None else weights)
    if not votes:
        return None
    sums, _, total = _exact_sums(votes)
    return tuple(exact / total for exact in sums)


def _votes(rows: Sequence[Scores], weights: Sequence[float]) -> list[tuple[float, Sequence[float]]]:
    """The readable critiques with a positive weight."""
    if len(rows) != len(weights):
        raise ValueError(f"Found {len(weights)} weights for {len(rows)} critiques; expected one per critique.")
    if any(not 0 <= weight < math.inf for weight in weights):
        raise ValueError(f"Found the weights {list(weights)}; expected finite numbers that are not negative.")
    votes = [(weight, row) for weight, row in zip(weights, rows, strict=True) if row is not None and weight > 0]
    if len(lengths := {len(row) for _, row in votes}) > 1:
        raise ValueError(f"Found critiques that score {sorted(lengths)} responses; expected one n.")
    return votes


def _exact_sums(votes: Sequence[tuple[float, Sequence[float]]]) -> tuple[list[int], int, int]:
    """Weighted sums of the scores as integers, how many of them make 1, and how many make the sum of the weights."""
    weights, unit = _integers([weight for weight, _ in votes])
    columns = [_integers(column) for column in zip(*(row for _, row in votes), strict=True)]
    score_unit = max(column_unit for _, column_unit in columns)
    sums = [sum(map(operator.mul, weights, scores)) * (score_unit // column_unit) for scores, column_unit in columns]
    return sums, unit * score_unit, sum(weights) * score_unit


def _integers(numbers: Iterable[float]) -> tuple[list[int], int]:
    """Finite numbers as multiples of one power of two, and how many of these make 1."""
    ratios = [(n if isinstance(n, int) else float(n)).as_integer_ratio() for n in numbers]
    unit = max(denominator for _, denominator in ratios)
    return [numerator * (unit // denominator) for numerator, denominator in ratios], unit


def guided_selection(
    rows: Sequence[Scores], meta_scores: Sequence[float | None], k_meta: int | float | None = None
) -> tuple[int, ...]:
    """Indices, ascending, of the critiques that vote under [`guided_vote`]; the earlier one wins a tie."""
    voters = num_voters(k_meta, len(rows))
    readable = _scored(rows, meta_scores)
    return tuple(sorted(sorted(readable, key=lambda j: -readable[j])[:voters]))


def num_voters(k_meta: int | float | None, k: int) -> int:
    """How many of k critiques vote at most: `k_meta`, or `max(1, floor(k_meta * k))` if it is a share (a `float` in
    (0, 1]). `None` is 0.5, the paper's k/2."""
    if isinstance(k_meta, int) and not isinstance(k_meta, bool) and k_meta >= 1:
        return k_meta
    share = DEFAULT_SHARE if k_meta is None else k_meta
    if not isinstance(share, float) or not 0 < share <= 1:
        raise ValueError(
            f"Found k_meta={k_meta!r}; expected at least 1 critique (`int`), or a share of them in (0, 1] (`float`)."
        )
    return max(1, math.floor(share * k + 1e-9))  # .29 of 100 is 28.99… in binary, and 29 in decimals


@dataclass(frozen=True)
class Guidance:
    """How a Meta RM guides a vote: which critiques vote, or how much each of them counts.

    Args:
        k_meta (`int` or `float`, *optional*):
            For `guide="top"`, see [`num_voters`]. With 1.0 all critiques vote, as without a Meta RM.
        guide (`str`, *optional*, defaults to `"top"`):
            `"top"`: the `k_meta` critiques with the highest meta scores vote alike (paper, section 6). `"soft"` (not
            in the paper): each readable critique weighs `sigmoid(meta score)`, its probability of being correct.
    """

    k_meta: int | float | None = None
    guide: str = "top"

    def __post_init__(self):
        num_voters(self.k_meta, 1)  # checks it
        if self.guide not in ("top", "soft"):
            raise ValueError(f"Found guide={self.guide!r}; expected one of 'top', 'soft'.")
        if self.guide == "soft" and self.k_meta is not None:
            raise ValueError(
                f"Found k_meta={self.k_meta} with guide='soft', under which all critiques vote; expected one of them."
            )

    @classmethod
    def of(cls, stored: Mapping | None, k_meta: int | float | None = None, guide: str | None = None) -> "Guidance":
        """The guidance in the arguments, else the one stored with the Meta RM (`config.meta_rm`), else the paper's."""
        if k_meta is not None:
            return cls(k_meta, guide or "top")
        known = cls(**{name: value for name, value in (stored or {}).items() if name in ("k_meta", "guide")})
        return known if guide is None or guide == known.guide else cls(guide=guide)

    @property
    def settings(self) -> dict[str, Any]:
        """The entries of a Meta RM's `config.meta_rm`, which [`Guidance.of`] reads."""
        return asdict(self)

    @property
    def plain(self) -> bool:
        """Whether all readable critiques vote alike, as without a Meta RM, whose scores are then not needed."""
        return self.guide == "top" and isinstance(self.k_meta, float) and self.k_meta == 1.0

    def weights(self, rows: Sequence[Scores], meta_scores: Sequence[float | None]) -> tuple[float, ...]:
        """The weights of k critiques in a [`weighted_vote`]; 0 if one has no vote or cannot be read."""
        if self.plain:
            return tuple(int(row is not None) for row in rows)
        if self.guide == "soft":
            scored = _scored(rows, meta_scores)
            # never 0, so that at least one critique votes
            return tuple(1 / (1 + math.exp(min(-scored[j], 700.0))) if j in scored else 0 for j in range(len(rows)))
        voters = set(guided_selection(rows, meta_scores, self.k_meta))
        return tuple(int(j in voters) for j in range(len(rows)))

    def __str__(self) -> str:
        if self.guide == "soft" or self.plain:
            return "soft" if self.guide == "soft" else "plain"
        share = DEFAULT_SHARE if self.k_meta is None else self.k_meta
        return f"top {share}" if isinstance(share, int) else f"top {100 * share:g} %"


def _scored(rows: Sequence[Scores], meta_scores: Sequence[float | None]) -> dict[int, float]:
    """The meta scores of the readable critiques, by index; each must have one."""
    if len(rows) != len(meta_scores):
        raise ValueError(f"Found {len(meta_scores)} meta scores for {len(rows)} critiques; expected one per critique.")
    readable = {j: meta_scores[j] for j, row in enumerate(rows) if row is not None}
    scored = {j: score for j, score in readable.items() if score is not None and score == score}
    if unscored := sorted(readable.keys() - scored.keys()):
        raise ValueError(f"Found the readable critiques {unscored} without a meta score (None or NaN); expected one.")
    return scored
