# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Why does plain voting beat guided voting for trained judges, and what makes a Meta RM help them?

python tests/measurements/meta_helps.py --runs outputs/tiny_world --output outputs/meta_helps --seeds 0

Reads finished runs of the tiny world (`tiny_world.py` makes them). Where the SPCT judge is nearly always right,
nothing is left to gain: so it judges rows of its weak cells, the pairs of an audience and an occasion for which its
fresh critiques of training rows were right least often. Queries of training, of the choice of guidance and of the test
are disjoint. Meta RMs:

- `now`: that of the run, from trajectories of stage 1 and fresh critiques of 1,000 rows of any cell
- `more`: `now`, trained on with the SPCT judge's critiques of as many further rows of any cell as `hard` has
- `hard`: `now`, trained on with its critiques of rows of the weak cells
- `margin`: as `hard`, without right critiques whose best response is less than 3 points ahead, which may be luck
- `truth`: as `hard`, labeled by the world: right, and for the right reason. Not to be had outside of it
- `longer`: as `hard`, for eight epochs in place of two

Reported are ROC-AUC of right against wrong critiques, over all and within rows, and guided against plain voting with
the guidance that was chosen for each k on rows of their own. Finished parts are read, not repeated.
"""

import json
from pathlib import Path

from tiny_world import runs_parser

ROWS = {"train": 1500, "dev": 192, "test": 256}
WEAK = 16  # of 64 cells
VOTES, KS, MARGIN = 32, (8, 32), 3
VARIANTS = ("now", "more", "hard", "margin", "truth", "longer")


def cell_of(query: str) -> tuple[str, str]:
    """The audience and the occasion of a query."""
    from tiny.world import AUDIENCES, OCCASIONS

    return tuple(next(name for name in names if name in query) for names in (AUDIENCES, OCCASIONS))


def weak_cells(job) -> list[tuple[str, str]]:
    """The cells whose fresh critiques were right least often."""
    from trl_spct.data.loading import load_named
    from trl_spct.judge.outcomes import is_correct

    cells: dict[tuple[str, str], list[bool]] = {}
    for row in load_named(job.path("fresh_trajectories"))["train"].with_format(None):
        cells.setdefault(cell_of(row["query"]), []).append(is_correct(row["scores"], row["labels"]))
    return sorted(cells, key=lambda cell: sum(cells[cell]) / len(cells[cell]))[:WEAK]


def rows_of(job, split: str, cells: list | None, seed: int) -> list[dict]:
    """Rows of these cells, or of any."""
    from dataclasses import asdict

    from tiny.job import COLUMNS, SIZES

    count = ROWS[split]
    rows = job.world.rows(count if cells is None else 8 * count, split, seed, SIZES)
    rows = [row for row in rows if cells is None or (row.audience, row.occasion) in cells]
    assert len(rows) >= count, f"{len(rows)} of {count} rows"
    return [{name: asdict(row)[name] for name in COLUMNS} for row in rows[:count]]


def collect(job, rows: list[dict], folder: Path):
    from datasets import Dataset
    from tiny.job import MAX_CRITIQUE, TEMPLATE, _common

    from trl_spct import RejectiveSampler, RejectiveSamplerConfig

    args = RejectiveSamplerConfig(
        str(folder / "none"),
        trajectories_dir=str(folder),
        hint="none",
        reject_too_easy=False,
        template=TEMPLATE,
        max_completion_length=MAX_CRITIQUE,
        sampling_batch_size=512,
        **_common(job.seed),
    )
    return RejectiveSampler(job.path("spct"), args=args, train_dataset=Dataset.from_list(rows)).collect()


def training_rows(variant: str, critiques):
    """Rows that a variant's Meta RM is trained on with, from collected critiques."""
    from tiny.world import named_principle

    from trl_spct.data.meta_rows import meta_rows

    rows = meta_rows(critiques, min_margin=MARGIN if variant == "margin" else 0)
    if variant == "truth":
        wanted = dict(zip(critiques["query"], critiques["principle"], strict=True))

        def true_label(row):
            return {"label": int(row["label"] and named_principle(row["critique"]) == wanted[row["query"]])}

        return rows.map(true_label, load_from_cache_file=False)
    return rows


