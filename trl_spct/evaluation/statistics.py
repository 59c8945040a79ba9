# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Means with bootstrap intervals, paired differences, ROC-AUC and calibration error."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Values: TypeAlias = Sequence[float] | np.ndarray


def mean(values: Values) -> float:
    """Arithmetic mean as a Python `float`."""
    return float(sum(values) / len(values))


def mean_or_none(values: Sequence[float]) -> float | None:
    """[`mean`], `None` without values."""
    return mean(values) if values else None


def bootstrap_interval(
    values: Values, confidence: float = 0.95, resamples: int = 2000, seed: int = 0, weights: Values | None = None
) -> tuple[float, float]:
    """Lower and upper bound of the percentile bootstrap interval of a mean over rows, which may have weights."""
    values, weights = np.asarray(values, dtype=float), None if weights is None else np.asarray(weights, dtype=float)
    generator, means = np.random.default_rng(seed), list[float]()
    for first in range(0, resamples, 50):  # a single draw would take resamples × N × 16 bytes
        chosen = generator.integers(len(values), size=(min(50, resamples - first), len(values)))
        means.extend(np.average(values[chosen], 1, None if weights is None else weights[chosen]))
    tail = 50 * (1 - confidence)
    return float(np.percentile(means, tail)), float(np.percentile(means, 100 - tail))


def paired_interval(
    first: Values, second: Values, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference `second - first` over the same rows, and the bounds of its [`bootstrap_interval`]."""
    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    return float(difference.mean()), *bootstrap_interval(difference, confidence, resamples, seed)


def roc_auc(scores: Values, labels: Sequence[int] | np.ndarray) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in which the positive scores higher, a tie
    counting one half; NaN if all labels are equal. Exact, from mid-ranks: `(R - p(p + 1) / 2) / (p * q)`."""
    positive = np.asarray(labels).astype(bool)
    if len(positive) != len(scores):
        raise ValueError(f"Found {len(scores)} scores for {len(positive)} labels; expected one score per label.")
    p, q = int(positive.sum()), int((~positive).sum())
    if p == 0 or q == 0:
        return float("nan")
    _, ranks, counts = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((mid_ranks[ranks][positive].sum() - p * (p + 1) / 2) / (p * q))


def calibration_error(logits: Values, labels: Sequence[int] | np.ndarray, num_bins: int = 15) -> float:
    """[`binned_error`] of `sigmoid(logit)` as the probability of the positive class."""
    logits, positive = np.asarray(logits, dtype=np.float64), np.asarray(labels).astype(bool)
    if len(positive) != len(logits) or len(logits) == 0:
        raise ValueError(
            f"Found {len(logits)} logits for {len(positive)} labels; expected one logit per label, and at least one."
        )
    return binned_error(0.5 * (1 + np.tanh(0.5 * logits)), positive, num_bins)  # sigmoid without overflow


def binned_error(probabilities: np.ndarray, outcomes: np.ndarray, num_bins: int) -> float:
    """Expected calibration error: mean over samples of |mean probability − mean outcome| in bins of equal width."""
    bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    return float(np.abs(np.bincount(bins, probabilities - outcomes, num_bins)).sum() / len(outcomes))
