# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What rejective sampling found: how hard the rows are, why critiques were rejected, what decides besides worth."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from .rejection import Outcome


if TYPE_CHECKING:
    from matplotlib.figure import Figure


_RIGHT = (Outcome.KEPT.value, Outcome.TOO_EASY.value)
_COLUMNS = ("row", "hinted", "outcome", "problem", "num_tokens", "responses", "labels", "order", "domain")
_LENGTH_GROUPS = ("kept", "kept_unhinted", "kept_hinted", "rejected")
MAX_DOMAINS = 20
"""Domains with metrics, a line in the card and a bar in the figure; the largest ones. The report has all."""


@dataclass(frozen=True)
class _Critique:
    """What the report counts of a trajectory; few distinct ones occur, however many trajectories there are."""

    outcome: str
    hinted: bool
    problem: str | None
    n: int
    domain: str | None
    place: int | None  # of the best response, among those that the judge read; None for n = 1
    longest: bool | None  # whether no response is longer than the best one

    @property
    def right(self) -> bool:
        return self.outcome in _RIGHT


@dataclass(frozen=True)
class _Row:
    """What the report counts of a preference row."""

    n: int
    domain: str | None
    sampled: int  # without a hint
    right: int  # of those
    hint_right: bool


@dataclass(frozen=True)
class _Counts:
    critiques: Counter
    rows: Counter
    tokens: dict[str, Counter]


def rejection_report(trajectories: Dataset) -> dict[str, Any]:
    """Counts and shares of trajectories, in one pass and with flat memory.

    Accuracy is the share of the unhinted trajectories that are correct; one that cannot be read is not. In `places`
    and `best_response`, which ask what a score hangs on, only readable ones of n ≥ 2 responses count.

    Args:
        trajectories ([`~datasets.Dataset`]):
            What [`~trl_spct.RejectiveSampler.collect`] returned, in its order: the trajectories of a row side by side.

    Returns:
        `dict`, which JSON can hold:

        - `trajectories`, `rows` (`int`);
        - `outcomes`, `hinted_outcomes`: unhinted and hinted trajectories by outcome;
        - `problems`: unreadable ones by cause;
        - `shares`: `kept`, `incorrect`, `unreadable`, `too_easy` of all trajectories; `accuracy`; `hinted_kept`, the
          hinted among the kept;
        - `pass_rates`: rows by how many of their unhinted trajectories are correct, as `"2/3"`;
        - `by_n`, `by_domain`: `rows`, `trajectories` and the `shares` by number of responses, and by the column
          `domain`, if there is one;
        - `tokens`: `mean` and `median` length of the `kept` and the `rejected` trajectories, and of the kept ones
          without (`kept_unhinted`) and with a hint (`kept_hinted`);
        - `places`: by n, for each place in which the judge read the best response: `critiques`, `accuracy`, `kept`;
        - `best_response`: the same where the best response is the `longest`, and where it is `shorter` than another;
        - `hints`: `rows_unsolved` without a hint, how many of these the hint solved (`solved_by_hint`), and the share
          of the hinted trajectories that are correct (`accuracy`);
        - `remarks`: what deserves a look, in words.
    """
    counts = _count(trajectories)
    total = counts.critiques.total()
    report = {
        "trajectories": total,
        "rows": counts.rows.total(),
        "outcomes": _by_outcome(counts.critiques, lambda c: not c.hinted),
        "hinted_outcomes": _by_outcome(counts.critiques, lambda c: c.hinted),
        "problems": _sums(counts.critiques, lambda c: c.problem),
        "shares": _shares(counts.critiques),
        "pass_rates": _pass_rates(counts.rows),
        "by_n": _groups(counts, lambda item: item.n),
        "by_domain": _groups(counts, lambda item: item.domain),
        "tokens": {name: _lengths(counts.tokens[name]) for name in _LENGTH_GROUPS if name in counts.tokens},
        "places": _places(counts.critiques),
        "best_response": _by_length(counts.critiques),
        "hints": _hints(counts),
    }
    return {**report, "remarks": _remarks(report)}


