# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""One prefill per prompt, one random stream per sample: what comes out must be what `generate` would have drawn."""

import functools
import logging
import math
from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import ARCHITECTURES, save_tiny, tiny_causal_lm, tiny_tokenizer
from transformers import AddedToken, AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig, Qwen3NextConfig

from trl_spct.judge import generation, sampling
from trl_spct.judge.generation import SeededSampling, evaluating
from trl_spct.judge.orders import derive_seed
from trl_spct.judge.prompts import judge_template
from trl_spct.judge.sampling import (
    PromptTooLongError,
    Sample,
    check_lengths,
    check_tokenizer,
    decode_completions,
    encode_prompts,
    read_sample,
    sample_critiques,
    special_tokens,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def prompt(text):
    return [{"role": "user", "content": text}]


# The template adds 24 tokens; Gemma's window of 64 is shorter than the longest prompt and longer than the shortest.
PROMPTS = [prompt("Why?"), prompt("A rather long question. " * 5), prompt("Which is better, and how much?")]


@functools.cache
def judge(arch="llama"):
    return tiny_causal_lm(arch, initializer_range=0.3, tie_word_embeddings=False)


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def ids(monkeypatch, tokenizer):
    """A tokenizer that decodes to token numbers, which bytes of half a character do not hide."""

    def numbers(rows, **_):
        return [",".join(map(str, row)) for row in rows]

    monkeypatch.setattr(tokenizer, "batch_decode", numbers, raising=False)
    return tokenizer


def greedy_reference(model, tokenizer, messages, length):
    """Token numbers of plain `generate`: one prompt, no padding, no cache of ours."""
    encoded = encode_prompts(tokenizer, [messages])
    output = model.generate(
        torch.tensor(encoded),
        attention_mask=torch.ones(1, len(encoded[0]), dtype=torch.long),
        max_new_tokens=length,
        do_sample=False,
    )
    return output[0, len(encoded[0]) :].tolist()


def numbers(sample):
    return [int(number) for number in sample.text.split(",")]


# --- the same as `generate` ---


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_is_generate(arch, ids):
    model = judge(arch)
    got = sample_critiques(model, ids, PROMPTS, k=[1, 2, 3], temperature=0, max_new_tokens=12)
    want = [greedy_reference(model, ids, messages, 12) for messages in PROMPTS]
    assert [[numbers(sample) for sample in samples] for samples in got] == [[w] * k for w, k in zip(want, (1, 2, 3))]
    assert len({tuple(w) for w in want}) == 3 and all(len({*w}) > 1 for w in want), "outputs depend on the prompt"


def test_gemma_window_is_shorter_than_a_prompt_and_matters(ids):
    lengths = [len(encoded) for encoded in encode_prompts(ids, PROMPTS)]
    assert min(lengths) < judge("gemma2").config.sliding_window < max(lengths)
    wide = tiny_causal_lm("gemma2", initializer_range=0.3, tie_word_embeddings=False, sliding_window=4096)
    long = PROMPTS[1:2]
    narrow = sample_critiques(judge("gemma2"), ids, long, temperature=0, max_new_tokens=12)
    assert narrow != sample_critiques(wide, ids, long, temperature=0, max_new_tokens=12)


def test_greedy_with_recurrent_layers(ids):
    config = Qwen3NextConfig(
        vocab_size=262, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=16,
        linear_value_head_dim=16, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, initializer_range=0.3, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    got = sample_critiques(model, ids, PROMPTS[:1], k=2, temperature=0, max_new_tokens=8)
    assert [numbers(sample) for sample in got[0]] == [greedy_reference(model, ids, PROMPTS[0], 8)] * 2


@pytest.mark.parametrize("texts", [["a"], ["a", "abcdef"], ["ab"], ["ab", "a"]])
def test_very_short_prompts(texts, ids):
    """One token: nothing to prefill, and beside a longer prompt a row of padding only."""
    ids.chat_template = "{{ messages[0]['content'] }}"
    prompts = [prompt(text) for text in texts]
    got = sample_critiques(judge(), ids, prompts, temperature=0, max_new_tokens=6)
    assert [numbers(s[0]) for s in got] == [greedy_reference(judge(), ids, messages, 6) for messages in prompts]


def test_a_prompt_without_tokens(tokenizer):
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match="Prompt 1 has no tokens"):
        sample_critiques(judge(), tokenizer, [prompt("a"), prompt("")], max_new_tokens=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tokenizer):
    model = tiny_causal_lm("llama", initializer_range=0.3).to(dtype)
    samples = sample_critiques(model, tokenizer, PROMPTS, k=3, seed=0, temperature=1.0, top_p=0.9, max_new_tokens=4)
    assert [len(s) for s in samples] == [3, 3, 3] and len({s.text for group in samples for s in group}) > 5


def test_padding_with_the_end_token_changes_nothing():
    model = judge()
    plain, doubled = tiny_tokenizer(), tiny_tokenizer(pad_is_eos=True)
    assert doubled.pad_token_id == doubled.eos_token_id
    kwargs = {"k": 3, "seed": 1, "temperature": 1.0, "max_new_tokens": 30}
    assert sample_critiques(model, plain, PROMPTS, **kwargs) == sample_critiques(model, doubled, PROMPTS, **kwargs)


# --- one stream per sample ---


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 64])
def test_batch_size_does_not_matter(batch_size, ids):
    kwargs = {"k": [5, 1, 4], "seed": 3, "temperature": 1.0, "max_new_tokens": 10}
    want = sample_critiques(judge(), ids, PROMPTS, **kwargs, batch_size=1000)
    assert [len(samples) for samples in want] == [5, 1, 4]
    assert len({sample.text for sample in want[0]}) == 5, "samples of a prompt are drawn independently"
    assert sample_critiques(judge(), ids, PROMPTS, **kwargs, batch_size=batch_size) == want


