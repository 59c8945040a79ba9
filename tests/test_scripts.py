# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The judge that a command line or a YAML file names."""

import threading

import pytest
import yaml
from test_engines import Server, honest
from tiny_models import save_writing
from trl import ModelConfig, TrlParser

from trl_spct.scripts import JudgeArguments, load_judge


def judge_of(*arguments):
    args, model_args = TrlParser((JudgeArguments, ModelConfig)).parse_args_and_config([*map(str, arguments)])
    return load_judge(args, model_args, "cpu")


def test_variables_of_the_chat_template(tmp_path):
    judge = save_writing(tmp_path / "judge")
    named = ("--model_name_or_path", judge)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"chat_template_kwargs": {"mood": "sad"}}))
    assert judge_of(*named).chat_template_kwargs == {}
    assert judge_of(*named, "--chat_template_kwargs", '{"mood": "glad"}').chat_template_kwargs == {"mood": "glad"}
    assert judge_of(*named, "--config", tmp_path / "c.yaml").chat_template_kwargs == {"mood": "sad"}
    server = Server(honest)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        engine = judge_of("--base_url", server.url, "--chat_template_kwargs", '{"mood": "glad"}').engine
    finally:
        server.shutdown()
        server.server_close()
    assert engine.chat_template_kwargs == {"mood": "glad"} and engine.name == "judge"


@pytest.mark.parametrize("value", ["[1]", "glad", '{"tokenize": true}'])
def test_no_variables(value):
    with pytest.raises(ValueError, match="expected variables of the chat template"):
        JudgeArguments(chat_template_kwargs=value)


@pytest.mark.parametrize(("value", "expected"), [("8", 8), ("0.5", 0.5), ("1", 1), ("1.0", 1.0), (None, None)])
def test_critiques_that_vote(value, expected):
    k_meta = JudgeArguments(k_meta=value).guidance["k_meta"]
    assert k_meta == expected and type(k_meta) is type(expected)


@pytest.mark.parametrize("value", ["", "half", "0"])
def test_no_critiques_that_vote(value):
    with pytest.raises(ValueError, match="k_meta="):
        JudgeArguments(k_meta=value)
