# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Variables of chat templates: the same in every prompt of a judge, in its Meta RM's, and after saving."""

import datetime
import json
import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_causal_lm, tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM, pipeline
from transformers.utils import chat_template_utils

from trl_spct import GRMRewardPipeline, MetaRMForSequenceClassification
from trl_spct.judge.meta_scoring import tokenizer_digest
from trl_spct.judge.sampling import PromptTooLongError, Sample

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [{"query": "Name a prime.", "responses": ["4", "7"]}, {"query": "Why?", "responses": ["a", "b", "c"]}]
ASKED = {"k": 3, "seed": 0, "temperature": 1.0}
MONDAY = {"day": "Monday"}


def tokenizer(prefix="{{ day or '' }}"):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = prefix + tokenizer.chat_template
    return tokenizer


def make(prefix="{{ day or '' }}", model=None, **options):
    model = tiny_causal_lm("llama", initializer_range=0.3) if model is None else model
    options = {"template": "compact", "max_new_tokens": 6, **options}
    return pipeline("grm-reward", model=model, tokenizer=tokenizer(prefix), device="cpu", **options)


def meta_rm(**entry):
    torch.manual_seed(0)
    config = tiny_config("llama", initializer_range=0.2)
    config.problem_type, config.id2label, config.meta_rm = "multi_label_classification", {0: "correct"}, entry
    return MetaRMForSequenceClassification(config).eval()


def test_a_pipeline_and_a_call_set_them():
    want = make("Monday")(ROWS, **ASKED)
    assert want != make("")(ROWS, **ASKED) == make()(ROWS, **ASKED)
    assert make(chat_template_kwargs=MONDAY)(ROWS, **ASKED) == want
    judge = make()
    assert judge(ROWS, chat_template_kwargs=MONDAY, **ASKED) == want != judge(ROWS, **ASKED)
    assert make(chat_template_kwargs=MONDAY)(ROWS, chat_template_kwargs={}, **ASKED) == judge(ROWS, **ASKED)


def test_they_are_counted():
    long = {"day": "x" * 9000}
    with pytest.raises(PromptTooLongError, match="^Row 0"):
        make(chat_template_kwargs=long)(ROWS)
    row = {"query": "?", "responses": ["x" * 3000, "y" * 3000]}
    judge = make(model=tiny_causal_lm("llama", max_position_embeddings=3000))
    cuts = [
        judge(row, truncation="fair", chat_template_kwargs={"day": "x" * count})["truncated"]["responses"][0]
        for count in (0, 1000)
    ]
    assert cuts[1] - cuts[0] == pytest.approx(500, abs=2)


@pytest.mark.parametrize("adapter", [False, True])
def test_a_saved_judge_renders_the_same(adapter, tmp_path):
    tiny_causal_lm("llama", initializer_range=0.3).save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"])) if adapter else base
    judge = make(model=model, chat_template_kwargs=MONDAY)
    want = judge(ROWS, **ASKED)
    judge.save_pretrained(tmp_path / "judge")
    options = {"template": "compact", "max_new_tokens": 6, "device": "cpu"}
    again = pipeline("grm-reward", model=str(tmp_path / "judge"), **options)
    assert again.chat_template_kwargs == MONDAY and again(ROWS, **ASKED) == want
    again.save_pretrained(tmp_path / "again")
    stored = json.loads((tmp_path / "again" / ("grm.json" if adapter else "config.json")).read_text())
    assert (stored if adapter else stored["grm"])["chat_template_kwargs"] == MONDAY


def test_a_meta_rm_reads_its_own_or_the_judge_s():
    def scores(prefix, entry, **options):
        judge = make(prefix, meta_rm=meta_rm(**entry), **options)
        judge.sample = lambda prompts, counts, seed, firsts, **_: [
            [Sample(r"Scores: \boxed{1, 2}", 1, False)] * count for count in counts
        ]
        return [critique["meta_score"] for critique in judge(ROWS[0], **ASKED)["critiques"]]

    monday, sunday = scores("Monday", {}), scores("Sunday", {})
    assert monday != sunday and None not in monday
    variables = "{{ day or '' }}"
    assert scores(variables, {}, chat_template_kwargs=MONDAY) == monday
    assert scores(variables, {"chat_template_kwargs": {"day": "Sunday"}}, chat_template_kwargs=MONDAY) == sunday
    assert scores(variables, {"chat_template_kwargs": MONDAY}) == monday


def test_an_engine_has_its_own():
    class Engine:
        special_tokens, context_length = (), 3000

        def __init__(self, **chat_template_kwargs):
            self.chat_template_kwargs = chat_template_kwargs

        def __call__(self, prompts, k, seed, *, temperature, top_p, max_new_tokens, first=0):
            return [[Sample("", 1, False)] * count for count in k]

    assert GRMRewardPipeline(Engine(), tokenizer())(ROWS, template="compact", max_new_tokens=6)
    with pytest.raises(PromptTooLongError, match="^Row 0"):
        GRMRewardPipeline(Engine(day="x" * 3000), tokenizer())(ROWS, template="compact", max_new_tokens=6)
    with pytest.raises(ValueError, match=r"over an engine.*`OpenAIEngine\(…, chat_template_kwargs=…\)`"):
        GRMRewardPipeline(Engine(), chat_template_kwargs=MONDAY)
    with pytest.raises(ValueError, match="over an engine"):
        GRMRewardPipeline(Engine())(ROWS, chat_template_kwargs=MONDAY)


@pytest.mark.parametrize(
    "variables", ["day", {"truncation": True, "max_length": 5}, {"tokenizer_kwargs": {}}, {"day": {1, 2}}], ids=str
)
def test_what_is_no_variable_is_refused(variables):
    with pytest.raises(ValueError, match="chat_template_kwargs"):
        make()(ROWS, chat_template_kwargs=variables)


@pytest.mark.parametrize("dated", ["", "{{ strftime_now('%d') }}"])
def test_a_template_that_needs_a_variable(dated):
    judge = make("{{ day if day is defined else raise_exception('no day') }}" + dated)
    with pytest.raises(ValueError, match="^Row 0: the judge's tokenizer cannot render the prompt .*no day"):
        judge(ROWS)
    assert judge(ROWS, chat_template_kwargs=MONDAY)


def test_another_day(monkeypatch, caplog):
    """A template with today's date: a Meta RM fits on every day, and a pinned date gives the same judgments."""
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"

    def on(day):
        class Today(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(2026, 1, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Today)
        guide = meta_rm(tokenizer=trained_with)
        judges = [make(dated, meta_rm=guide), make(dated, meta_rm=guide, chat_template_kwargs={"date_string": "1"})]
        return [judge(ROWS, **ASKED) for judge in judges]

    trained_with = tokenizer_digest(tokenizer(dated))
    (drifting, pinned), (drifted, same) = on(1), on(2)
    assert drifting != drifted and pinned == same
    logging.Logger.warning_once.cache_clear()
    caplog.clear()
    make(dated, chat_template_kwargs={"date_string": "1"})(ROWS, **ASKED)
    make("{{ 'strftime_now' }}")(ROWS, **ASKED)
    assert not caplog.messages or "today's date" not in caplog.text
    make(dated)(ROWS, **ASKED)
    assert "today's date: tomorrow the same seed gives other judgments" in caplog.text
    by_name = tokenizer(dated)
    by_name.chat_template = {"default": by_name.chat_template}
    assert tokenizer_digest(by_name) == trained_with != tokenizer_digest(tokenizer())
