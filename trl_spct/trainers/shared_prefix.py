# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The completions of a group behind their one prompt: one forward pass where GRPO makes G (paper, section 5).

A judge's prompt is long and its critiques are short, and a group shares the prompt. Here the tokens of a batch are
packed into one row, in which every prompt stands once and its completions follow. A registered attention function lets
the prompt see itself, and each completion see the prompt and itself; it calls the model's own attention for both. All
other layers work token by token, so that log-probabilities and gradients are those of the unpacked batch.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from ..judge.shared_prompts import can_share


SHARED_PREFIX = "spct_shared_prefix"
"""Name of the attention function in [`~transformers.AttentionInterface`]."""

INNER_IMPLEMENTATIONS = ("sdpa", "eager")


@dataclass(frozen=True)
class Group:
    """What stands together in a packed row: a prefix, then `completions` segments of `length` tokens each."""

    prefix: int
    completions: int
    length: int

    @property
    def num_tokens(self) -> int:
        return self.prefix + self.completions * self.length

    @property
    def num_pairs(self) -> int:
        """Of a token and one that it attends to, as they are computed: half of the prefix's, all of a segment's."""
        return self.prefix**2 // 2 + self.completions * self.length * (self.prefix + self.length)


@dataclass
class Layout:
    """Where the groups of a packed row stand, and how attention is computed. One object serves all layers of a pass.

    Args:
        groups (sequence of [`Group`]): In the order of the row.
        inner (`str`): The model's own attention implementation, `"sdpa"` or `"eager"`.
    """

    groups: Sequence[Group]
    inner: str
    calls: int = 0
    _masks: dict = field(default_factory=dict, repr=False)

    def mask(self, group: Group, of_prefix: bool, window: int | None, query: torch.Tensor) -> torch.Tensor | None:
        """What the tokens of a prefix, or of one segment behind it, may see; `None` where `"sdpa"` needs no mask.

        Shape `(1, 1, queries, keys)`; boolean for `"sdpa"`, added to the scores for `"eager"`.
        """
        keys = group.prefix if of_prefix else group.prefix + group.length
        queries = group.prefix if of_prefix else group.length
        if window is not None and window >= keys:
            window = None
        if self.inner == "sdpa" and window is None and queries == keys:
            return None  # which it reads as causal
        made = (queries, keys, window, query.dtype, query.device)
        if made not in self._masks:
            visible = _visible(queries, keys, window, query.device)
            if self.inner == "eager":
                lowest = torch.finfo(query.dtype).min
                visible = torch.zeros(visible.shape, dtype=query.dtype, device=query.device).masked_fill(
                    ~visible, lowest
                )
            self._masks[made] = visible[None, None]
        return self._masks[made]


