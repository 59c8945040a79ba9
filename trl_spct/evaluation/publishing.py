# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Results in a judge's card, and judgments as a dataset, on disk and on the Hub."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData, ModelCard, ModelCardData

from ..cards import dataset_card
from ..jobs import SHARDS
from ..judge.hub import push_folder
from ..judge.judge_card import read_model_card
from .benchmarks import BENCHMARKS
from .judgments import HASHED
from .reports import (
    JudgeEvaluation,
    bias_table,
    markdown_table,
    mean_results,
    most_votes,
    plot_scaling,
    read_evaluation,
)


_NO_RESULTS = "none yet"  # name of the block of a card without results
_ALL = "all benchmarks"

FOLDERS = {
    "judgments": "the judge's votes",
    "greedy": "the judge, greedy",
    "llm_judge": "LLM-as-a-judge",
    "scalar_rm": "a scalar reward model",
    "baselines": "content-blind judges",
}
"""Sub-folders of an evaluation with judgments, and their judges."""

_PUSHED = (f"**/{SHARDS}", "README.md", "results.json", "report.json", "table.md", "scaling.png", "cost.png")


# --- results in a judge's card ---


def write_results(judge: str | os.PathLike, evaluation: str | os.PathLike) -> bool:
    """Writes the results of an evaluation into the card in a judge's folder, and its figures beside it.

    The text has one block per benchmark between comments, and the metadata a `model-index`. A later evaluation
    replaces the blocks and entries of its benchmarks only.

    Args:
        judge (`str` or path): Folder of the judge.
        evaluation (`str` or path): Output folder of the evaluation script.

    Returns:
        `bool`: Whether the folder has a card.

    Raises:
        `ValueError`: If the card's metadata cannot be read.
    """
    path = Path(judge, "README.md")
    if not path.is_file():
        return False
    _write_card(ModelCard.load(path), read_evaluation(evaluation), path.parent, path.resolve().parent.name)
    return True


def push_results(repo_id: str, evaluation: str | os.PathLike, token: str | None = None) -> str:
    """Pushes the results of an evaluation into the card of a judge on the Hub, see [`write_results`].

    Args:
        repo_id (`str`): The judge's repository.
        evaluation (`str` or path): Output folder of the evaluation script.
        token (`str`, *optional*): Hub token; defaults to the stored one.

    Returns:
        `str`: URL of the commit.

    Raises:
        [`~trl_spct.judge.hub.PushError`]: If the push fails. The card is kept in `card` in the evaluation's folder.
    """
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
        plot_scaling(mean_results(results), folder / figure, benchmark)
        parts = [f"### {benchmark}", markdown_table(most_votes(results))]
        parts.append(f"![{benchmark}: accuracy over votes]({figure})")
        if key in evaluation.diagnosis:
            parts += ["Diagnosis, in percent:", bias_table({benchmark: evaluation.diagnosis[key]})]
        data = {f"data: {fact}": facts.get(fact) for fact in ("revisions", "sampled_items", "digest")}
        protocol = {**evaluation.protocol.get(key, {}), **{fact: value for fact, value in data.items() if value}}
        lines = [f"- {entry}: `{value}`" for entry, value in protocol.items() if value is not None]
        blocks[benchmark] = "\n\n".join([*parts, "Protocol:", "\n".join(lines)])
    if len(blocks) > 1:
        blocks = {_ALL: f"### All of them\n\n{evaluation.table}", **blocks}
    card.text = with_blocks(card.text, blocks)
    metadata = card.data
    assert isinstance(metadata, ModelCardData)
    kept = [entry for entry in metadata.eval_results or () if entry.dataset_name not in blocks]
    metadata.eval_results = [*kept, *evaluation.eval_results]
    metadata.model_name = metadata.model_name or name
    card.save(folder / "README.md")


def with_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """A card's text with blocks of results, each in place of the one of the same name, or after the last one.

    Without any, they go under the heading `## Results`, which is added before `## Limits`, or at the end.

    Args:
        text (`str`): The card's text.
        blocks (mapping of `str`): Markdown by name.
    """
    new = ""
    for name, block in {_NO_RESULTS: None, **blocks}.items():
        opening, closing = f"<!-- results: {name} -->\n", f"<!-- /results: {name} -->\n"
        marked = "" if block is None else f"{opening}{block.strip()}\n{closing}\n"
        head, opened, rest = text.partition(opening)
        _, closed, tail = rest.partition(closing)
        if closed:
            text = head + marked + tail.lstrip("\n")
        else:
            new += marked
    if new:
        at = _insertion_point(text)
        heading = "" if re.search(r"^## Results\b", text, re.MULTILINE) else "## Results\n\n"
        text = text[:at].rstrip("\n") + f"\n\n{heading}{new}" + text[at:].lstrip("\n")
    return text.rstrip("\n") + "\n" if text.endswith("\n\n") else text


