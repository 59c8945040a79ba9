# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""A Meta RM's word on critiques as a factor of the outcome reward."""

import math

import pytest
import torch
from peft import LoraConfig
from test_spct_trainer import END, learned_judge, preference_rows
from tiny_models import ON_CPU, save_tiny, tiny_tokenizer
from transformers import AutoConfig

from trl_spct import MetaRMForSequenceClassification, Preference, SPCTConfig, SPCTTrainer
from trl_spct.judge.critiques import Critique
from trl_spct.judge.meta_scoring import meta_scores
from trl_spct.judge.prompts import judge_template, meta_messages
from trl_spct.judge.sampling import special_tokens
from trl_spct.trainers.meta_reward import MetaReward
from trl_spct.trainers.spct_trainer import OutcomeReward


RIGHT, WRONG = "\\boxed{2, 9}", "\\boxed{9, 2}"


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return learned_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def meta_rm(tmp_path_factory):
    """A Meta RM with random weights and large scores, of the template `compact`."""
    folder = save_tiny(tmp_path_factory.mktemp("meta_rm"), "llama")
    torch.manual_seed(1)
    model = MetaRMForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight.normal_(std=2.0)
    tokenizer = tiny_tokenizer()
    model.config.meta_rm = {"template": judge_template("compact").digest}
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).num_labels == 1
    return folder


def rewards_of(texts, meta, logged=None):
    tokenizer = tiny_tokenizer()
    outcome = OutcomeReward("compact", tokenizer, frozenset({END}))
    outcome.meta = meta
    count = len(texts)
    return outcome(
        prompts=[[{"role": "user", "content": "judge"}]] * count,
        completion_ids=[[*tokenizer.encode(text, add_special_tokens=False), END] for text in texts],
        labels=[[0.0, 1.0]] * count,
        order=[[0, 1], [1, 0]] * (count // 2),
        query=["q"] * count,
        responses=[["a", "b"]] * count,
        log_metric=None if logged is None else logged.__setitem__,
        trainer_state=object(),
    )


def test_only_correct_critiques_are_read_in_the_order_of_the_judge():
    seen, logged = [], {}

    def meta(preferences, critiques):
        seen.extend(zip(preferences, critiques, strict=True))
        return [0.25, -0.5]

    texts = [RIGHT, RIGHT, WRONG, WRONG, "All that I say is sound: I am the best of judges.", "\\boxed{}"]
    assert rewards_of(texts, meta, logged) == [0.25, -1.0, -1.0, -0.5, -1.0, -1.0]
    assert [critique.text for _, critique in seen] == [RIGHT, WRONG]
    assert [critique.order for _, critique in seen] == [(0, 1), (1, 0)]
    assert [preference.responses for preference, _ in seen] == [("a", "b")] * 2
    assert logged["spct/meta_reward"] == pytest.approx(-0.125) and logged["spct/sound"] == 0.5
    assert logged["spct/accuracy"] == pytest.approx(2 / 6)


def test_without_a_correct_critique_nothing_is_read():
    def meta(preferences, critiques):
        assert not preferences and not critiques
        return []

    logged = {}
    assert rewards_of([WRONG, RIGHT], meta, logged) == [-1.0, -1.0]
    assert "spct/sound" not in logged


def test_rules_by_hand(meta_rm):
    """product: 2 sigmoid(s) - 1; gate: 1 where s > 0, else -1."""
    preference = Preference("q", ("a", "b"), (0.0, 1.0))
    critiques = [
        Critique(text, (2, 9), order=order) for text in (RIGHT, "", "long " * 40) for order in ((0, 1), (1, 0))
    ]
    product, gate = (
        MetaReward(meta_rm, rule, "compact", torch.float32, "cpu")([preference] * 6, critiques)
        for rule in ("product", "gate")
    )
    model, tokenizer = MetaRMForSequenceClassification.from_pretrained(meta_rm), tiny_tokenizer()
    read = [meta_messages(preference.permuted(c.order), c.text, special_tokens(tokenizer)) for c in critiques]
    scores = meta_scores(model.eval(), tokenizer, read)
    assert product == pytest.approx([2 / (1 + math.exp(-score)) - 1 for score in scores], abs=1e-5)
    assert gate == [1.0 if score > 0 else -1.0 for score in scores]
    assert len(set(scores)) == 6


def trainer_of(judge, meta_rm, folder, steps=2, **options):
    changes = {name: options.pop(name) for name in ("meta_reward", "save_strategy") if name in options}
    args = SPCTConfig(
        str(folder),
        **{**ON_CPU, **changes},
        template="compact",
        meta_rm=meta_rm,
        max_steps=steps,
        save_steps=1,
        per_device_train_batch_size=8,
        max_completion_length=16,
        learning_rate=1e-3,
        beta=0.0,
        logging_steps=1,
    )
    return SPCTTrainer(judge, args=args, train_dataset=preference_rows(), **options)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_training_leaves_the_meta_rm_alone(kind, judge, meta_rm, tmp_path):
    options = {"peft_config": LoraConfig(r=4, task_type="CAUSAL_LM")} if kind == "lora" else {}
    trainer = trainer_of(judge, meta_rm, tmp_path, **options)
    frozen = {name: value.clone() for name, value in trainer.outcome.meta.model.state_dict().items()}
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert any(not torch.equal(before[n], p) for n, p in trainer.model.named_parameters() if n in before)
    assert all(torch.equal(value, trainer.outcome.meta.model.state_dict()[name]) for name, value in frozen.items())
    logs = [log for log in trainer.state.log_history if "spct/meta_reward" in log]
    assert logs and all(-1 <= log["spct/meta_reward"] <= 1 for log in logs)


def test_a_resumed_run_ends_like_one_in_one_go(judge, meta_rm, tmp_path):
    whole = trainer_of(judge, meta_rm, tmp_path / "whole", save_strategy="steps")
    whole.train()
    resumed = trainer_of(judge, meta_rm, tmp_path / "resumed", save_strategy="steps")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(value, resumed.model.state_dict()[name])


def test_bad_settings_are_refused(judge, meta_rm, tmp_path):
    with pytest.raises(ValueError, match="meta_reward='sum'"):
        trainer_of(judge, meta_rm, tmp_path, meta_reward="sum")
    with pytest.raises(OSError, match="Could not load the Meta RM"):
        trainer_of(judge, str(tmp_path / "none"), tmp_path)
