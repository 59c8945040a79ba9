# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What rows share is read once, and what comes out is what each row alone would give."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, tiny_causal_lm, tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM, GptOssConfig, Qwen3NextConfig

from trl_spct.judge import shared_prompts as prefixes
from trl_spct.judge.compat import CACHE
from trl_spct.judge.decoding import NotShareableError, PromptCache, attend, can_decode_shared, decoding_shared
from trl_spct.judge.sampling import sample_critiques
from trl_spct.judge.shared_prompts import (
    PrefixReader,
    can_share,
    common_length,
    families,
    left_padded,
    levels,
    shared_lengths,
)

pytestmark = pytest.mark.usefixtures("one_thread")

DRAW = random.Random(0)


def tokens(length):
    return [DRAW.randrange(6, 262) for _ in range(length)]


HEAD = tokens(70)  # longer than Gemma's window of 64
FIRST, SECOND, OTHER = HEAD + tokens(40), HEAD + tokens(60), tokens(30)
# Several lengths, a row that others begin with, equal rows, one token, a row that shares nothing.
ROWS = [
    FIRST + tokens(20), FIRST + tokens(33), FIRST + tokens(5), SECOND + tokens(20), SECOND + tokens(25),
    SECOND + tokens(25), OTHER, OTHER[:1], HEAD, FIRST, FIRST, HEAD + tokens(90), tokens(3),
]  # fmt: skip


# --- planning ---


def test_common_length():
    pairs = (("", "ab"), ("ab", "ab"), ("ab", "abc"), ("abd", "abc"), ("b", "a"))
    assert [common_length(*pair) for pair in pairs] == [0, 2, 2, 2, 0]


def test_shared_lengths_by_hand():
    head = [0] * 20
    first, second = head + [1] * 20, head + [2] * 20
    assert shared_lengths([first + [3], second, first + [4]]) == [(20, 40), (20,), (20, 40)]
    assert shared_lengths([head, head, [1]]) == [(20,), (20,), ()]
    assert shared_lengths([[1, 2, 3], [1, 2, 4]]) == [(), ()], "too short to matter"
    assert shared_lengths([]) == []


@given(st.lists(st.lists(st.sampled_from("ab"), max_size=60).map(lambda letters: "a" * 17 + "".join(letters))))
@settings(max_examples=50, deadline=None)
def test_shared_lengths_are_shared_and_ascend(rows):
    for row, lengths in zip(rows, shared_lengths(rows), strict=True):
        steps = [b - a for a, b in zip((0, *lengths), lengths, strict=False)]
        assert len(lengths) <= prefixes.MOST_LEVELS and all(step >= prefixes.LEAST_SHARED for step in steps)
        for length in lengths:
            assert length <= len(row) and sum(other[:length] == row[:length] for other in rows) > 1


def test_levels_compute_the_fewest_positions(monkeypatch):
    head = [0] * 400
    rows = [head + [1] * 200 + [number] * 50 for number in (3, 4)] + [head + [2] * 250]
    shared = shared_lengths(rows)
    # Three rows of 650 whole: 1950. Head, then rows: 400 + 3 * 250, and a pass. Head, its branches, then rows: 400 +
    # 2 * 200 (the third row waits) + 3 * 250, since it has all of its 250 before it, and two passes.
    assert levels(rows, shared) == [[400, 400, 400]]
    assert levels(rows, shared, root=400) == []
    assert levels(rows[:2], shared[:2], root=400) == []
    monkeypatch.setattr(prefixes, "FORWARD_PASS", 0)
    assert levels(rows[:2], shared[:2], root=400) == [[600, 600]]
    monkeypatch.setattr(prefixes, "FORWARD_PASS", 10**6)
    assert levels(rows, shared) == []


def test_families_fill_more_than_one_batch():
    head, other = [0] * 20, [9] * 20
    rows = [head + [1] * 30, other + [1], head + [2], other + [2], head + [3] * 9]
    shared = shared_lengths(rows)
    assert families(rows, shared, [1] * 5, 2) == [(20, [2, 4, 0]), (0, [1, 3])]
    assert families(rows, shared, [1, 2, 1, 1, 1], 2) == [(20, [2, 4, 0]), (20, [1, 3])]
    assert families(rows, shared, [1] * 5, 5) == [(0, [1, 3, 2, 4, 0])], "neighbors stay together, the shorter first"


