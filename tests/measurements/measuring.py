# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Set-up that the measurements share: paths, tiny shapes, alternating rounds, memory. Imported before torch."""

import gc
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

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


Seconds = tuple[float, float]  # by the clock, and of CPU time


def alternate(
    variants: Mapping[str, Callable[[int], int]],
    rounds: int,
    clocks: Mapping[str, Callable[[], float]] = MappingProxyType({}),
) -> dict[str, list[Seconds]]:
    """Seconds per item of each round of each variant.

    Variants take the number of the round and return how many items they made. Their rounds alternate, so that a busy
    machine disturbs all of them alike. `clocks` tells the CPU time of variants that run in other processes.
    """
    measured: dict[str, list[Seconds]] = {name: [] for name in variants}
    for number in range(rounds):
        for name, run in variants.items():
            of_cpu = clocks.get(name, time.process_time)
            started = time.perf_counter(), of_cpu()
            count = run(number)
            ended = time.perf_counter(), of_cpu()
            wall, cpu = ((end - start) / count for start, end in zip(started, ended, strict=True))
            measured[name].append((wall, cpu))
    return measured


def print_speed(
    title: str, measured: Mapping[str, list[Seconds]], elsewhere: tuple[str, ...] = (), unit: str = "critique"
) -> None:
    """Prints the best round of each variant in milliseconds per item, and its time as a multiple of that of `ours` in
    the same round: the median, and in brackets the lowest and the highest. `elsewhere`: of unknown CPU time."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in ("", f"wall, ms per {unit}", "to ours", f"CPU, ms per {unit}", "to ours"):
        table.add_column(column, justify="right" if column else "left")
    for name, of_rounds in measured.items():
        cells = []
        for seconds, ours in zip(zip(*of_rounds, strict=True), zip(*measured["ours"], strict=True), strict=True):
            ratios = sorted(second / own for second, own in zip(seconds, ours, strict=True))
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            cells += [f"{1000 * min(seconds):.2f}", spread]
        table.add_row(name, *cells[: 2 if name in elsewhere else 4])
    Console(width=120).print(table)


class PartsClock:
    """CPU seconds of this thread, by the parts of a computation: functions that are [`timed`], modules that it
    [`watch`]es, and the rest.

    A part inside of another one counts for itself alone, except in the parts `whole`.
    """

    def __init__(self, whole: Collection[str] = ()):
        self.whole, self.seconds = whole, Counter[str]()
        self._open: list[str] = []
        self._since = time.thread_time()

    def watch(self, module: Any, part: str) -> None:
        """Times a module of torch by hooks, which leave its `forward` alone."""
        module.register_forward_pre_hook(lambda *_: self._enter(part))
        module.register_forward_hook(lambda *_: self._leave())

    def timed(self, run: Callable, part: str) -> Callable:
        def wrapper(*args, **kwargs):
            self._enter(part)
            try:
                return run(*args, **kwargs)
            finally:
                self._leave()

        return wrapper

    def _enter(self, part: str) -> None:
        self._turn()
        self._open.append(part)

    def _leave(self) -> None:
        self._turn()
        self._open.pop()

    def _turn(self) -> None:
        now = time.thread_time()
        whole = self._open and self._open[0] in self.whole
        self.seconds[self._open[0 if whole else -1] if self._open else "the rest"] += now - self._since
        self._since = now

    def shares(self, run: Callable[[], object]) -> dict[str, float]:
        """Of the time of a call, the largest first; and `total`, its seconds."""
        self.seconds.clear()
        self._since = started = time.thread_time()
        run()
        self._turn()
        total = self._since - started
        return {**{part: seconds / total for part, seconds in self.seconds.most_common()}, "total": total}


def cpu_seconds(group: int) -> float:
    """CPU time of all living processes of a process group (Linux)."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = file.read_text().rpartition(")")[2].split()
            ticks += (int(fields[11]) + int(fields[12])) * (int(fields[2]) == group)
    return ticks / os.sysconf("SC_CLK_TCK")


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
