# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Names of training arguments that differ between the supported versions of transformers."""

import inspect
from typing import Any

from transformers import TrainingArguments


CHECKPOINTING = "activation_checkpointing"
"""The argument of [`~transformers.TrainingArguments`] that recomputes activations in the backward pass."""
if CHECKPOINTING not in inspect.signature(TrainingArguments).parameters:
    CHECKPOINTING = "gradient_checkpointing"  # before transformers 5.24


def rename_checkpointing(args: Any) -> None:
    """Gives arguments under their old name, which TRL's configurations set by default, the new one.

    Called before [`~transformers.TrainingArguments.__post_init__`], which warns of old names.
    """
    for suffix in ("", "_kwargs"):
        if getattr(args, f"{CHECKPOINTING}{suffix}") is None:
            setattr(args, f"{CHECKPOINTING}{suffix}", getattr(args, f"gradient_checkpointing{suffix}"))
