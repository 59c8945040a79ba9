# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
A judge labels a dataset, of which no labels are needed: scores for every response, the best of n for fine-tuning, and
preference pairs with a margin for DPO.

accelerate launch recipes/label.py \
    --model_name_or_path judge-spct \
    --dataset_name samples.jsonl \
    --k 8 --early_stopping exact --min_margin 1 --output_dir labels

Rows have a query and n responses: `prompt` with `responses`, `completions` or `completion`, `chosen` and `rejected`,
or `messages` that end with an answer; other columns are kept. Then

    trl dpo --dataset_name labels --dataset_config preferences …

or `load_dataset("labels", "preferences")`, `"best_of_n"`, `"scores"`, `"judgments"` (every critique). The card and
`report.json` say what was counted. `--base_url http://localhost:8000` judges over a vLLM server instead. A command
that was killed goes on where it stopped when it is given again, and with another `--pairs` or `--min_margin` judges
nothing again.
"""

import argparse
import os
from dataclasses import dataclass, field

from trl import ScriptArguments


@dataclass
class LabelArguments(ScriptArguments):
    """
    Arguments for labeling a dataset, whose split is `dataset_train_split`.

    Args:
        output_dir (`str`, *optional*, defaults to `"labels"`):
            Where labels and critiques go. A folder with the same run is resumed.
        source (`str`, *optional*): Adapter for public data in its own schema; known schemas are recognized.
        invalid_rows (`str`, *optional*, defaults to `"error"`):
            `"drop"` counts rows that cannot be judged, those that are too long among them.
        max_rows (`int`, *optional*): Label the first rows only.
        base_url (`str`, *optional*):
            Address of a vLLM server, or of another OpenAI-compatible one, that judges; `model_name_or_path` is then
            the judge's name on it. If it wants a key, this is read from the environment variable `OPENAI_API_KEY`.
        tokenizer_name_or_path (`str`, *optional*):
            Tokenizer of the judge on the server. With it prompts are sent as token ids and hostile text stays text;
            give it wherever the server takes token ids, as vLLM does.
        dialect (`str`, *optional*, defaults to `"vllm"`): `"openai"` for servers other than vLLM.
        meta_rm (`str`, *optional*): A Meta RM, by path or Hub id; the judge's own by default, if it has one.
        k (`int`, *optional*, defaults to `8`): Critiques per row.
        temperature (`float`, *optional*): 0.5 for k > 1 and greedy for k = 1 by default.
        max_new_tokens (`int`, *optional*): Longest critique in tokens.
        template (`str`, *optional*): Prompt template; the one that the judge's configuration names by default.
        order (`str`, *optional*): In which order responses are read, see the pipeline.
        binary (`bool`, *optional*, defaults to `False`): Ask for 0 or 1 for single responses, as in training.
        early_stopping (`str`, *optional*):
            `"exact"`, or a probability of error such as 0.05: stop sampling for a row whose winner is decided. The
            margins of such rows are of fewer votes.
        max_responses_per_prompt (`str`, *optional*): `"auto"` or a number: judge more responses in blocks.
        truncation (`str`, *optional*): `"fair"` cuts rows that do not fit into the judge's context.
        seed (`int`, *optional*, defaults to `0`): Of orders, samples and draws.
        rows_per_shard (`int`, *optional*, defaults to `64`): Rows written at once.
        batch_size (`int`, *optional*): Rows judged together; by default as many as make 256 critiques.
        pairs (`str`, *optional*, defaults to `"best-vs-worst"`): Which responses of a row make pairs.
        min_margin (`float`, *optional*, defaults to `0.0`): A pair's scores are further apart, in points per vote.
        messages (`bool`, *optional*, defaults to `True`): Write prompts and answers as messages.
        prefix (`str`, *optional*, defaults to `""`): Put before the names of the judge's columns beside the rows'.
        push_to_hub (`bool`, *optional*, defaults to `False`): Push labels and card.
        hub_dataset_id (`str`, *optional*): Where to; the name of the output folder by default.
        hub_private_repo (`bool`, *optional*): Whether a new repository is private.
        hub_token (`str`, *optional*): The one that is logged in with by default.
    """

    output_dir: str = field(default="labels", metadata={"help": "Where labels and critiques go."})
    source: str | None = field(default=None, metadata={"help": "Adapter for public data in its own schema."})
    invalid_rows: str = field(
        default="error", metadata={"help": "What happens to unusable rows.", "choices": ["error", "drop"]}
    )
    max_rows: int | None = field(default=None, metadata={"help": "Label the first rows only."})
    base_url: str | None = field(default=None, metadata={"help": "Address of a server that judges."})
    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "Tokenizer of the judge there."})
    dialect: str = field(default="vllm", metadata={"help": "What the server speaks.", "choices": ["vllm", "openai"]})
    meta_rm: str | None = field(default=None, metadata={"help": "A Meta RM, by path or Hub id."})
    k: int = field(default=8, metadata={"help": "Critiques per row."})
    temperature: float | None = field(default=None, metadata={"help": "0.5 for k > 1, greedy for k = 1 by default."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Longest critique in tokens."})
    template: str | None = field(default=None, metadata={"help": "Prompt template."})
    order: str | None = field(default=None, metadata={"help": "In which order responses are read."})
    binary: bool = field(default=False, metadata={"help": "Ask for 0 or 1 for single responses."})
    early_stopping: str | None = field(default=None, metadata={"help": "'exact', or a probability of error."})
    max_responses_per_prompt: str | None = field(default=None, metadata={"help": "'auto' or a number: blocks."})
    truncation: str | None = field(default=None, metadata={"help": "'fair' cuts rows that are too long."})
    seed: int = field(default=0, metadata={"help": "Of orders, samples and draws."})
    rows_per_shard: int = field(default=64, metadata={"help": "Rows written at once."})
    batch_size: int | None = field(default=None, metadata={"help": "Rows judged together."})
    pairs: str = field(
        default="best-vs-worst",
        metadata={"help": "Which make pairs.", "choices": ["best-vs-worst", "best-vs-random", "all"]},
    )
    min_margin: float = field(default=0.0, metadata={"help": "A pair's scores are further apart than this."})
    messages: bool = field(default=True, metadata={"help": "Write prompts and answers as messages."})
    prefix: str = field(default="", metadata={"help": "Put before the names of the judge's columns."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push labels and card."})
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Where to."})
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Whether a new repository is private."})
    hub_token: str | None = field(default=None, metadata={"help": "The one that is logged in with by default."})


def main(script_args, model_args):
    import torch
    from accelerate import PartialState

    from trl_spct.data.loading import push_or_exit
    from trl_spct.labeling.judgments import judge_dataset, judging_protocol
    from trl_spct.labeling.writing import push_labels, write_labels, write_labels_card

    state = PartialState(cpu=not torch.accelerator.is_available())
    rows = load_rows(script_args)
    judge = load_judge(script_args, model_args, state.device)
    options = judging_options(script_args)
    judgments = judge_dataset(
        judge,
        rows,
        folder=os.path.join(script_args.output_dir, "judgments"),
        invalid_rows=script_args.invalid_rows,
        rows_per_shard=script_args.rows_per_shard,
        batch_size=script_args.batch_size,
        progress="Judging" if state.is_main_process else None,
        process_index=state.process_index,
        num_processes=state.num_processes,
        wait=state.wait_for_everyone,
        **options,
    )
    if state.is_main_process:
        output, repo_id = script_args.output_dir, repository(script_args)
        made = {name: getattr(script_args, name) for name in ("pairs", "min_margin", "seed", "messages", "prefix")}
        report = write_labels(rows, judgments, output, **made)
        write_labels_card(output, report, judging_protocol(judge, **options), script_args.dataset_name, repo_id)
        show(report, output)
    state.wait_for_everyone()
    if state.is_main_process and script_args.push_to_hub:
        push_or_exit(lambda: push_labels(output, repo_id, script_args.hub_private_repo, script_args.hub_token))


def load_rows(script_args: LabelArguments):
    """What is judged, read and checked before any model is loaded."""
    from trl_spct.data.loading import load_rows
    from trl_spct.labeling.labels import check_columns, check_pairs
    from trl_spct.labeling.rows import prepare_rows

    name, split = script_args.dataset_name, script_args.dataset_train_split
    if not name:
        raise ValueError("Found no `dataset_name`; expected a Hub id, a folder or a file with rows to label.")
    check_pairs(script_args.pairs, script_args.min_margin)
    dataset = load_rows(name, script_args.dataset_config, [split])[split]
    if script_args.max_rows is not None:
        few = range(min(script_args.max_rows, len(dataset)))
        dataset = dataset.select(few) if hasattr(dataset, "select") else dataset[: len(few)]
    rows = prepare_rows(dataset, script_args.source, script_args.invalid_rows, os.path.basename(name))
    check_columns(rows, script_args.prefix)
    return rows


def load_judge(script_args: LabelArguments, model_args, device):
    """The judge: a model on this process's device, or one on a server."""
    from transformers import AutoTokenizer, pipeline
    from trl import get_quantization_config

    from trl_spct import GRMRewardPipeline, OpenAIEngine

    meta_rm = script_args.meta_rm or "auto"
    if script_args.base_url is not None:
        name = script_args.tokenizer_name_or_path
        engine = OpenAIEngine(
            model_args.model_name_or_path,
            script_args.base_url,
            api_key=os.environ.get("OPENAI_API_KEY"),
            tokenizer=AutoTokenizer.from_pretrained(name) if name else None,
            dialect=script_args.dialect,
        )
        return GRMRewardPipeline(engine, meta_rm=meta_rm, device=device)
    if model_args.model_name_or_path is None:
        raise ValueError("Found no judge; expected `model_name_or_path`, or `base_url` for one on a server.")
    quantization = get_quantization_config(model_args)
    return pipeline(
        "grm-reward",
        model=model_args.model_name_or_path,
        revision=model_args.model_revision,
        meta_rm=meta_rm,
        dtype=model_args.dtype,
        device=device if quantization is None else None,
        device_map=None if quantization is None else {"": device},
        model_kwargs={
            "attn_implementation": model_args.attn_implementation,
            **({} if quantization is None else {"quantization_config": quantization}),
        },
    )


