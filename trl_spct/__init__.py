# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Self-Principled Critique Tuning for TRL. Importing this package registers the pipeline task `"grm-reward"`.

Names are loaded when they are touched: only the trainers import TRL, PEFT and datasets.
"""

import importlib

from . import modeling_meta_rm, pipelines


__version__ = "0.1.0"

_ROOMS = {
    "critiques": ["Critique", "parse_critique"],
    "data": ["prepare_preferences"],
    "engines": ["OpenAIEngine"],
    "guidance": ["choose_guidance", "store_guidance"],
    "meta_rm_config": ["MetaRMTrainingConfig"],
    "meta_rm_trainer": ["MetaRMTrainer"],
    "configuration_meta_rm": ["MetaRMConfig"],
    "modeling_meta_rm": ["MetaRMForSequenceClassification"],
    "outcomes": ["is_correct", "meta_label", "outcome_reward"],
    "pipelines": ["GRMRewardPipeline"],
    "preferences": ["Preference"],
    "prompts": ["judge_messages"],
    "rejection": ["select_trajectories"],
    "rejective_sampler": ["RejectiveSampler"],
    "rejective_sampler_config": ["RejectiveSamplerConfig"],
    "rewards": ["AsyncJudgeReward", "JudgeReward"],
    "spct_config": ["SPCTConfig"],
    "spct_trainer": ["SPCTTrainer"],
    "voting": ["guided_vote", "vote"],
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


def _write_card(*given):
    importlib.import_module(".cards", __name__).write_judge_card(*given)


modeling_meta_rm.register()
pipelines.register()
pipelines.GRMRewardPipeline.write_card = _write_card