def train(job, rows, folder: Path, epochs: int) -> None:
    from tiny.job import TEMPLATE, _common, _finish

    from trl_spct import MetaRMTrainer, MetaRMTrainingConfig

    args = MetaRMTrainingConfig(
        str(folder),
        template=TEMPLATE,
        learning_rate=5e-4,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=32,
        train_sampling_strategy="group_by_length",
        num_train_epochs=epochs,
        **_common(job.seed),
    )
    _finish(MetaRMTrainer(job.path("meta_rm"), args=args, train_dataset=rows))


def scored(judgments: list, rows: list, name: str) -> list:
    """Judgments with the meta scores of a Meta RM."""
    from dataclasses import replace

    from transformers import AutoTokenizer

    from trl_spct import MetaRMForSequenceClassification
    from trl_spct.judge.meta_scoring import meta_scores
    from trl_spct.judge.prompts import meta_messages
    from trl_spct.judge.sampling import special_tokens

    tokenizer, model = AutoTokenizer.from_pretrained(name), MetaRMForSequenceClassification.from_pretrained(name)
    special = special_tokens(tokenizer)
    pairs = [(row, c) for row, judgment in zip(rows, judgments, strict=True) for c in judgment.critiques if c.scores]
    read = [meta_messages(row.permuted(c.order), c.text, special) for row, c in pairs]
    scores = iter(meta_scores(model.eval(), tokenizer, read, 64))
    return [
        replace(j, critiques=tuple(replace(c, meta_score=next(scores)) if c.scores else c for c in j.critiques))
        for j in judgments
    ]


def separation(judgments: list) -> tuple[float, float]:
    """ROC-AUC of right against wrong critiques, over all and as the mean within rows that have both."""
    from trl_spct.evaluation.statistics import mean, roc_auc
    from trl_spct.judge.outcomes import is_correct

    rows = [
        [(c.meta_score, is_correct(c.scores, judgment.labels)) for c in judgment.critiques if c.scores]
        for judgment in judgments
    ]
    within = [roc_auc(*zip(*row, strict=True)) for row in rows if len({right for _, right in row}) == 2]
    return roc_auc(*zip(*(pair for row in rows for pair in row), strict=True)), mean(within)


def judged(job, rows: list, folder: Path) -> list:
    from transformers import pipeline

    from trl_spct.evaluation.judgments import PipelineJudge, record_judgments

    pipe = pipeline("grm-reward", model=job.path("spct"), device="cpu", meta_rm=None)
    return record_judgments(PipelineJudge(pipe, VOTES, seed=job.seed), rows, folder)


def credits_of(judgments: list, k: int, guidance=None) -> list[float]:
    from trl_spct.evaluation.judgments import credits_at
    from trl_spct.evaluation.statistics import mean

    return [mean(credits_at(judgment, k, guidance)) for judgment in judgments]


def measure(run: Path, seed: int, output: Path) -> dict:
    """By variant: rows learned from, wrong ones among them, separation, and by k plain and guided credits by row."""
    from tiny.job import Job, _quiet

    from trl_spct import Preference, choose_guidance
    from trl_spct.judge.outcomes import is_correct

    left = output / "found.json"
    found = json.loads(left.read_text()) if left.exists() else {}
    if found.keys() >= {*VARIANTS, "facts"}:
        return found
    _quiet()
    job = Job(run, seed, True)
    cells = weak_cells(job)
    rows = {split: [Preference.from_row(row) for row in rows_of(job, split, cells, 7)] for split in ("dev", "test")}
    plain = {split: judged(job, rows[split], output / f"judgments-{split}") for split in rows}
    hard = collect(job, rows_of(job, "train", cells, 8), output / "critiques-hard")
    more = collect(job, rows_of(job, "train", None, 9), output / "critiques-more")
    votes, lost = credits_of(plain["test"], VOTES), []
    for judgment, credit in zip(plain["test"], votes, strict=True):
        if credit < 1:
            lost.append(sum(is_correct(c.scores, judgment.labels) for c in judgment.critiques))
    single = credits_of(plain["test"], 1)
    found["facts"] = {"single": sum(single) / len(single), "lost": lost, "cells": cells}
    for variant in VARIANTS:
        if variant in found:
            continue
        name = Path(job.path("meta_rm")) if variant == "now" else output / variant
        learned: dict = {}
        if variant != "now":
            data = training_rows(variant, more if variant == "more" else hard)
            learned = {"rows": len(data), "wrong": len(data) - sum(data["label"])}
            if not (name / "config.json").exists():
                train(job, data, name, 8 if variant == "longer" else 2)
        dev, test = (scored(plain[split], rows[split], str(name)) for split in ("dev", "test"))
        found[variant] = {**learned, "auc": separation(test)}
        for k in KS:
            chosen = choose_guidance(dev, ks=[k], seed=seed).guidance
            values = {"by": str(chosen), "guided": credits_of(test, k, chosen), "plain": credits_of(test, k)}
            found[variant][str(k)] = values
        left.write_text(json.dumps(found))
    return found


