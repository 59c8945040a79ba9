# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Which sampled trajectories are worth learning from (paper, section 3.1: the unified rejection strategy)."""

import math
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ..judge.outcomes import is_correct


class Outcome(str, Enum):
    """What becomes of a trajectory."""

    KEPT = "kept"
    INCORRECT = "incorrect"
    UNREADABLE = "unreadable"
    TOO_EASY = "too_easy"


@dataclass(frozen=True)
class Trajectory:
    """One sampled critique as the rejection rule sees it.

    Args:
        row (hashable): Which preference row it belongs to.
        scores (sequence of `float` or `None`): What was read from it; `None` if it could not be read.
        labels (sequence of `float`): Ground truth in the order of the scores.
        hinted (`bool`, *optional*, defaults to `False`): Whether the judge was told the best response.
    """

    row: Hashable
    scores: Sequence[float] | None
    labels: Sequence[float]
    hinted: bool = False


@dataclass(frozen=True)
class Selection:
    """The outcome of each trajectory, in order, and how many got which."""

    outcomes: tuple[Outcome, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the trajectories to learn from."""
        return tuple(i for i, outcome in enumerate(self.outcomes) if outcome is Outcome.KEPT)

    @property
    def counts(self) -> dict[str, int]:
        """Number of trajectories per outcome; every outcome is present."""
        counted = Counter(self.outcomes)
        return {outcome.value: counted[outcome] for outcome in Outcome}


def select_trajectories(trajectories: Iterable[Trajectory], reject_too_easy: bool = True) -> Selection:
    """Applies the rejection rule of rejective fine-tuning.

    A trajectory is rejected if it cannot be read or is incorrect (Eq. 10). A row whose *unhinted* trajectories are all
    correct is too easy, and they are rejected as well; this second rule does not touch hinted trajectories.

    Args:
        trajectories (iterable of [`Trajectory`]): All samples of all rows, in any order.
        reject_too_easy (`bool`, *optional*, defaults to `True`): Whether rows without a failure are rejected.

    Returns:
        [`Selection`]: one [`Outcome`] per trajectory.
    """
    trajectories = list(trajectories)
    correct = [is_correct(trajectory.scores, trajectory.labels) for trajectory in trajectories]
    failed = {t.row for t, right in zip(trajectories, correct, strict=True) if not right and not t.hinted}
    return Selection(
        tuple(
            _outcome(trajectory, right, reject_too_easy and not trajectory.hinted and trajectory.row not in failed)
            for trajectory, right in zip(trajectories, correct, strict=True)
        )
    )


def cap_hinted(
    rows: Sequence[Hashable], hinted: Sequence[bool], outcomes: Sequence[str], max_share: float, seed: int = 0
) -> list[int]:
    """The kept trajectories, with at most that share of hinted ones among them.

    A judge that is told the best response may take a short cut to it, as the paper saw above all on reasoning. The
    hinted trajectories of rows that were solved without a hint go first, since the other rows have nothing else;
    among equals a random stream made from `seed` decides.

    Args:
        rows, hinted, outcomes (sequences of equal length): Of all trajectories; see [`Trajectory`] and [`Outcome`].
        max_share (`float`): From 0 (none hinted) to 1 (no cap).
        seed (`int`, *optional*, defaults to `0`): Of the draw.

    Returns:
        `list[int]`: indices of the trajectories to learn from, in order.
    """
    kept = [i for i, outcome in enumerate(outcomes) if outcome == Outcome.KEPT]
    told = [i for i in kept if hinted[i]]
    own = len(kept) - len(told)
    limit = len(told) if max_share >= 1 else math.floor(max_share * own / (1 - max_share) + 1e-9)
    if len(told) <= limit:
        return kept
    right = (Outcome.KEPT, Outcome.TOO_EASY)
    solved = {row for row, hint, outcome in zip(rows, hinted, outcomes, strict=True) if not hint and outcome in right}
    draw = random.Random(seed)
    dropped = set(sorted(told, key=lambda i: (rows[i] in solved, draw.random()))[limit:])
    return [i for i in kept if i not in dropped]


def _outcome(trajectory: Trajectory, correct: bool, too_easy: bool) -> Outcome:
    if trajectory.scores is None:
        return Outcome.UNREADABLE
    if not correct:
        return Outcome.INCORRECT
    return Outcome.TOO_EASY if too_easy else Outcome.KEPT
