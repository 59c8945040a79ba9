# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Decoding of token ids with `generate`: seeded sampling, and prompts that are read once for all their completions."""

import copy
import logging
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.generation import LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from .compat import CACHE
from .costs import spend
from .decoding import NotShareableError, PromptCache, can_decode_shared, decoding_shared, worth_sharing
from .shared_prompts import Prefill, PrefixReader, Tokens, left_padded, shared_lengths

logger = logging.getLogger(__name__)

SEGMENT = 32
"""Tokens after which rows that have ended leave the batch."""


class Decoder:
    """Completes prompts of token ids, each of which is read once for all its completions.

    The `model` is in evaluation mode. `settings` are greedy, with pad and end tokens and `max_new_tokens`. From
    `min_copied` tokens of copied prompts on, completions attend to one copy. A `constraint` is a logits processor that
    is given the numbers of its `rows` and the `start` of their completions.
    """

    def __init__(self, model, settings: GenerationConfig, temperature: float, top_p: float, min_copied: int = 0):
        self.model, self.settings = model, settings
        self.temperature, self.top_p = temperature, top_p
        self.min_copied = min_copied
        self.constraint: Any = None
        self.causal_lm = base_model(model)
        self.shares = can_decode_shared(self.causal_lm)
        self.reader = PrefixReader(model, settings.pad_token_id, logits_to_keep=1)

    def prefill(
        self, prompts: Sequence[Tokens], shared: Sequence[tuple[int, ...]] | None = None, root: Prefill | None = None
    ) -> Prefill | None:
        """Reads all tokens of the prompts but the last, which `generate` reads, with `shared` and `root` as for
        [`PrefixReader`]; `None` if there are none."""
        beginnings = [ids[:-1] for ids in prompts]
        if not any(beginnings):
            return None
        return self.reader.read(beginnings, shared_lengths(beginnings) if shared is None else shared, root)[1]

    def complete(
        self, prompts: Sequence[Tokens], owners: list[int], uniforms: torch.Tensor | None, prefill: Prefill | None
    ) -> list[list[int]]:
        """One completion for each of `owners`, up to and including the first token that ends it.

        Args:
            owners (`list[int]`): Number of the prompt of each completion; every prompt has one.
            uniforms (`torch.Tensor` of shape `(completions, max_new_tokens)`, *optional*): See [`SeededSampling`].
            prefill ([`Prefill`], *optional*): Of the prompts without their last tokens. Read here if not given.
        """
        ids, mask = left_padded(prompts, self.settings.pad_token_id, self.model.device)
        rows = torch.tensor(owners, device=ids.device)
        spend(read=len(prompts) if prefill else sum(map(len, prompts)))
        if uniforms is not None and ids.device.type != "mps":  # which has no float64
            uniforms = uniforms.to(ids.device)
        if prefill is None:
            cache = self._read(ids, mask)
            cache.reorder_cache(rows)  # unlike `batch_repeat_interleave`, for any kind of layer on any device
            return self._generate(ids[rows], mask[rows], cache, uniforms)
        copied = sum(prefill.lengths[owner] for owner in owners) - sum(prefill.lengths)
        if self.shares and copied >= self.min_copied and worth_sharing(prefill, len(owners), self.model.config):
            shared = PromptCache(prefill, owners, self.model.config)
            try:
                with decoding_shared(self.causal_lm, shared):
                    return self._generate(ids[rows], mask[rows], shared, uniforms)
            except NotShareableError as error:
                logger.info("Prompts are copied for each of their completions. %s", error)
                self.shares = False
        copies = PromptCache(prefill, owners, self.model.config).copy_prompts()
        return self._generate(ids[rows], mask[rows], copies, uniforms)

    def _read(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> DynamicCache:
        cache = DynamicCache(config=self.model.config.get_text_config())
        if input_ids.shape[1] > 1:
            inputs = {"input_ids": input_ids[:, :-1], "attention_mask": attention_mask[:, :-1], CACHE: cache}
            positions = (inputs["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
            self.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
        return cache

    def _generate(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache, uniforms: torch.Tensor | None
    ) -> list[list[int]]:
        """Calls `generate` for `SEGMENT` tokens at a time, each time with the rows that have not ended."""
        start, longest = ids.shape[1], self.settings.max_new_tokens
        ends = torch.tensor(self.settings.eos_token_id, device=ids.device)
        completions: list[list[int]] = [[] for _ in ids]
        running = list(range(len(ids)))
        segment = copy.copy(self.settings)
        while running:
            segment.max_new_tokens = min(SEGMENT, start + longest - ids.shape[1])
            numbers = _NumberCheck()
            processors = LogitsProcessorList([numbers])
            if self.constraint is not None:
                self.constraint.rows, self.constraint.start = running, start
                processors.append(self.constraint)
            if uniforms is not None:
                processors.append(SeededSampling(uniforms[running], start, self.temperature, self.top_p))
            ids = self.model.generate(
                input_ids=ids,
                attention_mask=nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1),
                generation_config=segment,
                logits_processor=processors,
                **{CACHE: cache},
            )
            if numbers.broken:
                raise FloatingPointError(
                    f"Found logits that are not numbers (NaN) within {ids.shape[1]} tokens. Load the model in bfloat16"
                    " or float32, and check that its weights are finite."
                )
            ended = torch.isin(ids[:, start:], ends)
            lengths = (ended.cumsum(dim=1) - ended.long() == 0).sum(dim=1).tolist()
            finished = (ended.any(dim=1) | (ids.shape[1] - start >= longest)).tolist()
            for place, done in enumerate(finished):
                if done:
                    completions[running[place]] = ids[place, start : start + lengths[place]].tolist()
            kept = [place for place, done in enumerate(finished) if not done]
            if kept and len(kept) < len(running):
                places = torch.tensor(kept, device=ids.device)
                cache.reorder_cache(places)
                ids, mask = ids[places], mask[places]
            running = [running[place] for place in kept]
        spend(written=sum(map(len, completions)))
        return completions


def random_streams(seeds: Iterable[int], length: int) -> torch.Tensor:
    """Numbers in [0, 1) of shape `(seeds, length)` in float64, one stream per seed."""
    streams = [np.random.Generator(np.random.Philox(key=seed)).random(length) for seed in seeds]
    return torch.from_numpy(np.stack(streams))


class SeededSampling(LogitsProcessor):
    """Draws each token by inverting the cumulative distribution at a uniform number, independent of the batch. Greedy
    search then picks it.

    Row b uses `uniforms[b, t]` in [0, 1) at step t. Computed in float64, where the uniforms are.
    """

    def __init__(self, uniforms: torch.Tensor, prompt_length: int, temperature: float, top_p: float = 1.0):
        self.uniforms = uniforms
        self.prompt_length = prompt_length
        self.temperature = temperature
        self.nucleus = TopPLogitsWarper(top_p) if top_p < 1.0 else None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        uniforms = self.uniforms[:, input_ids.shape[1] - self.prompt_length, None]
        few = 4 if scores.device.type == "cpu" else len(scores)  # for which memory is not mapped anew at every step
        parts = zip(input_ids.split(few), scores.split(few), uniforms.split(few), strict=True)
        tokens = torch.cat([self._draw(*part) for part in parts]).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)

    def _draw(self, input_ids: torch.Tensor, scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        logits = scores.float().to(uniforms.device).double().div_(self.temperature)
        logits = logits if self.nucleus is None else self.nucleus(input_ids, logits)
        cumulative = logits.softmax(dim=-1).cumsum_(dim=-1)
        drawn = uniforms * cumulative[:, -1:]
        return torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[-1] - 1)


class _NumberCheck(LogitsProcessor):
    """Notes logits that are not numbers. Read once per segment, since reading a flag waits for the device."""

    broken: torch.Tensor | bool = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.broken = scores.amax(dim=-1).isnan().any() | self.broken
        return scores


def keep_trainable(model: torch.nn.Module) -> None:
    """Stops bitsandbytes from repacking 4-bit weights in evaluation on CPUs with AVX512-BF16, after which training
    crashes, or silently loses gradients on layers without a bias."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a flag of bitsandbytes


@contextmanager
def evaluating(model: torch.nn.Module):
    """Evaluation mode, and afterwards the mode of each module as before; trainable weights stay trainable."""
    if any(parameter.requires_grad for parameter in model.parameters()):
        keep_trainable(model)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def generating(model: torch.nn.Module, settings: GenerationConfig):
    """Hides the model's generation config, from which `generate` would take a repetition penalty or beams."""
    causal_lm = base_model(model)
    hidden = causal_lm.generation_config
    causal_lm.generation_config = settings
    try:
        yield
    finally:
        causal_lm.generation_config = hidden


def base_model(model: Any) -> PreTrainedModel:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
