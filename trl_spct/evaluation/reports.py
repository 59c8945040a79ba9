# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Results as figures and tables, the output folder of an evaluation, and results in a judge's card."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..judge.hub import push_folder, read_model_card
from .benchmarks import BENCHMARKS
from .diagnostics import interval_text, percent, report_cells
from .statistics import mean

Result: TypeAlias = Mapping[str, Any]
"""A result of [`~trl_spct.evaluation.judgments.scaling_results`] or
[`~trl_spct.evaluation.benchmark_results.benchmark_results`], with `stage` (name of the judge), `temperature` and
`baseline` (a judge to compare with), all of them optional."""

_LINES = {"plain": ("", "-o", 4), "greedy": (", greedy", "_", 14), "guided": (", guided by Meta RM", "--s", 4)}


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
    stages = list(dict.fromkeys(_line(result)[0] for result in judged))
    lines: dict[tuple[int, str], list[Result]] = {}
    for result in sorted(judged, key=lambda result: (stages.index(_line(result)[0]), result["k"])):
        lines.setdefault((stages.index(_line(result)[0]), vote_name(result)), []).append(result)
    for (stage, vote), line in lines.items():
        votes = [result["k"] for result in line]
        accuracy, low, high = ([100 * result[name] for result in line] for name in ("accuracy", "low", "high"))
        label, style, size = _LINES[vote]
        axes.plot(votes, accuracy, style, color=f"C{stage}", label=stages[stage] + label, markersize=size)
        if vote != "greedy":
            axes.fill_between(votes, low, high, color=f"C{stage}", alpha=0.12, linewidth=0)
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
    from rich.table import Column, Table

    numbers = ("accuracy, all rows", "95 % interval", "rows", "with a vote", "unreadable", "ties")
    table = Table("stage", "k", "vote", "T", *(Column(name, justify="right") for name in numbers), title=title)
    for result in results:
        stage, vote, k = _line(result)
        temperature = f"{result['temperature']:g}" if "temperature" in result else ""
        values = [percent(result["accuracy"]), f"{percent(result['low'])} – {percent(result['high'])}"]
        shares = [f"{percent(result.get(name))} %" for name in ("voted", "unreadable", "ties")]
        table.add_row(stage, str(k), vote, temperature, *values, str(result["n"]), *shares)
    return table


def markdown_table(results: Sequence[Result]) -> str:
    """Judges by benchmarks (layout of the paper's Table 2): overall values in percent, metrics, n, and the unweighted
    mean of judges with all values, the paper's overall value for RewardBench, both PPE sets and RMB (section 8)."""
    notes = {r["benchmark"]: f"* {r['benchmark']}: {r['metric']}, n = {r['n']}" for r in results}
    cells = {(_line(result), result["benchmark"]): result for result in results}
    lines = []
    for line in dict.fromkeys(map(_line, results)):
        row = [cells.get((line, benchmark), {"accuracy": None}) for benchmark in notes]
        values = [cell["accuracy"] for cell in row]
        overall = [percent(None if None in values else mean(values))] if len(notes) > 1 else []
        lines.append((*map(str, line), *map(interval_text, row), *overall))
    columns = ("judge", "vote", "k", *notes, *(["mean"] if len(notes) > 1 else []))
    return "\n".join([_markdown(columns, lines, left=3), "", *notes.values()])


def breakdown_table(results: Sequence[Result]) -> str:
    """Subsets, sections or tasks of one benchmark by judges, each with its most votes; markdown."""
    results = most_votes(results)
    judges = [f"{judge}@{k}" + (f", {vote}" if vote != "–" else "") for judge, vote, k in map(_line, results)]
    names = dict.fromkeys(name for result in results for name in result["values"])
    rows = [(name, *(percent((result["values"].get(name) or (None,))[0]) for result in results)) for name in names]
    return _markdown(("subset", *judges), rows)


def bias_table(diagnosis: Mapping[str, Mapping[str, Any]]) -> str:
    """Reports of [`~trl_spct.evaluation.diagnostics.diagnose`] by name as a markdown table."""
    cells = {name: report_cells(report) for name, report in diagnosis.items()}
    columns = ("data", *next(iter(cells.values()), {}))
    rows = [(name, *row.values()) for name, row in cells.items()]
    return _markdown(columns, rows, left=len(columns)) if cells else ""


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table, in which numbers follow `left` columns of text; line breaks and pipes in cells are escaped."""
    lines = (columns, ["---"] * left + ["---:"] * (len(columns) - left), *rows)
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def most_votes(results: Sequence[Result]) -> list[Result]:
    """The result with the most votes of each judge, benchmark and way to vote."""
    names = ("benchmark", "stage", "guided", "temperature", "baseline")
    by_votes = sorted(results, key=lambda result: result["k"])
    most = {tuple(result.get(name) for name in names): result for result in by_votes}
    return [result for result in results if any(result is chosen for chosen in most.values())]


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
    `judge`, its name in the results, and by benchmark `items`, `protocol`, `diagnosis` and `comparison`."""

    folder: Path
    results: list[dict[str, Any]]
    report: dict[str, Any]

    @property
    def own_results(self) -> list[dict[str, Any]]:
        """Results of the judge."""
        return [r for r in self.results if r["stage"] == self.report["judge"] and not r.get("baseline")]

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
        diagnosis = self.report["diagnosis"].items()
        return bias_table({self.report["items"][name]["benchmark"]: report for name, report in diagnosis})