def test_left_padding():
    ids, mask = left_padded([[5], [6, 7, 8], []], 0, "cpu")
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8], [0, 0, 0]] and mask.tolist() == [[0, 0, 1], [1, 1, 1], [0, 0, 0]]


# --- reading ---


def precise(arch):
    """In float64, where a wrong token, position or mask cannot hide behind noise. Not Gemma-2, whose eager attention
    works out its softmax in float32, in which the mask of float64 is infinite: padding would be NaN."""
    model = tiny_causal_lm(arch, initializer_range=0.3)
    if arch == "gemma2":
        return model
    if arch == "deepseek_v2":
        model.set_experts_implementation("eager")
    return model.double()


def alone(model, row):
    return model(torch.tensor([row])).logits[0]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_rows_read_together_and_alone(arch, monkeypatch):
    """Prefill with and without sharing, then more tokens: prompts looked at together, and copied."""
    model, owners = precise(arch), [i for i in range(len(ROWS)) for _ in range(1 + i % 3)]
    reader, shared = PrefixReader(model, 0), shared_lengths(ROWS)
    last = torch.stack([alone(model, row)[-1] for row in ROWS])
    monkeypatch.setattr(prefixes, "FORWARD_PASS", 10**6)
    assert levels(ROWS, shared) == []
    torch.testing.assert_close(reader.read(ROWS, shared)[0].logits[:, -1], last, rtol=0, atol=1e-4)
    monkeypatch.setattr(prefixes, "FORWARD_PASS", -(10**6))
    assert len(levels(ROWS, shared)) == 2
    outputs, prefill = reader.read(ROWS, shared)
    assert outputs.logits.shape[1] < max(map(len, ROWS))
    torch.testing.assert_close(outputs.logits[:, -1], last, rtol=0, atol=1e-4)

    written = torch.tensor([tokens(20) for _ in owners])
    want = torch.stack([alone(model, [*ROWS[o], *own.tolist()])[-20:] for o, own in zip(owners, written, strict=True)])
    with decoding_shared(model, cache := PromptCache(prefill, owners, model.config)):
        got = write(model, cache, owners, written)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    assert model.config._attn_implementation in ("sdpa", "eager")
    cache = PromptCache(prefill, owners, model.config)
    cache.copy_prompts()
    torch.testing.assert_close(write(model, cache, owners, written), want, rtol=0, atol=1e-4)


