# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Intervals, ROC-AUC and calibration error, against definitions and examples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_spct.evaluation.statistics import bootstrap_interval, calibration_error, paired_interval, roc_auc


def test_bootstrap_coverage():
    """A 95 % interval of a mean holds the truth about 95 times in 100."""
    generator = np.random.default_rng(0)
    held, widths = 0, []
    for i in range(200):
        low, high = bootstrap_interval(generator.random(60) < 0.7, resamples=300, seed=i)
        held += low <= 0.7 <= high
        widths.append(high - low)
    assert 178 <= held <= 199
    assert np.mean(widths) == pytest.approx(2 * 1.96 * math.sqrt(0.7 * 0.3 / 60), rel=0.1)


def test_bootstrap_properties():
    values = [0, 1, 1, 0, 1, 1, 1, 0.5]
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    low, high = bootstrap_interval(values)
    assert 0 <= low < np.mean(values) < high <= 1
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_interval([0.25] * 9) == (0.25, 0.25)


def test_paired_interval():
    generator = np.random.default_rng(0)
    first = generator.random(80)
    difference, low, high = paired_interval(first, first + 0.1)
    assert (difference, low, high) == pytest.approx((0.1, 0.1, 0.1)), "what rows have in common cancels out"
    difference, low, high = paired_interval([1, 0, 0, 1], [0, 1, 1, 1])
    assert difference == 0.25 and low < 0.25 < high
    with pytest.raises(ValueError):
        paired_interval([1, 0], [1, 0, 1])


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_auc_counts_pairs(pairs):
    positives = [score for score, label in pairs if label]
    negatives = [score for score, label in pairs if not label]
    auc = roc_auc([score for score, _ in pairs], [label for _, label in pairs])
    if not positives or not negatives:
        assert np.isnan(auc)
    else:
        wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
        assert auc == pytest.approx(wins / (len(positives) * len(negatives)))


def test_auc_examples():
    assert roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert roc_auc([1.0, 1.0], [0, 1]) == 0.5
    with pytest.raises(ValueError, match="2 scores for 1 labels"):
        roc_auc([1.0, 2.0], [1])


def test_calibration_error_examples():
    sure = [50.0, 50.0, -50.0, -800.0]
    assert calibration_error(sure, [1, 1, 0, 0]) == pytest.approx(0)
    assert calibration_error(sure, [0, 0, 1, 1]) == pytest.approx(1)
    assert calibration_error([0.0] * 4, [1, 0, 1, 0]) == pytest.approx(0), "as often as it says"
    assert calibration_error([0.0] * 4, [1, 1, 1, 0]) == pytest.approx(0.25)
    assert calibration_error([float("inf"), -float("inf")], [1, 0]) == 0
    with pytest.raises(ValueError, match="2 logits for 1 labels"):
        calibration_error([1.0, 2.0], [1])


@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=1, max_size=30), st.integers(1, 20))
@settings(deadline=None)
def test_calibration_error_is_bin_by_bin(pairs, num_bins):
    bins = {}
    for logit, label in pairs:
        p = 0.5 * (1 + np.tanh(0.5 * logit))  # rounding decides on which side of an edge a probability lies
        bins.setdefault(min(int(p * num_bins), num_bins - 1), []).append((p, label))
    expected = sum(
        abs(np.mean([p for p, _ in found]) - np.mean([y for _, y in found])) * len(found) for found in bins.values()
    ) / len(pairs)
    logits, labels = zip(*pairs)
    assert calibration_error(logits, labels, num_bins) == pytest.approx(expected)
