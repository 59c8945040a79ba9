# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
from dataclasses import dataclass, field

from trl import GRPOConfig

from .arguments import PreferenceArguments
from .meta_reward import META_REWARDS


@dataclass
class SPCTConfig(PreferenceArguments, GRPOConfig):
    r"""
    Configuration class for the [`SPCTTrainer`].

    This class includes only the parameters that are specific to SPCT, and those whose defaults differ from
    [`~trl.GRPOConfig`], whose own defaults are not the original GRPO. Values marked [P] are the paper's (section 5 of
    arXiv 2504.02495), [I] follow from it, [?] are stated nowhere.

    Args, beside those of [`PreferenceArguments`]:
        share_prompts (`bool`, *optional*, defaults to `True`):
            Whether a prompt is read once for all critiques of its group where that is possible and gains, see
            [`GroupedGRPOTrainer`]. `False` takes TRL's own path.
        easy_judge (`str`, *optional*):
            Path or id of a judge; the training rows that it gets right 3 of 3 times are removed before training [P],
            see [`~trl_spct.trainers.filtering.without_easy_for`].
        meta_rm (`str`, *optional*):
            Path or id of a frozen Meta RM, which reads the correct critiques (not in the paper). By default none.
        meta_reward (`str`, *optional*, defaults to `"none"`):
            What its word does: `"none"` keeps the paper's reward and logs it as `spct/sound`; `"product"` and `"gate"`
            make it part of the reward, see [`~trl_spct.trainers.meta_reward.MetaReward`].

    Changed defaults: `learning_rate=4e-7` [P], `beta=0.08` (27B; 0.002 for 16B) [P], `num_generations=4` [P],
    `loss_type="grpo"` (1/|o_i| per sequence) [P], `scale_rewards="group"` [P], `use_bias_correction_kl=False` (KL
    inside the token loss, as in the original) [P], `top_k=0` (no hidden truncation) [?], `max_completion_length=1024`
    [?], `vllm_importance_sampling_correction=False` [I]. Kept from TRL: `epsilon=0.2` [?], `num_iterations=1` [?],
    `temperature=1.0` [?].
    """

    learning_rate: float = field(default=4e-7, metadata={"help": "Initial learning rate (paper: 4e-7, batch 512)."})
    beta: float = field(default=0.08, metadata={"help": "KL coefficient (paper: 0.08 for 27B, 0.002 for 16B)."})
    num_generations: int | None = field(default=4, metadata={"help": "Critiques per row, G (paper: 4)."})
    loss_type: str = field(default="grpo", metadata={"help": "Loss; the original GRPO by default."})
    scale_rewards: str = field(default="group", metadata={"help": "Scale of advantages; as in the original GRPO."})
    use_bias_correction_kl: bool = field(default=False, metadata={"help": "Not part of the original GRPO."})
    top_k: int = field(default=0, metadata={"help": "Top-k sampling; none by default."})
    max_completion_length: int | None = field(default=1024, metadata={"help": "Longest critique in tokens."})
    vllm_importance_sampling_correction: bool = field(
        default=False, metadata={"help": "Not part of the original GRPO; only matters with vLLM."}
    )
    share_prompts: bool = field(default=True, metadata={"help": "Read a prompt once for its group where that gains."})
    easy_judge: str | None = field(default=None, metadata={"help": "Judge whose 3 of 3 correct rows are removed."})
    meta_rm: str | None = field(default=None, metadata={"help": "Meta RM that reads the correct critiques."})
    meta_reward: str = field(
        default="none", metadata={"help": "What the `meta_rm` does to the reward.", "choices": [*META_REWARDS]}
    )

    def __post_init__(self):
        super().__post_init__()
        self.check("meta_reward", self.meta_reward in META_REWARDS, f"one of {[*META_REWARDS]}")
        self.check("meta_reward", self.meta_rm is not None or self.meta_reward == "none", "'none' without a meta_rm")