def test_neighbors_and_order_do_not_matter(ids):
    kwargs = {"k": 3, "seed": 3, "temperature": 1.0, "max_new_tokens": 10}
    want = sample_critiques(judge(), ids, PROMPTS, **kwargs)
    assert sample_critiques(judge(), ids, PROMPTS[::-1], **kwargs) == want[::-1]
    assert [sample_critiques(judge(), ids, [messages], **kwargs)[0] for messages in PROMPTS] == want


def test_more_samples_begin_with_fewer(ids):
    kwargs = {"seed": 3, "temperature": 1.0, "max_new_tokens": 6}
    many = sample_critiques(judge(), ids, PROMPTS, k=6, batch_size=4, **kwargs)
    assert sample_critiques(judge(), ids, PROMPTS, k=2, **kwargs) == [samples[:2] for samples in many]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(ids):
    kwargs = {"seed": 0, "temperature": 1.0, "max_new_tokens": 8}
    many = sample_critiques(judge(), ids, PROMPTS, k=5, **kwargs)
    later = sample_critiques(judge(), ids, PROMPTS, k=[1, 2, 3], first=[4, 0, 2], batch_size=2, **kwargs)
    assert later == [many[0][4:], many[1][:2], many[2][2:]]
    with pytest.raises(ValueError, match=r"first=\[0\] for 3 prompts"):
        sample_critiques(judge(), ids, PROMPTS, first=[0], **kwargs)


def test_seeds(ids):
    def draw(seed):
        return sample_critiques(judge(), ids, PROMPTS, k=2, seed=seed, temperature=1.0, max_new_tokens=8)

    assert draw(0) == draw(0) != draw(1)
    torch.manual_seed(5)
    first, second = draw(None), draw(None)
    torch.manual_seed(5)
    assert draw(None) == first != second, "without a seed, torch's global generator decides"


