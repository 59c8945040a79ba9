# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rejection of sampled trajectories (paper, section 3.1: the unified rejection strategy)."""

import math
import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ..judge.outcomes import is_correct


class Outcome(str, Enum):
    """What the rejection rule decides about a trajectory."""

    KEPT = "kept"
    INCORRECT = "incorrect"
    UNREADABLE = "unreadable"
    TOO_EASY = "too_easy"


@dataclass(frozen=True)
class Trajectory:
    """One sampled critique as the rejection rule sees it: of a preference row, with labels in the order of the scores
    (`None` if they cannot be read), and whether the prompt named the best response."""

    row: Hashable
    scores: Sequence[float] | None
    labels: Sequence[float]
    hinted: bool = False


@dataclass(frozen=True)
class Selection:
    """The outcome of each trajectory, in order."""

    outcomes: tuple[Outcome, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the kept trajectories."""
        return tuple(i for i, outcome in enumerate(self.outcomes) if outcome is Outcome.KEPT)


def select_trajectories(trajectories: Iterable[Trajectory], reject_too_easy: bool = True) -> Selection:
    """Applies the rejection rule of rejective fine-tuning to all samples of all rows, in any order.

    A trajectory is rejected if it cannot be read or is incorrect (Eq. 10). With `reject_too_easy`, the *unhinted*
    trajectories of a row are rejected, too, if all of them are correct.
    """
    trajectories = list(trajectories)
    correct = [is_correct(trajectory.scores, trajectory.labels) for trajectory in trajectories]
    failed = {t.row for t, right in zip(trajectories, correct, strict=True) if not right and not t.hinted}

    def outcome_of(trajectory: Trajectory, right: bool) -> Outcome:
        if trajectory.scores is None:
            return Outcome.UNREADABLE
        if not right:
            return Outcome.INCORRECT
        if reject_too_easy and not trajectory.hinted and trajectory.row not in failed:
            return Outcome.TOO_EASY
        return Outcome.KEPT

    return Selection(tuple(map(outcome_of, trajectories, correct)))


def cap_hinted(
    rows: Sequence[Hashable], hinted: Sequence[bool], outcomes: Sequence[str], max_share: float, seed: int = 0
) -> list[int]:
    """Indices of the kept trajectories, in order, with a cap on the share of hinted ones; `1` is no cap.

    Hinted trajectories of rows that were also solved without a hint are dropped first, since other rows have nothing
    else; ties are broken at random.
    """
    kept = [i for i, outcome in enumerate(outcomes) if outcome == Outcome.KEPT]
    kept_hinted = [i for i in kept if hinted[i]]
    num_unhinted = len(kept) - len(kept_hinted)
    limit = len(kept_hinted) if max_share >= 1 else math.floor(max_share * num_unhinted / (1 - max_share) + 1e-9)
    if len(kept_hinted) <= limit:
        return kept
    right = (Outcome.KEPT, Outcome.TOO_EASY)
    solved = {row for row, hint, outcome in zip(rows, hinted, outcomes, strict=True) if not hint and outcome in right}
    generator = random.Random(seed)
    dropped = set(sorted(kept_hinted, key=lambda i: (rows[i] in solved, generator.random()))[limit:])
    return [i for i in kept if i not in dropped]
