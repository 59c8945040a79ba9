# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
# /// script
# dependencies = ["trl-spct"]
# ///
"""
Labels a dataset with a judge: scores of every response, the best of n for fine-tuning, and preference pairs for DPO.

accelerate launch recipes/label.py \
    --model_name_or_path judge-spct \
    --dataset_name samples.jsonl \
    --k 8 --early_stopping exact --min_margin 1 --output_dir labels

Rows have a query and n responses: `prompt` with `responses`, `completions` or `completion`, `chosen` and `rejected`,
or `messages` that end with an answer. Labels are not needed; other columns are kept. `--invalid_rows drop` and
`--invalid_responses drop` leave out rows that cannot be judged or that a server refuses, and empty responses. Then

    trl dpo --dataset_name labels --dataset_config preferences …

or `load_dataset("labels", "preferences")`, `"best_of_n"`, `"scores"`, `"judgments"` (every critique). The card and
`report.json` hold the counts. `--base_url http://localhost:8000` judges over a vLLM server. The same command resumes
a killed run; with another `--pairs` or `--min_margin` it judges nothing again.
"""

import os
from dataclasses import dataclass

import torch
from accelerate import PartialState
from rich.console import Console
from trl import ModelConfig, ScriptArguments

from trl_spct.data.loading import load_rows, push_or_exit
from trl_spct.judge.judging import JudgingOptions, check_whole
from trl_spct.labeling.judgments import LabelingJudge, judge_dataset
from trl_spct.labeling.labels import PAIRS, check_columns, check_pairs
from trl_spct.labeling.rows import prepare_rows
from trl_spct.labeling.writing import JUDGMENTS, push_labels, report_lines, write_labels, write_labels_card
from trl_spct.scripts import JudgeArguments, helped, inference_parser, load_judge


@dataclass
class LabelArguments(ScriptArguments):
    """Arguments for labeling a dataset, whose split is `dataset_train_split`."""

    output_dir: str = helped("labels", "Output folder. A folder with the same run is resumed.")
    source: str | None = helped(None, "Adapter for public data in its own schema. Known schemas are recognized.")
    prompt_column: str | None = helped(None, "Column with the query, if it is not query, prompt or messages.")
    invalid_rows: str = helped(
        "error", "drop counts rows that cannot be judged or that a server refuses, by cause.", ("error", "drop")
    )
    invalid_responses: str = helped(
        "error", "drop leaves out empty and missing responses of rows that have others.", ("error", "drop")
    )
    max_rows: int | None = helped(None, "Label the first rows only.")
    k: int = helped(8, "Critiques per row.")
    binary: bool = helped(False, "Ask for 0 or 1 for single responses, as in training.")
    early_stopping: str | None = helped(
        None,
        "exact, or a probability of error such as 0.05: stop sampling for a row whose winner is decided. The margins "
        "of these rows are means over fewer votes.",
    )
    max_responses_per_prompt: str | None = helped(None, "auto, or a number: judge more responses in blocks.")
    seed: int = helped(0, "Seed of orders, samples and draws.")
    rows_per_shard: int = helped(64, "Rows written at once.")
    pairs: str = helped("best-vs-worst", "Responses that make pairs.", PAIRS)
    min_margin: float = helped(0.0, "Points per vote that the scores of a pair must exceed in difference.")
    messages: bool = helped(True, "Write prompts and answers as messages, for the trainers' chat template.")
    prefix: str = helped("", "Prefix of the judge's columns beside those of the rows.")
    push_to_hub: bool = helped(False, "Push labels and card.")
    hub_dataset_id: str | None = helped(None, "Dataset repository. Default: the name of the output folder.")
    hub_private_repo: bool | None = helped(None, "Whether a new repository is private.")
    hub_token: str | None = helped(None, "Access token. Default: that of the login.", repr=False)

    def __post_init__(self) -> None:
        check_pairs(self.pairs, self.min_margin)
        for name in ("rows_per_shard", "max_rows"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        JudgingOptions(**self.options)

    @property
    def options(self) -> dict:
        """Arguments of the pipeline."""
        stops = {
            "early_stopping": _number(self.early_stopping, float),
            "max_responses_per_prompt": _number(self.max_responses_per_prompt, int),
        }
        return {"k": self.k, "binary": self.binary, "seed": self.seed, **stops}


def _number(text: str | None, kind: type) -> float | str | None:
    """A number in a text, or the text, which is a word or refused later."""
    try:
        return text and kind(text)
    except ValueError:
        return text


def main(script_args, judge_args, model_args, judge_rows=None):
    """With `judge_rows` the rows are judged elsewhere, and this process only reads and writes."""
    state = PartialState(cpu=not torch.accelerator.is_available())
    rows = read_rows(script_args)
    options = {**script_args.options, **judge_args.options(), **judge_args.guidance}
    options["batch_size"] = judge_args.batch_size
    options = {name: value for name, value in options.items() if value is not None}
    job = {name: getattr(script_args, name) for name in ("invalid_rows", "rows_per_shard")}
    job |= {"rows": rows, "folder": os.path.join(script_args.output_dir, JUDGMENTS)}
    if judge_rows is not None:
        judgments, protocol = judge_rows(**job, **options)
    else:
        judge = LabelingJudge(load_judge(judge_args, model_args, state.device), **options)
        progress = "Judging" if state.is_main_process else None
        share = {"process_index": state.process_index, "num_processes": state.num_processes}
        judgments = judge_dataset(judge, progress=progress, wait=state.wait_for_everyone, **share, **job)
        protocol = judge.protocol
    if state.is_main_process:
        output = script_args.output_dir
        repo_id = script_args.hub_dataset_id or os.path.basename(os.path.abspath(output))
        written = {name: getattr(script_args, name) for name in ("pairs", "min_margin", "seed", "messages", "prefix")}
        report = write_labels(rows, judgments, output, **written, prices=judge_args.prices)
        write_labels_card(output, report, protocol, script_args.dataset_name, repo_id)
        lines = [*report_lines(report), f"Labels, card and judgments are in {os.path.abspath(output)}"]
        Console().print("\n".join(lines), highlight=False, soft_wrap=True)
    state.wait_for_everyone()
    if state.is_main_process and script_args.push_to_hub:
        push_or_exit(lambda: push_labels(output, repo_id, script_args.hub_private_repo, script_args.hub_token))


def read_rows(script_args: LabelArguments):
    """The rows, read and checked before any model is loaded."""
    name, split = script_args.dataset_name, script_args.dataset_train_split
    if not name:
        raise ValueError("Found no `dataset_name`; expected a Hub id, a folder or a file with rows to label.")
    dataset = load_rows(name, script_args.dataset_config, [split])[split]
    if script_args.max_rows is not None:
        dataset = dataset.take(script_args.max_rows) if hasattr(dataset, "take") else dataset[: script_args.max_rows]
    rows = prepare_rows(
        dataset,
        script_args.source,
        script_args.invalid_rows,
        os.path.basename(name),
        script_args.prompt_column,
        script_args.invalid_responses,
    )
    check_columns(rows, script_args.prefix)
    return rows


def make_parser():
    return inference_parser(LabelArguments, JudgeArguments, ModelConfig)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
