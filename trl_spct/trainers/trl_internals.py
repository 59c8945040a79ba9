# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Guards for overrides of private methods of [`~trl.GRPOTrainer`]: where TRL has changed them, its own run."""

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from trl import GRPOTrainer


PARAMETERS = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate_single_turn": "self prompt_ids images multimodal_fields num_generations has_tool_images".split(),
    "_get_per_token_logps_and_entropies": (
        "self model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss pixel_values "
        "image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles image_sizes token_type_ids "
        "mm_token_type_ids image_position_ids"
    ).split(),
    "_prepare_inputs": ["self", "generation_batch"],
}
"""The overridden methods and their parameters in trl 1.16."""


def changed(name: str, trainer: Any = None, attributes: tuple[str, ...] = ()) -> str | None:
    """How a private method of TRL differs from what its override expects, or `None` if it does not.

    Args:
        name (`str`): A key of `PARAMETERS`.
        trainer ([`~trl.GRPOTrainer`], *optional*): Must have the attributes.
        attributes (tuple of `str`): Attributes of TRL's trainer that the override reads.
    """
    method = getattr(GRPOTrainer, name, None)
    if method is None:
        return f"this version of TRL has no `{name}`"
    if list(inspect.signature(method).parameters) != PARAMETERS[name]:
        return f"this version of TRL has other parameters of `{name}`"
    missing = [attribute for attribute in attributes if not hasattr(trainer, attribute)]
    return f"this version of TRL has no `{'`, `'.join(missing)}`" if missing else None


def overrides_trl(effect: str, *attributes: str) -> Callable[[Callable], Callable]:
    """Decorates the override of a private method of TRL: where that has changed, TRL's own runs, which is logged once.

    Args:
        effect (`str`): What TRL's own method does otherwise, for the log.
        *attributes (`str`): Attributes of TRL's trainer that the override reads.
    """

    def decorate(override: Callable) -> Callable:
        @wraps(override)
        def method(self, *args, **kwargs):
            reason = changed(override.__name__, self, attributes)
            if reason is None:
                return override(self, *args, **kwargs)
            self._say_once(f"{effect}: {reason}.", logging.WARNING)
            return getattr(GRPOTrainer, override.__name__)(self, *args, **kwargs)

        return method

    return decorate
