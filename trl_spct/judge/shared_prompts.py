# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Prefill of prompts that reads what they share once: a template's head, a conversation before its responses.

Rows of token ids that begin alike form a tree. Its shared beginnings are prefilled from the root on, one forward pass
per level, and rows continue from the keys and values of their beginnings. Rows are right-aligned, so that positions,
causal masks and sliding windows are those of plain left-padded rows.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from .compat import CACHE
from .costs import spend

Tokens = Sequence[int]
MOST_LEVELS = 3
LEAST_SHARED = 16  # Tokens that a shared beginning must add to the one before it
FORWARD_PASS = 256  # Token positions that must be saved for one more forward pass


def common_length(a: Tokens, b: Tokens) -> int:
    """How many tokens two rows share at their beginning."""
    return bisect_left(range(min(len(a), len(b))), True, key=lambda i: a[: i + 1] != b[: i + 1])


def shared_lengths(rows: Sequence[Tokens]) -> list[tuple[int, ...]]:
    """For each row the lengths, ascending, of what it begins with and others begin with too."""
    order = sorted(range(len(rows)), key=rows.__getitem__)  # type: ignore[arg-type]  # lists or tuples
    common = [common_length(rows[a], rows[b]) for a, b in pairwise(order)]
    lengths: list[list[int]] = [[] for _ in rows]
    spans = [(0, len(order), 0, 0)]
    while spans:
        first, end, above, level = spans.pop()
        cuts = [i + 1 for i in range(first, end - 1) if common[i] < above + LEAST_SHARED]
        for a, b in pairwise([first, *cuts, end]):
            if b - a < 2:
                continue
            shared = min(common[a : b - 1])
            for i in order[a:b]:
                lengths[i].append(shared)
            if level + 1 < MOST_LEVELS:
                spans.append((a, b, shared, level + 1))
    return [tuple(row) for row in lengths]


def families(
    rows: Sequence[Tokens], shared: Sequence[tuple[int, ...]], sizes: Sequence[int], batch_size: int
) -> list[tuple[int, list[int]]]:
    """Rows whose common beginning serves more than one batch, as (its length, their numbers); length 0: the others.

    Each row takes a number of the `batch_size` places in a batch (`sizes`). Within a family, rows that begin alike are
    neighbors, the shorter first.
    """
    totals: Counter[tuple[int, ...]] = Counter()
    for row, lengths, size in zip(rows, shared, sizes, strict=True):
        for length in lengths:
            totals[tuple(row[:length])] += size
    members: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        large = [length for length in shared[i] if totals[tuple(row[:length])] > batch_size]
        members.setdefault(tuple(row[: max(large, default=0)]), []).append(i)
    return [(len(beginning), _neighbors(rows, shared, numbers)) for beginning, numbers in members.items()]


def _neighbors(rows: Sequence[Tokens], shared: Sequence[tuple[int, ...]], numbers: list[int]) -> list[int]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in numbers:
        groups.setdefault(tuple(rows[i][: max(shared[i], default=len(rows[i]))]), []).append(i)
    for group in groups.values():
        group.sort(key=lambda i: len(rows[i]))
    return [i for group in sorted(groups.values(), key=lambda group: len(rows[group[-1]])) for i in group]


def levels(rows: Sequence[Tokens], shared: Sequence[tuple[int, ...]], root: int = 0) -> list[list[int]]:
    """Lengths of the beginnings to prefill before the rows, beyond `root`: for each forward pass, one per row. As many
    passes as compute the fewest token positions, padding included."""
    paths = [[length for length in lengths if length > root] for lengths in shared]
    # A row that shares nothing more takes part with one token, since no row of a pass may be empty.
    least = [max(root, min(1, len(row))) for row in rows]
    steps = [
        [path[min(level, len(path) - 1)] if path else low for path, low in zip(paths, least, strict=True)]
        for level in range(max(map(len, paths), default=0))
    ]
    costs, spent = [], 0
    for above, below in pairwise([[root] * len(rows), *steps, []]):
        last = len(rows) * max((len(row) - length for row, length in zip(rows, above, strict=True)), default=0)
        costs.append(spent + last)
        beginnings = {tuple(row[:length]) for row, length in zip(rows, below, strict=False)}
        widest = max((b - a for a, b in zip(above, below, strict=False)), default=0)
        spent += FORWARD_PASS + len(beginnings) * widest
    return steps[: costs.index(min(costs))]


def can_share(config: PreTrainedConfig) -> bool:
    """Whether every layer is plain attention, causal over all tokens or over a sliding window, so that keys and values
    may be copied from row to row. Recurrent, chunked and indexed layers keep other states."""
    text = config.get_text_config(decoder=True)
    if getattr(text, "attention_chunk_size", None) is not None or not getattr(text, "is_causal", True):
        return False
    if getattr(text, "num_kv_shared_layers", None):  # whose layers read what others keep
        return False
    layers = DynamicCache(config=text).layers
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


