# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Results as people read them: figures, tables for a terminal, for a page and for a model card."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult


Result = Mapping[str, Any]

_AXES = {"k": "votes per row, k", "tokens": "tokens written per item", "seconds": "seconds per item"}


def vote_name(result: Result) -> str:
    """How a result's scores came about, in one word."""
    if result.get("baseline"):
        return "–"
    return "guided" if result["guided"] else "greedy" if result.get("temperature") == 0 else "plain"


def plot_scaling(
    results: Sequence[Result], path: str | os.PathLike, title: str | None = None, against: str = "k"
) -> None:
    """Accuracy over votes with 95 % bands, one line per stage, solid for plain and dashed for guided voting.

    The layout of the paper's Figure 1. Greedy results (`temperature` 0) are drawn as horizontal ticks, and judges to
    compare with (`baseline`), which do not scale, as dotted lines across.

    Args:
        results (sequence of results): See [`~trl_spct.evaluation.scaling_results`].
        path (`str` or path): Where the figure goes; its suffix says in which format.
        title (`str`, *optional*): Above the figure.
        against (`str`, *optional*, defaults to `"k"`):
            The horizontal axis: `"k"`, or the cost, `"tokens"` or `"seconds"` per item.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.4), layout="constrained")  # not `pyplot`, whose backend is the user's
    axes = figure.subplots()
    baselines = [result for result in results if result.get("baseline")]
    results = [result for result in results if not result.get("baseline")]
    stages = list(dict.fromkeys(result.get("stage", "judge") for result in results))
    for color, stage in enumerate(stages):
        for guided in (False, True):
            line = sorted(
                (
                    r
                    for r in results
                    if r.get("stage", "judge") == stage and r["guided"] is guided and r.get("temperature") != 0
                ),
                key=lambda result: result[against],
            )
            if line:
                label = f"{stage}{', guided by Meta RM' if guided else ''}"
                _draw_line(axes, line, against, f"C{color}", label, guided)
        for result in results:
            if result.get("stage", "judge") == stage and result.get("temperature") == 0:
                label = f"{stage}, greedy{', guided by Meta RM' if result['guided'] else ''}"
                accuracy = 100 * result["accuracy"]
                axes.plot([result[against]], [accuracy], "_", color=f"C{color}", markersize=14, label=label)
    for number, result in enumerate(baselines):
        style = (0, (1, 1 + number))
        axes.axhline(100 * result["accuracy"], color="0.5", linestyle=style, linewidth=1, label=result["stage"])
    axes.set_xscale("log", base=2)
    if against == "k":
        votes = sorted({result["k"] for result in results})
        axes.set_xticks(votes, votes)
    axes.set_xlabel(_AXES[against])
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.set_title(title or "")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=150)


def _draw_line(axes, line: Sequence[Result], against: str, color: str, label: str, dashed: bool) -> None:
    votes = [result[against] for result in line]
    axes.plot(
        votes,
        [100 * result["accuracy"] for result in line],
        "--s" if dashed else "-o",
        color=color,
        label=label,
        markersize=4,
    )
    axes.fill_between(
        votes, [100 * r["low"] for r in line], [100 * r["high"] for r in line], color=color, alpha=0.12, linewidth=0
    )


def results_table(results: Sequence[Result], title: str | None = None):
    """The results as a `rich` table, one line per stage, mode and k."""
    from rich.table import Table

    table = Table(title=title)
    for column in ("stage", "k", "vote", "T"):
        table.add_column(column)
    for column in ("accuracy", "95 % interval", "rows", "unreadable", "ties"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            str(result.get("stage", "judge")),
            str(result["k"]),
            vote_name(result),
            f"{result['temperature']:g}" if "temperature" in result else "",
            f"{100 * result['accuracy']:.1f}",
            f"{100 * result['low']:.1f} – {100 * result['high']:.1f}",
            str(result["n"]),
            f"{100 * result['unreadable']:.1f} %",
            f"{100 * result['ties']:.1f} %",
        )
    return table


def markdown_table(results: Sequence[Result], intervals: bool = True) -> str:
    """Judges by benchmarks, in the layout of the paper's Table 2: overall values in percent, and their mean.

    Args:
        results (sequence of results):
            Of [`~trl_spct.benchmark_results.benchmark_results`], for any number of judges and benchmarks.
        intervals (`bool`, *optional*, defaults to `True`): Whether 95 % intervals stand behind the values.

    Returns:
        `str`: A markdown table, and beneath it the metrics and numbers of items. The plain mean, over what is shown,
        is left out for judges that lack a benchmark. It is the paper's overall value if what is shown are RewardBench,
        both PPE sets and RMB (section 8).
    """
    benchmarks = list(dict.fromkeys(result["benchmark"] for result in results))
    found = {(_line(result), result["benchmark"]): result for result in results}
    lines = [("judge", "vote", "k", *benchmarks, *(["mean"] if len(benchmarks) > 1 else []))]
    lines.append(("---",) * 3 + ("---:",) * (len(lines[0]) - 3))
    for line in dict.fromkeys(_line(result) for result in results):
        cells = [found.get((line, benchmark)) for benchmark in benchmarks]
        values = [cell["accuracy"] for cell in cells if cell is not None]
        mean = [_percent(sum(values) / len(values)) if len(values) == len(benchmarks) else "–"]
        shown = ["–" if cell is None else _cell(cell, intervals) for cell in cells]
        lines.append((*map(str, line), *shown, *(mean if len(benchmarks) > 1 else [])))
    notes = {
        result["benchmark"]: f"{result['benchmark']}: {result['metric']}, n = {result['n']}" for result in results
    }
    return "\n".join(
        [*("| " + " | ".join(line) + " |" for line in lines), "", *(f"* {note}" for note in notes.values())]
    )


def breakdown_table(results: Sequence[Result]) -> str:
    """Subsets, sections or tasks of one benchmark by judges, in the layout of the paper's Table 3."""
    names = list(dict.fromkeys(name for result in results for name in result["values"]))
    lines = [("judge", "vote", "k", *names), ("---",) * 3 + ("---:",) * len(names)]
    for result in results:
        values = [result["values"].get(name) for name in names]
        lines.append((*map(str, _line(result)), *("–" if v is None else _percent(v[0]) for v in values)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(result: Result) -> tuple[str, str, int]:
    return str(result.get("stage", "judge")), vote_name(result), result["k"]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _cell(result: Result, intervals: bool) -> str:
    value = _percent(result["accuracy"])
    return f"{value} ({_percent(result['low'])}–{_percent(result['high'])})" if intervals and value != "–" else value


def mean_results(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One result per judge and number of votes: the mean over benchmarks, for a figure over all of them.

    Intervals are those of independent benchmarks: half widths are added in squares.
    """
    benchmarks = {result["benchmark"] for result in results}
    grouped: dict[tuple, list[Result]] = {}
    for result in results:
        grouped.setdefault((*_line(result), result["guided"]), []).append(result)
    means = []
    for found in grouped.values():
        if {result["benchmark"] for result in found} != benchmarks:
            continue
        count = len(found)
        accuracy = sum(result["accuracy"] for result in found) / count
        below = math.sqrt(sum((result["accuracy"] - result["low"]) ** 2 for result in found)) / count
        above = math.sqrt(sum((result["high"] - result["accuracy"]) ** 2 for result in found)) / count
        costs = {name: sum(result[name] for result in found) / count for name in ("tokens", "seconds")}
        shared = {name: found[0][name] for name in ("stage", "temperature", "baseline") if name in found[0]}
        means.append(
            {
                **shared,
                **costs,
                "k": found[0]["k"],
                "guided": found[0]["guided"],
                "accuracy": accuracy,
                "low": accuracy - below,
                "high": accuracy + above,
                "benchmarks": sorted(benchmarks),
            }
        )
    return means


def card_results(results: Sequence[Result], protocol: Mapping[str, Any]) -> list[EvalResult]:
    """What a model card's `model-index` says: the greedy result, and those of the most votes, of each benchmark.

    Args:
        results (sequence of results): Of one judge; baselines are left out.
        protocol (mapping): How the numbers came about, as [`~trl_spct.evaluation.PipelineJudge.protocol`] tells it.

    Returns:
        `list[EvalResult]` for [`~huggingface_hub.ModelCardData`] as `eval_results`.
    """
    entries = []
    for result in results:
        if result.get("baseline"):
            continue
        most = max(other["k"] for other in results if _same_curve(other, result))
        if result["k"] != most:
            continue
        how = {"greedy": "greedy", "plain": f"Voting@{result['k']}", "guided": f"MetaRM@{result['k']}"}
        interval = f"95 % interval {_percent(result['low'])} to {_percent(result['high'])}, n = {result['n']}"
        entries.append(
            EvalResult(
                task_type="text-ranking",
                task_name="Reward modeling",
                dataset_type=result["benchmark"],
                dataset_name=result["benchmark"],
                metric_type="roc_auc" if result["metric"] == "ROC-AUC" else "accuracy",
                metric_name=f"{result['metric']}, {how[vote_name(result)]}",
                metric_value=round(100 * result["accuracy"], 2),
                metric_args={**protocol, "k": result["k"], "interval": interval},
            )
        )
    return entries


def _same_curve(first: Result, second: Result) -> bool:
    return all(first.get(name) == second.get(name) for name in ("benchmark", "stage", "guided", "temperature"))
