# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
The embedded default: SPCT end to end on a tiny world, on a CPU within minutes.

base judge → rejective fine-tuning → rule-based GRPO → Meta RM → evaluation, with the trainers and the pipeline of
trl_spct; only the world and the sizes are tiny. A run that was killed resumes at its last checkpoint or shard.
"""

import argparse
import json
import logging
import random
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, concatenate_datasets
from datasets.utils.logging import disable_progress_bar
from rich.console import Console
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)
from transformers import logging as transformers_logging
from transformers.trainer_utils import get_last_checkpoint

from trl_spct import (
    MetaRMForSequenceClassification,
    MetaRMTrainer,
    MetaRMTrainingConfig,
    RejectiveSampler,
    RejectiveSamplerConfig,
    SPCTConfig,
    SPCTTrainer,
    __version__,
)
from trl_spct.data.loading import load_named
from trl_spct.data.meta_rows import meta_rows
from trl_spct.evaluation.diagnostics import accuracy_by_place
from trl_spct.evaluation.guidance import choose_guidance, guidance_results_table, guidance_table, store_guidance
from trl_spct.evaluation.judgments import Judgment, PipelineJudge, record_judgments, scaling_results
from trl_spct.evaluation.reports import plot_scaling, results_table
from trl_spct.jobs import claim_folder, write_json
from trl_spct.judge.outcomes import credit
from trl_spct.judge.preferences import Preference
from trl_spct.judge.prompts import judge_messages
from trl_spct.judge.sampling import encode_prompts
from trl_spct.judge.voting import VOTING_TEMPERATURE, Guidance
from trl_spct.trainers.arguments import CHECKPOINTING

from .judge import MAX_CRITIQUE, TEMPLATE, build_judge, build_tokenizer, pieces_of
from .world import Row, World, named_principle

COLUMNS = ("query", "responses", "labels", "domain", "principle")
SIZES = (1, 2, 3, 4, 2, 3, 4)
"""How often each number of responses occurs."""
ROWS = {"rft": 1600, "spct": 1200, "meta_rm": 1000, "guidance": 192, "held_out": 256}
SPLITS = {"guidance": "dev", "held_out": "test"}
LESSONS, DRILLS, CORPUS = 4000, 14000, 14000
SPCT_STEPS = 60
VOTES = 32
"""Critiques per held-out row; every smaller k is read from the same sampling run."""
GUIDANCE_VOTES = 16
JUDGES = ("base", "rft", "spct")
STAGES = ("base", "rft", "spct", "meta_rm", "guidance", "evaluation")
CLOSING = """\
Left in {folder} ({seconds:.0f} s): the judges base, rft and spct, meta_rm, all critiques in trajectories and
judgments, results.json, report.json, scaling.png. What to try next:
  judge a row      pipeline("grm-reward", model="{folder}/spct", meta_rm="{folder}/meta_rm"), see README.md
  another seed     accelerate launch recipes/spct.py --seed 1 --output_dir {folder}-1
  your own data    accelerate launch recipes/rft.py --help, and recipes/README.md"""

SAVE_STEPS = 100

console = Console()


def run(output_dir: str = "outputs/tiny", seed: int = 0, principles: bool = True) -> list[dict[str, Any]]:
    """Runs what is missing of the main job, and shows its results.

    Args:
        output_dir (`str`, *optional*, defaults to `"outputs/tiny"`): A run with the same settings is resumed.
        seed (`int`, *optional*, defaults to `0`): Of the world, the judge and all that is drawn.
        principles (`bool`, *optional*, defaults to `True`):
            `False` is the ablation: the base judge never learns to write criteria; nothing else changes.

    Returns:
        `list[dict]`: what `results.json` holds.
    """
    _quiet()
    torch.set_num_threads(1)  # fastest for tiny models, and the results depend on the number of threads
    started = time.perf_counter()
    job = Job(Path(output_dir), seed, principles)
    job.claim()
    console.quiet = not job.state.is_main_process
    job.stage("base", job.build_base, "Base judge: a tiny model learns to judge from faulty critiques")
    job.stage("rft", job.fine_tune, "RejectiveSampler: sample, reject, fine-tune")
    job.stage("spct", job.reinforce, "SPCTTrainer: rule-based GRPO on the judge itself")
    job.stage("meta_rm", job.train_meta_rm, "MetaRMTrainer: which critiques are correct?")
    job.stage("guidance", job.choose_guidance, "How far may the Meta RM decide? Chosen on rows of their own")
    job.stage("evaluation", job.evaluate, f"pipeline('grm-reward'): {VOTES} votes on {ROWS['held_out']} held-out rows")
    results = json.loads((job.folder / "results.json").read_text())
    console.print(results_table(results, "Accuracy on held-out rows"))
    console.print(CLOSING.format(folder=job.folder, seconds=time.perf_counter() - started), highlight=False)
    return results


class Job:
    """The stages of the main job in one folder; each is done once, and `progress.json` says which are done."""

    def __init__(self, folder: Path, seed: int, principles: bool):
        self.folder, self.seed, self.principles = folder, seed, principles
        self.state = PartialState(cpu=True)
        self.world = World(seed)

    def claim(self) -> None:
        """Refuses a folder whose run had other settings."""
        sizes = {"rows": ROWS, "lessons": LESSONS, "drills": DRILLS, "corpus": CORPUS, "votes": VOTES}
        run = {"version": __version__, "seed": self.seed, "principles": self.principles}
        run["processes"] = self.state.num_processes  # the results depend on it
        with self.state.main_process_first():
            claim_folder(self.folder, {"kind": "tiny", **run, **sizes})

    def stage(self, name: str, build: Callable[[], None], title: str) -> None:
        """Runs a stage unless an earlier start has finished it."""
        progress = self.folder / "progress.json"
        done = json.loads(progress.read_text()) if progress.exists() else {}
        self.state.wait_for_everyone()
        title = f"{STAGES.index(name) + 1}/{len(STAGES)} {title}"
        console.rule(f"{title} [dim](done in {done[name]:.0f} s before)" if name in done else title, align="left")
        if name in done:
            return
        started = time.perf_counter()
        set_seed(self.seed)
        build()
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            write_json(progress, {**done, name: time.perf_counter() - started})
        self.state.wait_for_everyone()

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def rows(self, part: str) -> Dataset:
        """Preference rows of one part of the job."""
        return Dataset.from_list([{name: asdict(row)[name] for name in COLUMNS} for row in rows_of(self.world, part)])

    def build_base(self) -> None:
        """The stand-in for a pretrained model: it can read and write critiques, with all the faults of its corpus."""
        first, second = self._curriculum()
        tokenizer = build_tokenizer(self._shared(_pieces, first + second))
        model = build_judge(tokenizer)
        for number, conversations in enumerate((first, second)):
            folder = self.folder / "base" / f"phase-{number}"
            if (folder / "model.safetensors").exists():
                model = AutoModelForCausalLM.from_pretrained(folder)
                continue
            args = TrainingArguments(
                str(folder),
                learning_rate=3e-3,
                lr_scheduler_type="cosine",
                warmup_steps=0.05,
                per_device_train_batch_size=self._share(32),
                train_sampling_strategy="sequential",
                num_train_epochs=1,
                **_common(self.seed),
            )
            rows = self._shared(partial(_tokenized, tokenizer), conversations)
            dataset = _in_curriculum_order(rows, by_length=0.6 if number == 0 else 0.0, seed=self.seed)
            padded = DataCollatorForSeq2Seq(tokenizer)
            # the stand-in for pretraining, for which TRL's loss over a large vocabulary in chunks is slower
            _trained(Trainer(model, args, padded, dataset, processing_class=tokenizer)).save_model()
            self.state.wait_for_everyone()
        if self.state.is_main_process:
            model.config.grm = {"template": TEMPLATE}
            model.generation_config.max_new_tokens = MAX_CRITIQUE
            model.save_pretrained(self.path("base"))
            tokenizer.save_pretrained(self.path("base"))
            for folder in (self.folder / "base").glob("phase-*"):
                shutil.rmtree(folder)

    def _shared(self, work: Callable[[list], list], items: list) -> list:
        """`work(items)`, each process with a part of them."""
        with self.state.split_between_processes(items) as part:
            return gather_object(work(part))

    def _share(self, batch_size: int) -> int:
        """This process's part of a batch."""
        return batch_size // self.state.num_processes

    def _curriculum(self) -> tuple[list, list]:
        """(knowledge and easy rows, the faulty corpus with some of both) as conversations."""
        world = self.world
        lessons = [[_user(question), _assistant(answer)] for question, answer in world.lessons(LESSONS)]
        drills = [_judged(row, critique) for row, critique in world.drills(DRILLS, self.principles)]
        corpus = [
            _judged(row, critique, hint)
            for row, hint, critique in world.corpus(world.rows(CORPUS, seed=99), principles=self.principles)
        ]
        share = CORPUS // 10
        return lessons + drills, corpus + lessons[:share] + drills[:share]

    def fine_tune(self) -> None:
        args = RejectiveSamplerConfig(
            self.path("rft"),
            trajectories_dir=self.path("trajectories"),
            template=TEMPLATE,
            max_completion_length=MAX_CRITIQUE,
            sampling_batch_size=512,
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=self._share(32),
            num_train_epochs=1,
            **_common(self.seed),
        )
        _finish(RejectiveSampler(self.path("base"), args=args, train_dataset=self.rows("rft")))

    def reinforce(self) -> None:
        args = SPCTConfig(
            self.path("spct"),
            template=TEMPLATE,
            max_completion_length=MAX_CRITIQUE,
            beta=0.04,
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            per_device_train_batch_size=self._share(64),
            max_steps=SPCT_STEPS,
            **{**_common(self.seed), "save_steps": 10},
        )
        _finish(SPCTTrainer(self.path("rft"), args=args, train_dataset=self.rows("spct")))

    def train_meta_rm(self) -> None:
        """From the unhinted trajectories of stage 1 and fresh critiques of the trained judge, right and wrong."""
        args = RejectiveSamplerConfig(
            self.path("fresh"),
            trajectories_dir=self.path("fresh_trajectories"),
            hint="none",
            reject_too_easy=False,
            template=TEMPLATE,
            max_completion_length=MAX_CRITIQUE,
            sampling_batch_size=512,
            **_common(self.seed),
        )
        fresh = RejectiveSampler(self.path("spct"), args=args, train_dataset=self.rows("meta_rm")).collect()
        first = load_named(self.path("trajectories"))["train"]
        args = MetaRMTrainingConfig(
            self.path("meta_rm"),
            template=TEMPLATE,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=self._share(32),
            train_sampling_strategy="group_by_length",  # rows have one to four responses
            num_train_epochs=2,
            **_common(self.seed),
        )
        rows = concatenate_datasets([meta_rows(first), meta_rows(fresh)])
        _finish(MetaRMTrainer(self.path("rft"), args=args, train_dataset=rows))

    def choose_guidance(self) -> None:
        """For each judge, on rows that serve nothing else; the Meta RM stores what is best for the trained judge."""
        rows, choices = list(self.rows("guidance")), {}
        judged = {j: self._judge(j, rows, GUIDANCE_VOTES, VOTING_TEMPERATURE, part="guidance") for j in JUDGES}
        if not self.state.is_main_process:
            return
        for judge, judgments in judged.items():
            choices[judge] = choose_guidance(judgments, ks=[GUIDANCE_VOTES], seed=self.seed)
            console.print(guidance_results_table(choices[judge], f"{judge}: ways to guide, on {len(rows)} rows"))
        write_json(self.folder / "guidance.json", {judge: asdict(choice) for judge, choice in choices.items()})
        model = MetaRMForSequenceClassification.from_pretrained(self.path("meta_rm"))
        store_guidance(model, choices["spct"].guidance)
        model.config.save_pretrained(self.path("meta_rm"))

    def evaluate(self) -> None:
        rows = list(self.rows("held_out"))
        voted = {judge: self._judge(judge, rows, VOTES, VOTING_TEMPERATURE) for judge in JUDGES}
        greedy = {judge: self._judge(judge, rows, 1, 0.0) for judge in JUDGES}
        if not self.state.is_main_process:
            return
        results, report = [], {}
        chosen = json.loads((self.folder / "guidance.json").read_text())
        for judge in JUDGES:
            described = {"stage": judge, "seed": self.seed}
            results += scaling_results(greedy[judge], guided=False, temperature=0.0, **described)
            described["temperature"] = VOTING_TEMPERATURE
            guidance = Guidance(**chosen[judge]["guidance"])
            results += scaling_results(voted[judge], guided=False, **described)
            results += scaling_results(voted[judge], guided=True, guidance=guidance, **described)
            ways = {"chosen": guidance, "paper": Guidance(0.5)}
            table = guidance_table(voted[judge], [VOTES], tuple(ways.values()), self.seed)
            report[judge] = {**_report(voted[judge], rows), "guided": dict(zip(ways, table, strict=True))}
        write_json(self.folder / "report.json", report)
        plot_scaling(results, self.folder / "scaling.png", "Accuracy on held-out rows of the tiny world")
        write_json(self.folder / "results.json", results)

    def _judge(
        self, judge: str, rows: list[dict], k: int, temperature: float, part: str = "held_out"
    ) -> list[Judgment]:
        pipe = pipeline("grm-reward", model=self.path(judge), meta_rm=self.path("meta_rm"), device="cpu")
        name = f"{judge}-k{k}-T{temperature:g}"
        return record_judgments(
            PipelineJudge(pipe, k, temperature=temperature, seed=self.seed),
            map(Preference.from_row, rows),
            self.folder / "judgments" / (name if part == "held_out" else f"{part}-{name}"),
            rows_per_shard=32,
            progress=f"{judge}, k = {k}" if self.state.is_main_process else None,
            process_index=self.state.process_index,
            num_processes=self.state.num_processes,
            wait=self.state.wait_for_everyone,
        )


