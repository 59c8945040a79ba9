# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import pytest
from transformers import TrainerState

from trl_spct.trainers.monitoring import ALARMS, PATIENCE, CollapseAlarms


SIGNS = {
    "spct/same_scores": (0.95, "`beta`"),
    "spct/same_place": (1.0, "`shuffle_responses=True`"),
    "spct/score_entropy": (0.1, "`beta`"),
    "spct/unreadable": (0.6, "`max_completion_length`"),
    "kl": (2.0, "`learning_rate`"),
    "frac_reward_zero_std": (0.99, "without_too_easy"),
}
HEALTHY = {"spct/same_scores": 0.2, "spct/same_place": 0.4, "spct/score_entropy": 1.8, "spct/unreadable": 0.05}
HEALTHY |= {"kl": 0.02, "frac_reward_zero_std": 0.5, "spct/accuracy": 0.6}


def watch(*logs):
    alarms, state = CollapseAlarms(), TrainerState(is_world_process_zero=True)
    for step, entry in enumerate(logs):
        state.global_step = step
        alarms.on_log(None, state, None, logs=entry)


@pytest.mark.parametrize("metric", SIGNS)
def test_a_sign_that_stays_is_warned_of_once_and_with_what_to_turn(metric, caplog):
    value, advice = SIGNS[metric]
    watch(*[{**HEALTHY, metric: value}] * (PATIENCE + 4))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith(f"Step {PATIENCE - 1}: ")
    assert advice in record.message


def test_every_alarm_is_tested():
    assert {alarm.metric for alarm in ALARMS} == set(SIGNS)


def test_signs_that_pass_are_not(caplog):
    bad = {metric: value for metric, (value, _) in SIGNS.items()}
    watch(*[bad] * (PATIENCE - 1), HEALTHY, *[bad] * (PATIENCE - 1))
    watch(*[{f"eval_{metric}": value for metric, value in bad.items()}] * 5, *[{}] * 5)
    assert not caplog.records


def test_other_processes_are_silent(caplog):
    alarms, state = CollapseAlarms(), TrainerState(is_world_process_zero=False)
    for _ in range(5):
        alarms.on_log(None, state, None, logs={"kl": 5.0})
    assert not caplog.records
