# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What hides in an accuracy: unreadable critiques, ties, places, orders, lengths, unused scores, false confidence."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..judge.outcomes import highest
from ..judge.preferences import Preference
from .benchmark_loading import LoadedBenchmark
from .benchmark_metrics import pick_credit
from .judgments import Judgment, accuracy_by_place, tie_share, votes_at
from .statistics import roc_auc


BINS = 10


def diagnose(judgments: Sequence[Judgment], rows: Sequence[Preference] | None = None) -> dict[str, Any]:
    """A report on one judge and one set of rows, JSON-like.

    Entries that need what is not there (two critiques per row, both orders, responses) are left out.

    Args:
        judgments (sequence of [`Judgment`]): One per row.
        rows (sequence of [`Preference`], *optional*): The rows, for what depends on the texts' lengths.

    Returns:
        `dict`:

        - `rows`, `critiques` (`int`); `tokens` (mean length of a critique).
        - `unreadable` (share) and `problems` (count by cause) over critiques; `undecided` (rows no critique of which
          can be read).
        - `ties`: share of readable single critiques, and of votes of all critiques, with more than one winner.
        - `places`: by the place (from 0) of the best response, accuracy of single critiques and their number
          ([`accuracy_by_place`]); `chosen_places`: how often the response read in each place wins, for each number of
          responses.
        - `order_flips`: see [`order_flips`].
        - `length`: see [`length_preference`].
        - `scores_used`: how often each score is given; `score_spread`: mean standard deviation of the scores within a
          critique.
        - `confidence`: see [`calibration`].
    """
    critiques = sum(len(judgment.scores) for judgment in judgments)
    problems = Counter(problem for judgment in judgments for problem in judgment.problems if problem is not None)
    tokens = [count for judgment in judgments for count in judgment.num_tokens]
    most = min((len(judgment.scores) for judgment in judgments), default=0)
    report: dict[str, Any] = {
        "rows": len(judgments),
        "critiques": critiques,
        "tokens": float(np.mean(tokens)) if tokens else None,
        "unreadable": sum(row is None for judgment in judgments for row in judgment.scores) / max(1, critiques),
        "problems": dict(sorted(problems.items())),
        "undecided": sum(all(row is None for row in judgment.scores) for judgment in judgments),
        "ties": {"single": tie_share(judgments, 1), "vote": tie_share(judgments, most)} if most else {},
        "places": {
            str(place): {"accuracy": accuracy, "critiques": count}
            for place, (accuracy, count) in accuracy_by_place(_with_one_best(judgments)).items()
        },
        "chosen_places": chosen_places(judgments),
        "order_flips": order_flips(judgments),
        "length": None if rows is None else length_preference(judgments, rows),
        **_scores(judgments),
        "confidence": calibration(judgments) if most > 1 else None,
    }
    return {name: value for name, value in report.items() if value not in (None, {})}


def diagnose_groups(loaded: LoadedBenchmark, judgments: Sequence[Judgment]) -> dict[str, dict[str, Any]]:
    """[`diagnose`] for a benchmark as a whole, as `"all"`, and for each of its groups if there are several.

    Args:
        loaded ([`LoadedBenchmark`]): What was judged.
        judgments (sequence of [`Judgment`]): One per row.
    """
    rows = [row for item in loaded.items for row in item.rows]
    groups: dict[str, list[int]] = {}
    for number, group in enumerate(item.group for item in loaded.items for _ in item.rows):
        groups.setdefault(group, []).append(number)
    found = {"all": diagnose(judgments, rows)}
    if len(groups) > 1:
        for group, numbers in groups.items():
            found[group] = diagnose([judgments[i] for i in numbers], [rows[i] for i in numbers])
    return found


