# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
The main job for three seeds, and once without principles: does the paper's shape show, what is shuffling worth, and
does a critique depend on its principle?

python tests/measurements/tiny_world.py --output outputs/tiny_world

About six minutes a run on two cores; what is finished in the folder is read, not repeated.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl_spct import Preference
from trl_spct.evaluation.judgments import Judgment, PipelineJudge, credits_at, read_judgments, record_judgments
from trl_spct.evaluation.statistics import paired_interval
from trl_spct.judge.outcomes import credit
from trl_spct.judge.prompts import judge_template
from trl_spct.judge.voting import Guidance

RECIPE = Path(__file__).parents[2] / "recipes/spct.py"
sys.path.insert(0, str(RECIPE.parent))
SEEDS = (0, 1, 2)
STAGES = ("base", "rft", "spct")


def run_all(folder: Path) -> dict[str, tuple[list[dict], dict]]:
    """(results, report) by run: `"0"`, `"1"`, `"2"` and `"no principles"`."""
    runs = {str(seed): {"output_dir": str(folder / f"seed{seed}"), "seed": seed} for seed in SEEDS}
    runs["no principles"] = {"output_dir": str(folder / "no_principles"), "seed": 0, "principles": False}
    found = {}
    for name, options in runs.items():
        arguments = [part for key, value in options.items() for part in (f"--{key}", str(value).lower())]
        subprocess.run([sys.executable, str(RECIPE), *arguments], check=True)  # two processes, as a user starts it
        files = (Path(options["output_dir"]) / file for file in ("results.json", "report.json"))
        results, report = (json.loads(file.read_text()) for file in files)
        if name != "no principles":
            for stage, shares in given_principles(Path(options["output_dir"]), options["seed"]).items():
                report[stage].update(shares)
        found[name] = results, report
    return found


def given_principles(run: Path, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy of each judge when its critique begins with a given principle and it continues greedily."""
    from tiny.job import Job

    left = run / "given_principles.json"
    if not left.exists():
        job, shares = Job(run, seed, True), {}
        for stage in STAGES:
            shares[stage] = {
                f"accuracy_given_the_{name}_principle": statistics.mean(
                    continued(job, job.path(stage), lambda _, row, name=attribute: given(getattr(row, name)))
                )
                for name, attribute in (("wanted", "principle"), ("unwanted", "unwanted"))
            }
        left.write_text(json.dumps(shares))
    return json.loads(left.read_text())


def greedy_texts(model: str, conversations: list, max_new_tokens: int, **how: bool) -> list[str]:
    """What a judge writes behind each conversation; `how` is for its chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    judge, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    prompts = [tokenizer.apply_chat_template(turns, tokenize=False, **how) for turns in conversations]
    inputs = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    outputs = judge.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    return tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def continued(job, model: str, begin: Callable[[int, Any], str]) -> list[float]:
    """The credit of greedy critiques of the held-out rows that begin with `begin(number, row)`."""
    from tiny.job import MAX_CRITIQUE, TEMPLATE, _judged, rows_of

    rows = rows_of(job.world, "held_out")
    conversations = [_judged(row, begin(number, row)) for number, row in enumerate(rows)]
    credits = []
    for text, row in zip(
        greedy_texts(model, conversations, MAX_CRITIQUE, continue_final_message=True), rows, strict=True
    ):
        n = len(row.labels)
        scores = judge_template(TEMPLATE, binary=n == 1).parse(text, n).scores
        credits.append(credit(scores, row.labels))
    return credits


def given(principle: str) -> str:
    """The beginning of a critique that names this principle."""
    from tiny.world import REFLECTION

    return f"Specific Criteria: {REFLECTION}, {principle} (weight 4).\n"


def runs_parser(doc: str | None, output: str) -> argparse.ArgumentParser:
    """The options of measurements that read finished runs."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("outputs/tiny_world"))
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    return parser


def unshuffled(run: Path, seed: int) -> list[Judgment]:
    """Held-out rows read by the base judge in their own order, k = 8."""
    from tiny.job import Job
    from transformers import pipeline

    judge = pipeline("grm-reward", model=str(run / "base"), device="cpu")
    rows = map(Preference.from_row, Job(run, seed, True).rows("held_out"))
    return record_judgments(PipelineJudge(judge, 8, order="fixed", seed=seed), rows, run / "unshuffled")


def result(results: list[dict], stage: str, k: int, guided: bool = False, temperature: float = 0.5) -> dict:
    wanted = {"stage": stage, "k": k, "guided": guided, "temperature": temperature}
    return next(r for r in results if all(r[name] == value for name, value in wanted.items()))


def table(found: dict[str, tuple[list[dict], dict]]) -> str:
    """Accuracy in percent with 95 % intervals, as Markdown."""
    lines = [
        "| seed | stage | greedy | Voting@1 | @8 | @32 | guided@32 | by | gained | names the wanted principle "
        "| right if it does / if not | given the wanted / unwanted one |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (results, report) in found.items():
        for stage in STAGES:
            cells = [_interval(result(results, stage, 1, temperature=0.0))]
            cells += [_interval(result(results, stage, k)) for k in (1, 8, 32)]
            cells.append(_interval(result(results, stage, 32, guided=True)))
            said = report[stage]
            cells += [str(Guidance.of(said["guided"]["chosen"])), _gain(said["guided"]["chosen"])]
            if "accuracy_given_the_wanted_principle" in said:
                cells.append(_percent(said["names_the_wanted_principle"]))
                cells.append(_pair(said, "accuracy_with_wanted_principle", "accuracy_with_another_principle"))
                cells.append(
                    _pair(said, "accuracy_given_the_wanted_principle", "accuracy_given_the_unwanted_principle")
                )
            else:
                cells += ["–"] * 3
            lines.append(f"| {name} | {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shuffling(folder: Path) -> dict[str, tuple[float, float, float]]:
    """What shuffling gains the base judge's Voting@8 over reading each row in its own order: (gain, low, high)."""
    gains, shuffled, fixed = {}, [], []
    for seed in SEEDS:
        run = folder / f"seed{seed}"
        pair = unshuffled(run, seed), read_judgments(run / "judgments" / "base-k32-T0.5")
        by_row = [[statistics.mean(credits_at(judgment, 8)) for judgment in judged] for judged in pair]
        fixed, shuffled = fixed + by_row[0], shuffled + by_row[1]
        gains[f"seed {seed}"] = paired_interval(*by_row)
    return {**gains, "all rows": paired_interval(fixed, shuffled)}


def _difference(found: tuple[float, float, float]) -> str:
    gained, low, high = (100 * value for value in found)
    return f"{gained:+.1f} ({low:+.1f} to {high:+.1f})"


def _interval(found: dict) -> str:
    return f"{100 * found['accuracy']:.1f} ({100 * found['low']:.1f}–{100 * found['high']:.1f})"


def _gain(line: dict) -> str:
    """What the chosen guidance gained over plain voting on the same rows."""
    if line["k_meta"] == 1:
        return "–"
    return _difference((line["difference"], line["difference_low"], line["difference_high"]))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _pair(report: dict, first: str, second: str) -> str:
    return f"{_percent(report[first])} / {_percent(report[second])}"


def main() -> None:
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/tiny_world"))
    output = parser.parse_args().output
    found = run_all(output)
    console = Console(width=200)
    console.print(table(found))
    console.print("Voting@8 of the base judges, shuffled against unshuffled:")
    for name, gain in shuffling(output).items():
        console.print(f"{name}: {_difference(gain)}")


if __name__ == "__main__":
    main()
