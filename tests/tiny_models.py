# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Tiny tokenizers, configs and models, built in memory: the judges of the test suite.

Byte-level on purpose: every text round-trips exactly, whatever it holds.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"
TURN, TURN_END = "<start_of_turn>", "<end_of_turn>"
SPECIAL_TOKENS = (PAD, EOS, BOS, UNK, TURN, TURN_END)

CHAT_TEMPLATE = """{{ bos_token }}{% for message in messages -%}
{% if message['role'] == 'system' and not allow_system %}{{ raise_exception('System role not supported') }}{% endif -%}
<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{{ message['content'] }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""

CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "deepseek_v2": DeepseekV2Config,
    "gemma2": Gemma2Config,
    "granite": GraniteConfig,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
ARCHITECTURES = tuple(CONFIGS)

_OWN = {
    "deepseek_v2": {
        "kv_lora_rank": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 16,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "mistral": {"head_dim": 16, "sliding_window": None},
    "qwen3": {"head_dim": 16},
}


def tiny_tokenizer(pad_is_eos: bool = False, allow_system: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 262 tokens: 6 special ones, then every byte. `decode(encode(text)) == text`.

    Args:
        pad_is_eos (`bool`, *optional*, defaults to `False`): Pad with the end-of-sequence token, as Llamas do.
        allow_system (`bool`, *optional*, defaults to `False`):
            Whether the chat template takes a system turn. Gemma-2's, which this one copies, does not.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *letters))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=EOS if pad_is_eos else PAD,
        additional_special_tokens=[TURN, TURN_END],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE.replace("not allow_system", "false" if allow_system else "true")
    return tokenizer


def tiny_config(
    arch: str = "gemma2", tokenizer: PreTrainedTokenizerFast | None = None, **overrides
) -> PreTrainedConfig:
    """A config of 2 layers, hidden size 32, 2 heads of 16. `arch` is one of `ARCHITECTURES`; `overrides` win."""
    tokenizer = tokenizer or tiny_tokenizer()
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 8192,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **_OWN.get(arch, {}),
        **overrides,
    }
    return CONFIGS[arch](**values)


def tiny_causal_lm(
    arch: str = "gemma2", tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 0, **overrides
) -> PreTrainedModel:
    """A float32 causal LM with random weights, the same ones for the same seed; leaves the global seed alone."""
    config = tiny_config(arch, tokenizer, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.pad_token_id = config.pad_token_id
    return model.eval()


def save_tiny(path, arch: str = "gemma2", tokenizer: PreTrainedTokenizerFast | None = None, **overrides) -> str:
    """Writes a tiny causal LM with its tokenizer to a folder, and returns the folder as a string."""
    tokenizer = tokenizer or tiny_tokenizer()
    tiny_causal_lm(arch, tokenizer, **overrides).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


ON_CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
"""Training arguments of tests."""

WITHOUT_THIS_PACKAGE = """
import importlib.abc, json, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"trl_spct", "trl"}:
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Block())
from transformers import pipeline
"""
"""How a script begins that loads a judge from its own code, where neither this package nor TRL can be imported."""


_NEXT = {
    **{"\n": "\\", "\\": "b", "b": "o", "o": "x", "x": "e", "e": "d", "d": "{"},
    **{"{": "2468", **dict.fromkeys("2468", ","), ",": " ", " ": "3579", **dict.fromkeys("3579", "}")},
}


def save_writing(path, arch: str = "llama") -> str:
    """Like `save_tiny`, but a judge whose every critique is a readable box of two random scores.

    A Markov chain: each token is embedded as a direction of its own, no layer adds anything, and the output head maps
    the last token to its successors, which are equally likely. The first score is even and the second one odd, so
    that there are no ties.
    """
    tokenizer = tiny_tokenizer()
    size = 264
    model = tiny_causal_lm(arch, tokenizer, hidden_size=size, head_dim=16, tie_word_embeddings=False)
    ids = {text: tokenizer.encode(text, add_special_tokens=False)[0] for text in {*_NEXT, "}", *"2468", *"3579"}}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        model.get_input_embeddings().weight.copy_(torch.eye(size)[: len(tokenizer)])
        head = model.get_output_embeddings().weight
        head.zero_()
        for text, successors in _NEXT.items():
            head[[ids[successor] for successor in successors], ids[text]] = 10.0
        head[tokenizer.eos_token_id, ids["}"]] = 10.0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
