# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The embedded example of `recipes/policy.py`: GRPO of a tiny policy with a judge of the tiny world as its reward.

A policy learns from answers of mixed quality, then from a judge's scores alone. The true quality of its answers is
measured on held-out queries by the world, which no reward sees. Arms: `judge`, `random` (noise) and optionally
`control` (another judge, for instance one that never learned to write principles).
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, set_seed
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from trl_spct import JudgeReward
from trl_spct.evaluation.statistics import bootstrap_interval, paired_interval
from trl_spct.jobs import MANIFEST, claim_folder, write_json
from trl_spct.judge.sampling import derive_seed, sample_critiques
from trl_spct.scripts import helped

from .job import _assistant, _common, _quiet, _trained, _user
from .judge import build_judge
from .world import CLOSINGS, NEUTRAL_OPENINGS, OPENINGS, TOPICS, Row, World

GROUP = 4
"""Completions per query in training and evaluation: the most that the judge learned to read at once."""
MAX_ANSWER = 24
SFT_ROWS, PROMPTS, HELD_OUT = 12000, 1600, 160
MANNERS = {"principle": 0.35, "unwanted": 0.35, "any": 0.3}
"""Shares of answers that the first policy learns from: they suit the audience, but not always the occasion."""
ARMS = ("judge", "control", "random")

console = Console()


@dataclass(frozen=True)
class PolicyArguments:
    """The embedded example: a tiny policy with the tiny judge as its reward."""

    judge: str = helped("outputs/tiny/spct", "Judge in the output of recipes/spct.py.")
    control_judge: str | None = helped(None, "Another judge of that world, as a control.")
    k: int = helped(2, "Critiques per group.")
    steps: int = helped(150, "Steps of GRPO, 64 completions each.")
    beta: float = helped(0.1, "KL coefficient, which keeps answers well-formed.")
    seeds: int = helped(3, "Policies of each arm.")
    output_dir: str = helped("outputs/tiny-policy", "Output folder. A run with the same settings is resumed.")
    tiny: bool = helped(False, "The embedded example, as without any argument.")


def run(**options: Any) -> list[dict[str, Any]]:
    """Trains policies with a judge as their reward, and measures their true quality before and after.

    Args:
        **options: Fields of [`PolicyArguments`].

    Returns:
        `list[dict]`: the entries of `results.json`, one per arm and seed.
    """
    _quiet()
    started = time.perf_counter()
    args = PolicyArguments(**options)
    world, control, output_dir = World(_world_seed(args.judge)), args.control_judge, args.output_dir
    if control is not None and _world_seed(control) != world.seed:
        raise ValueError(f"Found {control}, a judge of another world than {args.judge}; expected the same `--seed`.")
    settings = {name: getattr(args, name) for name in ("judge", "control_judge", "k", "steps", "beta")}
    sizes = {"sft": SFT_ROWS, "prompts": PROMPTS, "held_out": HELD_OUT}
    claim_folder(output_dir, {"kind": "tiny policy", **settings, **sizes})
    results = []
    for seed in range(args.seeds):
        policy = PolicyRun(Path(output_dir) / f"seed{seed}", seed, args, world)
        for arm in ARMS:
            if arm != "control" or control is not None:
                results.append(policy.result(arm))
    write_json(Path(output_dir) / "results.json", results)
    console.print(results_table(results))
    console.print(f"Everything is in {output_dir} ({time.perf_counter() - started:.0f} s).")
    return results