def write(model, cache, owners, written, start=0):
    lengths = torch.tensor([len(ROWS[owner]) for owner in owners])
    longest = max(map(len, ROWS))
    mask = torch.arange(longest) >= longest - lengths[:, None]
    logits = []
    for step in range(start, written.shape[1]):
        logits.append(
            model(
                input_ids=written[:, step, None],
                attention_mask=torch.nn.functional.pad(mask, (0, step + 1), value=True),
                position_ids=(lengths + step)[:, None],
                **{CACHE: cache},
            ).logits[:, 0]
        )
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("arch", ["llama", "gemma2", "deepseek_v2"])
@pytest.mark.parametrize("kept", [[0, 3, 5, 7], [9, 2, 2, 0, 5], [4], list(range(13))], ids=str)
@torch.no_grad()
def test_rows_that_leave(arch, kept):
    """After a selection of samples, in any order, the rest goes on as if nothing had happened."""
    model, owners = precise(arch), [0, 0, 1, 2, 2, 2, 4, 6, 6, 8, 3, 5, 7]
    rows = [ROWS[i] for i in (0, 1, 2, 3, 4, 5, 6, 8, 11)]
    prefill = PrefixReader(model, 0).read(rows, shared_lengths(rows))[1]
    numbers = [ROWS.index(row) for row in rows]
    owners_in_all = [numbers[owner] for owner in owners]
    written = torch.tensor([tokens(9) for _ in owners])
    with decoding_shared(model, cache := PromptCache(prefill, owners, model.config)):
        want = write(model, cache, owners_in_all, written)[kept]
    with decoding_shared(model, cache := PromptCache(prefill, owners, model.config)):
        write(model, cache, owners_in_all, written[:, :4])
        cache.reorder_cache(torch.tensor(kept))
        owners_left = [owners_in_all[row] for row in kept]
        got = write(model, cache, owners_left, written[kept], start=4)
    assert len(cache.first) == len({owners[row] for row in kept}), "prompts without samples are dropped"
    torch.testing.assert_close(got, want[:, 4:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_from_a_root():
    model = precise("gemma2")
    reader, rows = PrefixReader(model, 0), [row for row in ROWS if row[:70] == HEAD]
    root = reader.read([HEAD], [()])[1]
    outputs, prefill = reader.read(rows, shared_lengths(rows), root)
    assert prefill.lengths == [len(row) for row in rows] and prefill.columns == max(prefill.lengths)
    last = torch.stack([alone(model, row)[-1] for row in rows])
    torch.testing.assert_close(outputs.logits[:, -1], last, rtol=0, atol=1e-4)
    outputs, nothing = reader.read([HEAD], [()], root, keep=False)
    assert nothing is None and outputs.logits.shape[1] == 1, "at least the last token is read again"
    torch.testing.assert_close(outputs.logits[:, -1], alone(model, HEAD)[-1:], rtol=0, atol=1e-4)


# --- which models ---


def test_models_that_cannot_share():
    assert all(can_share(tiny_config(arch)) for arch in ARCHITECTURES)
    assert all(can_decode_shared(tiny_causal_lm(arch)) for arch in ARCHITECTURES)
    recurrent = Qwen3NextConfig(num_hidden_layers=4, hidden_size=32)
    assert not can_share(recurrent)
    chunked = tiny_config("llama")
    chunked.attention_chunk_size = 8
    assert not can_share(chunked)
    borrowing = tiny_config("llama")
    borrowing.num_kv_shared_layers = 1
    assert not can_share(borrowing)


@torch.no_grad()
def test_attention_with_a_mask_of_its_own_is_not_shared():
    """Numbers that a layer adds to scores would be lost."""
    model = tiny_causal_lm("llama")
    prefill = PrefixReader(model, 0).read(ROWS[:2], shared_lengths(ROWS[:2]))[1]
    query, states = torch.zeros(2, 2, 1, 16), torch.zeros(2, 1, 1, 16)
    attention = model.model.layers[0].self_attn
    with decoding_shared(model, PromptCache(prefill, [0, 1], model.config)):
        attend(attention, query, states, states, torch.ones(2, 1, 1, prefill.columns + 1, dtype=torch.bool))
        with pytest.raises(NotShareableError, match="a mask of its own"):
            attend(attention, query, states, states, torch.zeros(2, 1, 1, prefill.columns + 1))


def test_attention_that_takes_more_is_copied_for(caplog):
    """gpt-oss attends to sinks, which our attention does not know."""
    config = GptOssConfig(
        vocab_size=262, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, num_local_experts=2, num_experts_per_tok=1, sliding_window=16,
        initializer_range=0.3, eos_token_id=1, pad_token_id=0, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_config(config).eval(), tiny_tokenizer()
    prompts = [[{"role": "user", "content": text}] for text in ("Why?", "How does it come about, and when?")]
    usual = model.config._attn_implementation
    with caplog.at_level("INFO", logger="trl_spct.judge.generation"):
        samples = sample_critiques(model, tokenizer, prompts, k=3, temperature=0, max_new_tokens=12)
    assert "GptOssAttention" in caplog.text and model.config._attn_implementation == usual
    for prompt, group in zip(prompts, samples, strict=True):
        encoded = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        want = model.generate(torch.tensor([encoded]), max_new_tokens=12, do_sample=False)[0, len(encoded) :]
        assert {sample.text for sample in group} == {tokenizer.decode(want, skip_special_tokens=True)}
