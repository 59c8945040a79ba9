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
        num_generations (`int`, *optional*, defaults to `3`):
            Unhinted trajectories per row, N_RFT. [P]
        hint (`str`, *optional*, defaults to `"all"`):
            Which rows are sampled once more with the ground truth in the prompt: `"all"`, `"failed"` (rows without a
            correct unhinted trajectory) or `"none"`. One per item is the paper's number [P]; whether all items had one
            is not stated [?].
        max_hinted_share (`float`, *optional*, defaults to `1.0`):
            Cap on the share of hinted trajectories among those that are fine-tuned on, see [`cap_hinted`]: they may
            take short cuts. The paper has no cap. [?]
        reject_too_easy (`bool`, *optional*, defaults to `True`):
            Whether rows whose unhinted trajectories are all correct are rejected. [P]
        temperature, top_p (`float`, *optional*, defaults to `1.0`):
            Temperature and nucleus of the sampling. [?]
        max_completion_length (`int`, *optional*, defaults to `1024`):
            Longest critique in tokens. [?]
        sampling_batch_size (`int`, *optional*, defaults to `64`):
            Critiques decoded together on each device.
        rows_per_shard (`int`, *optional*, defaults to `256`):
            Rows whose trajectories are written at once. A restart repeats at most one unfinished shard per process.
            Processes wait for each other for the time of one shard at most, which `ddp_timeout` must allow.
        trajectories_dir (`str`, *optional*):
            Where trajectories are written. Defaults to `trajectories` in `output_dir`.
        trajectories_hub_repo (`str`, *optional*):
            Dataset repository on the Hub, such as `"username/reponame"`, that `collect()` pushes the trajectories to
            with their card. Private if `hub_private_repo` says so.
        general_ratio (`float`, *optional*, defaults to `5.75`):
            Rows of `general_dataset` per trajectory that is trained on, at most. The paper's ratio is 1070K to 186K.
            [P]
    """

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "chat_template_kwargs"]

    learning_rate: float = field(
        default=5e-6, metadata={"help": "Initial learning rate. The paper's value is 5e-6 at batch size 1024."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Never truncates by default: a critique without its scores teaches nothing."},
    )
    num_generations: int = field(default=3, metadata={"help": "Unhinted trajectories per row (paper: 3)."})
    hint: str = field(
        default="all",
        metadata={"help": "Rows sampled once more with a hint.", "choices": ["all", "failed", "none"]},
    )
    max_hinted_share: float = field(
        default=1.0, metadata={"help": "Cap on the share of hinted trajectories among those that are trained on."}
    )
    reject_too_easy: bool = field(
        default=True, metadata={"help": "Reject rows whose unhinted trajectories are all correct."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus sampling."})
    max_completion_length: int = field(default=1024, metadata={"help": "Longest critique in tokens."})
    sampling_batch_size: int = field(default=64, metadata={"help": "Critiques decoded together on each device."})
    rows_per_shard: int = field(default=256, metadata={"help": "Rows whose trajectories are written at once."})
    trajectories_dir: str | None = field(
        default=None, metadata={"help": "Where trajectories are written; `{output_dir}/trajectories` by default."}
    )
    trajectories_hub_repo: str | None = field(
        default=None, metadata={"help": "Dataset repository on the Hub that `collect()` pushes the trajectories to."}
    )
    general_ratio: float = field(
        default=5.75, metadata={"help": "Rows of general data per kept trajectory, at most (paper: 1070K / 186K)."}
    )

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
