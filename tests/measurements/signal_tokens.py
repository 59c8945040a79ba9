# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
How many generated tokens does GRPO need to a given accuracy, and what is saved by rows that carry signal?

python tests/measurements/signal_tokens.py --runs outputs/tiny_world --output outputs/signal_tokens

Starts from the rejectively fine-tuned judges of finished runs of the tiny world (`tiny_world.py` makes them), in two
ways: plain GRPO, and without the rows that the judge gets right 3 of 3 times (the paper's filter, `easy_judge`, with
the judge itself as judge). Every token that is generated counts, those of the filter's own critiques too. Accuracy is
that of single critiques of held-out rows at T = 0.5, the mean of four. Runs write as they go; finished ones are read,
not repeated.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "recipes"))

SEEDS = (0, 1, 2)
VARIANTS = ("plain", "filter")
TARGETS = (0.80, 0.85, 0.88, 0.90, 0.92)
BUDGET, EVERY = 300_000, 30_000
"""Generated tokens of a run, and from one evaluation to the next."""
VOTES = 4

Curves = dict[tuple[int, int, str], list[dict]]
"""Of each world, repeat and variant."""


def train(runs: Path, output: Path, seed: int, repeat: int, variant: str) -> list[dict]:
    """One run's curve: tokens generated, accuracy and steps at each evaluation."""
    path = output / f"seed{seed}-{repeat}-{variant}.jsonl"
    curve = read_curve(path)
    if curve and curve[-1]["tokens"] >= BUDGET:
        return curve
    from tiny.job import MAX_CRITIQUE, TEMPLATE, Job, _common, _quiet
    from transformers import TrainerCallback

    from trl_spct import SPCTConfig, SPCTTrainer

    _quiet()
    job = Job(runs / f"seed{seed}", seed, True)
    judge = job.path("rft")
    rows, held_out = job.rows("spct"), job.rows("held_out")
    spent = 0
    if variant == "filter":
        kept, spent = hard_rows(rows, judge, output / f"seed{seed}-{repeat}-filter.json", seed + 1000 * repeat)
        rows = rows.select(kept)

    args = SPCTConfig(
        str(output / "run"),
        template=TEMPLATE,
        max_completion_length=MAX_CRITIQUE,
        beta=0.04,
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        per_device_train_batch_size=64,
        max_steps=100_000,
        **{**_common(seed + 1000 * repeat), "logging_strategy": "no", "disable_tqdm": True},
    )

    class Counting(SPCTTrainer):
        tokens = spent

        def _generate_single_turn(self, *args, **kwargs):
            made = super()._generate_single_turn(*args, **kwargs)
            self.tokens += sum(map(len, made[0]))
            return made

    trainer = Counting(judge, args=args, train_dataset=rows)

    class Curve(TrainerCallback):
        due = 0

        def on_train_begin(self, args, state, control, **kwargs):
            self.on_step_end(args, state, control)

        def on_step_end(self, args, state, control, **kwargs):
            if trainer.tokens >= self.due:
                votes = accuracies(trainer, held_out)
                point = {"tokens": trainer.tokens, "steps": state.global_step, "rows": len(rows), **votes}
                with path.open("a") as file:
                    file.write(json.dumps(point) + "\n")
                self.due = EVERY * (trainer.tokens // EVERY + 1)
            control.should_training_stop = trainer.tokens >= BUDGET

    path.unlink(missing_ok=True)
    trainer.add_callback(Curve())
    trainer.train()
    return read_curve(path)


def accuracies(trainer, rows) -> dict[str, float]:
    """Accuracy of the votes of k critiques, by `"vote@k"`."""
    from tiny.job import MAX_CRITIQUE, TEMPLATE

    from trl_spct import GRMRewardPipeline, Preference
    from trl_spct.evaluation.judgments import PipelineJudge, scaling_results

    pipe = GRMRewardPipeline(trainer.model, trainer.processing_class, meta_rm=None)
    judge = PipelineJudge(pipe, VOTES, seed=trainer.args.seed, template=TEMPLATE, max_new_tokens=MAX_CRITIQUE)
    preferences = [Preference.from_row(row) for row in rows]
    judgments = [replace(j, labels=p.labels) for j, p in zip(judge(preferences), preferences, strict=True)]
    return {f"vote@{result['k']}": result["accuracy"] for result in scaling_results(judgments, seed=trainer.args.seed)}


def hard_rows(rows, judge: str, path: Path, seed: int) -> tuple[list[int], int]:
    """(the rows that the judge does not get right 3 of 3 times, the tokens that it takes to know)."""
    if path.exists():
        return tuple(json.loads(path.read_text()))
    from tiny.job import MAX_CRITIQUE, TEMPLATE
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trl_spct.data.preparation import prepare_judge_rows
    from trl_spct.judge.sampling import sample_critiques
    from trl_spct.trainers.filtering import without_too_easy

    model, tokenizer = AutoModelForCausalLM.from_pretrained(judge), AutoTokenizer.from_pretrained(judge)
    numbered = rows.add_column("number", list(range(len(rows))))
    prepared = prepare_judge_rows(numbered, tokenizer, template=TEMPLATE, seed=seed).dataset
    tokens = 0

    def sampler(prompts, k, seed):
        nonlocal tokens
        drawn = sample_critiques(model, tokenizer, prompts, k, seed, temperature=1.0, max_new_tokens=MAX_CRITIQUE)
        tokens += sum(sample.num_tokens for samples in drawn for sample in samples)
        return drawn

    kept = without_too_easy(prepared, sampler, template=TEMPLATE, seed=seed)["number"]
    path.write_text(json.dumps([list(kept), tokens]))
    return list(kept), tokens


def read_curve(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def reached(curve: Sequence[dict], target: float, axis: str = "tokens") -> float | None:
    """Where the curve, smoothed over three points, first reaches an accuracy; `None` if nowhere."""
    values = [statistics.mean(p["vote@1"] for p in curve[max(0, i - 1) : i + 2]) for i in range(len(curve))]
    points = list(zip((p[axis] for p in curve), values, strict=True))
    if points[0][1] >= target:
        return points[0][0]
    for (start, low), (end, high) in pairwise(points):
        if low < target <= high:
            return start + (end - start) * (target - low) / (high - low)
    return None


def table(curves: Curves) -> str:
    """Thousands of tokens (the filter's too) / optimizer steps to each accuracy, and how runs end."""
    lines = [
        f"| seed | variant | rows | filter | {_heads()} | accuracy at the end |",
        "|---" * (5 + len(TARGETS)) + "|",
    ]
    for (seed, repeat, variant), curve in curves.items():
        end = 100 * statistics.mean(point["vote@1"] for point in curve[-3:])
        name = f"{seed}" if not repeat else f"{seed}, {repeat}"
        cells = [name, variant, str(curve[0]["rows"]), f"{curve[0]['tokens'] / 1000:.0f}"]
        for target in TARGETS:
            tokens, steps = reached(curve, target), reached(curve, target, "steps")
            cells.append("–" if tokens is None else f"{tokens / 1000:.0f} / {steps:.0f}")
        lines.append(f"| {' | '.join(cells)} | {end:.1f} |")
    return "\n".join(lines)


def summary(curves: Curves) -> str:
    """Tokens and steps as a share of plain GRPO's, where both arrive: geometric mean, least and most over runs."""
    lines = [f"| filter, of plain's | {_heads()} |", "|---" * (1 + len(TARGETS)) + "|"]
    for axis in ("tokens", "steps"):
        cells = []
        for target in TARGETS:
            shares = []
            for (seed, repeat, name), curve in curves.items():
                filtered, plain = (reached(c, target, axis) for c in (curve, curves[seed, repeat, "plain"]))
                if name == "filter" and filtered and plain:
                    shares.append(filtered / plain)
            spread = f"({min(shares):.2f}–{max(shares):.2f}; {len(shares)})" if shares else ""
            cells.append(f"{statistics.geometric_mean(shares):.2f} {spread}" if shares else "–")
        lines.append(f"| {axis} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _heads() -> str:
    return " | ".join(f"to {target:.0%}" for target in TARGETS)


def main() -> None:
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/tiny_world"))
    parser.add_argument("--output", type=Path, default=Path("outputs/signal_tokens"))
    parser.add_argument("--repeats", type=int, default=1, help="training runs per world and variant")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    curves: Curves = {}
    console = Console(width=200)
    for repeat in range(options.repeats):
        for seed in SEEDS:
            for variant in VARIANTS:
                curves[seed, repeat, variant] = train(options.runs, options.output, seed, repeat, variant)
        console.print(table(curves))
        console.print(summary(curves))


if __name__ == "__main__":
    main()
