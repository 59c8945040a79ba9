# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Results as people read them: figures, tables for a terminal, for a page and for a card; judgments as a dataset."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from .benchmarks import BENCHMARKS
from .diagnostics import report_lines


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
        results (sequence of results):
            See [`~trl_spct.evaluation.judgments.scaling_results`]; those whose value does not exist are left out.
        path (`str` or path): Where the figure goes; its suffix says in which format.
        title (`str`, *optional*): Above the figure.
        against (`str`, *optional*, defaults to `"k"`):
            The horizontal axis: `"k"`, or the cost, `"tokens"` or `"seconds"` per item.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.4), layout="constrained")  # not `pyplot`, whose backend is the user's
    axes = figure.subplots()
    results = [result for result in results if result["accuracy"] is not None]
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
            _percent(result["accuracy"]),
            f"{_percent(result['low'])} – {_percent(result['high'])}",
            str(result["n"]),
            f"{100 * result['unreadable']:.1f} %",
            f"{100 * result['ties']:.1f} %",
        )
    return table


def markdown_table(results: Sequence[Result], intervals: bool = True) -> str:
    """Judges by benchmarks, in the layout of the paper's Table 2: overall values in percent, and their mean.

    Args:
        results (sequence of results):
            Of [`~trl_spct.evaluation.benchmark_results.benchmark_results`], for any number of judges and benchmarks.
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
        values = [cell["accuracy"] for cell in cells if cell is not None and cell["accuracy"] is not None]
        mean = [_percent(sum(values) / len(values)) if len(values) == len(benchmarks) else "–"]
        shown = ["–" if cell is None else _cell(cell, intervals) for cell in cells]
        lines.append((*map(str, line), *shown, *(mean if len(benchmarks) > 1 else [])))
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
    for name in names:
        values = [result["values"].get(name) or (None,) for result in results]
        lines.append((name, *(_percent(value) for value, *_ in values)))
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; what cells hold, such as names of subsets, stays in its cell."""
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _line(result: Result) -> tuple[str, str, int]:
    return str(result.get("stage", "judge")), vote_name(result), result["k"]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


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
        if {result["benchmark"] for result in found if result["accuracy"] is not None} != benchmarks:
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


def most_votes(results: Sequence[Result]) -> list[Result]:
    """The last point of each curve: of each judge, benchmark and way to vote the result with the most votes."""

    def curve(result: Result) -> tuple:
        return tuple(result.get(name) for name in ("benchmark", "stage", "guided", "temperature", "baseline"))

    most: dict[tuple, int] = {}
    for result in results:
        most[curve(result)] = max(result["k"], most.get(curve(result), 0))
    return [result for result in results if result["k"] == most[curve(result)]]


def card_results(
    results: Sequence[Result], protocol: Mapping[str, Any], revisions: Mapping[str, str] | None = None
) -> list[EvalResult]:
    """What a model card's `model-index` says: the greedy result, and those of the most votes, of each benchmark.

    Args:
        results (sequence of results):
            Of one judge and benchmark; baselines are left out, and so is what does not exist.
        protocol (mapping): How the numbers came about, as [`PipelineJudge.protocol`] tells it.
        revisions (mapping, *optional*): From the benchmark's repositories on the Hub to the commits that were read.

    Returns:
        `list[EvalResult]` for [`~huggingface_hub.ModelCardData`] as `eval_results`.
    """
    judged = [result for result in results if not result.get("baseline")]
    return [_card_entry(r, protocol, revisions or {}) for r in most_votes(judged) if r["accuracy"] is not None]


def _card_entry(result: Result, protocol: Mapping[str, Any], revisions: Mapping[str, str]) -> EvalResult:
    name = result["benchmark"]
    parts = BENCHMARKS[name].parts if name in BENCHMARKS else ()
    repositories = sorted({part.path for part in parts if part.path is not None})
    how = {"greedy": "greedy", "plain": f"Voting@{result['k']}", "guided": f"MetaRM@{result['k']}"}
    of_meta_rm = () if result["guided"] else ("meta_rm", "meta_rm_revision", "guidance")
    own = {part: result[part] for part in ("k", "temperature") if part in result}
    interval = f"95 % interval {_percent(result['low'])} to {_percent(result['high'])}, n = {result['n']}"
    return EvalResult(
        task_type="text-ranking",
        task_name="Reward modeling",
        dataset_type=repositories[0] if len(repositories) == 1 else name,
        dataset_name=name,
        dataset_split=parts[0].split if len(parts) == 1 and repositories else None,
        dataset_revision=revisions.get(repositories[0]) if len(repositories) == 1 else None,
        metric_type="roc_auc" if result["metric"] == "ROC-AUC" else "accuracy",
        metric_name=f"{result['metric']}, {how[vote_name(result)]}",
        metric_value=round(100 * result["accuracy"], 2),
        metric_args={**{n: v for n, v in protocol.items() if n not in of_meta_rm}, **own, "interval": interval},
    )


