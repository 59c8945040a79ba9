# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
from transformers import TrainerState

from trl_spct import Critique
from trl_spct.trainers.monitoring import ALARMS, PATIENCE, CollapseAlarms, critique_metrics


def critique(scores=None, problem=None):
    return Critique("", scores, problem)


def test_metrics_by_hand():
    critiques = [
        critique((2, 9)),
        critique((9, 2)),
        critique((5, 5)),
        critique((2, 9)),
        critique((1, 2, 3)),
        critique((0,)),
        critique(problem="missing"),
        critique(problem="truncated"),
    ]
    pair, three, one = [0.0, 1.0], [1.0, 0.0, 0.0], [1.0]
    labels = [pair, pair, pair, [1.0, 0.0], three, one, one, pair]
    found = critique_metrics(critiques, labels, ["a", "a", "b", "b", None, None, None, "b"])
    scores = {2: 3, 9: 3, 5: 2, 1: 1, 3: 1}
    expected = {
        "accuracy": 1 / 8,
        "accuracy_n1": 0,
        "accuracy_n2": 1 / 5,
        "accuracy_n3": 0,
        "accuracy_place1": 0,
        "accuracy_place2": 1 / 3,
        "accuracy_a": 1 / 2,
        "accuracy_b": 0,
        "tie": 1 / 8,
        "unreadable": 2 / 8,
        "unreadable_missing": 1 / 8,
        "unreadable_truncated": 1 / 8,
        "unreadable_count": 0,
        "unreadable_range": 0,
        "unreadable_value": 0,
        "margin": (7 - 7 + 0 - 7 - 2) / 5,
        "same_scores": 3 / 5,  # 2 of 4 pairs, 1 of 1 triple
        "same_place": 3 / 4,  # 2 of 3 pairs without a tie, 1 of 1 triple
    }
    # The pair (1, 2, 3) adds one more 2 to the scores above.
    counts = {**scores, 2: 3}
    total = sum(counts.values()) + 1
    counts[2] += 1
    expected["score_entropy"] = -sum(c / total * math.log(c / total) for c in counts.values())
    assert found == pytest.approx(expected)


def test_what_does_not_occur_is_left_out():
    found = critique_metrics([critique((1,)), critique(problem="value")], [[1.0], [0.0]])
    assert {"margin", "score_entropy", "same_scores", "same_place", "accuracy_place1"}.isdisjoint(found)
    assert found["accuracy_n1"] == found["accuracy"] == 0.5


def test_places_are_those_in_which_the_judge_read():
    labels = [[1.0, 0.0]] * 3
    found = critique_metrics([Critique("", (9, 2), None, order) for order in ((0, 1), (1, 0), (1, 0))], labels)
    assert (found["accuracy"], found["accuracy_place1"], found["accuracy_place2"]) == (1, 1, 1)
    assert found["same_place"] == found["same_scores"] == 2 / 3, "2 of 3 wrote (2, 9)"
    found = critique_metrics([Critique("", scores, None, (1, 0)) for scores in ((9, 2), (2, 9), (2, 9))], labels)
    assert (found["accuracy"], found["accuracy_place2"]) == (1 / 3, 1 / 3) and "accuracy_place1" not in found


SIGNS = {
    "spct/same_scores": (0.95, "`beta`"),
    "spct/same_place": (1.0, "`shuffle_responses=True`"),
    "spct/score_entropy": (0.1, "`beta`"),
    "spct/unreadable": (0.6, "`max_completion_length`"),
    "kl": (2.0, "`learning_rate`"),
    "frac_reward_zero_std": (0.99, "`easy_judge`"),
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
    assert set(ALARMS) == set(SIGNS)


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
