# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What a judge's repository says about it survives the way to a folder and back, for whole models and for adapters."""

import json
import os
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import WITHOUT_THIS_PACKAGE, save_tiny, tiny_causal_lm, tiny_config, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    pipeline,
)

from trl_spct import MetaRMForSequenceClassification
from trl_spct.judge.modeling_meta_rm import EXTRAS_NAME
from trl_spct.judge.repositories import describe_adapter, locate_meta_rm

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = {"query": "Name a prime.", "responses": ["worth 3", "worth 9", "worth 5"]}
ASKED = {"k": 3, "seed": 0, "temperature": 1.0}


def judge_of(model, **kwargs):
    return pipeline("grm-reward", model=model, **{"max_new_tokens": 6, **kwargs})


@pytest.fixture
def pipe():
    model = tiny_causal_lm("llama", initializer_range=0.3)
    model.config.grm = {"template": "compact"}
    return judge_of(model, tokenizer=tiny_tokenizer(), meta_rm=tiny_meta())


def tiny_meta(seed=0):
    torch.manual_seed(seed)
    config = tiny_config("gemma2", initializer_range=0.2)
    config.meta_rm = {}
    config.problem_type = "multi_label_classification"
    config.id2label = {0: "correct"}
    return MetaRMForSequenceClassification(config).eval()


def save_meta(path, seed=0):
    tiny_meta(seed).save_pretrained(path)
    tiny_tokenizer(pad_is_eos=True).save_pretrained(path)
    return str(path)


def meta_scores(pipe):
    return [critique["meta_score"] for critique in pipe(ROW, **ASKED)["critiques"]]


def weights(model):
    return model.score.weight.tolist()


# --- the Meta RM of a judge ---


def test_a_judge_brings_its_meta_rm(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "judge")
    assert json.loads((tmp_path / "judge" / "config.json").read_text())["grm"] == {
        "template": "compact",
        "meta_rm": "./meta_rm",
    }
    assert pipe.model.config.grm == {"template": "compact"}, "other copies of the model come without it"
    again = judge_of(str(tmp_path / "judge"))
    assert weights(again.meta_rm) == weights(pipe.meta_rm) and again.meta_rm_tokenizer.chat_template
    assert again(ROW, **ASKED) == pipe(ROW, **ASKED)
    for none in (None, False):
        assert judge_of(str(tmp_path / "judge"), meta_rm=none).meta_rm is None
    other = judge_of(str(tmp_path / "judge"), meta_rm=save_meta(tmp_path / "other", seed=1))
    assert weights(other.meta_rm) != weights(pipe.meta_rm)
    native = AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge" / "meta_rm")
    assert type(native).__name__ == "Gemma2ForSequenceClassification"


def test_saving_again_keeps_what_is_true(pipe, tmp_path):
    """A Meta RM that was left behind is not named; one that is elsewhere still is."""
    pipe.save_pretrained(tmp_path / "first")
    judge_of(str(tmp_path / "first"), meta_rm=None).save_pretrained(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "config.json").read_text())["grm"] == {"template": "compact"}
    assert not (tmp_path / "second" / "meta_rm").exists() and judge_of(str(tmp_path / "second")).meta_rm is None
    named = judge_of(str(tmp_path / "second"))
    named.model.config.grm["meta_rm"] = save_meta(tmp_path / "elsewhere")
    named.save_pretrained(tmp_path / "third")
    third = judge_of(str(tmp_path / "third"))
    assert weights(third.meta_rm) == weights(pipe.meta_rm)
    third.meta_rm = None
    third.save_pretrained(tmp_path / "fourth")
    assert judge_of(str(tmp_path / "fourth")).meta_rm is not None


def test_a_meta_rm_that_is_not_there(tmp_path):
    model = tiny_causal_lm("llama")
    model.config.grm = {"meta_rm": "./meta_rm"}
    with pytest.raises(ValueError, match="made in memory.*meta_rm=None"):
        judge_of(model, tokenizer=tiny_tokenizer())
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"(?s)'subfolder': 'meta_rm'.*`meta_rm=None`"):
        judge_of(str(tmp_path))
    assert judge_of(str(tmp_path), meta_rm=None).meta_rm is None


def test_where_a_meta_rm_is():
    model = tiny_causal_lm("llama")
    assert locate_meta_rm(model) is None
    model.config.grm = {"meta_rm": "someone/meta-rm"}
    assert locate_meta_rm(model) == ("someone/meta-rm", {})
    model.config.grm = {"meta_rm": "./judge/of/critiques"}
    model.config._name_or_path = "someone/judge"
    assert locate_meta_rm(model) == ("someone/judge", {"subfolder": "judge/of/critiques"})
    model.config._commit_hash = "abc"
    assert locate_meta_rm(model)[1]["revision"] == "abc", "the same commit as the judge"


# --- adapters ---


