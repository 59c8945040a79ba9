# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Stage 3: a Meta RM, which scores critiques by how likely they are correct, and the choice of how it guides the vote.

accelerate launch recipes/meta_rm.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --trajectories judge-rft/trajectories \
    --judge_name_or_path judge-spct \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --eval_share 0.1 \
    --output_dir judge-meta-rm

Trajectories are those of `recipes/rft.py`; with a judge, `num_generations` fresh critiques per row of the dataset are
added, as in the paper. With `eval_share` some queries are held out: their critiques evaluate the Meta RM, and the
judge's votes on them choose the guidance, which is stored with it. Report results on other queries.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from transformers import pipeline
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_spct import MetaRMTrainer, MetaRMTrainingConfig, Preference, RejectiveSampler, RejectiveSamplerConfig
from trl_spct.data.loading import (
    dataset_name_of,
    find_templates,
    finish,
    load_named,
    load_preferences,
    set_model_init_kwargs,
)
from trl_spct.data.meta_rows import prepare_meta_rows
from trl_spct.data.preparation import split_by_query
from trl_spct.evaluation.guidance import choose_guidance, guidance_results_table, store_guidance
from trl_spct.evaluation.judgments import PipelineJudge, record_judgments
from trl_spct.jobs import write_json
from trl_spct.judge.repositories import adapter_base, usual_template
from trl_spct.scripts import helped
from trl_spct.trainers.loading import load_config


@dataclass
class MetaRMScriptArguments(ScriptArguments):
    """Script arguments for training a Meta RM."""

    trajectories: list[str] | None = helped(
        None, "Trajectories of recipes/rft.py to learn from: folders, files or Hub ids."
    )
    judge_name_or_path: str | None = helped(
        None,
        "A trained judge that samples fresh critiques of the rows of the dataset. With load_in_4bit or load_in_8bit "
        "the base of a judge that is an adapter is quantized.",
    )
    num_generations: int = helped(3, "Fresh critiques per row (paper, section 6).")
    temperature: float = helped(1.0, "Sampling temperature of the judge.")
    max_completion_length: int = helped(1024, "Longest critique in tokens.")
    sampling_batch_size: int = helped(64, "Critiques decoded together on each device.")
    prompt_column: str | None = helped(None, "Column with the query, if it is not query, prompt or messages.")
    source: str | None = helped(None, "Adapter for public data in its own schema. Known schemas are recognized.")
    min_margin: float = helped(0.0, "Points by which the best response must lead in correct critiques to learn from.")
    eval_share: float = helped(0.0, "Share of the queries that are held out.")
    choose_k: int = helped(
        32, "Critiques per held-out row, at T = 0.5, that choose the guidance. 0 keeps the paper's k/2."
    )
    choose_rows: int = helped(512, "Largest number of held-out rows that are judged for the choice.")


def main(script_args, training_args, model_args, dataset_args):
    set_model_init_kwargs(training_args, model_args)
    find_templates(training_args, Path(__file__).parent)
    judge = script_args.judge_name_or_path
    if judge:
        training_args.template = training_args.template or usual_template(load_config(judge))
    parts = {}
    for name in script_args.trajectories or []:
        source = source_of(name)
        parts[f"{source} ({len(parts) + 1})" if source in parts else source] = load_named(name)["train"]
    quantization = get_quantization_config(model_args) if judge and adapter_base(judge) else None
    if judge:
        parts["fresh"] = sample_fresh(script_args, training_args, dataset_args, quantization)
    if not parts:
        raise ValueError("Found neither `trajectories` nor a `judge_name_or_path`; expected critiques to learn from.")
    data = prepare_meta_rows(parts, script_args.eval_share, training_args.seed, script_args.min_margin)
    trainer = MetaRMTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=data.train,
        eval_dataset=data.held_out,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.accelerator.print(data)
    if trainer.accelerator.is_main_process:
        data.save(os.path.join(training_args.output_dir, "rows"))
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    if data.held_out is not None:
        trainer.evaluate()
        if judge and script_args.choose_k > 1:
            choose(trainer, script_args, dataset_args, quantization)
    finish(trainer, dataset_name_of(script_args, dataset_args))


