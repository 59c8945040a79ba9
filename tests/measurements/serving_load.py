# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Load on `trl-spct serve`: many clients at once with a tiny judge, whose answers are known beforehand.

Each client asks for rows of its own, one after the other, over one connection. An answer that is not the pipeline's
for this row, or that does not come, ends the run. Latencies stand beside those of the bare pipeline: of one row, and
of a call with a row of each client. Memory is that of the server, after a tenth of the time and at the end.
"""

import argparse
import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import measuring
from rich.console import Console
from tiny_models import save_writing
from transformers import pipeline

import trl_spct

OPTIONS = {"k": 2, "seed": 0, "max_new_tokens": 32, "template": "compact"}
ROWS_PER_CLIENT = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--clients", type=int, default=64)
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        args.port = free.getsockname()[1]
    trl_spct.register()
    with tempfile.TemporaryDirectory() as folder:
        judge = pipeline("grm-reward", model=save_writing(folder), **OPTIONS)
        rows = [
            [{"query": f"{client}-{n}?", "responses": ["good", "bad"]} for n in range(ROWS_PER_CLIENT)]
            for client in range(args.clients)
        ]
        expected = [judge(of_client, batch_size=ROWS_PER_CLIENT) for of_client in rows]
        alone = timed([lambda row=row: judge(row) for of_client in rows[:32] for row in of_client])
        first = [of_client[0] for of_client in rows]
        together = timed([lambda: judge(first, batch_size=len(first))] * 8)
        command = [sys.executable, "-m", "trl_spct.cli", "serve", "--model_name_or_path", folder, "--port", args.port]
        command += [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
        environment = {**os.environ, "PYTHONPATH": str(measuring.ROOT)}
        with tempfile.TemporaryFile() as log:
            server = subprocess.Popen([*map(str, command)], env=environment, stdout=log, stderr=log)
            try:
                found = asyncio.run(load(args, server.pid, rows, expected))
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait(60)
    latencies, memory = found
    lines = [
        f"{args.clients} clients, {args.seconds:g} s: {len(latencies)} answers, all as expected",
        f"answers a second: {len(latencies) / args.seconds:.1f}; bare pipeline: {len(first) / together[0]:.1f}",
        f"server: {shown(quantiles(latencies))}",
        f"pipeline, one row: {shown(alone)}; a row of each client in one call: {shown(together)}",
        f"memory of the server, from a tenth of the time to the end: {', '.join(f'{mb:.0f}' for mb in memory)} MB",
    ]
    Console().print("\n".join(lines), highlight=False, soft_wrap=True)


def timed(calls):
    seconds = []
    for call in calls:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return quantiles(seconds)


def quantiles(seconds):
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def shown(found):
    return f"p50 {found[0]:.3f} s, p99 {found[1]:.3f} s"


def resident_megabytes(process):
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


async def load(args, process, rows, expected):
    latencies, memory = [], []
    url = f"http://127.0.0.1:{args.port}"
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        for _ in range(600):
            try:
                (await client.get("/health")).raise_for_status()
                break
            except httpx.TransportError:
                await asyncio.sleep(0.5)
        end = time.perf_counter() + args.seconds

        async def ask(number):
            turn = 0
            while (started := time.perf_counter()) < end:
                place = turn % ROWS_PER_CLIENT
                response = await client.post("/judge", json=rows[number][place])
                if response.status_code != 200 or response.json() != expected[number][place]:
                    raise SystemExit(f"client {number} got {response.status_code}: {response.text[:500]}")
                latencies.append(time.perf_counter() - started)
                turn += 1

        async def watch():
            await asyncio.sleep(args.seconds / 10)
            while time.perf_counter() < end:
                memory.append(resident_megabytes(process))
                await asyncio.sleep(args.seconds / 10)
            memory.append(resident_megabytes(process))

        await asyncio.gather(watch(), *(ask(number) for number in range(len(rows))))
    return latencies, memory


if __name__ == "__main__":
    main()
