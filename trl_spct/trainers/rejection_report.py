# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Report on the trajectories of rejective sampling: outcomes, pass rates, lengths and biases."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from datasets import Dataset

from .rejection import Outcome


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report: TypeAlias = dict[str, Any]

MAX_DOMAINS = 20
"""Number of domains, the largest ones, in the metrics, the card and the figure. The report has all."""

_COLUMNS = ("row", "hinted", "outcome", "problem", "num_tokens", "responses", "labels", "order", "domain")
_LENGTH_GROUPS = ("kept", "kept_unhinted", "kept_hinted", "rejected")


@dataclass(frozen=True)
class _Critique:
    """The fields of a trajectory that are counted; few distinct combinations occur."""

    outcome: str
    hinted: bool
    problem: str | None
    n: int
    domain: str | None
    place: int | None  # in which the judge read the best response; None for n = 1
    longest: bool | None  # whether no response is longer than the best one

    @property
    def right(self) -> bool:
        return self.outcome in (Outcome.KEPT.value, Outcome.TOO_EASY.value)

    @property
    def kept(self) -> bool:
        return self.outcome == Outcome.KEPT.value

    @property
    def compared(self) -> bool:
        """Whether it counts in `places` and `best_response`."""
        return not self.hinted and self.n > 1 and self.outcome != Outcome.UNREADABLE.value

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "_Critique":
        responses, labels, domain = record["responses"], record["labels"], record.get("domain")
        best = labels.index(max(labels)) if len(labels) > 1 else None
        return cls(
            outcome=record["outcome"],
            hinted=record["hinted"],
            problem=record["problem"],
            n=len(responses),
            domain=None if domain is None else str(domain),
            place=None if best is None else record["order"].index(best),
            longest=None if best is None else len(responses[best]) == max(map(len, responses)),
        )


@dataclass(frozen=True)
class _Row:
    """The fields of a preference row that are counted."""

    n: int
    domain: str | None
    sampled: int  # unhinted
    right: int  # unhinted
    hint_right: bool


@dataclass(frozen=True)
class _Counts:
    critiques: "Counter[_Critique]"
    rows: "Counter[_Row]"
    tokens: "dict[str, Counter[int]]"


def rejection_report(trajectories: Dataset) -> Report:
    """Counts and shares of trajectories, in one pass and in constant memory.

    `accuracy` is the share of correct critiques among the unhinted ones, where unreadable ones are incorrect. In
    `places` and `best_response` only readable ones of n ≥ 2 responses count.

    Args:
        trajectories ([`~datasets.Dataset`]):
            Result of [`~trl_spct.RejectiveSampler.collect`], in which the trajectories of a row are adjacent.

    Returns:
        `dict` of JSON values:

        - `trajectories`, `rows` (`int`);
        - `outcomes`, `hinted_outcomes`: unhinted and hinted trajectories by outcome;
        - `problems`: unreadable ones by cause;
        - `shares`: `kept`, `incorrect`, `unreadable`, `too_easy` of all trajectories; `accuracy`; `hinted_kept`, the
          share of hinted ones among the kept;
        - `pass_rates`: rows by the number of their correct unhinted trajectories, as `"2/3"`;
        - `by_n`, `by_domain`: `rows`, `trajectories` and the `shares` by number of responses, and by the column
          `domain`, if there is one;
        - `tokens`: `mean` and `median` length of the `kept` and the `rejected` trajectories, and of the kept ones
          without (`kept_unhinted`) and with a hint (`kept_hinted`);
        - `places`: by n, for each place in which the judge read the best response: `critiques`, `accuracy`, `kept`;
        - `best_response`: the same where the best response is the `longest`, and where it is `shorter` than another;
        - `hints`: `rows_unsolved` without a hint, how many of these the hint solved (`solved_by_hint`), and the share
          of correct ones among the hinted trajectories (`accuracy`);
        - `remarks`: advice in words.
    """
    counts = _count(trajectories)
    critiques, compared = counts.critiques, _where(counts.critiques, lambda c: c.compared)
    report = {
        "trajectories": critiques.total(),
        "rows": counts.rows.total(),
        "outcomes": _by_outcome(_where(critiques, lambda c: not c.hinted)),
        "hinted_outcomes": _by_outcome(_where(critiques, lambda c: c.hinted)),
        "problems": _sums(critiques, lambda c: c.problem),
        "shares": _shares(critiques),
        "pass_rates": _pass_rates(counts.rows),
        "by_n": _groups(counts, lambda item: item.n),
        "by_domain": _groups(counts, lambda item: item.domain),
        "tokens": {name: _lengths(counts.tokens[name]) for name in _LENGTH_GROUPS if name in counts.tokens},
        "places": {
            str(n): [_part(_in_place(compared, n, place)) for place in range(n)]
            for n in sorted({c.n for c in compared})
        },
        "best_response": {
            "longest": _part(_where(compared, lambda c: c.longest is True)),
            "shorter": _part(_where(compared, lambda c: c.longest is False)),
        },
        "hints": _hints(counts),
    }
    return {**report, "remarks": _remarks(report)}


