# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Diagnostics of judgments: unreadable critiques, ties, position and length bias, score usage, calibration."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..judge.outcomes import highest
from ..judge.preferences import Preference
from ..judge.voting import Scores
from .benchmark_loading import LoadedBenchmark
from .benchmark_metrics import pick_credit
from .judgments import Judgment, accuracy_by_place, tie_share, votes_at
from .statistics import mean, roc_auc


def diagnose(judgments: Sequence[Judgment], rows: Sequence[Preference] | None = None) -> dict[str, Any]:
    """A JSON-like report on one judge and one set of rows.

    Entries without data (fewer than two critiques per row, one order only, no responses) are left out.

    Args:
        judgments (sequence of [`Judgment`]): One per row.
        rows (sequence of [`Preference`], *optional*): The rows, for `length`.

    Returns:
        `dict`:

        - `rows`, `critiques` (`int`); `tokens` (mean length of a critique); `truncated` (rows that were cut).
        - `unreadable` (share) and `problems` (count by cause) over critiques; `undecided` (rows without a readable
          critique).
        - `ties`: share of readable single critiques (`single`), and of votes of all critiques (`vote`), with more than
          one winner.
        - `places`: accuracy and number of single critiques by the place (from 0) of the best response
          ([`accuracy_by_place`]); `chosen_places`: see [`chosen_places`].
        - `order_flips`, `length`, `confidence`: see [`order_flips`], [`length_preference`], [`calibration`].
        - `scores_used`: count of each score; `score_spread`: mean standard deviation of the scores of a critique.
    """
    critiques = [critique for judgment in judgments for critique in judgment.critiques]
    problems = Counter(critique.problem for critique in critiques if critique.problem is not None)
    tokens = [critique.num_tokens for critique in critiques if critique.num_tokens is not None]
    k = min((len(judgment.critiques) for judgment in judgments), default=0)
    votes = [scores for judgment in judgments for scores in votes_at(judgment, k)] if k else []
    one_best = [judgment for judgment in judgments if judgment.labels.count(max(judgment.labels, default=0)) == 1]
    report: dict[str, Any] = {
        "rows": len(judgments),
        "critiques": len(critiques),
        "tokens": mean(tokens) if tokens else None,
        "truncated": sum(judgment.truncated for judgment in judgments) or None,
        "unreadable": sum(critique.scores is None for critique in critiques) / max(1, len(critiques)),
        "problems": dict(sorted(problems.items())),
        "undecided": sum(all(scores is None for scores in judgment.scores) for judgment in judgments),
        "ties": {"single": tie_share(c.scores for c in critiques), "vote": tie_share(votes)} if k else {},
        "places": {
            str(place): {"accuracy": accuracy, "critiques": count}
            for place, (accuracy, count) in accuracy_by_place(one_best).items()
        },
        "chosen_places": chosen_places(judgments),
        "order_flips": order_flips(judgments),
        "length": None if rows is None else length_preference(judgments, rows),
        **_score_usage([critique.scores for critique in critiques]),
        "confidence": calibration(judgments) if k > 1 else None,
    }
    return {name: value for name, value in report.items() if value not in (None, {})}


def diagnose_groups(loaded: LoadedBenchmark, judgments: Sequence[Judgment]) -> dict[str, dict[str, Any]]:
    """[`diagnose`] for a benchmark as a whole (`"all"`), and for each of its groups if there are several.

    Args:
        loaded ([`LoadedBenchmark`]): The benchmark.
        judgments (sequence of [`Judgment`]): One per row.
    """
    rows = [row for item in loaded.items for row in item.rows]
    groups: dict[str, list[int]] = {}
    for number, group in enumerate(item.group for item in loaded.items for _ in item.rows):
        groups.setdefault(group, []).append(number)
    reports = {"all": diagnose(judgments, rows)}
    if len(groups) > 1:
        for group, numbers in groups.items():
            reports[group] = diagnose([judgments[i] for i in numbers], [rows[i] for i in numbers])
    return reports


