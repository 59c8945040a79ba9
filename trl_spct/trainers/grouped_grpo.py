# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""GRPO that reads a prompt once per group: in generation, for the reference, and for the policy's gradient."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation

from ..judge.generation import Decoder, base_model, evaluating, random_streams
from ..judge.orders import derive_seed
from .shared_prefix import UnusedLayout, attending, pack, packed_log_probs, relative_work, sharing_obstacle
from .trl_internals import OVERRIDES, changed, overrides_trl

logger = logging.getLogger(__name__)

WORTHWHILE = 0.85
"""Largest share of a batch's work at which its packed form is read: above, prompts are too short to gain."""

SHARED_TOKENS = 1024
"""Tokens of copied prompts from which on completions attend to one copy, which costs more for fewer."""

_PROBE_PROMPT, _PROBE_COMPLETION = 32, 16
_SAMPLING_OPTIONS = frozenset({"temperature", "top_p", "top_k", "min_p"})
_AS_TRL = OVERRIDES["_get_per_token_logps_and_entropies"].effect


class GroupedGRPOTrainer(GRPOTrainer):
    """
    [`~trl.GRPOTrainer`] that computes a prompt once per group, with TRL's losses.

    Prompts are prefilled once per group, and sample j of a prompt has a random stream of its own, so that completions
    depend neither on the number of processes nor on their neighbors. Log-probabilities of the completions of a group
    come from one forward pass over the prompt and all of them.

    TRL's own path is taken, and the log says so once, where a model, an option, the shape of a batch or the version of
    TRL does not allow it or does not gain by it, and always with `args.share_prompts=False`.
    """

    def __init__(self, *args, **kwargs):
        self._logged: set[str] = set()
        self._packing_works: bool | None = None
        self._recomputing = ExitStack()
        super().__init__(*args, **kwargs)
        for name, override in OVERRIDES.items():
            if override.trainer is GRPOTrainer and not hasattr(GRPOTrainer, name):  # which TRL will never call
                self._log_once(f"{override.effect}: {changed(name)}.", logging.WARNING)

    def _log_once(self, message: str, level: int = logging.INFO) -> None:
        if message not in self._logged and self.accelerator.is_main_process:
            logger.log(level, message)
        self._logged.add(message)

    @overrides_trl
    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **options
    ):
        if all(value is None or value is False for value in options.values()) and self._may_pack(model):
            packed = pack(input_ids, attention_mask, logits_to_keep, batch_size)
            work = relative_work(packed, attention_mask, self._causal_lm(model).config.hidden_size)
            if work <= WORTHWHILE and self._packs_exactly(model, input_ids, attention_mask, logits_to_keep):
                logps, entropies = self._packed(model, packed, input_ids, logits_to_keep)
                return logps, entropies if compute_entropy else None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **options
        )

    def _may_pack(self, model: torch.nn.Module) -> bool:
        if not self.args.share_prompts or self._packing_works is False:
            return False
        reason = changed("_get_per_token_logps_and_entropies") or self._obstacle(model, packed=True)
        if reason is not None:
            self._log_once(f"{_AS_TRL}: {reason}.", logging.WARNING)
        return reason is None

    def _obstacle(self, model: torch.nn.Module, packed: bool) -> str | None:
        """Why a prompt cannot be read once for its group."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return "the model is sharded"
        if self.args.torch_compile:
            return "the model is compiled"
        config = getattr(self.accelerator.unwrap_model(self.model), "active_peft_config", None)
        if config is not None and config.is_prompt_learning:
            return f"{config.peft_type} learns a prompt"
        return sharing_obstacle(self._causal_lm(model), packed)

    def _causal_lm(self, model: torch.nn.Module) -> PreTrainedModel:
        return base_model(self.accelerator.unwrap_model(model))

    def _packed(self, model, packed, input_ids, logits_to_keep) -> tuple[torch.Tensor, torch.Tensor | None]:
        self._recomputing.close()
        causal_lm = self._causal_lm(model)
        with ExitStack() as stack, self.accelerator.autocast():
            inner = stack.enter_context(attending(causal_lm.config))
            scored = [packed_log_probs(model, causal_lm, inner, row, input_ids, logits_to_keep) for row in packed]
            recomputes = any(getattr(module, "gradient_checkpointing", False) for module in causal_lm.modules())
            if recomputes and torch.is_grad_enabled():
                # The backward pass computes the layers again and must find the same attention.
                self._recomputing = stack.pop_all()
        logps, entropies = zip(*scored, strict=True)
        return sum(logps), None if entropies[0] is None else sum(entropies)

    def training_step(self, model, inputs, num_items_in_batch):
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._recomputing.close()

    def _packs_exactly(self, model, input_ids, attention_mask, logits_to_keep) -> bool:
        """Compares both ways once on a few tokens, since a layer of any architecture may look across tokens."""
        if self._packing_works is None:
            probe = _probe(input_ids, attention_mask, logits_to_keep)
            with torch.no_grad():
                expected = super()._get_per_token_logps_and_entropies(model, *probe)[0]
                try:
                    packed = self._packed(model, pack(*probe), probe[0], probe[2])[0]
                    difference = (packed - expected).abs().mean().item()
                    reason = f"log-probabilities differ by {difference:.2g} on average"
                except (UnusedLayout, TypeError) as error:
                    difference, reason = float("inf"), str(error)
            single = self.accelerator.mixed_precision == "no" and self.model.dtype == torch.float32
            rounding = 3e-2 * max(1.0, expected.abs().mean().item())  # of half precision, which grows with the logits
            self._packing_works = difference <= (1e-4 if single else rounding)
            if self._packing_works:
                self._log_once("Prompts are read once per group in training.")
            else:
                self._log_once(f"{_AS_TRL}: {reason}.", logging.WARNING)
        return self._packing_works

    @overrides_trl
    def _prepare_inputs(self, generation_batch):
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before or not self.model.training or not self._regroups():
            return inputs
        step_size = min(self.args.gradient_accumulation_steps, self.args.steps_per_generation)
        self._buffered_inputs = [
            batch
            for first in range(0, self.args.steps_per_generation, step_size)
            for batch in regrouped(self._buffered_inputs[first : first + step_size])
        ]
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _regroups(self) -> bool:
        """Whether completions may change places among the batches of one optimizer step: the loss is their sum."""
        accumulation, generation = self.args.gradient_accumulation_steps, self.args.steps_per_generation
        return (
            generation > 1
            and (accumulation % generation == 0 or generation % accumulation == 0)
            and self.loss_type != "bnpo"
            and self.top_entropy_quantile == 1.0
            and not self._entropy_bonus_enabled
            and self._may_pack(self.model)
        )

    @overrides_trl
    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        reason = self._generation_obstacle()
        if reason is None and images is None and not multimodal_fields:
            self._log_once("Prompts are prefilled once per group in generation.")
            return self._generate_groups(prompt_ids, num_generations), None
        if reason is not None and self.args.share_prompts:
            self._log_once(f"{OVERRIDES['_generate_single_turn'].effect}: {reason}.")
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, has_tool_images)

    def _generation_obstacle(self) -> str | None:
        names = [name for name in ("use_vllm", "use_transformers_continuous_batching", "tools") if getattr(self, name)]
        options = ("top_k", "min_p", "generation_kwargs", "cache_implementation")
        names += [name for name in options if getattr(self.args, name)]
        names += ["repetition_penalty"] if self.args.repetition_penalty != 1.0 else []
        if names:
            return f"`{'`, `'.join(names)}` is set"
        if not self.args.share_prompts or self.temperature == 0:
            return "`share_prompts=False` or `temperature=0`"
        return self._obstacle(self.model, packed=False)

    def _generate_groups(self, prompt_ids: Sequence[Sequence[int]], num_generations: int) -> list[list[int]]:
        training = self.model.training
        # An evaluation of the same weights draws the same completions; every step of training draws others.
        seed = derive_seed(self.args.seed, *(["train", self.state.global_step] if training else ["eval"]))
        process, length = self.accelerator.process_index, self.max_completion_length
        uniforms = group_uniforms(prompt_ids, num_generations, process, seed, length)
        distinct = list(dict.fromkeys(map(tuple, prompt_ids)))
        places = {ids: place for place, ids in enumerate(distinct)}
        owners = [places[tuple(ids)] for ids in prompt_ids]
        settings = {name: value for name, value in self.generation_kwargs.items() if name not in _SAMPLING_OPTIONS}
        settings = GenerationConfig(**{**settings, "do_sample": False, "num_beams": 1, "disable_compile": True})
        checkpointing = {"gradient_checkpointing_kwargs": self.args.gradient_checkpointing_kwargs}
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator, **checkpointing) as model,
            torch.no_grad(),
            self.accelerator.autocast(),  # around all tokens, or else weights are cast again for each
            evaluating(model),  # so that nothing is dropped out
        ):
            decoder = Decoder(model, settings, self.temperature, self.top_p, SHARED_TOKENS)
            return decoder.complete(distinct, owners, uniforms, decoder.prefill(distinct))


def _probe(input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int) -> tuple:
    """The end of the first prompt, and the beginnings of the completions of its group; two of them."""
    width = input_ids.shape[1] - logits_to_keep
    same = ((input_ids == input_ids[0]) & (attention_mask == attention_mask[0]))[:, :width].all(dim=1)
    rows = same.nonzero()[:2, 0]
    columns = slice(max(0, width - _PROBE_PROMPT), width + _PROBE_COMPLETION)
    return input_ids[rows, columns], attention_mask[rows, columns], min(_PROBE_COMPLETION, logits_to_keep)


def regrouped(batches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same completions in as many batches of the same size, with those of a prompt side by side.

    Batches hold tensors, whose first dimension counts completions, scalars and `None`.
    """
    prompts = torch.cat([torch.where(batch["prompt_mask"].bool(), batch["prompt_ids"], -1) for batch in batches])
    order = torch.argsort(torch.unique(prompts, dim=0, return_inverse=True)[1], stable=True)
    regrouped: list[dict] = [{} for _ in batches]
    for name, value in batches[0].items():
        shared, size = value is None or value.ndim == 0, len(batches)
        parts = [value] * size if shared else torch.cat([batch[name] for batch in batches])[order].chunk(size)
        for batch, part in zip(regrouped, parts, strict=True):
            batch[name] = part
    return regrouped


def group_uniforms(
    prompt_ids: Sequence[Sequence[int]], num_generations: int, process_index: int, seed: int, length: int
) -> torch.Tensor:
    """Random numbers in [0, 1) of shape `(completions, length)`, a stream for each completion.

    A stream follows from the seed, the prompt and the completion's number in its group, over all processes; a prompt
    that comes again is another group.
    """
    first = process_index * len(prompt_ids)
    seeds = []
    seen: Counter = Counter()
    for place, ids in enumerate(map(tuple, prompt_ids), first):
        member = place % num_generations
        seeds.append(derive_seed(seed, member + num_generations * seen[ids, member], *ids))
        seen[ids, member] += 1
    return random_streams(seeds, length)
