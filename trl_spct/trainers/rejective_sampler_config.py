# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
from dataclasses import dataclass, field

from trl import SFTConfig

from .arguments import PreferenceArguments


@dataclass
class RejectiveSamplerConfig(PreferenceArguments, SFTConfig):
    r"""
    Configuration class for the [`RejectiveSampler`].

    This class includes only the parameters that are specific to rejective fine-tuning, and those whose defaults differ
    from [`~trl.SFTConfig`]. Values marked [P] are the paper's (section 4 of arXiv 2504.02495), [?] are stated nowhere.

    Args, beside those of [`PreferenceArguments`]:
        num_generations (`int`, *optional*, defaults to `3`): Unhinted trajectories per row, N_RFT. [P]
        hint (`str`, *optional*, defaults to `"all"`):
            Rows that are sampled once more with the ground truth in the prompt: `"all"`, `"failed"` (those without a
            correct unhinted trajectory) or `"none"`. The paper has one per item [P], maybe not of all items [?].
        max_hinted_share (`float`, *optional*, defaults to `1.0`):
            Cap on the share of hinted trajectories, which may take short cuts, among those that are fine-tuned on.
            The paper has no cap. [?]
        reject_too_easy (`bool`, *optional*, defaults to `True`):
            Whether rows whose unhinted trajectories are all correct are rejected. [P]
        temperature, top_p (`float`, *optional*, defaults to `1.0`): Temperature and nucleus of the sampling. [?]
        max_completion_length (`int`, *optional*, defaults to `1024`): Longest critique in tokens. [?]
        max_thinking_tokens (`int`, *optional*):
            Tokens of them after which an open draft (`<think>`) is closed; not over an engine.
        close_critiques (`bool`, *optional*, defaults to `False`):
            Whether scores are decoded behind critiques that ended without any (not in the paper), so that a judge
            that never writes scores can begin.
        sampling_batch_size (`int`, *optional*, defaults to `64`): Critiques decoded together on each device.
        rows_per_shard (`int`, *optional*, defaults to `256`):
            Rows whose trajectories are written at once; a restart repeats at most one shard per process. Processes
            wait for each other for the time of one shard, which `ddp_timeout` must allow.
        trajectories_dir (`str`, *optional*):
            Where trajectories are written. Defaults to `trajectories` in `output_dir`.
        trajectories_hub_repo (`str`, *optional*):
            Dataset repository on the Hub that `collect()` pushes the trajectories to; `hub_private_repo` applies.
        general_ratio (`float`, *optional*, defaults to `5.75`):
            Rows of `general_dataset` per trajectory that is trained on, at most (paper: 1070K to 186K). [P]
    """

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "chat_template_kwargs"]

    learning_rate: float = field(default=5e-6, metadata={"help": "Initial learning rate (paper: 5e-6, batch 1024)."})
    max_length: int | None = field(default=None, metadata={"help": "Longest sequence; critiques need their ends."})
    num_generations: int = field(default=3, metadata={"help": "Unhinted trajectories per row (paper: 3)."})
    hint: str = field(
        default="all", metadata={"help": "Rows sampled once more with a hint.", "choices": ["all", "failed", "none"]}
    )
    max_hinted_share: float = field(default=1.0, metadata={"help": "Cap on the share of hinted trajectories."})
    reject_too_easy: bool = field(default=True, metadata={"help": "Reject rows that are always judged correctly."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus sampling."})
    max_completion_length: int = field(default=1024, metadata={"help": "Longest critique in tokens."})
    max_thinking_tokens: int | None = field(
        default=None, metadata={"help": "Tokens after which an open draft is closed, part of max_completion_length."}
    )
    close_critiques: bool = field(
        default=False, metadata={"help": "Decode the scores alone behind critiques that ended without any."}
    )
    sampling_batch_size: int = field(default=64, metadata={"help": "Critiques decoded together on each device."})
    rows_per_shard: int = field(default=256, metadata={"help": "Rows whose trajectories are written at once."})
    trajectories_dir: str | None = field(default=None, metadata={"help": "Default: `{output_dir}/trajectories`."})
    trajectories_hub_repo: str | None = field(default=None, metadata={"help": "Dataset repository to push to."})
    general_ratio: float = field(default=5.75, metadata={"help": "Rows of general data per kept trajectory, at most."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_generations", "max_completion_length", "sampling_batch_size", "rows_per_shard"):
            self.check(name, getattr(self, name) >= 1, "at least 1")
        self.check("temperature", self.temperature >= 0, "at least 0")
        self.check("top_p", 0 < self.top_p <= 1, "a number in (0, 1]")
        self.check("general_ratio", self.general_ratio >= 0, "at least 0")
        self.check("max_hinted_share", 0 <= self.max_hinted_share <= 1, "a share from 0 to 1")
        self.check("hint", self.hint in ("all", "failed", "none"), "'all', 'failed' or 'none'")
        if self.num_generations > 1:
            self.check("temperature", self.temperature > 0, "more than 0, since greedy samples are all the same")
        elif self.reject_too_easy:
            raise ValueError(
                "With num_generations=1 every correct trajectory counts as too easy; expected at least 2, or "
                "reject_too_easy=False."
            )