@pytest.fixture
def adapter(tmp_path):
    base = save_tiny(tmp_path / "base", "llama", initializer_range=0.3)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "adapter")
    return model.eval(), str(tmp_path / "adapter")


def test_an_adapter_says_how_to_prompt_it(adapter, tmp_path, monkeypatch):
    model, path = adapter
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    want = judge_of(model, tokenizer=tokenizer, template="compact")(ROW, **ASKED)
    assert judge_of(path)(ROW, **ASKED) != want, "nothing says so"
    describe_adapter(path, {"template": "compact"})
    again = judge_of(path)
    assert again(ROW, **ASKED) == want and again.model.config.grm == {"template": "compact"}
    assert judge_of(path, template="paper")(ROW, **ASKED) != want
    assert judge_of(str(tmp_path / "base")).model.config.to_dict().get("grm") is None


@pytest.mark.parametrize("kind", ["peft", "path"])
def test_an_adapter_is_saved_with_its_meta_rm(kind, adapter, tmp_path):
    model, path = adapter
    if kind == "peft":
        pipe = judge_of(model, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "base"), meta_rm=tiny_meta())
        pipe.model.config.grm = {"template": "compact"}
    else:
        describe_adapter(path, {"template": "compact"})
        pipe = judge_of(path, meta_rm=tiny_meta())
    pipe.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "grm.json").read_text()) == {"template": "compact", "meta_rm": "./meta_rm"}
    assert not (tmp_path / "saved" / "config.json").exists() and (tmp_path / "saved" / "meta_rm").is_dir()
    again = judge_of(str(tmp_path / "saved"))
    assert weights(again.meta_rm) == weights(pipe.meta_rm)
    assert [c["text"] for c in again(ROW, **ASKED)["critiques"]] == [
        c["text"] for c in pipe(ROW, **ASKED)["critiques"]
    ]
    with pytest.raises(ValueError, match="merge_and_unload"):
        pipe.save_pretrained(tmp_path / "code", include_code=True)


def test_an_adapter_of_a_meta_rm_comes_back_with_its_guidance(pipe, tmp_path):
    """From its own folder, and from that of the judge which it is saved with."""
    base = MetaRMForSequenceClassification.from_pretrained(save_meta(tmp_path / "base"))
    lora = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", init_lora_weights=False))
    lora.config.meta_rm = {"guide": "soft"}
    lora.save_pretrained(tmp_path / "adapter")
    describe_adapter(tmp_path / "adapter", lora.config.meta_rm, EXTRAS_NAME)
    tiny_tokenizer(pad_is_eos=True).save_pretrained(tmp_path / "adapter")
    scores = meta_scores(judge_of(pipe.model, tokenizer=pipe.tokenizer, meta_rm=lora.eval()))
    judge = judge_of(pipe.model, tokenizer=pipe.tokenizer, meta_rm=str(tmp_path / "adapter"))
    judge.save_pretrained(tmp_path / "judge")
    assert not (tmp_path / "judge" / "meta_rm" / "config.json").exists()
    for loaded in (judge, judge_of(str(tmp_path / "judge"))):
        assert loaded.guidance.guide == "soft" and meta_scores(loaded) == scores


def test_a_judge_in_four_bits_comes_back(tmp_path):
    pytest.importorskip("bitsandbytes")
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    path = save_tiny(tmp_path / "judge", "llama", initializer_range=0.3)
    pipe = judge_of(path, model_kwargs={"quantization_config": four_bits}, template="compact")
    assert type(pipe.model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    pipe.save_pretrained(tmp_path / "saved")
    assert judge_of(str(tmp_path / "saved"), template="compact")(ROW, **ASKED) == pipe(ROW, **ASKED)


# --- with and without code ---

ALONE = (
    WITHOUT_THIS_PACKAGE
    + """
judge = pipeline("grm-reward", model=sys.argv[1], max_new_tokens=6, trust_remote_code=True)
options = json.loads(sys.argv[3])
print(json.dumps([judge(json.loads(sys.argv[2]), **options), judge.meta_rm is not None]))
"""
)


def test_a_judge_with_code_and_meta_rm_runs_where_the_package_is_absent(pipe, tmp_path):
    folder = tmp_path / "judge"
    pipe.save_pretrained(folder, include_code=True)
    options = {**ASKED, "early_stopping": "exact", "max_responses_per_prompt": 2, "truncation": "fair"}
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", ALONE, str(folder), json.dumps(ROW), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [pipe(ROW, **options), True]


def test_a_plain_judge_comes_without_code(pipe, tmp_path):
    """Not even if it was loaded from a repository with code."""
    named = {"grm-reward": {"impl": "pipelines.GRMRewardPipeline", "pt": ["AutoModelForCausalLM"]}}
    pipe.model.config.custom_pipelines = named
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    assert pipe.model.config.custom_pipelines == named
