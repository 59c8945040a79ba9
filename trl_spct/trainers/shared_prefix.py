# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Log-probabilities of a group's completions in one forward pass, where GRPO makes G (paper, section 5).

The tokens of a batch are packed into one row, in which every prompt occurs once and its completions follow. A
registered attention function lets the prompt see itself, and each completion see the prompt and itself. All other
layers work token by token, so that log-probabilities and gradients are those of the unpacked batch.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from ..judge.shared_prompts import can_share

SHARED_PREFIX = "spct_shared_prefix"
"""Name of the attention function in [`~transformers.AttentionInterface`]."""

INNER_IMPLEMENTATIONS = ("sdpa", "eager")


@dataclass(frozen=True)
class Group:
    """A part of a packed row: a prefix, then `completions` segments of `length` tokens each."""

    prefix: int
    completions: int
    length: int

    @property
    def num_tokens(self) -> int:
        return self.prefix + self.completions * self.length

    @property
    def num_pairs(self) -> int:
        """Pairs of a token and one that it attends to, as computed: half of the prefix's, all of a segment's."""
        return self.prefix**2 // 2 + self.completions * self.length * (self.prefix + self.length)


@dataclass
class Layout:
    """The groups of a packed row and the model's attention implementation, for all layers of one pass."""

    groups: Sequence[Group]
    inner: str
    calls: int = 0
    _masks: dict = field(default_factory=dict, repr=False)

    def mask(self, group: Group, of_prefix: bool, window: int | None, query: torch.Tensor) -> torch.Tensor | None:
        """Mask of a prefix, or of a segment behind it, of shape `(1, 1, queries, keys)`; `None` if none is needed.

        Boolean for `"sdpa"`, added to the scores for `"eager"`.
        """
        keys = group.prefix if of_prefix else group.prefix + group.length
        queries = group.prefix if of_prefix else group.length
        window = None if window is None or window >= keys else window
        if self.inner == "sdpa" and window is None and queries == keys:
            return None  # which it reads as causal
        key = (queries, keys, window, query.dtype, query.device)
        if key not in self._masks:
            places = torch.arange(keys, device=query.device)
            distance = places[keys - queries :, None] - places
            mask = (distance >= 0) & (distance < (keys if window is None else window))
            if self.inner == "eager":
                lowest = torch.finfo(query.dtype).min
                mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)
            self._masks[key] = mask[None, None]
        return self._masks[key]


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
    """Attention of a packed row, of shape `(1, tokens, heads, head_dim)`, by the layout in place of the mask."""
    if shared_prefix is None:
        raise RuntimeError(
            f"Found no layout in the call of the attention implementation {SHARED_PREFIX!r}, which serves "
            "`SPCTTrainer` alone; expected another one, see `model.set_attn_implementation`."
        )
    shared_prefix.calls += 1
    if shared_prefix.inner == "eager":
        attend = sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
    else:
        attend = AttentionInterface()[shared_prefix.inner]
    sizes = [size for g in shared_prefix.groups for size in (g.prefix, g.completions * g.length)]
    parts = iter(zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True))
    outputs = []
    for group in shared_prefix.groups:
        prefix, segments = next(parts), next(parts)
        if group.prefix:
            mask = shared_prefix.mask(group, True, sliding_window, query)
            outputs.append(attend(module, *prefix, mask, sliding_window=sliding_window, **kwargs)[0])
        # (1, heads, completions * length, d) to (completions, heads, length, d), keys and values behind the prefix's
        shape = (group.completions, group.length)
        queries, keys, values = (states[0].unflatten(1, shape).transpose(0, 1) for states in segments)
        if group.prefix:
            shared = (states.expand(group.completions, -1, -1, -1) for states in prefix[1:])
            keys, values = (torch.cat(pair, dim=2) for pair in zip(shared, (keys, values), strict=True))
        mask = shared_prefix.mask(group, False, sliding_window, query)
        output = attend(module, queries, keys, values, mask, sliding_window=sliding_window, **kwargs)[0]
        outputs.append(output.reshape(1, -1, *output.shape[2:]))
    return torch.cat(outputs, dim=1), None


@contextmanager
def attending(config: PreTrainedConfig) -> Iterator[str]:
    """In it, the model of a configuration uses [`shared_prefix_attention`]. Yields its own implementation."""
    inner = config._attn_implementation
    config._attn_implementation = SHARED_PREFIX
    try:
        yield inner
    finally:
        config._attn_implementation = inner