class PolicyRun:
    """The arms of one seed, which start from the same policy and see the same prompts."""

    def __init__(self, folder: Path, seed: int, settings: PolicyArguments, world: World):
        self.folder, self.seed, self.settings, self.world = folder, seed, settings, world

    @cached_property
    def held_out(self) -> list[Row]:
        """Rows of distinct queries that are in no training set."""
        rows = self.world.rows(2 * HELD_OUT, "test", seed=1000, sizes=(GROUP,))
        return list({row.query: row for row in rows}.values())[:HELD_OUT]

    def result(self, arm: str) -> dict[str, Any]:
        """Trains and measures one arm, or reads the result of an earlier start."""
        path = self.folder / f"{arm}.json"
        if not path.exists():
            console.rule(f"Policy {self.seed}, reward: {arm}", align="left")
            started = time.perf_counter()
            before, truths = self.before
            self._reinforce(arm)
            after, reached = self._measured(str(self.folder / arm))
            gained = paired_interval(truths, reached)
            result = {"arm": arm, "seed": self.seed, "before": before, "after": after, "gained": gained}
            write_json(path, {**result, "seconds": time.perf_counter() - started})
        return json.loads(path.read_text())

    @cached_property
    def warm(self) -> str:
        """The policy before RL, a third of whose answers have the wanted quality."""
        folder = self.folder / "warm"
        if not (folder / "config.json").exists():
            set_seed(self.seed)
            tokenizer = AutoTokenizer.from_pretrained(self.settings.judge)
            draw = random.Random(f"policy-{self.seed}")
            rows = self.world.rows(SFT_ROWS, "train", seed=2000 + self.seed, sizes=(GROUP,))
            answers = [{"prompt": [_user(row.query)], "completion": [_assistant(_mixed(row, draw))]} for row in rows]
            args = SFTConfig(
                str(folder),
                learning_rate=3e-3,
                lr_scheduler_type="cosine",
                per_device_train_batch_size=32,
                num_train_epochs=1,
                max_length=None,
                **_common(self.seed),
            )
            dataset = Dataset.from_list(answers)
            trainer = SFTTrainer(build_judge(tokenizer), args=args, train_dataset=dataset, processing_class=tokenizer)
            _trained(trainer).save_model()
        return str(folder)

    @cached_property
    def before(self) -> tuple[dict[str, Any], list[float]]:
        return self._measured(self.warm)

    def _reinforce(self, arm: str) -> None:
        set_seed(self.seed)
        rows = self.world.rows(PROMPTS, "train", seed=3000 + self.seed, sizes=(GROUP,))
        args = GRPOConfig(
            str(self.folder / arm),
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            beta=self.settings.beta,
            per_device_train_batch_size=64,
            num_generations=GROUP,
            max_completion_length=MAX_ANSWER,
            max_steps=self.settings.steps,
            **_common(self.seed),
        )
        trainer = GRPOTrainer(
            self.warm,
            reward_funcs=self._reward(arm),
            args=args,
            train_dataset=Dataset.from_list([{"prompt": [_user(row.query)]} for row in rows]),
        )
        _trained(trainer).save_model()
        trainer.save_state()

    def _reward(self, arm: str) -> Callable[..., list[float | None]]:
        if arm == "random":
            return partial(random_reward, seed=self.seed)
        judge = self.settings.judge if arm == "judge" else self.settings.control_judge
        return JudgeReward(judge, meta_rm=None, k=self.settings.k, batch_size=64, seed=self.seed)

    def _measured(self, policy: str) -> tuple[dict[str, Any], list[float]]:
        """True quality on held-out queries with the judge's rewards, and the mean true quality per query."""
        model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
        prompts = [[_user(row.query)] for row in self.held_out]
        sampling = {"temperature": 1.0, "max_new_tokens": MAX_ANSWER, "batch_size": 128}
        samples = sample_critiques(model, tokenizer, prompts, GROUP, self.seed, **sampling)
        texts = [[sample.text for sample in drawn] for drawn in samples]
        truth = [[true_quality(row, text) for text in group] for row, group in zip(self.held_out, texts, strict=True)]
        flat = [text for group in texts for text in group]
        rewards = self._reward("judge")([prompt for prompt in prompts for _ in range(GROUP)], flat)
        truths = [sum(group) / GROUP for group in truth]
        low, high = bootstrap_interval(truths)
        return {
            "true_quality": {"mean": sum(truths) / len(truths), "low": low, "high": high},
            "judged": _opinion(rewards, [value for group in truth for value in group]),
            "distinct_answers": len(set(flat)) / len(flat),
        }, truths