def test_equal_prompts_get_equal_samples(ids):
    one, other = sample_critiques(judge(), ids, [PROMPTS[0]] * 2, k=2, seed=0, temperature=1.0, max_new_tokens=8)
    assert one == other


def test_the_global_generator_is_left_alone(ids):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sample_critiques(judge(), ids, PROMPTS, k=2, seed=0, temperature=1.0, max_new_tokens=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_derived_seeds():
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1) < 2**64
    assert len({derive_seed(s, *p) for s in (0, 1) for p in ((), ("a",), ("a", "b"), ("ab",), (1, 2), (12,))}) == 12


def test_stored_samples(ids):
    """What this seed gave before prompts shared anything."""
    kwargs = {"k": 2, "seed": 3, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 8}
    got = sample_critiques(judge(), ids, [PROMPTS[0], PROMPTS[2]], **kwargs)
    assert [[sample.text for sample in group] for group in got] == [
        ["181,36,257,104,79,14,224,87", "142,212,115,209,183,62,139,190"],
        ["105,104,126,89,219,256,210,261", "96,204,36,10,96,207,11,3"],
    ]


# --- what prompts share ---


def positions_read(model):
    """Counts the token positions that the model's forward passes compute."""
    counted = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: counted.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return counted, handle


@pytest.mark.parametrize("arch", ["llama", "gemma2", "deepseek_v2"])
def test_a_shared_head_is_read_once_and_changes_nothing(arch, ids):
    """One head, two conversations, two orders each; and one prompt that shares nothing."""
    head, orders = "A template that all rows begin with. " * 9, ("One, then two.", "Two, then one.")
    texts = [f"{head}{query * 40}{order}" for query in "ab" for order in orders] + ["c" * 300]
    prompts = [prompt(text) for text in texts]
    lengths = [len(encoded) for encoded in encode_prompts(ids, prompts)]
    want = [greedy_reference(judge(arch), ids, messages, 5) for messages in prompts]
    got = sample_critiques(judge(arch), ids, prompts, k=2, temperature=0, max_new_tokens=5)
    assert [[numbers(sample) for sample in samples] for samples in got] == [[w] * 2 for w in want]
    for batch_size in (1, 4, 64):
        counted, handle = positions_read(judge(arch))
        got = sample_critiques(
            judge(arch), ids, prompts[:4], k=2, temperature=0, max_new_tokens=5, batch_size=batch_size
        )
        handle.remove()
        assert [[numbers(sample) for sample in samples] for samples in got] == [[w] * 2 for w in want[:4]]
        assert sum(counted) < sum(lengths[:4]) * (0.6 if batch_size != 4 else 0.95)


@pytest.mark.parametrize("segment", [1, 3, 1000])
def test_rows_that_leave_the_batch_change_nothing(segment, ids, monkeypatch):
    kwargs = {"k": 10, "seed": 0, "temperature": 2.0, "max_new_tokens": 33}
    want = sample_critiques(judge(), ids, PROMPTS, **kwargs)
    assert len({sample.num_tokens for group in want for sample in group}) > 3, "the test needs ends at different steps"
    monkeypatch.setattr(generation, "SEGMENT", segment)
    assert sample_critiques(judge(), ids, PROMPTS, **kwargs) == want


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_copied_prompts_give_the_same(arch, ids, monkeypatch):
    """For attention that cannot be replaced, and where it would not pay."""
    kwargs = {"k": [5, 1, 4], "seed": 3, "temperature": 1.0, "max_new_tokens": 10}
    want = sample_critiques(judge(arch), ids, PROMPTS, **kwargs)
    monkeypatch.setattr(generation, "worth_sharing", lambda *args: False)
    assert sample_critiques(judge(arch), ids, PROMPTS, **kwargs) == want


# --- the law that samples follow ---

N = 16000


