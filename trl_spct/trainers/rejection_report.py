# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Report on the trajectories of rejective sampling: outcomes, accuracy and pass rates."""

from collections import Counter
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, TypeAlias

from datasets import Dataset

from ..judge.outcomes import highest
from .rejection import Outcome

Report: TypeAlias = dict[str, Any]


def rejection_report(trajectories: Dataset) -> Report:
    """Counts of the trajectories of [`~trl_spct.RejectiveSampler.collect`], as a `dict` of JSON values.

    `trajectories`, `rows`; `outcomes` of unhinted ones and `hinted_outcomes`; `problems`, the causes of unreadable
    ones; `ties`, incorrect ones whose highest score is shared; `places`, kept ones by the place, from 1, in which they
    read the best of several responses; `closed`, those whose scores were decoded apart, and `closed_kept`; `accuracy`,
    the share of correct ones among the unhinted, where unreadable ones are incorrect; `pass_rates`, rows by the number
    of their correct unhinted trajectories, as `"2/3"`; `remarks`, advice in words.
    """
    plain, names = trajectories.with_format(None), ("row", "hinted", "outcome", "problem")
    rows, hints, results, problems = (plain[name][:] for name in names)
    unhinted = [(row, result) for row, hinted, result in zip(rows, hints, results, strict=True) if not hinted]
    counts = Counter(zip(hints, results, strict=True))
    sampled = Counter(row for row, _ in unhinted)
    correct = Counter(row for row, result in unhinted if result in (Outcome.KEPT, Outcome.TOO_EASY))
    rates = Counter((correct[row], count) for row, count in sampled.items())
    report = {
        "trajectories": len(rows),
        "rows": len(set(rows)),
        "outcomes": {outcome.value: counts[False, outcome.value] for outcome in Outcome},
        "hinted_outcomes": {outcome.value: counts[True, outcome.value] for outcome in Outcome},
        "problems": dict(sorted(Counter(problem for problem in problems if problem is not None).items())),
        **_ties_and_places(trajectories),
        **_closed(trajectories, results),
        "accuracy": correct.total() / len(unhinted) if unhinted else None,
        "pass_rates": {f"{r}/{n}": rates[r, n] for n in sorted({*sampled.values()}) for r in range(n + 1)},
    }
    return {**report, "remarks": _remarks(report)}


def _ties_and_places(trajectories: Dataset) -> dict[str, Any]:
    ties, places, names = 0, Counter[int](), ["outcome", "scores", "labels", "order"]
    complete = {*names} <= {*trajectories.column_names}
    for row in trajectories.with_format(None).select_columns(names) if complete else ():
        labels = row["labels"]
        ties += row["outcome"] == Outcome.INCORRECT and len(highest(row["scores"])) > 1
        if row["outcome"] == Outcome.KEPT and len(labels) > 1:
            places[row["order"].index(labels.index(max(labels))) + 1] += 1
    return {"ties": ties, "places": {f"place {place}": places[place] for place in sorted(places)}}


def _closed(trajectories: Dataset, results: list[str]) -> dict[str, int]:
    closed = trajectories.with_format(None)["closed"][:] if "closed" in trajectories.column_names else []
    kept = [result for is_closed, result in zip(closed, results) if is_closed and result == Outcome.KEPT]
    return {"closed": sum(closed), "closed_kept": len(kept)}


def rejection_metrics(report: Report) -> dict[str, float]:
    """The report as metrics `rft/…` for a tracker: shares of trajectories, and of rows by pass rate."""
    rows = max(1, report["rows"])
    metrics = _shares(report) | {f"rows_with_{rate}": count / rows for rate, count in report["pass_rates"].items()}
    if report["accuracy"] is not None:
        metrics["accuracy"] = report["accuracy"]
    return {f"rft/{name}": value for name, value in metrics.items()}


def rejection_summary(report: Report) -> str:
    """The counts in one line."""
    counts = {name: counts_text(report[name]) for name in ("outcomes", "hinted_outcomes", "problems", "places")}
    return (
        f"{report['trajectories']} trajectories of {report['rows']} rows; unhinted: {counts['outcomes']}; hinted: "
        f"{counts['hinted_outcomes']}; unreadable, by cause: {counts['problems'] or 'none'}; "
        f"ties: {report['ties']}; place of the best response where kept: {counts['places'] or 'none'}"
        + (f"; closed: {report['closed']}, of which {report['closed_kept']} are kept" if report["closed"] else "")
    )


def counts_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _shares(report: Report) -> dict[str, float]:
    counts = {name: count + report["hinted_outcomes"][name] for name, count in report["outcomes"].items()}
    counts |= {f"problem/{name}": count for name, count in report["problems"].items()}
    return {name: count / max(1, report["trajectories"]) for name, count in counts.items()}


def _remarks(report: Report) -> list[str]:
    """Advice; the thresholds are not in the paper."""
    shares, kept = _shares(report), [report[name][Outcome.KEPT.value] for name in ("outcomes", "hinted_outcomes")]
    truncated, hinted = shares.get("problem/truncated", 0), kept[1] / max(1, sum(kept))
    unreadable = shares["unreadable"] - truncated
    place, most = max(report["places"].items(), key=itemgetter(1), default=("", 0))
    compared = sum(report["places"].values())
    advice = {
        f"{truncated:.0%} reached the token limit: raise `max_completion_length` or set `close_critiques`.": (
            truncated > 0.1
        ),
        f"{unreadable:.0%} ended without readable scores: look at `problem`, set `close_critiques`, or take a "
        "stronger `sampler`.": (unreadable > 0.2),
        f"{shares['too_easy']:.0%} are too easy: take harder rows, or set `reject_too_easy=False`.": (
            shares["too_easy"] > 0.5
        ),
        f"{hinted:.0%} of the kept critiques were hinted and may take short cuts: read some, and cap them with "
        "`max_hinted_share`.": hinted > 0.5,
        f"{most / max(1, compared):.0%} of the kept critiques read the best response in {place}, which a judge "
        "learns to prefer: add critiques that read other orders, or drop some of these.": (
            compared >= 10 and most > 0.6 * compared
        ),
    }
    return [text for text, applies in advice.items() if applies]
