# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Means with bootstrap intervals, paired differences, ROC-AUC and calibration error."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np


Values: TypeAlias = Sequence[float] | np.ndarray


def mean(values: Values) -> float:
    """Arithmetic mean as a Python `float`."""
    return float(sum(values) / len(values))


def bootstrap_interval(
    values: Values, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over rows.

    Args:
        values (sequence of N `float`): One value per row.
        confidence (`float`, *optional*, defaults to `0.95`): Coverage of the interval.
        resamples (`int`, *optional*, defaults to `2000`): Number of resamples.
        seed (`int`, *optional*, defaults to `0`): Seed of the resampling.

    Returns:
        `tuple[float, float]`: Lower and upper bound.
    """
    values = np.asarray(values, dtype=float)
    generator = np.random.default_rng(seed)
    # One resample at a time: a single draw would take resamples × N × 16 bytes.
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    tail = 50 * (1 - confidence)
    return float(np.percentile(means, tail)), float(np.percentile(means, 100 - tail))


def paired_interval(
    first: Values, second: Values, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference `second - first` over the same rows with its bootstrap interval.

    Args:
        first, second (sequences of N `float`): One value per row, in the same order.
        confidence, resamples, seed: See [`bootstrap_interval`].

    Returns:
        `tuple[float, float, float]`: Difference, lower and upper bound.
    """
    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    return float(difference.mean()), *bootstrap_interval(difference, confidence, resamples, seed)


def roc_auc(scores: Values, labels: Sequence[int] | np.ndarray) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in which the positive scores higher; a tie
    counts one half.

    Exact, from the ranks: `(R - p(p + 1) / 2) / (p * q)` with `R` the sum of the positives' mid-ranks, `p` positives
    and `q` negatives.

    Args:
        scores (sequence of N `float`): Scores; higher means more likely positive.
        labels (sequence of N `int` or `bool`): 1 for positives, 0 for negatives.

    Returns:
        `float` in [0, 1]; NaN if all labels are equal.

    Raises:
        `ValueError`: If there is not one score per label.
    """
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
    """Expected calibration error (ECE) of `sigmoid(logit)` as the probability of the positive class.

    The mean over samples of |mean probability − share of positives| within bins of equal width.

    Args:
        logits (sequence of N `float`): Unbounded scores.
        labels (sequence of N `int` or `bool`): 1 for positives, 0 for negatives.
        num_bins (`int`, *optional*, defaults to `15`): Number of bins.

    Returns:
        `float` in [0, 1].

    Raises:
        `ValueError`: If there are no logits, or not one per label.
    """
    logits, positive = np.asarray(logits, dtype=np.float64), np.asarray(labels).astype(bool)
    if len(positive) != len(logits) or len(logits) == 0:
        raise ValueError(
            f"Found {len(logits)} logits for {len(positive)} labels; expected one logit per label, and at least one."
        )
    probabilities = 0.5 * (1 + np.tanh(0.5 * logits))  # sigmoid without overflow
    bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, probabilities - positive, num_bins)
    return float(np.abs(gaps).sum() / len(logits))
