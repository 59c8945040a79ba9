# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Metrics of batches of critiques, and warnings when reinforcement learning of a judge collapses."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerState

from ..evaluation.statistics import mean
from ..judge.critiques import PROBLEMS, Critique
from ..judge.outcomes import highest, is_correct
from ..judge.sampling import TRUNCATED

logger = logging.getLogger(__name__)

PATIENCE = 3
"""Number of consecutive logs with an alarming metric after which [`CollapseAlarms`] warns."""


def critique_metrics(
    critiques: Sequence[Critique], labels: Sequence[Sequence[float]], domains: Sequence[str | None] | None = None
) -> dict[str, float]:
    """Shares and means over a batch of critiques, whose scores are in the order of the labels.

    `accuracy` (Eq. 10), also by number of responses, domain, and place in which the judge read the best response;
    shares of `tie` and `unreadable` critiques. Over readable critiques of n ≥ 2: `margin` of the best response to the
    highest other one; `score_entropy` in nats; `same_scores` and `same_place`, the share of the most frequent row of
    scores, and of the place that most often has the single highest score, per n. Metrics of no critiques are left out.
    """
    total = len(critiques)
    correct = [is_correct(critique.scores, row) for critique, row in zip(critiques, labels, strict=True)]
    problems = Counter(critique.problem for critique in critiques if critique.problem)
    compared = [
        (_as_read(critique.scores, critique.order), highest(_as_read(row, critique.order))[0], right)
        for critique, row, right in zip(critiques, labels, correct, strict=True)
        if critique.scores is not None and len(row) > 1
    ]
    margins = [scores[best] - max(scores[:best] + scores[best + 1 :]) for scores, best, _ in compared]
    metrics = {
        "accuracy": sum(correct) / total,
        "unreadable": sum(problems.values()) / total,
        "tie": sum(margin == 0 for margin in margins) / total,
        **{f"unreadable_{problem}": problems[problem] / total for problem in (*PROBLEMS, TRUNCATED)},
        **_means("accuracy_n", [len(row) for row in labels], correct),
        **_means("accuracy_place", [best + 1 for _, best, _ in compared], [right for *_, right in compared]),
        **_means("accuracy_", domains or [None] * total, correct),
    }
    if compared:
        metrics["margin"] = mean(margins)
        metrics["score_entropy"] = _entropy(score for scores, _, _ in compared for score in scores)
        metrics["same_scores"] = _most_frequent((len(scores), scores) for scores, _, _ in compared)
        places = [(len(scores), winners[0]) for scores, _, _ in compared if len(winners := highest(scores)) == 1]
        if places:
            metrics["same_place"] = _most_frequent(places)
    return metrics


def _as_read(values: Sequence[float], order: Sequence[int] | None) -> tuple[float, ...]:
    return tuple(values) if order is None else tuple(values[index] for index in order)


def _means(prefix: str, keys: Sequence[Any], values: Sequence[float]) -> dict[str, float]:
    groups: dict[Any, list[float]] = {}
    for key, value in zip(keys, values, strict=True):
        if key is not None:
            groups.setdefault(str(key), []).append(value)
    return {f"{prefix}{key}": mean(group) for key, group in sorted(groups.items())}


def _entropy(values: Iterable[float]) -> float:
    counter = Counter(values)
    return -sum(count / counter.total() * math.log(count / counter.total()) for count in counter.values())


def _most_frequent(answers: Iterable[tuple[int, object]]) -> float:
    """Share of the most frequent answer per n, over all n."""
    counter = Counter(answers)
    largest = {n: max(count for (m, _), count in counter.items() if m == n) for n, _ in counter}
    return sum(largest.values()) / counter.total()


# The paper saw judges collapse on some subsets when beta was below 0.08 (section 5). The limits are not in the paper.
ALARMS = {
    "spct/same_scores": (
        lambda share: share >= 0.9,
        "{:.0%} of the readable critiques give the same scores: the judge ignores the responses. Go back to an "
        "earlier checkpoint, with a higher `beta` or a lower `learning_rate`.",
    ),
    "spct/same_place": (
        lambda share: share >= 0.9,
        "{:.0%} of the readable critiques prefer the response in the same place. Set `shuffle_responses=True`; if it "
        "is set, raise `beta` or lower `learning_rate`.",
    ),
    "spct/score_entropy": (
        lambda entropy: entropy < 0.4,
        "The scores have an entropy of {:.2f} nats: nearly all are the same number, and votes end in ties. Raise "
        "`beta`, or start from a judge that uses the whole range.",
    ),
    "spct/unreadable": (
        lambda share: share >= 0.5,
        "{:.0%} of the critiques cannot be read (`spct/unreadable_…` gives the causes). If they are truncated, raise "
        "`max_completion_length`; otherwise start with rejective fine-tuning.",
    ),
    "kl": (
        lambda kl: kl >= 1.0,
        "The KL divergence from the reference is {:.2f} nats per token: raise `beta` (paper: 0.08), or lower "
        "`learning_rate`.",
    ),
    "frac_reward_zero_std": (
        lambda share: share >= 0.9,
        "{:.0%} of the groups have equal rewards and no advantages. Remove rows that the judge always gets right "
        "(`easy_judge`), or raise `num_generations` or `temperature`.",
    ),
}
"""By name of a logged metric: whether a value is a sign of collapse, and what to change."""


class CollapseAlarms(TrainerCallback):
    """Warns once per entry of [`ALARMS`], when its metric is alarming in [`PATIENCE`] consecutive logs."""

    def __init__(self) -> None:
        self._consecutive: Counter[str] = Counter()

    def on_log(self, args, state: TrainerState, control, logs: Mapping[str, float] | None = None, **kwargs) -> None:
        for metric, (raised, message) in ALARMS.items():
            value = (logs or {}).get(metric)
            if value is None:
                continue
            self._consecutive[metric] = self._consecutive[metric] + 1 if raised(value) else 0
            if self._consecutive[metric] == PATIENCE and state.is_world_process_zero:
                logger.warning("Step %d: %s", state.global_step, message.format(value))
