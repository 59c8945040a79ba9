# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
GRPO of a policy with a judge as its reward: each group of completions is one judgment.

accelerate launch recipes/policy.py \
    --model_name_or_path Qwen/Qwen3-0.6B \
    --judge judge-spct \
    --dataset_name trl-lib/ultrafeedback-prompt \
    --output_dir policy

Without a model and a configuration, or with `--tiny`, it runs the embedded example: a tiny policy with the tiny judge
of `recipes/spct.py` as its reward, in a world that knows what is true (`--judge`, `--output_dir`, `--seeds`).
"""

import argparse
import os
import sys
from dataclasses import dataclass, field

from trl import ScriptArguments


@dataclass
class PolicyScriptArguments(ScriptArguments):
    """
    Script arguments of RL with a judge as the reward. The dataset has a `prompt` column, of texts or messages; the
    judge reads its columns `reference` and `principles` where there are such.

    Args:
        judge (`str`, *optional*):
            Path or id of the judge. With `judge_base_url` its name on the server, which may be left out where the
            server has only one.
        judge_base_url (`str`, *optional*):
            Address of a vLLM server, or of another OpenAI-compatible one, that the judge runs on. If it wants a key,
            this is read from the environment variable `OPENAI_API_KEY`.
        judge_tokenizer_name_or_path (`str`, *optional*):
            Tokenizer of the judge on the server. With it prompts are sent as token ids, hostile text stays text, and
            groups that do not fit are judged in blocks; give it wherever the server takes token ids, as vLLM does.
        judge_dialect (`str`, *optional*, defaults to `"vllm"`):
            `"openai"` for servers other than vLLM.
        meta_rm (`str`, *optional*):
            A Meta RM that guides the judge's votes. Defaults to the one that the judge's repository carries; `"none"`
            takes none.
        k (`int`, *optional*, defaults to `4`):
            Critiques of each group.
        principles (`str`, *optional*, defaults to `"own"`):
            `"own"`, or `"query"`: written for each query once and kept, see [`JudgeReward`].
        principles_file (`str`, *optional*):
            Where principles of `"query"` are kept over restarts. Defaults to `principles.sqlite` in the output folder.
        reward_scale (`str`, *optional*, defaults to `"raw"`):
            `"raw"`, `"centered"` or `"rank"`, see [`JudgeReward`].
        judge_template (`str`, *optional*):
            The judge's prompt template. Defaults to the one that its config names.
        judge_max_new_tokens (`int`, *optional*):
            Longest critique, in tokens. Defaults to the judge's own.
        max_responses_per_prompt (`int`, *optional*):
            Completions that the judge reads at once; larger groups are judged in blocks. By default as many as fit.
        truncation (`str`, *optional*):
            `"fair"` cuts what does not fit into the judge's context; by default it has no reward.
    """

    judge: str | None = field(default=None, metadata={"help": "Path or id of the judge, or its name on the server."})
    judge_base_url: str | None = field(
        default=None,
        metadata={"help": "Address of a vLLM or another OpenAI-compatible server with the judge."},
    )
    judge_tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer of the judge on the server, to send token ids."}
    )
    judge_dialect: str = field(
        default="vllm", metadata={"help": "What the server speaks.", "choices": ["vllm", "openai"]}
    )
    meta_rm: str | None = field(default=None, metadata={"help": "Meta RM that guides the votes; `none` takes none."})
    k: int = field(default=4, metadata={"help": "Critiques of each group."})
    principles: str = field(
        default="own",
        metadata={"help": "`own`, or `query`: written once per query and kept.", "choices": ["own", "query"]},
    )
    principles_file: str | None = field(default=None, metadata={"help": "Where principles of `query` are kept."})
    reward_scale: str = field(
        default="raw", metadata={"help": "`raw`, `centered` or `rank`.", "choices": ["raw", "centered", "rank"]}
    )
    judge_template: str | None = field(default=None, metadata={"help": "The judge's prompt template."})
    judge_max_new_tokens: int | None = field(default=None, metadata={"help": "Longest critique, in tokens."})
    max_responses_per_prompt: int | None = field(default=None, metadata={"help": "Completions judged at once."})
    truncation: str | None = field(
        default=None, metadata={"help": "`fair` cuts what does not fit.", "choices": ["fair"]}
    )


def judge_reward(script_args: PolicyScriptArguments, training_args):
    """The reward function: over a server an asynchronous one, else with the judge in this process."""
    from trl_spct import AsyncJudgeReward, JudgeReward

    if script_args.judge is None and script_args.judge_base_url is None:
        raise ValueError("Found no `judge`; expected the path or id of one, or the `judge_base_url` of its server.")
    file = script_args.principles_file
    if script_args.principles == "query" and file is None:
        file = os.path.join(training_args.output_dir, "principles.sqlite")
    options = {
        "meta_rm": {None: "auto", "none": None}.get(script_args.meta_rm, script_args.meta_rm),
        "k": script_args.k,
        "principles": script_args.principles,
        "principles_file": file,
        "scale": script_args.reward_scale,
        "seed": training_args.seed,
        "template": script_args.judge_template,
        "max_new_tokens": script_args.judge_max_new_tokens,
        "max_responses_per_prompt": script_args.max_responses_per_prompt,
        "truncation": script_args.truncation,
    }
    if script_args.judge_base_url is None:
        return JudgeReward(script_args.judge, **options)
    return AsyncJudgeReward(make_engine(script_args), **options)


def make_engine(script_args: PolicyScriptArguments):
    from transformers import AutoTokenizer

    from trl_spct import OpenAIEngine

    name = script_args.judge_tokenizer_name_or_path
    return OpenAIEngine(
        script_args.judge,
        script_args.judge_base_url,
        api_key=os.environ.get("OPENAI_API_KEY"),
        tokenizer=AutoTokenizer.from_pretrained(name) if name else None,
        dialect=script_args.judge_dialect,
    )


def load_prompts(script_args, dataset_args):
    """A dataset with a `prompt` column, from wherever TRL or this package reads one."""
    from trl import get_dataset

    from trl_spct.data.loading import load_named

    if not dataset_args.datasets and not script_args.dataset_name:
        raise ValueError("Either `datasets` or `dataset_name` must be provided.")
    dataset = (
        get_dataset(dataset_args)
        if dataset_args.datasets
        else load_named(script_args.dataset_name, script_args.dataset_config)
    )
    columns = dataset[script_args.dataset_train_split].column_names
    if "prompt" not in columns:
        raise ValueError(
            f"Found the columns {columns}; expected `prompt`, of texts or messages. Rename the column that holds what "
            "the policy is asked."
        )
    return dataset


def main(script_args, training_args, model_args, dataset_args):
    from trl import GRPOTrainer, get_peft_config, get_quantization_config

    from trl_spct.data.loading import dataset_name_of, set_model_init_kwargs

    set_model_init_kwargs(training_args, model_args)
    dataset = load_prompts(script_args, dataset_args)
    evaluates = training_args.eval_strategy != "no"
    trainer = GRPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=judge_reward(script_args, training_args),
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if evaluates else None,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    name = dataset_name_of(script_args, dataset_args)
    trainer.save_model(training_args.output_dir)
    trainer.create_model_card(dataset_name=name)
    trainer.accelerator.print(f"Saved to {os.path.abspath(training_args.output_dir)}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=name)
        trainer.accelerator.print(f"Pushed to https://huggingface.co/{trainer.hub_model_id}")
    trainer.end()


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    from trl import DatasetMixtureConfig, GRPOConfig, ModelConfig, TrlParser

    dataclass_types = (PolicyScriptArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("policy", help="RL with a judge as reward", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


def wants_embedded_example(arguments: list[str]) -> bool:
    """Neither a model nor a configuration is named and no help is asked for, or the example is named."""
    named = {argument.split("=")[0].replace("_", "-") for argument in arguments}
    return "--tiny" in named or not named & {"--model-name-or-path", "--model", "--config", "--help", "-h"}


if __name__ == "__main__":
    if wants_embedded_example(sys.argv[1:]):
        from tiny.policy import make_parser as make_tiny_parser
        from tiny.policy import run

        options = vars(make_tiny_parser().parse_args())
        options.pop("tiny")
        run(**options)
    else:
        main(*make_parser().parse_args_and_config())
