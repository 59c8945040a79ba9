# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Names that differ between the supported versions of transformers."""

import inspect

from transformers import GenerationMixin

CACHE = "cache"
"""The argument of `forward` and `generate` that takes keys and values, and the field of their outputs."""
if CACHE not in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters:
    CACHE = "past_key_values"  # before transformers 5.24
