# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Report on the trajectories of rejective sampling: outcomes, pass rates, lengths and biases."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset

from .rejection import Outcome


Report: TypeAlias = dict[str, Any]

MAX_DOMAINS = 20
"""Number of domains, the largest ones, in the metrics and on the card. The report has all."""

_COLUMNS = {"row": int, "hinted": bool, "outcome": object, "problem": object, "num_tokens": int}


def rejection_report(trajectories: Dataset) -> Report:
    """Counts and shares of trajectories.

    `accuracy` is the share of correct critiques among the unhinted ones, where unreadable ones are incorrect.

    Args:
        trajectories ([`~datasets.Dataset`]): Result of [`~trl_spct.RejectiveSampler.collect`].

    Returns:
        `dict` of JSON values: `trajectories`, `rows`; `outcomes` and `hinted_outcomes`; `problems`, the causes of
        unreadable ones; `shares`, also by number of responses (`by_n`) and column `domain` (`by_domain`), with
        `hinted_kept`, the share of hinted ones among the kept; `pass_rates`, rows by the number of their correct
        unhinted trajectories, as `"2/3"`; mean lengths in `tokens`; `hints`, with rows that were unsolved without
        one; `remarks`, advice in words.
    """
    table = _read(trajectories)
    unhinted, hinted = table[~table.hinted], table[table.hinted]
    unsolved = {*unhinted.row} - {*unhinted.row[_right(unhinted)]}
    report = {
        "trajectories": len(table),
        "rows": len({*table.row}),
        "outcomes": _outcomes(unhinted),
        "hinted_outcomes": _outcomes(hinted),
        "problems": dict(sorted(Counter(problem for problem in table.problem if problem is not None).items())),
        "shares": _shares(table),
        "pass_rates": _pass_rates(unhinted),
        "by_n": _groups(table, table.n),
        "by_domain": _groups(table, table.domain),
        "tokens": _lengths(table),
        "hints": {
            "rows_unsolved": len(unsolved),
            "solved_by_hint": len(unsolved & {*hinted.row[_right(hinted)]}),
            "accuracy": _accuracy(hinted),
        },
    }
    return {**report, "remarks": _remarks(report)}


def rejection_metrics(report: Report) -> dict[str, float]:
    """The report as metrics `rft/…` for a tracker; undefined ones are left out."""
    rows, hints = max(1, report["rows"]), report["hints"]
    metrics: dict[str, float | None] = dict(report["shares"])
    metrics |= {f"problem/{name}": n / report["trajectories"] for name, n in report["problems"].items()}
    metrics |= {f"rows_with_{rate}": n / rows for rate, n in report["pass_rates"].items()}
    for name, group in trajectory_groups(report).items():
        metrics |= {f"{name}/{value}": group[value] for value in ("accuracy", "kept")}
    metrics |= {f"tokens/{name}": length for name, length in report["tokens"].items()}
    metrics |= {"rows_unsolved": hints["rows_unsolved"] / rows, "hint/rows_solved": hints["solved_by_hint"] / rows}
    metrics["hint/accuracy"] = hints["accuracy"]
    return {f"rft/{name}": value for name, value in metrics.items() if value is not None}


def rejection_summary(report: Report) -> str:
    """A table of the trajectories by outcome, unhinted and hinted, with the causes of unreadable ones."""
    lines = [
        f"{report['trajectories']} trajectories of {report['rows']} rows",
        f"{'':12}{'unhinted':>12}{'hinted':>12}",
    ]
    for name, count in report["outcomes"].items():
        lines.append(f"{name:12}{count:>12}{report['hinted_outcomes'][name]:>12}")
    if report["problems"]:
        lines.append("unreadable by cause: " + ", ".join(f"{n} {name}" for name, n in report["problems"].items()))
    return "\n".join(lines)


def trajectory_groups(report: Report) -> dict[str, dict[str, Any]]:
    """The groups of a report by number of responses, and its [`MAX_DOMAINS`] largest domains."""
    largest = sorted(report["by_domain"].items(), key=lambda item: -item[1]["rows"])[:MAX_DOMAINS]
    by_n = {f"n={n}": group for n, group in report["by_n"].items()}
    return by_n | {f"domain={name}": group for name, group in largest}


def _read(trajectories: Dataset) -> np.recarray:
    """The fields that are counted, one record per trajectory."""
    rows = trajectories.with_format(None)
    table = np.empty(len(rows), np.dtype([*_COLUMNS.items(), ("domain", object), ("n", int)])).view(np.recarray)
    for name in _COLUMNS:
        table[name] = rows[name][:]
    table["n"] = [len(labels) for labels in rows["labels"]]
    domains = rows["domain"][:] if "domain" in rows.column_names else [None] * len(rows)
    table["domain"] = [None if name is None else str(name) for name in domains]
    return table


def _kept(table: np.recarray) -> np.ndarray:
    return table.outcome == Outcome.KEPT.value


def _right(table: np.recarray) -> np.ndarray:
    return _kept(table) | (table.outcome == Outcome.TOO_EASY.value)


def _outcomes(table: np.recarray) -> dict[str, int]:
    return {outcome.value: int((table.outcome == outcome.value).sum()) for outcome in Outcome}


def _accuracy(table: np.recarray) -> float | None:
    return float(_right(table).mean()) if len(table) else None


def _shares(table: np.recarray) -> dict[str, float | None]:
    shares: dict[str, float | None] = {name: n / max(1, len(table)) for name, n in _outcomes(table).items()}
    shares["accuracy"] = _accuracy(table[~table.hinted])
    shares["hinted_kept"] = int((_kept(table) & table.hinted).sum()) / max(1, int(_kept(table).sum()))
    return shares


def _pass_rates(unhinted: np.recarray) -> dict[str, int]:
    sampled, right = Counter(unhinted.row.tolist()), Counter(unhinted.row[_right(unhinted)].tolist())
    rates = Counter((right[row], count) for row, count in sampled.items())
    return {f"{r}/{count}": rates[r, count] for count in sorted({*sampled.values()}) for r in range(count + 1)}


def _groups(table: np.recarray, keys: np.ndarray) -> dict[str, dict[str, Any]]:
    parts = {str(key): table[keys == key] for key in sorted({key for key in keys.tolist() if key is not None})}
    return {
        name: {"rows": len({*part.row}), "trajectories": len(part), **_shares(part)} for name, part in parts.items()
    }


def _lengths(table: np.recarray) -> dict[str, float]:
    kept, hinted = _kept(table), table.hinted
    masks = {"kept": kept, "kept_unhinted": kept & ~hinted, "kept_hinted": kept & hinted, "rejected": ~kept}
    return {name: float(table.num_tokens[mask].mean()) for name, mask in masks.items() if mask.any()}


def _remarks(report: Mapping[str, Any]) -> list[str]:
    """Advice; the thresholds are not in the paper."""
    shares = report["shares"]
    truncated = report["problems"].get("truncated", 0) / max(1, report["trajectories"])
    unreadable = shares["unreadable"] - truncated
    advice = {
        f"{truncated:.0%} reached the token limit: raise `max_completion_length`.": truncated > 0.1,
        f"{unreadable:.0%} ended without readable scores: look at `problem`, and take a stronger `sampler`.": (
            unreadable > 0.2
        ),
        f"{shares['too_easy']:.0%} are too easy: take harder rows.": shares["too_easy"] > 0.5,
        f"{shares['hinted_kept']:.0%} of the kept critiques were hinted and may take short cuts: read some, and cap "
        "them with `max_hinted_share`.": shares["hinted_kept"] > 0.5,
    }
    return [text for text, applies in advice.items() if applies]
