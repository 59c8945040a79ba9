# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct[openai,ray]"]
# ///
"""
Labels a dataset as `label.py` does, with its options, files and resumption, on a cluster of Ray.

python recipes/label_ray.py \
    --model_name_or_path judge-spct \
    --dataset_name samples.jsonl \
    --num_workers 64 --num_gpus 1 --rows_per_shard 256 --k 8 --output_dir /shared/labels

Each worker loads the judge, or calls a server with `--base_url`. With `--vllm '{"concurrency": 64}'`, the arguments of
a `vLLMEngineProcessorConfig`, vLLM's stage of Ray Data samples, and workers only vote; they need a GPU for a Meta RM
alone. All nodes see the output folder, the judge, and the cache of `datasets`. See CLUSTER.md.
"""

import json
from dataclasses import dataclass
from functools import partial

import label
from trl import ModelConfig

from trl_spct.labeling.distributed import judge_on_ray, stage_judge
from trl_spct.scripts import JudgeArguments, helped, inference_parser, load_judge


@dataclass
class RayArguments:
    """The actors that judge."""

    num_workers: int = helped(1, "Number of workers.")
    num_cpus: float = helped(1, "CPUs of each worker.")
    num_gpus: float = helped(0, "GPUs of each worker.")
    vllm: str | None = helped(None, "Sample in vLLM's stage of Ray Data, with these arguments of it as JSON.")


def main(script_args, judge_args, ray_args, model_args):
    options = {**vars(ray_args), "load": partial(load_judge, judge_args, model_args), "stage": None}
    if vllm := options.pop("vllm"):
        if judge_args.base_url or judge_args.meta_rm_base_url:
            raise ValueError("Found `vllm` and a server (`base_url` or `meta_rm_base_url`); expected one of them.")
        options["stage"], length = vllm_stage(model_args.model_name_or_path, json.loads(vllm))
        meta_rm = {None: "auto", "none": None}.get(judge_args.meta_rm, judge_args.meta_rm)
        judge = (model_args.model_name_or_path, length, judge_args.chat_template_kwargs)
        options["load"] = partial(stage_judge, *judge, meta_rm=meta_rm)
    label.main(script_args, judge_args, model_args, partial(judge_on_ray, **options))


def vllm_stage(model, arguments):
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    off = dict.fromkeys(("chat_template_stage", "tokenize_stage", "detokenize_stage"), False)
    stage = build_processor(
        vLLMEngineProcessorConfig(model_source=model, **off, **arguments),
        preprocess=lambda row: {"sampling_params": {**row["sampling_params"], "detokenize": False}},
        postprocess=lambda row: {name: row[name] for name in ("shard", "seed", "generated_tokens")},
    )
    return stage, arguments.get("engine_kwargs", {}).get("max_model_len")


def make_parser():
    return inference_parser(label.LabelArguments, JudgeArguments, RayArguments, ModelConfig)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
