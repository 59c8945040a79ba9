# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rows that carry signal: those that a judge does not get right every time (paper, section 5)."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from ..judge.prompts import judge_template
from ..judge.sampling import Sample, Sampler, derive_seed, read_sample, sample_critiques
from .loading import load_sampler, rows_for, with_template
from .rejection import Outcome, Trajectory, select_trajectories


logger = logging.getLogger(__name__)

SAMPLES = 3
"""Critiques per row: the paper removes what DeepSeek-V2-Lite-Chat gets right 3 of 3 times [P]."""

_NUMBER = "row_number"


def without_too_easy(
    rows: Dataset,
    sampler: Sampler,
    k: int = SAMPLES,
    template: str = "paper",
    seed: int = 0,
    name: str = "rows",
    **sampling,
) -> Dataset:
    """Removes the rows whose k critiques are all correct.

    The rule is that of rejective fine-tuning, [`~trl_spct.select_trajectories`]: a group whose rewards are all +1 has
    no advantages, so that such rows cost generation and teach nothing. Rows that are never right stay.

    ```python
    >>> from functools import partial
    >>> from trl_spct.data.preparation import prepare_judge_rows
    >>> from trl_spct.judge.sampling import sample_critiques

    >>> rows = prepare_judge_rows(dataset, tokenizer, template="compact").dataset
    >>> sampler = partial(sample_critiques, model, tokenizer, temperature=1.0, max_new_tokens=256)
    >>> kept = without_too_easy(rows, sampler, template="compact")
    ```

    Args:
        rows ([`~datasets.Dataset`]): With `prompt`, `labels` and `order`, as [`judge_rows`] makes them.
        sampler (`Callable`):
            `sampler(prompts, k, seed, **sampling)`, see [`~trl_spct.judge.sampling`]; the paper takes a weak model.
        k (`int`, *optional*, defaults to `3`): Critiques per row. [P]
        template (`str`, *optional*, defaults to `"paper"`): Of the prompts; says which scores are in range.
        seed (`int`, *optional*, defaults to `0`): Of the samples.
        name (`str`, *optional*, defaults to `"rows"`): What messages call the dataset.
        **sampling: Passed to the sampler.

    Returns:
        [`~datasets.Dataset`]: the other rows, in order.

    Raises:
        `ValueError`: if no row would be left.
    """
    if k < 1:
        raise ValueError(f"Found k={k}; expected at least one critique per row.")
    with PartialState().split_between_processes(list(range(len(rows)))) as numbers:
        part = rows.select(numbers)
        drawn = sampler(list(part["prompt"]), k, derive_seed(seed, "signal"), **sampling) if numbers else []
        easy = {numbers[place] for place in too_easy(drawn, part["labels"], part["order"], template)}
    easy = set(gather_object(list(easy)))
    kept = [index for index in range(len(rows)) if index not in easy]
    if not kept:
        raise ValueError(
            f"{name}: all {len(rows)} rows are judged correctly {k} of {k} times; expected at least one that is not. "
            "Take harder rows, a weaker sampler or a larger k."
        )
    logger.info("%s: removed %d of %d rows that are right %d of %d times", name, len(easy), len(rows), k, k)
    return rows.select(kept)


def without_easy_for(
    dataset: Dataset, judge: str, args: Any, k: int = SAMPLES, name: str = "train_dataset"
) -> Dataset:
    """Removes the preference rows that another judge gets right every time, sampled as in training.

    Args:
        dataset ([`~datasets.Dataset`]): Preference rows in any accepted shape, one preference each.
        judge (`str`): Path or id of a model or adapter, for instance the judge that is to be trained.
        args ([`SPCTConfig`]): Template, seed, temperature, lengths, `per_device_train_batch_size`.
        k (`int`, *optional*, defaults to `3`): Critiques per row. [P]
        name (`str`, *optional*, defaults to `"train_dataset"`): What messages call the dataset.

    Returns:
        [`~datasets.Dataset`]: the rows that are left, with their columns.
    """
    model, tokenizer = load_sampler(judge, args)
    args = with_template(args, model.config)
    numbered = dataset.add_column(_NUMBER, list(range(len(dataset))))
    rows = rows_for(numbered, tokenizer, args, model.config, name).dataset
    sampler = partial(
        sample_critiques,
        model.to(args.device) if not getattr(model, "is_quantized", False) else model,
        tokenizer,
        temperature=args.temperature,
        top_p=args.top_p,
        max_new_tokens=args.max_completion_length,
        progress="Rows without signal",
    )
    kept = without_too_easy(rows, sampler, k, args.template, args.seed, name)
    return dataset.select(kept[_NUMBER])


def too_easy(
    drawn: Sequence[Sequence[Sample]],
    labels: Sequence[Sequence[float]],
    orders: Sequence[Sequence[int]],
    template: str = "paper",
) -> set[int]:
    """Indices of the rows whose samples are all correct."""
    trajectories: list[Trajectory] = []
    for row, (samples, truth, order) in enumerate(zip(drawn, labels, orders, strict=True)):
        for sample in samples:
            reader = judge_template(template, binary=len(truth) == 1)
            critique = read_sample(sample, len(truth), reader).in_row_order(order)
            trajectories.append(Trajectory(row, critique.scores, truth))
    outcomes: Sequence[Any] = select_trajectories(trajectories).outcomes
    rows = [row for row, samples in enumerate(drawn) for _ in samples]
    return {row for row, outcome in zip(rows, outcomes, strict=True) if outcome is Outcome.TOO_EASY}
