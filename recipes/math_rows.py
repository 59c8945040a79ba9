# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct[math]"]
# ///
r"""
Preference rows by rule: a policy answers the problems of MATH, `math-verify` matches each answer to the truth, and
correct and incorrect answers become pairs and single responses (paper, section 4).

accelerate launch recipes/math_rows.py \
    --model_name_or_path Qwen/Qwen3-0.6B \
    --output_dir outputs/math_rows

The policy may be on a server, here of `vllm serve Qwen/Qwen3-8B`:

    --base_url http://localhost:8000 --tokenizer_name_or_path Qwen/Qwen3-8B

Writes `answers/` (every answer and its match), `train.jsonl` (the rows) and `report.json` (counts by cause). The same
command resumes a killed run; with another `num_responses` or `rows_per_problem` it makes other rows of the same
answers. The rule ignores units and the base of a number, and takes 10 % for 10.
"""

import json
import logging
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm
from trl import ModelConfig
from trl.import_utils import is_math_verify_available

from trl_spct import OpenAIEngine, __version__
from trl_spct.data.loading import load_rows, push_or_exit
from trl_spct.jobs import ShardedJob, in_one_step, rows_digest, write_json
from trl_spct.judge.critiques import without_thoughts
from trl_spct.judge.hub import push_folder
from trl_spct.judge.sampling import TRUNCATED, Sample, Sampler, derive_seed, sample_critiques
from trl_spct.scripts import BASE_URL_HELP, DIALECTS, KEY_HELP, TOKENIZER_HELP, helped, inference_parser, load_pipeline
from trl_spct.trainers.loading import saved_weights_digest

logger = logging.getLogger(__name__)

CORRECT, INCORRECT = "correct", "incorrect"
ROWS, REPORT = "train.jsonl", "report.json"

_TEXT = Value("string")
_PROBLEM = Features(dict.fromkeys(("query", "answer", "level", "type", "fault"), _TEXT))
_ANSWERS = Features({**_PROBLEM, "responses": List(_TEXT), "outcomes": List(_TEXT)})
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t\r\n]*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"[^\s${}]+")
_PERIOD = re.compile(r"(?<=[0-9}\])])\.$")


@dataclass
class MathRowsArguments:
    """Arguments for preference rows by rule. Their values are not in the paper."""

    output_dir: str = helped("outputs/math_rows", "Output folder. A folder with the same run is resumed.")
    dataset_name: str = helped(
        "DigitalLearningGmbH/MATH-lighteval",
        "Problems in MATH's schema (problem; solution or answer; level, type): a Hub id, a folder or a file.",
    )
    dataset_config: str | None = helped(None, "Configuration of the dataset.")
    dataset_split: str = helped("train", "Split of the dataset.")
    max_problems: int | None = helped(None, "Size of a random sample of the problems.")
    base_url: str | None = helped(None, BASE_URL_HELP)
    tokenizer_name_or_path: str | None = helped(None, TOKENIZER_HELP)
    dialect: str = helped("vllm", "API of the server.", DIALECTS)
    api_key: str | None = helped(None, KEY_HELP, repr=False)
    num_generations: int = helped(8, "Answers per problem.")
    temperature: float = helped(1.0, "Sampling temperature of the policy.")
    top_p: float = helped(1.0, "Nucleus sampling of the policy.")
    max_completion_length: int = helped(2048, "Longest answer in tokens.")
    instruction: str = helped(
        r"Reason step by step, and put the final answer into \boxed{}.",
        "Text after the problem in the policy's prompt, but not in the rows.",
    )
    num_responses: int = helped(2, "Largest number of responses of a row: one correct, the others not (paper: pairs).")
    rows_per_problem: int = helped(1, "Largest number of these rows per problem, and of rows of a single response.")
    batch_size: int = helped(64, "Answers decoded together in this process.")
    rows_per_shard: int = helped(64, "Problems whose answers are written at once.")
    seed: int = helped(0, "Seed of samples, choices and order.")
    push_to_hub_id: str | None = helped(None, "Dataset repository to push the rows and the report to.")
    hub_private_repo: bool | None = helped(None, "Whether a new repository is private.")

    def __post_init__(self):
        if self.num_responses < 2 or self.rows_per_problem < 1 or self.num_generations < 1:
            raise ValueError(
                f"Found num_responses={self.num_responses}, rows_per_problem={self.rows_per_problem} and "
                f"num_generations={self.num_generations}; expected at least 2 responses, 1 row and 1 answer."
            )
        if self.temperature <= 0 and self.num_generations > 1:
            raise ValueError("Greedy samples are all the same; expected temperature > 0 for num_generations > 1.")


