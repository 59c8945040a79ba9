# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""A cache and an attention function with which the samples of a prompt share its keys and values.

The cache holds one row per prompt, apart from what the samples have written. Attention is a softmax in two parts: over
the prompt for all of its samples in one matrix product, and over the tokens of each sample. Where a model's attention
cannot be replaced, the prompts are copied for each sample.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

from .shared_prompts import Prefill

SHARED_DECODING = "spct_shared_decoding"
"""Name of the attention function in [`~transformers.AttentionInterface`]."""

_GROWTH = 128  # Columns that a full buffer gains
_WORTH_SHARING = 2**28  # Bytes that copies of the prompts would take per layer
_UNKNOWN = ("s_aux", "sinks", "position_bias", "indices", "block_indices")  # arguments of other kinds of attention


class NotShareableError(NotImplementedError):
    """An attention that looks at more than queries, keys, values and a mask."""


class PromptLayer(DynamicLayer):
    """What samples have written, in buffers with room for more, and apart from it the prompts: `keys` and `values` of
    shape `(prompts, heads, columns, dim)`. With a sliding `window`, the columns that no sample can see are dropped.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, window: int | None = None):
        super().__init__()
        self.is_sliding = window is not None
        self.offset = max(0, keys.shape[-2] - window + 1) if window else 0
        self.prompts = [states[:, :, self.offset :].contiguous() for states in (keys, values)]
        self.expanded: tuple[torch.Tensor, torch.Tensor] | None = None
        self.written, self._room = 0, 0
        self._buffers: list[torch.Tensor] = []

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        start, self.written = self.written, self.written + key_states.shape[-2]
        states = (key_states, value_states)
        if self.written > self._room:
            self._room = self.written + _GROWTH
            buffers = [new.new_empty(*new.shape[:-2], self._room, new.shape[-1]) for new in states]
            for buffer, full in zip(buffers, self._buffers, strict=False):  # there are none at first
                buffer[:, :, :start] = full[:, :, :start]
            self._buffers = buffers
        for buffer, new in zip(self._buffers, states, strict=True):
            buffer[:, :, start : self.written] = new
        return tuple(buffer[:, :, : self.written] for buffer in self._buffers)

    @property
    def prompt_columns(self) -> int:
        return self.prompts[0].shape[-2]

    def get_seq_length(self) -> int:
        return self.offset + self.prompt_columns + self.written

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() - self.offset + query_length, self.offset

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self._buffers = [states[beam_idx.to(states.device)] for states in self._buffers]

    def copy_prompts(self, owners: torch.Tensor) -> None:
        """Puts a copy of its prompt before what each sample will write."""
        keys, values = (states[owners.to(states.device)] for states in self.prompts)
        self.prompts = [keys[:, :, :0], values[:, :, :0]]
        self.update(keys, values)

    def prompts_for(self, module: Any, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as the attention `module` reads them. Latent attention (DeepSeek's) expands latents at each
        step; those of the prompts are expanded once if that takes no more memory than a copy for each sample."""
        if not hasattr(module, "expand_kv"):
            return self.prompts[0], self.prompts[1]
        if self.expanded is not None:
            return self.expanded
        expanded = module.expand_kv(*self.prompts)
        sizes = [sum(states.numel() for states in pair) for pair in (expanded, self.prompts)]
        if sizes[0] * len(self.prompts[0]) <= sizes[1] * samples:
            self.expanded = expanded
        return expanded