def rejection_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The report as metrics for a tracker, `rft/…`; what was not sampled has none."""
    metrics = {f"rft/{name}": value for name, value in report["shares"].items()}
    metrics |= {f"rft/problem/{name}": n / report["trajectories"] for name, n in report["problems"].items()}
    metrics |= {f"rft/rows_with_{rate}": n / report["rows"] for rate, n in report["pass_rates"].items()}
    for kind, groups in (("n", report["by_n"]), ("domain", _largest(report["by_domain"]))):
        for name, group in groups.items():
            metrics |= {f"rft/{kind}={name}/{value}": group[value] for value in ("accuracy", "kept")}
    metrics |= {f"rft/tokens/{name}": lengths["mean"] for name, lengths in report["tokens"].items()}
    for n, places in report["places"].items():
        metrics |= {f"rft/accuracy/n={n}_best_in_place_{i + 1}": p["accuracy"] for i, p in enumerate(places)}
    metrics |= {f"rft/accuracy/best_is_{name}": part["accuracy"] for name, part in report["best_response"].items()}
    hints = report["hints"]
    metrics["rft/rows_unsolved"] = hints["rows_unsolved"] / max(1, report["rows"])
    metrics["rft/hint/accuracy"] = hints["accuracy"]
    metrics["rft/hint/rows_solved"] = hints["solved_by_hint"] / max(1, report["rows"])
    return {name: value for name, value in metrics.items() if value is not None}


def plot_rejection(report: Mapping[str, Any]) -> "Figure":
    """Pass rates, outcomes, lengths and the place of the best response in one figure.

    Args:
        report (mapping): Of [`rejection_report`].

    Returns:
        [`~matplotlib.figure.Figure`], with `savefig`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")  # not `pyplot`, whose backend is the user's
    (rates, outcomes), (tokens, places) = figure.subplots(2, 2)
    _bars(rates, report["pass_rates"], "correct unhinted critiques", "rows")
    _stacked(outcomes, trajectory_groups(report))
    _bars(tokens, {name: t["mean"] for name, t in report["tokens"].items()}, "critiques", "tokens, mean")
    for n, found in report["places"].items():
        accuracies = [float("nan") if place["accuracy"] is None else 100 * place["accuracy"] for place in found]
        places.plot(range(1, len(found) + 1), accuracies, "-o", label=f"n = {n}")
    places.set(xlabel="place of the best response", ylabel="accuracy (%)", ylim=(0, 100))
    if report["places"]:
        places.set_xticks(range(1, max(map(len, report["places"].values())) + 1))
        places.legend(fontsize="small")
    places.grid(alpha=0.3)
    return figure


