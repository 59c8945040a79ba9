# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation found, in the card of the judge: in its text, for readers, and in its `model-index`, for the Hub.

The text stands between comments, a block for each benchmark. A later evaluation replaces the blocks of its benchmarks
and leaves everything else as it is, whoever wrote it.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..cards import load_card
from ..judge.hub import push_folder
from .reports import (
    JudgeEvaluation,
    bias_table,
    markdown_table,
    mean_results,
    most_votes,
    plot_scaling,
    read_evaluation,
)


_BLOCK = re.compile(r"<!-- results: (?P<name>.+?) -->\n.*?<!-- /results: (?P=name) -->\n*", re.DOTALL)
_NONE = "none yet"  # what a card holds before the first evaluation
_ALL = "all benchmarks"


def write_results(judge: str | os.PathLike, evaluation: str | os.PathLike) -> bool:
    """Writes the results of an evaluation into the card of a judge, and its figures beside it.

    Args:
        judge (`str` or path): The judge's folder.
        evaluation (`str` or path): Output folder of the evaluation script.

    Returns:
        `bool`: whether there is a card.

    Raises:
        `ValueError`: if the card's metadata cannot be read.
    """
    path = Path(judge, "README.md")
    if not path.is_file():
        return False
    _write(ModelCard.load(path), read_evaluation(evaluation), path.parent, path.resolve().parent.name)
    return True


def push_results(repo_id: str, evaluation: str | os.PathLike, token: str | None = None) -> str:
    """Writes the results of an evaluation into the card of a judge on the Hub.

    Args:
        repo_id (`str`): The judge's repository.
        evaluation (`str` or path): Output folder of the evaluation script.
        token (`str`, *optional*): The one that is logged in with by default.

    Returns:
        `str`: address of the commit.

    Raises:
        [`PushError`]: if it fails; what was to be pushed is kept in `card` in the evaluation's folder.
    """
    card = load_card(repo_id, token) or ModelCard(f"# {repo_id}\n")
    folder = Path(evaluation, "card")
    folder.mkdir(exist_ok=True)
    _write(card, read_evaluation(evaluation), folder, repo_id.rsplit("/", 1)[-1])
    return push_folder(folder, repo_id, "model", "Evaluation results", ("README.md", "scaling*.png"), token=token)


def _write(card: ModelCard, found: JudgeEvaluation, folder: Path, name: str) -> None:
    blocks = {}
    for key, facts in found.report["items"].items():
        own = [result for result in found.results if result["benchmark"] == facts["benchmark"]]
        figure = f"scaling-{re.sub(r'[^0-9A-Za-z.]+', '-', facts['benchmark'])}.png"
        plot_scaling(mean_results(own), folder / figure, facts["benchmark"])
        blocks[facts["benchmark"]] = _block(facts["benchmark"], own, found, key, figure)
    if len(blocks) > 1:
        blocks = {_ALL: f"### All of them\n\n{found.table}\n", **blocks}
    card.text = with_blocks(card.text, blocks)
    kept = [entry for entry in card.data.eval_results or () if entry.dataset_name not in blocks]
    card.data.eval_results = [*kept, *found.eval_results]
    card.data.model_name = card.data.model_name or name
    card.save(folder / "README.md")


def _block(name: str, results: list[Mapping[str, Any]], found: JudgeEvaluation, key: str, figure: str) -> str:
    parts = [f"### {name}", markdown_table(most_votes(results)), f"![{name}: accuracy over votes]({figure})"]
    if key in found.diagnosis:
        parts += ["What hides in these numbers, in percent:", bias_table({name: found.diagnosis[key]})]
    told = found.report["items"][key]
    facts = {name: told[name] for name in ("revisions", "sampled_items", "digest") if told.get(name)}
    protocol = {**found.protocol.get(key, {}), **{f"data: {name}": value for name, value in facts.items()}}
    parts.append(
        "How they came about:\n\n"
        + "\n".join(f"- {name}: `{value}`" for name, value in protocol.items() if value is not None)
    )
    return "\n\n".join(parts) + "\n"


def with_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """A card's text with these blocks of results: in place of those of the same name, or after the last one.

    Without any, they go under the heading `## Results`, which is made before `## Limits`, or at the end.

    Args:
        text (`str`): The card's.
        blocks (mapping of `str`): Markdown by name.
    """
    marked = {
        name: f"<!-- results: {name} -->\n{block.strip()}\n<!-- /results: {name} -->\n\n"
        for name, block in blocks.items()
    }
    there = {found["name"] for found in _BLOCK.finditer(text)}
    text = _BLOCK.sub(lambda found: marked.get(found["name"], found[0]), text)
    new = "".join(block for name, block in marked.items() if name not in there)
    if new:
        place = _place(text)
        head, tail = text[:place].rstrip("\n"), text[place:].lstrip("\n")
        heading = "" if re.search(r"^## Results\b", text, re.MULTILINE) else "## Results\n\n"
        text = f"{head}\n\n{heading}{new}{tail}"
    text = _drop_none(text)
    return text.rstrip("\n") + "\n" if text.endswith("\n\n") else text


def _place(text: str) -> int:
    """Where new blocks go."""
    blocks = list(_BLOCK.finditer(text))
    if blocks:
        return blocks[-1].end()
    heading = re.search(r"^## Results\b.*\n", text, re.MULTILINE)
    if heading:
        return heading.end()
    limits = re.search(r"^## Limits\b", text, re.MULTILINE)
    return limits.start() if limits else len(text)


def _drop_none(text: str) -> str:
    return _BLOCK.sub(lambda found: "" if found["name"] == _NONE else found[0], text)