class PromptCache(DynamicCache):
    """A cache of samples that continue prompts: `owners` has the prompt of each sample."""

    def __init__(self, prefill: Prefill, owners: list[int], config: PreTrainedConfig):
        super().__init__()
        layers = DynamicCache(config=config.get_text_config()).layers
        self.layers = [
            PromptLayer(*states, getattr(layer, "sliding_window", None))
            for states, layer in zip(prefill.layers, layers, strict=True)
        ]
        self._set_owners(owners)

    def _set_owners(self, owners: list[int]) -> None:
        # On the device of the prompts: copying an index there for each layer and token would wait for it every time.
        device = self.layers[0].prompts[0].device
        samples: list[list[int]] = [[] for _ in range(max(owners) + 1)]
        for row, owner in enumerate(owners):
            samples[owner].append(row)
        self.largest = max(map(len, samples))
        self.owners = owners
        self.first = torch.tensor([rows[0] for rows in samples], device=device)
        self.regular = owners == [prompt for prompt in range(len(samples)) for _ in range(self.largest)]
        # Prompts with fewer samples fill their places with their first one again.
        self.table = torch.tensor([rows + rows[:1] * (self.largest - len(rows)) for rows in samples], device=device)
        place = {row: prompt * self.largest + i for prompt, rows in enumerate(samples) for i, row in enumerate(rows)}
        self.places = torch.tensor([place[row] for row in range(len(owners))], device=device)
        self._biases: list[tuple[torch.Tensor, tuple]] = []

    def copy_prompts(self) -> "PromptCache":
        """For models whose attention cannot be replaced."""
        for layer in self.layers:
            layer.copy_prompts(torch.tensor(self.owners))
        return self

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Selects samples; prompts that are left without any are dropped."""
        super().reorder_cache(beam_idx)
        owners = [self.owners[row] for row in beam_idx.tolist()]
        kept = {owner: number for number, owner in enumerate(sorted(set(owners)))}
        if len(kept) < len(self.first) and self.layers[0].prompt_columns:
            numbers = torch.tensor([*kept])
            for layer in self.layers:
                layer.prompts = [states[numbers.to(states.device)] for states in layer.prompts]
                layer.expanded = None
        self._set_owners([kept[owner] for owner in owners])

    def by_prompt(self, rows: torch.Tensor) -> torch.Tensor:
        """(samples, …) to (prompts, largest number of samples, …)."""
        return rows.unflatten(0, (-1, self.largest)) if self.regular else rows[self.table.to(rows.device)]

    def by_sample(self, grouped: torch.Tensor) -> torch.Tensor:
        """The inverse of [`by_prompt`]."""
        rows = grouped.flatten(0, 1)
        return rows if self.regular else rows[self.places.to(rows.device)]

    def biases(self, mask: torch.Tensor, layer: PromptLayer, dtype: torch.dtype) -> tuple:
        """Numbers to add to scores, which hide the padding of prompts and the columns outside of a window: for the
        prompts, and for the tokens of the samples (`None` without a window). Made once per token: layers share masks.
        """
        for known, biases in self._biases:
            if known is mask:
                return biases

        def hiding(part: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(part, dtype=dtype).masked_fill_(~part, torch.finfo(dtype).min)

        columns = layer.prompt_columns
        prompts = hiding(mask[self.first.to(mask.device), ..., :columns])
        biases = (prompts, hiding(mask[..., columns:]) if layer.is_sliding else None)
        self._biases = [*self._biases[-1:], (mask, biases)]
        return biases


_cache: ContextVar[PromptCache] = ContextVar("spct_prompt_cache")


def attend(
    module, query: torch.Tensor, key, value, attention_mask: torch.Tensor | None, scaling=None, softcap=None, **kwargs
) -> tuple[torch.Tensor, None]:
    """Attention of one new token per sample to its prompt and to its own text, as an `AttentionInterface` function.

    `query` has shape `(samples, query heads, 1, dim)`, `key` and `value` `(samples, heads, own tokens, dim)`, and the
    boolean mask `(samples, 1, 1, prompt columns + own tokens)`. Raises [`NotShareableError`] for other attentions.
    """
    cache = _cache.get()
    layer = cache.layers[module.layer_idx]
    prompt_keys, prompt_values = layer.prompts_for(module, len(query))
    odd = [name for name in _UNKNOWN if kwargs.get(name) is not None]
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        odd.append("a mask of its own")
    if odd or prompt_keys.shape[1] != key.shape[1] or query.shape[2] != 1:
        raise NotShareableError(f"Found {type(module).__name__}, given {odd or 'states of another shape'}.")
    heads = key.shape[1]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query = query.squeeze(2).unflatten(1, (heads, -1)) * scaling  # (samples, heads, queries per head, dim)
    together = cache.by_prompt(query).transpose(1, 2)  # (prompts, heads, samples, queries per head, dim)
    bias = own_bias = None
    if attention_mask is not None:
        bias, own_bias = cache.biases(attention_mask, layer, torch.promote_types(query.dtype, torch.float32))
    parts = _attend_part(together.flatten(2, 3), prompt_keys, prompt_values, bias, softcap)
    shared = [cache.by_sample(part.unflatten(2, together.shape[2:4]).transpose(1, 2)) for part in parts]
    own = _attend_part(query, key, value, own_bias, softcap)
    # By the share of the prompt in all weights
    joined = torch.lerp(own[0], shared[0], torch.sigmoid(shared[1] - own[1]))
    return joined.flatten(1, 2).unsqueeze(1).to(value.dtype), None


def _attend_part(query, key, value, bias, softcap) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted mean of the values, and the logarithm of the sum of all weights, before they are normalized."""
    scores = query @ key.transpose(-1, -2)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores += bias
    weights = scores.softmax(dim=-1)
    total = scores.amax(dim=-1, keepdim=True) - weights.amax(dim=-1, keepdim=True).log()
    return (weights.to(value.dtype) @ value).to(total.dtype), total


AttentionInterface.register(SHARED_DECODING, attend)
AttentionMaskInterface.register(SHARED_DECODING, sdpa_mask)


def can_decode_shared(model: PreTrainedModel) -> bool:
    """Whether one config names the attention function of all modules, which can be replaced."""
    configs = {id(module.config) for module in model.modules() if isinstance(module, PreTrainedModel)}
    return len(configs) == 1 and model._supports_attention_backend and model._can_set_attn_implementation()


def worth_sharing(prefill: Prefill, samples: int, config: PreTrainedConfig) -> bool:
    """Whether attention in two parts pays: on a CPU, for latent attention, of which a plain cache expands every copy
    at every step, and where the copies that it saves are large (estimated, not measured)."""
    keys, values = prefill.layers[0]
    latent = getattr(config.get_text_config(), "kv_lora_rank", None) is not None
    copies = samples * sum(states[0].numel() * states.element_size() for states in (keys, values))
    return keys.device.type == "cpu" or latent or copies >= _WORTH_SHARING


@contextmanager
def decoding_shared(model: PreTrainedModel, cache: PromptCache) -> Iterator[None]:
    """In it, the model attends to the prompts of `cache` through [`attend`]."""
    usual = model.config._attn_implementation
    model.set_attn_implementation(SHARED_DECODING)
    token = _cache.set(cache)
    try:
        yield
    finally:
        _cache.reset(token)
        model.set_attn_implementation(usual)
