# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Stage 2: rule-based online RL of a judge.

accelerate launch recipes/spct.py \
    --model_name_or_path judge-rft \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --output_dir judge-spct

Without a model and a configuration it runs the embedded default, the whole method in a tiny world: base judge,
rejective fine-tuning, this stage, Meta RM and evaluation, on a CPU in minutes (`--output_dir`, `--seed`)
"""

import os
import sys
from dataclasses import dataclass


def in_two_processes() -> None:
    """Replaces this process by two of one thread each, the fastest for tiny models, unless several were launched.

    Two on every machine: the batches, and so the results, depend on the number of processes.
    """
    if "WORLD_SIZE" not in os.environ:
        os.environ.update(OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true")
        # glibc keeps freed memory, in place of asking the system for it at every step
        os.environ.update(dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**30)))
        launcher = ("-m", "torch.distributed.run", "--standalone", "--local-addr=localhost", "--nproc-per-node=2")
        os.execv(sys.executable, [sys.executable, *launcher, __file__, *sys.argv[1:]])
    if os.environ["RANK"] != "0":
        os.environ["TQDM_DISABLE"] = "1"


if __name__ == "__main__" and not sys.argv[1:]:
    in_two_processes()  # before the imports, which take seconds

from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_spct import SPCTConfig, SPCTTrainer
from trl_spct.data.loading import dataset_name_of, finish, load_preferences, set_model_init_kwargs
from trl_spct.scripts import helped, wants_embedded


@dataclass
class SPCTScriptArguments(ScriptArguments):
    """Script arguments for rule-based RL."""

    prompt_column: str | None = helped(None, "Column with the query, if it is not query, prompt or messages.")


def main(script_args, training_args, model_args, dataset_args):
    set_model_init_kwargs(training_args, model_args)
    evaluates = training_args.eval_strategy != "no"
    splits = [script_args.dataset_train_split, *([script_args.dataset_test_split] if evaluates else [])]
    options = (training_args.source, training_args.invalid_rows, training_args.seed, splits, script_args.prompt_column)
    dataset = load_preferences(script_args, dataset_args, *options)
    trainer = SPCTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if evaluates else None,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    finish(trainer, dataset_name_of(script_args, dataset_args))


def make_parser():
    return TrlParser((SPCTScriptArguments, SPCTConfig, ModelConfig, DatasetMixtureConfig))


if __name__ == "__main__":
    if wants_embedded(sys.argv[1:]):
        if "-h" not in sys.argv:
            in_two_processes()
        from tiny.job import make_parser as make_tiny_parser
        from tiny.job import run

        options = make_tiny_parser().parse_args()
        run(**vars(options))
    else:
        main(*make_parser().parse_args_and_config())
