# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Replacement of groups whose rewards are all equal, and which therefore have no advantages (not in the paper).

As in the dynamic sampling of DAPO (arXiv 2503.14476, section 3.2), other prompts are sampled in their place.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from trl.trainer.utils import pad

from ..judge.orders import derive_seed


# What a batch of `GRPOTrainer` holds for each completion: the side on which it is padded, and the value.
PADDING: dict[str, tuple[str, float | None]] = {
    "prompt_ids": ("left", None),  # the tokenizer's
    "prompt_mask": ("left", 0),
    "completion_ids": ("right", None),
    "completion_mask": ("right", 0),
    "tool_mask": ("right", 1),
    "old_per_token_logps": ("right", 0.0),
    "ref_per_token_logps": ("right", 0.0),
    "sampling_per_token_logps": ("right", 0.0),
    "importance_sampling_ratio": ("right", 1.0),
}


class Refilled(NamedTuple):
    """This process's batch, how many groups were replaced on all processes, and how often groups were drawn."""

    batch: dict[str, torch.Tensor]
    replaced: int
    rounds: int


def refill(
    batch: dict[str, torch.Tensor],
    rows: Sequence[Mapping[str, Any]],
    dataset: Dataset,
    score: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]],
    accelerator: Accelerator,
    *,
    rounds: int,
    num_generations: int,
    pad_token_id: int,
    seed: int,
) -> Refilled:
    """Replaces the groups of a batch that have no advantages by groups of other rows that have.

    Which rows are drawn follows from the seed and the rows of the batch alone, so that a resumed run repeats it.

    Args:
        batch (`dict` of tensors): Of this process, whose groups are whole.
        rows (sequence of rows): Of the batch, one per completion.
        dataset ([`~datasets.Dataset`]): Source of other rows. No prompt is drawn that the batch has, or twice.
        score (`Callable`): Makes such a batch of rows, one per completion; all processes call it equally often.
        rounds (`int`): How often groups may be drawn.
        seed (`int`): Another one for each step.
    """
    keys = sorted(gather_object([_key(row) for row in rows[::num_generations]]))
    others = other_rows(dataset, keys, derive_seed(seed, *keys))
    lacking = _groups(batch, num_generations, signal=False)
    counts = first = _gathered(len(lacking), accelerator)
    done = 0
    while done < rounds and max(counts):
        # Scores are gathered over all processes: each of them draws as many groups as the one that lacks most.
        drawn = list(islice(others, max(counts) * accelerator.num_processes))
        width = len(drawn) // accelerator.num_processes
        if not width:
            break
        mine = drawn[accelerator.process_index * width :][:width]
        fresh = score([dict(row) for row in mine for _ in range(num_generations)])
        pairs = list(zip(lacking, _groups(fresh, num_generations, signal=True), strict=False))
        batch = with_groups(batch, fresh, pairs, num_generations, pad_token_id)
        lacking = lacking[len(pairs) :]
        counts = _gathered(len(lacking), accelerator)
        done += 1
    if done:
        scored = batch["completion_mask"] * batch.get("tool_mask", 1)
        batch["num_items_in_batch"] = accelerator.gather(scored.sum()).sum()
    return Refilled(batch, sum(first) - sum(counts), done)


def other_rows(dataset: Dataset, taken: Collection[int], seed: int) -> Iterator[dict[str, Any]]:
    """The rows of a dataset in an order drawn from the seed, each prompt once and none whose key is taken."""
    seen = set(taken)
    generator = torch.Generator().manual_seed(seed % 2**63)
    for index in torch.randperm(len(dataset), generator=generator).tolist():
        row = dataset[index]
        if (key := _key(row)) not in seen:
            seen.add(key)
            yield row


def with_groups(
    batch: Mapping[str, torch.Tensor],
    fresh: Mapping[str, torch.Tensor],
    pairs: Sequence[tuple[int, int]],
    num_generations: int,
    pad_token_id: int,
) -> dict[str, torch.Tensor]:
    """A batch in which group i is group j of another one, for each pair (i, j), padded to the longer of the two."""
    unknown = batch.keys() - {*PADDING, "advantages", "num_items_in_batch"}
    if unknown:
        raise ValueError(
            f"Found a batch with {', '.join(sorted(unknown))}; expected what TRL makes of texts. Groups of it cannot "
            "be replaced: set `refill_groups=0`."
        )
    joined = dict(batch)
    for name in batch.keys() - {"num_items_in_batch"} if pairs else ():
        both = [*batch[name], *fresh[name]]
        if batch[name].ndim > 1:
            side, value = PADDING[name]
            whole = pad(both, padding_value=pad_token_id if value is None else value, padding_side=side)
        else:
            whole = torch.stack(both)
        groups = whole.unflatten(0, (-1, num_generations))
        order = list(range(len(batch[name]) // num_generations))
        for place, source in pairs:
            order[place] = len(order) + source
        joined[name] = groups[order].flatten(0, 1)
    return joined


def _groups(batch: Mapping[str, torch.Tensor], num_generations: int, signal: bool) -> list[int]:
    """The groups whose advantages differ (`signal`), or those whose advantages do not."""
    advantages = batch["advantages"].view(-1, num_generations)
    differ = advantages.amax(dim=1) - advantages.amin(dim=1) > 1e-6
    return (differ == signal).nonzero()[:, 0].tolist()


def _gathered(count: int, accelerator: Accelerator) -> list[int]:
    return accelerator.gather(torch.tensor([count], device=accelerator.device)).tolist()


def _key(row: Mapping[str, Any]) -> int:
    return derive_seed(0, row["prompt"])
