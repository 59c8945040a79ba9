# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Self-Principled Critique Tuning for TRL. Importing this package registers the pipeline task `"grm-reward"`.

Names are loaded when they are touched: only the trainers import TRL, PEFT and datasets.
"""

import importlib
import os
import sys
from pathlib import Path

__version__ = "0.1.0"

_EXPORTS = {
    "judge.critiques": ["Critique", "parse_critique"],
    "data.preparation": ["prepare_preferences"],
    "engines": ["OpenAIEngine"],
    "evaluation.guidance": ["choose_guidance", "store_guidance"],
    "trainers.meta_rm_config": ["MetaRMTrainingConfig"],
    "trainers.meta_rm_trainer": ["MetaRMTrainer"],
    "judge.modeling_meta_rm": ["MetaRMConfig", "MetaRMForSequenceClassification"],
    "judge.outcomes": ["is_correct", "meta_label", "outcome_reward"],
    "judge.pipelines": ["GRMRewardPipeline"],
    "judge.preferences": ["Preference"],
    "judge.prompts": ["judge_messages"],
    "trainers.rejection": ["select_trajectories"],
    "trainers.rejective_sampler": ["RejectiveSampler"],
    "trainers.rejective_sampler_config": ["RejectiveSamplerConfig"],
    "rewards": ["AsyncJudgeReward", "JudgeReward"],
    "trainers.spct_config": ["SPCTConfig"],
    "trainers.spct_trainer": ["SPCTTrainer"],
    "judge.voting": ["guided_vote", "vote"],
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


def packaged(folder: str) -> Path:
    """The recipes or the card templates: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return next(path for path in (package / folder, package.parent / folder) if path.is_dir())


def register() -> None:
    """Registers the pipeline task `"grm-reward"` with transformers."""
    from .judge import pipelines

    pipelines.register()


if os.path.basename(sys.argv[0]) != "trl-spct":  # whose `--help` need not wait for torch; it registers before it runs
    register()
