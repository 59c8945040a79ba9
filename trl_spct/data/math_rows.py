# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Preference rows from problems with known answers: a policy's samples, labeled by rule (paper, section 4: pairs, and
single responses with 1 for correct and 0 for incorrect)."""

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from huggingface_hub import DatasetCard, DatasetCardData

from .. import __version__
from ..cards import dataset_card
from ..jobs import ShardedJob, in_one_step, rows_digest, write_json
from ..judge.critiques import without_thoughts
from ..judge.hub import push_folder
from ..judge.preferences import InvalidPreference, Preference
from ..judge.sampling import TRUNCATED, Sample, Sampler, derive_seed
from .math_answers import (
    CORRECT,
    INCORRECT,
    MISSING,
    AnswerMatcher,
    boxed_answer,
    math_verify_version,
)


logger = logging.getLogger(__name__)

EMPTY, REPEATED = "empty", "repeated"
ROWS, CARD, REPORT = "train.jsonl", "README.md", "report.json"

_FEATURES = Features(
    {
        "query": Value("string"),
        "answer": Value("string"),
        "level": Value("string"),
        "type": Value("string"),
        "fault": Value("string"),
        "responses": List(Value("string")),
        "outcomes": List(Value("string")),
        "num_tokens": List(Value("int64")),
    }
)


def read_problems(dataset: Dataset, name: str = "problems") -> list[dict[str, str | None]]:
    """Problems in MATH's schema, each with its true answer: its column `answer`, or the last box of its solution.

    Args:
        dataset ([`~datasets.Dataset`]): With `problem`, `solution` or `answer`, and optionally `level` and `type`.
        name (`str`, *optional*, defaults to `"problems"`): Name of the dataset in messages.

    Returns:
        `list[dict]`: `query`, `answer` (`None` without a box), `level` and `type` of each problem.

    Raises:
        `ValueError`: if columns are missing, or a problem is not a text.
    """
    columns = set(dataset.column_names)
    if "problem" not in columns or not columns & {"solution", "answer"}:
        raise ValueError(
            f"{name}: found the columns {sorted(columns)}; expected `problem`, and `solution` (with a boxed answer) "
            "or `answer`. Rename the columns."
        )
    problems = []
    for number, row in enumerate(dataset.with_format(None)):
        try:
            problems.append(_problem(row))
        except InvalidPreference as error:
            raise ValueError(f"{name} row {number}: {error}") from error
    return problems


def _problem(row: Mapping[str, Any]) -> dict[str, str | None]:
    query = row["problem"]
    if not isinstance(query, str):
        raise InvalidPreference(f"Found a problem of type {type(query).__name__}; expected a text.", "query")
    Preference(query, (".",))
    if row.get("answer") is not None:
        answer = str(row["answer"]).strip() or None
    else:
        answer = boxed_answer(row.get("solution") or "")
    tags = {column: None if row.get(column) is None else str(row[column]) for column in ("level", "type")}
    return {"query": query, "answer": answer, **tags}


@dataclass(frozen=True)
class AnswerSampling:
    r"""Sampling of a policy's answers. The defaults are not in the paper. [?]

    Args:
        num_generations (`int`, *optional*, defaults to `8`): Answers per problem. [?]
        temperature (`float`, *optional*, defaults to `1.0`), top_p (`float`, *optional*, defaults to `1.0`): [?]
        max_completion_length (`int`, *optional*, defaults to `2048`): Longest answer in tokens. [?]
        instruction (`str`, *optional*): Appended to the problem in the policy's prompt; not part of the rows. [?]
        seed (`int`, *optional*, defaults to `0`): Seed of the samples.
    """

    num_generations: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_completion_length: int = 2048
    instruction: str = r"Reason step by step, and put the final answer into \boxed{}."
    seed: int = 0

    def __post_init__(self):
        if self.num_generations < 1:
            raise ValueError(f"Found num_generations={self.num_generations}; expected at least 1.")
        if self.temperature <= 0 and self.num_generations > 1:
            raise ValueError("Greedy samples are all the same; expected temperature > 0 for num_generations > 1.")

    def __call__(self, sampler: Sampler, queries: Sequence[str]) -> list[list[Sample]]:
        prompts = [[{"role": "user", "content": f"{query}\n\n{self.instruction}".strip()}] for query in queries]
        options: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_completion_length,
        }
        drawn = sampler(prompts, self.num_generations, self.seed, **options)
        counts = [len(samples) for samples in drawn]
        if counts != [self.num_generations] * len(queries):
            raise ValueError(
                f"The sampler returned {counts} samples for {len(queries)} prompts; expected {self.num_generations} "
                "for each."
            )
        return drawn


class AnswerCollector:
    """Samples answers to problems and matches them with the true answers, shard by shard; a restart resumes.

    Args:
        problems (list): Of [`read_problems`].
        folder (`str` or path): Output folder.
        sampling ([`AnswerSampling`]): Sampling options.
        policy (`str`): The policy in the manifest: a path, an id or a name on a server.
        described (mapping, *optional*): Further identification of the policy, for instance a digest of its weights.
        rows_per_shard (`int`, *optional*, defaults to `64`): Problems per shard.
        timeout (`float`, *optional*, defaults to `10.0`): Seconds of processor time to match one answer. [?]

    Raises:
        `FileExistsError`: if the folder holds the answers of another configuration.
    """

    def __init__(
        self,
        problems: Sequence[Mapping[str, Any]],
        folder: str | os.PathLike,
        sampling: AnswerSampling,
        policy: str,
        described: Mapping[str, Any] | None = None,
        rows_per_shard: int = 64,
        timeout: float = 10.0,
    ):
        self.problems = problems
        self.sampling = sampling
        self.timeout = timeout
        self.settings = {
            "kind": "answers",
            "version": __version__,
            "policy": policy,
            **(described or {}),
            "data": rows_digest((problem["query"], problem["answer"]) for problem in problems),
            "math_verify": math_verify_version(),
            "timeout": timeout,
            **asdict(sampling),
        }
        self.job = ShardedJob(folder, len(problems), rows_per_shard, _FEATURES, self.settings)
        first: dict[str, int] = {}
        for number, problem in enumerate(problems):
            first.setdefault(problem["query"], number)
        self._repeated = {number for number, problem in enumerate(problems) if first[problem["query"]] != number}

    def collect(
        self,
        sampler: Sampler,
        num_proc: int = 1,
        concurrency: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> Iterator[range]:
        """Writes this process's missing shards, and yields the problems of each once it is written.

        Args:
            sampler (`Callable`): See [`~trl_spct.judge.sampling.Sampler`].
            num_proc (`int`, *optional*, defaults to `1`): Processes that match answers.
            concurrency (`int`, *optional*, defaults to `1`): Shards in work at once; more than one for a server only.
            process_index, num_processes (`int`): Which share of the shards to do.
        """
        with AnswerMatcher(self.timeout, num_proc) as matcher:
            work = partial(self._work, sampler, matcher)
            yield from self.job.run(work, process_index, num_processes, concurrency)

    def read(self) -> Dataset:
        """One row per problem: `query`, `answer`, `level`, `type`; `fault`, why it cannot be used (`"missing"`,
        `"unparsable"`, `"timeout"`, `"error"`, `"repeated"`) or `None`; and of each answer that was sampled
        `responses`, `outcomes` (also `"truncated"`, `"empty"`) and `num_tokens`."""
        return self.job.read()

    def _work(self, sampler: Sampler, matcher: AnswerMatcher, numbers: range) -> list[dict[str, Any]]:
        faults = dict(zip(numbers, self._faults(matcher, numbers), strict=True))
        sound = [number for number in numbers if faults[number] is None]
        drawn = self.sampling(sampler, [self.problems[number]["query"] for number in sound]) if sound else []
        samples = dict(zip(sound, drawn, strict=True))
        matched = self._outcomes(matcher, [(self.problems[number]["answer"], samples[number]) for number in sound])
        outcomes = dict(zip(sound, matched, strict=True))
        return [
            {
                **self.problems[number],
                "fault": faults[number],
                "responses": [sample.text for sample in samples.get(number, ())],
                "outcomes": outcomes.get(number, []),
                "num_tokens": [sample.num_tokens for sample in samples.get(number, ())],
            }
            for number in numbers
        ]

    def _faults(self, matcher: AnswerMatcher, numbers: range) -> list[str | None]:
        """Causes for which problems are not sampled, for instance a true answer that does not match itself."""
        answers = [self.problems[number]["answer"] for number in numbers]
        outcomes = iter(matcher((answer, answer) for answer in answers if answer is not None))
        faults = [MISSING if answer is None else next(outcomes) for answer in answers]
        faults = [REPEATED if number in self._repeated else f for number, f in zip(numbers, faults, strict=True)]
        return [None if fault == CORRECT else fault for fault in faults]

    def _outcomes(self, matcher: AnswerMatcher, answered: Sequence[tuple[str, Sequence[Sample]]]) -> list[list[str]]:
        """Outcomes of the samples of each problem; all samples with a box are matched in one call."""
        read = [[(true, *_read_answer(sample)) for sample in samples] for true, samples in answered]
        matched = iter(
            matcher((true, answer) for answers in read for true, answer, fault in answers if answer and not fault)
        )
        return [[fault or next(matched) for *_, fault in answers] for answers in read]


def _read_answer(sample: Sample) -> tuple[str | None, str | None]:
    """The last boxed answer of a sample, and the cause if it cannot be matched."""
    answer = boxed_answer(_answer(sample.text))
    if sample.truncated:
        return answer, TRUNCATED
    if not sample.text.strip():
        return answer, EMPTY
    return answer, MISSING if answer is None else None


def verified_rows(
    query: str,
    responses: Sequence[str],
    outcomes: Sequence[str],
    num_responses: int = 2,
    max_rows: int = 1,
    max_single_rows: int = 1,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Preference rows of a problem with correct and incorrect answers; other problems give none.

    Rows of several responses have one that is correct and up to `num_responses - 1` that are incorrect, in a random
    order; no response is in two of them. Rows of a single response have the labels 1 and 0 by turns, so that both are
    as frequent. Responses whose outcome is neither are in no row; equal texts count once; drafts up to `</think>` are
    left out. What is chosen depends on the seed and the query alone.

    Problems that are always or never solved give no single responses, either: the labels would say how good the policy
    is, and a truth that the rule cannot compare makes every answer incorrect. [?]

    Args:
        query (`str`): The problem.
        responses, outcomes (sequences of `str`): The answers, and the outcome of each.
        num_responses (`int`, *optional*, defaults to `2`): n, at most; the paper has pairs. [P]
        max_rows, max_single_rows (`int`, *optional*, default to `1`): Maximum number of rows of each kind. [?]
        seed (`int`, *optional*, defaults to `0`): Seed of choice and order.
    """
    draw = random.Random(derive_seed(seed, "rows", query))
    texts = dict.fromkeys(zip(map(_answer, responses), outcomes, strict=True))
    correct, incorrect = (
        [(text, label) for text, outcome in texts if outcome == side] for side, label in ((CORRECT, 1), (INCORRECT, 0))
    )
    if not correct or not incorrect:
        return
    draw.shuffle(correct)
    draw.shuffle(incorrect)
    others = num_responses - 1
    for number in range(min(max_rows, len(correct), ceil(len(incorrect) / others))):
        row = [correct[number], *incorrect[number * others : (number + 1) * others]]
        draw.shuffle(row)
        yield _row(query, row)
    sides = [correct, incorrect]
    draw.shuffle(sides)
    turns = [single for turn in zip_longest(*sides) for single in turn if single is not None]
    for single in turns[:max_single_rows]:
        yield _row(query, [single])