def chosen_places(judgments: Sequence[Judgment]) -> dict[str, list[float]]:
    """For each number of responses, how often the winner of a single critique stood in each place; ties are shared.

    A judge without position bias, on rows in random order, chooses each place equally often.
    """
    won: dict[int, np.ndarray] = {}
    counts: Counter[int] = Counter()
    for judgment in judgments:
        for scores, order in zip(judgment.scores, judgment.orders, strict=True):
            if scores is None or len(scores) < 2:
                continue
            counts[len(scores)] += 1
            winners = highest(scores)
            for winner in winners:
                won.setdefault(len(scores), np.zeros(len(scores)))[order.index(winner)] += 1 / len(winners)
    return {str(n): (won[n] / counts[n]).tolist() for n in sorted(won)}


def order_flips(judgments: Sequence[Judgment]) -> dict[str, float] | None:
    """How often the order decides: two critiques of a row that read it in different orders, and differ in the winner.

    Returns:
        `dict` with `flips`, the share of such pairs of critiques with different winners (mean over rows),
        `same_order`, the same for pairs in the same order, which sampling alone explains, and `rows` that have both
        orders. `None` without any. A tie on one side only counts as a difference.
    """
    across, within = [], []
    for judgment in judgments:
        verdicts = [
            (order, frozenset(highest(scores)))
            for scores, order in zip(judgment.scores, judgment.orders, strict=True)
            if scores is not None and len(scores) > 1
        ]
        pairs = [(a, b) for i, a in enumerate(verdicts) for b in verdicts[i + 1 :]]
        differing = [a[1] != b[1] for a, b in pairs if a[0] != b[0]]
        alike = [a[1] != b[1] for a, b in pairs if a[0] == b[0]]
        if differing:
            across.append(np.mean(differing))
        if alike:
            within.append(np.mean(alike))
    if not across:
        return None
    found = {"flips": float(np.mean(across)), "rows": len(across)}
    return {**found, "same_order": float(np.mean(within))} if within else found


