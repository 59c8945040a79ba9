# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_models import ARCHITECTURES, tiny_causal_lm
from transformers import AutoModelForCausalLM, BambaConfig, Llama4TextConfig
from trl.trainer.utils import add_fused_lm_head

from trl_spct.judge.generation import base_model
from trl_spct.trainers.arguments import CHECKPOINTING
from trl_spct.trainers.grouped_grpo import WORTHWHILE
from trl_spct.trainers.shared_prefix import (
    SHARED_PREFIX,
    Group,
    Layout,
    UnusedLayout,
    attending,
    pack,
    packed_log_probs,
    relative_work,
    sharing_obstacle,
)

PROMPT, WIDTH = 90, 12


def batch(groups=((90, (12, 5, 12)), (70, (1, 12)), (33, (7,))), seed=0, shuffle=True):
    """Left-padded prompts and right-padded completions, those of a group apart from each other."""
    draw = torch.Generator().manual_seed(seed)
    ids, mask = [], []
    for prompt_length, lengths in groups:
        prompt = torch.randint(6, 262, (prompt_length,), generator=draw)
        for length in lengths:
            pads = PROMPT - prompt_length, WIDTH - length
            completion = torch.randint(6, 262, (length,), generator=draw)
            ids.append(torch.cat([torch.zeros(pads[0]), prompt, completion, torch.zeros(pads[1])]).long())
            seen = torch.ones(prompt_length + length)
            mask.append(torch.cat([torch.zeros(pads[0]), seen, torch.zeros(pads[1])]).long())
    order = torch.randperm(len(ids), generator=draw) if shuffle else torch.arange(len(ids))
    return torch.stack(ids)[order], torch.stack(mask)[order]


def as_trl(model, ids, mask):
    """As `GRPOTrainer._get_per_token_logps_and_entropies` calls the model."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-WIDTH] = -100
    outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return outputs.log_probs[:, -WIDTH:], outputs.entropy[:, -WIDTH:]


def as_ours(model, ids, mask, batch_size=None):
    causal_lm = base_model(model)
    with attending(causal_lm.config) as inner:
        rows = pack(ids, mask, WIDTH, batch_size)
        found = [packed_log_probs(model, causal_lm, inner, row, ids, WIDTH) for row in rows]
    return tuple(map(sum, zip(*found, strict=True)))


def judge(arch, **changes):
    model = tiny_causal_lm(arch, **changes).train()
    add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    return model


def gradients(model, values):
    model.zero_grad()
    weights = torch.linspace(0.1, 1.0, values[0].numel()).view_as(values[0])
    ((values[0] + 0.3 * values[1]) * weights).sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def assert_equal_to_trl(model, ids, mask, batch_size=None):
    expected, found = as_trl(model, ids, mask), as_ours(model, ids, mask, batch_size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    wanted, got = gradients(model, expected), gradients(model, as_ours(model, ids, mask, batch_size))
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, atol=1e-5 * value.abs().max().item(), rtol=1e-4, msg=name)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_log_probabilities_entropies_and_gradients_are_trls(arch):
    assert_equal_to_trl(judge(arch), *batch())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [1, 7, 64, 95, 4096])
def test_sliding_windows_are_seen_across_the_prompts_end(window, implementation):
    model = judge("mistral", sliding_window=window)
    model.set_attn_implementation(implementation)
    assert_equal_to_trl(model, *batch())


def test_gemma2_alternates_windows_and_caps_scores():
    model = judge("gemma2", sliding_window=16)
    assert model.config._attn_implementation == "eager"
    assert model.config.layer_types == ["sliding_attention", "full_attention"]
    wide = as_trl(judge("gemma2", sliding_window=4096), *batch())[0]
    assert (as_trl(model, *batch())[0] - wide).abs().max() > 1e-3
    assert_equal_to_trl(model, *batch())


def test_adapters_are_seen():
    model = get_peft_model(
        judge("qwen3"),
        LoraConfig(r=4, target_modules="all-linear", exclude_modules=["lm_head"], init_lora_weights=False),
    )
    assert_equal_to_trl(model, *batch())
    with model.disable_adapter():
        torch.testing.assert_close(as_ours(model, *batch()), as_trl(model, *batch()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_groups_are_packed_within_the_tokens_of_a_batch(batch_size):
    ids, mask = batch()
    rows = pack(ids, mask, WIDTH, batch_size)
    assert len(rows) > 1
    assert all(len(row.rows) <= batch_size * ids.shape[1] or len(row.groups) == 1 for row in rows)
    assert sum(group.completions for row in rows for group in row.groups) == len(ids)
    assert_equal_to_trl(judge("llama"), ids, mask, batch_size)


def test_a_prompt_stands_once():
    (row,) = pack(*batch(shuffle=False), WIDTH)
    # The last token of a prompt begins each of its segments, unless there is but one.
    assert row.groups == (Group(89, 3, 13), Group(69, 2, 13), Group(0, 1, 40))
    assert len(row.rows) == 89 + 39 + 69 + 26 + 40


def test_the_head_reads_the_tokens_of_completions_alone():
    model, (ids, mask) = judge("qwen2"), batch()
    read = []
    model.register_forward_hook(lambda module, args, output: read.append(output.log_probs.shape))
    as_ours(model, ids, mask)
    assert read == [(1, int(mask[:, -WIDTH:].sum()))]
    assert not model.base_model._forward_hooks


def test_the_work_by_hand():
    """Two completions of 12 behind 90 tokens: segments of 13 tokens, of which the first is the prompt's last."""
    ids, mask = batch(((PROMPT, (WIDTH, WIDTH)),))
    tokens, pairs = 89 + 2 * 13, 89**2 // 2 + 2 * 13 * (89 + 13)
    causal = relative_work(pack(ids, mask, WIDTH), mask, hidden_size=100)
    assert causal == pytest.approx((tokens + pairs / 600) / (2 * 102 + 102**2 / 600))
    ids, mask = batch(((PROMPT, (WIDTH, WIDTH)), (PROMPT - 1, (WIDTH,))))
    padded = relative_work(pack(ids, mask, WIDTH), mask, hidden_size=100)
    tokens, pairs = tokens + 101, pairs + 101**2
    assert padded == pytest.approx((tokens + pairs / 600) / (3 * 102 + 3 * 102**2 / 600))


