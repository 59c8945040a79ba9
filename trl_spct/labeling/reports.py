# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Report of a labeled dataset: counts by cause, ties, agreement and position bias."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..evaluation.diagnostics import chosen_places, order_flips
from ..evaluation.judgments import Judgment
from ..evaluation.statistics import mean
from ..judge.critiques import Critique
from ..judge.judging import NEXT_STEPS
from ..judge.outcomes import credit
from .labels import mean_scores, problems_of
from .rows import LabelRows


_ADVICE = {
    **NEXT_STEPS,
    "length": "the row does not fit into the judge's context: cut it with `truncation='fair'`",
    "content_filter": "the server's content filter refuses the row: judge it with another server or model",
    "refused": "the server refuses the request: its message says why; `invalid_rows='error'` shows it",
    "unreadable": "the server's answer holds no completion: check that it serves a text model",
}


class NoScoresError(ValueError):
    """No critique of any row could be read."""


def label_report(
    rows: LabelRows, judgments: Dataset, pairs: Mapping[str, Any], num_best: int, columns: Dataset
) -> dict[str, Any]:
    """Report of a labeled dataset, JSON-like.

    `unreadable` is a share of critiques, `unscored` counts rows by their most frequent cause, `score` and `confidence`
    are means, `ties` is a share of scored rows with n ≥ 2, `labels` compares the votes with labels that rows have, and
    `places` and `order_flips` are the judge's position bias, see [`chosen_places`] and [`order_flips`].

    Args:
        rows ([`LabelRows`]), judgments ([`~datasets.Dataset`]): The rows and their judgments.
        pairs (mapping), num_best (`int`): Summary of the pairs, and number of rows that have a best response.
        columns ([`~datasets.Dataset`]): From [`score_columns`].
    """
    problems, unscored = Counter[str](), Counter[str]()
    scores, ties, whole, count = [], [], [], 0
    for record in judgments:
        scores.append(mean_scores(record))
        if len(scores[-1] or ()) > 1:
            ties.append(len(record["tied"]) > 1)
        causes = Counter(problems_of(record))
        if record["refused"] is None:
            problems += causes
        if scores[-1] is None:
            unscored[min(causes, key=lambda cause: (-causes[cause], cause))] += 1
        count += len(record["critiques"])
        if not record["blocks"]:
            critiques = (Critique.from_dict({**critique, "text": ""}) for critique in record["critiques"])
            whole.append(Judgment((), tuple(critiques)))
    return {
        "rows": {
            "read": rows.num_read,
            "dropped": rows.dropped,
            "judged": len(rows),
            "cut": sum(judgments["truncated"]),
            "shortened": len(rows.response_numbers),
        },
        "critiques": count,
        "unreadable": problems.total() / count if count else None,
        "problems": dict(sorted(problems.items())),
        "unscored": dict(sorted(unscored.items())),
        "score": _mean([score for values in scores for score in values or ()]),
        "confidence": _mean([value for value in columns["confidence"] if value is not None]),
        "ties": _mean(ties),
        "labels": _agreement_with_labels(rows, scores),
        "pairs": dict(pairs),
        "best_of_n": num_best,
        "places": chosen_places(whole),
        "order_flips": order_flips(whole),
    }


def check_scores(judgments: Dataset, folder: str) -> None:
    """Refuses judgments without a single score, with the causes and what to change for each."""
    if not len(judgments) or any(totals is not None for totals in judgments["totals"]):
        return
    causes = Counter(problem for record in judgments for problem in problems_of(record))
    advice = "".join(f" {cause}: {_ADVICE[cause]}." for cause in causes if cause in _ADVICE)
    raise NoScoresError(
        f"Found no row with scores: none of {len(judgments)} rows has a critique that could be read"
        f"{causes_text(dict(causes.most_common()))}.{advice} No labels were written; the judgments are in {folder}. "
        "Use another output folder for another configuration."
    )


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in a few sentences, for a terminal."""
    rows, pairs, labels = report["rows"], report["pairs"], report["labels"]
    lines = [
        f"{rows['read']} rows read, {_count(rows['dropped'])} dropped, {rows['judged']} judged"
        + (f" ({rows['cut']} cut to fit)" if rows["cut"] else "")
        + (f" ({rows['shortened']} without empty responses)" if rows["shortened"] else "")
        + f" with {report['critiques']} critiques, of which {_percent(report['unreadable'])} unreadable"
        f"{causes_text(report['problems'])}",
        f"rows without scores: {_count(report['unscored'])}",
        f"pairs ({pairs['policy']}, margin over {pairs['min_margin']:g}): {pairs['made']}"
        + (f", mean margin {pairs['margin']:.2f}" if pairs["made"] else "")
        + f"; not made: {_count(pairs['skipped'])}",
        f"best of n: {report['best_of_n']}; ties for the best: {_percent(report['ties'])}",
    ]
    if labels is not None:
        lines.append(f"agreement with the labels of {labels['rows']} scored rows: {_percent(labels['accuracy'])}")
    return lines


def causes_text(counts: Mapping[str, int]) -> str:
    """`" (cause 2, cause 1)"`, or an empty text without counts."""
    return f" ({', '.join(f'{cause} {count}' for cause, count in counts.items())})" if counts else ""


def _agreement_with_labels(rows: LabelRows, scores: Sequence[list[float] | None]) -> dict[str, Any] | None:
    credits = [
        credit(values, labels)
        for values, labels in zip(scores, rows.labels(), strict=True)
        if values is not None and labels is not None and len(labels) > 1
    ]
    return {"rows": len(credits), "accuracy": mean(credits)} if credits else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _count(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values())}{causes_text(counts)}"


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None
