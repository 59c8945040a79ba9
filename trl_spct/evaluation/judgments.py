# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judgments: the critiques of labeled rows, stored as they come, and accuracy over the number of votes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from ..data.preparation import InvalidRows
from ..jobs import MANIFEST, SHARDS, ShardedJob, rows_digest
from ..judge.critiques import Critique
from ..judge.judging import Judging
from ..judge.orders import count_occurrences
from ..judge.outcomes import credit, highest
from ..judge.preferences import Preference
from ..judge.prompts import judge_template
from ..judge.sampling import EngineError, PromptRefusedError, PromptTooLongError
from ..judge.voting import Guidance, Scores, mean_scores
from .statistics import bootstrap_interval, mean

_DROP = 'With `invalid_rows="drop"` such rows are counted by cause.'

CRITIQUE_FEATURES = {
    "text": Value("string"),
    "scores": List(Value("float64")),
    "problem": Value("string"),
    "order": List(Value("int64")),
    "meta_score": Value("float64"),
    "counted": Value("bool"),
    "num_tokens": Value("int64"),
    "closed": Value("bool"),
}
"""Fields of a stored [`Critique`]."""

JUDGMENT_FEATURES = Features(
    {
        "row": Value("int64"),
        "labels": List(Value("float64")),
        "critiques": List(CRITIQUE_FEATURES),
        "id": Value("string"),
        "truncated": Value("bool"),
    }
)
"""Columns of stored judgments, one record per row: its number, and the fields of a [`Judgment`]."""


