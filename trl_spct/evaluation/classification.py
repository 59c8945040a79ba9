# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""How well scores separate two classes, and how far they can be taken for probabilities."""

from collections.abc import Sequence

import numpy as np


def roc_auc(scores: Sequence[float], labels: Sequence[int]) -> float:
    """
    Area under the ROC curve: how often a random positive outscores a random negative, where a tie counts half.

    Exact, from the ranks: `(R - p(p + 1) / 2) / (p * q)` with `R` the sum of the positives' mid-ranks, `p` positives
    and `q` negatives.

    Args:
        scores (sequence of N `float`): The higher, the more likely positive.
        labels (sequence of N `int` or `bool`): 1 or 0.

    Returns:
        `float` in [0, 1]; NaN if all labels are the same.
    """
    positive = np.asarray(labels).astype(bool)
    if len(positive) != len(scores):
        raise ValueError(f"Found {len(scores)} scores for {len(positive)} labels; expected one score per label.")
    p, q = int(positive.sum()), int((~positive).sum())
    if p == 0 or q == 0:
        return float("nan")
    _, places, counts = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((mid_ranks[places][positive].sum() - p * (p + 1) / 2) / (p * q))


def calibration_error(logits: Sequence[float], labels: Sequence[int], num_bins: int = 15) -> float:
    """
    Expected calibration error (ECE) of `sigmoid(logit)` as the probability of the positive class: how far, on
    average over all, the mean probability in a bin is from the share of positives in it.

    Args:
        logits (sequence of N `float`): Unbounded.
        labels (sequence of N `int` or `bool`): 1 or 0.
        num_bins (`int`, *optional*, defaults to `15`): Bins of equal width.

    Returns:
        `float` in [0, 1].
    """
    logits, positive = np.asarray(logits, dtype=np.float64), np.asarray(labels).astype(bool)
    if len(positive) != len(logits) or len(logits) == 0:
        raise ValueError(f"Found {len(logits)} logits for {len(positive)} labels; expected one per label, and any.")
    probabilities = 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
    bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, probabilities - positive, num_bins)
    return float(np.abs(gaps).sum() / len(logits))
