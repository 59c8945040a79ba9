# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""`label_ray.py` on local Ray with two workers beside `label.py` with two processes: judgments, speed, restarts.

Rounds alternate. Speed is that of judging: rows of all shards but the first of each worker over the time from the
first shard to the last, without the start of the processes, which the total includes. Then a run loses a worker and
its driver by SIGKILL and is started again: no shard may be written twice, and its judgments are compared, too.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from measuring import ROOT  # isort: skip

import pyarrow.parquet as pq
from datasets import Dataset
from rich.console import Console
from tiny.world import World

from trl_spct.data.loading import load_rows
from trl_spct.judge.orders import count_occurrences
from trl_spct.labeling.judgments import JUDGMENT_FEATURES, labeling_job
from trl_spct.labeling.rows import prepare_rows
from trl_spct.labeling.writing import write_labels


def show(line):
    Console(soft_wrap=True, highlight=False).print(line)


def main(args):
    output, base = Path(args.output), World(0).rows(args.rows, "test", seed=1)
    output.mkdir(parents=True, exist_ok=True)
    rows = output / "rows.jsonl"
    rows.write_text("".join(json.dumps({"query": r.query, "responses": r.responses}) + "\n" for r in base))
    options = ["--model_name_or_path", args.model, "--meta_rm", args.meta_rm, "--dataset_name", rows, "--k", args.k]
    options += ["--rows_per_shard", args.rows_per_shard, "--output_dir"]
    ray = [sys.executable, ROOT / "recipes" / "label_ray.py", *options]
    label = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    label += [ROOT / "recipes" / "label.py", *options]
    speeds = {"label": [], "ray": []}
    for number in range(args.rounds):
        for name, command in (("label", label), ("ray", [*ray[:2], "--num_workers", "2", *ray[2:]])):
            folder, started = output / f"{name}{number}", time.time()
            shutil.rmtree(folder, ignore_errors=True)
            finish(start([*command, folder], output / f"{name}{number}.log"))
            times = sorted(path.stat().st_mtime for path in (folder / "judgments").glob("shard-*"))
            judged = (len(times) - 2) * args.rows_per_shard
            speeds[name].append(judged / (times[-1] - times[1]))
            show(
                f"{name} {number}: {speeds[name][-1]:.2f} rows a second, {time.time() - started:.0f} s in all",
            )
    if args.rounds:
        ratios = [b / a for a, b in zip(speeds["label"], speeds["ray"], strict=True)]
        show(f"ray to label by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    interrupted(ray, output / "killed", output / "killed.log")
    driver_costs(rows, output / "killed", args.rows_per_shard)
    expected = stored(output / "label0")
    for name in ("killed", *(f"ray{number}" for number in range(args.rounds))):
        same = stored(output / name) == expected
        show(f"{name}: {len(expected)} judgments, {'equal' if same else 'NOT EQUAL'} to those of label")


def interrupted(command, folder, log):
    """Kills one worker, then the driver, and starts again."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [*command[:2], "--num_workers", "2", *command[2:], folder]
    driver = start(command, log)
    victim = wait_for(lambda: count(folder) >= 4 and workers(driver.pid))[0]
    os.kill(victim, signal.SIGKILL)
    there = count(folder)
    wait_for(lambda: count(folder) >= there + 4)
    show(f"a worker was killed with {there} shards written; {count(folder)} were written a little later")
    driver.kill()
    driver.wait()
    wait_for(lambda: not alive(victim))
    time.sleep(10)  # workers end with their cluster
    kept = {path: path.stat().st_mtime_ns for path in (folder / "judgments").glob("shard-*")}
    finish(start(command, log))
    again = [path.name for path, written in kept.items() if path.stat().st_mtime_ns != written]
    show(f"the driver was killed with {len(kept)} shards written, of which {len(again)} were written again")


def start(command, log):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
    with open(log, "a") as file:
        return subprocess.Popen([*map(str, command)], stdout=file, stderr=file, env=environment)


def finish(process):
    if process.wait():
        raise RuntimeError(f"{process.args} ended with {process.returncode}; see its log.")


def stored(folder):
    paths = sorted((folder / "judgments").glob("shard-*.parquet"))
    return [record for path in paths for record in pq.read_table(path).to_pylist()]


def driver_costs(rows, folder, rows_per_shard):
    """CPU milliseconds a row of what one process does for all rows, before the first is judged and after the last."""
    parts, started = {}, time.process_time()

    def lap(name):
        nonlocal started
        parts[name], started = 1000 * (time.process_time() - started) / args.rows, time.process_time()

    prepared = prepare_rows(load_rows(str(rows), None, ["train"])["train"])
    lap("read and checked")
    labeling_job({}, prepared, folder.with_name("empty"), rows_per_shard)
    lap("manifest")
    count_occurrences(prepared)
    lap("equal rows counted")
    judgments = Dataset.from_list(stored(folder), JUDGMENT_FEATURES)
    started = time.process_time()
    write_labels(prepared, judgments, folder.with_name("again"))
    lap("labels written")
    size = sum(path.stat().st_size for path in (folder / "judgments").glob("shard-*")) / args.rows / 1024
    show(f"the driver, CPU ms a row: {parts}; {size:.1f} KiB of judgments a row")


def count(folder):
    return len(list((folder / "judgments").glob("shard-*.parquet")))


def workers(driver):
    """Processes of actors that judge, below a driver."""
    lines = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    table = {int(pid): (int(parent), name) for pid, parent, name in (line.split(None, 2) for line in lines[1:])}

    def below(pid):
        return pid == driver or (pid in table and below(table[pid][0]))

    return [pid for pid, (_, name) in table.items() if name.startswith("ray::MapWorker") and below(pid)]


def alive(pid):
    return os.path.exists(f"/proc/{pid}")


def wait_for(condition, seconds=1800):
    until = time.time() + seconds
    while not (value := condition()):
        if time.time() > until:
            raise TimeoutError("Nothing happened.")
        time.sleep(0.2)
    return value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--meta_rm", required=True)
    parser.add_argument("--output", default="outputs/ray_labeling")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--rows_per_shard", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    main(args)