def check_law(tokens, law):
    """Total variation within what N draws from `law` leave: the mean by Jensen, the rest by McDiarmid (p < 1e-6)."""
    law = law / law.sum()
    counts = Counter(tokens)
    seen = torch.tensor([counts[i] / N for i in range(len(law))], dtype=torch.float64)
    distance = (seen - law).abs().sum() / 2
    limit = (law * (1 - law) / N).sqrt().sum() / 2 + math.sqrt(math.log(1e6) / (2 * N))
    return float(distance), float(limit)


@functools.cache
def first_logits():
    encoded = torch.tensor(encode_prompts(tiny_tokenizer(), PROMPTS[:1]))
    with torch.no_grad():
        return judge()(encoded).logits[0, -1].double()


def first_tokens(tokenizer, **kwargs):
    samples = sample_critiques(
        judge(), tokenizer, PROMPTS[:1], k=N, seed=0, max_new_tokens=1, batch_size=4000, **kwargs
    )
    return [int(sample.text) for sample in samples[0]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_first_tokens_follow_the_softmax(temperature, ids):
    tokens = first_tokens(ids, temperature=temperature)
    law = (first_logits() / temperature).softmax(-1)
    distance, limit = check_law(tokens, law)
    assert distance < limit
    other, limit = check_law(tokens, (first_logits() / (temperature * 2)).softmax(-1))
    assert other > limit, "the test tells temperatures apart"


def test_no_hidden_top_k(ids):
    tokens = first_tokens(ids, temperature=3.0)
    law = (first_logits() / 3).softmax(-1)
    top = torch.zeros_like(law).index_fill(0, law.topk(50).indices, 1) * law
    assert check_law(tokens, top)[0] > 2 * check_law(tokens, top)[1], "50 tokens would be another law"
    assert len({*tokens}) > 100


def test_top_p(ids):
    tokens = first_tokens(ids, temperature=1.0, top_p=0.5)
    law = first_logits().softmax(-1)
    ranked = law.sort(descending=True)
    size = int((ranked.values.cumsum(0) < 0.5).sum()) + 1  # the smallest set with at least half of the mass
    nucleus = ranked.indices[:size]
    assert {*tokens} == {*nucleus.tolist()}
    distance, limit = check_law(tokens, torch.zeros_like(law).index_fill(0, nucleus, 1) * law)
    assert distance < limit


def test_inverse_cumulative_by_hand():
    scores = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log().expand(5, -1)  # a token of probability 0 at place 1
    uniforms = torch.tensor([[0.0], [0.1999], [0.2001], [0.6999], [1 - 2**-53]], dtype=torch.float64)
    drawn = SeededSampling(uniforms, prompt_length=7, temperature=1.0)(torch.zeros(5, 7, dtype=torch.long), scores)
    assert drawn.argmax(-1).tolist() == [0, 0, 2, 2, 3]
    assert drawn.isfinite().sum(-1).tolist() == [1] * 5


def test_each_step_has_its_own_number():
    scores = torch.zeros(1, 4)
    processor = SeededSampling(torch.tensor([[0.1, 0.9, 0.4]], dtype=torch.float64), 5, 1.0)
    steps = [processor(torch.zeros(1, 5 + step, dtype=torch.long), scores).argmax().item() for step in range(3)]
    assert steps == [0, 3, 1]


def test_a_tiny_temperature_is_greedy(ids):
    cold = sample_critiques(judge(), ids, PROMPTS, seed=0, temperature=1e-42, max_new_tokens=5)
    assert cold == sample_critiques(judge(), ids, PROMPTS, temperature=0, max_new_tokens=5)


# --- ends ---


def constant(token):
    """A judge that writes one token for ever."""
    model = tiny_causal_lm("llama")
    model.lm_head = torch.nn.Linear(32, 262, bias=True)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[token] = 50.0
    return model


def test_truncated_and_counted(tokenizer):
    letter = tokenizer.encode("x", add_special_tokens=False)[0]
    endless = sample_critiques(constant(letter), tokenizer, PROMPTS[:1], temperature=0, max_new_tokens=7)
    assert endless == [[Sample("x" * 7, num_tokens=7, truncated=True)]]
    silent = sample_critiques(constant(tokenizer.eos_token_id), tokenizer, PROMPTS[:1], max_new_tokens=7)
    assert silent == [[Sample("", num_tokens=1, truncated=False)]]
    at_the_limit = sample_critiques(constant(tokenizer.eos_token_id), tokenizer, PROMPTS[:1], max_new_tokens=1)
    assert not at_the_limit[0][0].truncated


def test_any_end_token_of_the_generation_config_ends(tokenizer):
    turn_end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    model = constant(turn_end)
    assert sample_critiques(model, tokenizer, PROMPTS[:1], max_new_tokens=4)[0][0].truncated
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, turn_end]
    assert sample_critiques(model, tokenizer, PROMPTS[:1], max_new_tokens=4) == [[Sample("", 1, False)]]
    model.generation_config.eos_token_id = turn_end
    assert sample_critiques(model, tokenizer, PROMPTS[:1], max_new_tokens=4) == [[Sample("", 1, False)]]