def _visible(queries: int, keys: int, window: int | None, device) -> torch.Tensor:
    """Causal over the last `queries` of `keys` positions, at most `window` positions back, itself included."""
    distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    visible = distance >= 0
    return visible if window is None else visible & (distance < window)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    shared_prefix: Layout | None = None,
    sliding_window: int | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row; called by the layers of a model under [`attending`].

    Args:
        module (`torch.nn.Module`): The attention layer.
        query, key, value (`torch.Tensor` of shape `(1, heads, tokens, head_dim)`): Of the packed row.
        attention_mask (`torch.Tensor`, *optional*): Not used; the layout says who sees whom.
        shared_prefix ([`Layout`]): Passed to the model's forward.
        sliding_window (`int`, *optional*): As the layer passes it.
        **kwargs: For the model's own attention function.

    Returns:
        The attention's output of shape `(1, tokens, heads, head_dim)`, and no weights.
    """
    if shared_prefix is None:
        raise RuntimeError(
            f"Found no layout in the call of the attention implementation {SHARED_PREFIX!r}; it serves "
            "`SPCTTrainer`'s training forward alone. Set another one with `model.set_attn_implementation`."
        )
    shared_prefix.calls += 1
    attend = _inner_attention(module, shared_prefix.inner)
    sizes = [size for g in shared_prefix.groups for size in (g.prefix, g.completions * g.length)]
    parts = iter(zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True))
    outputs = []
    for group in shared_prefix.groups:
        prefix, segments = next(parts), next(parts)
        if group.prefix:
            mask = shared_prefix.mask(group, True, sliding_window, query)
            outputs.append(attend(module, *prefix, mask, sliding_window=sliding_window, **kwargs)[0])
        own_query, own_key, own_value = (_rows(states, group) for states in segments)
        own_key = _behind(prefix[1], own_key)
        own_value = _behind(prefix[2], own_value)
        mask = shared_prefix.mask(group, False, sliding_window, query)
        output = attend(module, own_query, own_key, own_value, mask, sliding_window=sliding_window, **kwargs)[0]
        outputs.append(output.reshape(1, -1, *output.shape[2:]))
    return torch.cat(outputs, dim=1), None


def _rows(states: torch.Tensor, group: Group) -> torch.Tensor:
    """(1, heads, completions * length, d) → (completions, heads, length, d)."""
    return states[0].unflatten(1, (group.completions, group.length)).transpose(0, 1)


def _behind(prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=2) if prefix.shape[2] else own


def _inner_attention(module: torch.nn.Module, implementation: str) -> Callable:
    own: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return own if implementation == "eager" else AttentionInterface()[implementation]


@contextmanager
def attending(config: PreTrainedConfig) -> Iterator[None]:
    """Lets the model of a configuration use [`shared_prefix_attention`], and afterwards its own again."""
    before = config._attn_implementation
    config._attn_implementation = SHARED_PREFIX
    try:
        yield
    finally:
        config._attn_implementation = before


def packing_obstacle(model: PreTrainedModel) -> str | None:
    """Why a model cannot read a packed row, or `None` if it can."""
    implementation = model.config._attn_implementation
    if implementation not in INNER_IMPLEMENTATIONS:
        return f"the attention implementation {implementation!r} is not one of {', '.join(INNER_IMPLEMENTATIONS)}"
    if not model._supports_attention_backend:
        return f"{type(model).__name__} does not call transformers' attention interface"
    return prefix_obstacle(model)


def prefix_obstacle(model: PreTrainedModel) -> str | None:
    """Why several completions cannot go on from one reading of a prompt, or `None` if they can."""
    if model.config.get_text_config() is not model.config:
        return f"{type(model).__name__} is not a language model alone"
    if getattr(model.config, "is_encoder_decoder", False) or not can_share(model.config):
        return f"{type(model).__name__} has layers that are no plain attention"
    return None


@dataclass(frozen=True)
class PackedRow:
    """Some sequences of a batch as one row.

    Args:
        groups (tuple of [`Group`]): Where they stand.
        rows, columns (`torch.Tensor` of shape `(tokens,)`): Which token of the batch each token is.
        scored (`torch.Tensor` of shape `(tokens,)`):
            Whether the next token of the sequence is a completion's, so that its log-probability is asked for.
    """

    groups: tuple[Group, ...]
    rows: torch.Tensor
    columns: torch.Tensor
    scored: torch.Tensor

    @property
    def num_tokens(self) -> int:
        return len(self.rows)


def pack(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, batch_size: int | None = None
) -> list[PackedRow]:
    """Packs a batch of prompts, padded on the left, and completions, padded on the right.

    Rows with equal prompts form a group, wherever they stand.

    Args:
        input_ids, attention_mask (`torch.Tensor` of shape `(batch, length)`): The batch.
        logits_to_keep (`int`): Width of the completions.
        batch_size (`int`, *optional*):
            A packed row holds as many groups as have at most the tokens of that many rows of the batch, and at least
            one; all groups if not given.

    Returns:
        `list[PackedRow]`: the packed rows; together they hold every sequence once.
    """
    mask = attention_mask.bool().cpu().numpy()
    ids = np.where(mask, input_ids.cpu().numpy(), -1)
    width = ids.shape[1] - logits_to_keep
    members: dict[bytes, list[int]] = {}
    for row, prompt in enumerate(ids[:, :width]):
        members.setdefault(prompt.tobytes(), []).append(row)
    budget = float("inf") if batch_size is None else batch_size * ids.shape[1]
    packed: list[list] = [[]]
    tokens = 0
    for rows in members.values():
        piece = _piece(rows, mask, width)
        if packed[-1] and tokens + piece[0].num_tokens > budget:
            packed.append([])
            tokens = 0
        packed[-1].append(piece)
        tokens += piece[0].num_tokens
    return [_joined(pieces, mask, width, input_ids.device) for pieces in packed]


def relative_work(packed: Sequence[PackedRow], attention_mask: torch.Tensor, hidden_size: int) -> float:
    """What packed rows cost to read, as a share of what the batch itself costs.

    By the usual estimate of a transformer's operations: for each layer 24 h² for a token and 4 h for a pair of tokens
    of which one attends to the other. A batch without padding is read causally, which computes half of its pairs; a
    segment needs a mask, and with it all of them, so that short prompts with long completions do not gain.
    """
    rows, length = attention_mask.shape
    pairs = rows * length**2 // (2 if attention_mask.all() else 1)
    groups = [group for row in packed for group in row.groups]
    own = sum(group.num_tokens + group.num_pairs / (6 * hidden_size) for group in groups)
    return own / (rows * length + pairs / (6 * hidden_size))


def _piece(rows: Sequence[int], mask: np.ndarray, width: int) -> tuple[Group, np.ndarray, np.ndarray]:
    """A group and its tokens. A segment begins with the prompt's last token, which is scored for each completion."""
    first = width - int(mask[rows[0], :width].sum())
    end = width + int(mask[rows, width:].sum(axis=1).max())
    start = first if len(rows) == 1 else width - 1
    prefix, segment = np.arange(first, start), np.arange(start, end)
    columns = np.concatenate([prefix, *[segment] * len(rows)])
    owners = np.concatenate([np.full(len(prefix), rows[0]), np.repeat(rows, len(segment))])
    return Group(len(prefix), len(rows), len(segment)), owners, columns


