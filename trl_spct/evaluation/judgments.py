# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""How good is a judge, and what do more votes buy? One sampling run at the largest k, every smaller k from it."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
import torch
import transformers
from datasets import Features, List, Value
from tqdm.auto import tqdm

from ..jobs import MANIFEST, ShardedJob, rows_digest
from ..judge.orders import ORDERS
from ..judge.outcomes import credit, highest
from ..judge.preferences import InvalidPreference, Preference
from ..judge.prompts import judge_template
from ..judge.sampling import EngineError, PromptTooLongError, context_length
from ..judge.voting import VOTING_TEMPERATURE, Guidance, vote, weighted_vote
from .statistics import bootstrap_interval, mean


HASHED = "blake2b:"
"""What the texts of judgments begin with that were not stored."""


@dataclass(frozen=True)
class Judgment:
    """All critiques of one row, in the order in which they were sampled.

    Args:
        labels (`tuple[float, ...]`): Ground truth in the row's response order.
        scores (tuple of k score rows): In the same order; `None` for an unreadable critique.
        meta_scores (tuple of k `float` or `None`): The Meta RM's logits; `None` without one and for unreadable
            critiques.
        problems (tuple of k `str` or `None`): Why a critique could not be read.
        orders (tuple of k orders): `order[p]` is the response that the judge read in place p.
        texts (tuple of k `str`): The critiques; hashes of them if the rows must not be published.
        num_tokens (tuple of k `int`): Their lengths in tokens.
        id (`str`): Names the row.
        seconds (`float`): What the row took, as its share of the rows that were judged with it; no part of equality.
    """

    labels: tuple[float, ...]
    scores: tuple[tuple[float, ...] | None, ...]
    meta_scores: tuple[float | None, ...] = ()
    problems: tuple[str | None, ...] = ()
    orders: tuple[tuple[int, ...], ...] = ()
    texts: tuple[str, ...] = ()
    num_tokens: tuple[int, ...] = ()
    id: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def guidable(self) -> bool:
        """Whether a Meta RM has scored every readable critique; see [`scaling_results`] for rows without any."""
        meta = self.meta_scores or (None,) * len(self.scores)
        return all(m is not None for m, row in zip(meta, self.scores, strict=True) if row is not None)


JUDGMENT_FEATURES = Features(
    {
        "row": Value("int64"),
        "id": Value("string"),
        "seconds": Value("float64"),
        "labels": List(Value("float64")),
        "scores": List(List(Value("float64"))),
        "meta_scores": List(Value("float64")),
        "problems": List(Value("string")),
        "orders": List(List(Value("int64"))),
        "texts": List(Value("string")),
        "num_tokens": List(Value("int64")),
    }
)
"""Columns of stored judgments: one record per row, one list entry per critique."""


class Judge(Protocol):
    """Anything that scores responses: a [`GRMRewardPipeline`], a scalar reward model, the length of a text.

    `settings` is what determines its critiques, JSON-like, for the manifest of a run. Called with rows, it returns the
    critiques of each: mappings with `scores` (in the row's response order, or `None`), `problem`, `order`, `text`,
    `num_tokens` and `meta_score`, as the pipeline makes them.
    """

    settings: Mapping[str, Any]

    def __call__(self, rows: Sequence[Preference]) -> list[Sequence[Mapping[str, Any]]]: ...


