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

Writes `answers/` (every answer and what the rule says of it), `train.jsonl` (the rows), `report.json` (counts by
cause) and `README.md` (a dataset card). A command that was killed goes on where it stopped when it is given again;
with other options for the rows (`num_responses`, `rows_per_problem`, …) it makes other rows of the same answers.
"""

import argparse
import os
from dataclasses import dataclass, field


@dataclass
class MathRowsArguments:
    r"""
    Arguments for preference rows by rule. The paper gives no numbers for them: all are ours.

    Args:
        output_dir (`str`): Where answers and rows go. A folder with the same run is resumed.
        dataset_name (`str`): Problems in MATH's schema (`problem`, `solution`, `level`, `type`): a Hub id, a folder or
            a file.
        dataset_config (`str`, *optional*), dataset_split (`str`): Which part of it.
        max_problems (`int`, *optional*): Answer a random sample of so many.
        base_url (`str`, *optional*): Address of a vLLM or another OpenAI-compatible server with the policy, whose name
            there is `model_name_or_path`, or may be left out where the server has only one. A key is read from the
            environment variable `OPENAI_API_KEY`.
        tokenizer_name_or_path (`str`, *optional*): Tokenizer of the model on the server, to send token ids.
        dialect (`str`): `"openai"` for servers other than vLLM.
        num_generations (`int`): Answers per problem.
        temperature (`float`), top_p (`float`), max_completion_length (`int`): How the policy samples.
        instruction (`str`, *optional*): Stands behind the problem in the policy's prompt, and not in the rows; asks
            for steps and a boxed answer by default.
        num_responses (`int`): Responses of a row, at most: one correct, the others incorrect. The paper has pairs.
        rows_per_problem (`int`): Such rows per problem, at most; no answer is in two of them.
        single_rows_per_problem (`int`): Rows of a single response, at most, labeled 1 or 0.
        match_timeout (`float`): Seconds of processor time to match one answer.
        num_proc (`int`): Processes that match.
        batch_size (`int`): Answers decoded together, in this process.
        rows_per_shard (`int`): Problems whose answers are written at once; what a kill costs at most.
        concurrent_shards (`int`): Shards that a server works on at once.
        seed (`int`): Of samples, choice and order.
        push_to_hub_id (`str`, *optional*): Dataset repository to push the rows to, with card and report.
        hub_private_repo (`bool`, *optional*): Whether a new repository is private.
    """

    output_dir: str = field(default="outputs/math_rows", metadata={"help": "Where answers and rows go."})
    dataset_name: str = field(
        default="DigitalLearningGmbH/MATH-lighteval", metadata={"help": "Problems in MATH's schema."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the dataset."})
    max_problems: int | None = field(default=None, metadata={"help": "Answer a random sample of so many."})
    base_url: str | None = field(default=None, metadata={"help": "Address of a server with the policy."})
    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "Tokenizer of the served model."})
    dialect: str = field(default="vllm", metadata={"help": "What the server speaks.", "choices": ["vllm", "openai"]})
    num_generations: int = field(default=8, metadata={"help": "Answers per problem."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus sampling."})
    max_completion_length: int = field(default=2048, metadata={"help": "Longest answer in tokens."})
    instruction: str | None = field(
        default=None, metadata={"help": "Stands behind the problem in the policy's prompt."}
    )
    num_responses: int = field(default=2, metadata={"help": "Responses of a row, at most (paper: pairs)."})
    rows_per_problem: int = field(default=1, metadata={"help": "Rows of several responses per problem, at most."})
    single_rows_per_problem: int = field(default=1, metadata={"help": "Rows of one response per problem, at most."})
    match_timeout: float = field(default=10.0, metadata={"help": "Seconds to match one answer."})
    num_proc: int = field(default=1, metadata={"help": "Processes that match."})
    batch_size: int = field(default=64, metadata={"help": "Answers decoded together, in this process."})
    rows_per_shard: int = field(default=64, metadata={"help": "Problems whose answers are written at once."})
    concurrent_shards: int = field(default=2, metadata={"help": "Shards that a server works on at once."})
    seed: int = field(default=0, metadata={"help": "Of samples, choice and order."})
    push_to_hub_id: str | None = field(default=None, metadata={"help": "Dataset repository to push the rows to."})
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Whether a new repository is private."})

    def __post_init__(self):
        if self.num_responses < 2 or self.rows_per_problem < 0 or self.single_rows_per_problem < 0:
            raise ValueError(
                f"Found num_responses={self.num_responses}, rows_per_problem={self.rows_per_problem} and "
                f"single_rows_per_problem={self.single_rows_per_problem}; expected at least 2 responses and no "
                "negative number of rows."
            )


def main(script_args, model_args):
    from accelerate import Accelerator
    from tqdm.auto import tqdm

    from trl_spct.data.loading import push_or_exit
    from trl_spct.data.math_rows import AnswerCollector, AnswerSampling, VerifiedRows, push_rows

    accelerator = Accelerator()
    problems = load_problems(script_args)
    given = {name: getattr(script_args, name) for name in AnswerSampling.__dataclass_fields__}
    sampling = AnswerSampling(**{name: value for name, value in given.items() if value is not None})
    engine = make_engine(script_args, model_args)
    policy, described = describe_policy(engine, model_args)
    with accelerator.main_process_first():
        collector = AnswerCollector(
            problems,
            os.path.join(script_args.output_dir, "answers"),
            sampling,
            policy,
            described,
            script_args.rows_per_shard,
            script_args.match_timeout,
        )
    if collector.job.num_missing:
        sampler = engine or load_policy(script_args, model_args, accelerator)
        concurrency = 1 if engine is None else script_args.concurrent_shards
        shards = collector.collect(
            sampler, script_args.num_proc, concurrency, accelerator.process_index, accelerator.num_processes
        )
        with tqdm(
            total=len(problems), desc="Answering", unit="problem", disable=not accelerator.is_main_process
        ) as bar:
            for rows in shards:
                bar.update(len(rows) * accelerator.num_processes)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    made = VerifiedRows.of(
        collector.read(),
        num_responses=script_args.num_responses,
        max_rows=script_args.rows_per_problem,
        max_single_rows=script_args.single_rows_per_problem,
        seed=script_args.seed,
    )
    made.save(script_args.output_dir, collector.settings)
    accelerator.print(f"{made}. Saved to {os.path.abspath(script_args.output_dir)}")
    if script_args.push_to_hub_id is not None:
        where = (script_args.push_to_hub_id, script_args.hub_private_repo)
        push_or_exit(lambda: push_rows(script_args.output_dir, *where))


def load_problems(script_args: MathRowsArguments) -> list:
    from trl_spct.data.loading import load_named
    from trl_spct.data.math_rows import read_problems

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


def make_engine(script_args: MathRowsArguments, model_args):
    """An engine over a server, or `None` where the policy runs in this process."""
    if script_args.base_url is None:
        if model_args.model_name_or_path is None:
            raise ValueError("Found neither `model_name_or_path` nor `base_url`; expected a policy.")
        return None
    from transformers import AutoTokenizer

    from trl_spct.engines import OpenAIEngine

    name = script_args.tokenizer_name_or_path
    return OpenAIEngine(
        model_args.model_name_or_path,
        script_args.base_url,
        api_key=os.environ.get("OPENAI_API_KEY"),
        tokenizer=AutoTokenizer.from_pretrained(name) if name else None,
        dialect=script_args.dialect,
    )


def describe_policy(engine, model_args) -> tuple[str, dict]:
    """What the policy is called, and what tells its weights from others."""
    if engine is not None:
        return engine.name, {}
    from trl_spct.trainers.loading import saved_weights_digest

    name = model_args.model_name_or_path
    return name, {"revision": model_args.model_revision, "weights": saved_weights_digest(name)}


def load_policy(script_args: MathRowsArguments, model_args, accelerator):
    """The policy as a sampler in this process."""
    from functools import partial
    from types import SimpleNamespace

    from transformers import AutoModelForCausalLM
    from trl import get_quantization_config

    from trl_spct.judge.sampling import sample_critiques
    from trl_spct.trainers.loading import load_tokenizer

    name = model_args.model_name_or_path
    model = AutoModelForCausalLM.from_pretrained(
        name,
        revision=model_args.model_revision,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
        device_map={"": accelerator.device},
    )
    of_the_hub = SimpleNamespace(model_init_kwargs={"revision": model_args.model_revision})
    tokenizer = load_tokenizer(name, model.config, of_the_hub)
    return partial(sample_critiques, model, tokenizer, batch_size=script_args.batch_size)


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    from trl import ModelConfig, TrlParser

    dataclass_types = (MathRowsArguments, ModelConfig)
    if subparsers is not None:
        return subparsers.add_parser("math-rows", help="Preference rows by rule", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
