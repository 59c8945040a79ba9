# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judging and training on one CUDA device, against what a user would otherwise do. Random weights, bfloat16.

python tests/measurements/gpu.py [--output FOLDER] [--parts exact judge-0.5b …] [--smoke]

Each part runs in a process of its own under a time limit, nine minutes in all. Its result is printed, and appended to
`FOLDER/gpu.jsonl`, as soon as it is there.

- `exact`: float32, greedy and short: the token ids of shared decoding against `generate`, and the log-probabilities
  and the loss of a step with shared prompts against TRL's own path.
- `judge-…`: seconds and peak memory of k = 32 critiques of 64 tokens for each of four rows of about 700 tokens, by
  `sample_critiques` and by `generate(num_return_sequences=32)`. Rounds alternate; the best of each counts.
- `step-1.5b`: seconds and peak memory of an SPCT step (512 tokens of prompt, 256 of critique, G = 8, two groups,
  beta = 0.08) with shared prompts and with a stock `GRPOTrainer`.

`--smoke` runs all of it with tiny shapes, on a CPU where there is no CUDA device.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measuring import ON_CPU, parity
from tiny_models import tiny_tokenizer
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.utils import logging


SHAPES = {  # layers, hidden, heads, key-value heads, intermediate, vocabulary: Qwen2.5's
    "0.5b": (24, 896, 14, 2, 4864, 151936),
    "1.5b": (28, 1536, 12, 2, 8960, 151936),
    "7b": (28, 3584, 28, 4, 18944, 152064),
    "tiny": (2, 64, 4, 2, 128, 512),
}
LIMITS = {"exact": 60, "judge-0.5b": 100, "judge-7b": 160, "step-1.5b": 220}  # seconds
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, K, PROMPT, NEW = 4, 32, 700, 64


def build(shape: str, dtype: torch.dtype = torch.bfloat16):
    """A Qwen2 with random weights on the device, which hardly ever draws the end token, and a byte-level tokenizer."""
    layers, hidden, heads, kv_heads, intermediate, vocabulary = SHAPES[shape]
    tokenizer = tiny_tokenizer()
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return model, tokenizer


def prompts_of(rows: int, length: int, first: int = 0) -> list[list[dict[str, str]]]:
    texts = [f"Row {number}: " + "the moon pulls the sea, " * 200 for number in range(first, first + rows)]
    return [[{"role": "user", "content": text[: length - 40]}] for text in texts]


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measured(run) -> dict[str, float]:
    """Seconds and, on CUDA, peak MiB above what was allocated before."""
    synchronize()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if DEVICE == "cuda" else 0
    started = time.perf_counter()
    run()
    synchronize()
    seconds = time.perf_counter() - started
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if DEVICE == "cuda" else float("nan")
    return {"seconds": round(seconds, 4), "peak_mib": round(peak, 1)}


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    return min(rounds, key=lambda result: result["seconds"])


def generate(model, tokenizer, prompts, k: int, new: int, **options) -> torch.Tensor:
    inputs = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    ).to(model.device)
    inputs.pop("token_type_ids", None)
    return model.generate(**inputs, max_new_tokens=new, num_return_sequences=k, top_k=0, **options)


def judge(shape: str, rows: int, k: int, prompt: int, new: int, rounds: int = 3) -> dict:
    from trl_spct.judge.sampling import sample_critiques

    model, tokenizer = build(shape)
    variants = {
        "shared": lambda prompts: sample_critiques(
            model, tokenizer, prompts, k, 0, temperature=0.5, max_new_tokens=new, batch_size=rows * k
        ),
        "generate": lambda prompts: generate(model, tokenizer, prompts, k, new, do_sample=True, temperature=0.5),
    }
    times: dict[str, list] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            prompts = prompts_of(rows, prompt, number * rows)
            result = measured(lambda run=run, prompts=prompts: run(prompts))
            times[name] += [result] if number else []  # the first round warms up
    results = {name: best(values) for name, values in times.items()}
    ratio = results["shared"]["seconds"] / results["generate"]["seconds"]
    return {**results, "ratio": round(ratio, 3), "ms_per_critique": 1000 * results["shared"]["seconds"] / rows / k}