def test_the_tokenizer_ends_where_the_model_is_silent_about_it(tokenizer):
    model = constant(tokenizer.eos_token_id)
    model.generation_config.eos_token_id = None
    assert not sample_critiques(model, tokenizer, PROMPTS[:1], max_new_tokens=4)[0][0].truncated
    tokenizer.eos_token = None
    model.config.eos_token_id = None
    assert sample_critiques(model, tokenizer, PROMPTS[:1], max_new_tokens=4)[0][0].truncated


def test_rows_that_end_at_different_steps(ids):
    """Each text stops at its own first end token, and holds none of the padding behind it."""
    samples = sample_critiques(judge(), ids, PROMPTS, k=30, seed=0, temperature=2.0, max_new_tokens=40)
    samples = [sample for group in samples for sample in group]
    ended = [sample for sample in samples if not sample.truncated]
    assert len({sample.num_tokens for sample in ended}) > 3, "the test needs ends at different steps"
    for sample in samples:
        tokens = numbers(sample)
        assert len(tokens) == sample.num_tokens
        assert tokens.count(ids.eos_token_id) == int(not sample.truncated)
        assert (tokens[-1] == ids.eos_token_id) is not sample.truncated
        assert sample.truncated is (len(tokens) == 40 and tokens[-1] != ids.eos_token_id)


def test_a_truncated_sample_has_no_scores():
    box = r"\boxed{8, 3}"
    assert read_sample(Sample(box, 5, truncated=False), 2, judge_template()).scores == (8, 3)
    cut = read_sample(Sample(box, 5, truncated=True), 2, judge_template())
    assert (cut.scores, cut.problem, cut.text) == (None, "truncated", box)


# --- what the model brings along ---

