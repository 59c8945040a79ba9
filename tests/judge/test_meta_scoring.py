# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Critiques of one conversation are scored behind one reading of it, and score as if each were read alone."""

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from tiny_models import ARCHITECTURES, tiny_config, tiny_tokenizer
from transformers import Qwen3NextConfig

from trl_spct import MetaRMForSequenceClassification, Preference
from trl_spct.judge.meta_scoring import encode_meta, meta_scores, tokenizer_digest
from trl_spct.judge.prompts import meta_messages

pytestmark = pytest.mark.usefixtures("one_thread")

# Gemma's window of 64 tokens ends within the shared part, and within each critique of more than 64 letters.
CRITIQUES = ["Scores: ", "It is right. " * 8, "It is right. " * 8 + "No.", "First!", "x", "", "Wrong. " * 20]


def conversations(rows=2, orders=((0, 1), (1, 0)), critiques=CRITIQUES):
    found = []
    for row in range(rows):
        preference = Preference(f"Question {row}? " * 4, ("An answer. " * 5, "Another. " * (3 + row)), (1, 0))
        for order in orders:
            found += [meta_messages(preference.permuted(order), f"{row}{order}{text}") for text in critiques]
    return found


def meta_rm(arch="llama", config=None):
    torch.manual_seed(0)
    config = config or tiny_config(arch, initializer_range=0.3)
    model = MetaRMForSequenceClassification(config).eval()
    return model.double() if arch != "deepseek_v2" else model


def one_by_one(model, tokenizer, messages):
    with torch.no_grad():
        return [model(torch.tensor([encode_meta(tokenizer, conversation)])).logits.item() for conversation in messages]


class Counting:
    """Token positions that a model's decoder computes."""

    def __init__(self, model):
        self.calls, self.positions = 0, 0
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.calls += 1
        self.positions += kwargs["input_ids"].numel()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_as_one_by_one(arch):
    tokenizer, messages = tiny_tokenizer(), conversations()
    model = meta_rm(arch)
    want = one_by_one(model, tokenizer, messages)
    assert len({round(score, 3) for score in want}) > len(want) / 2, "scores depend on the critique"
    for batch_size in (1, 3, 8, 100):
        got = meta_scores(model, tokenizer, messages, batch_size)
        assert got == pytest.approx(want, abs=1e-3 if arch == "deepseek_v2" else 1e-5)


@pytest.mark.parametrize("batch_size", [4, 8, 64])
def test_a_conversation_is_read_once(batch_size):
    tokenizer, model = tiny_tokenizer(), meta_rm()
    critiques = [f"{number:02} and so on" for number in range(32)]
    messages = conversations(rows=1, orders=[(0, 1)], critiques=critiques)
    lengths = [len(encode_meta(tokenizer, conversation)) for conversation in messages]
    own = max(lengths) - min(lengths) + 60
    counting = Counting(model)
    meta_scores(model, tokenizer, messages, batch_size)
    assert counting.positions <= max(lengths) + 32 * own < sum(lengths) / 3
    assert counting.calls == 1 + 32 // min(batch_size, 32)


def test_what_is_short_or_alone_is_read_whole():
    tokenizer, model = tiny_tokenizer(), meta_rm()
    messages = [[{"role": "user", "content": text}] for text in ("a", "bc", "def")]
    want = one_by_one(model, tokenizer, messages)
    counting = Counting(model)
    scores = meta_scores(model, tokenizer, messages)
    assert counting.calls == 1 and scores == pytest.approx(want, abs=1e-6)
    assert meta_scores(model, tokenizer, messages[:1]) == pytest.approx(scores[:1], abs=1e-6)


def test_critiques_that_begin_alike_and_repeat():
    tokenizer, model = tiny_tokenizer(), meta_rm()
    text = "The first response names the tide, the second does not. " * 3
    messages = conversations(rows=1, critiques=[text, text, text + "More. ", text[:-30], text + "More. More. ", text])
    want = one_by_one(model, tokenizer, messages)
    for batch_size in (1, 2, 5, 100):
        assert meta_scores(model, tokenizer, messages, batch_size) == pytest.approx(want, abs=1e-5)


def test_a_recurrent_model_reads_each_conversation_whole():
    config = Qwen3NextConfig(
        vocab_size=262, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=16,
        linear_value_head_dim=16, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, initializer_range=0.3, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MetaRMForSequenceClassification(config).eval()
    tokenizer, messages = tiny_tokenizer(), conversations(rows=1)
    got = meta_scores(model, tokenizer, messages, 4)
    assert got == pytest.approx(one_by_one(model, tokenizer, messages), abs=1e-3)


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_adapters(arch):
    tokenizer, messages = tiny_tokenizer(), conversations(rows=1)
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules="all-linear", init_lora_weights=False)
    plain = meta_rm(arch)
    before = meta_scores(plain, tokenizer, messages)
    torch.manual_seed(1)
    model = get_peft_model(plain, lora).double().train()
    got = meta_scores(model, tokenizer, messages)
    assert model.training
    assert got == pytest.approx(one_by_one(model.eval(), tokenizer, messages), abs=1e-5)
    assert got != pytest.approx(before, abs=1e-2), "the adapter takes part"


def test_half_precision():
    tokenizer, messages = tiny_tokenizer(), conversations()
    model = meta_rm().bfloat16()
    want = one_by_one(model, tokenizer, messages)
    assert meta_scores(model, tokenizer, messages) == pytest.approx(want, abs=0.1)


def test_the_date_in_a_chat_template_is_no_part_of_the_digest(monkeypatch):
    tokenizer = tiny_tokenizer()
    plain = tokenizer_digest(tokenizer)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    dated = tokenizer_digest(tokenizer)
    assert dated != plain
    tokenizer.chat_template = tokenizer.chat_template.replace("%d %b %Y", "%H:%M:%S.%f")
    assert tokenizer_digest(tokenizer) == tokenizer_digest(tokenizer) != dated, "not even the time"
