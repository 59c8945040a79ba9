# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Stand-in for the model of a pipeline that judges over an engine."""

from collections.abc import Iterator

import torch
from transformers import GenerationConfig, PreTrainedConfig

from .sampling import Sampler


class EngineModel:
    """Gives an engine the attributes that `Pipeline` reads from a model."""

    input_modalities = output_modalities = ("text",)
    dtype = torch.float32

    def __init__(self, engine: Sampler):
        if not callable(engine):
            raise TypeError(
                f"Found a model of type {type(engine).__name__}; expected a model, or a sampler such as an "
                '`OpenAIEngine`. A path or an id goes to `pipeline("grm-reward", model=…)`.'
            )
        self.engine = engine
        self.device = torch.device("cpu")
        self.generation_config = GenerationConfig()
        self.config = PreTrainedConfig(max_position_embeddings=getattr(engine, "context_length", None))
        self.config._name_or_path = str(getattr(engine, "name", type(engine).__name__))

    def to(self, device) -> "EngineModel":
        return self

    def can_generate(self) -> bool:
        return True

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return iter(())
