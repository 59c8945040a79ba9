# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Does the Meta RM of one judge help another? On finished runs of the tiny world.

python tests/measurements/meta_transfer.py RUN0 RUN1 RUN2 --seeds 0 1 2

For each judge of a run (base, rft, spct) a Meta RM is trained on three fresh critiques per row of that judge alone,
all of them from the same start and over the same rows, and then guides the vote of every judge over the 32 critiques
per held-out row that the run has kept. Half of the held-out queries choose the guidance, the other half report; the
last lines are over the rows of all seeds. Only rows with two or more responses, on which the run's own Meta RM is
trained. Meta RMs are kept in `--output`, so that a second start trains nothing.
"""

import argparse
import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean

from datasets import Dataset, disable_progress_bars, load_dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, set_seed
from transformers import logging as transformers_logging

from trl_spct import (
    MetaRMForSequenceClassification,
    MetaRMTrainer,
    MetaRMTrainingConfig,
    Preference,
    RejectiveSampler,
    RejectiveSamplerConfig,
)
from trl_spct.data.meta_rows import meta_rows
from trl_spct.data.preparation import split_by_query
from trl_spct.evaluation.guidance import PLAIN, choose_guidance, guidance_table
from trl_spct.evaluation.judgments import Judgment, credits_at
from trl_spct.evaluation.statistics import paired_interval
from trl_spct.judge.meta_scoring import meta_scores
from trl_spct.judge.prompts import meta_messages
from trl_spct.judge.sampling import special_tokens
from trl_spct.judge.voting import Guidance

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
from tiny.job import MAX_CRITIQUE, TEMPLATE, Job  # noqa: E402

JUDGES = ("base", "rft", "spct")
HALF, SOFT = Guidance(), Guidance(guide="soft")
CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
K = 32


def read(folder: Path) -> Dataset:
    return load_dataset("parquet", data_files=f"{folder}/shard-*.parquet", split="train")


def train(job: Job, judge: str, output: Path, seed: int) -> None:
    """A Meta RM on three fresh critiques per row of one judge."""
    if (output / "config.json").exists():
        return
    args = RejectiveSamplerConfig(
        str(output / "sampler"),
        hint="none",
        reject_too_easy=False,
        template=TEMPLATE,
        max_completion_length=MAX_CRITIQUE,
        sampling_batch_size=512,
        seed=seed,
        **CPU,
    )
    rows = job.rows("meta_rm").filter(lambda row: len(row["responses"]) > 1)
    critiques = meta_rows(RejectiveSampler(job.path(judge), args=args, train_dataset=rows).collect())
    set_seed(seed)
    args = MetaRMTrainingConfig(
        str(output),
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=32,
        num_train_epochs=2,
        weight_decay=0.0,
        gradient_checkpointing=False,
        seed=seed,
        **CPU,
    )
    trainer = MetaRMTrainer(job.path("rft"), args=args, train_dataset=critiques)
    trainer.train()
    trainer.save_model()


def score_judgments(
    judgments: list[Judgment], preferences: list[Preference], model, tokenizer, batch_size: int
) -> list[Judgment]:
    """The judgments with the meta scores of another Meta RM."""
    fences = special_tokens(tokenizer)
    conversations = [
        meta_messages(preference.permuted(critique.order or range(len(preference))), critique.text, fences)
        for judgment, preference in zip(judgments, preferences, strict=True)
        for critique in judgment.critiques
        if critique.scores is not None
    ]
    scores = iter(meta_scores(model, tokenizer, conversations, batch_size))
    return [
        replace(
            judgment,
            critiques=tuple(
                replace(critique, meta_score=None if critique.scores is None else next(scores))
                for critique in judgment.critiques
            ),
        )
        for judgment in judgments
    ]


def measure(job: Job, output: Path, seed: int) -> list[dict]:
    rows = job.rows("held_out").add_column("number", list(range(len(job.rows("held_out")))))
    rows = rows.filter(lambda row: len(row["responses"]) > 1)
    choosing, reporting = (part["number"][:] for part in split_by_query(rows, 0.5, seed))
    preferences = {row["number"]: Preference(row["query"], row["responses"], row["labels"]) for row in rows}
    results = []
    for meta in JUDGES:
        model = MetaRMForSequenceClassification.from_pretrained(output / meta)
        tokenizer = AutoTokenizer.from_pretrained(output / meta)
        for judge in JUDGES:
            kept = read(job.folder / "judgments" / f"{judge}-k{K}-T0.5")
            judgments = {record["row"]: Judgment.from_dict(record) for record in kept}
            parts = []
            for numbers in (choosing, reporting):
                chosen = [preferences[n] for n in numbers]
                parts.append(score_judgments([judgments[n] for n in numbers], chosen, model, tokenizer, 128))
            choice = choose_guidance(parts[0], ks=[K], seed=seed)
            ways = [PLAIN, HALF, SOFT, choice.guidance]
            table = guidance_table(parts[1], [K], ways, seed)
            for name, guidance, line in zip(("plain", "half", "soft", "chosen"), ways, table, strict=True):
                credits = [fmean(credits_at(judgment, K, guidance)) for judgment in parts[1]]
                about = {"seed": seed, "meta": meta, "judge": judge, "vote": name, "is": str(Guidance.of(line))}
                results.append({**about, **line, "credits": credits})
    return results


def pooled(results: list[dict]) -> list[dict]:
    """The same lines over the rows of all seeds: accuracy, and the paired difference to plain voting."""
    lines = []
    for meta, judge, vote in product(JUDGES, JUDGES, ("plain", "half", "soft", "chosen")):
        found = {
            name: [
                c
                for line in results
                if (line["meta"], line["judge"], line["vote"]) == (meta, judge, name)
                for c in line["credits"]
            ]
            for name in ("plain", vote)
        }
        difference, low, high = paired_interval(found["plain"], found[vote], seed=0)
        kinds = sorted(
            {line["is"] for line in results if (line["meta"], line["judge"], line["vote"]) == (meta, judge, vote)}
        )
        lines.append(
            {
                "seed": "all",
                "meta": meta,
                "judge": judge,
                "vote": vote,
                "is": ", ".join(kinds),
                "accuracy": fmean(found[vote]),
                "difference": difference,
                "difference_low": low,
                "difference_high": high,
            }
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs of recipes/spct.py, one per seed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/meta_transfer"))
    arguments = parser.parse_args()
    disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    results = []
    for run, seed in zip(arguments.runs, arguments.seeds, strict=True):
        job, output = Job(run, seed, True), arguments.output / f"seed{seed}"
        for judge in JUDGES:
            train(job, judge, output / judge, seed)
        results += measure(job, output, seed)
        (arguments.output / "results.json").write_text(json.dumps(results, indent=2))
    table = Table("seed", "Meta RM of", "guides", "plain", "half", "soft", "chosen", "chosen was")
    lines = results + (pooled(results) if len(arguments.runs) > 1 else [])
    for start in range(0, len(lines), 4):
        plain, half, soft, chosen = lines[start : start + 4]
        cells = [f"{100 * plain['accuracy']:.1f}"]
        for line in (half, soft, chosen):
            ends = f"{100 * line['difference_low']:+.1f} – {100 * line['difference_high']:+.1f}"
            cells.append(f"{100 * line['difference']:+.1f} ({ends})")
        table.add_row(str(plain["seed"]), plain["meta"], plain["judge"], *cells, chosen["is"])
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