def rejection_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The report as metrics `rft/…` for a tracker; undefined ones are left out."""
    metrics: dict[str, float | None] = dict(report["shares"])
    metrics |= {f"problem/{name}": n / report["trajectories"] for name, n in report["problems"].items()}
    metrics |= {f"rows_with_{rate}": n / report["rows"] for rate, n in report["pass_rates"].items()}
    for kind, groups in (("n", report["by_n"]), ("domain", _largest(report["by_domain"]))):
        for name, group in groups.items():
            metrics |= {f"{kind}={name}/{value}": group[value] for value in ("accuracy", "kept")}
    metrics |= {f"tokens/{name}": lengths["mean"] for name, lengths in report["tokens"].items()}
    for n, places in report["places"].items():
        metrics |= {f"accuracy/n={n}_best_in_place_{i + 1}": place["accuracy"] for i, place in enumerate(places)}
    metrics |= {f"accuracy/best_is_{name}": part["accuracy"] for name, part in report["best_response"].items()}
    hints, rows = report["hints"], max(1, report["rows"])
    metrics["rows_unsolved"] = hints["rows_unsolved"] / rows
    metrics["hint/accuracy"] = hints["accuracy"]
    metrics["hint/rows_solved"] = hints["solved_by_hint"] / rows
    return {f"rft/{name}": value for name, value in metrics.items() if value is not None}


def rejection_summary(report: Mapping[str, Any]) -> str:
    """A table of the trajectories by outcome, unhinted and hinted, with the causes of unreadable ones."""
    width = len(str(report["trajectories"])) + 10
    lines = [
        f"{report['trajectories']} trajectories of {report['rows']} rows",
        f"{'':12}{'unhinted':>{width}}{'hinted':>{width}}",
    ]
    for name, count in report["outcomes"].items():
        lines.append(f"{name:12}{count:>{width}}{report['hinted_outcomes'][name]:>{width}}")
    if report["problems"]:
        lines.append("unreadable by cause: " + ", ".join(f"{n} {name}" for name, n in report["problems"].items()))
    return "\n".join(lines)


def plot_rejection(report: Mapping[str, Any]) -> "Figure":
    """Pass rates, outcomes, lengths, and accuracy by the place of the best response, in one figure.

    Args:
        report (mapping): Result of [`rejection_report`].

    Returns:
        [`~matplotlib.figure.Figure`], with `savefig`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")  # not `pyplot`, whose backend is the user's
    (rates, outcomes), (tokens, places) = figure.subplots(2, 2)
    rates.bar(list(report["pass_rates"]), list(report["pass_rates"].values()))
    rates.set(xlabel="correct unhinted critiques", ylabel="rows")
    _plot_outcomes(outcomes, trajectory_groups(report))
    lengths = {name.replace("_", "\n"): group["mean"] for name, group in report["tokens"].items()}
    tokens.bar(list(lengths), list(lengths.values()))
    tokens.set(xlabel="critiques", ylabel="tokens, mean")
    for n, parts in report["places"].items():
        accuracies = [float("nan") if part["accuracy"] is None else 100 * part["accuracy"] for part in parts]
        places.plot(range(1, len(parts) + 1), accuracies, "-o", label=f"n = {n}")
    places.set(xlabel="place of the best response", ylabel="accuracy (%)", ylim=(0, 100))
    if report["places"]:
        places.set_xticks(range(1, max(map(len, report["places"].values())) + 1))
        places.legend(fontsize="small")
    for axes in (rates, tokens, places):
        axes.grid(alpha=0.3, axis="y")
    return figure


