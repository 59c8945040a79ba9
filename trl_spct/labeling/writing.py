# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Folders of labels: parquet files, report, card, and their push to the Hub."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, Json, List, Value, concatenate_datasets
from huggingface_hub import DatasetCardData

from ..cards import dataset_card
from ..jobs import SHARDS, in_one_step, write_json
from ..judge.hub import push_folder
from .labels import best_of_n, check_columns, preference_pairs, score_columns
from .reports import causes_text, check_scores, label_report
from .rows import LabelRows


PARTS = ("preferences", "best_of_n", "scores")
"""Dataset configurations of a folder of labels, besides the judgments."""
JUDGMENTS = "judgments"
_MESSAGES = List({"role": Value("string"), "content": Value("string")})


def write_labels(
    rows: LabelRows,
    judgments: Dataset,
    folder: str | os.PathLike,
    pairs: str = "best-vs-worst",
    min_margin: float = 0.0,
    seed: int = 0,
    messages: bool = True,
    prefix: str = "",
) -> dict[str, Any]:
    """Writes scores, the best of n and preference pairs as parquet, each into a sub-folder, and `report.json`.

    Args:
        rows ([`LabelRows`]), judgments ([`~datasets.Dataset`]): The rows and their judgments.
        folder (`str` or path): Output folder. Files of an earlier call are replaced.
        pairs, min_margin, seed: See [`preference_pairs`].
        messages (`bool`, *optional*, defaults to `True`):
            Write prompts and answers as messages, so that TRL's trainers apply the chat template of the model. Queries
            that are messages are written as messages in any case.
        prefix (`str`, *optional*, defaults to `""`): Prefix of the columns of [`score_columns`].

    Returns:
        `dict`: see [`label_report`].

    Raises:
        [`NoScoresError`]: if no row has scores. Nothing is written.
    """
    check_columns(rows, prefix)
    folder, skipped = Path(folder), Counter[str]()
    check_scores(judgments, os.path.abspath(folder / JUDGMENTS))
    columns = score_columns(rows, judgments)
    named = columns.rename_columns({name: prefix + name for name in columns.column_names})
    scored = concatenate_datasets([rows.originals, named], axis=1)
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    with in_one_step(folder / "scores" / "data.parquet") as path:
        scored.to_parquet(path)
    text = _MESSAGES if messages else Value("string")
    text = List(Json()) if rows.have_messages else text  # which keeps the keys of each message
    tools = {"tools": Value("string")} if "tools" in rows.columns else {}
    best = best_of_n(rows, judgments, messages)
    num_best, _ = _write(folder / "best_of_n", best, {"prompt": text, "completion": text, **tools}, "score")
    pair_rows = preference_pairs(rows, judgments, pairs, min_margin, seed, messages, skipped)
    types = {"prompt": text, "chosen": text, "rejected": text, **tools}
    scores = ("score_chosen", "score_rejected", "score_margin")
    num_pairs, margins = _write(folder / "preferences", pair_rows, types, *scores)
    summary = {
        "policy": pairs,
        "min_margin": min_margin,
        "made": num_pairs,
        "margin": margins / num_pairs if num_pairs else None,
        "skipped": dict(sorted(skipped.items())),
    }
    report = label_report(rows, judgments, summary, num_best, columns)
    write_json(folder / "report.json", report)
    return report


def _write(
    folder: Path, records: Iterable[dict[str, Any]], types: Mapping[str, Any], *scores: str
) -> tuple[int, float]:
    """Returns (number of records, sum of their last scores); holds 1,000 records in memory."""
    features = Features({**types, **dict.fromkeys(scores, Value("float64")), "row": Value("int64")})
    folder.mkdir(parents=True, exist_ok=True)
    count, total, schema = 0, 0.0, features.arrow_schema
    with in_one_step(folder / "data.parquet") as path, pq.ParquetWriter(path, schema) as writer:
        records = iter(records)
        while batch := list(islice(records, 1000)):
            writer.write_table(Dataset.from_list(batch, features).with_format("arrow")[:].cast(schema))
            count += len(batch)
            total += sum(record[scores[-1]] for record in batch)
    return count, total


def write_labels_card(
    folder: str | os.PathLike,
    report: Mapping[str, Any],
    protocol: Mapping[str, Any],
    dataset_name: str | None = None,
    repo_id: str | None = None,
) -> None:
    """Writes the card of a folder of labels, which names its configurations for `load_dataset`, `preferences` first.

    Args:
        folder (`str` or path): Output folder of [`write_labels`]. Judgments in `judgments/` are part of the card.
        report (mapping): From [`write_labels`].
        protocol (mapping): How the critiques were sampled, see [`LabelingJudge`].
        dataset_name (`str`, *optional*): Dataset that was labeled.
        repo_id (`str`, *optional*): Repository of the labels; the folder's name by default.
    """
    folder = Path(folder)
    counts = dict(zip(PARTS, (report["pairs"]["made"], report["best_of_n"], report["rows"]["judged"]), strict=True))
    files = {name: f"{name}/*.parquet" for name in PARTS if counts[name]}
    if (folder / JUDGMENTS).is_dir():
        files[JUDGMENTS] = f"{JUDGMENTS}/{SHARDS}"
    is_local = os.path.exists(dataset_name or "") or "*" in (dataset_name or "")
    card = dataset_card(
        "labels.md",
        DatasetCardData(
            tags=["trl", "spct", "generative-reward-model", "preference"],
            source_datasets=None if is_local or dataset_name is None else [dataset_name],
            configs=[
                {"config_name": name, "data_files": path, **({"default": True} if name == PARTS[0] else {})}
                for name, path in files.items()
            ],
        ),
        report=report,
        parts=list(files),
        causes=causes_text,
        protocol=json.dumps(dict(protocol), indent=2, ensure_ascii=False),
        judge=protocol["model"],
        k=protocol["k"],
        dataset_name=Path(str(dataset_name)).name if is_local else dataset_name,
        repository=repo_id or folder.name,
        versions={name: version(name) for name in ("trl-spct", "transformers", "torch", "datasets")},
    )
    card.save(folder / "README.md")


def push_labels(folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Pushes a folder of labels with its card to the Hub. Manifests, which may hold local paths, are not pushed.

    See [`~trl_spct.judge.hub.push_folder`] for the other arguments, the return value and the errors.
    """
    names = [*(f"{name}/data.parquet" for name in PARTS), f"{JUDGMENTS}/{SHARDS}", "README.md", "report.json"]
    return push_folder(folder, repo_id, "dataset", "Upload labels", names, private, token)