HIDDEN = [
    {"repetition_penalty": 1.8},  # Qwen2.5 has 1.05
    {"cache_implementation": "hybrid"},  # Gemma-2 has it
    {"cache_implementation": "static"},
    {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"num_beams": 3},
    {"num_return_sequences": 3, "do_sample": True},
    {"return_dict_in_generate": True},
    {"use_cache": False},
    {"no_repeat_ngram_size": 2},
    {"max_length": 20},
    {"stop_strings": ["a"]},
    {"forced_eos_token_id": 1},
    {"max_time": 1e-9},
    {"prompt_lookup_num_tokens": 3},
]


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_the_generation_config_changes_no_sample_and_stays(hidden, ids, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = judge()
    kwargs = {"k": 2, "seed": 0, "temperature": 1.0, "max_new_tokens": 12}
    want = sample_critiques(model, ids, PROMPTS, **kwargs)
    config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    for name, value in hidden.items():
        setattr(config, name, value)
    before = config.to_dict()
    monkeypatch.setattr(model, "generation_config", config)
    caplog.clear()
    assert sample_critiques(model, ids, PROMPTS, **kwargs) == want
    assert model.generation_config is config and config.to_dict() == before
    assert not caplog.records, [record.message for record in caplog.records]


def test_the_generation_config_returns_after_an_error(tokenizer, monkeypatch):
    model = judge()
    config = model.generation_config
    monkeypatch.setattr(sampling, "_uniforms", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample_critiques(model, tokenizer, PROMPTS, max_new_tokens=2)
    assert model.generation_config is config


def test_no_warning_about_the_tokenizers_own_limit(tokenizer, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer.model_max_length = 10
    assert len(encode_prompts(tokenizer, PROMPTS[:1])[0]) > 10
    assert not caplog.records


def test_numbers_that_are_none(tokenizer):
    model = tiny_causal_lm("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    for temperature in (0, 1.0):
        with pytest.raises(FloatingPointError, match="bfloat16"):
            sample_critiques(model, tokenizer, PROMPTS, temperature=temperature, max_new_tokens=2)


# --- modes, adapters, quantization ---


def test_modes_return_module_by_module():
    model = tiny_causal_lm("llama").train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    assert len({*before.values()}) == 2
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize("training", [False, True])
def test_sampling_is_evaluation_and_leaves_the_mode(training, ids):
    model = tiny_causal_lm("llama", initializer_range=0.3, attention_dropout=0.9).train(training)
    model.gradient_checkpointing_enable()
    kwargs = {"k": 2, "seed": 0, "temperature": 1.0, "max_new_tokens": 8}
    got = sample_critiques(model, ids, PROMPTS, **kwargs)
    assert got == sample_critiques(tiny_causal_lm("llama", initializer_range=0.3), ids, PROMPTS, **kwargs)
    assert model.training is training and model.model.layers[0].self_attn.training is training


def test_lora(ids):
    torch.manual_seed(0)
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.5)
    model = get_peft_model(tiny_causal_lm("llama", initializer_range=0.3), lora).train()
    config = model.get_base_model().generation_config
    config.repetition_penalty = 1.5
    kwargs = {"k": 2, "seed": 0, "temperature": 0.7, "max_new_tokens": 8}
    got = sample_critiques(model, ids, PROMPTS, **kwargs)
    assert model.training and model.get_base_model().generation_config is config is model.generation_config
    with model.disable_adapter():
        assert sample_critiques(model, ids, PROMPTS, **kwargs) != got, "the adapter takes part"
    assert sample_critiques(model.merge_and_unload(), ids, PROMPTS, **kwargs) == got


def gradient_norms(model):
    encoded = torch.tensor([[2, *range(10, 40)]])
    model(input_ids=encoded, labels=encoded).loss.backward()
    return {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}


def quantized_judge(path):
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(path, quantization_config=quantization, dtype=torch.bfloat16)
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False)).train()


def test_training_a_4bit_model_after_sampling(tmp_path, tokenizer):
    """bitsandbytes repacks 4-bit weights in an evaluation forward on some CPUs, which costs gradients afterwards."""
    bnb = pytest.importorskip("bitsandbytes")
    path = save_tiny(tmp_path, "llama", tokenizer, initializer_range=0.2, hidden_size=64, intermediate_size=128)
    want = gradient_norms(quantized_judge(path))
    model = quantized_judge(path)
    sample_critiques(model, tokenizer, PROMPTS[:1], k=2, max_new_tokens=3)
    got = gradient_norms(model)
    assert got == pytest.approx(want, rel=1e-2) and len(got) == 2 * 7 * 2
    assert min(got.values()) > 0
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(layers) == 14
    assert not any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in layers)


# --- refusals ---


def test_tokenizers_that_do_not_fit(tokenizer):
    check_tokenizer(tokenizer)
    without_template, without_pad = tiny_tokenizer(), tiny_tokenizer()
    without_template.chat_template = None
    without_pad.pad_token = None
    for broken, message in ((without_template, "no chat template"), (without_pad, "no pad token")):
        with pytest.raises(ValueError, match=message):
            sample_critiques(judge(), broken, PROMPTS)


