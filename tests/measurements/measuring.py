# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Set-up that the measurements share: paths, tiny shapes, alternating rounds, memory. Imported before torch."""

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "recipes")]

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
}
ARCH_SIZES = {
    "gemma2": {"query_pre_attn_scalar": 32, "sliding_window": 4096},
    "deepseek_v2": {"kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32},
}
ARCHITECTURES = ("llama", "gemma2", "qwen3", "mistral", "deepseek_v2")
ON_CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}


def sizes_of(arch: str) -> dict:
    return {**SIZES, **ARCH_SIZES.get(arch, {})}


def alternate(variants: Mapping[str, Callable[[int], int]], rounds: int) -> dict[str, tuple[float, float]]:
    """The best of several rounds of each variant, in seconds per item: by the clock, and of CPU time.

    Variants take the number of the round and return how many items they made. Their rounds alternate, so that a busy
    machine disturbs all of them alike.
    """
    best = dict.fromkeys(variants, (float("inf"), float("inf")))
    for number in range(rounds):
        for name, run in variants.items():
            started = time.perf_counter(), time.process_time()
            count = run(number)
            ended = time.perf_counter(), time.process_time()
            best[name] = tuple(min(b, (e - s) / count) for b, s, e in zip(best[name], started, ended, strict=True))
    return best


def print_speed(title: str, best: Mapping[str, tuple[float, float]], elsewhere: tuple[str, ...] = ()) -> None:
    """Prints milliseconds per item, and as a multiple of `ours`. Variants `elsewhere` use no CPU of this process."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in ("", "wall, ms per critique", "to ours", "CPU, ms per critique", "to ours"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in best.items():
        cells = [(f"{1000 * s:.2f}", f"{s / ours:.2f}") for s, ours in zip(seconds, best["ours"], strict=True)]
        cells[1] = ("", "") if name in elsewhere else cells[1]
        table.add_row(name, *cells[0], *cells[1])
    Console().print(table)


def resident(field: str) -> float:
    """Mebibytes of a field of `/proc/self/status` (Linux): `VmRSS`, `VmHWM`, `RssAnon`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def growth(run: Callable[[], object]) -> float:
    """How many mebibytes the resident set grows at its highest while `run` runs."""
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest
    run()
    return resident("VmHWM") - before


def parity(completion_ids, **kwargs) -> list[float]:
    """A reward that costs nothing."""
    return [float(sum(ids) % 2) for ids in completion_ids]