def judging_options(script_args: LabelArguments) -> dict:
    """What was asked of the pipeline."""
    names = ("k", "binary", "temperature", "max_new_tokens", "template", "order", "truncation", "seed")
    options = {name: getattr(script_args, name) for name in names}
    stopping, most = script_args.early_stopping, script_args.max_responses_per_prompt
    options["early_stopping"] = stopping if stopping in (None, "exact") else float(stopping)
    options["max_responses_per_prompt"] = most if most in (None, "auto") else int(most)
    return {name: value for name, value in options.items() if value is not None}


def repository(script_args: LabelArguments) -> str:
    return script_args.hub_dataset_id or os.path.basename(os.path.abspath(script_args.output_dir))


def show(report: dict, folder: str) -> None:
    """What a terminal shows."""
    from rich.console import Console

    from trl_spct.labeling.reports import report_lines

    lines = [*report_lines(report), f"Everything is in {os.path.abspath(folder)}"]
    Console().print("\n".join(lines), highlight=False, soft_wrap=True)


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None):
    from trl import ModelConfig, TrlParser

    dataclass_types = (LabelArguments, ModelConfig)
    if subparsers is not None:
        return subparsers.add_parser("label", help="Scores, best of n and DPO pairs", dataclass_types=dataclass_types)
    return TrlParser(dataclass_types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