def test_context_overflow(tokenizer):
    model = tiny_causal_lm("llama", max_position_embeddings=200)
    lengths = [len(encoded) for encoded in encode_prompts(tokenizer, PROMPTS)]
    fits = 200 - max(lengths)
    sample_critiques(model, tokenizer, PROMPTS, max_new_tokens=fits)
    text = rf"Prompt 1: the prompt has {lengths[1]} tokens, and with up to {fits + 1} tokens .* context of 200"
    with pytest.raises(PromptTooLongError, match=text) as caught:
        sample_critiques(model, tokenizer, PROMPTS, max_new_tokens=fits + 1)
    assert isinstance(caught.value, ValueError) and caught.value.row == 1
    check_lengths([10**9], 1, None)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"k": 0}, "k=0 for 3 prompts"),
        ({"k": [1, 2]}, r"k=\[1, 2\] for 3 prompts"),
        ({"k": [1, 2, 0]}, "at least 1 for each"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": -4}, "batch_size=-4"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ],
    ids=str,
)
def test_options_out_of_range(kwargs, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        sample_critiques(judge(), tokenizer, PROMPTS, **kwargs)


def test_nothing_to_do(tokenizer):
    assert sample_critiques(judge(), tokenizer, []) == []


def test_special_tokens(tokenizer):
    assert set(special_tokens(tokenizer)) == {"<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>"}


# --- drafts ---


def test_variables_of_the_chat_template():
    tokenizer, model = tiny_tokenizer(), tiny_causal_lm("llama", initializer_range=0.3)
    plain = tokenizer.chat_template
    tokenizer.chat_template = "{{ day or '' }}" + plain
    options = {"k": 2, "seed": 0, "max_new_tokens": 6}
    drawn = sample_critiques(model, tokenizer, PROMPTS, chat_template_kwargs={"day": "Monday"}, **options)
    assert drawn != sample_critiques(model, tokenizer, PROMPTS, **options)
    tokenizer.chat_template = "Monday" + plain
    assert drawn == sample_critiques(model, tokenizer, PROMPTS, **options)


def test_a_sample_knows_that_its_prompt_ended_with_an_open_draft(tokenizer):
    model = judge()
    (plain,) = sample_critiques(model, tokenizer, PROMPTS[:1], 1, 0, max_new_tokens=2)
    tokenizer.chat_template += "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    (opened,) = sample_critiques(model, tokenizer, PROMPTS[:1], 1, 0, max_new_tokens=2)
    assert not plain[0].prefilled and opened[0].prefilled
    draft = Sample(r"Maybe \boxed{8, 3}", 5, truncated=False, prefilled=True)
    assert read_sample(draft, 2, judge_template()).problem == "missing"
    answer = Sample(r"Maybe \boxed{8, 3}</think>\boxed{3, 8}", 5, truncated=False, prefilled=True)
    assert read_sample(answer, 2, judge_template()).scores == (3, 8)


@pytest.mark.parametrize("listed", [True, False])
def test_tags_of_a_draft_are_read_where_they_are_special_tokens(tokenizer, listed):
    tags = ["[THINK]", "[/THINK]", "<|im_end|>"]
    if listed:
        tokenizer.add_special_tokens({"additional_special_tokens": tags})
    else:  # in `tokenizer.json` alone
        tokenizer.add_tokens([AddedToken(tag, special=True) for tag in tags])
        assert not {*tags} & {*tokenizer.all_special_tokens}
    ids = tokenizer.encode(r"[THINK]\boxed{1, 2}[/THINK]\boxed{8, 3}<|im_end|>", add_special_tokens=False)
    (text,) = decode_completions(tokenizer, [ids])
    assert text == r"[THINK]\boxed{1, 2}[/THINK]\boxed{8, 3}"