@dataclass(frozen=True)
class Judgment:
    """The critiques of one row, scores in the order of the row, its labels (empty from a [`Judge`]) and `id`, and
    whether it was cut to fit into the judge's context."""

    labels: tuple[float, ...]
    critiques: tuple[Critique, ...]
    id: str = ""
    truncated: bool = False

    @property
    def scores(self) -> tuple[Scores, ...]:
        """Scores of each critique; `None` if it cannot be read."""
        return tuple(critique.scores for critique in self.critiques)

    @property
    def meta_scores(self) -> tuple[float | None, ...]:
        """The Meta RM's logit of each critique, if it has one."""
        return tuple(critique.meta_score for critique in self.critiques)

    @property
    def guidable(self) -> bool:
        """Whether each readable critique has a meta score."""
        return all(critique.meta_score is not None for critique in self.critiques if critique.scores is not None)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-like values."""
        return {**vars(self), "labels": list(self.labels), "critiques": [c.to_dict() for c in self.critiques]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Judgment":
        """The inverse of [`Judgment.to_dict`]. Other keys are ignored."""
        critiques = tuple(map(Critique.from_dict, fields["critiques"]))
        return cls(tuple(fields["labels"]), critiques, fields["id"], fields["truncated"])


class Judge:
    """A [`PipelineJudge`], or a baseline to compare it with. `settings` (JSON-like) determines the judgments and is
    compared when a run is resumed; `k` is the number of critiques per row."""

    settings: Mapping[str, Any]
    k: int = 1

    def check(self, row: Preference) -> None:
        """Refuses a row that cannot be judged, or exceeds the context, before the first one is judged."""

    def __call__(self, rows: Sequence[Preference], occurrences: Sequence[int] | None = None) -> list[Any]:
        """Judges rows; a [`Judgment`] has no labels and no id here. `occurrences` are the numbers of equal rows before
        each in the dataset, of which `rows` may be a part; counted among the rows by default."""
        raise NotImplementedError


class PipelineJudge(Judge):
    """k critiques per row from a pipeline.

    Args:
        pipe, k: The [`GRMRewardPipeline`] and the critiques per row. With a Meta RM readable critiques are scored.
        batch_size (`int`, *optional*): Rows judged together; as many as make 256 critiques by default.
        binary (`bool`, *optional*, defaults to `True`): Ask for 0 or 1 for single responses, as labeled.
        **parameters: Passed to the pipeline; `seed` is 0 by default.
    """

    def __init__(self, pipe, k: int, batch_size: int | None = None, binary: bool = True, **parameters: Any):
        self.pipe, self.k, self.batch_size = pipe, k, batch_size or max(1, 256 // k)
        preset = {name: v for name, v in pipe.preset.items() if name not in ("k", "binary", "guide", "k_meta")}
        self.parameters = {"seed": 0, **preset, **parameters}
        for name in ("early_stopping", "max_responses_per_prompt"):
            if self.parameters.get(name):
                raise ValueError(
                    f"Found {name}={self.parameters[name]!r}; expected none, since every number of votes is read from "
                    "k critiques of each whole row."
                )
        # The guidance is explicit, so that a plain vote has meta scores, too.
        is_guided = pipe.guidance is not None and not {"k_meta", "guide"} & self.parameters.keys()
        guidance = pipe.guidance.settings if is_guided else {}
        self.options = {"k": k, "binary": binary, **guidance, **self.parameters}
        self.judging: Judging = pipe.judging(**self.options)
        meta_rm = pipe.meta_rm
        self.settings = {
            "k": k,
            "binary": binary,
            **described_model(pipe.model),
            "grm": getattr(pipe.model.config, "grm", None),
            "meta_rm": None if meta_rm is None else meta_rm.config._name_or_path,
            "meta_rm_weights": None if meta_rm is None else _fingerprint(meta_rm),
            "extra_body": getattr(pipe.engine, "extra_body", None),
            **self.parameters,
            "max_new_tokens": self.judging.max_new_tokens,
            "template_digest": [judge_template(self.judging.template, binary).digest for binary in (False, True)],
            "chat_template_kwargs": self.judging.chat_template_kwargs or None,
        }

    @property
    def protocol(self) -> dict[str, Any]:
        """How the critiques are made, for results and cards."""
        pipe, judging, has_engine = self.pipe, self.judging, self.pipe.engine is not None
        names = ("model", "revision", "meta_rm", "meta_rm_revision")
        options = {name: getattr(judging.options, name) for name in ("k", "top_p", "truncation", "order", "binary")}
        resolved = {name: getattr(judging, name) for name in ("temperature", "max_new_tokens", "context", "seed")}
        return {
            **dict(zip(names, (*_public_model(pipe.model), *_public_model(pipe.meta_rm)), strict=True)),
            "guidance": None if pipe.guidance is None else str(pipe.guidance),
            "template": judging.template,
            "template_digest": judge_template(judging.template).digest,
            "chat_template_kwargs": judging.chat_template_kwargs or None,
            **resolved,
            **options,
            "engine": type(pipe.engine).__name__ if has_engine else "transformers",
            "dtype": None if has_engine else str(pipe.model.dtype).removeprefix("torch."),
            "device": None if has_engine else pipe.device.type,
            "versions": ", ".join(f"{name} {version(name)}" for name in ("trl_spct", "transformers", "torch")),
        }

    def check(self, row: Preference) -> None:
        self.judging.prepare(0, row)

    def __call__(self, rows: Sequence[Preference], occurrences: Sequence[int] | None = None) -> list[Any]:
        options = {"batch_size": self.batch_size, **self.options}
        try:
            return list(map(self.judgment, self.pipe(list(rows), occurrences=occurrences, **options)))
        except (EngineError, PromptTooLongError) as error:
            error.completed = {n: self.judgment(output) for n, output in error.completed.items()}
            raise

    def judgment(self, output: Mapping[str, Any]) -> Any:
        """The [`Judgment`] in an output of the pipeline."""
        critiques = tuple(map(Critique.from_dict, output["critiques"]))
        return Judgment((), critiques, truncated=output["truncated"] is not None)


def described_model(model) -> dict[str, Any]:
    """Name and fingerprint of a model, for a manifest."""
    return {"model": model.config._name_or_path, "model_weights": _fingerprint(model)}


def _public_model(model) -> tuple[str | None, str | None]:
    """Name, without a local path, and revision of a model."""
    if model is None:
        return None, None
    path = model.config._name_or_path
    return Path(path).name if os.path.isdir(path) else path, getattr(model.config, "_commit_hash", None)


@torch.no_grad()
def _fingerprint(model) -> str:
    """A hash of some values of each floating-point weight, which tells a judge from one trained further in the same
    folder. Packed weights are left out, since inference may repack them; an engine has no weights here."""
    if not isinstance(model, torch.nn.Module):
        return ""
    samples = [
        weight.reshape(-1)[:: max(1, weight.numel() // 16)].float().cpu()
        for weight in model.parameters()
        if weight.is_floating_point() and weight.device.type != "meta"
    ]
    return hashlib.blake2b(torch.cat(samples).numpy().tobytes(), digest_size=8).hexdigest() if samples else ""


def record_judgments(
    judge: Judge,
    rows: Iterable[Preference],
    folder: str | os.PathLike,
    labels: Iterable[Sequence[float]] | None = None,
    ids: Iterable[str] | None = None,
    private: bool = False,
    rows_per_shard: int = 64,
    **options: Any,
) -> list[Judgment]:
    """Judges rows and writes parquet shards as it goes. A restart with the same settings judges the missing shards.

    Args:
        labels, ids (iterables, *optional*): Ground truth, by default that of the rows, and names, by default numbers.
        private (`bool`, *optional*, defaults to `False`):
            Store hashes instead of critiques, for rows that must not be published: critiques quote them.
        rows_per_shard (`int`, *optional*, defaults to `64`): Rows that a kill loses at most.
        **options: Passed to [`judge_in_shards`]. Rows left out have critiques without scores and are worth 0.
    """
    rows = list(rows)
    ids = list(map(str, range(len(rows))) if ids is None else ids)
    truth = [tuple(values or ()) for values in ([row.labels for row in rows] if labels is None else labels)]
    if missing := [id for id, values in zip(ids, truth, strict=True) if not values]:
        raise ValueError(f"Row {missing[0]} has no labels; expected ground truth to compare the judge with.")
    named = zip(rows, truth, ids, strict=True)
    digest = rows_digest((r.query, r.responses, labels, r.reference, r.principles, id) for r, labels, id in named)
    settings = {"kind": "judgments", **judge.settings, "data": digest, **({"private": True} if private else {})}
    job = ShardedJob(folder, len(rows), rows_per_shard, JUDGMENT_FEATURES, settings)

    def to_record(number: int, judgment: Judgment | None, cause: str | None) -> dict[str, Any]:
        judgment = judgment or Judgment((), (Critique("", problem=cause),) * judge.k)
        judgment = replace(judgment, labels=truth[number], id=ids[number])
        return {"row": number, **(_hashed(judgment) if private else judgment).to_dict()}

    return list(map(Judgment.from_dict, judge_in_shards(job, judge, rows, ids, to_record, private=private, **options)))


def judge_in_shards(
    job: ShardedJob,
    judge: Judge,
    rows: Any,
    names: Sequence[Any],
    to_record: Callable[[int, Any, str | None], dict[str, Any]],
    private: bool = False,
    invalid_rows: InvalidRows = "error",
    progress: str | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    wait: Callable[[], None] | None = None,
) -> Dataset:
    """Judges the rows of the missing shards of a job, and reads the records of all.

    Args:
        rows, names: A sequence of [`Preference`], and what errors call each of them.
        to_record (callable): Makes a record from (number, judgment or `None`, cause or `None`).
        private (`bool`, *optional*, defaults to `False`): Errors of a server do not quote rows.
        invalid_rows (`str`, *optional*, defaults to `"error"`):
            `"drop"` leaves out rows that do not fit into the context, or that a server refuses, with the cause.
        progress, process_index, num_processes, wait:
            Title of a progress bar, share of this process, barrier among processes.
    """
    drop, occurrences, too_long = invalid_rows == "drop", count_occurrences(rows), set()
    missing = (numbers for path, numbers in job.shards[process_index::num_processes] if not path.exists())
    for number in chain.from_iterable(missing):
        try:
            with naming_rows([number], names, private):
                judge.check(rows[number])
        except PromptTooLongError:
            if not drop:
                raise
            too_long.add(number)

    def work(numbers: range) -> list[dict[str, Any]]:
        fitting = [number for number in numbers if number not in too_long]
        with naming_rows(fitting, names, private):
            judged, causes = judge_all(judge, [rows[n] for n in fitting], [occurrences[n] for n in fitting], drop)
        judgments = {fitting[place]: judgment for place, judgment in judged.items()}
        refused = dict.fromkeys(too_long, "length") | {fitting[place]: cause for place, cause in causes.items()}
        return [to_record(number, judgments.get(number), refused.get(number)) for number in numbers]

    with tqdm(total=len(rows), desc=progress, disable=progress is None, unit="row") as bar:
        for numbers in job.run(work, process_index, num_processes):
            bar.update(len(numbers) * num_processes)
    if wait is not None:
        wait()
    return job.read()


def judge_all(
    judge: Callable[..., Sequence[Any]], rows: Sequence[Preference], occurrences: Sequence[int], drop: bool = False
) -> tuple[dict[int, Any], dict[int, str]]:
    """Judges rows by a [`Judge`], or a pipeline with its options bound, with `drop` all but those that do not fit or
    that a server refuses. Returns judgments, and causes of rows left out (`"length"`, or that of a
    [`~trl_spct.judge.sampling.Refusal`]), by position."""
    judged, causes = dict[int, Any](), dict[int, str]()
    while remaining := [n for n in range(len(rows)) if n not in judged and n not in causes]:
        try:
            outputs = judge([rows[n] for n in remaining], occurrences=[occurrences[n] for n in remaining])
            judged.update(zip(remaining, outputs, strict=True))
        except (PromptTooLongError, PromptRefusedError) as error:
            refused = {n: refusal.cause for n, refusal in getattr(error, "refusals", {}).items()}
            if not drop or (error.row is None and not refused):
                raise
            judged |= {remaining[n]: judgment for n, judgment in error.completed.items()}
            causes |= {remaining[n]: cause for n, cause in (refused or {error.row: "length"}).items()}
        except EngineError as error:
            raise error.renumbered(remaining, None, error.note, error.name) from error.__cause__
    return judged, causes


@contextmanager
def naming_rows(numbers: Sequence[int], names: Sequence[Any], private: bool) -> Iterator[None]:
    """Errors name the row; those of a server do not quote private rows."""
    try:
        yield
    except PromptTooLongError as error:
        number = numbers[error.row]
        raise PromptTooLongError(f"Row {names[number]}", *error.lengths, number, f"{error.advice} {_DROP}") from None
    except EngineError as error:
        reason, note = error.reason, "Judged shards are kept: start again to judge the others."
        if isinstance(error, PromptRefusedError):
            note += f" {_DROP}"
        if private:
            reason, note = f"status {error.status}. The answer is left out, since it may quote private rows.", ""
        if error.row is None:
            reason = f"Rows {names[numbers[0]]} to {names[numbers[-1]]}: {reason}"
        failure = replace(error, reason=reason, refusals={} if private else error.refusals)
        raise failure.renumbered([names[n] for n in numbers], {}, note) from (None if private else error)
    except ValueError as error:
        if len(numbers) > 1:
            raise
        raise ValueError(f"Row {names[numbers[0]]}: {error.__cause__ or error}") from error


def _hashed(judgment: Judgment) -> Judgment:
    def digest(text: str) -> str:
        return "blake2b:" + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    return replace(judgment, critiques=tuple(replace(c, text=digest(c.text)) for c in judgment.critiques))


def read_judgments(folder: str | os.PathLike) -> list[Judgment]:
    """The judgments of a finished run of [`record_judgments`], in order."""
    tables = map(pq.read_table, sorted(Path(folder).glob(SHARDS)))
    judgments = [Judgment.from_dict(record) for table in tables for record in table.to_pylist()]
    manifest = Path(folder) / MANIFEST
    expected = json.loads(manifest.read_text(encoding="utf-8"))["rows"] if manifest.exists() else None
    if not judgments or len(judgments) != expected:
        raise FileNotFoundError(f"{folder} holds {len(judgments)} judgments; expected those of a finished run.")
    return judgments


def scaling_results(
    judgments: Sequence[Judgment],
    ks: Sequence[int] | None = None,
    guided: bool | None = None,
    seed: int = 0,
    guidance: Guidance | None = None,
    **described: Any,
) -> list[dict[str, Any]]:
    """Accuracy over the number of votes, plain and guided, from one set of judgments.

    Accuracy at k is the mean [`credit`] of the votes of disjoint blocks of k critiques, over blocks and rows; a block
    without a readable critique is worth 0. By default the ks are the powers of two, and both ways to vote are read if
    each readable critique has a meta score; `guidance` defaults to the paper's k/2 **[P]**.

    Returns:
        `list[dict]` of `described`, `k`, `guided`; `accuracy`, `low` and `high` (95 % bootstrap interval over rows);
        `n` (rows); `unreadable` (share of critiques), `voted` (share of blocks with a vote), and `ties` (share of
        votes with n ≥ 2).
    """
    results = []
    for k, guide in vote_schemes(judgments, ks, guided, guidance):
        votes = [votes_at(judgment, k, guide) for judgment in judgments]
        pairs = zip(judgments, votes, strict=True)
        credits = [mean([credit(scores, judgment.labels) for scores in blocks]) for judgment, blocks in pairs]
        low, high = bootstrap_interval(credits, seed=seed)
        described |= {"k": k, "guided": guide is not None, "accuracy": mean(credits), "low": low, "high": high}
        results.append({**described, "n": len(judgments), **vote_facts(judgments, votes), "seed": seed})
    return results


def vote_schemes(
    judgments: Sequence[Judgment],
    ks: Sequence[int] | None = None,
    guided: bool | None = None,
    guidance: Guidance | None = None,
) -> list[tuple[int, Guidance | None]]:
    """(k, guidance) of the votes that judgments allow, `None` for a plain vote; see [`scaling_results`]."""
    if not judgments:
        raise ValueError("Found no judgments; expected at least one judged row.")
    most = min(len(judgment.critiques) for judgment in judgments)
    ks = ks or [2**power for power in range(most.bit_length()) if 2**power <= most]
    if min(ks, default=0) < 1 or max(ks) > most:
        raise ValueError(
            f"Found ks={list(ks)} with {most} critiques per row; expected numbers from 1 to {most}. Sample as many "
            "critiques as the largest k."
        )
    scored = any(meta is not None for judgment in judgments for meta in judgment.meta_scores)
    can_guide = scored and all(judgment.guidable for judgment in judgments)
    modes = [guided] if guided is not None else [False, True] if can_guide else [False]
    return [(k, guidance or Guidance() if mode else None) for mode in modes for k in ks]


def vote_facts(judgments: Sequence[Judgment], votes: Sequence[Sequence[Scores]]) -> dict[str, float]:
    """`unreadable`, `voted` and `ties` of [`scaling_results`], from [`votes_at`] of each judgment."""
    return {
        "unreadable": mean([scores is None for judgment in judgments for scores in judgment.scores]),
        "voted": mean([scores is not None for blocks in votes for scores in blocks]),
        "ties": tie_share(chain.from_iterable(votes)),
    }


def tie_share(votes: Iterable[Scores]) -> float:
    """Share of readable votes on n ≥ 2 responses with more than one winner; 0 without such votes."""
    ties = [len(highest(scores)) > 1 for scores in votes if scores is not None and len(scores) > 1]
    return mean(ties) if ties else 0.0


def credits_at(judgment: Judgment, k: int, guidance: Guidance | None = None) -> list[float]:
    """The [`credit`] of the vote of each disjoint block of k critiques of a row; see [`scaling_results`]."""
    return [credit(scores, judgment.labels) for scores in votes_at(judgment, k, guidance)]


def votes_at(judgment: Judgment, k: int, guidance: Guidance | None = None) -> list[Scores]:
    """The vote of each disjoint block of k critiques of a row, as mean scores, which compare among rows and blocks."""
    scores, meta_scores = judgment.scores, judgment.meta_scores
    if k == 1:  # the mean of a critique is itself, with any weight
        return [None if row is None else tuple(map(float, row)) for row in scores]
    blocks = [slice(first, first + k) for first in range(0, len(scores) - k + 1, k)]
    if guidance is None:
        return [mean_scores(scores[block]) for block in blocks]
    return [mean_scores(scores[block], guidance.weights(scores[block], meta_scores[block])) for block in blocks]