def bias_table(diagnosis: Mapping[str, Mapping[str, Any]]) -> str:
    """What hides behind the accuracies, one line per benchmark, as a markdown table.

    Args:
        diagnosis (mapping): From a benchmark, or a subset, to its report of [`diagnose`].
    """
    lines = [
        ("data", "unreadable", "ties", "right, by place of the best", "chosen, by place", "order decides",
         "longer chosen / better", "calibration error"),
        ("---",) * 8,
        *((name, *_biases(report)) for name, report in diagnosis.items()),
    ]  # fmt: skip
    return _markdown(lines)


def _biases(report: Mapping[str, Any]) -> Iterator[str]:
    causes = ", ".join(f"{cause} {count}" for cause, count in report.get("problems", {}).items())
    yield f"{_percent(report['unreadable'])} %" + (f" ({causes})" if causes else "")
    yield f"{_percent(report['ties']['single'])} %" if "ties" in report else "–"
    yield " / ".join(_percent(place["accuracy"]) for place in report.get("places", {}).values()) or "–"
    chosen = report.get("chosen_places", {})
    yield "; ".join(" / ".join(map(_percent, shares)) for shares in chosen.values()) or "–"
    flips = report.get("order_flips")
    same = "" if flips is None or "same_order" not in flips else f" (same order {_percent(flips['same_order'])})"
    yield "–" if flips is None else f"{_percent(flips['flips'])} %{same}"
    length = report.get("length")
    yield "–" if length is None else f"{_percent(length['chosen_longer'])} / {_percent(length.get('right_longer'))}"
    yield _percent(report["confidence"]["ece"]) if "confidence" in report else "–"


# --- an evaluation that was written ---


@dataclass(frozen=True)
class JudgeEvaluation:
    """What the evaluation script has written about a judge, as a card needs it. No text of a row is in it.

    Args:
        folder (`Path`): Where it is.
        results (`list[dict]`): Of all judges, see [`~trl_spct.evaluation.benchmark_results.benchmark_results`].
        report (`dict`): `judge`, its name in the results; by benchmark `items` (facts about what was judged),
            `protocol`, `diagnosis`, and what else was asked for.
    """

    folder: Path
    results: list[dict[str, Any]]
    report: dict[str, Any]

    @property
    def judge(self) -> str:
        """What the judge is called in the results."""
        return self.report["judge"]

    @property
    def own_results(self) -> list[dict[str, Any]]:
        """The judge's results."""
        return [r for r in self.results if r["stage"] == self.judge and not r.get("baseline")]

    @property
    def protocol(self) -> dict[str, dict[str, Any]]:
        """How the judgments came about, by benchmark."""
        return self.report.get("protocol", {})

    @property
    def diagnosis(self) -> dict[str, dict[str, Any]]:
        """What hides in the accuracies, by benchmark; see [`~trl_spct.evaluation.diagnostics.diagnose`]."""
        return {name: found["all"] for name, found in self.report.get("diagnosis", {}).items()}

    @property
    def eval_results(self) -> list[EvalResult]:
        """For [`~huggingface_hub.ModelCardData`], beside `model_name`."""
        entries = []
        for name, facts in self.report["items"].items():
            own = [result for result in self.own_results if result["benchmark"] == facts["benchmark"]]
            # A number on a sample, or on other rows than the authors', must not pass for one on the benchmark.
            told = {fact: facts[fact] for fact in ("sampled_items", "sample_seed", "differences") if facts.get(fact)}
            entries += card_results(own, {**self.protocol.get(name, {}), **told}, facts.get("revisions"))
        return entries

    @property
    def table(self) -> str:
        """The judge, with all its votes and greedy, beside the others, by benchmark; markdown."""
        return markdown_table(most_votes(self.results))

    @property
    def bias_table(self) -> str:
        """Markdown, see [`bias_table`]."""
        names = {name: facts["benchmark"] for name, facts in self.report["items"].items()}
        return bias_table({names[name]: found for name, found in self.diagnosis.items()})

    @property
    def lines(self) -> dict[str, list[str]]:
        """The same in sentences, by benchmark."""
        return {name: report_lines(found) for name, found in self.diagnosis.items()}

    @property
    def figure(self) -> Path | None:
        """Accuracy over votes, if it was drawn."""
        path = self.folder / "scaling.png"
        return path if path.exists() else None


def read_evaluation(folder: str | os.PathLike) -> JudgeEvaluation:
    """Reads the output folder of the evaluation script.

    Raises:
        `FileNotFoundError`: if there is none, or it was not finished.
    """
    folder = Path(folder)
    missing = [name for name in ("results.json", "report.json") if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {' and no '.join(missing)}; expected the output folder of a finished evaluation "
            "(`recipes/evaluate.py --output_dir`)."
        )
    results, report = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("results", "report"))
    return JudgeEvaluation(folder, results, report)
