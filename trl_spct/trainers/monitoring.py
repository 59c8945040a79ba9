# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Says early, and with what to do, when reinforcement learning of a judge goes wrong."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transformers import TrainerCallback


logger = logging.getLogger(__name__)

PATIENCE = 3
"""After how many logs in a row that look alike an alarm is raised."""


@dataclass(frozen=True)
class Alarm:
    """A sign of collapse.

    Args:
        metric (`str`): What it is read from.
        raised (`Callable`): Whether a value of the metric is such a sign.
        message (`str`): What was found and what to turn; `{value}` is the metric's.
    """

    metric: str
    raised: Callable[[float], bool]
    message: str


# The paper saw judges collapse on some subsets when beta was below 0.08 (section 5). The limits are ours.
ALARMS = (
    Alarm(
        "spct/same_scores",
        lambda share: share >= 0.9,
        "{value:.0%} of the readable critiques give the same scores. The judge no longer reads its responses: go back "
        "to an earlier checkpoint, with a higher `beta` or a lower `learning_rate`.",
    ),
    Alarm(
        "spct/same_place",
        lambda share: share >= 0.9,
        "{value:.0%} of the readable critiques prefer the response in the same place. Set `shuffle_responses=True`; "
        "if it is, raise `beta` or lower `learning_rate`.",
    ),
    Alarm(
        "spct/score_entropy",
        lambda entropy: entropy < 0.4,
        "The scores that are given have an entropy of {value:.2f} nats: nearly all are one and the same number, and "
        "votes end in ties. Raise `beta`, or start from a judge that uses the whole range.",
    ),
    Alarm(
        "spct/unreadable",
        lambda share: share >= 0.5,
        "{value:.0%} of the critiques cannot be read (`spct/unreadable_…` says why). If they are truncated, raise "
        "`max_completion_length`; else begin with rejective fine-tuning.",
    ),
    Alarm(
        "kl",
        lambda kl: kl >= 1.0,
        "The KL divergence to the reference is {value:.2f} nats per token and running away: raise `beta` (paper: "
        "0.08), or lower `learning_rate`.",
    ),
    Alarm(
        "frac_reward_zero_std",
        lambda share: share >= 0.9,
        "{value:.0%} of the groups have equal rewards and teach nothing. Remove rows that the judge gets right every "
        "time (`trl_spct.trainers.filtering`), set `refill_groups`, or raise `num_generations` or `temperature`.",
    ),
)


class CollapseAlarms(TrainerCallback):
    """Warns, once for each of [`ALARMS`], when a metric of training shows it in [`PATIENCE`] logs in a row."""

    def __init__(self, patience: int = PATIENCE):
        self.patience = patience
        self._in_a_row: Counter[str] = Counter()

    def on_log(self, args, state, control, logs: Mapping[str, float] | None = None, **kwargs) -> None:
        for alarm in ALARMS:
            value = (logs or {}).get(alarm.metric)
            if value is None:
                continue
            self._in_a_row[alarm.metric] = self._in_a_row[alarm.metric] + 1 if alarm.raised(value) else 0
            if self._in_a_row[alarm.metric] == self.patience and state.is_world_process_zero:
                logger.warning("Step %d: %s", state.global_step, alarm.message.format(value=value))