def main(script_args, model_args):
    if not is_math_verify_available():
        raise ImportError("Answers are matched by `math-verify`. Install it: `pip install trl-spct[math]`.")
    accelerator = Accelerator()
    problems = load_problems(script_args)
    engine, policy = find_policy(script_args, model_args)
    names = ("num_generations", "temperature", "top_p", "instruction", "seed")
    sampling = {name: getattr(script_args, name) for name in names}
    sampling["max_new_tokens"] = script_args.max_completion_length
    data = rows_digest((problem["query"], problem["answer"]) for problem in problems)
    versions = {"version": __version__, "math_verify": version("math-verify")}
    settings = {"kind": "answers", **versions, **policy, "data": data, **sampling}
    folder = Path(script_args.output_dir)
    with accelerator.main_process_first():
        job = ShardedJob(folder / "answers", len(problems), script_args.rows_per_shard, _ANSWERS, settings)
    if job.num_missing:
        sampler = engine or load_policy(script_args, model_args, accelerator.device)
        shards = job.run(
            lambda numbers: answer_problems(problems.select(numbers), sampler, **sampling),
            accelerator.process_index,
            accelerator.num_processes,
        )
        total = len(job.shards[accelerator.process_index :: accelerator.num_processes])
        for _ in tqdm(shards, "Answering", total, unit="shard", disable=not accelerator.is_main_process):
            pass
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    report = write_rows(job.read(), folder, script_args)
    accelerator.print(f"{json.dumps(report)}\nSaved to {folder.absolute()}")
    if (repo_id := script_args.push_to_hub_id) is not None:
        options = ("dataset", "Upload verified rows", (ROWS, REPORT), script_args.hub_private_repo)
        push_or_exit(lambda: push_folder(folder, repo_id, *options))


def load_problems(script_args: MathRowsArguments) -> Dataset:
    """`query`, `answer`, `level` and `type` of problems in MATH's schema, and the `fault` of repeated ones."""
    name, split = script_args.dataset_name, script_args.dataset_split
    problems: list[dict[str, str | None]] = []
    for number, row in enumerate(load_rows(name, script_args.dataset_config, [split])[split]):
        query, answer = row.get("problem"), row.get("answer")
        if not isinstance(query, str) or not query.strip() or not row.keys() & {"solution", "answer"}:
            raise ValueError(
                f"{name} row {number}: found the problem {query!r:.40} among the columns {sorted(row)}; expected a "
                "text in `problem`, and `solution` (with a boxed answer) or `answer`. Rename the columns."
            )
        answer = boxed_answer(row.get("solution") or "") if answer is None else str(answer).strip() or None
        tags = {column: None if row.get(column) is None else str(row[column]) for column in ("level", "type")}
        problems.append({"query": query, "answer": answer, **tags})
    dataset = Dataset.from_list(problems)
    if script_args.max_problems is not None:
        dataset = dataset.shuffle(seed=script_args.seed).take(min(len(dataset), script_args.max_problems))
    first = {query: number for number, query in reversed([*enumerate(dataset["query"])])}
    faults = [None if first[query] == number else "repeated" for number, query in enumerate(dataset["query"])]
    return dataset.add_column("fault", faults).cast(_PROBLEM)


def find_policy(script_args: MathRowsArguments, model_args) -> tuple[OpenAIEngine | None, dict[str, Any]]:
    """An engine over a server, or `None` for a policy in this process; the policy's name, revision and weights."""
    name, url = model_args.model_name_or_path, script_args.base_url
    if url is not None:
        tokenizer, dialect = script_args.tokenizer_name_or_path, script_args.dialect
        engine = OpenAIEngine(name, url, script_args.api_key, tokenizer, dialect=dialect)
        return engine, {"policy": engine.name}
    if name is None:
        raise ValueError("Found neither `model_name_or_path` nor `base_url`; expected a policy.")
    revision = model_args.model_revision
    return None, {"policy": name, "revision": revision, "weights": saved_weights_digest(name)}


def load_policy(script_args: MathRowsArguments, model_args, device) -> Sampler:
    """The policy as a sampler in this process."""
    policy = load_pipeline(model_args.model_name_or_path, model_args, device, revision=model_args.model_revision)
    return partial(sample_critiques, policy.model, policy.tokenizer, batch_size=script_args.batch_size)


def answer_problems(
    problems: Dataset, sampler: Sampler, instruction: str, num_generations: int, seed: int, **options: Any
) -> list[dict[str, Any]]:
    """Samples answers to the problems whose truth matches itself, and the outcome of each."""
    faults = [problem["fault"] or truth_fault(problem["answer"]) for problem in problems]
    prompts = [
        [{"role": "user", "content": f"{problem['query']}\n\n{instruction}".strip()}]
        for problem, fault in zip(problems, faults, strict=True)
        if fault is None
    ]
    drawn = iter(sampler(prompts, num_generations, seed, **options) if prompts else ())
    records = []
    for problem, fault in zip(problems, faults, strict=True):
        samples = next(drawn) if fault is None else []
        outcomes = [outcome_of(sample, problem["answer"]) for sample in samples]
        responses = [sample.text for sample in samples]
        records.append({**problem, "fault": fault, "responses": responses, "outcomes": outcomes})
    return records


