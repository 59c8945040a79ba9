# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The Meta RM recipe with a judge that can be read: guidance with adapters, 4-bit bases and two processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from paths import RECIPES
from tiny_models import save_tiny, save_writing
from transformers import pipeline

from trl_spct.data.preparation import split_by_query
from trl_spct.judge.voting import Guidance

RECIPE = RECIPES / "meta_rm.py"
ROWS = [{"query": f"q{i}", "responses": ["a", "b"], "labels": [0.0, 1.0]} for i in range(24)]


def run(arguments: list, folder: Path, processes: int = 1) -> None:
    """The recipe as its users start it; a launcher that hangs is stopped with its workers."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(RECIPE), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            code = process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    assert code == 0, (folder / "log").read_text()[-3000:]


def arguments_for(folder: Path, output: Path, arch: str = "llama") -> list:
    judge = folder / "judge"
    if not judge.exists():
        save_writing(judge)
        save_tiny(folder / "start", arch, hidden_size=64, head_dim=32, initializer_range=0.2)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return [
        *["--model_name_or_path", folder / "start", "--judge_name_or_path", judge, "--template", "compact"],
        *["--dataset_name", folder / "rows.jsonl", "--eval_share", "0.4", "--num_generations", "2"],
        *["--choose_k", "4", "--max_completion_length", "20", "--output_dir", output, "--max_steps", "2"],
        *["--per_device_train_batch_size", "4", "--dtype", "float32", "--save_strategy", "no"],
        *["--use_cpu", "--bf16", "false", "--report_to", "none", "--disable_tqdm", "true"],
    ]


def chosen_in(output: Path) -> Guidance:
    choice = json.loads((output / "guidance.json").read_text())
    held_out = split_by_query(Dataset.from_list(ROWS), 0.4, 42)[1]
    assert choice["k"] == 4 and {row["n"] for row in choice["table"]} == {len(held_out)}
    return Guidance.of(choice["guidance"])


def judged(output: Path, folder: Path) -> list[dict]:
    rows = load_dataset(
        "parquet", data_files=str(output / "judgments" / "*.parquet"), split="train", cache_dir=str(folder / "cache")
    )
    return sorted(rows.to_list(), key=lambda row: row["row"])


ADAPTER = ("--use_peft", "--lora_task_type", "SEQ_CLS", "--lora_target_modules", "all-linear", "--lora_r", "4")


@pytest.mark.slow
@pytest.mark.parametrize("more", [ADAPTER, (*ADAPTER, "--load_in_4bit")], ids=["lora", "qlora"])
def test_an_adapter_stores_what_was_chosen_with_it(more, tmp_path):
    output = tmp_path / "meta"
    run([*arguments_for(tmp_path, output, "qwen3"), *more], tmp_path)
    assert (output / "adapter_model.safetensors").exists()
    for row in judged(output, tmp_path):
        assert all(score is not None for score in row["scores"]) and len(set(row["meta_scores"])) > 1
    judge = pipeline("grm-reward", model=str(tmp_path / "judge"), meta_rm=str(output), template="compact")
    assert judge.guidance == chosen_in(output)


@pytest.mark.slow
def test_two_processes_judge_the_same_and_choose_the_same(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    run([*arguments_for(tmp_path, alone), "--learning_rate", "0"], tmp_path)
    run([*arguments_for(tmp_path, together), "--learning_rate", "0", "--ddp_backend", "gloo"], tmp_path, processes=2)
    one, two = judged(alone, tmp_path), judged(together, tmp_path)
    assert [row["texts"] for row in one] == [row["texts"] for row in two]
    assert chosen_in(alone) == chosen_in(together)
