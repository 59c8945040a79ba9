# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Bootstrap intervals: coverage, repeatability, pairing."""

import math

import numpy as np
import pytest

from trl_spct.evaluation.statistics import bootstrap_interval, paired_interval


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
