# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Report of a labeled dataset: counts by cause, ties, agreement and position bias."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..evaluation.diagnostics import chosen_places, order_flips
from ..evaluation.judgments import Judgment
from ..judge.critiques import Critique
from ..judge.outcomes import credit
from .labels import mean_scores, problems_of
from .rows import LabelRows


class NoScoresError(ValueError):
    """No critique of any row could be read."""


def label_report(
    rows: LabelRows, judgments: Dataset, pairs: Mapping[str, Any], num_best: int, scores: Dataset
) -> dict[str, Any]:
    """Report of a labeled dataset, JSON-like.

    Args:
        rows ([`LabelRows`]), judgments ([`~datasets.Dataset`]): The rows and their judgments.
        pairs (mapping): Summary of the pairs.
        num_best (`int`): Number of rows that have a best response.
        scores ([`~datasets.Dataset`]): From [`score_columns`], without a prefix.

    Returns:
        `dict`:

        - `rows`: numbers of rows `read`, `dropped` (by cause), `judged` and `cut` to fit; `responses`: of all rows.
        - `critiques` (`int`), `tokens` (mean length), `unreadable` (share) and `problems` (count by cause).
        - `unscored`: rows without scores, by their most frequent cause.
        - `score` and `confidence` (means), `ties`: share of scored rows with n ≥ 2 that have more than one winner.
        - `labels`: for rows with labels of their own, their number and the `accuracy` of the votes; `None` otherwise.
        - `pairs`, `best_of_n`.
        - `places` and `order_flips`: position bias of the judge, see [`chosen_places`] and
          [`~trl_spct.evaluation.diagnostics.order_flips`].
    """
    counts = _Counts.of(judgments)
    scored = [values for values in scores["scores"] if values is not None]
    ties = [len(tied) > 1 for values, tied in zip(scores["scores"], scores["tied"]) if values and len(values) > 1]
    return {
        "rows": {"read": rows.num_read, "dropped": rows.dropped, "judged": len(rows), "cut": counts.cut},
        "responses": sum(map(len, rows.preferences["responses"])),
        "critiques": counts.critiques,
        "tokens": counts.tokens / counts.critiques if counts.critiques else None,
        "unreadable": counts.problems.total() / counts.critiques if counts.critiques else None,
        "problems": dict(sorted(counts.problems.items())),
        "unscored": dict(sorted(counts.unscored.items())),
        "score": _mean([score for values in scored for score in values]),
        "confidence": _mean([value for value in scores["confidence"] if value is not None]),
        "ties": _mean(ties),
        "labels": _agreement_with_labels(rows, scores["scores"]),
        "pairs": dict(pairs),
        "best_of_n": num_best,
        "places": chosen_places(_whole(judgments)),
        "order_flips": order_flips(_whole(judgments)),
    }


def check_scores(judgments: Dataset, folder: str) -> None:
    """Refuses judgments without a single score.

    Raises:
        [`NoScoresError`]: with the causes and what to change for each.
    """
    if not len(judgments) or any(totals is not None for totals in judgments["totals"]):
        return
    counts = _Counts.of(judgments)
    causes = counts.problems or counts.unscored
    advice = [text for cause, text in _ADVICE.items() if cause in causes]
    raise NoScoresError(
        f"Found no row with scores: {counts.critiques} critiques of {len(judgments)} rows could not be read"
        f"{causes_text(dict(causes.most_common()))}. No labels were written; the judgments are in {folder}. "
        f"{' '.join(advice)} Use another output folder for another configuration."
    )


_ADVICE = {
    "truncated": "truncated: the critiques reached the token limit; raise `max_new_tokens`.",
    "missing": "missing: the critiques have no `\\boxed{…}` with scores; name the prompt that the judge was trained "
    "with (`template`), and read the `texts` of the judgments.",
    "count": "count: the number of scores is not that of the responses; name the judge's prompt (`template`).",
    "range": "range: scores lie outside the scale of the prompt; name the judge's prompt (`template`).",
    "value": "value: scores are not whole numbers; name the judge's prompt (`template`).",
    "length": 'length: the rows do not fit into the judge\'s context; `truncation="fair"` cuts them.',
}


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in a few sentences, for a terminal."""
    rows, pairs, labels = report["rows"], report["pairs"], report["labels"]
    lines = [
        f"{rows['read']} rows read, {_count(rows['dropped'])} dropped, {rows['judged']} judged"
        + (f" ({rows['cut']} cut to fit)" if rows["cut"] else "")
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
    for n, shares in report["places"].items():
        lines.append(f"winner's place among {n}: " + ", ".join(map(_percent, shares)))
    if report["order_flips"]:
        lines.append(f"two critiques in different orders disagree in {_percent(report['order_flips']['flips'])}")
    return lines


def causes_text(counts: Mapping[str, int]) -> str:
    """`" (cause 2, cause 1)"`, or an empty text without counts."""
    return f" ({', '.join(f'{cause} {count}' for cause, count in counts.items())})" if counts else ""


class _Counts:
    def __init__(self) -> None:
        self.problems: Counter[str] = Counter()
        self.unscored: Counter[str] = Counter()
        self.critiques = self.tokens = self.cut = 0

    @classmethod
    def of(cls, judgments: Dataset) -> "_Counts":
        counts = cls()
        for record in judgments.remove_columns("texts"):
            counts.problems.update(problem for problem in record["problems"] if problem is not None)
            counts.critiques += len(record["orders"])
            counts.tokens += sum(record["num_tokens"])
            counts.cut += record["truncated"]
            if mean_scores(record) is None:
                causes = Counter(problems_of(record))
                counts.unscored[min(causes, key=lambda cause: (-causes[cause], cause))] += 1
        return counts


def _agreement_with_labels(rows: LabelRows, scores: Sequence[list[float] | None]) -> dict[str, Any] | None:
    credits = [
        credit(values, labels)
        for values, labels in zip(scores, rows.labels(), strict=True)
        if values is not None and labels is not None and len(labels) > 1
    ]
    return {"rows": len(credits), "accuracy": _mean(credits)} if credits else None


def _whole(judgments: Dataset) -> list[Judgment]:
    """Judgments without texts, of rows that were not judged in blocks."""
    columns = judgments.select_columns(["scores", "orders", "blocks"])
    pairs = (zip(record["scores"], record["orders"], strict=True) for record in columns if not record["blocks"])
    return [Judgment((), tuple(Critique("", scores, order=tuple(order)) for scores, order in row)) for row in pairs]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _count(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values())}{causes_text(counts)}"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
