# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Every recipe over real rows: what is read, kept and dropped, and what a tiny judge makes of it.

python tests/measurements/real_rows.py --data FOLDER --output real_rows.json

The folder holds one folder per source with `sample.jsonl` or `*.jsonl.gz` in the source's own schema. The judge is
byte-level and has learned nothing but the form of a critique: it judges badly, and the counts say so. Preparing reads
the whole file, the recipes the first `--rows` rows of it.
"""

import argparse
import gzip
import importlib.util
import json
import random
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from tiny_models import tiny_config, tiny_tokenizer  # noqa: E402

from trl_spct import Preference, judge_messages  # noqa: E402
from trl_spct.data.preparation import prepare_preferences  # noqa: E402

SOURCES = ("llmbar", "gsm8k", "pandalm", "genrm-cot")
CPU = [
    "--use_cpu",
    "--bf16",
    "false",
    "--report_to",
    "none",
    "--save_strategy",
    "no",
    "--gradient_checkpointing",
    "false",
]
CRITIQUE = 64


def rows_of(folder: Path) -> list[dict]:
    path = next(iter([*folder.glob("sample.jsonl"), *sorted(folder.glob("*train*.jsonl.gz"))]))
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def build_judge(folder: Path, rows: list[dict]) -> None:
    """Learns to end with a box that holds one number per response, and nothing about what numbers to write."""
    texts = [text for row in prepare_preferences(rows, invalid_rows="drop").dataset for text in row["responses"]]
    tokenizer = tiny_tokenizer()
    config = tiny_config("llama", tokenizer, hidden_size=64, head_dim=32, intermediate_size=128)
    model = AutoModelForCausalLM.from_config(config)
    draw, rows = random.Random(0), []
    for _ in range(2000):
        count, length = draw.choice((1, 2, 2, 3, 4)), draw.choice((20, 100, 400, 1000))
        preference = Preference("?", [(draw.choice(texts)[:length].strip() or ".") for _ in range(count)])
        high = 1 if count == 1 else 10
        box = ", ".join(str(draw.randint(0 if count == 1 else 1, high)) for _ in range(count))
        text = f"Analysis: ok.\nScores: \\boxed{{{box}}}"
        prompt = judge_messages(preference, "compact", count == 1)
        rows.append({"prompt": prompt, "completion": [{"role": "assistant", "content": text}]})
    args = SFTConfig(
        str(folder),
        learning_rate=3e-3,
        per_device_train_batch_size=8,
        train_sampling_strategy="group_by_length",
        num_train_epochs=1,
        max_length=None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        seed=0,
    )
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(name: str, *arguments: object) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(*module.make_parser().parse_args_and_config([str(argument) for argument in arguments]))


def measure(source: str, rows: list[dict], judge: Path, folder: Path, count: int) -> dict:
    prepared = prepare_preferences(rows, invalid_rows="drop", name=source)
    measured = {
        "source": source,
        "recognized_as": prepared.source,
        "read": prepared.num_read,
        "made": len(prepared.dataset),
        "dropped": prepared.dropped,
    }
    file = folder / f"{source}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]), encoding="utf-8")
    data = ["--dataset_name", file, "--invalid_rows", "drop"]
    judging = ["--template", "compact", "--max_completion_length", CRITIQUE]
    training = ["--per_device_train_batch_size", 4, "--max_steps", 2, *CPU]
    rft, spct, meta = folder / "rft", folder / "spct", folder / "meta_rm"
    run(
        "rft",
        "--model_name_or_path",
        judge,
        *data,
        *judging,
        *training,
        "--output_dir",
        rft,
        "--reject_too_easy",
        "false",
    )
    report = json.loads((rft / "trajectories" / "rejection.json").read_text())
    measured["rft"] = {name: report[name] for name in ("rows", "outcomes", "hinted_outcomes", "problems")}
    run("spct", "--model_name_or_path", rft, *data, *judging, *training, "--output_dir", spct, "--logging_steps", 1)
    run(
        "meta_rm", "--model_name_or_path", rft, "--trajectories", rft / "trajectories", *training, "--output_dir", meta
    )
    run(
        "evaluate", "--model_name_or_path", spct, "--meta_rm", meta, *data, "--k", 4, "--template", "compact",
        "--max_new_tokens", CRITIQUE, "--output_dir", folder / "evaluation",
    )  # fmt: skip
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    measured["evaluation"] = {
        f"k={r['k']}{' guided' if r['guided'] else ''}": [
            round(r[name], 3) for name in ("accuracy", "low", "high", "ties")
        ]
        for r in results
        if not r.get("baseline")
    }
    problems = [
        problem
        for shard in sorted((folder / "evaluation" / "judgments").glob("*.parquet"))
        for row in pq.read_table(shard).column("problems").to_pylist()
        for problem in row
    ]
    measured["judged"] = {"rows": results[0]["n"], "critiques": len(problems)}
    measured["unreadable"] = {cause: problems.count(cause) for cause in sorted({p for p in problems if p})}
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("real_rows.json"))
    parser.add_argument("--rows", type=int, default=24)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        judge = Path(home) / "judge"
        build_judge(judge, rows_of(options.data / "gsm8k"))
        measured = []
        for source in SOURCES:
            folder = Path(home) / source
            folder.mkdir()
            measured.append(measure(source, rows_of(options.data / source), judge, folder, options.rows))
            options.output.write_text(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