def rows_of(world: World, part: str) -> list[Row]:
    """No query of `guidance` or `held_out` occurs in another part."""
    return world.rows(ROWS[part], SPLITS.get(part, "train"), seed=list(ROWS).index(part), sizes=SIZES)


def _report(judgments: list[Judgment], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What hides in the accuracy: does a critique stand on its principle, and does the place of a response matter?

    Single critiques; `accuracy` is their credit, and those that cannot be read count 0.
    """
    right, wrong = [], []
    for judgment, row in zip(judgments, rows, strict=True):
        for critique in judgment.critiques:
            named = right if named_principle(critique.text) == row["principle"] else wrong
            named.append(credit(critique.scores, judgment.labels))
    return {
        "names_the_wanted_principle": len(right) / (len(right) + len(wrong)),
        "accuracy_with_wanted_principle": _mean(right),
        "accuracy_with_another_principle": _mean(wrong),
        "accuracy_by_place_of_the_best": accuracy_by_place(judgments),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _common(seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        CHECKPOINTING: False,
        "weight_decay": 0.0,
        "logging_steps": 20,
        "save_strategy": "steps",
        "save_steps": SAVE_STEPS,
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": False,
        "ddp_find_unused_parameters": False,
    }


class _Progress(ProgressCallback):
    """The bar without the metrics, which are in `trainer_state.json`."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


def _trained(trainer: Any) -> Any:
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_Progress)
    folder = Path(trainer.args.output_dir)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None)
    return trainer


