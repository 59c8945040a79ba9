# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Preference rows from problems with known answers: a policy's samples, labeled by rule (paper, section 4: pairs, and
single responses with 1 for correct and 0 for incorrect)."""

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from huggingface_hub import DatasetCardData

from .. import __version__
from ..cards import dataset_card
from ..jobs import ShardedJob, in_one_step, rows_digest, write_json
from ..judge.critiques import without_thoughts
from ..judge.hub import push_folder
from ..judge.preferences import InvalidPreference
from ..judge.sampling import TRUNCATED, Sample, Sampler, derive_seed
from .math_answers import CORRECT, INCORRECT, MISSING, boxed_answer, match_answers, math_verify_version


logger = logging.getLogger(__name__)

INSTRUCTION = r"Reason step by step, and put the final answer into \boxed{}."
EMPTY, REPEATED = "empty", "repeated"
ROWS, CARD, REPORT = "train.jsonl", "README.md", "report.json"

_TEXT = Value("string")
_FEATURES = Features(
    {
        **dict.fromkeys(("query", "answer", "level", "type", "fault"), _TEXT),
        "responses": List(_TEXT),
        "outcomes": List(_TEXT),
        "num_tokens": List(Value("int64")),
    }
)


def read_problems(dataset: Dataset, name: str = "problems") -> list[dict[str, str | None]]:
    """`query`, `answer`, `level` and `type` of problems in MATH's schema.

    Args:
        dataset ([`~datasets.Dataset`]):
            With `problem`, and the true answer in `answer` or in the last box of `solution`; optionally with `level`
            and `type`.
        name (`str`, *optional*, defaults to `"problems"`): Name of the dataset in messages.

    Raises:
        [`InvalidPreference`]: if columns are missing, or a problem is not a text.
    """
    columns = set(dataset.column_names)
    if "problem" not in columns or not columns & {"solution", "answer"}:
        raise InvalidPreference(
            f"{name}: found the columns {sorted(columns)}; expected `problem`, and `solution` (with a boxed answer) "
            "or `answer`. Rename the columns.",
            "shape",
        )
    problems = []
    for number, row in enumerate(dataset.with_format(None)):
        query, answer = row["problem"], row.get("answer")
        if not isinstance(query, str) or not query.strip():
            raise InvalidPreference(f"{name} row {number}: Found the problem {query!r:.40}; expected a text.", "query")
        answer = boxed_answer(row.get("solution") or "") if answer is None else str(answer).strip() or None
        tags = {column: None if row.get(column) is None else str(row[column]) for column in ("level", "type")}
        problems.append({"query": query, "answer": answer, **tags})
    return problems


class AnswerCollector:
    r"""Samples answers to problems and matches them with the true answers, shard by shard; a restart resumes.

    Args:
        problems (list): Of [`read_problems`].
        folder (`str` or path): Output folder.
        policy (`str`): The policy in the manifest: a path, an id or a name on a server.
        described (mapping, *optional*): Further identification of the policy, for instance a digest of its weights.
        rows_per_shard (`int`, *optional*, defaults to `64`): Problems per shard.
        num_generations (`int`, *optional*, defaults to `8`): Answers per problem. [?]
        temperature, top_p (`float`, *optional*, default to `1.0`): Sampling options. [?]
        max_completion_length (`int`, *optional*, defaults to `2048`): Longest answer in tokens. [?]
        instruction (`str`, *optional*): Text after the problem in the policy's prompt, but not in the rows. [?]
        seed (`int`, *optional*, defaults to `0`): Seed of the samples.

    Raises:
        `FileExistsError`: if the folder holds the answers of another configuration.
    """

    def __init__(
        self,
        problems: Sequence[Mapping[str, Any]],
        folder: str | os.PathLike,
        policy: str,
        described: Mapping[str, Any] | None = None,
        rows_per_shard: int = 64,
        num_generations: int = 8,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_completion_length: int = 2048,
        instruction: str | None = None,
        seed: int = 0,
    ):
        if num_generations < 1:
            raise ValueError(f"Found num_generations={num_generations}; expected at least 1.")
        if temperature <= 0 and num_generations > 1:
            raise ValueError("Greedy samples are all the same; expected temperature > 0 for num_generations > 1.")
        self.problems = problems
        self.num_generations, self.seed = num_generations, seed
        self.instruction = INSTRUCTION if instruction is None else instruction
        self.options: dict[str, Any] = {
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_completion_length,
        }
        self.settings = {
            "kind": "answers",
            "version": __version__,
            "policy": policy,
            **(described or {}),
            "data": rows_digest((problem["query"], problem["answer"]) for problem in problems),
            "math_verify": math_verify_version(),
            "num_generations": num_generations,
            **self.options,
            "instruction": self.instruction,
            "seed": seed,
        }
        self.job = ShardedJob(folder, len(problems), rows_per_shard, _FEATURES, self.settings)
        self._first = {problem["query"]: number for number, problem in reversed([*enumerate(problems)])}

    def collect(
        self, sampler: Sampler, concurrency: int = 1, process_index: int = 0, num_processes: int = 1
    ) -> Iterator[range]:
        """Writes this process's missing shards, see [`~trl_spct.jobs.ShardedJob.run`]."""
        yield from self.job.run(partial(self._work, sampler), process_index, num_processes, concurrency)

    def read(self) -> Dataset:
        """One row per problem: `query`, `answer`, `level`, `type`; `fault`, why it cannot be used (`"missing"`,
        `"unparsable"`, `"timeout"`, `"error"`, `"repeated"`) or `None`; and of each sampled answer `responses`,
        `outcomes` (also `"truncated"`, `"empty"`) and `num_tokens`."""
        return self.job.read()

    def _work(self, sampler: Sampler, numbers: range) -> list[dict[str, Any]]:
        problems = [self.problems[number] for number in numbers]
        faults = self._faults(numbers)
        sound = [problem["query"] for problem, fault in zip(problems, faults, strict=True) if fault is None]
        drawn = iter(self._sample(sampler, sound) if sound else [])
        samples = [next(drawn) if fault is None else [] for fault in faults]
        read = [[_read_answer(sample) for sample in row] for row in samples]
        pairs = [
            (problem["answer"], answer)
            for problem, answers in zip(problems, read, strict=True)
            for answer, fault in answers
            if fault is None
        ]
        matched = iter(match_answers(pairs))
        return [
            {
                **problem,
                "fault": fault,
                "responses": [sample.text for sample in row],
                "outcomes": [unread or next(matched) for _, unread in answers],
                "num_tokens": [sample.num_tokens for sample in row],
            }
            for problem, fault, row, answers in zip(problems, faults, samples, read, strict=True)
        ]

    def _sample(self, sampler: Sampler, queries: Sequence[str]) -> list[list[Sample]]:
        prompts = [[{"role": "user", "content": f"{query}\n\n{self.instruction}".strip()}] for query in queries]
        drawn = sampler(prompts, self.num_generations, self.seed, **self.options)
        counts = [len(samples) for samples in drawn]
        if counts != [self.num_generations] * len(queries):
            raise ValueError(
                f"The sampler returned {counts} samples for {len(queries)} prompts; expected {self.num_generations} "
                "for each."
            )
        return drawn

    def _faults(self, numbers: range) -> list[str | None]:
        """Causes for which problems are not sampled, for instance a true answer that does not match itself."""
        truths = {number: answer for number in numbers if (answer := self.problems[number]["answer"]) is not None}
        matched = match_answers([(answer, answer) for answer in truths.values()])
        outcomes = dict(zip(truths, matched, strict=True))
        faults = [
            outcomes.get(number, MISSING) if self._first[self.problems[number]["query"]] == number else REPEATED
            for number in numbers
        ]
        return [None if fault == CORRECT else fault for fault in faults]