def _insertion_point(text: str) -> int:
    for pattern in (r"<!-- /results: .+ -->\n", r"^## Results\b.*\n"):
        matches = list(re.finditer(pattern, text, re.MULTILINE))
        if matches:
            return matches[-1].end()
    limits = re.search(r"^## Limits\b", text, re.MULTILINE)
    return limits.start() if limits else len(text)


# --- judgments as a dataset ---


def judgment_configs(folder: str | os.PathLike) -> list[dict[str, str]]:
    """Configurations of a folder of judgments, one per judge and benchmark, for a dataset card.

    Args:
        folder (`str` or path): Output folder of the evaluation script.
    """
    return [
        {"config_name": "-".join(place.parts), "data_files": f"{place.as_posix()}/{SHARDS}"}
        for place in _places(Path(folder))
    ]


def write_judgments_card(folder: str | os.PathLike) -> None:
    """Writes `README.md` into the output folder of the evaluation script: results, diagnosis, protocol, columns.

    Args:
        folder (`str` or path): The folder.

    Raises:
        `ValueError`: If the judgments contain a text of rows that must not be published.
    """
    evaluation = read_evaluation(folder)
    _check_private(evaluation)
    places = list(_places(evaluation.folder))
    names = sorted({facts["benchmark"] for facts in evaluation.report["items"].values()})
    card = dataset_card(
        "judgments.md",
        DatasetCardData(
            tags=["trl", "spct", "generative-reward-model", "judgments"],
            configs=judgment_configs(folder),
        ),
        judge=evaluation.judge,
        table=evaluation.table,
        biases=evaluation.bias_table if evaluation.diagnosis else None,
        protocol=json.dumps(evaluation.protocol, indent=2, ensure_ascii=False),
        items=json.dumps(evaluation.report["items"], indent=2, ensure_ascii=False),
        folders={kind: what for kind, what in FOLDERS.items() if any(place.parts[0] == kind for place in places)},
        figure=evaluation.figure is not None,
        licenses={name: BENCHMARKS[name].license for name in names if name in BENCHMARKS},
        private=[name for name in names if _is_private(name)],
    )
    card.save(Path(folder) / "README.md")


def push_judgments(
    folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes judgments with their card, results and figures. Manifests, which may name local paths, are left out.

    Args:
        folder (`str` or path): Output folder of the evaluation script.
        repo_id (`str`): Dataset repository; created if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private; defaults to the account's setting.
        token (`str`, *optional*): Hub token; defaults to the stored one.

    Returns:
        `str`: URL of the commit.

    Raises:
        `ValueError`: If the judgments contain a text of rows that must not be published.
        [`~trl_spct.judge.hub.PushError`]: If the push fails, with the command that repeats it.
    """
    write_judgments_card(folder)
    return push_folder(folder, repo_id, "dataset", "Upload judgments", _PUSHED, private, token)


def _places(folder: Path) -> Iterator[Path]:
    """Sub-folders with shards, relative to the folder."""
    for kind in FOLDERS:
        yield from sorted({path.parent.relative_to(folder) for path in (folder / kind).rglob(SHARDS)})


def _is_private(benchmark: str) -> bool:
    return benchmark in BENCHMARKS and BENCHMARKS[benchmark].private


def _check_private(evaluation: JudgeEvaluation) -> None:
    private = {name for name, facts in evaluation.report["items"].items() if _is_private(facts["benchmark"])}
    for place in _places(evaluation.folder):
        if place.name in private and not all(text.startswith(HASHED) for text in _texts(evaluation.folder / place)):
            raise ValueError(
                f"Found texts of {place.name} in {evaluation.folder / place}; expected hashes, since its rows must "
                "not be published. Judge them again, with the evaluation script, into an empty folder."
            )


def _texts(folder: Path) -> Iterator[str]:
    for path in folder.glob(SHARDS):
        for critiques in pq.read_table(path, columns=["critiques"])["critiques"].to_pylist():
            yield from (critique["text"] for critique in critiques)
