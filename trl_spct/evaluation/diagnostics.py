# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Diagnostics of judgments: unreadable critiques, ties, position and length bias, calibration."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np

from ..judge.costs import cost_text
from ..judge.judging import NEXT_STEPS
from ..judge.outcomes import credit, highest
from ..judge.preferences import Preference
from ..judge.voting import Scores
from .benchmark_metrics import pick_credit, worth
from .fidelity import fidelity
from .judgments import Judgment, tie_share, votes_at
from .statistics import binned_error, bootstrap_interval, mean, mean_or_none


def diagnose(judgments: Sequence[Judgment], rows: Sequence[Preference] | None = None) -> dict[str, Any]:
    """A JSON-like report on one judge and one set of rows, for `length` only. Entries without data are left out.

    `rows`, `critiques` (numbers), `tokens` (mean per critique), `truncated` (rows that were cut); `unreadable` (share)
    and `problems` (count by cause) of critiques; `undecided` (rows without a readable critique); `ties`: share of
    single critiques and of votes of all with more than one winner; `scores_used`: count of each whole score; `closed`,
    `places`, `chosen_places`, `order_flips`, `length`, `confidence` and `fidelity`: see [`closing_value`],
    [`accuracy_by_place`], [`chosen_places`], [`order_flips`], [`length_preference`], [`calibration`] and
    [`~trl_spct.evaluation.fidelity.fidelity`]."""
    critiques = [critique for judgment in judgments for critique in judgment.critiques]
    readable = [critique.scores for critique in critiques if critique.scores is not None]
    problems = Counter(critique.problem for critique in critiques if critique.problem is not None)
    k = min((len(judgment.critiques) for judgment in judgments), default=0)
    votes = [scores for judgment in judgments for scores in votes_at(judgment, k)] if k else []
    used = Counter(score for scores in readable for score in scores)
    graded = any(len(scores) == 1 and scores[0] > 1 for scores in readable)  # on a scale, where none is right or wrong
    whole = len(used) <= 20 and all(float(score).is_integer() for score in used)
    report: dict[str, Any] = {
        "rows": len(judgments),
        "critiques": len(critiques),
        "tokens": mean_or_none([critique.num_tokens for critique in critiques if critique.num_tokens is not None]),
        "truncated": sum(judgment.truncated for judgment in judgments) or None,
        "unreadable": 1 - len(readable) / len(critiques) if critiques else 0.0,
        "problems": dict(sorted(problems.items())),
        "closed": closing_value(judgments, graded),
        "undecided": sum(not any(judgment.scores) for judgment in judgments),
        "ties": {"single": tie_share(readable), "vote": tie_share(votes)} if k else {},
        "places": accuracy_by_place(judgments),
        "chosen_places": chosen_places(judgments),
        "order_flips": order_flips(judgments),
        "length": None if rows is None else length_preference(judgments, rows),
        "scores_used": {str(int(score)): count for score, count in sorted(used.items())} if whole else {},
        "confidence": calibration(judgments) if k > 1 else None,
        "fidelity": fidelity([j for j in judgments if not (graded and len(j.labels) == 1)]),
    }
    return {name: value for name, value in report.items() if value not in (None, {})}


def closing_value(judgments: Iterable[Judgment], graded: bool = False) -> dict[str, float]:
    """Share of `closed` critiques, and the share of right ones among the readable, `accuracy` if closed and
    `accuracy_of_whole` if not, unless single responses are `graded` on a scale; empty if none was closed."""
    pairs = [(critique, judgment.labels) for judgment in judgments for critique in judgment.critiques]
    if not any(critique.closed for critique, _ in pairs):
        return {}
    credits: dict[bool, list[float]] = {True: [], False: []}
    for critique, labels in pairs:
        if critique.scores is not None and not (graded and len(critique.scores) == 1):
            credits[critique.closed].append(worth(critique.scores, labels))
    accuracies = {"accuracy": credits[True], "accuracy_of_whole": credits[False]}
    share = sum(critique.closed for critique, _ in pairs) / len(pairs)
    return {"share": share, **{name: mean(values) for name, values in accuracies.items() if values}}


