# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judgments written down by hand."""

from trl_spct.evaluation.judgments import Judgment
from trl_spct.judge.critiques import Critique


def judged(labels, scores, meta_scores=None, orders=None, problems=None):
    """A judgment with the given scores, meta scores, orders and problems of its critiques."""
    k = len(scores)
    columns = (scores, problems or (None,) * k, orders or (None,) * k, meta_scores or (None,) * k)
    return Judgment(
        labels,
        tuple(
            Critique("", row, problem, order, meta_score, num_tokens=5)
            for row, problem, order, meta_score in zip(*columns, strict=True)
        ),
    )
