# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Figures and tables of results, and the output folder of an evaluation."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from huggingface_hub import EvalResult

from .benchmarks import BENCHMARKS
from .diagnostics import percent, report_cells
from .statistics import mean


Result: TypeAlias = Mapping[str, Any]
"""A result of [`~trl_spct.evaluation.judgments.scaling_results`] or
[`~trl_spct.evaluation.benchmark_results.benchmark_results`], with `stage` (name of the judge), `temperature` and
`baseline` (a judge to compare with), all of them optional."""


def vote_name(result: Result) -> str:
    """`"plain"`, `"guided"` or `"greedy"`; `"–"` for baselines."""
    if result.get("baseline"):
        return "–"
    return "guided" if result["guided"] else "greedy" if result.get("temperature") == 0 else "plain"


def _line(result: Result) -> tuple[str, str, int]:
    return str(result.get("stage", "judge")), vote_name(result), result["k"]


def plot_scaling(results: Sequence[Result], path: str | os.PathLike, title: str | None = None) -> None:
    """Plots accuracy over votes with 95 % bands, one color per stage, guided voting dashed (layout of Figure 1).
    Greedy results are ticks; baselines, which do not scale, are dotted lines; results without a value are left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.4), layout="constrained")  # not `pyplot`, whose backend is the user's
    axes = figure.subplots()
    results = [result for result in results if result["accuracy"] is not None]
    judged = [result for result in results if not result.get("baseline")]
    stages = list(dict.fromkeys(result.get("stage", "judge") for result in judged))
    lines: dict[tuple[str, str], list[Result]] = {}
    for result in sorted(judged, key=lambda result: (stages.index(result.get("stage", "judge")), result["k"])):
        lines.setdefault((result.get("stage", "judge"), vote_name(result)), []).append(result)
    for (stage, vote), line in lines.items():
        color, votes = f"C{stages.index(stage)}", [result["k"] for result in line]
        accuracy, low, high = ([100 * result[name] for result in line] for name in ("accuracy", "low", "high"))
        label = stage + {"plain": "", "greedy": ", greedy", "guided": ", guided by Meta RM"}[vote]
        style, size = {"plain": ("-o", 4), "greedy": ("_", 14), "guided": ("--s", 4)}[vote]
        axes.plot(votes, accuracy, style, color=color, label=label, markersize=size)
        if vote != "greedy":
            axes.fill_between(votes, low, high, color=color, alpha=0.12, linewidth=0)
    for number, result in enumerate(result for result in results if result.get("baseline")):
        dots = (0, (1, 1 + number))
        axes.axhline(100 * result["accuracy"], color="0.5", linestyle=dots, linewidth=1, label=result["stage"])
    axes.set_xscale("log", base=2)
    ticks = sorted({result["k"] for result in judged})
    axes.set_xticks(ticks, ticks)
    axes.set(xlabel="votes per row, k", ylabel="accuracy (%)", title=title or "")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=150)


def mean_results(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Means over benchmarks for a figure, per number of votes and judge with a value on each benchmark. Intervals are
    those of independent benchmarks: half widths are added in squares."""
    benchmarks = {result["benchmark"] for result in results}
    grouped: dict[tuple, list[Result]] = {}
    for result in results:
        if result["accuracy"] is not None:
            grouped.setdefault((*_line(result), result.get("temperature")), []).append(result)
    means = []
    for group in grouped.values():
        if {result["benchmark"] for result in group} == benchmarks:
            accuracy = mean([result["accuracy"] for result in group])
            below = math.hypot(*(result["accuracy"] - result["low"] for result in group)) / len(group)
            above = math.hypot(*(result["high"] - result["accuracy"] for result in group)) / len(group)
            means.append({**group[0], "accuracy": accuracy, "low": accuracy - below, "high": accuracy + above})
    return means


def results_table(results: Sequence[Result], title: str | None = None):
    """Results as a `rich` table, one row per stage, way to vote and k."""
    from rich.table import Table

    table = Table(title=title)
    for column in ("stage", "k", "vote", "T"):
        table.add_column(column)
    for column in ("accuracy, all rows", "95 % interval", "rows", "with a vote", "unreadable", "ties"):
        table.add_column(column, justify="right")
    for result in results:
        stage, vote, k = _line(result)
        temperature = f"{result['temperature']:g}" if "temperature" in result else ""
        interval = f"{percent(result['low'])} – {percent(result['high'])}"
        shares = [f"{percent(result.get(name))} %" for name in ("voted", "unreadable", "ties")]
        n = str(result["n"])
        table.add_row(stage, str(k), vote, temperature, percent(result["accuracy"]), interval, n, *shares)
    return table


def markdown_table(results: Sequence[Result]) -> str:
    """Judges by benchmarks (layout of the paper's Table 2): overall values in percent, their mean, metrics and n.

    The mean is unweighted, and left out for judges that lack a value. It is the paper's overall value if the
    benchmarks are RewardBench, both PPE sets and RMB (section 8).
    """
    benchmarks = list(dict.fromkeys(result["benchmark"] for result in results))
    cells = {(_line(result), result["benchmark"]): result for result in results}
    lines = [("judge", "vote", "k", *benchmarks, *(["mean"] if len(benchmarks) > 1 else []))]
    lines.append(("---",) * 3 + ("---:",) * (len(lines[0]) - 3))
    for line in dict.fromkeys(_line(result) for result in results):
        row = [cells.get((line, benchmark)) for benchmark in benchmarks]
        values = [cell["accuracy"] for cell in row if cell is not None and cell["accuracy"] is not None]
        overall = [percent(mean(values) if len(values) == len(benchmarks) else None)]
        shown = ["–" if cell is None else _cell(cell) for cell in row]
        lines.append((*map(str, line), *shown, *(overall if len(benchmarks) > 1 else [])))
    notes = {
        result["benchmark"]: f"{result['benchmark']}: {result['metric']}, n = {result['n']}" for result in results
    }
    return "\n".join([_markdown(lines), "", *(f"* {note}" for note in notes.values())])