def read_evaluation(folder: str | os.PathLike) -> JudgeEvaluation:
    """Reads the output folder of the evaluation script."""
    folder = Path(folder)
    if missing := [name for name in ("results.json", "report.json") if not (folder / name).exists()]:
        raise FileNotFoundError(
            f"{folder} has no {' and no '.join(missing)}; expected the output folder of a finished evaluation "
            "(`recipes/evaluate.py --output_dir`)."
        )
    results, report = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("results", "report"))
    return JudgeEvaluation(folder, results, {"protocol": {}, "diagnosis": {}, **report})


def write_results(judge: str | os.PathLike, evaluation: str | os.PathLike) -> bool:
    """Writes the results of an evaluation into the card in a judge's folder, if it has one, and its figures beside it:
    one block per benchmark between comments, and a `model-index`. A later evaluation replaces the blocks and entries
    of its benchmarks only. Returns whether there is a card."""
    path = Path(judge, "README.md")
    if path.is_file():
        _write_card(ModelCard.load(path), read_evaluation(evaluation), path.parent, path.resolve().parent.name)
    return path.is_file()


def push_results(repo_id: str, evaluation: str | os.PathLike, token: str | None = None) -> str:
    """Pushes the results of an evaluation into the card of a judge on the Hub, see [`write_results`]; returns the URL
    of the commit. After a [`~trl_spct.judge.hub.PushError`] the card is in `card` in the evaluation's folder."""
    card = read_model_card(repo_id, token) or ModelCard(f"# {repo_id}\n")
    folder = Path(evaluation, "card")
    folder.mkdir(exist_ok=True)
    _write_card(card, read_evaluation(evaluation), folder, repo_id.rsplit("/", 1)[-1])
    return push_folder(folder, repo_id, "model", "Evaluation results", ("README.md", "scaling*.png"), token=token)


def _write_card(card: ModelCard, evaluation: JudgeEvaluation, folder: Path, name: str) -> None:
    blocks = {}
    for key, facts in evaluation.report["items"].items():
        benchmark = facts["benchmark"]
        results = [result for result in evaluation.results if result["benchmark"] == benchmark]
        figure = f"scaling-{re.sub(r'[^0-9A-Za-z.]+', '-', benchmark)}.png"
        plot_scaling(results, folder / figure, benchmark)
        parts = [f"### {benchmark}", markdown_table(most_votes(results))]
        parts.append(f"![{benchmark}: accuracy over votes]({figure})")
        if report := evaluation.report["diagnosis"].get(key):
            parts += ["Diagnosis, in percent:", bias_table({benchmark: report})]
        source = {f"data: {fact}": facts.get(fact) or None for fact in ("revisions", "sampled_items", "digest")}
        protocol = {**evaluation.report["protocol"].get(key, {}), **source}
        lines = [f"- {entry}: `{value}`" for entry, value in protocol.items() if value is not None]
        blocks[benchmark] = "\n\n".join([*parts, "Protocol:", "\n".join(lines)])
    if len(blocks) > 1:
        blocks = {"all benchmarks": f"### All of them\n\n{markdown_table(most_votes(evaluation.results))}", **blocks}
    card.text = with_blocks(card.text, blocks)
    data = card.data
    assert isinstance(data, ModelCardData)
    kept = [entry for entry in data.eval_results or () if entry.dataset_name not in blocks]
    data.eval_results = [*kept, *evaluation.eval_results]
    data.model_name = data.model_name or name
    card.save(folder / "README.md")


def with_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """A card's text with blocks of results by name, each in place of the one of the same name. New ones go to the end
    of the section `## Results`, which is added before `## Limits`, or at the end."""
    text = re.sub(r"<!-- results: none yet -->.*?<!-- /results: none yet -->\n+", "", text, flags=re.DOTALL)
    for name, block in blocks.items():
        opening, closing = f"<!-- results: {name} -->", f"<!-- /results: {name} -->"
        marked = f"{opening}\n{block.strip()}\n{closing}"
        present = re.search(f"{re.escape(opening)}.*?{re.escape(closing)}", text, re.DOTALL)
        if present is None:
            section = re.search(r"^## Results\b.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
            before_limits, *_ = re.split(r"^## Limits\b", text, maxsplit=1, flags=re.MULTILINE)
            end = section.end() if section else len(before_limits)
            parts = [text[:end].rstrip(), *([] if section else ["## Results"]), marked, text[end:]]
            text = "\n\n".join(part for part in parts if part)
        else:
            text = text[: present.start()] + marked + text[present.end() :]
    return text.rstrip("\n") + "\n" if text.endswith(("\n\n", "-->")) else text
