# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Guards for overrides of private methods of [`~trl.GRPOTrainer`]: where TRL has changed them, its own run."""

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from trl import GRPOTrainer


class Override(NamedTuple):
    """What TRL does without the override, and parameters and attributes of trl 1.16 that the override relies on."""

    effect: str
    parameters: str
    attributes: str = ""


OVERRIDES = {
    "_generate_and_score_completions": Override("Responses keep their order", "self inputs"),
    "_generate_single_turn": Override(
        "Critiques are generated as by TRL",
        "self prompt_ids images multimodal_fields num_generations has_tool_images",
        "generation_kwargs max_completion_length temperature top_p tools use_vllm "
        "use_transformers_continuous_batching",
    ),
    "_get_per_token_logps_and_entropies": Override(
        "Prompts are read once per completion in training, as by TRL",
        "self model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss pixel_values "
        "image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles image_sizes token_type_ids "
        "mm_token_type_ids image_position_ids",
    ),
    "_prepare_inputs": Override(
        "Completions stay in the batches of TRL",
        "self generation_batch",
        "_buffered_inputs _step _entropy_bonus_enabled loss_type top_entropy_quantile",
    ),
}


def changed(name: str, trainer: Any = None) -> str | None:
    """How TRL's method differs from what its override, or the attributes of a trainer given, rely on; else `None`."""
    _, parameters, attributes = OVERRIDES[name]
    method = getattr(GRPOTrainer, name, None)
    if method is None:
        return f"this version of TRL has no `{name}`"
    if list(inspect.signature(method).parameters) != parameters.split():
        return f"this version of TRL has other parameters of `{name}`"
    missing = [] if trainer is None else [name for name in attributes.split() if not hasattr(trainer, name)]
    return f"this version of TRL has no `{'`, `'.join(missing)}`" if missing else None


def overrides_trl(override: Callable) -> Callable:
    """Decorates the override of a method in `OVERRIDES`: where that has changed, TRL's own runs, as is logged once."""
    name = override.__name__

    @wraps(override)
    def method(self, *args, **kwargs):
        reason = changed(name, self)
        if reason is None:
            return override(self, *args, **kwargs)
        self._say_once(f"{OVERRIDES[name].effect}: {reason}.", logging.WARNING)
        return getattr(GRPOTrainer, name)(self, *args, **kwargs)

    return method