def _row(query: str, labeled: Sequence[tuple[str, int]]) -> dict[str, Any]:
    return {"query": query, "responses": [text for text, _ in labeled], "labels": [label for _, label in labeled]}


@dataclass(frozen=True)
class VerifiedRows:
    """Preference rows of answered problems, with counts of problems and answers.

    Args:
        rows (`list[dict]`): `query`, `responses`, `labels`; `answer` (the truth, which no judge reads), `level`,
            `type` and `source`.
        report (`dict`): Counts.
    """

    rows: list[dict[str, Any]]
    report: dict[str, Any]

    @classmethod
    def of(cls, answers: Iterable[Mapping[str, Any]], source: str = "math", **kwargs) -> "VerifiedRows":
        """Rows of what [`AnswerCollector`] wrote; `kwargs` are those of [`verified_rows`]."""
        rows: list[dict[str, Any]] = []
        report: dict[str, Counter] = {name: Counter() for name in ("problems", "answers", "solved", "rows")}
        for problem in answers:
            report["answers"].update(problem["outcomes"])
            report["problems"][problem["fault"] or _kind(problem["outcomes"])] += 1
            if problem["fault"] is None:
                report["solved"][f"{problem['outcomes'].count(CORRECT)}/{len(problem['outcomes'])}"] += 1
            columns = {
                "answer": problem["answer"],
                "level": problem["level"],
                "type": problem["type"],
                "source": source,
            }
            for row in verified_rows(problem["query"], problem["responses"], problem["outcomes"], **kwargs):
                n, label = len(row["labels"]), row["labels"][0]
                report["rows"][f"{n} responses" if n > 1 else f"1 response, label {label}"] += 1
                rows.append({**row, **columns})
        verified = cls(rows, {name: dict(sorted(counts.items())) for name, counts in report.items()})
        if not rows:
            logger.warning(
                "Found no problem with a correct and an incorrect answer, and made no row (%s). Sample more answers, "
                "take a policy that solves some problems, or raise the longest completion if most are truncated.",
                verified,
            )
        return verified

    def __str__(self) -> str:
        return "; ".join(f"{name}: {_counts(counts)}" for name, counts in self.report.items())

    def save(self, folder: str | os.PathLike, settings: Mapping[str, Any]) -> None:
        """Writes `train.jsonl`, `report.json` and the card.

        Args:
            folder (`str` or path): Output folder.
            settings (mapping): Settings of the sampling, for the card.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write_lines(folder / ROWS, self.rows)
        write_json(folder / REPORT, self.report)
        self._card(folder.name, settings).save(folder / CARD)

    def _card(self, name: str, settings: Mapping[str, Any]) -> DatasetCard:
        policy = settings["policy"]
        policy = Path(policy).name if os.path.isdir(policy) else policy
        return dataset_card(
            "verified_rows.md",
            DatasetCardData(
                tags=["trl", "spct", "generative-reward-model", "math"],
                configs=[{"config_name": "default", "data_files": ROWS}],
            ),
            name=name,
            policy=policy,
            report=self.report,
            settings=json.dumps({**settings, "policy": policy}, indent=2, ensure_ascii=False),
        )


def push_rows(folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Pushes the rows of [`VerifiedRows.save`] with card and report, without the answers that they were made of.

    Args:
        folder (`str` or path): Folder of the rows.
        repo_id (`str`): The dataset repository, created if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private; by default as the account has it.
        token (`str`, *optional*): Token; by default that of `hf auth login`.

    Returns:
        `str`: address of the commit.

    Raises:
        [`~trl_spct.judge.hub.PushError`]: if it fails, saying how to push again.
    """
    return push_folder(folder, repo_id, "dataset", "Upload verified rows", (ROWS, CARD, REPORT), private, token)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _kind(outcomes: Sequence[str]) -> str:
    """Kind of a problem by the outcomes of its answers."""
    if CORRECT in outcomes:
        return "mixed" if INCORRECT in outcomes else "all_correct"
    return "none_correct" if INCORRECT in outcomes else "none_readable"


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with in_one_step(path) as partial_path, partial_path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _answer(text: str) -> str:
    """The text after a model's thoughts; empty if these were opened and never closed."""
    return (without_thoughts(text) or "").strip()
