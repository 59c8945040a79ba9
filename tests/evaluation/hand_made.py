# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judgments written down by hand."""

from trl_spct import Preference
from trl_spct.evaluation.judgments import Judgment, PipelineJudge, record_judgments
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


def collect_judgments(pipe, rows, k, folder, **options):
    """Judgments of rows of any shape; options of the run beside those of the pipeline."""
    names = ("rows_per_shard", "process_index", "num_processes", "wait", "invalid_rows")
    run = {name: options.pop(name) for name in names if name in options}
    rows = [row if isinstance(row, Preference) else Preference.from_row(row) for row in rows]
    return record_judgments(PipelineJudge(pipe, k, **options), rows, folder, **run)