def _joined(pieces: Sequence[tuple], mask: np.ndarray, width: int, device) -> PackedRow:
    rows = np.concatenate([owners for _, owners, _ in pieces])
    columns = np.concatenate([columns for _, _, columns in pieces])
    ahead = np.minimum(columns + 1, mask.shape[1] - 1)
    scored = (columns + 1 >= width) & (columns + 1 < mask.shape[1]) & mask[rows, ahead]
    return PackedRow(
        tuple(group for group, _, _ in pieces), *(torch.from_numpy(x).to(device) for x in (rows, columns, scored))
    )


def packed_log_probs(
    model: torch.nn.Module,
    config: PreTrainedConfig,
    inner: str,
    packed: PackedRow,
    input_ids: torch.Tensor,
    logits_to_keep: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities, and entropies if the model's head computes them, of the completions of a packed row.

    Args:
        model (`torch.nn.Module`): With TRL's fused LM head, possibly wrapped; its config under [`attending`].
        config ([`~transformers.PreTrainedConfig`]): Of the model.
        inner (`str`): The model's own attention implementation.
        packed ([`PackedRow`]): Of the batch.
        input_ids (`torch.Tensor` of shape `(batch, length)`): The batch.
        logits_to_keep (`int`): Width of the completions.

    Returns:
        Two tensors of shape `(batch, logits_to_keep)`, zero for sequences and tokens that are not in the packed row.
    """
    layout = Layout(packed.groups, inner)
    width = input_ids.shape[1] - logits_to_keep
    targets = (packed.columns + 1).clamp(max=input_ids.shape[1] - 1)
    labels = input_ids[packed.rows, targets].masked_fill(~packed.scored, -100)
    outputs = model(
        input_ids=input_ids[packed.rows, packed.columns].unsqueeze(0),
        position_ids=packed.columns.unsqueeze(0),  # as in the batch, whose positions count the padding
        shift_labels=labels.unsqueeze(0),
        fused_lm_head=True,
        shared_prefix=layout,
    )
    if layout.calls != config.num_hidden_layers:
        raise UnusedLayout(f"{layout.calls} of {config.num_hidden_layers} layers read the layout of the packed row")
    places = packed.rows[packed.scored], targets[packed.scored] - width
    log_probs, entropy = (
        None if x is None else _placed(x[0, packed.scored], places, input_ids, logits_to_keep)
        for x in (outputs.log_probs, outputs.entropy)
    )
    assert log_probs is not None  # there are labels
    return log_probs, entropy


class UnusedLayout(RuntimeError):
    """A model that does not hand the layout of a packed row to all of its attention layers."""


def _placed(values: torch.Tensor, places: tuple, input_ids: torch.Tensor, width: int) -> torch.Tensor:
    return values.new_zeros(len(input_ids), width).index_put(places, values)


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
