# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Is a right judgment right for the right reason, and does a Meta RM in the reward of RL help?

python tests/measurements/fidelity.py --runs outputs/tiny_world --output outputs/fidelity

`--single` repeats it on rows of one response, where a wrong reason is often right by luck. About four minutes a seed
on one core.

Starts from the rejectively fine-tuned judges of finished runs of the tiny world (`tiny_world.py` makes them), where
the principle that a query wants is known. A Meta RM learns from their own unhinted trajectories; then three judges are
trained at equal steps: by the outcome alone (the paper's reward), and times or gated by the Meta RM's word. Reported
on held-out rows, k = 8: accuracy of single critiques; the share that is right and names the wanted principle; the
difference to the outcome reward, paired by rows; how well the Meta RM, and a generative meta-judge that learned from
the same labels, tell right from wrong reasons among right critiques (ROC-AUC against the world); and costs of steps.
Finished parts are read, not repeated.
"""

import json
import time
from pathlib import Path

from tiny_world import runs_parser

STEPS, VOTES, META_VOTES = 60, 8, 8
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


def rows_of(job, part: str, single: bool):
    """Rows of a part of the job; or as many of one response each, where wrong reasons are often right by luck."""
    from dataclasses import asdict

    from datasets import Dataset
    from tiny.job import COLUMNS, ROWS, SPLITS

    if not single:
        return job.rows(part)
    rows = job.world.rows(ROWS[part], SPLITS.get(part, "train"), seed=list(ROWS).index(part), sizes=(1,))
    return Dataset.from_list([{name: asdict(row)[name] for name in COLUMNS} for row in rows])


def reinforce(job, folder: Path, meta_rm: Path, options: dict, rows) -> None:
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
    trainer, seconds = SPCTTrainer(job.path("rft"), args=args, train_dataset=rows), [0.0]
    meta = trainer.outcome.meta
    if meta is not None:
        trainer.outcome.meta = timed(meta, seconds)
    started = time.process_time()
    _finish(trainer)
    # CPU seconds of this process, and of them those in the Meta RM; of a resumed run no cost is known.
    cost = {"step": (time.process_time() - started) / STEPS, "meta_rm": seconds[0] / STEPS}
    (folder / "cost.json").write_text(json.dumps(cost))


def timed(meta, seconds: list[float]):
    def read(preferences, critiques):
        started = time.process_time()
        scores = meta(preferences, critiques)
        seconds[0] += time.process_time() - started
        return scores

    read.reward = meta.reward
    return read


def judge(job, model: str, meta_rm: Path, folder: Path, rows) -> list:
    from transformers import pipeline

    from trl_spct import Preference
    from trl_spct.evaluation.judgments import PipelineJudge, record_judgments

    pipe = pipeline("grm-reward", model=model, meta_rm=str(meta_rm), device="cpu")
    rows = map(Preference.from_row, rows)
    return record_judgments(PipelineJudge(pipe, VOTES, seed=job.seed), rows, folder, rows_per_shard=64)


def train_meta_judge(job, folder: Path) -> None:
    """The generative meta-judge: it learns to write 1 or 0 under critiques, from the Meta RM's rows and labels."""
    import torch
    from datasets import Dataset
    from tiny.job import TEMPLATE, _assistant, _common, _tokenized, _trained
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from trl_spct import Preference, judge_messages
    from trl_spct.data.loading import load_named
    from trl_spct.data.meta_rows import meta_rows
    from trl_spct.evaluation.fidelity import analysis
    from trl_spct.judge.critiques import Critique
    from trl_spct.judge.sampling import special_tokens

    torch.manual_seed(job.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.path("rft"))
    conversations = []
    for row in meta_rows(load_named(job.path("trajectories"))["train"]):
        read = Preference(row["query"], tuple(row["responses"]))
        read = analysis(read, Critique(row["critique"], order=tuple(row["read_order"])), None)
        prompt = judge_messages(read, TEMPLATE, binary=True, special_tokens=special_tokens(tokenizer))
        conversations.append([*prompt, _assistant(rf"Scores: \boxed{{{row['label']}}}")])
    args = TrainingArguments(
        str(folder),
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=32,
        num_train_epochs=2,
        **_common(job.seed),
    )
    rows = Dataset.from_list(_tokenized(tokenizer, conversations))
    model = AutoModelForCausalLM.from_pretrained(job.path("rft"))
    _trained(Trainer(model, args, DataCollatorForSeq2Seq(tokenizer), rows, processing_class=tokenizer)).save_model()


def meta_judge_scores(job, judgments: list, model: Path, folder: Path, rows) -> list[float | None]:
    """The generative meta-judge's scores of all right critiques."""
    from transformers import pipeline

    from trl_spct import Preference
    from trl_spct.evaluation.fidelity import meta_judged
    from trl_spct.evaluation.judgments import PipelineJudge

    if not (model / "model.safetensors").exists():
        train_meta_judge(job, model)
    pipe = pipeline("grm-reward", model=str(model), device="cpu", max_new_tokens=12)
    judge = PipelineJudge(pipe, META_VOTES, temperature=1.0, seed=job.seed)
    judged = meta_judged(judgments, map(Preference.from_row, rows), judge, folder, None, rows_per_shard=256)
    return [critique.meta_score for judgment in judged for critique in judgment.critiques]


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
    from trl_spct.evaluation.statistics import paired_interval

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
    return f"| {name} | {' | '.join(cells)} | {agreement(found, 'meta')} |"


def agreement(found: dict[str, list], reader: str) -> str:
    """ROC-AUC of a reader's scores against the world's truth about the reasons of right critiques."""
    from trl_spct.evaluation.statistics import roc_auc

    read = zip(found[reader], found["reason"], found["right"], strict=True)
    scores, reasons = zip(*((score, reason) for score, reason, right in read if right and score is not None))
    return f"{roc_auc(scores, reasons):.3f}"


def readers_line(name: str, found: dict[str, list]) -> str:
    """Who says that a right critique's reason is sound: the world, the Meta RM and the meta-judge."""
    right = [place for place, is_right in enumerate(found["right"]) if is_right]
    cells = [f"{100 * sum(found['reason'][i] for i in right) / len(right):.1f}"]
    for reader in ("meta", "meta_judge"):
        scores = [score for i in right if (score := found[reader][i]) is not None]
        cells += [f"{100 * sum(score > 0 for score in scores) / len(scores):.1f}", agreement(found, reader)]
    return f"| {name} | {' | '.join(cells)} |"


def measure(run: Path, seed: int, home: Path, single: bool) -> dict[str, dict[str, list]]:
    from tiny.job import Job, _quiet

    from trl_spct.evaluation.judgments import read_judgments

    job, output = Job(run, seed, True), home / "single" if single else home
    left, rows = output / "shares.json", list(rows_of(job, "held_out", single))
    if not left.exists():
        _quiet()
        meta_rm = home / "meta_rm"
        if not (meta_rm / "config.json").exists():
            train_meta_rm(job, meta_rm)
        models, found = {"rft": job.path("rft")}, {}
        for name, options in REWARDS.items():
            models[name] = str(output / name)
            if not (output / name / "config.json").exists():
                reinforce(job, output / name, meta_rm, options, rows_of(job, "spct", single))
        for name, model in models.items():
            found[name] = shares(judge(job, model, meta_rm, output / "judgments" / name, rows), rows)
        left.write_text(json.dumps(found))
    found, second = json.loads(left.read_text()), output / "meta_judge.json"
    if not second.exists():
        _quiet()
        folder = output / "judgments"
        judgments = read_judgments(folder / "rft")
        scores = meta_judge_scores(job, judgments, home / "meta_judge", folder / "meta_judge", rows)
        second.write_text(json.dumps(scores))
    found["rft"]["meta_judge"] = json.loads(second.read_text())
    return found


def main() -> None:
    import torch
    from rich.console import Console

    parser = runs_parser(__doc__, "outputs/fidelity")
    parser.add_argument("--single", action="store_true", help="rows of one response, on which luck is common")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=220)
    folders = {seed: options.output / f"seed{seed}" for seed in options.seeds}
    found = {s: measure(options.runs / f"seed{s}", s, folder, options.single) for s, folder in folders.items()}
    together: dict[str, dict[str, list]] = {}
    for number, parts in enumerate(found.values()):
        for name, part in parts.items():
            merged = together.setdefault(name, {key: [] for key in part})  # rows of different worlds
            for key, values in part.items():
                merged[key] += [(number, value) for value in values] if key == "row" else values
    console.print(
        "| seed, reward | right | − outcome | for the right reason | − outcome | for a wrong one | − outcome | AUC |"
    )
    everything = (*found.items(), ("all", together))
    for seed, parts in everything:
        for name, part in parts.items():
            console.print(line(f"{seed}, {name}", part, parts["outcome"]), markup=False)
    console.print("Sound among the right critiques of the judge before RL, and agreement with the world:")
    console.print("| seed | world | Meta RM | AUC | meta-judge | AUC |")
    for seed, parts in everything:
        console.print(readers_line(str(seed), parts["rft"]), markup=False)
    console.print("CPU seconds per step of 128 critiques, and of them in the Meta RM:")
    for seed in options.seeds:
        for name in REWARDS:
            folder = folders[seed] / "single" if options.single else folders[seed]
            cost = json.loads((folder / name / "cost.json").read_text())
            console.print(f"seed {seed}, {name}: {cost['step']:.2f}, {cost['meta_rm']:.2f}")


if __name__ == "__main__":
    main()
