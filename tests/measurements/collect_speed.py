# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
What `RejectiveSampler.collect()` costs beside the sampling itself, in time and in memory.

    python tests/measurements/collect_speed.py                       # against the bare model in this process
    python tests/measurements/collect_speed.py --base_url http://localhost:8000 --judge FOLDER  # against a vLLM server
    python tests/measurements/collect_speed.py --memory 1000 20000   # peak memory over the number of rows

Speed: the bare engine is called once with all prompts, and once with all hinted ones; `collect()` does the same in
shards, reads and rejects, writes, reports and plots. Both take turns, `--repeats` times, and the medians are compared;
on a machine that is busy otherwise, the seconds of CPU time that this process used say more than the clock. The judge
in this process is so small and fast that the overhead weighs more than it ever will. Memory: the rows come from a
file, a stand-in for the sampler answers at once, and each number of rows is a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from measuring import ON_CPU, resident

WORDS = "tides follow the moon and bees carry pollen while rain falls on the quiet town".split()


def write_rows(path: Path, count: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            first, second = (" ".join(WORDS[(i * step + j) % len(WORDS)] for j in range(12)) for step in (1, 3))
            second += " indeed"  # no two responses are identical
            row = {"query": f"Question {i}: which one?", "responses": [first, second], "labels": [1, 0]}
            file.write(json.dumps({**row, "domain": f"d{i % 5}"}) + "\n")


def make_trainer(folder: Path, rows: int, judge: str, sampler, max_tokens: int, rows_per_shard: int):
    import datasets
    from transformers import logging

    from trl_spct import RejectiveSampler, RejectiveSamplerConfig

    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", rows)
    data = datasets.load_dataset(
        "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder / "cache")
    )
    args = RejectiveSamplerConfig(
        str(folder),
        template="compact",
        max_completion_length=max_tokens,
        rows_per_shard=rows_per_shard,
        **{**ON_CPU, "save_strategy": "steps"},
    )
    return RejectiveSampler(judge, args=args, train_dataset=data, sampler=sampler)


def speed(options: argparse.Namespace, folder: Path) -> dict:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trl_spct.engines import OpenAIEngine
    from trl_spct.judge.sampling import sample_critiques
    from trl_spct.trainers.trajectories import TrajectoryCollector

    judge = options.judge or tiny_judge(folder)
    tokenizer = AutoTokenizer.from_pretrained(judge)
    if options.base_url:
        sampler = engine = OpenAIEngine(base_url=options.base_url, tokenizer=tokenizer)
    else:
        sampler = None
        engine = partial(sample_critiques, AutoModelForCausalLM.from_pretrained(judge), tokenizer)
    rates, cpu_seconds = {"engine": [], "collect": []}, {"engine": [], "collect": []}
    for repeat in range(options.repeats):
        trainer = make_trainer(
            folder / str(repeat), options.rows, judge, sampler, options.max_tokens, options.rows_per_shard
        )
        trainer.log = lambda metrics: None
        trainer.args.seed = repeat  # a server may remember prompts, and both sides read the same ones
        collector = TrajectoryCollector(trainer.rows, engine, trainer.args, tokenizer)
        prompts = trainer.rows["prompt"][:]
        hinted = [collector._hinted_prompt(row) for row in trainer.rows]

        def bare(prompts=prompts, hinted=hinted, collector=collector, repeat=repeat) -> int:
            drawn = collector.sampler(prompts, 3, repeat) + collector.sampler(hinted, 1, repeat)
            return sum(map(len, drawn))

        sides = {"engine": bare, "collect": lambda trainer=trainer: len(trainer.collect())}
        for name in list(sides)[:: 1 if repeat % 2 else -1]:
            started, cpu = time.perf_counter(), time.process_time()
            count = sides[name]()
            rates[name].append(count / (time.perf_counter() - started))
            cpu_seconds[name].append(time.process_time() - cpu)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "rows": options.rows,
        "engine": options.base_url or "in process",
        "critiques_per_second": medians,
        "ratio": medians["collect"] / medians["engine"],
        "all": rates,
        "cpu_seconds_of_this_process": cpu_seconds,
    }


def tiny_judge(folder: Path) -> str:
    from tiny_models import save_tiny

    return save_tiny(folder / "judge")


def memory_of(rows: int) -> dict:
    """Peak memory of this process when it collects that many rows, and trains a step on what was kept."""
    from trl_spct.judge.sampling import Sample

    def sampler(prompts, k, seed, **options):
        return [[Sample(f"Criteria. \\boxed{{{3 + 3 * j}, 5}}", 20, False) for j in range(k)] for _ in prompts]

    peak = _PeakMemory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = make_trainer(folder, rows, tiny_judge(folder), sampler, 32, 256)
        trainer.log = lambda metrics: None
        trainer.args.max_steps, trainer.args.save_strategy = 1, "no"
        prepared = peak.so_far()
        started = time.perf_counter()
        trainer.collect()
        collected, seconds = peak.so_far(), time.perf_counter() - started
        trainer.train()
        size = sum(path.stat().st_size for path in (folder / "trajectories").glob("*.parquet"))
    return {
        "rows": rows,
        "prepared_mib": prepared,
        "collected_mib": collected,
        "trained_mib": peak.so_far(),
        "collect_seconds": seconds,
        "shards_mib": size / 2**20,
    }


class _PeakMemory:
    """The most memory that was this process's own; pages of mapped files, which the system may drop, do not count."""

    def __init__(self):
        self.peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, resident("RssAnon"))
            time.sleep(0.02)

    def so_far(self) -> float:
        return round(self.peak, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--max_tokens", type=int, default=32)
    parser.add_argument("--rows_per_shard", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--base_url", help="Of a vLLM server, instead of a model in this process.")
    parser.add_argument("--judge", help="Folder of the judge, and of the server's tokenizer; a tiny one by default.")
    parser.add_argument("--memory", type=int, nargs="+", help="Measure memory for these numbers of rows instead.")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory and options.one:
        result = memory_of(options.memory[0])
    elif options.memory:
        result = []
        for rows in options.memory:
            command = [sys.executable, __file__, "--one", "--memory", str(rows)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result.append(json.loads(done.stdout.splitlines()[-1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = speed(options, Path(folder))
    sys.stdout.write(json.dumps(result, indent=None if options.one else 2) + "\n")


if __name__ == "__main__":
    main()
