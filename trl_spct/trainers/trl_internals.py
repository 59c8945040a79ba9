# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Guards for overrides of private methods of TRL's trainers, for versions of TRL that have changed them."""

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from trl import GRPOTrainer, RewardTrainer


class Override(NamedTuple):
    """What TRL does without the override, and parameters and attributes of trl 1.16 that the override relies on."""

    effect: str
    parameters: str
    attributes: str = ""
    trainer: type = GRPOTrainer


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
    "_prepare_dataset": Override(
        "Rows of critiques cannot be read", "self dataset processing_class args dataset_name", trainer=RewardTrainer
    ),
    "_set_signature_columns_if_needed": Override(
        "Columns of critiques cannot be named", "self", "_signature_columns", RewardTrainer
    ),
}


def changed(name: str, trainer: Any = None) -> str | None:
    """How TRL's method, or a trainer's attributes, differ from what the override relies on; `None` if they do not."""
    _, parameters, attributes, owner = OVERRIDES[name]
    method = getattr(owner, name, None)
    if method is None:
        return f"this version of TRL has no `{name}`"
    if list(inspect.signature(method).parameters) != parameters.split():
        return f"this version of TRL has other parameters of `{name}`"
    missing = [] if trainer is None else [name for name in attributes.split() if not hasattr(trainer, name)]
    return f"this version of TRL has no `{'`, `'.join(missing)}`" if missing else None


def overrides_trl(override: Callable) -> Callable:
    """Decorates the override of a method in `OVERRIDES`: where that has changed, TRL's own runs, as is logged once.

    [`~trl.RewardTrainer`]'s methods read pairs alone: where they have changed, a `RuntimeError` is raised.
    """
    name = override.__name__
    effect, owner = OVERRIDES[name].effect, OVERRIDES[name].trainer

    @wraps(override)
    def method(self, *args, **kwargs):
        reason = changed(name, self)
        if reason is None:
            return override(self, *args, **kwargs)
        if owner is RewardTrainer:
            raise RuntimeError(f"{effect}: {reason}; expected that of trl 1.16.")
        self._log_once(f"{effect}: {reason}.", logging.WARNING)
        return getattr(owner, name)(self, *args, **kwargs)

    return method
