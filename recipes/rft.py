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
"""

import argparse
from dataclasses import dataclass, field

from trl import ScriptArguments


@dataclass
class RFTScriptArguments(ScriptArguments):
    """
    Script arguments for rejective fine-tuning.

    Args:
        sampler_name_or_path (`str`, *optional*):
            A stronger judge that samples the trajectories; the trained model itself by default.
        general_dataset_name (`str`, *optional*):
            Instruction data to mix in: a Hub id, a folder or a file with `messages`, or `prompt` and `completion`.
        collect_only (`bool`, *optional*, defaults to `False`):
            Sample and reject, and do not train.
    """

    sampler_name_or_path: str | None = field(
        default=None, metadata={"help": "A stronger judge that samples; the trained model itself by default."}
    )
    general_dataset_name: str | None = field(default=None, metadata={"help": "Instruction data to mix in."})
    collect_only: bool = field(default=False, metadata={"help": "Sample and reject, and do not train."})


def main(script_args, training_args, model_args, dataset_args):
    from trl import get_peft_config, get_quantization_config

    from trl_spct import RejectiveSampler
    from trl_spct.scripts import dataset_name_of, finish, load_named, load_preferences, set_model_init_kwargs

    set_model_init_kwargs(training_args, model_args)
    dataset = load_preferences(
        script_args,
        dataset_args,
        training_args.source,
        training_args.invalid_rows,
        training_args.seed,
        [script_args.dataset_train_split],
    )
    general = None
    if script_args.general_dataset_name:
        general = load_named(script_args.general_dataset_name)["train"]
    trainer = RejectiveSampler(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        sampler=script_args.sampler_name_or_path,
        general_dataset=general,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    if script_args.collect_only:
        trainer.collect()
        return
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    finish(trainer, dataset_name_of(script_args, dataset_args))


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    from trl import DatasetMixtureConfig, ModelConfig, TrlParser

    from trl_spct import RejectiveSamplerConfig

    dataclass_types = (RFTScriptArguments, RejectiveSamplerConfig, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("rft", help="Rejective fine-tuning", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
