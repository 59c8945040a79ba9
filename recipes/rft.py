# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Stage 1: rejective fine-tuning of a judge.

accelerate launch recipes/rft.py \
    --model_name_or_path Qwen/Qwen3-0.6B \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --output_dir judge-rft

`--config file.yaml` sets any of these; the command line wins. `--dataset_name` is a Hub id, a folder or a file;
mixtures go under `datasets:`.

Who samples: the model itself; another one with `--sampler_name_or_path`; or one on a server, here of
`vllm serve Qwen/Qwen3-8B`:

    --sampler_base_url http://localhost:8000 --sampler_tokenizer_name_or_path Qwen/Qwen3-8B

Two jobs instead of one: `--collect_only`, then the same command with `--trajectories judge-rft/trajectories` in place
of the dataset. Rounds: the same command with `--model_name_or_path judge-rft --output_dir judge-rft-2 --seed 43`. A
command that was killed goes on where it stopped when it is given again.
"""

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path

from trl import ScriptArguments


@dataclass
class RFTScriptArguments(ScriptArguments):
    """
    Script arguments for rejective fine-tuning.

    Args:
        trajectories (`list[str]`, *optional*):
            Trajectories to fine-tune on, from one or more earlier runs, in place of the dataset.
        eval_trajectories (`list[str]`, *optional*):
            Trajectories of held-out rows, whose kept ones give the evaluation loss.
        general_dataset_name (`list[str]`, *optional*):
            Instruction data to mix in: Hub ids, folders or files with `messages`, or `prompt` and `completion`.
        sampler_name_or_path (`str`, *optional*):
            A stronger judge that samples the trajectories; the trained model itself by default. With
            `sampler_base_url` its name on the server, which may be left out where the server has only one.
        sampler_base_url (`str`, *optional*):
            Address of a vLLM server, or of another OpenAI-compatible one, that samples. If it wants a key, this is
            read from the environment variable `OPENAI_API_KEY`.
        sampler_tokenizer_name_or_path (`str`, *optional*):
            Tokenizer of the model on the server. With it prompts are sent as token ids and hostile text stays text;
            give it wherever the server takes token ids, as vLLM does.
        sampler_dialect (`str`, *optional*, defaults to `"vllm"`):
            `"openai"` for servers other than vLLM.
        collect_only (`bool`, *optional*, defaults to `False`):
            Sample and reject, and do not train.
    """

    trajectories: list[str] | None = field(
        default=None, metadata={"help": "Trajectories of earlier runs to fine-tune on, in place of the dataset."}
    )
    eval_trajectories: list[str] | None = field(
        default=None, metadata={"help": "Trajectories of held-out rows, for the evaluation loss."}
    )
    general_dataset_name: list[str] | None = field(default=None, metadata={"help": "Instruction data to mix in."})
    sampler_name_or_path: str | None = field(
        default=None, metadata={"help": "A stronger judge that samples; the trained model itself by default."}
    )
    sampler_base_url: str | None = field(
        default=None, metadata={"help": "Address of a vLLM or another OpenAI-compatible server that samples."}
    )
    sampler_tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer of the model on the server, to send token ids."}
    )
    sampler_dialect: str = field(
        default="vllm", metadata={"help": "What the server speaks.", "choices": ["vllm", "openai"]}
    )
    collect_only: bool = field(default=False, metadata={"help": "Sample and reject, and do not train."})


def main(script_args, training_args, model_args, dataset_args):
    from trl import get_peft_config, get_quantization_config

    from trl_spct import RejectiveSampler
    from trl_spct.data.loading import (
        dataset_name_of,
        exit_on_push_errors,
        find_chat_template,
        finish,
        load_named,
        load_preferences,
        set_model_init_kwargs,
    )

    set_model_init_kwargs(training_args, model_args)
    find_chat_template(training_args, Path(__file__).parent)
    split = script_args.dataset_train_split
    if script_args.trajectories:
        dataset = load_trajectories(script_args.trajectories)
    else:
        dataset = load_preferences(
            script_args,
            dataset_args,
            training_args.source,
            training_args.invalid_rows,
            training_args.seed,
            [split],
        )[split]
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
        exit_on_push_errors(trainer)
        return
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    finish(trainer, None if script_args.trajectories else dataset_name_of(script_args, dataset_args))


def load_trajectories(names: list[str]):
    """Trajectories of one or more runs, with the columns that all of them have."""
    from datasets import concatenate_datasets

    from trl_spct.data.loading import load_named, with_same_columns

    return concatenate_datasets(with_same_columns([load_named(name)["train"] for name in names]))


def make_sampler(script_args: RFTScriptArguments):
    """What samples: a path, an engine over a server, or `None` for the model itself."""
    if script_args.sampler_base_url is None:
        return script_args.sampler_name_or_path
    from transformers import AutoTokenizer

    from trl_spct.engines import OpenAIEngine

    name = script_args.sampler_tokenizer_name_or_path
    return OpenAIEngine(
        script_args.sampler_name_or_path,
        script_args.sampler_base_url,
        api_key=os.environ.get("OPENAI_API_KEY"),
        tokenizer=AutoTokenizer.from_pretrained(name) if name else None,
        dialect=script_args.sampler_dialect,
    )


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    from trl import DatasetMixtureConfig, ModelConfig, TrlParser

    from trl_spct import RejectiveSamplerConfig

    dataclass_types = (RFTScriptArguments, RejectiveSamplerConfig, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("rft", help="Rejective fine-tuning", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