def source_of(name: str) -> str:
    """Name of trajectories on a card: an id, or the last two parts of a path."""
    return "/".join(Path(name).parts[-2:]) if os.path.exists(name) or "*" in name else name


def load_rows(script_args, training_args, dataset_args):
    """The rows of the dataset, which the judge judges."""
    split = script_args.dataset_train_split
    options = (script_args.source, training_args.invalid_rows, training_args.seed, [split], script_args.prompt_column)
    return load_preferences(script_args, dataset_args, *options)[split]


def sample_fresh(script_args, training_args, dataset_args, quantization_config):
    """Unhinted critiques of the trained judge; easy rows are kept."""
    without_revision = {k: v for k, v in training_args.model_init_kwargs.items() if k != "revision"}
    args = RejectiveSamplerConfig(
        output_dir=os.path.join(training_args.output_dir, "fresh"),
        num_generations=script_args.num_generations,
        hint="none",
        reject_too_easy=False,
        temperature=script_args.temperature,
        max_completion_length=script_args.max_completion_length,
        sampling_batch_size=script_args.sampling_batch_size,
        template=training_args.template,
        invalid_rows=training_args.invalid_rows,
        seed=training_args.seed,
        model_init_kwargs={**without_revision, "dtype": judge_dtype(training_args)},
        use_cpu=training_args.use_cpu,
        bf16=training_args.bf16,
        report_to="none",
    )
    rows = load_rows(script_args, training_args, dataset_args)
    sampler = RejectiveSampler(
        script_args.judge_name_or_path, args=args, train_dataset=rows, quantization_config=quantization_config
    )
    return sampler.collect()


def judge_dtype(training_args):
    """The judge is not trained here: it is read in the precision in which training computes."""
    return "bfloat16" if training_args.bf16 else training_args.model_init_kwargs.get("dtype", "auto")


def choose(trainer, script_args, dataset_args, quantization_config):
    """Judges held-out rows with the new Meta RM, and stores the best guidance with it."""
    args, accelerator = trainer.args, trainer.accelerator
    _, rows = split_by_query(load_rows(script_args, args, dataset_args), script_args.eval_share, args.seed)
    rows = rows.shuffle(seed=args.seed).select(range(min(len(rows), script_args.choose_rows)))
    placed = {"device": args.device}
    if quantization_config is not None:
        placed = {"device_map": {"": args.device}, "model_kwargs": {"quantization_config": quantization_config}}
    judge = pipeline(
        "grm-reward",
        model=script_args.judge_name_or_path,
        meta_rm=accelerator.unwrap_model(trainer.model),
        meta_rm_tokenizer=trainer.processing_class,
        dtype=judge_dtype(args),
        template=args.template,
        **placed,
    )
    batch_size = max(1, script_args.sampling_batch_size // script_args.choose_k)
    sampling = {"seed": args.seed, "max_new_tokens": script_args.max_completion_length}
    judgments = record_judgments(
        PipelineJudge(judge, script_args.choose_k, batch_size, **sampling),
        map(Preference.from_row, rows),
        os.path.join(args.output_dir, "judgments"),
        progress="Choosing the guidance",
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        wait=accelerator.wait_for_everyone,
    )
    choice = choose_guidance(judgments, seed=args.seed)
    store_guidance(trainer.model, choice.guidance)
    if accelerator.is_main_process:
        write_json(Path(args.output_dir, "guidance.json"), asdict(choice))
        Console().print(guidance_results_table(choice, f"Guidance, chosen on {len(rows)} held-out rows"))


def make_parser():
    return TrlParser((MetaRMScriptArguments, MetaRMTrainingConfig, ModelConfig, DatasetMixtureConfig))


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
