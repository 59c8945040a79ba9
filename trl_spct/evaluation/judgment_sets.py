# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The judgments of an evaluation as a dataset: one configuration per judge and benchmark, with a card, for the Hub."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from ..cards import dataset_card
from ..jobs import SHARDS
from ..judge.hub import push_folder
from .benchmarks import BENCHMARKS
from .judgments import HASHED
from .reports import JudgeEvaluation, read_evaluation


FOLDERS = {
    "judgments": "the judge's votes",
    "greedy": "the judge, greedy",
    "llm_judge": "LLM-as-a-judge",
    "scalar_rm": "a scalar reward model",
    "baselines": "judges that read nothing",
}
"""Where an evaluation keeps the critiques of each kind of judge."""

_PUSHED = (f"**/{SHARDS}", "README.md", "results.json", "report.json", "table.md", "scaling.png", "cost.png")


def judgment_configs(folder: str | os.PathLike) -> list[dict[str, str]]:
    """The configurations of a folder of judgments, as a dataset card lists them.

    Args:
        folder (`str` or path): Output folder of the evaluation script.
    """
    return [
        {"config_name": "-".join(place.parts), "data_files": f"{place.as_posix()}/{SHARDS}"}
        for place in _places(Path(folder))
    ]


def write_judgments_card(folder: str | os.PathLike) -> None:
    """Writes `README.md` into the output folder of the evaluation script: results, biases, protocol, columns.

    Args:
        folder (`str` or path): The folder.

    Raises:
        `ValueError`: if a text of rows that must not be published is among the judgments.
    """
    found = read_evaluation(folder)
    _check_private(found)
    places = list(_places(found.folder))
    names = {facts["benchmark"] for facts in found.report["items"].values()}
    card = dataset_card(
        "judgments.md",
        DatasetCardData(
            tags=["trl", "spct", "generative-reward-model", "judgments"],
            configs=judgment_configs(folder),
        ),
        judge=found.judge,
        table=found.table,
        biases=found.bias_table if found.diagnosis else None,
        protocol=json.dumps(found.protocol, indent=2, ensure_ascii=False),
        items=json.dumps(found.report["items"], indent=2, ensure_ascii=False),
        folders={kind: what for kind, what in FOLDERS.items() if any(place.parts[0] == kind for place in places)},
        figure=found.figure is not None,
        licenses={name: BENCHMARKS[name].license for name in sorted(names) if name in BENCHMARKS},
        private=sorted(name for name in names if _is_private(name)),
    )
    card.save(Path(folder) / "README.md")


def push_judgments(
    folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None
) -> str:
    """Pushes judgments to the Hub, with their card, results and figures. The manifests, which may name places on this
    machine, stay here.

    Args:
        folder (`str` or path): Output folder of the evaluation script.
        repo_id (`str`): Of a dataset repository, which is created if it is not there.
        private (`bool`, *optional*): Whether a new repository is private; as the account has it by default.
        token (`str`, *optional*): The one that is logged in with by default.

    Returns:
        `str`: address of the commit.

    Raises:
        `ValueError`: if a text of rows that must not be published is among the judgments.
        [`~trl_spct.judge.hub.PushError`]: if the push fails, saying how to push again.
    """
    write_judgments_card(folder)
    return push_folder(folder, repo_id, "dataset", "Upload judgments", _PUSHED, private, token)


def _places(folder: Path) -> Iterator[Path]:
    """Folders with shards, relative to the evaluation's."""
    for kind in FOLDERS:
        yield from sorted({path.parent.relative_to(folder) for path in (folder / kind).rglob(SHARDS)})


def _is_private(benchmark: str) -> bool:
    return benchmark in BENCHMARKS and BENCHMARKS[benchmark].private


def _check_private(found: JudgeEvaluation) -> None:
    """Judgments of private rows hold hashes since they are written so; nothing else may leave this machine."""
    private = {name for name, facts in found.report["items"].items() if _is_private(facts["benchmark"])}
    for place in _places(found.folder):
        if place.name in private and not all(map(_is_hashed, _texts(found.folder / place))):
            raise ValueError(
                f"Found texts of {place.name} in {found.folder / place}; expected hashes, since its rows must not be "
                "published. Judge them anew, with the evaluation script, into an empty folder."
            )


def _texts(folder: Path) -> Iterator[Any]:
    for path in folder.glob(SHARDS):
        for texts in pq.read_table(path, columns=["texts"])["texts"].to_pylist():
            yield from texts


def _is_hashed(text: str) -> bool:
    return text.startswith(HASHED)
