# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Does a Meta RM fit a judge? What it was trained with is stored in `config.meta_rm` as digests, and compared."""

import hashlib
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .meta_scoring import encode_meta
from .prompts import TEMPLATES, judge_template


# Words, digits, signs and letters beyond ASCII, in two turns: vocabularies and chat templates that agree on it agree.
_PROBE = (
    {"role": "user", "content": "Please score the responses.\n\nUser: Why, Zoë? 1234567 ≥ 89; naïve\tcafé 漢字 🙂"},
    {"role": "assistant", "content": "Specific Criteria: brevity (weight 3).\nScores: \\boxed{10, 7}"},
)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short hash of what a Meta RM reads of a fixed conversation: of the vocabulary and of the chat template."""
    return hashlib.blake2b(repr(list(encode_meta(tokenizer, _PROBE))).encode(), digest_size=6).hexdigest()


def check_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Refuses a Meta RM that would read other tokens, or critiques of another kind, than it was trained on.

    Nothing is refused for what a Meta RM does not say of itself, as the released one.

    Args:
        model ([`MetaRMForSequenceClassification`]): The Meta RM.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): What it is to be used with.
        template (`str`): Name of the judge's template.

    Raises:
        `ValueError`: if the tokenizer has more tokens than the Meta RM embeds, or is not the one that it was trained
            with; or if the judge's template is not the one whose critiques it learned from.
    """
    stored = getattr(model.config, "meta_rm", None) or {}
    embedded = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embedded:
        raise ValueError(
            f"Found a tokenizer of {len(tokenizer)} tokens for a Meta RM that embeds {embedded}; expected its own. "
            "Pass `meta_rm_tokenizer`, or the Meta RM by its path."
        )
    wanted = stored.get("tokenizer")
    if wanted is not None and wanted != tokenizer_digest(tokenizer):
        raise ValueError(
            "Found a tokenizer, or a chat template, under which a Meta RM reads other tokens than those that it was "
            f"trained on ({tokenizer_digest(tokenizer)}, expected {wanted}). Pass its own `meta_rm_tokenizer`, or the "
            "Meta RM by its path."
        )
    check_template(stored, template)


def check_template(stored: dict[str, Any] | None, template: str) -> None:
    """Refuses a Meta RM, by its `config.meta_rm`, for a judge that reads another template than the one it names."""
    wanted, found = (stored or {}).get("template"), judge_template(template).digest
    if wanted is None or wanted == found:
        return
    name = next((repr(name) for name in TEMPLATES if judge_template(name).digest == wanted), "unknown here")
    raise ValueError(
        f"Found a judge that reads the template {template!r} ({found}) and a Meta RM that learned from critiques "
        f"under another ({wanted}, {name}); its scores would mean little. Train a Meta RM on critiques of this judge, "
        "pass the `template` that it knows, or take `template` out of its `config.meta_rm` to use it all the same."
    )