def trajectory_groups(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of a report by number of responses, and its [`MAX_DOMAINS`] largest domains."""
    return {f"n = {n}": group for n, group in report["by_n"].items()} | _largest(report["by_domain"])


def _count(trajectories: Dataset) -> _Counts:
    counts = _Counts(Counter(), Counter(), {})
    for _, group in groupby(_records(trajectories), key=lambda record: record["row"]):
        records = list(group)
        critiques = [_Critique.of(record) for record in records]
        counts.critiques.update(critiques)
        unhinted = [critique for critique in critiques if not critique.hinted]
        hint_right = any(critique.hinted and critique.right for critique in critiques)
        right = sum(critique.right for critique in unhinted)
        counts.rows[_Row(critiques[0].n, critiques[0].domain, len(unhinted), right, hint_right)] += 1
        for record, critique in zip(records, critiques, strict=True):
            hinted = "kept_hinted" if critique.hinted else "kept_unhinted"
            for name in ("kept", hinted) if critique.kept else ("rejected",):
                counts.tokens.setdefault(name, Counter())[record["num_tokens"]] += 1
    return counts


def _records(trajectories: Dataset) -> Iterator[dict[str, Any]]:
    columns = [name for name in _COLUMNS if name in trajectories.column_names]
    for batch in trajectories.with_format(None).select_columns(columns).iter(batch_size=1000):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _in_place(critiques: "Counter[_Critique]", n: int, place: int) -> "Counter[_Critique]":
    return _where(critiques, lambda c: (c.n, c.place) == (n, place))


def _where(counter: "Counter[Any]", condition: Callable[[Any], bool]) -> "Counter[Any]":
    return Counter({item: count for item, count in counter.items() if condition(item)})


def _sums(counter: "Counter[Any]", key: Callable[[Any], Any]) -> dict[str, int]:
    """Counts by key, sorted; items whose key is `None` are left out."""
    sums: Counter[Any] = Counter()
    for item, count in counter.items():
        if key(item) is not None:
            sums[key(item)] += count
    return {str(name): sums[name] for name in sorted(sums)}


def _by_outcome(critiques: "Counter[_Critique]") -> dict[str, int]:
    sums = _sums(critiques, lambda c: c.outcome)
    return {outcome.value: sums.get(outcome.value, 0) for outcome in Outcome}


def _shares(critiques: "Counter[_Critique]") -> dict[str, float | None]:
    kept = _where(critiques, lambda c: c.kept)
    shares: dict[str, float | None] = {
        name: count / max(1, critiques.total()) for name, count in _by_outcome(critiques).items()
    }
    shares["accuracy"] = _accuracy(_where(critiques, lambda c: not c.hinted))
    shares["hinted_kept"] = _where(kept, lambda c: c.hinted).total() / max(1, kept.total())
    return shares


def _accuracy(critiques: "Counter[_Critique]") -> float | None:
    return _where(critiques, lambda c: c.right).total() / critiques.total() if critiques else None


def _pass_rates(rows: "Counter[_Row]") -> dict[str, int]:
    rates = {(row.sampled, right) for row in rows for right in range(row.sampled + 1)}
    sums = _sums(rows, lambda row: (row.sampled, row.right))
    return {f"{right}/{sampled}": sums.get(str((sampled, right)), 0) for sampled, right in sorted(rates) if sampled}


def _groups(counts: _Counts, key: Callable[[Any], Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, Counter[_Critique]] = {}
    for critique, count in counts.critiques.items():
        parts.setdefault(str(key(critique)), Counter())[critique] = count
    return {
        name: {"rows": num_rows, "trajectories": parts[name].total(), **_shares(parts[name])}
        for name, num_rows in _sums(counts.rows, key).items()
    }


def _largest(groups: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return dict(sorted(groups.items(), key=lambda item: -item[1]["rows"])[:MAX_DOMAINS])


def _lengths(lengths: "Counter[int]") -> dict[str, float]:
    ordered = sorted(lengths)
    cumulative = accumulate(lengths[length] for length in ordered)
    median = next(length for length, count in zip(ordered, cumulative, strict=True) if 2 * count >= lengths.total())
    return {"mean": sum(length * count for length, count in lengths.items()) / lengths.total(), "median": median}


def _part(critiques: "Counter[_Critique]") -> dict[str, Any]:
    kept = _where(critiques, lambda c: c.kept).total()
    return {"critiques": critiques.total(), "accuracy": _accuracy(critiques), "kept": kept}


def _hints(counts: _Counts) -> dict[str, Any]:
    unsolved = _where(counts.rows, lambda row: row.sampled > 0 and row.right == 0)
    return {
        "rows_unsolved": unsolved.total(),
        "solved_by_hint": _where(unsolved, lambda row: row.hint_right).total(),
        "accuracy": _accuracy(_where(counts.critiques, lambda c: c.hinted)),
    }


def _remarks(report: Mapping[str, Any]) -> list[str]:
    """Advice; the thresholds are not in the paper."""
    shares, tokens = report["shares"], report["tokens"]
    remarks = []
    truncated = report["problems"].get("truncated", 0) / max(1, report["trajectories"])
    if truncated > 0.1:
        remarks.append(f"{truncated:.0%} reached the token limit: raise `max_completion_length`.")
    if shares["unreadable"] - truncated > 0.2:
        remarks.append(
            f"{shares['unreadable'] - truncated:.0%} ended without readable scores: look at `problem`, and take a "
            "stronger `sampler`."
        )
    if shares["too_easy"] > 0.5:
        remarks.append(f"{shares['too_easy']:.0%} are too easy: take harder rows.")
    if shares["hinted_kept"] > 0.5:
        remarks.append(
            f"{shares['hinted_kept']:.0%} of the kept critiques were hinted and may take short cuts: read some, and "
            "cap them with `max_hinted_share`."
        )
    if {"kept_hinted", "kept_unhinted"} <= set(tokens):
        hinted, unhinted = tokens["kept_hinted"]["mean"], tokens["kept_unhinted"]["mean"]
        if hinted < 0.75 * unhinted:
            remarks.append(
                f"Kept critiques are shorter with a hint ({hinted:.0f} tokens) than without ({unhinted:.0f})."
            )
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


def _plot_outcomes(axes: "Axes", groups: Mapping[str, Mapping[str, Any]]) -> None:
    names: Sequence[str] = list(groups)[::-1]
    left = [0.0] * len(names)
    for outcome in Outcome:
        widths = [100 * groups[name][outcome.value] for name in names]
        axes.barh(names, widths, left=left, label=outcome.value.replace("_", " "))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set(xlabel="trajectories (%)", xlim=(0, 100))
    axes.legend(fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
