# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What a batch of critiques says about the judge that wrote them: how good it is, and whether it is collapsing."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from ..judge.critiques import PROBLEMS, Critique
from ..judge.outcomes import highest, is_correct
from ..judge.sampling import TRUNCATED


_ITEM = re.compile(r"^[^\w\n]*(?:\d+[.):]|[-*•–])\s", re.MULTILINE)
_WEIGHT = re.compile(r"weight|\d\s*%", re.IGNORECASE)


def count_principles(critique: Critique) -> int:
    """How many principles a critique names: list items or weights, whichever are more, and one for any other text."""
    found = critique.principles
    if not found:
        return 0
    return max(1, len(_ITEM.findall(found)), len(_WEIGHT.findall(found)))


def critique_metrics(
    critiques: Sequence[Critique],
    labels: Sequence[Sequence[float]],
    lengths: Sequence[int] | None = None,
    domains: Sequence[str | None] | None = None,
) -> dict[str, float]:
    """Shares and means over a batch of critiques.

    Args:
        critiques (sequence of [`Critique`]):
            With scores in the order of the row, and the `order` in which the judge read the responses; without it, as
            they are.
        labels (sequence of label rows): In the order of the row.
        lengths (sequence of `int`, *optional*): Tokens of each critique.
        domains (sequence of `str` or `None`, *optional*): Where each row comes from.

    Returns:
        `dict[str, float]`:

        - `accuracy` (Eq. 10), also `accuracy_n{n}` by number of responses, `accuracy_{domain}`, and
          `accuracy_place{p}` by the place, from 1, in which the judge read the best response (readable, n ≥ 2);
        - `tie`, `unreadable`, `unreadable_{problem}`: shares of all critiques;
        - `margin`: the best response's score minus the highest other one (readable, n ≥ 2);
        - `principles`, `length`: how many principles a critique names, and its tokens;
        - `score_entropy`: of the distribution of all scores that were given (n ≥ 2), in nats;
        - `same_scores`, `same_place`: share of the most frequent score row, and of the place that most often has the
          one highest score, for each n and weighted by how many critiques they are of (n ≥ 2).

        Metrics of which there are no critiques are left out.
    """
    total = len(critiques)
    correct = [is_correct(critique.scores, row) for critique, row in zip(critiques, labels, strict=True)]
    problems = Counter(critique.problem for critique in critiques if critique.problem)
    several = [
        (_as_read(critique.scores, critique.order), _as_read(row, critique.order), right)
        for critique, row, right in zip(critiques, labels, correct, strict=True)
        if critique.scores is not None and len(row) > 1
    ]
    margins = [_margin(scores, row) for scores, row, _ in several]
    metrics = {
        "accuracy": sum(correct) / total,
        "unreadable": sum(problems.values()) / total,
        "tie": sum(margin == 0 for margin in margins) / total,
        "principles": _mean(map(count_principles, critiques)),
        **{f"unreadable_{problem}": problems[problem] / total for problem in (*PROBLEMS, TRUNCATED)},
        **_means("accuracy_n", [len(row) for row in labels], correct),
        **_means("accuracy_place", [_best(row) + 1 for _, row, _ in several], [right for _, _, right in several]),
    }
    if domains is not None:
        metrics |= _means("accuracy_", domains, correct)
    if lengths is not None:
        metrics["length"] = _mean(lengths)
    if several:
        metrics["margin"] = _mean(margins)
        metrics["score_entropy"] = _entropy(score for scores, _, _ in several for score in scores)
        metrics["same_scores"] = _most_frequent((len(scores), tuple(scores)) for scores, _, _ in several)
        places = [(len(scores), winners[0]) for scores, _, _ in several if len(winners := highest(scores)) == 1]
        if places:
            metrics["same_place"] = _most_frequent(places)
    return metrics


def _as_read(values: Sequence[float], order: Sequence[int] | None) -> tuple[float, ...]:
    """One value for each response, moved to the order in which the judge read them."""
    return tuple(values) if order is None else tuple(values[index] for index in order)


def _means(prefix: str, keys: Sequence, values: Sequence[float]) -> dict[str, float]:
    found: dict = {}
    for key, value in zip(keys, values, strict=True):
        if key is not None:
            found.setdefault(key, []).append(value)
    return {f"{prefix}{key}": _mean(of_key) for key, of_key in sorted(found.items())}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _best(labels: Sequence[float]) -> int:
    return max(range(len(labels)), key=labels.__getitem__)


def _margin(scores: Sequence[float], labels: Sequence[float]) -> float:
    """How far the labeled best lies above the best of the others; negative if below."""
    best = _best(labels)
    return scores[best] - max(score for i, score in enumerate(scores) if i != best)


def _entropy(values: Iterable[float]) -> float:
    counts = Counter(values)
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def _most_frequent(answers: Iterable[tuple[int, object]]) -> float:
    """Share of the most frequent answer for each n, over all n."""
    counts = Counter(answers)
    most = {n: max(count for (m, _), count in counts.items() if m == n) for n, _ in counts}
    return sum(most.values()) / sum(counts.values())