class PipelineJudge:
    """k critiques per row from a pipeline.

    Args:
        pipe ([`GRMRewardPipeline`]): The judge. With a Meta RM the judgments can be read plain and guided.
        k (`int`): Critiques per row; every smaller number can be read from them.
        batch_size (`int`, *optional*):
            Rows judged together, which does not change the result. By default as many as make 256 critiques.
        binary (`bool`, *optional*, defaults to `True`):
            Whether single responses are asked for 0 or 1, as their labels say, instead of a score from 1 to 10.
        **parameters: Passed to the pipeline: `seed` (0 if neither given here nor to the pipeline), `temperature`,
            `template` and the like.
    """

    def __init__(self, pipe, k: int, batch_size: int | None = None, binary: bool = True, **parameters):
        self.pipe, self.k, self.binary = pipe, k, binary
        self.batch_size = batch_size or max(1, 256 // k)
        self.parameters = {"seed": 0, **_preset(pipe), **parameters}
        for name in ("early_stopping", "max_responses_per_prompt"):
            if self.parameters.get(name):
                raise ValueError(
                    f"Found {name}={self.parameters[name]!r}; expected none, since every number of votes is read from "
                    "k critiques of each whole row."
                )
        self.settings = {"k": k, "binary": binary, **_described(pipe), **self.parameters}

    @property
    def protocol(self) -> dict[str, Any]:
        """How the critiques come about, for results and cards: models and revisions, template, sampling, versions."""
        pipe, options = self.pipe, self.parameters
        template = pipe._template(options.get("template"))
        return {
            "model": _shown(pipe.model),
            "revision": getattr(pipe.model.config, "_commit_hash", None),
            "meta_rm": None if pipe.meta_rm is None else _shown(pipe.meta_rm),
            "meta_rm_revision": None if pipe.meta_rm is None else getattr(pipe.meta_rm.config, "_commit_hash", None),
            "guidance": None if pipe.guidance is None else str(pipe.guidance),
            "template": template,
            "template_digest": judge_template(template).digest,
            "k": self.k,
            "temperature": options.get("temperature", VOTING_TEMPERATURE if self.k > 1 else 0.0),
            "top_p": options.get("top_p", 1.0),
            "max_new_tokens": options.get("max_new_tokens") or pipe._default_length(),
            "context": context_length(pipe.model.config),
            "truncation": options.get("truncation"),
            "order": options.get("order", ORDERS[0]),
            "binary": self.binary,
            "seed": options["seed"],
            **_run_by(pipe),
            "versions": f"trl_spct {version('trl-spct')}, transformers {transformers.__version__}, torch "
            f"{torch.__version__}",
        }

    def __call__(self, rows: Sequence[Preference]) -> list[Sequence[Mapping[str, Any]]]:
        guidance = {}
        if self.pipe.guidance is not None and not {"k_meta", "guide"} & self.parameters.keys():
            guidance = self.pipe.guidance.settings  # asked for, so that critiques are scored under plain voting, too
        options = {"k": self.k, "binary": self.binary, "batch_size": self.batch_size, **guidance, **self.parameters}
        return [output["critiques"] for output in self.pipe(list(rows), **options)]


def collect_judgments(
    pipe,
    rows: Iterable[Mapping[str, Any] | Preference],
    k: int,
    folder: str | os.PathLike,
    rows_per_shard: int = 64,
    progress: str | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    wait: Callable[[], None] | None = None,
    batch_size: int | None = None,
    **parameters,
) -> list[Judgment]:
    """Judges labeled rows k times each and writes as it goes; a restart with the same settings resumes.

    Single responses are judged with the 0/1 template, since that is what their labels say.

    Args:
        pipe, k, batch_size, **parameters: See [`PipelineJudge`].
        rows (iterable of rows): Preference rows with labels.
        folder, rows_per_shard, progress, process_index, num_processes, wait: See [`record_judgments`].

    Returns:
        `list[Judgment]`, one per row, in order.

    Raises:
        `ValueError`: if a row cannot be read or has no labels, naming it.
        `FileExistsError`: if the folder holds judgments of another judge, other rows or other settings.
    """
    rows = [_labeled(number, row) for number, row in enumerate(rows)]
    return record_judgments(
        PipelineJudge(pipe, k, batch_size, **parameters),
        rows,
        [row.labels for row in rows],
        folder,
        rows_per_shard=rows_per_shard,
        progress=progress,
        process_index=process_index,
        num_processes=num_processes,
        wait=wait,
    )


def record_judgments(
    judge: Judge,
    rows: Sequence[Preference],
    labels: Sequence[Sequence[float]],
    folder: str | os.PathLike,
    ids: Sequence[str] | None = None,
    private: bool = False,
    rows_per_shard: int = 64,
    progress: str | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    wait: Callable[[], None] | None = None,
) -> list[Judgment]:
    """Judges rows and writes as it goes; a restart with the same settings resumes, and judges no written row again.

    Args:
        judge ([`Judge`]): Who judges.
        rows (sequence of [`Preference`]): What is judged.
        labels (sequence of label rows): Ground truth; unlike a preference's own it may name several best responses.
        folder (`str` or path): Where the judgments are written as parquet.
        ids (sequence of `str`, *optional*): Names of the rows; their numbers by default.
        private (`bool`, *optional*, defaults to `False`):
            Store a hash of each critique instead of its text, for rows that must not be published: critiques quote.
        rows_per_shard (`int`, *optional*, defaults to `64`): Rows written at once; what a kill costs at most.
        progress (`str`, *optional*): Title of a progress bar over rows.
        process_index, num_processes (`int`, *optional*): This process's share of the rows.
        wait (`Callable`, *optional*): A barrier among the processes.

    Returns:
        `list[Judgment]`, one per row, in order.
    """
    ids = list(map(str, range(len(rows)))) if ids is None else list(ids)
    truth = zip(rows, labels, ids, strict=True)
    digest = rows_digest(
        (row.query, row.responses, tuple(given), row.reference, row.principles, id) for row, given, id in truth
    )
    settings = {"kind": "judgments", **judge.settings, "data": digest, **({"private": True} if private else {})}
    job = ShardedJob(folder, len(rows), rows_per_shard, JUDGMENT_FEATURES, settings)

    def work(numbers: range) -> list[dict[str, Any]]:
        started = time.perf_counter()
        try:
            judged = judge([rows[number] for number in numbers])
        except PromptTooLongError as error:
            number = numbers[error.row]
            raise PromptTooLongError(f"Row {number} ({ids[number]})", *error.lengths, number) from None
        except EngineError as error:
            if not private:
                raise
            raise EngineError(
                f"Failed on the rows {numbers.start} to {numbers.stop - 1} (status {error.status}); what was answered "
                "is left out, since it may quote rows that must not be published.",
                status=error.status,
            ) from None
        seconds = (time.perf_counter() - started) / len(numbers)
        return [
            {
                "row": number,
                "id": ids[number],
                "seconds": seconds,
                "labels": labels[number],
                **_columns(critiques, private),
            }
            for number, critiques in zip(numbers, judged, strict=True)
        ]

    with tqdm(total=len(rows), desc=progress, disable=progress is None, unit="row") as bar:
        for numbers in job.run(work, process_index, num_processes):
            bar.update(len(numbers) * num_processes)
    if wait is not None:
        wait()
    return [read_judgment(record) for record in job.read()]


def read_judgments(folder: str | os.PathLike) -> list[Judgment]:
    """What [`record_judgments`] has written into a folder, in order.

    Raises:
        `FileNotFoundError`: if there are no judgments, or not all of them yet.
    """
    paths = sorted(Path(folder).glob("shard-*.parquet"))
    found = [read_judgment(record) for path in paths for record in pq.read_table(path).to_pylist()]
    manifest = Path(folder) / MANIFEST
    expected = json.loads(manifest.read_text(encoding="utf-8"))["rows"] if manifest.exists() else None
    if not found or len(found) != expected:
        raise FileNotFoundError(f"{folder} holds {len(found)} judgments; expected those of a finished run.")
    return found


def read_judgment(record: Mapping[str, Any]) -> Judgment:
    """A stored record as a [`Judgment`]."""
    return Judgment(
        labels=tuple(record["labels"]),
        scores=tuple(None if row is None else tuple(row) for row in record["scores"]),
        meta_scores=tuple(record["meta_scores"]),
        problems=tuple(record["problems"]),
        orders=tuple(map(tuple, record["orders"])),
        texts=tuple(record["texts"]),
        num_tokens=tuple(record["num_tokens"]),
        id=record["id"],
        seconds=record["seconds"],
    )


def _columns(critiques: Sequence[Mapping[str, Any]], private: bool = False) -> dict[str, list]:
    names = {"scores": "scores", "meta_score": "meta_scores", "problem": "problems", "order": "orders"}
    names |= {"text": "texts", "num_tokens": "num_tokens"}
    columns = {column: [critique[name] for critique in critiques] for name, column in names.items()}
    if private:
        columns["texts"] = [HASHED + _hash(text) for text in columns["texts"]]
    return columns


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _labeled(number: int, row: Mapping[str, Any] | Preference) -> Preference:
    try:
        row = row if isinstance(row, Preference) else Preference.from_row(row)
    except InvalidPreference as error:
        raise InvalidPreference(f"Row {number}: {error}", error.cause) from None
    if row.labels is None:
        raise ValueError(f"Row {number} has no labels; expected ground truth to compare the judge with.")
    return row


def _preset(pipe) -> dict[str, Any]:
    """What the pipeline was made with: it decides about the judgments as much as what a call says."""
    preset = {**pipe._preprocess_params, **pipe._forward_params}
    return {name: value for name, value in preset.items() if name not in ("k", "binary")}


def _described(pipe) -> dict[str, Any]:
    """Which judge it is: a name, the template that it names, and a sample of its weights."""
    meta = pipe.meta_rm.config._name_or_path if pipe.meta_rm is not None else None
    return {
        **described_model(pipe),
        "grm": getattr(pipe.model.config, "grm", None),
        "meta_rm": meta,
        "meta_rm_weights": None if pipe.meta_rm is None else _fingerprint(pipe.meta_rm),
    }


def described_model(judge) -> dict[str, Any]:
    """What tells the model of a judge (its `model`) from others, for a manifest."""
    return {"model": judge.model.config._name_or_path, "model_weights": _fingerprint(judge.model)}


def _run_by(pipe) -> dict[str, Any]:
    """What decodes. Of weights that a server has, neither type nor device is known here."""
    if pipe.engine is not None:
        return {"engine": type(pipe.engine).__name__, "dtype": None, "device": None}
    return {
        "engine": "transformers",
        "dtype": str(pipe.model.dtype).removeprefix("torch."),
        "device": pipe.device.type,
    }


def _shown(model: torch.nn.Module) -> str:
    """What a model is called where others read it: no place on a machine."""
    name = model.config._name_or_path
    return os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name


@torch.no_grad()
def _fingerprint(model) -> str:
    """A hash of some values of each floating-point weight, so that training a judge further in its folder, or
    exchanging an adapter, is not mistaken for a restart. Packed weights are left out, since inference may repack them.
    An engine's weights are elsewhere: it is known by its name alone.
    """
    if not isinstance(model, torch.nn.Module):
        return ""
    heads = [
        weight.reshape(-1)[:: max(1, weight.numel() // 16)].float().cpu()
        for weight in model.parameters()
        if weight.is_floating_point() and weight.device.type != "meta"
    ]
    return hashlib.blake2b(torch.cat(heads).numpy().tobytes(), digest_size=8).hexdigest() if heads else ""


def scaling_results(
    judgments: Sequence[Judgment],
    ks: Sequence[int] | None = None,
    guided: bool | None = None,
    seed: int = 0,
    guidance: Guidance | None = None,
    **described,
) -> list[dict[str, Any]]:
    """Accuracy over the number of votes, plain and guided, from one set of judgments.

    Accuracy at k is the mean, over rows and over the disjoint blocks of k critiques, of the [`credit`] of the block's
    vote: no critique is used twice, blocks are independent, and every critique is used where k divides their number.

    Args:
        judgments (sequence of [`Judgment`]): With equal numbers of critiques.
        ks (sequence of `int`, *optional*): Numbers of votes; powers of two up to all by default.
        guided (`bool`, *optional*): Only plain (`False`) or only guided (`True`) results; by default what there is:
            guided ones if a Meta RM has scored every readable critique, and there is one.
        seed (`int`, *optional*, defaults to `0`): Of the bootstrap.
        guidance ([`~trl_spct.judge.voting.Guidance`], *optional*):
            How the Meta RM guides; the paper's k/2 by default. A pipeline's own is `pipe.guidance`.
        **described: Put into every result, for instance `stage="rft"`, `temperature=0.5`.

    Returns:
        `list[dict]`: `k`, `guided`, `accuracy`, `low` and `high` (95 % bootstrap interval over rows), `n` (rows),
        `unreadable` (share of critiques without scores), `ties` (share of votes, n ≥ 2, with more than one winner),
        `seed`, and what is `described`.
    """
    ks = checked_votes(judgments, ks)
    results = []
    for mode in guided_modes(judgments, guided):
        guide = (guidance or True) if mode else False
        for k in ks:
            credits = [mean(credits_at(judgment, k, guide)) for judgment in judgments]
            low, high = bootstrap_interval(credits, seed=seed)
            results.append(
                {
                    **described,
                    "k": k,
                    "guided": mode,
                    "accuracy": mean(credits),
                    "low": low,
                    "high": high,
                    "n": len(judgments),
                    "unreadable": mean([row is None for judgment in judgments for row in judgment.scores]),
                    "ties": tie_share(judgments, k, guide),
                    "seed": seed,
                }
            )
    return results


def checked_votes(judgments: Sequence[Judgment], ks: Sequence[int] | None = None) -> Sequence[int]:
    """The numbers of votes that can be read from judgments; all powers of two by default."""
    if not judgments:
        raise ValueError("Found no judgments; expected at least one judged row.")
    most = min(len(judgment.scores) for judgment in judgments)
    ks = ks or [2**power for power in range(most.bit_length()) if 2**power <= most]
    if min(ks, default=0) < 1 or max(ks) > most:
        raise ValueError(
            f"Found ks={list(ks)} with {most} critiques per row; expected numbers from 1 to {most}. Sample as many "
            "critiques as the largest k."
        )
    return ks


def guided_modes(judgments: Sequence[Judgment], guided: bool | None = None) -> list[bool]:
    """Plain results, and guided ones if a Meta RM has scored every readable critique; or only what is asked for."""
    if guided is not None:
        return [guided]
    scored = any(meta is not None for judgment in judgments for meta in judgment.meta_scores)
    return [False, True] if scored and all(judgment.guidable for judgment in judgments) else [False]


def credits_at(judgment: Judgment, k: int, guided: bool | Guidance = False) -> list[float]:
    """The credit of each disjoint block of k critiques of a row, plain or guided; see [`scaling_results`]."""
    return [credit(scores, judgment.labels, votes) for scores, votes in votes_at(judgment, k, guided)]


def votes_at(judgment: Judgment, k: int, guided: bool | Guidance) -> Iterator[tuple[tuple[float, ...] | None, float]]:
    """(vote, number or weight of the critiques that voted) of each disjoint block of k critiques of a row."""
    guidance = Guidance() if guided is True else guided
    for first in range(0, len(judgment.scores) - k + 1, k):
        rows = judgment.scores[first : first + k]
        if not guidance:
            yield vote(rows), sum(row is not None for row in rows)
            continue
        meta = judgment.meta_scores[first : first + k] or (None,) * k
        weights = guidance.weights(rows, meta)
        yield weighted_vote(rows, weights), sum(weights)


def accuracy_by_place(judgments: Sequence[Judgment]) -> dict[int, tuple[float, int]]:
    """Position bias: accuracy of single critiques by the place (from 0) in which the judge read the best response.

    Returns:
        `dict[int, tuple[float, int]]`: (mean [`credit`], number of critiques) of readable critiques with n ≥ 2.
    """
    found: dict[int, list[float]] = {}
    for judgment in judgments:
        if len(judgment.labels) < 2:
            continue
        best = judgment.labels.index(max(judgment.labels))
        for scores, order in zip(judgment.scores, judgment.orders, strict=True):
            if scores is not None:
                found.setdefault(order.index(best), []).append(credit(scores, judgment.labels))
    return {place: (mean(values), len(values)) for place, values in sorted(found.items())}


def tie_share(judgments: Sequence[Judgment], k: int, guided: bool | Guidance = False) -> float:
    """The share of readable votes on n ≥ 2 responses with more than one winner."""
    ties = [
        len(highest(scores)) > 1
        for judgment in judgments
        if len(judgment.labels) > 1
        for scores, _ in votes_at(judgment, k, guided)
        if scores is not None
    ]
    return mean(ties) if ties else 0.0
