# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Stage 3: a Meta RM that tells correct critiques from wrong ones.

accelerate launch recipes/meta_rm.py \
    --model_name_or_path Qwen/Qwen3-0.6B \
    --trajectories judge-rft/trajectories \
    --judge_name_or_path judge-spct \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --output_dir judge-meta-rm

Trajectories are those of `recipes/rft.py`; with a judge, `num_generations` fresh critiques per row of the dataset are
added, as in the paper.
"""

import argparse
import os
from dataclasses import dataclass, field

from trl import ScriptArguments


@dataclass
class MetaRMScriptArguments(ScriptArguments):
    """
    Script arguments for training a Meta RM.

    Args:
        trajectories (`list[str]`, *optional*):
            Trajectories to learn from: folders, files or Hub ids of what `RejectiveSampler.collect` returned.
        judge_name_or_path (`str`, *optional*):
            A trained judge that samples fresh critiques of the rows of the dataset.
        num_generations (`int`, *optional*, defaults to `3`):
            Fresh critiques per row (paper, section 6).
        temperature (`float`, *optional*, defaults to `1.0`), max_completion_length (`int`, *optional*, defaults to
        `1024`), template (`str`, *optional*):
            How the judge samples; the template that its configuration names by default, else `"paper"`.
        eval_share (`float`, *optional*, defaults to `0.0`):
            Share of the queries whose critiques are held out for evaluation.
    """

    trajectories: list[str] | None = field(default=None, metadata={"help": "Trajectories of `recipes/rft.py`."})
    judge_name_or_path: str | None = field(default=None, metadata={"help": "A judge that samples fresh critiques."})
    num_generations: int = field(default=3, metadata={"help": "Fresh critiques per row."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature of the judge."})
    max_completion_length: int = field(default=1024, metadata={"help": "Longest critique in tokens."})
    template: str | None = field(default=None, metadata={"help": "Prompt template; by default the judge's own."})
    source: str | None = field(default=None, metadata={"help": "Adapter for public data in its own schema."})
    eval_share: float = field(default=0.0, metadata={"help": "Share of the queries held out for evaluation."})


def main(script_args, training_args, model_args, dataset_args):
    from datasets import concatenate_datasets
    from trl import get_peft_config, get_quantization_config

    from trl_spct import MetaRMTrainer
    from trl_spct.data import meta_rows, split_by_query
    from trl_spct.scripts import dataset_name_of, finish, load_named, set_model_init_kwargs, with_same_columns

    set_model_init_kwargs(training_args, model_args)
    parts = [load_named(name)["train"] for name in script_args.trajectories or []]
    if script_args.judge_name_or_path:
        parts.append(sample_fresh(script_args, training_args, dataset_args))
    if not parts:
        raise ValueError("Found neither `trajectories` nor a `judge_name_or_path`; expected critiques to learn from.")
    rows = concatenate_datasets(with_same_columns([meta_rows(part) for part in parts]))
    train, held_out = split_by_query(rows, script_args.eval_share, training_args.seed)
    trainer = MetaRMTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train,
        eval_dataset=held_out,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    finish(trainer, dataset_name_of(script_args, dataset_args))


def sample_fresh(script_args, training_args, dataset_args):
    """Unhinted critiques of the trained judge, none of them rejected for being easy."""
    from trl_spct import RejectiveSampler, RejectiveSamplerConfig
    from trl_spct.judges import load_config
    from trl_spct.scripts import load_preferences

    dataset = load_preferences(
        script_args,
        dataset_args,
        script_args.source,
        training_args.invalid_rows,
        training_args.seed,
        [script_args.dataset_train_split],
    )
    named = getattr(load_config(script_args.judge_name_or_path), "grm", None) or {}
    args = RejectiveSamplerConfig(
        output_dir=os.path.join(training_args.output_dir, "fresh"),
        num_generations=script_args.num_generations,
        hint="none",
        reject_too_easy=False,
        temperature=script_args.temperature,
        max_completion_length=script_args.max_completion_length,
        template=script_args.template or named.get("template", "paper"),
        invalid_rows=training_args.invalid_rows,
        seed=training_args.seed,
        model_init_kwargs={k: v for k, v in training_args.model_init_kwargs.items() if k != "revision"},
        use_cpu=training_args.use_cpu,
        bf16=training_args.bf16,
        report_to="none",
    )
    judge = RejectiveSampler(
        script_args.judge_name_or_path, args=args, train_dataset=dataset[script_args.dataset_train_split]
    )
    return judge.collect()


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    from trl import DatasetMixtureConfig, ModelConfig, TrlParser

    from trl_spct import MetaRMTrainingConfig

    dataclass_types = (MetaRMScriptArguments, MetaRMTrainingConfig, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("meta-rm", help="Train a Meta RM", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
