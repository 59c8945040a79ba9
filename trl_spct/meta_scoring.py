# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Critiques to Meta RM scores. Training and inference tokenize here, and nowhere else (paper, section 2.4)."""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .sampling import evaluating


Conversation = Sequence[Mapping[str, str]]


def encode_meta(tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> list[int]:
    """
    The token ids that a Meta RM reads: the conversation in the tokenizer's chat template, without a generation prompt.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The Meta RM's own tokenizer.
        messages (sequence of messages): What [`~trl_spct.prompts.meta_messages`] returns.

    Raises:
        `ValueError`: if the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "Found a tokenizer without a chat template; expected one, since a Meta RM reads a user and an assistant "
            "turn. Set `tokenizer.chat_template`, or `chat_template_path` when training."
        )
    return tokenizer.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=False, return_dict=False)


@torch.no_grad()
def meta_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    batch_size: int = 8,
) -> list[float]:
    """
    One unbounded logit per conversation, in the order given; the higher, the more likely the critique is correct.

    Args:
        model ([`MetaRMForSequenceClassification`]): The Meta RM, or an adapter over one. Its mode is restored.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The Meta RM's own tokenizer.
        conversations (sequence of conversations): What [`~trl_spct.prompts.meta_messages`] returns, one per critique.
        batch_size (`int`, *optional*, defaults to `8`): Conversations of similar length that are read at once.

    Returns:
        `list[float]` as long as `conversations`.
    """
    if batch_size < 1:
        raise ValueError(f"Found batch_size={batch_size}; expected at least 1.")
    encoded = [tuple(encode_meta(tokenizer, messages)) for messages in conversations]
    distinct = sorted(set(encoded), key=len, reverse=True)  # a judge that is sure of itself repeats itself
    scores: dict[tuple[int, ...], float] = {}
    with evaluating(model):
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            inputs = _right_padded(batch, tokenizer.pad_token_id or 0).to(model.device)
            logits = model(input_ids=inputs[0], attention_mask=inputs[1], use_cache=False).logits
            scores.update(zip(batch, logits.reshape(-1).float().tolist(), strict=True))
    return [scores[ids] for ids in encoded]


def _right_padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> torch.Tensor:
    """Token ids and their attention mask, stacked to shape (2, B, T)."""
    length = max(map(len, rows))
    ids = [[*row, *[pad_token_id] * (length - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return torch.tensor([ids, mask])
