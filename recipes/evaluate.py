# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
How good a judge is on labeled rows, and what more votes buy: accuracy over k, plain and guided by a Meta RM.

accelerate launch recipes/evaluate.py \
    --model_name_or_path judge-spct --meta_rm judge-meta-rm \
    --dataset_name rows.jsonl --k 32 --output_dir judge-spct-results

Writes `judgments/` (every critique), `results.json` and `scaling.png`, and prints the table.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from trl import ScriptArguments


@dataclass
class EvaluationArguments(ScriptArguments):
    """
    Arguments for evaluating a judge.

    Args:
        output_dir (`str`): Where judgments and results go. A folder with the same run is resumed.
        meta_rm (`str`, *optional*): A Meta RM, by path or Hub id.
        k (`int`, *optional*, defaults to `8`): Critiques per row; results are given for every power of two up to it.
        temperature (`float`, *optional*): 0.5 for k > 1 and greedy for k = 1 by default (paper, section 6).
        max_new_tokens (`int`, *optional*): Longest critique in tokens; see the pipeline.
        template (`str`, *optional*): Prompt template; the one that the judge's configuration names by default.
        rows_per_shard (`int`, *optional*, defaults to `16`): Rows judged together and written at once.
        seed (`int`, *optional*, defaults to `0`): Of orders, samples and intervals.
        source (`str`, *optional*): Adapter for public data in its own schema; known schemas are recognized.
        invalid_rows (`str`, *optional*, defaults to `"error"`): `"drop"` counts rows that cannot be used.
        max_rows (`int`, *optional*): Judge a random sample of so many rows.
        stage (`str`, *optional*, defaults to `"judge"`): Name of the judge in table and figure.
    """

    output_dir: str = field(default="evaluation", metadata={"help": "Where judgments and results go."})
    meta_rm: str | None = field(default=None, metadata={"help": "A Meta RM, by path or Hub id."})
    k: int = field(default=8, metadata={"help": "Critiques per row."})
    temperature: float | None = field(default=None, metadata={"help": "0.5 for k > 1, greedy for k = 1 by default."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Longest critique in tokens."})
    template: str | None = field(default=None, metadata={"help": "Prompt template."})
    rows_per_shard: int = field(default=16, metadata={"help": "Rows judged together and written at once."})
    seed: int = field(default=0, metadata={"help": "Of orders, samples and intervals."})
    source: str | None = field(default=None, metadata={"help": "Adapter for public data in its own schema."})
    invalid_rows: str = field(
        default="error", metadata={"help": "What happens to unusable rows.", "choices": ["error", "drop"]}
    )
    max_rows: int | None = field(default=None, metadata={"help": "Judge a random sample of so many rows."})
    stage: str = field(default="judge", metadata={"help": "Name of the judge in table and figure."})


def main(script_args, model_args, dataset_args):
    from accelerate import PartialState
    from rich.console import Console
    from transformers import pipeline
    from trl import get_quantization_config

    import trl_spct  # noqa: F401  registers the pipeline
    from trl_spct.evaluation import collect_judgments, plot_scaling, results_table, scaling_results
    from trl_spct.manifests import write_json
    from trl_spct.scripts import load_preferences
    from trl_spct.voting import VOTING_TEMPERATURE

    state = PartialState()
    dataset = load_preferences(
        script_args, dataset_args, script_args.source, script_args.invalid_rows, script_args.seed
    )
    rows = dataset[script_args.dataset_test_split if script_args.dataset_test_split in dataset else "train"]
    if script_args.max_rows is not None and script_args.max_rows < len(rows):
        rows = rows.shuffle(seed=script_args.seed).select(range(script_args.max_rows))
    quantization = get_quantization_config(model_args)
    judge = pipeline(
        "grm-reward",
        model=model_args.model_name_or_path,
        revision=model_args.model_revision,
        meta_rm=script_args.meta_rm,
        dtype=model_args.dtype,
        device=state.device if quantization is None else None,
        device_map=None if quantization is None else {"": state.device},
        model_kwargs={
            "attn_implementation": model_args.attn_implementation,
            **({} if quantization is None else {"quantization_config": quantization}),
        },
    )
    temperature = script_args.temperature
    if temperature is None:
        temperature = VOTING_TEMPERATURE if script_args.k > 1 else 0.0
    output = Path(script_args.output_dir)
    sampling = {"temperature": temperature, "template": script_args.template}
    sampling["max_new_tokens"] = script_args.max_new_tokens
    judgments = collect_judgments(
        judge,
        rows,
        script_args.k,
        output / "judgments",
        script_args.rows_per_shard,
        progress="Judging",
        process_index=state.process_index,
        num_processes=state.num_processes,
        wait=state.wait_for_everyone,
        seed=script_args.seed,
        **{name: value for name, value in sampling.items() if value is not None},
    )
    if not state.is_main_process:
        return
    results = scaling_results(judgments, seed=script_args.seed, stage=script_args.stage, temperature=temperature)
    write_json(output / "results.json", results)
    plot_scaling(results, output / "scaling.png")
    Console().print(results_table(results, script_args.dataset_name))


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    from trl import DatasetMixtureConfig, ModelConfig, TrlParser

    dataclass_types = (EvaluationArguments, ModelConfig, DatasetMixtureConfig)
    if subparsers is not None:
        return subparsers.add_parser("evaluate", help="Evaluate a judge", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
