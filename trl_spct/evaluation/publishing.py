# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Results in a judge's card, and judgments as a dataset, on disk and on the Hub."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import DatasetCardData, ModelCard, ModelCardData

from ..cards import dataset_card
from ..jobs import SHARDS
from ..judge.hub import push_folder
from ..judge.judge_card import read_model_card
from .benchmarks import BENCHMARKS
from .reports import JudgeEvaluation, bias_table, markdown_table, most_votes, plot_scaling, read_evaluation


FOLDERS = {
    "judgments": "the judge's votes",
    "greedy": "the judge, greedy",
    "llm_judge": "LLM-as-a-judge",
    "scalar_rm": "a scalar reward model",
    "baselines": "content-blind judges",
}
"""Sub-folders of an evaluation with judgments, and their judges."""

_PUSHED = (f"**/{SHARDS}", "README.md", "results.json", "report.json", "table.md", "scaling.png")


def write_results(judge: str | os.PathLike, evaluation: str | os.PathLike) -> bool:
    """Writes the results of an evaluation into the card in a judge's folder, if it has one, and its figures beside it.

    The text has one block per benchmark between comments, and the metadata a `model-index`. A later evaluation
    replaces the blocks and entries of its benchmarks only. Returns whether there is a card.
    """
    path = Path(judge, "README.md")
    if path.is_file():
        _write_card(ModelCard.load(path), read_evaluation(evaluation), path.parent, path.resolve().parent.name)
    return path.is_file()


def push_results(repo_id: str, evaluation: str | os.PathLike, token: str | None = None) -> str:
    """Pushes the results of an evaluation into the card of a judge on the Hub, see [`write_results`]; returns the URL
    of the commit. The card is kept in `card` in the evaluation's folder if a [`~trl_spct.judge.hub.PushError`] is
    raised."""
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
        table = markdown_table(most_votes(evaluation.results))
        blocks = {"all benchmarks": f"### All of them\n\n{table}", **blocks}
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


def write_judgments_card(folder: str | os.PathLike) -> None:
    """Writes `README.md` into the output folder of the evaluation script: results, diagnosis, protocol, columns."""
    evaluation = read_evaluation(folder)
    root = evaluation.folder
    places = {path.parent.relative_to(root): kind for kind in FOLDERS for path in sorted((root / kind).rglob(SHARDS))}
    configs = [
        {"config_name": "-".join(place.parts), "data_files": f"{place.as_posix()}/{SHARDS}"} for place in places
    ]
    names = sorted({facts["benchmark"] for facts in evaluation.report["items"].values()} & BENCHMARKS.keys())
    card = dataset_card(
        "judgments.md",
        DatasetCardData(tags=["trl", "spct", "generative-reward-model", "judgments"], configs=configs),
        judge=evaluation.judge,
        table=markdown_table(most_votes(evaluation.results)),
        biases=evaluation.bias_table,
        protocol=json.dumps(evaluation.report["protocol"], indent=2, ensure_ascii=False),
        items=json.dumps(evaluation.report["items"], indent=2, ensure_ascii=False),
        folders={kind: judge for kind, judge in FOLDERS.items() if kind in places.values()},
        figure=(root / "scaling.png").exists(),
        licenses={name: BENCHMARKS[name].license for name in names},
        private=[name for name in names if BENCHMARKS[name].private],
    )
    card.save(root / "README.md")


def push_judgments(
    folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes the judgments of an evaluation with card, results and figures to a dataset repository; returns the URL of
    the commit. Manifests, which may name local paths, are left out."""
    write_judgments_card(folder)
    return push_folder(folder, repo_id, "dataset", "Upload judgments", _PUSHED, private, token)
