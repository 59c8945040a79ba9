# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Training arguments mean the same under their old and their new names, and nothing warns of them."""

import warnings

import pytest

from trl_spct import MetaRMTrainingConfig, RejectiveSamplerConfig, SPCTConfig
from trl_spct.trainers.arguments import CHECKPOINTING


@pytest.mark.parametrize("config", [MetaRMTrainingConfig, RejectiveSamplerConfig, SPCTConfig])
@pytest.mark.parametrize("prefix", ["gradient_checkpointing", CHECKPOINTING])
@pytest.mark.parametrize("enabled", [False, True, None])
def test_checkpointing_under_both_names(config, prefix, enabled, tmp_path):
    options = {"use_reentrant": True}
    given = {} if enabled is None else {prefix: enabled, f"{prefix}_kwargs": options}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        args = config(str(tmp_path), use_cpu=True, bf16=False, **given)
    expected = (True, None) if enabled is None else (enabled, options)
    for name in ("gradient_checkpointing", CHECKPOINTING):
        assert (getattr(args, name), getattr(args, f"{name}_kwargs")) == expected