def true_quality(row: Row, text: str) -> float:
    """1 for a well-formed answer on the query's topic with the wanted quality alone, else 0."""
    topic = next(topic for topic in TOPICS if f" {topic}" in row.query)
    return float(text in _answers(topic, row.principle))


def _answers(topic: str, quality: str) -> set[str]:
    """All texts on the topic with this quality in the opening, the closing, or both."""
    heads, neutral = (
        [f"{opening} {body}" for opening in openings for body in TOPICS[topic]]
        for openings in (OPENINGS[quality], NEUTRAL_OPENINGS)
    )
    return {*heads, *(f"{head} {closing}" for head in (*heads, *neutral) for closing in CLOSINGS[quality])}


def random_reward(completions: Sequence, trainer_state: Any = None, seed: int = 0, **columns) -> list[float]:
    """Uniform noise from 1 to 10, different at each step."""
    draw = random.Random(derive_seed(seed, getattr(trainer_state, "global_step", 0)))
    return [draw.uniform(1, 10) for _ in completions]


def _opinion(rewards: Sequence[float | None], truths: Sequence[float]) -> dict[str, float | None]:
    """The judge's mean reward, and its correlation with the truth."""
    pairs = [(reward, truth) for reward, truth in zip(rewards, truths, strict=True) if reward is not None]
    judged, true = np.array(pairs).T if pairs else np.empty((2, 0))
    varied = len(pairs) > 1 and judged.std() > 0 and true.std() > 0
    return {
        "mean": float(judged.mean()) if len(pairs) else None,
        "correlation": float(np.corrcoef(judged, true)[0, 1]) if varied else None,
        "unreadable": 1 - len(pairs) / len(rewards),
    }


def results_table(results: Sequence[dict[str, Any]]) -> Table:
    """True quality before and after in percent with 95 % intervals over queries, and the judge's rewards."""
    columns = ("reward", "seed", "before", "after", "gained", "judged before", "after", "corr. before", "after")
    table = Table(*columns, title="Held-out queries: true quality in percent, the judge's reward, their correlation")
    for result in results:
        intervals = [tuple(result[when]["true_quality"].values()) for when in ("before", "after")]
        shown = ["{:.1%} ({:.1%} to {:.1%})".format(*values) for values in (*intervals, result["gained"])]
        opinions = [result[when]["judged"][name] for name in ("mean", "correlation") for when in ("before", "after")]
        shown += ["–" if value is None else f"{value:.2f}" for value in opinions]
        table.add_row(result["arm"], str(result["seed"]), *shown)
    return table


def _world_seed(judge: str) -> int:
    """Seed of the world in which a judge was trained, from the output folder of `recipes/spct.py`."""
    manifest = Path(judge).parent / MANIFEST
    settings = json.loads(manifest.read_text()) if manifest.exists() else {}
    if settings.get("kind") != "tiny" or not (Path(judge) / "config.json").exists():
        raise FileNotFoundError(
            f"Found no judge of the tiny world at {judge}; expected the output of `recipes/spct.py`, "
            "outputs/tiny/spct. Run it first (minutes), or name another folder with `--judge`."
        )
    return settings["seed"]


def _mixed(row: Row, draw: random.Random) -> str:
    """One of a row's responses, in one of the `MANNERS`."""
    (manner,) = draw.choices(list(MANNERS), MANNERS.values())
    shown = getattr(row, manner, None)
    return row.responses[row.shown.index(shown)] if shown in row.shown else draw.choice(row.responses)


def make_parser() -> HfArgumentParser:
    return HfArgumentParser(PolicyArguments, prog="recipes/policy.py", description=PolicyArguments.__doc__)