def sharing_obstacle(model: PreTrainedModel, packed: bool = False) -> str | None:
    """Why completions cannot continue one reading of a prompt, or with `packed` one packed row; `None` if they can."""
    implementation, name = model.config._attn_implementation, type(model).__name__
    if packed and implementation not in INNER_IMPLEMENTATIONS:
        return f"the attention implementation {implementation!r} is not one of {', '.join(INNER_IMPLEMENTATIONS)}"
    if packed and not model._supports_attention_backend:
        return f"{name} does not call transformers' attention interface"
    if model.config.get_text_config() is not model.config:
        return f"{name} is not a language model alone"
    return None if can_share(model.config) else f"{name} has layers that are no plain attention"


@dataclass(frozen=True)
class PackedRow:
    """Some sequences of a batch as one row: `rows` and `columns` say which token of the batch each token is.

    `scored` says whether the next token of the sequence is a completion's.
    """

    groups: tuple[Group, ...]
    rows: torch.Tensor
    columns: torch.Tensor
    scored: torch.Tensor


def pack(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, batch_size: int | None = None
) -> list[PackedRow]:
    """Packs a batch of prompts, padded on the left, and completions, padded on the right to `logits_to_keep` tokens.

    Rows with equal prompts form a group. A packed row holds as many groups as have at most the tokens of `batch_size`
    rows of the batch, and at least one; all groups without it.
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
    """Operations to read packed rows, as a share of those for the batch itself.

    A layer takes 24 h² for a token and 4 h for a pair of tokens that attend. A batch without padding is read causally,
    which computes half of its pairs; a segment needs a mask, and with it all of them.
    """
    rows, length = attention_mask.shape
    pairs = rows * length**2 // (2 if attention_mask.all() else 1)
    groups = [group for row in packed for group in row.groups]
    work = sum(group.num_tokens + group.num_pairs / (6 * hidden_size) for group in groups)
    return work / (rows * length + pairs / (6 * hidden_size))


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
    groups, *places = zip(*pieces, strict=True)
    rows, columns = map(np.concatenate, places)
    ahead = np.minimum(columns + 1, mask.shape[1] - 1)
    scored = (columns + 1 >= width) & (columns + 1 < mask.shape[1]) & mask[rows, ahead]
    return PackedRow(groups, *(torch.from_numpy(x).to(device) for x in (rows, columns, scored)))


def packed_log_probs(
    model: torch.nn.Module,
    causal_lm: PreTrainedModel,
    inner: str,
    packed: PackedRow,
    input_ids: torch.Tensor,
    logits_to_keep: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities of the completions of a packed row, and entropies if the model's head computes them.

    Both have the shape `(batch, logits_to_keep)`, and are zero where the packed row scores no token. The model has
    TRL's fused LM head and wraps `causal_lm`, whose configuration is under [`attending`], which has yielded `inner`.
    """
    layout = Layout(packed.groups, inner)
    scored, targets = packed.scored, (packed.columns + 1).clamp(max=input_ids.shape[1] - 1)

    def select(module, args, output):  # without Triton, TRL's LM head reads tokens without a label, too
        output.last_hidden_state = output.last_hidden_state[:, scored]
        return output

    with causal_lm.base_model.register_forward_hook(select):
        outputs = model(
            input_ids=input_ids[packed.rows, packed.columns].unsqueeze(0),
            position_ids=packed.columns.unsqueeze(0),  # as in the batch, whose positions count the padding
            shift_labels=input_ids[packed.rows, targets][scored].unsqueeze(0),
            fused_lm_head=True,
            shared_prefix=layout,
        )
    if layout.calls != (layers := causal_lm.config.num_hidden_layers):
        raise UnusedLayout(f"{layout.calls} of {layers} layers read the layout of the packed row")
    places = packed.rows[scored], targets[scored] - input_ids.shape[1] + logits_to_keep
    log_probs, entropy = (
        None if x is None else x.new_zeros(len(input_ids), logits_to_keep).index_put(places, x[0])
        for x in (outputs.log_probs, outputs.entropy)
    )
    assert log_probs is not None  # there are labels
    return log_probs, entropy


class UnusedLayout(RuntimeError):
    """A model that does not pass the layout of a packed row to all of its attention layers."""


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
