# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""CPU time of judging, Meta scoring, a GRPO step and collecting, in this tree against another commit's.

git worktree add --detach ../before COMMIT
python tests/measurements/before_after.py --before ../before [--workloads judging …] [--rounds 7]

Each tree works in a process of its own, on the same rows, shapes and random weights, with one thread. Rounds alternate
and change their order, after one that does not count. Reported are the ratios of the medians and of the best rounds,
below 1 where this tree is faster, and the smallest and largest ratio of two neighboring rounds. Names of modules of
commits before the sub-packages are known.
"""

import argparse
import importlib
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz ."


def module(*names: str):
    """The first of the modules that the tree has. An installed package may find those that it has not."""
    folder = Path(importlib.import_module("trl_spct").__file__).parent
    name = next(name for name in names if (folder / f"{name.replace('.', '/')}.py").exists())
    return importlib.import_module(f"trl_spct.{name}")


def text(draw: random.Random, length: int) -> str:
    return "".join(draw.choices(LETTERS, k=length))


def judge(folder: Path, **sizes):
    """A random judge that never ends a critique early, and its tokenizer."""
    from tiny_models import tiny_causal_lm, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    model = tiny_causal_lm("llama", **{**SIZES, **sizes, "eos_token_id": None})
    model.generation_config.eos_token_id = None
    return model, tokenizer


def judging(folder: Path) -> Callable[[int], int]:
    """k = 32 critiques of 64 tokens for each of two rows of 512 tokens, in two orders."""
    model, tokenizer = judge(folder)
    sample = module("judge.sampling", "sampling").sample_critiques

    def run(number: int) -> int:
        draw, head = random.Random(number), text(random.Random(-1), 256)
        parts = [[text(draw, 78) for _ in range(3)] for _ in range(2)]
        texts = [head + query + "".join(pair) for query, *pair in parts for pair in (pair, pair[::-1])]
        prompts = [[{"role": "user", "content": content}] for content in texts]
        return sum(map(len, sample(model, tokenizer, prompts, 16, 0, max_new_tokens=64, batch_size=128)))

    return run


def pipeline(folder: Path) -> Callable[[int], int]:
    """The pipeline over 24 rows with k = 8, by a judge of the tiny world's size: its own work weighs most."""
    from transformers import pipeline as load

    import trl_spct  # noqa: F401

    model, tokenizer = judge(folder, hidden_size=128, intermediate_size=256, num_hidden_layers=2)
    pipe = load("grm-reward", model=model, tokenizer=tokenizer, device="cpu", meta_rm=None)

    def run(number: int) -> int:
        draw = random.Random(number)
        rows = [{"query": text(draw, 40), "responses": [text(draw, 60), text(draw, 60)]} for _ in range(24)]
        outputs = pipe(rows, k=8, seed=number, template="compact", max_new_tokens=16, batch_size=64)
        return sum(len(output["critiques"]) for output in outputs)

    return run


def meta_scoring(folder: Path) -> Callable[[int], int]:
    """Scores of 32 critiques of 48 to 64 tokens for each of two conversations of 512 tokens."""
    from tiny_models import tiny_config, tiny_tokenizer

    from trl_spct import MetaRMForSequenceClassification

    scores = module("judge.meta_scoring", "meta_scoring").meta_scores
    tokenizer = tiny_tokenizer()
    model = MetaRMForSequenceClassification(tiny_config("llama", **SIZES)).eval()

    def run(number: int) -> int:
        draw, conversations = random.Random(number), []
        for user in (text(draw, 512), text(draw, 512)):
            for _ in range(32):
                critique = {"role": "assistant", "content": text(draw, draw.randint(48, 64))}
                conversations.append([{"role": "user", "content": user}, critique])
        return len(scores(model, tokenizer, conversations, 32))

    return run


def grpo_step(folder: Path) -> Callable[[int], int]:
    """One step with 512 tokens of prompt, 64 of completion, G = 8, beta = 0.08."""
    import grpo_speed
    from tiny_models import save_tiny

    save_tiny(f"{folder}/judge", "llama", **{**grpo_speed.SIZES, "head_dim": 64})
    trainer = grpo_speed.make("grouped", str(folder), (512, 64, 8))

    def run(number: int) -> int:
        trainer.train()
        return 8

    return run


def collecting(folder: Path) -> Callable[[int], int]:
    """`RejectiveSampler.collect()` over 80 rows, hinted sampling included, with the smallest judge."""
    import collect_speed

    path = collect_speed.tiny_judge(folder)
    collect_speed.write_rows = write_rows

    def run(number: int) -> int:
        trainer = collect_speed.make_trainer(folder / str(number), 80, path, None, 32, 64)
        trainer.log = lambda metrics: None
        started = time.process_time()
        count = len(trainer.collect())
        run.seconds = time.process_time() - started
        return count

    return run


def write_rows(path: Path, count: int) -> None:
    draw = random.Random(0)
    rows = [
        {"query": f"Question {i}: which one?", "responses": [text(draw, 50), text(draw, 50)], "labels": [1, 0]}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps({**row, "domain": f"d{i % 5}"}) + "\n" for i, row in enumerate(rows)))


WORKLOADS = {run.__name__: run for run in (judging, pipeline, meta_scoring, grpo_step, collecting)}


def work(name: str, tree: Path) -> None:
    """Measures a round of the workload for each line of the standard input."""
    scripts = tree / "tests" / "measurements"
    sys.path[:0] = [
        str(tree),
        str(tree / "tests"),
        str(scripts if scripts.exists() else tree / "tests" / "benchmarks"),
    ]
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed meanwhile is none of the answers
    with tempfile.TemporaryDirectory() as folder:
        run = WORKLOADS[name](Path(folder))
        for line in sys.stdin:
            started = time.process_time()
            count = run(int(line))
            seconds = getattr(run, "seconds", time.process_time() - started)
            answers.write(json.dumps({"seconds": seconds, "count": count}) + "\n")
            answers.flush()


def compare(name: str, trees: dict[str, Path], rounds: int, log: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log.open("a"), "text": True}
    workers = {}
    for side, tree in trees.items():
        command = [sys.executable, __file__, "--before", str(tree), "--worker", name]
        workers[side] = subprocess.Popen(command, env={**environment, "PYTHONPATH": str(tree)}, **pipes)
    seconds: dict[str, list[float]] = {side: [] for side in trees}
    counts = {}
    for number in range(rounds + 1):
        for side in sorted(trees, reverse=number % 2 == 1):
            workers[side].stdin.write(f"{number}\n")
            workers[side].stdin.flush()
            answer = json.loads(workers[side].stdout.readline() or "{}")
            if not answer:
                raise SystemExit(f"The {side} tree failed in {name}; see {log}.")
            counts[side] = answer["count"]
            seconds[side] += [answer["seconds"]] if number else []  # the first round warms up
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    assert len(set(counts.values())) == 1, counts
    ratios = [new / old for new, old in zip(seconds["now"], seconds["before"], strict=True)]
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    return (
        f"| {name} | {medians['before']:.2f} | {medians['now']:.2f} | {medians['now'] / medians['before']:.2f} "
        f"| {min(seconds['now']) / min(seconds['before']):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a worktree of the commit to compare with")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--log", type=Path, default=Path("before_after.log"), help="what the processes print")
    parser.add_argument("--worker", choices=WORKLOADS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.before)
        return
    out = sys.stdout.write
    out("| workload | before, s of CPU | now | ratio | of the best | rounds |\n|---|---|---|---|---|---|\n")
    for name in options.workloads:
        out(compare(name, {"before": options.before.resolve(), "now": ROOT}, options.rounds, options.log) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
