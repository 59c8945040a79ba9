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


@pytest.mark.parametrize("config", [MetaRMTrainingConfig, RejectiveSamplerConfig, SPCTConfig])
def test_variables_of_the_chat_template_are_a_json_object(config, tmp_path):
    from trl import TrlParser

    options = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false"]
    variables = ["--chat_template_kwargs", '{"enable_thinking": false}']
    (args,) = TrlParser(config).parse_args_and_config([*options, *variables])
    assert args.chat_template_kwargs == args.variables == {"enable_thinking": False}
    assert config(str(tmp_path), use_cpu=True, bf16=False).variables == {}
    with pytest.raises(ValueError, match="chat_template_kwargs='on'; expected a JSON object"):
        config(str(tmp_path), use_cpu=True, bf16=False, chat_template_kwargs="on")
    with pytest.raises(TypeError, match="not JSON serializable"):
        config(str(tmp_path), use_cpu=True, bf16=False, chat_template_kwargs={"day": object()})