def accuracy_by_place(judgments: Iterable[Judgment]) -> dict[str, dict[str, float]]:
    """Position bias: mean credit of readable critiques by the place (from 0) in which they read the best response:
    `accuracy`, `low` and `high` (95 % bootstrap interval over rows) and `critiques`, of rows with n ≥ 2 and a single
    best response."""
    credits: dict[int, dict[int, list[float]]] = {}
    for number, judgment in enumerate(judgments):
        best = max(judgment.labels)
        for scores, order in _ordered(judgment) if judgment.labels.count(best) == 1 else ():
            place = order.index(judgment.labels.index(best))
            credits.setdefault(place, {}).setdefault(number, []).append(credit(scores, judgment.labels))
    places = {}
    for place, by_row in sorted(credits.items()):
        counts = list(map(len, by_row.values()))
        low, high = bootstrap_interval(list(map(mean, by_row.values())), weights=counts)
        accuracy = mean([value for values in by_row.values() for value in values])
        places[str(place)] = {"accuracy": accuracy, "low": low, "high": high, "critiques": sum(counts)}
    return places


def chosen_places(judgments: Iterable[Judgment]) -> dict[str, list[float]]:
    """By number of responses, the share of single critiques whose winner was read in each place; ties are shared.
    Without position bias, on rows in random order, all places are equal."""
    won: dict[int, np.ndarray] = {}
    counts: Counter[int] = Counter()
    for scores, order in (pair for judgment in judgments for pair in _ordered(judgment)):
        counts[len(scores)] += 1
        winners = highest(scores)
        for winner in winners:
            won.setdefault(len(scores), np.zeros(len(scores)))[order.index(winner)] += 1 / len(winners)
    return {str(n): (won[n] / counts[n]).tolist() for n in sorted(won)}


def order_flips(judgments: Iterable[Judgment]) -> dict[str, float] | None:
    """How often two critiques of a row that read it in different orders disagree about the winner (`flips`, mean over
    `rows`), and in the same order (`same_order`), which sampling alone explains. `None` without two orders."""
    across, within = list[float](), list[float]()
    for judgment in judgments:
        pairs = list(combinations([(order, {*highest(scores)}) for scores, order in _ordered(judgment)], 2))
        for shares, same in ((across, False), (within, True)):
            differing = [a[1] != b[1] for a, b in pairs if (a[0] == b[0]) is same]
            shares += [mean(differing)] if differing else []
    if not across:
        return None
    report = {"flips": mean(across), "rows": len(across)}
    return {**report, "same_order": mean(within)} if within else report


def _ordered(judgment: Judgment) -> Iterator[tuple[Sequence[float], tuple[int, ...]]]:
    """(scores, order) of readable critiques with n ≥ 2."""
    for critique in judgment.critiques:
        if critique.scores is not None and len(critique.scores) > 1 and critique.order is not None:
            yield critique.scores, critique.order


