# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""A Meta RM whose tokenizer or template does not fit the judge is refused, with the reason, before it scores."""

import pytest
import torch
from tiny_models import CHAT_TEMPLATE, tiny_causal_lm, tiny_config, tiny_tokenizer
from transformers import pipeline

import trl_spct  # noqa: F401  registers the pipeline
from trl_spct.judge.meta_scoring import check_fit, check_template, tokenizer_digest
from trl_spct.judge.modeling_meta_rm import MetaRMForSequenceClassification, native_config
from trl_spct.judge.prompts import judge_template

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = {"query": "Name a prime.", "responses": ["4", "7"]}


def meta_rm(vocab_size=262, **entry):
    torch.manual_seed(0)
    config = native_config(tiny_config("llama", vocab_size=vocab_size), entry)
    return MetaRMForSequenceClassification(config).eval()


def judge(template=None, **kwargs):
    model = tiny_causal_lm("llama")
    if template is not None:
        model.config.grm = {"template": template}
    return pipeline("grm-reward", model=model, tokenizer=tiny_tokenizer(), max_new_tokens=2, **kwargs)


def other_tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<end_of_turn>\n", "<end_of_turn>")
    return tokenizer


def test_the_digest_is_of_what_is_read():
    digest = tokenizer_digest(tiny_tokenizer())
    assert digest == tokenizer_digest(tiny_tokenizer()) == tokenizer_digest(tiny_tokenizer(pad_is_eos=True))
    assert digest != tokenizer_digest(other_tokenizer())
    swapped = tiny_tokenizer()
    swapped.add_tokens(["score"])
    assert digest != tokenizer_digest(swapped)


def test_nothing_is_refused_for_what_is_not_said():
    assert judge(meta_rm=meta_rm()).meta_rm is not None
    assert judge("compact", meta_rm=meta_rm(k_meta=3)).meta_rm is not None
    check_template(None, "compact")
    check_template({}, "paper")


def test_a_fitting_meta_rm_is_taken():
    fitting = meta_rm(template=judge_template("compact").digest, tokenizer=tokenizer_digest(tiny_tokenizer()))
    verdict = judge("compact", meta_rm=fitting)(ROW, k=2, seed=0)
    assert verdict["k"] == 2


def test_another_tokenizer_is_refused():
    trained = meta_rm(tokenizer=tokenizer_digest(other_tokenizer()))
    with pytest.raises(ValueError, match="trained on .*Pass its own `meta_rm_tokenizer`"):
        judge(meta_rm=trained)
    assert judge(meta_rm=trained, meta_rm_tokenizer=other_tokenizer()).meta_rm is trained


def test_a_tokenizer_with_more_tokens_than_the_meta_rm_embeds_is_refused():
    with pytest.raises(ValueError, match="tokenizer of 262 tokens for a Meta RM that embeds 261"):
        judge(meta_rm=meta_rm(vocab_size=261))


@pytest.mark.parametrize("how", ["config", "pipeline", "call"])
def test_another_template_is_refused(how):
    trained = meta_rm(template=judge_template("paper").digest)
    message = r"template 'compact' .*learned from critiques under another \(.*'paper'\)"
    if how == "config":
        with pytest.raises(ValueError, match=message):
            judge("compact", meta_rm=trained)
    elif how == "pipeline":
        with pytest.raises(ValueError, match=message):
            judge(meta_rm=trained, template="compact")
        assert judge(meta_rm=trained, template="paper").meta_rm is trained
    else:
        pipe = judge(meta_rm=trained)
        with pytest.raises(ValueError, match=message):
            pipe(ROW, k=2, template="compact")


def test_an_unknown_template_is_named_by_its_digest():
    with pytest.raises(ValueError, match="0123456789ab, unknown here"):
        check_fit(meta_rm(template="0123456789ab"), tiny_tokenizer(), "paper")
