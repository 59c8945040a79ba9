# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Meta RM scores of critiques, and whether a Meta RM fits a judge (paper, section 2.4)."""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .costs import spend
from .dates import dated_template, undated_template
from .generation import evaluating
from .modeling_meta_rm import MetaRMForSequenceClassification
from .prompts import TEMPLATES, judge_template
from .shared_prompts import PrefixReader, can_share, families, shared_lengths

_FAMILY = 2  # Batches that a shared beginning must fill to be kept for all of them

Conversation = Sequence[Mapping[str, str]]


def load_meta_rm(name: str | os.PathLike, dtype: torch.dtype, place: dict[str, Any]) -> PreTrainedModel:
    """Loads the Meta RM of a judge from a folder or the Hub, with the judge's dtype; its head must be stored."""
    try:
        return MetaRMForSequenceClassification.load_trained(name, dtype=dtype, **place)
    except (OSError, ValueError) as error:  # which is of either kind where a folder or its config is missing
        raise OSError(
            f"Could not load the Meta RM {str(name)!r}{f' {place}' if place else ''}: {error} Pass another "
            "`meta_rm`, or `meta_rm=None` to vote without one."
        ) from error


def is_engine(meta_rm: Any) -> bool:
    """Whether a Meta RM is a callable on rows of token ids, such as a [`~trl_spct.engines.MetaRMEngine`]."""
    return callable(meta_rm) and not isinstance(meta_rm, torch.nn.Module)


def encode_meta(tokenizer: PreTrainedTokenizerBase, messages: Conversation, **template_kwargs: Any) -> list[int]:
    """The token ids of a conversation in a Meta RM's chat template, in training and inference."""
    if tokenizer.chat_template is None:
        raise ValueError(
            "Found a tokenizer without a chat template; expected one, since a Meta RM reads a user and an assistant "
            "turn. Set `tokenizer.chat_template`, or `chat_template_path` when training."
        )
    options: dict[str, Any] = {"return_dict": False, **dated_template(tokenizer), **template_kwargs}
    ids = tokenizer.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=False, **options)
    return cast(list[int], ids)


@torch.no_grad()
def meta_scores(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    batch_size: int = 8,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[float]:
    """One unbounded logit per conversation, in the order given; the higher, the more likely the critique is correct.

    `conversations` are what [`~trl_spct.judge.prompts.meta_messages`] returns. Critiques of the same responses in the
    same order share the user turn, which is read once for all of them, except by architectures that keep more than
    keys and values. For engines see [`is_engine`].
    """
    if batch_size < 1:
        raise ValueError(f"Found batch_size={batch_size}; expected at least 1.")
    variables = chat_template_kwargs or {}
    encoded = [tuple(encode_meta(tokenizer, messages, **variables)) for messages in conversations]
    if is_engine(model):
        return model(encoded)
    distinct = sorted(set(encoded))  # a judge that is sure of itself repeats itself
    # An encoder, whose head is no `score`, keeps no keys and values, and counts its positions from the left.
    read = _shared_logits if hasattr(model, "score") and can_share(model.config) else _plain_logits
    scores: dict[tuple[int, ...], float] = {}
    with evaluating(model):
        for batch, logits in read(model, distinct, batch_size, tokenizer.pad_token_id or 0):
            scores.update(zip(batch, logits.reshape(-1).float().tolist(), strict=True))
    return [scores[ids] for ids in encoded]


def _shared_logits(
    model: PreTrainedModel, rows: Sequence[tuple[int, ...]], batch_size: int, pad_token_id: int
) -> Iterator[tuple[list[tuple[int, ...]], torch.Tensor]]:
    """Batches with their logits; what critiques share is read once for all of them."""
    shared = shared_lengths(rows)
    reader = PrefixReader(model, pad_token_id, purpose="scored")
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
        spend(scored=sum(map(len, batch)))
        ids = pad_sequence([torch.tensor(row) for row in batch], batch_first=True, padding_value=pad_token_id)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in batch], batch_first=True)
        ids, mask = ids.to(model.device), mask.to(model.device)
        yield batch, model(input_ids=ids, attention_mask=mask, use_cache=False).logits


# Words, digits, signs and letters beyond ASCII, in two turns: vocabularies and chat templates that agree on it agree.
_PROBE = (
    {"role": "user", "content": "Please score the responses.\n\nUser: Why, Zoë? 1234567 ≥ 89; naïve\tcafé 漢字 🙂"},
    {"role": "assistant", "content": "Specific Criteria: brevity (weight 3).\nScores: \\boxed{10, 7}"},
)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short hash of the tokens of a fixed conversation without a date: of the vocabulary and the chat template."""
    tokens = encode_meta(tokenizer, _PROBE, **undated_template(tokenizer))
    return hashlib.blake2b(repr(list(tokens)).encode(), digest_size=6).hexdigest()


def check_fit(model: Any, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Refuses a Meta RM that would read other tokens or critiques of another template than in training, by what its
    config says; that of the released one says nothing."""
    stored = getattr(model.config, "meta_rm", None) or {}
    embedded = math.inf if is_engine(model) else model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embedded:
        raise ValueError(
            f"Found a tokenizer of {len(tokenizer)} tokens for a Meta RM that embeds {embedded}; expected its own. "
            "Pass `meta_rm_tokenizer`, or the Meta RM by its path."
        )
    wanted = stored.get("tokenizer")
    if wanted is not None and wanted != tokenizer_digest(tokenizer):
        raise ValueError(
            "Found a tokenizer or chat template that gives a Meta RM other tokens than it was trained on "
            f"({tokenizer_digest(tokenizer)}, expected {wanted}). Pass its own `meta_rm_tokenizer`, or the Meta RM by "
            "its path."
        )
    check_template(stored, template)


def check_template(stored: dict[str, Any] | None, template: str) -> None:
    """Refuses a Meta RM whose `config.meta_rm` names another template than the judge's."""
    wanted, digest = (stored or {}).get("template"), judge_template(template).digest
    if wanted is None or wanted == digest:
        return
    name = next((repr(name) for name in TEMPLATES if judge_template(name).digest == wanted), "unknown here")
    raise ValueError(
        f"Found a judge that reads the template {template!r} ({digest}) and a Meta RM that learned from critiques "
        f"under another ({wanted}, {name}); its scores would mean little. Train a Meta RM on critiques of this judge, "
        "pass the `template` that it knows, or take `template` out of its `config.meta_rm` to use it all the same."
    )
