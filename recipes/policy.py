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
of `recipes/spct.py` as its reward, in a world where the true quality is known (`--judge`, `--output_dir`, `--seeds`).
"""

import os
import sys
from dataclasses import dataclass

from trl import (
    DatasetMixtureConfig,
    GRPOConfig,
    GRPOTrainer,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_dataset,
    get_peft_config,
    get_quantization_config,
)

from trl_spct import AsyncJudgeReward, JudgeReward, OpenAIEngine
from trl_spct.data.loading import dataset_name_of, load_named, set_model_init_kwargs
from trl_spct.scripts import BASE_URL_HELP, DIALECTS, KEY_HELP, TEMPLATE_HELP, TOKENIZER_HELP, helped, wants_embedded


@dataclass
class PolicyScriptArguments(ScriptArguments):
    """Script arguments of RL with a judge as the reward.

    The dataset has a `prompt` column of texts or messages; the judge also reads its columns `reference` and
    `principles` if present.
    """

    judge: str | None = helped(
        None, "Path or Hub id of the judge, or its name on the server; optional if the server has one model."
    )
    judge_base_url: str | None = helped(None, BASE_URL_HELP)
    judge_tokenizer_name_or_path: str | None = helped(None, TOKENIZER_HELP)
    judge_dialect: str = helped("vllm", "API of the server.", DIALECTS)
    judge_api_key: str | None = helped(None, KEY_HELP, repr=False)
    meta_rm: str | None = helped(
        None, "Meta RM that guides the votes. Default: that of the judge's repository; `none` votes without one."
    )
    k: int = helped(4, "Critiques of each group.")
    judge_template: str | None = helped(None, TEMPLATE_HELP)
    judge_max_new_tokens: int | None = helped(None, "Longest critique in tokens. Default: that of the judge.")
    max_responses_per_prompt: int | None = helped(
        None, "Completions judged at once; larger groups are judged in blocks. Default: those that fit."
    )
    truncation: str | None = helped(
        None, "fair cuts texts that do not fit into the judge's context. Default: they have no reward.", ("fair",)
    )


def judge_reward(script_args: PolicyScriptArguments, training_args):
    """The reward function: asynchronous over a server, else with the judge in this process."""
    judge, url = script_args.judge, script_args.judge_base_url
    if judge is None and url is None:
        raise ValueError("Found no `judge`; expected the path or id of one, or the `judge_base_url` of its server.")
    options = {
        "meta_rm": {None: "auto", "none": None}.get(script_args.meta_rm, script_args.meta_rm),
        "k": script_args.k,
        "seed": training_args.seed,
        "template": script_args.judge_template,
        "max_new_tokens": script_args.judge_max_new_tokens,
        "max_responses_per_prompt": script_args.max_responses_per_prompt,
        "truncation": script_args.truncation,
    }
    if url is None:
        return JudgeReward(judge, **options)
    tokenizer, dialect = script_args.judge_tokenizer_name_or_path, script_args.judge_dialect
    return AsyncJudgeReward(OpenAIEngine(judge, url, script_args.judge_api_key, tokenizer, dialect=dialect), **options)


def load_prompts(script_args, dataset_args):
    """A dataset with a `prompt` column: a mixture, a Hub id, a folder or a file."""
    if dataset_args.datasets:
        dataset = get_dataset(dataset_args)
    elif script_args.dataset_name:
        dataset = load_named(script_args.dataset_name, script_args.dataset_config)
    else:
        raise ValueError("Either `datasets` or `dataset_name` must be provided.")
    columns = dataset[script_args.dataset_train_split].column_names
    if "prompt" not in columns:
        raise ValueError(f"Found the columns {columns}; expected `prompt`, of texts or messages: rename the column.")
    return dataset


def main(script_args, training_args, model_args, dataset_args):
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


def make_parser():
    return TrlParser((PolicyScriptArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig))


if __name__ == "__main__":
    if wants_embedded(sys.argv[1:]):
        from tiny.policy import make_parser as make_tiny_parser
        from tiny.policy import run

        run(**vars(make_tiny_parser().parse_args()))
    else:
        main(*make_parser().parse_args_and_config())