def on_held_out_rows(run: Path) -> str:
    """What there is to gain on the held-out rows of a run, and what its Meta RM knows there."""
    from trl_spct.data.loading import load_named
    from trl_spct.data.meta_rows import meta_rows
    from trl_spct.evaluation.judgments import read_judgments
    from trl_spct.judge.outcomes import is_correct

    judgments = read_judgments(run / "judgments" / f"spct-k{VOTES}-T0.5")
    lost = [j for j, credit in zip(judgments, credits_of(judgments, VOTES), strict=True) if credit < 1]
    hopeless = sum(not any(is_correct(scores, judgment.labels) for scores in judgment.scores) for judgment in lost)
    wrong = list(meta_rows(load_named(str(run / "fresh_trajectories"))["train"])["label"]).count(0)
    auc = "{:.3f}, within rows {:.3f}".format(*separation(judgments))
    return (
        f"held-out rows: {len(lost)} of {len(judgments)} lost or tied, {hopeless} without a right critique; AUC of "
        f"`now` {auc}, from {wrong} wrong critiques of this judge"
    )


def line(name: str, found: dict) -> str:
    from trl_spct.evaluation.statistics import paired_interval

    cells = [f"{found[key]:,}" if key in found else "–" for key in ("rows", "wrong")]
    cells += [f"{value:.3f}" for value in found["auc"]]
    for k in KS:
        at = found[str(k)]
        plain, guided = (100 * sum(at[way]) / len(at[way]) for way in ("plain", "guided"))
        gain = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * g for g in paired_interval(at["plain"], at["guided"])))
        cells += [f"{plain:.1f}", f"{guided:.1f}", at["by"], gain]
    return f"| {name} | {' | '.join(cells)} |"


def pooled(parts: list[dict]) -> dict:
    """The rows of several seeds together."""
    found = {key: sum(part[key] for part in parts) for key in ("rows", "wrong") if key in parts[0]}
    found["auc"] = [sum(values) / len(parts) for values in zip(*(part["auc"] for part in parts), strict=True)]
    for k in map(str, KS):
        found[k] = {way: [value for part in parts for value in part[k][way]] for way in ("plain", "guided")}
        found[k]["by"] = ", ".join(part[k]["by"] for part in parts)
    return found


def main() -> None:
    import torch
    from rich.console import Console

    from trl_spct.evaluation.statistics import paired_interval

    parser = runs_parser(__doc__, "outputs/meta_helps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=250)
    found = {}
    for seed in options.seeds:
        output = options.output / f"seed{seed}"
        output.mkdir(parents=True, exist_ok=True)
        found[seed] = measure(options.runs / f"seed{seed}", seed, output)
    for seed, parts in found.items():
        console.print(f"seed {seed}, {on_held_out_rows(options.runs / f'seed{seed}')}", markup=False)
        lost = parts["facts"]["lost"]
        console.print(
            f"seed {seed}: single critiques {100 * parts['facts']['single']:.1f}; of {ROWS['test']} rows {len(lost)} "
            f"are lost or tied at {VOTES} votes, {sum(count == 0 for count in lost)} of these without a right critique"
        )
    at = " | ".join(f"plain@{k} | guided@{k} | by | gained" for k in KS)
    console.print(f"| seed, Meta RM | learned from | wrong | AUC | within rows | {at} |")
    for seed, parts in found.items():
        for variant in VARIANTS:
            console.print(line(f"{seed}, {variant}", parts[variant]), markup=False)
    for variant in VARIANTS if len(found) > 1 else ():
        console.print(line(f"all, {variant}", pooled([parts[variant] for parts in found.values()])), markup=False)
    for k in map(str, KS):
        guided = [[v for parts in found.values() for v in parts[name][k]["guided"]] for name in ("hard", "margin")]
        gain = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * g for g in paired_interval(*guided)))
        console.print(f"`margin` against `hard`, guided@{k}: {gain}", markup=False)


if __name__ == "__main__":
    main()