def _read_answer(sample: Sample) -> tuple[str, str | None]:
    """The last boxed answer of a sample, and the cause if there is none to match."""
    answer = boxed_answer(_answer(sample.text)) or ""
    fault = TRUNCATED if sample.truncated else EMPTY if not sample.text.strip() else None if answer else MISSING
    return answer, fault


def _answer(text: str) -> str:
    """The text after a model's thoughts; empty if these were opened and never closed."""
    return (without_thoughts(text) or "").strip()


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

    Rows of several responses have one that is correct and up to `num_responses - 1` (the paper has pairs [P]) that are
    incorrect, in a random order; no response is in two of them. Rows of a single response have the labels 1 and 0 by
    turns. Responses with another outcome are in no row; equal texts count once; drafts up to `</think>` are left out.
    The choice depends on the seed and the query alone.

    Problems that are always or never solved give no single responses, either: the labels would say how good the policy
    is, and a truth that the rule cannot compare makes every answer incorrect. [?]
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
    rows = []
    for number in range(min(max_rows, len(correct), ceil(len(incorrect) / others))):
        row = [correct[number], *incorrect[number * others : (number + 1) * others]]
        draw.shuffle(row)
        rows.append(row)
    sides = [correct, incorrect]
    draw.shuffle(sides)
    singles = [[single] for turn in zip_longest(*sides) for single in turn if single is not None]
    for row in (*rows, *singles[:max_single_rows]):
        yield {"query": query, "responses": [text for text, _ in row], "labels": [label for _, label in row]}


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
        kinds = {
            (True, True): "mixed",
            (True, False): "all_correct",
            (False, True): "none_correct",
            (False, False): "none_readable",
        }
        rows: list[dict[str, Any]] = []
        report: dict[str, Counter] = {name: Counter() for name in ("problems", "answers", "solved", "rows")}
        for problem in answers:
            outcomes = problem["outcomes"]
            report["answers"].update(outcomes)
            report["problems"][problem["fault"] or kinds[CORRECT in outcomes, INCORRECT in outcomes]] += 1
            if problem["fault"] is None:
                report["solved"][f"{outcomes.count(CORRECT)}/{len(outcomes)}"] += 1
            columns = {**{name: problem[name] for name in ("answer", "level", "type")}, "source": source}
            for row in verified_rows(problem["query"], problem["responses"], outcomes, **kwargs):
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
        counts = {
            name: ", ".join(f"{cause} {n}" for cause, n in counts.items()) for name, counts in self.report.items()
        }
        return "; ".join(f"{name}: {text or 'none'}" for name, text in counts.items())

    def save(self, folder: str | os.PathLike, settings: Mapping[str, Any]) -> None:
        """Writes `train.jsonl`, `report.json` and the card, which holds the `settings` of the sampling."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with in_one_step(folder / ROWS) as partial_path, partial_path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        write_json(folder / REPORT, self.report)
        policy = settings["policy"]
        policy = Path(policy).name if os.path.isdir(policy) else policy
        card = dataset_card(
            "verified_rows.md",
            DatasetCardData(
                tags=["trl", "spct", "generative-reward-model", "math"],
                configs=[{"config_name": "default", "data_files": ROWS}],
            ),
            name=folder.name,
            policy=policy,
            report=self.report,
            settings=json.dumps({**settings, "policy": policy}, indent=2, ensure_ascii=False),
        )
        card.save(folder / CARD)


def push_rows(folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Pushes what [`VerifiedRows.save`] wrote, without the answers, as [`~trl_spct.judge.hub.push_folder`] does."""
    return push_folder(folder, repo_id, "dataset", "Upload verified rows", (ROWS, CARD, REPORT), private, token)