def chosen_places(judgments: Iterable[Judgment]) -> dict[str, list[float]]:
    """By number of responses, the share of single critiques whose winner was read in each place; ties are shared.

    A judge without position bias, on rows in random order, chooses each place equally often.
    """
    won: dict[int, np.ndarray] = {}
    counts: Counter[int] = Counter()
    for scores, order in _ordered(judgments):
        counts[len(scores)] += 1
        winners = highest(scores)
        for winner in winners:
            won.setdefault(len(scores), np.zeros(len(scores)))[order.index(winner)] += 1 / len(winners)
    return {str(n): (won[n] / counts[n]).tolist() for n in sorted(won)}


def order_flips(judgments: Iterable[Judgment]) -> dict[str, float] | None:
    """How often two critiques of a row that read it in different orders disagree about the winner.

    Returns:
        `dict` with `flips`, the share of such pairs of critiques with different winners (mean over rows),
        `same_order`, the same for pairs in the same order, which sampling alone explains, and `rows`, the number of
        rows with both orders. `None` if there are none. A tie on one side only counts as a difference.
    """
    across, within = [], []
    for judgment in judgments:
        winners = [(order, frozenset(highest(scores))) for scores, order in _ordered([judgment])]
        pairs = [(a, b) for i, a in enumerate(winners) for b in winners[i + 1 :]]
        differing = [a[1] != b[1] for a, b in pairs if a[0] != b[0]]
        alike = [a[1] != b[1] for a, b in pairs if a[0] == b[0]]
        if differing:
            across.append(mean(differing))
        if alike:
            within.append(mean(alike))
    if not across:
        return None
    report = {"flips": mean(across), "rows": len(across)}
    return {**report, "same_order": mean(within)} if within else report


def _ordered(judgments: Iterable[Judgment]) -> Iterator[tuple[Sequence[float], tuple[int, ...]]]:
    """(scores, order) of readable critiques with n ≥ 2."""
    for judgment in judgments:
        for critique in judgment.critiques:
            if critique.scores is not None and len(critique.scores) > 1 and critique.order is not None:
                yield critique.scores, critique.order


