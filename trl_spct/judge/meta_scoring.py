# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Critiques to Meta RM scores. Training and inference tokenize here, and nowhere else (paper, section 2.4)."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .sampling import evaluating
from .shared_prompts import PrefixReader, can_share, families, shared_lengths


_FAMILY = 2  # Batches that a shared beginning must fill to be kept for all of them

Conversation = Sequence[Mapping[str, str]]


def encode_meta(tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> list[int]:
    """
    The token ids that a Meta RM reads: the conversation in the tokenizer's chat template, without a generation prompt.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The Meta RM's own tokenizer.
        messages (sequence of messages): What [`~trl_spct.judge.prompts.meta_messages`] returns.

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

    Critiques of the same responses in the same order share the whole user turn, which is then read once for all of
    them. Architectures that keep more than keys and values read each conversation whole.

    Args:
        model ([`MetaRMForSequenceClassification`]): The Meta RM, or an adapter over one. Its mode is restored.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The Meta RM's own tokenizer.
        conversations (sequence of conversations): What [`meta_messages`] returns, one per critique.
        batch_size (`int`, *optional*, defaults to `8`): Conversations of similar length that are read at once.

    Returns:
        `list[float]` as long as `conversations`.
    """
    if batch_size < 1:
        raise ValueError(f"Found batch_size={batch_size}; expected at least 1.")
    encoded = [tuple(encode_meta(tokenizer, messages)) for messages in conversations]
    distinct = sorted(set(encoded))  # a judge that is sure of itself repeats itself
    read = _shared_logits if can_share(model.config) else _plain_logits
    scores: dict[tuple[int, ...], float] = {}
    with evaluating(model):
        for batch, logits in read(model, distinct, batch_size, tokenizer.pad_token_id or 0):
            scores.update(zip(batch, logits.reshape(-1).float().tolist(), strict=True))
    return [scores[ids] for ids in encoded]


def _shared_logits(
    model: PreTrainedModel, rows: Sequence[tuple[int, ...]], batch_size: int, pad_token_id: int
) -> Iterator[tuple[list[tuple[int, ...]], torch.Tensor]]:
    """Batches with their logits; the conversation before critiques of it is read once for all of them."""
    shared = shared_lengths(rows)
    reader = PrefixReader(model, pad_token_id)
    for length, order in families(rows, shared, [1] * len(rows), _FAMILY * batch_size):
        root = reader.read([rows[order[0]][:length]], [()])[1] if length else None
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            batch = [rows[i] for i in numbers]
            yield batch, reader.read(batch, [shared[i] for i in numbers], root, keep=False)[0].logits


def _plain_logits(
    model: PreTrainedModel, rows: Sequence[tuple[int, ...]], batch_size: int, pad_token_id: int
) -> Iterator[tuple[list[tuple[int, ...]], torch.Tensor]]:
    """Batches with their logits, each conversation read whole, for models that cannot share."""
    rows = sorted(rows, key=len, reverse=True)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        input_ids, attention_mask = _right_padded(batch, pad_token_id).to(model.device)
        yield batch, model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def _right_padded(rows: Sequence[Sequence[int]], pad_token_id: int) -> torch.Tensor:
    """Token ids and their attention mask, stacked to shape (2, B, T)."""
    length = max(map(len, rows))
    ids = [[*row, *[pad_token_id] * (length - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return torch.tensor([ids, mask])
