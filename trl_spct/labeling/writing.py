# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Folders of labels: parquet files, report, card, and their push to the Hub."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, Json, List, Value, concatenate_datasets
from huggingface_hub import DatasetCardData

from ..cards import dataset_card
from ..evaluation.diagnostics import advice_lines, causes_text, percent
from ..evaluation.statistics import mean_or_none
from ..jobs import SHARDS, in_one_step, stored_cost, write_json
from ..judge.costs import cost_text
from ..judge.hub import push_folder
from .labels import best_of_n, check_columns, preference_pairs, problems_of, score_columns
from .rows import LabelRows

PARTS = ("preferences", "best_of_n", "scores")
"""Dataset configurations of a folder of labels, besides the judgments."""
JUDGMENTS = "judgments"
_MESSAGES = List({"role": Value("string"), "content": Value("string")})


class NoScoresError(ValueError):
    """No critique of any row could be read."""


def write_labels(
    rows: LabelRows,
    judgments: Dataset,
    folder: str | os.PathLike,
    pairs: str = "best-vs-worst",
    min_margin: float = 0.0,
    seed: int = 0,
    messages: bool = True,
    prefix: str = "",
    prices: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Writes scores, the best of n and preference pairs as parquet, each into a sub-folder, and `report.json`.

    Files of an earlier call are replaced. Raises a [`NoScoresError`], and writes nothing, if no row has scores.

    Args:
        pairs, min_margin, seed: See [`preference_pairs`].
        messages (`bool`, *optional*, defaults to `True`):
            Write prompts and answers as messages, so that TRL's trainers apply the chat template of the model. Queries
            that are messages are written as messages in any case.
        prefix (`str`, *optional*, defaults to `""`): Prefix of the columns of [`score_columns`].
        prices (pair of `float`, *optional*): Of a million tokens that the judge reads and writes.

    Returns [`label_report`], with the `cost` of the judgments stored in the folder."""
    check_columns(rows, prefix)
    folder, skipped = Path(folder), Counter[str]()
    _check_scores(judgments, os.path.abspath(folder / JUDGMENTS))
    columns = score_columns(rows, judgments)
    prefixed = columns.rename_columns({name: prefix + name for name in columns.column_names})
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    with in_one_step(folder / "scores" / "data.parquet") as path:
        concatenate_datasets([rows.originals, prefixed], axis=1).to_parquet(path)
    text = _MESSAGES if messages else Value("string")
    text = List(Json()) if rows.have_messages else text  # which keeps the keys of each message
    tools = {"tools": Value("string")} if "tools" in rows.columns else {}
    best = best_of_n(rows, judgments, messages)
    num_best, _ = _write(folder / "best_of_n", best, {"prompt": text, "completion": text, **tools}, "score")
    pair_rows = preference_pairs(rows, judgments, pairs, min_margin, seed, messages, skipped)
    types = {"prompt": text, "chosen": text, "rejected": text, **tools}
    scores = ("score_chosen", "score_rejected", "score_margin")
    num_pairs, margins = _write(folder / "preferences", pair_rows, types, *scores)
    margin = margins / num_pairs if num_pairs else None
    summary = {"policy": pairs, "min_margin": min_margin, "made": num_pairs, "margin": margin}
    report = label_report(rows, judgments, {**summary, "skipped": dict(sorted(skipped.items()))}, num_best, columns)
    if (cost := stored_cost(folder / JUDGMENTS)) is not None:
        report["cost"] = cost.report(prices)
    write_json(folder / "report.json", report)
    return report


def _check_scores(judgments: Dataset, folder: str) -> None:
    """Refuses judgments without a single score."""
    if not len(judgments) or any(totals is not None for totals in judgments["totals"]):
        return
    causes = Counter(problem for record in judgments for problem in problems_of(record))
    advice = "".join(f" {line.removesuffix('.')}." for line in advice_lines(causes, 1.0))
    raise NoScoresError(
        f"Found no row with scores: none of {len(judgments)} rows has a critique that could be read"
        f"{causes_text(dict(causes.most_common()))}.{advice} No labels were written; the judgments are in {folder}. "
        "Use another output folder for another configuration."
    )


def _write(folder: Path, records: Iterable[dict[str, Any]], types: dict[str, Any], *scores: str) -> tuple[int, float]:
    """Returns (number of records, sum of their last scores); holds 1,000 records in memory."""
    features = Features({**types, **dict.fromkeys(scores, Value("float64")), "row": Value("int64")})
    folder.mkdir(parents=True, exist_ok=True)
    count, total, schema, records = 0, 0.0, features.arrow_schema, iter(records)
    with in_one_step(folder / "data.parquet") as path, pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(records, 1000)):
            writer.write_table(Dataset.from_list(batch, features).with_format("arrow")[:].cast(schema))
            count += len(batch)
            total += sum(record[scores[-1]] for record in batch)
    return count, total


def label_report(
    rows: LabelRows, judgments: Dataset, pairs: Mapping[str, Any], num_best: int, columns: Dataset
) -> dict[str, Any]:
    """Report of a labeled dataset, JSON-like, from the summary of its pairs, the number of rows that have a best
    response, and [`score_columns`].

    `unreadable` and `closed` are shares of critiques, `unscored` counts rows by their most frequent cause, `score` and
    `confidence` are means, and `ties` is a share of scored rows with n ≥ 2."""
    scores = [None if row is None else [score for score in row if score is not None] for row in columns["scores"]]
    problems, unscored = Counter[str](), Counter[str]()
    for causes, values, refused in zip(columns["problems"], scores, judgments["refused"], strict=True):
        problems.update(causes if refused is None else ())
        if values is None:
            unscored[min(causes, key=lambda cause: (-causes.count(cause), cause))] += 1
    count = sum(map(len, judgments["critiques"]))
    closed = sum(bool(critique["closed"]) for record in judgments["critiques"] for critique in record)
    ties = [len(tied) > 1 for tied, values in zip(columns["tied"], scores, strict=True) if len(values or ()) > 1]
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
        "closed": closed / count if count else None,
        "problems": dict(sorted(problems.items())),
        "unscored": dict(sorted(unscored.items())),
        "score": mean_or_none([score for values in scores for score in values or ()]),
        "confidence": mean_or_none([value for value in columns["confidence"] if value is not None]),
        "ties": mean_or_none(ties),
        "pairs": dict(pairs),
        "best_of_n": num_best,
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report as lines for a terminal, with what to do about unreadable critiques."""

    def total(counts: Mapping[str, int]) -> str:
        return f"{sum(counts.values())}{causes_text(counts)}"

    rows, pairs = report["rows"], report["pairs"]
    return [
        f"{rows['read']} rows read, {total(rows['dropped'])} dropped, {rows['judged']} judged"
        + (f" ({rows['cut']} cut to fit)" if rows["cut"] else "")
        + (f" ({rows['shortened']} without empty responses)" if rows["shortened"] else "")
        + f" with {report['critiques']} critiques, of which {percent(report['unreadable'], ' %')} unreadable"
        f"{causes_text(report['problems'])}"
        + (f", {percent(report['closed'], ' %')} closed" if report["closed"] else ""),
        f"rows without scores: {total(report['unscored'])}",
        f"pairs ({pairs['policy']}, margin over {pairs['min_margin']:g}): {pairs['made']}"
        + (f", mean margin {pairs['margin']:.2f}" if pairs["made"] else "")
        + f"; not made: {total(pairs['skipped'])}",
        f"best of n: {report['best_of_n']}; ties for the best: {percent(report['ties'], ' %')}",
        *([f"cost: {cost_text(report['cost'])}"] if "cost" in report else []),
        *advice_lines(report["problems"], report["unreadable"]),
    ]


def write_labels_card(
    folder: str | os.PathLike,
    report: Mapping[str, Any],
    protocol: Mapping[str, Any],
    dataset_name: str | None = None,
    repo_id: str | None = None,
) -> None:
    """Writes the card of a folder of labels, which names its configurations for `load_dataset`, `preferences` first.

    `report` is that of [`write_labels`], `protocol` that of the [`LabelingJudge`]; `dataset_name` was labeled, and
    `repo_id` is the repository of the labels, by default the folder's name."""
    folder = Path(folder)
    counts = dict(zip(PARTS, (report["pairs"]["made"], report["best_of_n"], report["rows"]["judged"]), strict=True))
    files = {name: f"{name}/*.parquet" for name in PARTS if counts[name]}
    if (folder / JUDGMENTS).is_dir():
        files[JUDGMENTS] = f"{JUDGMENTS}/{SHARDS}"
    is_local = os.path.exists(dataset_name or "") or "*" in (dataset_name or "")
    default = {PARTS[0]: {"default": True}}
    card = dataset_card(
        "labels.md",
        DatasetCardData(
            tags=["trl", "spct", "generative-reward-model", "preference"],
            source_datasets=None if is_local or dataset_name is None else [dataset_name],
            configs=[
                {"config_name": name, "data_files": path, **default.get(name, {})} for name, path in files.items()
            ],
        ),
        report=report,
        parts=list(files),
        causes=causes_text,
        cost=cost_text,
        protocol=json.dumps(dict(protocol), indent=2, ensure_ascii=False),
        judge=protocol["model"],
        k=protocol["k"],
        dataset_name=Path(str(dataset_name)).name if is_local else dataset_name,
        repository=repo_id or folder.name,
        versions={name: version(name) for name in ("trl-spct", "transformers", "torch", "datasets")},
    )
    card.save(folder / "README.md")


def push_labels(folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Pushes a folder of labels with its card to the Hub, see [`~trl_spct.judge.hub.push_folder`]. Manifests, which
    may hold local paths, are not pushed."""
    names = [*(f"{name}/data.parquet" for name in PARTS), f"{JUDGMENTS}/{SHARDS}", "README.md", "report.json"]
    return push_folder(folder, repo_id, "dataset", "Upload labels", names, private, token)