def breakdown_table(results: Sequence[Result]) -> str:
    """Subsets, sections or tasks of one benchmark by judges, each with its most votes; markdown."""
    results = most_votes(results)
    names = list(dict.fromkeys(name for result in results for name in result["values"]))
    judges = [f"{judge}@{k}" + (f", {vote}" if vote != "–" else "") for judge, vote, k in map(_line, results)]
    lines = [("subset", *judges), ("---",) + ("---:",) * len(judges)]
    lines += [(name, *(percent((r["values"].get(name) or (None,))[0]) for r in results)) for name in names]
    return _markdown(lines)


def most_votes(results: Sequence[Result]) -> list[Result]:
    """The result with the most votes of each judge, benchmark and way to vote."""
    most: dict[tuple, Result] = {}
    for result in sorted(results, key=lambda result: result["k"]):
        names = ("benchmark", "stage", "guided", "temperature", "baseline")
        most[tuple(result.get(name) for name in names)] = result
    return [result for result in results if any(result is chosen for chosen in most.values())]


def bias_table(diagnosis: Mapping[str, Mapping[str, Any]]) -> str:
    """Reports of [`~trl_spct.evaluation.diagnostics.diagnose`] by name as a markdown table."""
    cells = {name: report_cells(report) for name, report in diagnosis.items()}
    columns = list(next(iter(cells.values()), {}))
    lines = [
        ("data", *columns),
        ("---",) * (len(columns) + 1),
        *((name, *row.values()) for name, row in cells.items()),
    ]
    return _markdown(lines) if cells else ""


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; line breaks and pipes in names are escaped."""
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _cell(result: Result) -> str:
    value = percent(result["accuracy"])
    return value if value == "–" else f"{value} ({percent(result['low'])}–{percent(result['high'])})"


def card_results(
    results: Sequence[Result], protocol: Mapping[str, Any], revisions: Mapping[str, str] | None = None
) -> list[EvalResult]:
    """Entries of a model card's `model-index`, from the results of a judge: of each benchmark the greedy one and those
    of the most votes. `revisions` are the commits of the benchmark's repositories."""
    entries = []
    for result in most_votes([r for r in results if not r.get("baseline") and r["accuracy"] is not None]):
        name, k = result["benchmark"], result["k"]
        parts = BENCHMARKS[name].parts if name in BENCHMARKS else ()
        repositories = sorted({part.path for part in parts if part.path is not None})
        repository = repositories[0] if len(repositories) == 1 else None
        votes = {"greedy": "greedy", "plain": f"Voting@{k}", "guided": f"MetaRM@{k}"}[vote_name(result)]
        left_out = () if result["guided"] else ("meta_rm", "meta_rm_revision", "guidance")
        arguments = {name: value for name, value in protocol.items() if name not in left_out}
        arguments |= {name: result[name] for name in ("k", "temperature") if name in result}
        interval = f"95 % interval {percent(result['low'])} to {percent(result['high'])}, n = {result['n']}"
        entry = EvalResult(
            task_type="text-ranking",
            task_name="Reward modeling",
            dataset_type=repository or name,
            dataset_name=name,
            dataset_split=parts[0].split if len(parts) == 1 and repositories else None,
            dataset_revision=(revisions or {}).get(repository) if repository else None,
            metric_type="roc_auc" if result["metric"] == "ROC-AUC" else "accuracy",
            metric_name=f"{result['metric']}, {votes}",
            metric_value=round(100 * result["accuracy"], 2),
            metric_args={**arguments, "interval": interval},
        )
        entries.append(entry)
    return entries


@dataclass(frozen=True)
class JudgeEvaluation:
    """The output folder of the evaluation script, which quotes no row: results of all judges, and the report with
    `judge`, its name in the results, and by benchmark `items`, `protocol`, `diagnosis`, `comparison` and
    `contamination`."""

    folder: Path
    results: list[dict[str, Any]]
    report: dict[str, Any]

    @property
    def judge(self) -> str:
        """Name of the judge in the results."""
        return self.report["judge"]

    @property
    def own_results(self) -> list[dict[str, Any]]:
        """Results of the judge."""
        return [r for r in self.results if r["stage"] == self.judge and not r.get("baseline")]

    @property
    def eval_results(self) -> list[EvalResult]:
        """[`card_results`] of all benchmarks. Samples and changed benchmarks are marked as such."""
        entries = []
        for name, facts in self.report["items"].items():
            results = [result for result in self.own_results if result["benchmark"] == facts["benchmark"]]
            marks = {fact: facts[fact] for fact in ("sampled_items", "sample_seed", "differences") if facts.get(fact)}
            protocol = {**self.report["protocol"].get(name, {}), **marks}
            entries += card_results(results, protocol, facts.get("revisions"))
        return entries

    @property
    def bias_table(self) -> str:
        """[`bias_table`] by benchmark; empty without a diagnosis."""
        items, diagnosis = self.report["items"], self.report["diagnosis"]
        return bias_table({items[name]["benchmark"]: report for name, report in diagnosis.items()})


def read_evaluation(folder: str | os.PathLike) -> JudgeEvaluation:
    """Reads the output folder of the evaluation script."""
    folder = Path(folder)
    missing = [name for name in ("results.json", "report.json") if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {' and no '.join(missing)}; expected the output folder of a finished evaluation "
            "(`recipes/evaluate.py --output_dir`)."
        )
    results, report = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("results", "report"))
    return JudgeEvaluation(folder, results, {"protocol": {}, "diagnosis": {}, **report})
