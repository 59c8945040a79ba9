# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Tokenizer and two-layer judge of the tiny world."""

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_spct.judge.fence import CONTEXT, FORMAT, RESPONSES
from trl_spct.judge.prompts import judge_template

TEMPLATE = "compact"
MAX_CRITIQUE = 56
"""Tokens of the longest critique, rounded up."""

PAD, EOS, UNK, USER, JUDGE = "<pad>", "<eos>", "<unk>", "<user>", "<judge>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<judge>' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<judge>' }}{% endif %}"
)


def fixed_phrases() -> list[str]:
    """Texts of every prompt or critique, one token each, which halves the length of a prompt."""
    phrases = ["Please score the responses.", "Specific Criteria:", "Analysis:", "Scores:", " (weight", ").\n"]
    phrases += [": good", ": poor", "[The Begin of Response]\n", "\n[The End of Response]", " The response is"]
    phrases += ["The correct score is:"]
    for i in range(1, 5):
        phrases += [f"[The Begin of Response {i}]\n", f"\n[The End of Response {i}]", f" Response {i} is"]
        phrases += [f"; Response {i} is", f"The best response is: Response {i}"]
    phrases += [f"#### {title} ####" for title in (CONTEXT, RESPONSES, FORMAT)]
    for binary in (False, True):
        template = judge_template(TEMPLATE, binary)
        phrases += [template.instructions, template.output_format]
    return sorted(set(phrases), key=len, reverse=True)


def _splitter() -> pre_tokenizers.PreTokenizer:
    words = r"\\boxed\{|\n+| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]|\s"
    return pre_tokenizers.Split(Regex("|".join([*map(re.escape, fixed_phrases()), words])), "isolated")


def pieces_of(texts: Iterable[str]) -> set[str]:
    """The words and signs of texts, with the space before them."""
    splitter = _splitter()
    return {piece for text in set(texts) for piece, _ in splitter.pre_tokenize_str(text)}


def build_tokenizer(pieces: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with exact decoding: a token is a word or sign with the space before it."""
    pieces = {*pieces, *fixed_phrases(), *(f"{space}{number}" for space in ("", " ") for number in range(11))}
    special = [PAD, EOS, UNK, USER, JUDGE]
    backend = Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate([*special, *sorted(pieces)])}, unk_token=UNK)
    )
    backend.pre_tokenizer = _splitter()
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[USER, JUDGE],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_judge(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained judge of two layers, too shallow to score without writing its principle first.

    One key-value head keeps the cache of many samples small.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.09,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)