def length_preference(judgments: Sequence[Judgment], rows: Sequence[Preference]) -> dict[str, float] | None:
    """Length bias: whether longer responses score higher than the labels warrant.

    Over all pairs of responses of a row, from single critiques (ties are shared): `chosen_longer`, how often the
    longer one scores higher, and `right_longer`, how often the longer one is better (left out if labels never
    differ). `slope` is the least-squares change of score, within a row, per doubling of a response's characters.
    """
    chosen: list[float] = []
    right: list[bool] = []
    deviations = []
    for judgment, row in zip(judgments, rows, strict=True):
        lengths = np.array([len(text) for text in row.responses], dtype=float)
        if len(lengths) < 2:
            continue
        labels = judgment.labels
        longer = [(i, j) for i in range(len(lengths)) for j in range(len(lengths)) if lengths[i] > lengths[j]]
        right += [labels[i] > labels[j] for i, j in longer if labels[i] != labels[j]]
        logs = np.log2(np.maximum(lengths, 1))
        for scores in map(np.array, filter(None, judgment.scores)):
            chosen += [(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i, j in longer]
            deviations.append((logs - logs.mean(), scores - scores.mean()))
    if not chosen:
        return None
    x, y = (np.concatenate(parts) for parts in zip(*deviations, strict=True))
    variance = float((x**2).sum())
    return {
        "chosen_longer": mean(chosen),
        **({"right_longer": mean(right)} if right else {}),
        "slope": float((x * y).sum()) / variance if variance else 0.0,
        "pairs": len(chosen),
    }


def calibration(judgments: Iterable[Judgment], num_bins: int = 10) -> dict[str, Any] | None:
    """Calibration of the agreement among the critiques of a row as the confidence of their vote.

    The confidence of a vote is the [`agreement`] of its critiques with its winner. ECE is the mean over rows of
    |accuracy − confidence| within bins of equal width.

    Returns:
        `dict` with `ece`, `confidence` and `accuracy` (means over the `rows` with n ≥ 2 and a vote), `auroc` (how
        often a right vote is more confident than a wrong one) and `bins`: (lower edge, rows, mean confidence,
        accuracy). `None` without such rows.
    """
    points = []
    for judgment in judgments:
        (vote,) = votes_at(judgment, len(judgment.critiques))
        if vote is not None and len(vote) > 1:
            points.append((agreement(judgment.scores, highest(vote)[0]), pick_credit(vote, judgment.labels)))
    if not points:
        return None
    confidence, accuracy = np.array(points).T
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    table = [
        [number / num_bins, int(mask.sum()), float(confidence[mask].mean()), float(accuracy[mask].mean())]
        for number in range(num_bins)
        if (mask := bins == number).any()
    ]
    ece = sum(count * abs(expected - observed) for _, count, expected, observed in table) / len(points)
    report = {"ece": ece, "confidence": float(confidence.mean()), "accuracy": float(accuracy.mean())}
    clear = (accuracy == 0) | (accuracy == 1)
    if 0 < accuracy[clear].sum() < clear.sum():
        report["auroc"] = roc_auc(confidence[clear], accuracy[clear])
    return {**report, "rows": len(points), "bins": table}


def agreement(critiques: Iterable[Scores], winner: int) -> float:
    """The share of readable critiques whose own winner is a given response; tied winners share a critique.

    Args:
        critiques (iterable of score rows): n scores per critique, or `None`; at least one is readable.
        winner (`int`): Index of the response, for instance of the vote's winner.
    """
    winners = [highest(scores) for scores in critiques if scores is not None]
    return sum((winner in tied) / len(tied) for tied in winners) / len(winners)


def _score_usage(critiques: Iterable[Scores]) -> dict[str, Any]:
    readable = [scores for scores in critiques if scores is not None]
    values = Counter(score for scores in readable for score in scores)
    report: dict[str, Any] = {}
    if values and all(float(value).is_integer() for value in values) and len(values) <= 20:
        report["scores_used"] = {str(int(value)): count for value, count in sorted(values.items())}
    spreads = [float(np.std(scores)) for scores in readable if len(scores) > 1]
    return {**report, "score_spread": mean(spreads)} if spreads else report


# --- in words ---


PROBLEM_ADVICE = {
    "missing": r"no scores in the last `\boxed{…}`; the judge may expect another template (`template`)",
    "count": "not one score per response; a judge trained on pairs may not score lists",
    "range": "a score outside of the template's range",
    "value": "a score that is not a whole number",
    "truncated": "the critique reached the token limit; raise `max_new_tokens`",
}
"""By cause, why a critique has no scores and what to do."""


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """A report of [`diagnose`] as sentences, for a terminal or a card."""
    problems = report.get("problems", {})
    counts = f" ({', '.join(f'{count} {cause}' for cause, count in problems.items())})" if problems else ""
    critiques = f"{report['critiques']} critiques of {report['rows']} rows"
    lines = [f"{critiques}, {_percent(report['unreadable'])} unreadable{counts}"]
    lines += [f"  {cause}: {PROBLEM_ADVICE[cause]}" for cause in problems if cause in PROBLEM_ADVICE]
    if report.get("undecided"):
        lines.append(f"{report['undecided']} rows without a vote (no readable critique), worth 0 in the accuracy")
    if "truncated" in report:
        lines.append(f"{report['truncated']} rows cut to fit into the judge's context")
    if "ties" in report:
        ties = report["ties"]
        lines.append(f"ties: {_percent(ties['single'])} of critiques, {_percent(ties['vote'])} of votes")
    if "places" in report:
        places = (f"{int(place) + 1}: {_percent(at['accuracy'])}" for place, at in report["places"].items())
        lines.append(f"accuracy by place of the best response: {', '.join(places)}")
    if "order_flips" in report:
        flips = report["order_flips"]
        same = f", {_percent(flips['same_order'])} in the same order" if "same_order" in flips else ""
        lines.append(f"two critiques in different orders disagree in {_percent(flips['flips'])}{same}")
    if "length" in report:
        length = report["length"]
        right = f" and is better in {_percent(length['right_longer'])}" if "right_longer" in length else ""
        lines.append(
            f"the longer response scores higher in {_percent(length['chosen_longer'])}{right}; "
            f"{length['slope']:+.2f} points per doubling"
        )
    if "scores_used" in report:
        lines.append("scores used: " + ", ".join(f"{score} × {n}" for score, n in report["scores_used"].items()))
    if "confidence" in report:
        found = report["confidence"]
        lines.append(
            f"over the {found['rows']} rows with a vote: agreement among critiques {_percent(found['confidence'])}, "
            f"accuracy {_percent(found['accuracy'])}, calibration error {100 * found['ece']:.1f} points"
        )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