def length_preference(judgments: Sequence[Judgment], rows: Sequence[Preference]) -> dict[str, float] | None:
    """Length bias over all pairs of responses of a row: how often the longer one scores higher in single critiques
    (`chosen_longer`, ties are shared), and how often it is better (`right_longer`). `None` without pairs."""
    chosen: list[float] = []
    right: list[bool] = []
    for judgment, row in zip(judgments, rows, strict=True):
        lengths, labels = list(map(len, row.responses)), judgment.labels
        longer = [(i, j) for i, j in permutations(range(len(lengths)), 2) if lengths[i] > lengths[j]]
        right += [labels[i] > labels[j] for i, j in longer if labels[i] != labels[j]]
        for scores in filter(None, judgment.scores):
            chosen += [(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i, j in longer]
    if not chosen:
        return None
    report = {"chosen_longer": mean(chosen), "pairs": len(chosen)}
    return {**report, "right_longer": mean(right)} if right else report


def calibration(judgments: Iterable[Judgment]) -> dict[str, float] | None:
    """Calibration of the [`agreement`] of critiques with their vote's winner as its confidence, over rows with n ≥ 2
    and a vote: [`~trl_spct.evaluation.statistics.binned_error`] (`ece`), mean `confidence` and `accuracy`. `None`
    without rows."""
    points = []
    for judgment in judgments:
        (vote,) = votes_at(judgment, len(judgment.critiques))
        if vote is not None and len(vote) > 1:
            points.append((agreement(judgment.scores, highest(vote)[0]), pick_credit(vote, judgment.labels)))
    if not points:
        return None
    confidence, accuracy = np.array(points).T
    means = {"confidence": float(confidence.mean()), "accuracy": float(accuracy.mean())}
    return {"ece": binned_error(confidence, accuracy, 10), **means, "rows": len(points)}


def agreement(critiques: Iterable[Scores], winner: int) -> float:
    """The share of readable critiques whose own winner is the response `winner`; tied winners share a critique."""
    winners = [highest(scores) for scores in critiques if scores is not None]
    return sum((winner in tied) / len(tied) for tied in winners) / len(winners)


PROBLEM_ADVICE = {
    **NEXT_STEPS,
    "length": "the row does not fit into the context: cut its longest texts with `truncation='fair'`",
    "context_length": "the server says that the row does not fit: cut its longest texts with `truncation='fair'`",
    "content_filter": "the server refuses the content: judge these rows with another server",
    "refused": "the server refuses the request: its message says why; `invalid_rows='error'` shows it",
    "unreadable": "the server's answer holds no completion: check that it serves a text model",
}
"""By cause, why a critique has no scores and what to do."""

UNREADABLE_ADVICE = (
    "Most critiques have no scores, so the values say little about the judge. Raise `max_new_tokens` (a judge that "
    "thinks needs room for its draft too, a bound of it, `max_thinking_tokens`, or thinking turned off in its chat "
    "template), name the prompt that it was trained with (`template`), decode the scores alone (`close_critiques`), "
    "or teach it the format first by rejective fine-tuning (`recipes/rft.py`)."
)


def report_cells(report: Mapping[str, Any]) -> dict[str, str]:
    """A report of [`diagnose`] in percent, by name; `"–"` without data. It may also have a `cost` ([`Cost.report`]),
    and as `meta_judged` the fidelity by a generative meta-judge."""
    ties, flips, length, confidence = (report.get(name) for name in ("ties", "order_flips", "length", "confidence"))
    places, closed = report.get("places", {}).values(), report.get("closed")
    closed_text = (
        f"; closed {percent(closed['share'])} %, right {percent(closed.get('accuracy'))} "
        f"(whole {percent(closed.get('accuracy_of_whole'))})"
        if closed
        else ""
    )
    chosen = (" / ".join(map(percent, shares)) for shares in report.get("chosen_places", {}).values())
    longer = length and f"{percent(length['chosen_longer'])} / {percent(length.get('right_longer'))}"
    same = f" (same order {percent(flips['same_order'])})" if flips and "same_order" in flips else ""
    readers = {"fidelity": "the Meta RM", "meta_judged": "the meta-judge"}
    reasons = {reader: read for name, reader in readers.items() if (read := report.get(name))}
    cells = {
        "unreadable": f"{percent(report['unreadable'])} %{causes_text(report.get('problems', {}))}{closed_text}",
        "ties": ties and f"{percent(ties['single'])} %, of votes {percent(ties['vote'])} %",
        "right, by place of the best": " / ".join(map(interval_text, places)),
        "chosen, by place": "; ".join(chosen),
        "order decides": flips and f"{percent(flips['flips'])} %{same}",
        "longer chosen / better": longer,
        "calibration error": confidence and percent(confidence["ece"]),
        "sound reason, if right": "; ".join(
            f"{interval_text({**read, 'accuracy': read['sound']})} by {reader}" for reader, read in reasons.items()
        ),
        "cost": report.get("cost") and cost_text(report["cost"]),
    }
    return {name: cell or "–" for name, cell in cells.items()}


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """A report of [`diagnose`] as lines for a terminal, with what to do about unreadable critiques."""
    lines = [
        f"{report['critiques']} critiques of {report['rows']} rows; {report['undecided']} rows without a vote, "
        f"worth 0 in the accuracy; {report.get('truncated', 0)} rows cut to fit into the judge's context"
    ]
    lines += [f"{name}: {cell}" for name, cell in report_cells(report).items() if cell != "–"]
    if "scores_used" in report:
        lines.append("scores used: " + ", ".join(f"{score} × {n}" for score, n in report["scores_used"].items()))
    return [*lines, *advice_lines(report.get("problems", {}), report["unreadable"])]


def advice_lines(causes: Iterable[str], unreadable: float | None) -> list[str]:
    """What to do about unreadable critiques: about each cause, and if most of them are."""
    lines = [f"{cause}: {PROBLEM_ADVICE[cause]}" for cause in causes if cause in PROBLEM_ADVICE]
    return [*lines, UNREADABLE_ADVICE] if (unreadable or 0) > 0.5 else lines


def percent(share: float | None, unit: str = "") -> str:
    """A share with one decimal; `"–"` for `None`."""
    return "–" if share is None else f"{100 * share:.1f}{unit}"


def interval_text(result: Mapping[str, Any]) -> str:
    """An accuracy in percent with its interval; `"–"` for `None`."""
    value = percent(result["accuracy"])
    return value if value == "–" else f"{value} ({percent(result['low'])}–{percent(result['high'])})"


def causes_text(counts: Mapping[str, int]) -> str:
    """`" (cause 2, cause 1)"`, or an empty text without counts."""
    return f" ({', '.join(f'{cause} {count}' for cause, count in counts.items())})" if counts else ""
