# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Step time and peak memory of training with shared prompts, against a stock `GRPOTrainer`.

python tests/measurements/grpo_speed.py [--arch llama] [--shapes 2048,256,4 512,64,8] [--rounds 2]

Both trainers get the same judge (random weights), prompts, reward and options (beta = 0.08, so there is a reference).
A shape is P,N,G[,g]: tokens of the prompt, tokens of a completion, completions per group, groups per batch. Steps of
the two alternate, after one that does not count, for `--rounds` rounds and ten seconds at least, and the best of each
counts, in seconds of CPU time, which other processes disturb least (one thread unless OMP_NUM_THREADS says otherwise).
`generation` is the time in `_generate_single_turn`, `reference` in the forward passes without gradient; the rest of a
step is the policy's forward and backward pass. Memory is the growth of the peak resident set over what it was before
training, each trainer in a process of its own.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings

import torch
from datasets import Dataset
from measuring import ON_CPU, growth, parity
from tiny_models import TURN, save_tiny, tiny_tokenizer
from transformers import PrinterCallback
from trl import GRPOTrainer

from trl_spct import SPCTConfig
from trl_spct.trainers.grouped_grpo import GroupedGRPOTrainer

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
}
DEFAULT_SHAPES = ["24,64,2", "24,64,4", "64,64,8", "128,32,4", "512,64,8", "2048,256,4"]
LEAST_SECONDS = 10.0
"""Of the steps of a shape, so that short ones are measured often."""


class Timed:
    """Adds up the seconds of a step's parts."""

    def _timed(self, part, function, *args, **kwargs):
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - start

    def _generate_single_turn(self, *args, **kwargs):
        return self._timed("generation", super()._generate_single_turn, *args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        call = super()._get_per_token_logps_and_entropies
        return call(*args, **kwargs) if torch.is_grad_enabled() else self._timed("reference", call, *args, **kwargs)

    def training_step(self, *args, **kwargs):
        return self._timed("step", super().training_step, *args, **kwargs)


class Stock(Timed, GRPOTrainer):
    pass


class Grouped(Timed, GroupedGRPOTrainer):
    pass


KINDS = {"stock": Stock, "grouped": Grouped}


def make(kind: str, folder: str, shape: tuple[int, ...], checkpointing: bool = False, steps: int = 1):
    length, width, group, *groups = shape
    tokenizer = tiny_tokenizer()
    rows = []
    for number in range(64):
        content = f"{number:06d}"
        used = len(tokenizer.apply_chat_template([{"role": "user", "content": content}], return_dict=False)) + len(
            tokenizer(f"{TURN}model\n").input_ids
        )
        rows.append({"prompt": [{"role": "user", "content": content + "a" * (length - used)}]})
    args = SPCTConfig(
        output_dir=f"{folder}/{kind}",
        **ON_CPU,
        logging_strategy="no",
        gradient_checkpointing=checkpointing,
        max_completion_length=width,
        num_generations=group,
        per_device_train_batch_size=group * (groups[0] if groups else 1),
        max_steps=steps,
    )
    trainer = KINDS[kind](f"{folder}/judge", reward_funcs=parity, args=args, train_dataset=Dataset.from_list(rows))
    trainer.remove_callback(PrinterCallback)
    trainer.seconds = {}
    return trainer


def seconds_of_steps(folder: str, shape: tuple[int, ...], rounds: int, checkpointing: bool) -> dict[str, dict]:
    trainers = {kind: make(kind, folder, shape, checkpointing) for kind in KINDS}
    best: dict[str, dict] = {}
    turn, spent = 0, 0.0
    while turn <= rounds or spent < LEAST_SECONDS:
        for kind, trainer in trainers.items():
            trainer.seconds = {}
            trainer.train()
            spent += trainer.seconds["step"]
            if turn and (kind not in best or trainer.seconds["step"] < best[kind]["step"]):
                best[kind] = trainer.seconds
        turn += 1
    return best


def peak_memory(folder: str, kind: str, shape: str, checkpointing: bool) -> float:
    """Mebibytes, measured in a process of its own."""
    command = [sys.executable, __file__, "--measure", kind, "--folder", folder, "--shapes", shape]
    command += ["--checkpointing"] if checkpointing else []
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(folder: str, kind: str, shape: tuple[int, ...], checkpointing: bool) -> None:
    trainer = make(kind, folder, shape, checkpointing)
    sys.stdout.write(f"\n{json.dumps(growth(trainer.train))}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="llama")
    parser.add_argument("--shapes", nargs="+", default=DEFAULT_SHAPES, metavar="P,N,G[,g]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, TRL's default")
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.measure:
        (shape,) = options.shapes
        measure(options.folder, options.measure, tuple(map(int, shape.split(","))), options.checkpointing)
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = SIZES if options.arch == "deepseek_v2" else {**SIZES, "head_dim": 64}
        save_tiny(f"{folder}/judge", options.arch, **sizes)
        out = sys.stdout.write
        out(f"{options.arch}, {SIZES}, checkpointing {options.checkpointing}, {torch.get_num_threads()} threads\n")
        out("| P, N, G, groups | step (s) | ratio | generation | reference | update | peak memory (MiB) | ratio |\n")
        out("|---|---|---|---|---|---|---|---|\n")
        for text in options.shapes:
            shape = tuple(map(int, text.split(",")))
            best = seconds_of_steps(folder, shape, options.rounds, options.checkpointing)
            for seconds in best.values():
                seconds["update"] = seconds["step"] - seconds["generation"] - seconds["reference"]
            ratio = {part: best["grouped"][part] / best["stock"][part] for part in best["stock"]}
            peaks = (
                {} if options.no_memory else {k: peak_memory(folder, k, text, options.checkpointing) for k in KINDS}
            )
            memory = (
                f"{peaks['stock']:.0f} → {peaks['grouped']:.0f} | {peaks['grouped'] / peaks['stock']:.2f}"
                if peaks
                else "– | –"
            )
            shown = [*shape, 1][:4]
            out(
                f"| {', '.join(map(str, shown))} | {best['stock']['step']:.2f} → {best['grouped']['step']:.2f} "
                f"| {ratio['step']:.2f} | {ratio['generation']:.2f} | {ratio['reference']:.2f} "
                f"| {ratio['update']:.2f} | {memory} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
