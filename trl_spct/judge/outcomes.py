# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""One predicate, and what follows from it: is a critique right about the labels (paper, Eq. 10 and 11)?"""

from collections.abc import Sequence

from .preferences import checked_labels


def is_correct(scores: Sequence[float] | None, labels: Sequence[float]) -> bool:
    """Whether the scores agree with the ground truth (Eq. 10).

    For n ≥ 2 the response with the highest label must have the *strictly* highest score, so that a tie is incorrect;
    for n = 1 the score must equal the label. No scores (`None`) are incorrect.
    """
    labels = checked_labels(labels)
    if scores is None:
        return False
    check_counts(scores, labels)
    if len(labels) == 1:
        return bool(scores[0] == labels[0])
    best = labels.index(max(labels))
    return all(scores[best] > score for i, score in enumerate(scores) if i != best)


def outcome_reward(scores: Sequence[float] | None, labels: Sequence[float]) -> float:
    """The rule-based reward of SPCT (Eq. 11): +1 if the scores are correct, −1 otherwise. No format reward."""
    return 1.0 if is_correct(scores, labels) else -1.0


def meta_label(scores: Sequence[float] | None, labels: Sequence[float]) -> int:
    """The Meta RM's target: 1 if the critique is correct, else 0."""
    return int(is_correct(scores, labels))


def credit(scores: Sequence[float] | None, labels: Sequence[float], votes: int = 1) -> float:
    """Expected accuracy of picking a highest-scored response at random: 1/#tied if the best is among them, else 0.

    It averages an argmax over shuffles of the responses (paper, section 3). For n = 1 `scores` is the sum of `votes`
    0/1 scores: the majority decides, and a split vote is worth 1/2 (not in the paper).
    """
    labels = checked_labels(labels)
    if scores is None:
        return 0.0
    check_counts(scores, labels)
    if len(labels) == 1:
        distance = abs(scores[0] / votes - labels[0])
        return 0.5 if distance == 0.5 else float(distance < 0.5)
    winners = highest(scores)
    return (labels.index(max(labels)) in winners) / len(winners)


def highest(scores: Sequence[float]) -> tuple[int, ...]:
    """Indices of the responses that share the highest score."""
    if not len(scores) or any(score != score for score in scores):
        raise ValueError(f"Found the scores {list(scores)}, of which none is the highest; expected numbers, no NaN.")
    top = max(scores)
    return tuple(i for i, score in enumerate(scores) if score == top)


def check_counts(scores: Sequence[float], labels: Sequence[float]) -> None:
    """Refuses scores and labels of different numbers of responses."""
    if len(scores) != len(labels):
        raise ValueError(f"Found {len(scores)} scores for {len(labels)} labels; expected one score per label.")
