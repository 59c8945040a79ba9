# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Tokens are counted where they are read and written, each once."""

import threading
from os.path import commonprefix

import pytest
from tiny_models import save_tiny, tiny_causal_lm, tiny_tokenizer

from trl_spct import MetaRMForSequenceClassification
from trl_spct.judge.closing import ScoreLine, close_critiques
from trl_spct.judge.costs import Cost, cost_text, metered, spend
from trl_spct.judge.meta_scoring import encode_meta, meta_scores
from trl_spct.judge.prompts import judge_template
from trl_spct.judge.sampling import encode_prompts, sample_critiques

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = tiny_tokenizer()


def prompt(text):
    return [{"role": "user", "content": text}]


def test_a_cost_in_words_and_money():
    cost = Cost(1_000_000, 250_000, 0, 3.25) + Cost(500_000, 0, 7, 1.0)
    assert cost == Cost(1_500_000, 250_000, 7, 4.25)
    assert "money" not in cost.report()
    report = cost.report([0.2, 0.8])
    assert report["money"] == pytest.approx(0.3 + 0.2)
    assert cost_text(cost.report()) == "1,500,000 tokens read, 250,000 written, 7 read by the Meta RM, 4.2 s"
    assert cost_text(report) == f"{cost_text(cost.report())}, 0.5 at 0.2 and 0.8 a million"
    assert cost_text(Cost().report([0, 0])) == "0 tokens read, 0 written, 0.0 s, 0 at 0 and 0 a million"


def test_blocks_are_counted_apart():
    with metered() as outer:
        spend(read=1)
        with metered() as inner:
            spend(written=2)
        thread = threading.Thread(target=spend, kwargs={"read": 100})
        thread.start()
        thread.join()
    spend(read=1000)
    seconds = sum(inner, Cost()).seconds
    assert sum(inner, Cost()) == Cost(written=2, seconds=seconds) and seconds >= 0
    assert sum(outer, Cost()).read == 1 and sum(outer, Cost()).written == 2, "not what another thread judges"
    assert sum(outer, Cost()).seconds >= seconds


@pytest.mark.parametrize("arch", ["llama", "gemma2", "deepseek_v2"])
def test_a_prompt_is_read_once_for_all_of_its_critiques(arch):
    model, prompts = tiny_causal_lm(arch), [prompt("Which is better?"), prompt("And now, which one is?")]
    with metered() as spent:
        samples = sample_critiques(model, TOKENIZER, prompts, 3, 0, max_new_tokens=7)
    cost = sum(spent, Cost())
    assert cost.read == sum(map(len, encode_prompts(TOKENIZER, prompts)))
    assert cost.written == sum(sample.num_tokens for drawn in samples for sample in drawn) <= 42
    assert cost.scored == 0 and cost.seconds > 0


def test_what_prompts_share_is_read_once():
    shared, ends = "How? " * 120, [f"{i}{i}{i}" for i in range(8)]
    prompts = [prompt(shared + end) for end in ends]
    encoded = encode_prompts(TOKENIZER, prompts)
    head = len(commonprefix(encoded))
    with metered() as spent:
        sample_critiques(tiny_causal_lm("llama"), TOKENIZER, prompts, 2, 0, max_new_tokens=2)
    assert sum(spent, Cost()).read == head + sum(len(ids) - head for ids in encoded)


@pytest.mark.parametrize("arch", ["llama", "deepseek_v2"])
def test_the_meta_rm_has_a_count_of_its_own(arch, tmp_path):
    model = MetaRMForSequenceClassification.from_pretrained(save_tiny(tmp_path, arch, TOKENIZER)).eval()
    conversations = [[*prompt(f"Q{i}"), {"role": "assistant", "content": "x" * i}] for i in (1, 2, 2)]
    with metered() as spent:
        meta_scores(model, TOKENIZER, conversations)
    lengths = [len(encode_meta(TOKENIZER, conversation)) for conversation in conversations[:2]]
    assert sum(spent, Cost()).scored == sum(lengths) and sum(spent, Cost()).read == 0


def test_closing_reads_and_writes():
    model, line = tiny_causal_lm("llama"), ScoreLine.of(judge_template("compact"), 2)
    (samples,) = sample_critiques(model, TOKENIZER, [prompt("Which?")], 1, 0, max_new_tokens=5)
    with metered() as spent:
        (closed,) = close_critiques(model, TOKENIZER, [prompt("Which?")], samples, [line])
    cost = sum(spent, Cost())
    assert cost.read + cost.written == len(encode_prompts(TOKENIZER, [prompt("Which?")])[0]) + closed.num_tokens
    assert 3 < cost.written <= line.max_tokens
