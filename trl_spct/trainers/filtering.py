# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rows that carry signal: those that a judge does not get right every time (paper, section 5)."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from ..judge.prompts import judge_template
from ..judge.sampling import derive_seed, read_sample, sample_critiques
from .loading import load_sampler, rows_for, with_template
from .rejection import Outcome, Trajectory, select_trajectories

logger = logging.getLogger(__name__)

SAMPLES = 3
"""Critiques per row: the paper removes what DeepSeek-V2-Lite-Chat gets right 3 of 3 times [P]."""


def without_too_easy(
    rows: Dataset, sampler: Callable, k: int = SAMPLES, template: str = "paper", seed: int = 0, name: str = "rows"
) -> Dataset:
    """Removes the rows whose k critiques are all correct, by the rule of [`~trl_spct.select_trajectories`].

    A group whose rewards are all +1 has no advantages. Rows that are never right stay. `rows` are as [`judge_rows`]
    makes them, with labels; `sampler` is a [`~trl_spct.judge.sampling.Sampler`], in the paper a weak model."""
    if k < 1:
        raise ValueError(f"Found k={k}; expected at least one critique per row.")
    with PartialState().split_between_processes(list(range(len(rows)))) as numbers:
        part = rows.select(numbers)
        drawn = sampler(list(part["prompt"]), k, derive_seed(seed, "signal")) if numbers else []
        trajectories: list[Trajectory] = []
        for number, samples, labels, order in zip(numbers, drawn, part["labels"], part["order"], strict=True):
            reader = judge_template(template, binary=len(labels) == 1)
            for sample in samples:
                critique = read_sample(sample, len(labels), reader).in_row_order(order)
                trajectories.append(Trajectory(number, critique.scores, labels))
        outcomes = select_trajectories(trajectories).outcomes
    easy = {t.row for t, outcome in zip(trajectories, outcomes, strict=True) if outcome is Outcome.TOO_EASY}
    easy = set(gather_object(list(easy)))
    kept = [index for index in range(len(rows)) if index not in easy]
    if not kept:
        raise ValueError(
            f"{name}: all {len(rows)} rows are judged correctly {k} of {k} times; expected at least one that is not. "
            "Take harder rows, a weaker sampler or a larger k."
        )
    logger.info("%s: removed %d of %d rows that are right %d of %d times", name, len(easy), len(rows), k, k)
    return rows.select(kept)


def without_easy_for(dataset: Dataset, name: str, args: Any) -> Dataset:
    """Removes the preference rows that `easy_judge` of an [`SPCTConfig`] gets right 3 of 3 times.

    It samples as in training, in its own template unless one is given. Rows are in any accepted shape; one with
    several preferences stays for any of them."""
    model, tokenizer = load_sampler(args.easy_judge, args)
    args = with_template(args, model.config)
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.from_list(dataset)
    numbered = dataset.add_column("row_number", list(range(len(dataset))))
    rows = rows_for(numbered, tokenizer, args, model.config, name).dataset
    sampler = partial(
        sample_critiques,
        model.to(args.device) if not getattr(model, "is_quantized", False) else model,
        tokenizer,
        temperature=args.temperature,
        top_p=args.top_p,
        max_new_tokens=args.max_completion_length,
        chat_template_kwargs=args.variables,
        progress="Rows without signal",
    )
    kept = without_too_easy(rows, sampler, template=args.template, seed=args.seed, name=name)
    return dataset.select(sorted({*kept["row_number"]}))