def trajectory_groups(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of a report by number of responses, and its [`MAX_DOMAINS`] largest domains."""
    return {f"n = {n}": group for n, group in report["by_n"].items()} | _largest(report["by_domain"])


def _count(trajectories: Dataset) -> _Counts:
    counts = _Counts(Counter(), Counter(), {})
    for _, records in groupby(_records(trajectories), key=lambda record: record["row"]):
        records = list(records)
        critiques = [_critique(record) for record in records]
        counts.critiques.update(critiques)
        own = [critique for critique in critiques if not critique.hinted]
        hint_right = any(critique.hinted and critique.right for critique in critiques)
        right = sum(critique.right for critique in own)
        counts.rows[_Row(critiques[0].n, critiques[0].domain, len(own), right, hint_right)] += 1
        for record, critique in zip(records, critiques, strict=True):
            for name in _length_groups(critique):
                counts.tokens.setdefault(name, Counter())[record["num_tokens"]] += 1
    return counts


def _records(trajectories: Dataset) -> Iterator[dict[str, Any]]:
    columns = [name for name in _COLUMNS if name in trajectories.column_names]
    for batch in trajectories.with_format(None).select_columns(columns).iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _critique(record: Mapping[str, Any]) -> _Critique:
    responses, labels = record["responses"], record["labels"]
    best = labels.index(max(labels)) if len(labels) > 1 else None
    domain = record.get("domain")
    return _Critique(
        outcome=record["outcome"],
        hinted=record["hinted"],
        problem=record["problem"],
        n=len(responses),
        domain=None if domain is None else str(domain),
        place=None if best is None else record["order"].index(best),
        longest=None if best is None else len(responses[best]) == max(map(len, responses)),
    )


def _length_groups(critique: _Critique) -> tuple[str, ...]:
    if critique.outcome != Outcome.KEPT.value:
        return ("rejected",)
    return ("kept", "kept_hinted" if critique.hinted else "kept_unhinted")


def _sums(counter: Counter, key: Callable[[Any], Any]) -> dict[str, int]:
    """Counts by key, sorted; what has none is left out."""
    sums: Counter = Counter()
    for item, count in counter.items():
        if key(item) is not None:
            sums[key(item)] += count
    return {str(name): sums[name] for name in sorted(sums)}


def _where(counter: Counter, condition: Callable[[Any], bool]) -> Counter:
    return Counter({item: count for item, count in counter.items() if condition(item)})


def _by_outcome(critiques: Counter, condition: Callable[[_Critique], bool]) -> dict[str, int]:
    found = _sums(_where(critiques, condition), lambda c: c.outcome)
    return {outcome.value: found.get(outcome.value, 0) for outcome in Outcome}


def _shares(critiques: Counter) -> dict[str, float]:
    outcomes = _by_outcome(critiques, lambda c: True)
    shares: dict[str, Any] = {name: _share(count, critiques.total()) for name, count in outcomes.items()}
    own = _where(critiques, lambda c: not c.hinted)
    shares["accuracy"] = _accuracy(own)
    told = _where(critiques, lambda c: c.hinted and c.outcome == Outcome.KEPT.value).total()
    shares["hinted_kept"] = _share(told, outcomes[Outcome.KEPT.value])
    return shares


def _share(count: int, total: int) -> float:
    return count / max(1, total)


def _accuracy(critiques: Counter) -> float | None:
    return _where(critiques, lambda c: c.right).total() / critiques.total() if critiques else None


def _pass_rates(rows: Counter) -> dict[str, int]:
    rates = {(row.sampled, right) for row in rows for right in range(row.sampled + 1)}
    found = _sums(rows, lambda row: (row.sampled, row.right))
    return {f"{right}/{sampled}": found.get(str((sampled, right)), 0) for sampled, right in sorted(rates) if sampled}


def _groups(counts: _Counts, key: Callable[[Any], Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, Counter] = {}
    for critique, count in counts.critiques.items():
        parts.setdefault(str(key(critique)), Counter())[critique] = count
    return {
        name: {"rows": num_rows, "trajectories": parts[name].total(), **_shares(parts[name])}
        for name, num_rows in _sums(counts.rows, key).items()
    }


def _largest(groups: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return dict(sorted(groups.items(), key=lambda item: -item[1]["rows"])[:MAX_DOMAINS])


def _lengths(lengths: Counter) -> dict[str, float]:
    ordered, half, seen = sorted(lengths), lengths.total() / 2, 0
    for median in ordered:
        seen += lengths[median]
        if seen >= half:
            break
    return {"mean": sum(length * count for length, count in lengths.items()) / lengths.total(), "median": median}


def _compared(critiques: Counter) -> Counter:
    return _where(critiques, lambda c: not c.hinted and c.n > 1 and c.outcome != Outcome.UNREADABLE.value)


def _part(critiques: Counter) -> dict[str, Any]:
    kept = _where(critiques, lambda c: c.outcome == Outcome.KEPT.value).total()
    return {"critiques": critiques.total(), "accuracy": _accuracy(critiques), "kept": kept}


def _places(critiques: Counter) -> dict[str, list[dict[str, Any]]]:
    compared = _compared(critiques)
    return {
        str(n): [
            _part(_where(compared, lambda c, n=n, place=place: (c.n, c.place) == (n, place))) for place in range(n)
        ]
        for n in sorted({c.n for c in compared})
    }


def _by_length(critiques: Counter) -> dict[str, dict[str, Any]]:
    compared = _compared(critiques)
    return {
        name: _part(_where(compared, lambda c, longest=longest: c.longest is longest))
        for name, longest in (("longest", True), ("shorter", False))
    }


def _hints(counts: _Counts) -> dict[str, Any]:
    unsolved = _where(counts.rows, lambda row: row.sampled > 0 and row.right == 0)
    return {
        "rows_unsolved": unsolved.total(),
        "solved_by_hint": _where(unsolved, lambda row: row.hint_right).total(),
        "accuracy": _accuracy(_where(counts.critiques, lambda c: c.hinted)),
    }


def _remarks(report: Mapping[str, Any]) -> list[str]:
    """Plain advice; the thresholds are ours."""
    shares, problems, tokens = report["shares"], report["problems"], report["tokens"]
    remarks = []
    truncated = problems.get("truncated", 0) / max(1, report["trajectories"])
    if truncated > 0.1:
        remarks.append(f"{truncated:.0%} ran into the token limit: raise `max_completion_length`.")
    if shares["unreadable"] - truncated > 0.2:
        remarks.append(
            f"{shares['unreadable'] - truncated:.0%} ended without a score that can be read: look at `problem`, and "
            "let a stronger `sampler` sample."
        )
    if shares["too_easy"] > 0.5:
        remarks.append(f"{shares['too_easy']:.0%} are too easy: take harder rows.")
    if shares["hinted_kept"] > 0.5:
        remarks.append(
            f"{shares['hinted_kept']:.0%} of the kept critiques were hinted, and such ones may take short cuts: read "
            "some, and cap them with `max_hinted_share`."
        )
    if {"kept_hinted", "kept_unhinted"} <= set(tokens):
        told, own = tokens["kept_hinted"]["mean"], tokens["kept_unhinted"]["mean"]
        if told < 0.75 * own:
            remarks.append(f"Kept critiques are shorter with a hint ({told:.0f} tokens) than without ({own:.0f}).")
    for n, places in report["places"].items():
        spread = [place["accuracy"] for place in places if place["critiques"] >= 30]
        if spread and max(spread) - min(spread) > 0.15:
            remarks.append(
                f"The place of the best response matters for n = {n}: accuracy {min(spread):.2f} to {max(spread):.2f}."
            )
    longest, shorter = report["best_response"]["longest"], report["best_response"]["shorter"]
    if min(longest["critiques"], shorter["critiques"]) >= 30 and longest["accuracy"] - shorter["accuracy"] > 0.15:
        remarks.append(
            f"Length matters: accuracy {longest['accuracy']:.2f} where the best response is the longest, "
            f"{shorter['accuracy']:.2f} elsewhere."
        )
    return remarks


def _bars(axes, values: Mapping[str, float], xlabel: str, ylabel: str) -> None:
    axes.bar([name.replace("_", "\n") for name in values], list(values.values()))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3, axis="y")


def _stacked(axes, groups: Mapping[str, Mapping[str, Any]]) -> None:
    names: Sequence[str] = list(groups)[::-1]
    left = [0.0] * len(names)
    for outcome in Outcome:
        widths = [100 * groups[name][outcome.value] for name in names]
        axes.barh(names, widths, left=left, label=outcome.value.replace("_", " "))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set(xlabel="trajectories (%)", xlim=(0, 100))
    axes.legend(fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