def _finish(trainer: Any) -> None:
    """Trains, and leaves a complete checkpoint: weights, tokenizer, card, and how training went."""
    _trained(trainer)
    trainer.save_model()
    trainer.create_model_card(dataset_name="the tiny world of trl_spct")
    trainer.save_state()
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        for checkpoint in Path(trainer.args.output_dir).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _judged(row: Row, critique: str, hint: bool = False) -> list[dict[str, str]]:
    preference = Preference(row.query, row.responses, row.labels)
    return [*judge_messages(preference, TEMPLATE, len(preference) == 1, hint), _assistant(critique)]


def _pieces(conversations: list) -> list[str]:
    return sorted(pieces_of(message["content"] for conversation in conversations for message in conversation))


def _tokenized(tokenizer, conversations: list) -> list[dict[str, list[int]]]:
    """Rows with `input_ids` and `labels` on the answer alone."""
    prompts = encode_prompts(tokenizer, [conversation[:-1] for conversation in conversations])
    ends = [conversation[-1]["content"] + tokenizer.eos_token for conversation in conversations]
    answers = tokenizer(ends, add_special_tokens=False)["input_ids"]
    return [
        {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _in_curriculum_order(rows: list[dict[str, list[int]]], by_length: float, seed: int) -> Dataset:
    """Batches of like length; a share `by_length` of them goes from short to long, which is faster learned."""
    order = _curriculum_order([len(row["input_ids"]) for row in rows], by_length, seed)
    return Dataset.from_list([rows[i] for i in order])


def _curriculum_order(lengths: list[int], by_length: float, seed: int, batch: int = 32) -> list[int]:
    draw = random.Random(seed)
    order = list(range(len(lengths)))
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), 16 * batch):
        block = sorted(order[start : start + 16 * batch], key=lengths.__getitem__)
        batches += [block[i : i + batch] for i in range(0, len(block), batch)]
    batches.sort(key=lambda block: sum(map(lengths.__getitem__, block)) / len(block))
    cut = round(by_length * len(batches))
    front, rest = batches[:cut], batches[cut:]
    draw.shuffle(front)
    draw.shuffle(rest)
    return [i for block in front + rest for i in block]


def _quiet() -> None:
    """Only the bars and the results; what the libraries have to say about tiny models helps nobody here."""
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bar()
    logging.getLogger("trl_spct").setLevel(logging.ERROR)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recipes/spct.py",
        description="The embedded default: SPCT end to end on a tiny world. With --model_name_or_path or --config, "
        "the script trains on your own data instead.",
    )
    parser.add_argument("--output_dir", default="outputs/tiny", help="a run with the same settings is resumed")
    parser.add_argument("--seed", type=int, default=0, help="of the world, the judge and all that is drawn")
    parser.add_argument(
        "--principles",
        type=json.loads,
        default=True,
        metavar="true|false",
        help="false: the ablation without criteria",
    )
    return parser
