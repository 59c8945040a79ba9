# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Training arguments that the configurations of the three trainers share."""

import inspect
import json
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

CHECKPOINTING = "activation_checkpointing"
"""The argument of [`~transformers.TrainingArguments`] that recomputes activations in the backward pass."""
if CHECKPOINTING not in inspect.signature(TrainingArguments).parameters:
    CHECKPOINTING = "gradient_checkpointing"  # before transformers 5.24


@dataclass
class JudgeArguments:
    """Mixin for configurations of TRL."""

    template: str | None = field(
        default=None, metadata={"help": "Template: `paper`, `compact` or `official`; the judge's own by default."}
    )
    invalid_rows: str = field(
        default="error", metadata={"help": "What happens to rows that cannot be used.", "choices": ["error", "drop"]}
    )
    chat_template_kwargs: dict | str | None = field(
        default=None, metadata={"help": "Variables of the chat template as JSON; the judge's own by default."}
    )

    def __post_init__(self):
        for suffix in ("", "_kwargs"):  # TRL sets the old name by default, of which transformers warns
            if getattr(self, f"{CHECKPOINTING}{suffix}") is None:
                setattr(self, f"{CHECKPOINTING}{suffix}", getattr(self, f"gradient_checkpointing{suffix}"))
        super().__post_init__()  # type: ignore[misc]
        self.check("invalid_rows", self.invalid_rows in ("error", "drop"), "'error' or 'drop'")

        variables = self.chat_template_kwargs
        self.check("chat_template_kwargs", variables is None or isinstance(variables, dict), "a JSON object")
        json.dumps(variables)  # it is stored with the judge

    @property
    def variables(self) -> dict[str, Any]:
        """Variables of the chat template."""
        return dict(self.chat_template_kwargs or {})  # type: ignore[arg-type]

    def check(self, name: str, valid: bool, expected: str) -> None:
        """Raises a `ValueError` with the value of an argument that is not valid."""
        if not valid:
            raise ValueError(f"Found {name}={getattr(self, name)!r}; expected {expected}.")


@dataclass
class PreferenceArguments(JudgeArguments):
    """
    Mixin for configurations of trainers on preference rows.

    Args:
        template (`str`, *optional*):
            Prompt template, see [`~trl_spct.judge.prompts.judge_template`]. By default the one in the judge's
            configuration, or `"paper"`.
        invalid_rows (`str`, *optional*, defaults to `"error"`):
            What to do with rows that cannot be used, or that a server refuses to complete: `"error"` names the first
            one, `"drop"` counts them by cause.
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template, such as `{"enable_thinking": False}`, stored with the judge for all later
            prompts. By default those in its configuration. An engine that samples has its own.
        max_context_length (`int`, *optional*):
            Longest prompt and critique together, in tokens; the model's own context by default. [?]
        shuffle_responses (`bool`, *optional*, defaults to `True`):
            Whether the responses are put into a random order, drawn from `seed` and the row; in [`SPCTTrainer`] a
            fresh one each time a row is read in training. [I]
        source (`str`, *optional*):
            Adapter for public data in its own schema, see [`~trl_spct.data.sources`]. Known schemas are recognized.
    """

    max_context_length: int | None = field(default=None, metadata={"help": "Longest prompt and critique together."})
    shuffle_responses: bool = field(default=True, metadata={"help": "Put responses into a random order."})
    source: str | None = field(default=None, metadata={"help": "Adapter for public data in its own schema."})
