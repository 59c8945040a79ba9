# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Is a right judgment right for the right reason, and does a Meta RM in the reward of RL help?

python tests/measurements/fidelity.py --runs outputs/tiny_world --output outputs/fidelity

Starts from the rejectively fine-tuned judges of finished runs of the tiny world (`tiny_world.py` makes them), where
the principle that a query wants is known. A Meta RM learns from their own unhinted trajectories; then three judges are
trained at equal steps: by the outcome alone (the paper's reward), and times or gated by the Meta RM's word. Reported
on held-out rows, k = 8: accuracy of single critiques; the share that is right and names the wanted principle; the
difference to the outcome reward, paired by rows; and how well the Meta RM tells right from wrong reasons among right
critiques (ROC-AUC against the world). Finished parts are read, not repeated.
"""

import argparse
import json
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

SEEDS = (0, 1, 2)
STEPS, VOTES = 60, 8
REWARDS = {"outcome": {}, "product": {"meta_reward": "product"}, "gate": {"meta_reward": "gate"}}


def train_meta_rm(job, folder: Path) -> None:
    from tiny.job import TEMPLATE, _common, _finish

    from trl_spct import MetaRMTrainer, MetaRMTrainingConfig
    from trl_spct.data.loading import load_named
    from trl_spct.data.meta_rows import meta_rows

    args = MetaRMTrainingConfig(
        str(folder),
        template=TEMPLATE,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=32,
        train_sampling_strategy="group_by_length",
        num_train_epochs=2,
        **_common(job.seed),
    )
    rows = meta_rows(load_named(job.path("trajectories"))["train"])
    _finish(MetaRMTrainer(job.path("rft"), args=args, train_dataset=rows))


def reinforce(job, folder: Path, meta_rm: Path, options: dict) -> None:
    from tiny.job import MAX_CRITIQUE, TEMPLATE, _common, _finish

    from trl_spct import SPCTConfig, SPCTTrainer

    args = SPCTConfig(
        str(folder),
        template=TEMPLATE,
        max_completion_length=MAX_CRITIQUE,
        beta=0.04,
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        per_device_train_batch_size=128,
        max_steps=STEPS,
        meta_rm=str(meta_rm) if options else None,
        **options,
        **{**_common(job.seed), "save_steps": 20},
    )
    _finish(SPCTTrainer(job.path("rft"), args=args, train_dataset=job.rows("spct")))


def judge(job, model: str, meta_rm: Path, folder: Path) -> list:
    from transformers import pipeline

    from trl_spct import Preference
    from trl_spct.evaluation.judgments import PipelineJudge, record_judgments

    pipe = pipeline("grm-reward", model=model, meta_rm=str(meta_rm), device="cpu")
    rows = map(Preference.from_row, job.rows("held_out"))
    return record_judgments(PipelineJudge(pipe, VOTES, seed=job.seed), rows, folder, rows_per_shard=64)


def shares(judgments: list, rows: list[dict]) -> dict[str, list]:
    """For each critique whether it is right and has the wanted principle, its Meta score; and its row's number."""
    from tiny.world import named_principle

    from trl_spct.judge.outcomes import is_correct

    found: dict[str, list] = {"row": [], "right": [], "reason": [], "meta": []}
    for number, (judgment, row) in enumerate(zip(judgments, rows, strict=True)):
        for critique in judgment.critiques:
            found["row"].append(number)
            found["right"].append(is_correct(critique.scores, judgment.labels))
            found["reason"].append(named_principle(critique.text) == row["principle"])
            found["meta"].append(critique.meta_score)
    return found


def by_row(found: dict[str, list], wanted) -> list[float]:
    """The share of each row's critiques with `wanted(right, reason)`."""
    rows: dict[int, list[bool]] = {}
    for row, right, reason in zip(found["row"], found["right"], found["reason"], strict=True):
        rows.setdefault(row, []).append(wanted(right, reason))
    return [sum(values) / len(values) for values in rows.values()]


def line(name: str, found: dict[str, list], base: dict[str, list]) -> str:
    from trl_spct.evaluation.statistics import paired_interval, roc_auc

    kinds = {
        "right": lambda right, reason: right,
        "for the right reason": lambda right, reason: right and reason,
        "for a wrong reason": lambda right, reason: right and not reason,
    }
    cells = []
    for kind in kinds.values():
        values, paper = by_row(found, kind), by_row(base, kind)
        gain = paired_interval(paper, values)
        cells.append(f"{100 * sum(values) / len(values):.1f}")
        cells.append("–" if found is base else "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * g for g in gain)))
    scored = [(m, r) for m, r, ok in zip(found["meta"], found["reason"], found["right"], strict=True) if ok]
    auc = roc_auc([score for score, _ in scored], [int(reason) for _, reason in scored])
    return f"| {name} | {' | '.join(cells)} | {auc:.3f} |"


def measure(run: Path, seed: int, output: Path) -> dict[str, dict[str, list]]:
    from tiny.job import Job, _quiet

    left = output / "shares.json"
    if not left.exists():
        _quiet()
        job, meta_rm = Job(run, seed, True), output / "meta_rm"
        if not (meta_rm / "config.json").exists():
            train_meta_rm(job, meta_rm)
        models, rows, found = {"rft": job.path("rft")}, list(job.rows("held_out")), {}
        for name, options in REWARDS.items():
            models[name] = str(output / name)
            if not (output / name / "config.json").exists():
                reinforce(job, output / name, meta_rm, options)
        for name, model in models.items():
            found[name] = shares(judge(job, model, meta_rm, output / "judgments" / name), rows)
        left.write_text(json.dumps(found))
    return json.loads(left.read_text())


def main() -> None:
    import torch
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("outputs/tiny_world"))
    parser.add_argument("--output", type=Path, default=Path("outputs/fidelity"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=220)
    found = {s: measure(options.runs / f"seed{s}", s, options.output / f"seed{s}") for s in options.seeds}
    together: dict[str, dict[str, list]] = {}
    for number, parts in enumerate(found.values()):
        for name, part in parts.items():
            merged = together.setdefault(name, {key: [] for key in part})
            for key, values in part.items():
                merged[key] += [(number, value) for value in values] if key == "row" else values
    console.print(
        "| seed, reward | right | − outcome | for the right reason | − outcome | for a wrong one | − outcome | AUC |"
    )
    for seed, parts in (*found.items(), ("all", together)):
        for name, part in parts.items():
            console.print(line(f"{seed}, {name}", part, parts["outcome"]), markup=False)


if __name__ == "__main__":
    main()