def make_trainer(kind: str, folder: str, prompt: int, new: int, group: int, groups: int, bf16: bool):
    from datasets import Dataset
    from trl import GRPOTrainer

    from trl_spct import SPCTConfig
    from trl_spct.trainers.grouped_grpo import GroupedGRPOTrainer

    args = SPCTConfig(
        output_dir=f"{folder}/{kind}",
        **{**ON_CPU, "use_cpu": DEVICE == "cpu", "bf16": bf16},
        max_completion_length=new,
        num_generations=group,
        per_device_train_batch_size=group * groups,
        max_steps=1,
        seed=0,
    )
    rows = Dataset.from_list([{"prompt": messages} for messages in prompts_of(16, prompt)])
    trainer_class = {"stock": GRPOTrainer, "shared": GroupedGRPOTrainer}[kind]
    return trainer_class(f"{folder}/judge", reward_funcs=parity, args=args, train_dataset=rows)


def step(shape: str, prompt: int, new: int, group: int, groups: int = 2, rounds: int = 2) -> dict:
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = build(shape)
        model.save_pretrained(f"{folder}/judge")
        tokenizer.save_pretrained(f"{folder}/judge")
        del model
        for kind in ("stock", "shared"):
            trainer = make_trainer(kind, folder, prompt, new, group, groups, bf16=DEVICE == "cuda")
            times = [measured(trainer.train) for _ in range(rounds + 1)]
            results[kind] = best(times[1:])
            del trainer
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
    ratios = {name: round(results["shared"][name] / results["stock"][name], 3) for name in ("seconds", "peak_mib")}
    return {**results, "ratio": ratios}


def exact() -> dict:
    from trl_spct.judge.sampling import sample_critiques

    model, tokenizer = build("tiny", torch.float32)
    prompts = prompts_of(3, 300)
    samples = sample_critiques(model, tokenizer, prompts, 1, 0, temperature=0.0, max_new_tokens=16)
    sequences = generate(model, tokenizer, prompts, 1, 16, do_sample=False)
    texts = tokenizer.batch_decode(sequences[:, -16:], skip_special_tokens=True)
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/judge")
        tokenizer.save_pretrained(f"{folder}/judge")
        for kind in ("stock", "shared"):
            trainer = make_trainer(kind, folder, 300, 16, 4, 2, bf16=False)
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(6, 250, (8, 316), generator=generator)
            ids[1:4], ids[5:] = ids[:1].expand(3, -1), ids[4:5].expand(3, -1)
            ids[:, 300:] = torch.randint(6, 250, (8, 16), generator=generator)
            ids = ids.to(trainer.model.device)
            values, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, torch.ones_like(ids), 16)[:2]
            losses[kind] = values.detach().float().cpu()
    return {
        "greedy_texts_equal": [sample[0].text == text for sample, text in zip(samples, texts, strict=True)],
        "largest_logp_difference": float((losses["stock"] - losses["shared"]).abs().max()),
    }


def parts(smoke: bool) -> dict:
    if smoke:
        judging, training = ("tiny", 2, 4, 200, 8, 1), ("tiny", 120, 8, 4, 2, 1)
        return {
            "exact": exact,
            "judge-0.5b": lambda: judge(*judging),
            "judge-7b": lambda: judge(*judging),
            "step-1.5b": lambda: step(*training),
        }
    return {
        "exact": exact,
        "judge-0.5b": lambda: judge("0.5b", ROWS, K, PROMPT, NEW),
        "judge-7b": lambda: judge("7b", ROWS, K, PROMPT, NEW),
        "step-1.5b": lambda: step("1.5b", 512, 256, 8),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/gpu")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on a CPU too")
    parser.add_argument("--only", choices=LIMITS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.only:
        sys.stdout.write(f"\nRESULT {json.dumps(parts(options.smoke)[options.only]())}\n")
        return
    if DEVICE == "cpu" and not options.smoke:
        parser.error("found no CUDA device; `--smoke` runs tiny shapes on a CPU.")
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    Path(options.output).mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        command = [sys.executable, __file__, "--only", part, *(["--smoke"] if options.smoke else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMITS[part])
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            result = json.loads(lines[-1].removeprefix("RESULT ")) if lines else {"failed": done.stderr[-1500:]}
        except subprocess.TimeoutExpired:
            result = {"failed": f"ran past {LIMITS[part]} s"}
        line = json.dumps({"part": part, "device": name, "torch": torch.__version__, **result})
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        with open(Path(options.output) / "gpu.jsonl", "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


if __name__ == "__main__":
    main()