def length_preference(judgments: Sequence[Judgment], rows: Sequence[Preference]) -> dict[str, float] | None:
    """Does the judge favor length, more than the truth does?

    Over all pairs of responses of a row, from single critiques (ties are shared): `chosen_longer`, how often the
    longer one scores higher, and `right_longer`, how often the longer one is the better one (left out where labels
    never differ). `slope` is the least-squares change of score, within a row, when a response has twice as many
    characters.
    """
    chosen, right, deviations = [], [], []
    for judgment, row in zip(judgments, rows, strict=True):
        lengths = np.array([len(text) for text in row.responses], dtype=float)
        if len(lengths) < 2:
            continue
        labels = np.asarray(judgment.labels)
        longer = [(i, j) for i in range(len(lengths)) for j in range(len(lengths)) if lengths[i] > lengths[j]]
        right += [labels[i] > labels[j] for i, j in longer if labels[i] != labels[j]]
        logs = np.log2(np.maximum(lengths, 1))
        for scores in judgment.scores:
            if scores is None:
                continue
            scores = np.asarray(scores)
            chosen += [(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i, j in longer]
            deviations.append((logs - logs.mean(), scores - scores.mean()))
    if not chosen:
        return None
    x, y = (np.concatenate(parts) for parts in zip(*deviations, strict=True))
    variance = float((x**2).sum())
    return {
        "chosen_longer": float(np.mean(chosen)),
        **({"right_longer": float(np.mean(right))} if right else {}),
        "slope": float((x * y).sum()) / variance if variance else 0.0,
        "pairs": len(chosen),
    }


def calibration(judgments: Sequence[Judgment], bins: int = BINS) -> dict[str, Any] | None:
    """Does agreement among the critiques of a row tell whether their vote is right?

    The confidence of a vote is the share of its readable critiques whose own winner is the vote's winner (ties share
    their voice). ECE is the mean over rows of |accuracy − confidence| within bins of equal width.

    Returns:
        `dict` with `ece`, `confidence` and `accuracy` (means over rows with n ≥ 2), `auroc` (how often a right vote is
        more confident than a wrong one) and `bins`: (lower edge, rows, mean confidence, accuracy). `None` without
        rows.
    """
    points = [point for judgment in judgments if (point := _confidence(judgment)) is not None]
    if not points:
        return None
    confidence, accuracy = np.array(points).T
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    table = [
        [place / bins, int(mask.sum()), float(confidence[mask].mean()), float(accuracy[mask].mean())]
        for place in range(bins)
        if (mask := places == place).any()
    ]
    ece = sum(count * abs(mean - right) for _, count, mean, right in table) / len(points)
    found = {"ece": ece, "confidence": float(confidence.mean()), "accuracy": float(accuracy.mean())}
    clear = (accuracy == 0) | (accuracy == 1)
    if 0 < accuracy[clear].sum() < clear.sum():
        found["auroc"] = roc_auc(confidence[clear], accuracy[clear])
    return {**found, "rows": len(points), "bins": table}


def _confidence(judgment: Judgment) -> tuple[float, float] | None:
    """(confidence, accuracy) of the vote of all critiques of a row."""
    ((vote, _),) = votes_at(judgment, len(judgment.scores), False)
    if vote is None or len(vote) < 2:
        return None
    return agreement(judgment.scores, highest(vote)[0]), pick_credit(vote, judgment.labels)


def agreement(critiques: Sequence[Sequence[float] | None], winner: int) -> float:
    """The share of readable critiques whose own winner is this response; responses that tie share a critique's voice.

    Args:
        critiques (sequence of score rows): One row of n scores per critique, or `None`; at least one can be read.
        winner (`int`): Index of a response, for instance of the vote's winner.
    """
    voices = [highest(scores) for scores in critiques if scores is not None]
    return sum((winner in voice) / len(voice) for voice in voices) / len(voices)


def _scores(judgments: Sequence[Judgment]) -> dict[str, Any]:
    readable = [scores for judgment in judgments for scores in judgment.scores if scores is not None]
    values = Counter(score for scores in readable for score in scores)
    report: dict[str, Any] = {}
    if values and all(float(value).is_integer() for value in values) and len(values) <= 20:
        report["scores_used"] = {str(int(value)): count for value, count in sorted(values.items())}
    spreads = [float(np.std(scores)) for scores in readable if len(scores) > 1]
    return {**report, "score_spread": float(np.mean(spreads))} if spreads else report


def _with_one_best(judgments: Sequence[Judgment]) -> list[Judgment]:
    """Rows of which the place of the best response can be told."""
    return [judgment for judgment in judgments if judgment.labels.count(max(judgment.labels)) == 1]


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report in a few sentences, for a terminal or a card."""
    lines = [
        f"{report['critiques']} critiques of {report['rows']} rows, "
        f"{100 * report['unreadable']:.1f} % unreadable"
        + (
            f" ({', '.join(f'{n} {cause}' for cause, n in report['problems'].items())})"
            if "problems" in report
            else ""
        )
    ]
    if "ties" in report:
        lines.append(
            f"ties: {100 * report['ties']['single']:.1f} % of critiques, {100 * report['ties']['vote']:.1f} % of votes"
        )
    if "places" in report:
        places = ", ".join(f"{int(p) + 1}: {100 * v['accuracy']:.1f} %" for p, v in report["places"].items())
        lines.append(f"accuracy by place of the best response: {places}")
    if "order_flips" in report:
        flips = report["order_flips"]
        same = f", {100 * flips['same_order']:.1f} % in the same order" if "same_order" in flips else ""
        lines.append(f"two critiques in different orders disagree in {100 * flips['flips']:.1f} %{same}")
    if "length" in report:
        length = report["length"]
        right = f" and is better in {100 * length['right_longer']:.1f} %" if "right_longer" in length else ""
        lines.append(
            f"the longer response scores higher in {100 * length['chosen_longer']:.1f} %{right}; "
            f"{length['slope']:+.2f} points per doubling"
        )
    if "scores_used" in report:
        lines.append("scores used: " + ", ".join(f"{score} × {n}" for score, n in report["scores_used"].items()))
    if "confidence" in report:
        found = report["confidence"]
        lines.append(
            f"agreement among critiques {100 * found['confidence']:.1f} %, accuracy {100 * found['accuracy']:.1f} %, "
            f"calibration error {100 * found['ece']:.1f} points"
        )
    return lines
