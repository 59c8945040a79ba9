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

Writes `answers/` (every answer and its match), `train.jsonl` (the rows), `report.json` (counts by cause) and
`README.md` (a dataset card). The same command resumes a killed run; with other options for the rows (`num_responses`,
`rows_per_problem`, …) it makes other rows of the same answers.
"""

import os
from dataclasses import dataclass
from functools import partial

from accelerate import Accelerator
from tqdm.auto import tqdm
from trl import ModelConfig, TrlParser

from trl_spct import OpenAIEngine
from trl_spct.data.loading import load_named, push_or_exit
from trl_spct.data.math_rows import AnswerCollector, VerifiedRows, push_rows, read_problems
from trl_spct.judge.sampling import sample_critiques
from trl_spct.scripts import BASE_URL_HELP, DIALECTS, KEY_HELP, TOKENIZER_HELP, helped, load_pipeline
from trl_spct.trainers.loading import saved_weights_digest


@dataclass
class MathRowsArguments:
    """Arguments for preference rows by rule. Their values are not in the paper."""

    output_dir: str = helped("outputs/math_rows", "Output folder. A folder with the same run is resumed.")
    dataset_name: str = helped(
        "DigitalLearningGmbH/MATH-lighteval",
        "Problems in MATH's schema (problem, solution, level, type): a Hub id, a folder or a file.",
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
    instruction: str | None = helped(
        None,
        "Text after the problem in the policy's prompt, but not in the rows. Default: it asks for steps and a boxed "
        "answer.",
    )
    num_responses: int = helped(2, "Largest number of responses of a row: one correct, the others not (paper: pairs).")
    rows_per_problem: int = helped(1, "Largest number of these rows per problem; they share no answer.")
    single_rows_per_problem: int = helped(1, "Largest number of rows of one response per problem, labeled 1 or 0.")
    batch_size: int = helped(64, "Answers decoded together in this process.")
    rows_per_shard: int = helped(64, "Problems whose answers are written at once.")
    concurrent_shards: int = helped(2, "Shards that a server works on at once.")
    seed: int = helped(0, "Seed of samples, choices and order.")
    push_to_hub_id: str | None = helped(None, "Dataset repository to push the rows to, with card and report.")
    hub_private_repo: bool | None = helped(None, "Whether a new repository is private.")

    def __post_init__(self):
        if self.num_responses < 2 or self.rows_per_problem < 0 or self.single_rows_per_problem < 0:
            raise ValueError(
                f"Found num_responses={self.num_responses}, rows_per_problem={self.rows_per_problem} and "
                f"single_rows_per_problem={self.single_rows_per_problem}; expected at least 2 responses and no "
                "negative number of rows."
            )


def main(script_args, model_args):
    accelerator = Accelerator()
    problems = load_problems(script_args)
    names = ("num_generations", "temperature", "top_p", "max_completion_length", "instruction", "seed")
    sampling = {name: getattr(script_args, name) for name in names}
    engine, policy, described = find_policy(script_args, model_args)
    with accelerator.main_process_first():
        collector = AnswerCollector(
            problems,
            os.path.join(script_args.output_dir, "answers"),
            policy,
            described,
            script_args.rows_per_shard,
            **sampling,
        )
    if collector.job.num_missing:
        sampler = engine or load_policy(script_args, model_args, accelerator.device)
        concurrency = 1 if engine is None else script_args.concurrent_shards
        shards = collector.collect(sampler, concurrency, accelerator.process_index, accelerator.num_processes)
        with tqdm(
            total=len(problems), desc="Answering", unit="problem", disable=not accelerator.is_main_process
        ) as bar:
            for numbers in shards:
                bar.update(len(numbers) * accelerator.num_processes)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    rows = VerifiedRows.of(
        collector.read(),
        num_responses=script_args.num_responses,
        max_rows=script_args.rows_per_problem,
        max_single_rows=script_args.single_rows_per_problem,
        seed=script_args.seed,
    )
    rows.save(script_args.output_dir, collector.settings)
    accelerator.print(f"{rows}. Saved to {os.path.abspath(script_args.output_dir)}")
    if script_args.push_to_hub_id is not None:
        where = (script_args.push_to_hub_id, script_args.hub_private_repo)
        push_or_exit(lambda: push_rows(script_args.output_dir, *where))


def load_problems(script_args: MathRowsArguments) -> list:
    loaded = load_named(script_args.dataset_name, script_args.dataset_config)
    if script_args.dataset_split not in loaded:
        raise ValueError(
            f"{script_args.dataset_name} has the splits {sorted(loaded)}; expected {script_args.dataset_split!r} "
            "among them. `dataset_split` names it."
        )
    dataset = loaded[script_args.dataset_split]
    if script_args.max_problems is not None:
        dataset = dataset.shuffle(seed=script_args.seed).select(range(min(len(dataset), script_args.max_problems)))
    return read_problems(dataset, script_args.dataset_name)


def find_policy(script_args: MathRowsArguments, model_args):
    """An engine over a server, or `None` for a policy in this process; the policy's name, revision and weights."""
    name, url = model_args.model_name_or_path, script_args.base_url
    if url is not None:
        tokenizer, dialect = script_args.tokenizer_name_or_path, script_args.dialect
        engine = OpenAIEngine(name, url, script_args.api_key, tokenizer, dialect=dialect)
        return engine, engine.name, {}
    if name is None:
        raise ValueError("Found neither `model_name_or_path` nor `base_url`; expected a policy.")
    return None, name, {"revision": model_args.model_revision, "weights": saved_weights_digest(name)}


def load_policy(script_args: MathRowsArguments, model_args, device):
    """The policy as a sampler in this process."""
    policy = load_pipeline(model_args.model_name_or_path, model_args, device, revision=model_args.model_revision)
    return partial(sample_critiques, policy.model, policy.tokenizer, batch_size=script_args.batch_size)


def make_parser():
    return TrlParser((MathRowsArguments, ModelConfig))


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