def truth_fault(truth: str | None) -> str | None:
    outcome = "missing" if truth is None else match_answers(truth, truth)
    return None if outcome == CORRECT else outcome


def outcome_of(sample: Sample, truth: str) -> str:
    """`"correct"` or `"incorrect"`, or why the answer is unreadable: it is in no row then."""
    if sample.truncated:
        return TRUNCATED
    if not sample.text.strip():
        return "empty"
    answer = boxed_answer(without_thoughts(sample.text, sample.prefilled) or "")
    return "missing" if answer is None else match_answers(truth, answer)


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` or `\fbox{…}`, with matched braces; `5` for `\boxed 5`.

    `None` if there is no box, or if the last one, which holds the answer in MATH, does not close or is empty.
    """
    boxes = [*_BOX.finditer(text)]
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        word = _UNBRACED.match(text, start)
        return word[0].rstrip(".,") or None if word else None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return _PERIOD.sub("", text[start + 1 : brace.start()].strip()) or None
    return None


@contextmanager
def cpu_limit(seconds: float, again: float = 1.0) -> Iterator[None]:
    """Raises `TimeoutException` in the main thread behind `seconds` of CPU time, and `again` until the block ends.

    `math-verify` raises its own once, and Python drops an exception that is raised in a finalizer.
    """
    from math_verify.errors import TimeoutException

    def stop(*_):
        raise TimeoutException

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, again)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def match_answers(truth: str, answer: str, timeout: int = 5) -> str:
    """Compares two answers, LaTeX without the box, with `math-verify`, whose time limit needs the main thread.

    Returns `"correct"`, `"incorrect"`, or why neither is known: `"unparsable"` (one of the two is no mathematics),
    `"timeout"` (`timeout` seconds for each of three steps) or `"error"`.
    """
    from math_verify import LatexExtractionConfig, parse, verify
    from math_verify.errors import TimeoutException

    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    limits = {"parsing_timeout": timeout, "raise_on_error": True}
    try:
        with cpu_limit(4 * timeout):
            known, other = (parse(rf"\boxed{{{text}}}", [config], **limits) for text in (truth, answer))
            if len(known) != 2 or len(other) != 2:
                return "unparsable"
            same = known[1] == other[1] or verify(known[0], other[0], timeout_seconds=timeout, raise_on_error=True)
    except TimeoutException:
        return "timeout"
    except Exception:  # of computer algebra on any text
        return "error"
    return CORRECT if same else INCORRECT


def verified_rows(
    query: str,
    responses: Sequence[str],
    outcomes: Sequence[str],
    num_responses: int = 2,
    max_rows: int = 1,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Preference rows of a problem with correct and incorrect answers; other problems give none.

    Up to `max_rows` rows have a correct response and up to `num_responses - 1` incorrect ones, in a random order, and
    share none. As many rows of a single response have the labels 1 and 0 by turns. Equal texts count once, and drafts
    are left out. The choice depends on the seed and the query alone.
    """
    draw = random.Random(derive_seed(seed, "rows", query))
    answers = ((without_thoughts(response) or "").strip() for response in responses)
    texts = dict.fromkeys(zip(answers, outcomes, strict=True))
    correct = [(text, 1) for text, outcome in texts if outcome == CORRECT]
    incorrect = [(text, 0) for text, outcome in texts if outcome == INCORRECT]
    if not correct or not incorrect:  # a truth that the rule cannot compare makes every answer incorrect
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
    for row in (*rows, *singles[:max_rows]):
        yield {"query": query, "responses": [text for text, _ in row], "labels": [label for _, label in row]}


def write_rows(answers: Dataset, folder: Path, script_args: MathRowsArguments) -> dict[str, Mapping[str, int]]:
    """Writes the rows of answered problems, and a report of counts by cause, which is returned."""
    counts: dict[str, Counter] = {"problems": Counter(), "answers": Counter(), "rows": Counter()}
    options = (script_args.num_responses, script_args.rows_per_problem, script_args.seed)
    rows = []
    for problem in answers:
        outcomes = problem["outcomes"]
        sides = [side for side in (CORRECT, INCORRECT) if side in outcomes]
        counts["problems"][problem["fault"] or (" and ".join(sides) or "unreadable")] += 1
        counts["answers"].update(outcomes)
        for row in verified_rows(problem["query"], problem["responses"], outcomes, *options):
            columns = {name: problem[name] for name in ("answer", "level", "type")}
            rows.append({**row, **columns, "source": "math"})
            counts["rows"][f"n={len(row['labels'])}"] += 1
    if not rows:
        logger.warning(
            "Found no problem with a correct and an incorrect answer, and made no row. Sample more answers, take a "
            "policy that solves some problems, or raise the longest completion if most are truncated."
        )
    report = {name: dict(sorted(of.items())) for name, of in counts.items()}
    with in_one_step(folder / ROWS) as partial_path, partial_path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_json(folder / REPORT, report)
    return report


def make_parser():
    return inference_parser(MathRowsArguments, ModelConfig)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