@dataclass(frozen=True)
class Prefill:
    """Keys and values of rows that a model has read, per layer and each of shape `(rows, heads, columns, dim)`.

    `lengths` are the tokens of each row; the columns before them are padding.
    """

    lengths: list[int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]

    @property
    def columns(self) -> int:
        return self.layers[0][0].shape[-2]


class ContinuedLayer(DynamicLayer):
    """Continues rows of another cache, any number from each, which are copied in `update`, one layer at a time.

    `keys` and `values` have shape `(parents, heads, columns, dim)`. `owners` has the parent of each row, and `places`,
    of shape `(rows, cached)`, the parent's column for each column. With `keep`, the copies outlive `update`.
    """

    def __init__(self, keys, values, owners: torch.Tensor, places: torch.Tensor, keep: bool):
        super().__init__()
        self.parents = (keys, values)
        self.owners, self.places, self.keep = owners, places, keep
        self.added = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        keys, values = (self._continued(*pair) for pair in zip(self.parents, (key_states, value_states), strict=True))
        self.added = key_states.shape[-2]
        if self.keep:
            self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values

    def _continued(self, parents: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        owners, places = self.owners.to(parents.device), self.places.to(parents.device)
        return torch.cat([parents[owners[:, None], :, places].transpose(1, 2), states], dim=-2)

    def get_seq_length(self) -> int:
        return self.places.shape[1] + self.added


class PrefixReader:
    """Reads rows of token ids, each shared beginning once, with a decoder for which [`can_share`] holds; `options` are
    for every forward pass, and `purpose` names the field of [`~trl_spct.judge.costs.Cost`] that counts the tokens."""

    def __init__(self, model: PreTrainedModel, pad_token_id: int, purpose: str = "read", **options):
        self.model, self.pad_token_id, self.purpose, self.options = model, pad_token_id, purpose, options

    def read(
        self, rows: Sequence[Tokens], shared: Sequence[tuple[int, ...]], root: Prefill | None = None, keep: bool = True
    ):
        """Returns the model's output for the last tokens of all rows, and their [`Prefill`] (`None` without `keep`).
        The rows have at least one token in all, and begin with `root`, a prefill of one row; `shared` is from
        [`shared_lengths`]."""
        above, owners = root, [0] * len(rows)
        for lengths in levels(rows, shared, root.lengths[0] if root else 0):
            beginnings = [tuple(row[:length]) for row, length in zip(rows, lengths, strict=True)]
            parents = dict(zip(beginnings, owners, strict=True))
            _, above = self._forward(above, list(parents.values()), list(parents), keep=True)
            numbers = {beginning: number for number, beginning in enumerate(parents)}
            owners = [numbers[beginning] for beginning in beginnings]
        return self._forward(above, owners, rows, keep)

    def _forward(self, above: Prefill | None, owners: list[int], rows: Sequence[Tokens], keep: bool):
        """One forward pass over the columns in which some row continues its parent."""
        known = [above.lengths[owner] if above else 0 for owner in owners]
        spend(**{self.purpose: sum(map(len, rows)) - sum(known)})
        longest = max(map(len, rows))
        cached = longest - max(1, *(len(row) - length for row, length in zip(rows, known, strict=True)))
        input_ids, mask = left_padded(rows, self.pad_token_id, self.model.device)
        cache = self._cache(above, owners, [len(row) for row in rows], cached, keep)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, cached:]
        inputs = {"input_ids": input_ids[:, cached:], "attention_mask": mask, "position_ids": positions, CACHE: cache}
        outputs = self.model(**inputs, use_cache=True, **self.options)
        if not keep:
            return outputs, None
        return outputs, Prefill([len(row) for row in rows], [(layer.keys, layer.values) for layer in cache.layers])

    def _cache(self, above: Prefill | None, owners: list[int], lengths: list[int], cached: int, keep: bool):
        cache = DynamicCache()  # without a config: windows are left to the masks, and no layer forgets
        if not cached or above is None:
            return cache
        # Token t of a row is in column `longest - length + t`, of its parent in `parent columns - known + t`.
        shifts = [
            above.columns - above.lengths[owner] - (max(lengths) - length)
            for owner, length in zip(owners, lengths, strict=True)
        ]
        places = torch.arange(cached) + torch.tensor(shifts)[:, None]
        places = places.clamp(0, above.columns - 1).to(self.model.device)  # padding is masked
        parents = torch.tensor(owners, device=self.model.device)
        cache.layers = [ContinuedLayer(keys, values, parents, places, keep) for keys, values in above.layers]
        return cache


def left_padded(rows: Sequence[Tokens], pad_token_id: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and their attention mask, both of shape (rows, longest)."""
    longest = max(map(len, rows))
    padding = [longest - len(ids) for ids in rows]
    input_ids = [[pad_token_id] * pad + [*ids] for pad, ids in zip(padding, rows, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
    return torch.tensor(input_ids, dtype=torch.long).to(device), torch.tensor(mask, dtype=torch.long).to(device)
