# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Stage 1: rejective fine-tuning of a judge.

accelerate launch recipes/rft.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --output_dir judge-rft

`--config file.yaml` sets any option; the command line has precedence. `--dataset_name` is a Hub id, a folder or a
file; mixtures stand under `datasets:`.

A dataset with a column `critiques` brings its own, which a stronger judge wrote: see recipes/README.md. Otherwise they
are sampled from the model itself; from another one with `--sampler_name_or_path`; or from one on a
server, here of `vllm serve Qwen/Qwen3-8B`:

    --sampler_base_url http://localhost:8000 --sampler_tokenizer_name_or_path Qwen/Qwen3-8B

Two jobs instead of one: `--collect_only`, then the same command with `--trajectories judge-rft/trajectories` in place
of the dataset. Rounds: the same command with `--model_name_or_path judge-rft --output_dir judge-rft-2 --seed 43`. The
same command resumes a killed run.
"""

from dataclasses import dataclass
from pathlib import Path

from datasets import concatenate_datasets
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_spct import OpenAIEngine, RejectiveSampler, RejectiveSamplerConfig
from trl_spct.data.loading import (
    dataset_name_of,
    exit_on_push_errors,
    find_templates,
    finish,
    load_named,
    load_preferences,
    set_model_init_kwargs,
    with_same_columns,
)
from trl_spct.scripts import BASE_URL_HELP, DIALECTS, KEY_HELP, TOKENIZER_HELP, helped


@dataclass
class RFTScriptArguments(ScriptArguments):
    """Script arguments for rejective fine-tuning."""

    prompt_column: str | None = helped(None, "Column with the query, if it is not query, prompt or messages.")
    trajectories: list[str] | None = helped(
        None, "Trajectories of earlier runs to fine-tune on, in place of the dataset."
    )
    eval_trajectories: list[str] | None = helped(
        None, "Trajectories of held-out rows, whose kept critiques give the evaluation loss."
    )
    general_dataset_name: list[str] | None = helped(
        None, "Instruction data to mix in: Hub ids, folders or files with messages, or with prompt and completion."
    )
    sampler_name_or_path: str | None = helped(
        None, "A stronger judge that samples, or its name on the server. Default: the trained model itself."
    )
    sampler_base_url: str | None = helped(None, BASE_URL_HELP)
    sampler_tokenizer_name_or_path: str | None = helped(None, TOKENIZER_HELP)
    sampler_dialect: str = helped("vllm", "API of the server.", DIALECTS)
    sampler_api_key: str | None = helped(None, KEY_HELP, repr=False)
    collect_only: bool = helped(False, "Sample and reject without training.")


def main(script_args, training_args, model_args, dataset_args):
    set_model_init_kwargs(training_args, model_args)
    find_templates(training_args, Path(__file__).parent)
    split = script_args.dataset_train_split
    if script_args.trajectories:
        dataset = load_trajectories(script_args.trajectories)
    else:
        options = (training_args.source, training_args.invalid_rows, training_args.seed, [split])
        dataset = load_preferences(script_args, dataset_args, *options, script_args.prompt_column)[split]
    trainer = RejectiveSampler(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset,
        eval_dataset=load_trajectories(script_args.eval_trajectories) if script_args.eval_trajectories else None,
        sampler=make_sampler(script_args),
        general_dataset=[load_named(name)["train"] for name in script_args.general_dataset_name or ()] or None,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    if script_args.collect_only:
        trainer.collect()
        exit_on_push_errors(trainer.push_errors)
        return
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    finish(trainer, None if script_args.trajectories else dataset_name_of(script_args, dataset_args))


def load_trajectories(names: list[str]):
    """Concatenates trajectories of several runs, with their common columns; the rows of each run are others."""
    parts, first = [], 0
    for part in (load_named(name)["train"] for name in names):
        if "row" in part.column_names and len(part):
            numbers = [first + number for number in part["row"]]
            part, first = part.remove_columns("row").add_column("row", numbers), max(numbers) + 1
        parts.append(part)
    return concatenate_datasets(with_same_columns(parts))


def make_sampler(script_args: RFTScriptArguments):
    """A path, an engine over a server, or `None` for the trained model."""
    name, url = script_args.sampler_name_or_path, script_args.sampler_base_url
    if url is None:
        return name
    tokenizer, dialect = script_args.sampler_tokenizer_name_or_path, script_args.sampler_dialect
    return OpenAIEngine(name, url, script_args.sampler_api_key, tokenizer, dialect=dialect)


def make_parser():
    return TrlParser((RFTScriptArguments, RejectiveSamplerConfig, ModelConfig, DatasetMixtureConfig))


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
