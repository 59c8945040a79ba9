# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
from dataclasses import dataclass, field

from trl import RewardConfig

from ..judge.prompts import judge_template
from .arguments import JudgeArguments


@dataclass
class MetaRMTrainingConfig(JudgeArguments, RewardConfig):
    r"""
    Configuration class for the [`MetaRMTrainer`].

    This class includes only the parameters that are specific to Meta RM training, and those whose defaults differ from
    [`~trl.RewardConfig`]. Values marked [P] are the paper's (section 6 of arXiv 2504.02495), [?] are stated nowhere.

    Args:
        max_length (`int`, *optional*, defaults to `8192`):
            Longest conversation in tokens: query, responses and critique. Longer rows are invalid, and never
            truncated, since the scores come last. The default is Gemma-2's context; `None` for no limit. [?]
        invalid_rows (`str`, *optional*, defaults to `"error"`):
            Rows that cannot be used or are too long: `"error"` names the first ones, `"drop"` counts them by cause.
        pos_weight (`float`, *optional*):
            Weight of a correct critique in the loss, relative to an incorrect one. Incorrect over correct rows
            balances the classes, but then the logits are no probabilities, on which soft voting relies. [?]
        template (`str`, *optional*):
            Template of the judge whose critiques these are; by default that of the judge that the Meta RM starts from.
            Its digest is stored with the model, and the pipeline refuses a judge that reads another one.
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template, stored with the model. By default those of the judge that it starts from.

    Changed defaults: `learning_rate=1e-5` [P], `num_train_epochs=1` [?]. The paper's batch size of 512 [P] is
    `per_device_train_batch_size` × `gradient_accumulation_steps` × processes.
    """

    _VALID_DICT_FIELDS = [*RewardConfig._VALID_DICT_FIELDS, "chat_template_kwargs"]

    learning_rate: float = field(default=1e-5, metadata={"help": "Initial learning rate (paper: 1e-5, batch 512)."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the data."})
    max_length: int | None = field(default=8192, metadata={"help": "Longest conversation in tokens."})
    pos_weight: float | None = field(default=None, metadata={"help": "Weight of a correct critique in the loss."})

    def __post_init__(self):
        super().__post_init__()
        self.check("pos_weight", self.pos_weight is None or self.pos_weight > 0, "a positive number, or None")
        if self.template is not None:
            judge_template(self.template)
        expected = "None: it centers pairwise rewards, while a Meta RM's logits are fixed by binary cross-entropy"
        self.check("center_rewards_coefficient", self.center_rewards_coefficient is None, expected)