@pytest.mark.parametrize(
    ("prompt", "width", "group", "hidden_size", "gains"),
    [
        (24, 64, 2, 256, False),
        (24, 64, 4, 256, True),
        (512, 64, 8, 256, True),
        (2048, 256, 4, 4096, True),
        (256, 2048, 16, 256, False),
        (256, 2048, 16, 4096, False),
        (1024, 2048, 8, 4096, True),
    ],
)
def test_where_sharing_gains(prompt, width, group, hidden_size, gains):
    """Unpadded, which is where it gains least."""
    ids = torch.arange(prompt + width).expand(group, -1)
    mask = torch.ones_like(ids)
    assert (relative_work(pack(ids, mask, width), mask, hidden_size) <= WORTHWHILE) is gains


def test_completions_that_are_masked_count_for_nothing():
    ids, mask = batch(shuffle=False)
    mask[0, -WIDTH:] = 0
    mask[3:5, -WIDTH:] = 0
    model = judge("llama")
    assert as_ours(model, ids, mask)[0][[0, 3, 4]].abs().max() == 0
    assert_equal_to_trl(model, ids, mask)


def test_a_pad_token_that_is_a_token_does_not_join_groups():
    ids, mask = batch(((PROMPT, (12,)), (PROMPT - 1, (12,))), shuffle=False)
    ids[0, 0] = 0
    ids[1, :PROMPT] = ids[0, :PROMPT]
    (row,) = pack(ids, mask, WIDTH)
    assert [group.completions for group in row.groups] == [1, 1]
    assert_equal_to_trl(judge("llama"), ids, mask)


@settings(max_examples=20, deadline=None)
@given(
    groups=st.lists(
        st.tuples(st.integers(1, PROMPT), st.lists(st.integers(1, WIDTH), min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    batch_size=st.none() | st.integers(1, 4),
)
def test_any_batch_is_scored_as_by_trl(groups, batch_size):
    model = judge("mistral", sliding_window=20, num_hidden_layers=1)
    ids, mask = batch(groups)
    with torch.no_grad():
        expected, found = as_trl(model, ids, mask), as_ours(model, ids, mask, batch_size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_may_be_computed_again_in_the_backward_pass(reentrant):
    model, (ids, mask) = judge("llama"), batch()
    wanted = gradients(model, as_trl(model, ids, mask))
    model.enable_input_require_grads()
    getattr(model, f"{CHECKPOINTING}_enable")({"use_reentrant": reentrant})
    with attending(model.config) as inner:
        (row,) = pack(ids, mask, WIDTH)
        got = gradients(model, packed_log_probs(model, model, inner, row, ids, WIDTH))
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_the_models_own_attention_comes_back():
    model = judge("gemma2")
    with pytest.raises(KeyError), attending(model.config):
        assert model.config._attn_implementation == SHARED_PREFIX
        raise KeyError
    assert model.config._attn_implementation == "eager"


def test_the_attention_refuses_calls_without_a_layout():
    model = judge("llama")
    with attending(model.config), pytest.raises(RuntimeError, match="no layout"):
        model(input_ids=torch.arange(6, 12)[None])


def test_a_model_that_keeps_the_layout_from_a_layer_is_found_out():
    model, (ids, mask) = judge("llama"), batch()
    model.model.layers = model.model.layers[:1]
    with attending(model.config), pytest.raises(UnusedLayout, match="1 of 2 layers"):
        packed_log_probs(model, model, "sdpa", pack(ids, mask, WIDTH)[0], ids, WIDTH)


def test_masks_by_hand():
    query = torch.zeros(1)
    layout = Layout((), "sdpa")
    group = Group(3, 2, 2)
    assert layout.mask(group, True, None, query) is None
    assert layout.mask(group, True, 3, query) is None
    assert layout.mask(group, True, 2, query)[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert layout.mask(group, False, None, query)[0, 0].int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert layout.mask(group, False, 3, query)[0, 0].int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    added = Layout((), "eager").mask(group, False, None, query)[0, 0]
    lowest = torch.finfo(torch.float32).min
    assert added.tolist() == [[0, 0, 0, 0, lowest], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_which_models_may(arch):
    model = tiny_causal_lm(arch)
    assert sharing_obstacle(model, packed=True) is None
    model.config._attn_implementation = "flash_attention_2"
    assert "'flash_attention_2' is not one of sdpa, eager" in sharing_obstacle(model, packed=True)
    assert sharing_obstacle(model) is None


def test_which_models_may_not():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    chunked = Llama4TextConfig(**sizes, head_dim=16, intermediate_size=32, intermediate_size_mlp=32, vocab_size=64)
    chunked.layer_types = ["chunked_attention", "full_attention"]
    recurrent = BambaConfig(
        **sizes, vocab_size=64, intermediate_size=32, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8
    )
    for config in (chunked, recurrent):
        model = AutoModelForCausalLM.from_config(config)
        assert sharing_obstacle(model, packed=True) is not None
        assert "layers that are no plain attention" in sharing_obstacle(model)
