# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
r"""What principles that are written once per query save a judge that rewards a policy, and what they cost it.

    python tests/measurements/policy_reward.py --judge outputs/tiny/spct

Groups of four answers from the tiny world are judged as during training: the same queries at every step. `own`: each
critique writes its principles. `query`: they are written once per query, kept, and given to the judge. Two judges: the
tiny judge as it is, and the same one `taught` for a minute to write principles for a query alone and to judge by given
ones without repeating them. Prints tokens written per group (principles included), groups per second of a step (the
median, without the first step, which writes the principles), and how rewards go with the truth.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer

from trl_spct import JudgeReward, Preference, judge_messages
from trl_spct.jobs import MANIFEST
from trl_spct.judge.prompts import principle_messages


sys.path.insert(0, str(Path(__file__).parent.parent.parent / "recipes"))

from tiny.job import _assistant, _common, _quiet, _tokenized, _trained  # noqa: E402
from tiny.judge import TEMPLATE  # noqa: E402
from tiny.world import REFLECTION, Habits, Naming, Row, World  # noqa: E402


SURE = Naming(right=1.0, usual=0.0, anchored=0.0)
FAULTLESS = Habits(SURE, SURE, misread=0.0, halo=0.0, unreadable=0.0)
LESSONS, GROUPS, GROUP = 9000, 48, 4

console = Console(soft_wrap=True)


def lessons(world: World, count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Principles for a query alone, critiques by given principles (right or wrong), and critiques with one's own."""
    draw = random.Random(seed)
    taught = []
    for number, row in enumerate(world.rows(count, "train", seed=5000 + seed, sizes=(2, 3, 4))):
        named = f"{REFLECTION}, {row.principle} (weight 4)."
        if number % 3 == 0:
            prompt, answer = principle_messages(row.query, TEMPLATE), f"Specific Criteria: {named}"
        elif number % 3 == 1:
            given = draw.choice(row.shown)
            prompt = prompt_of(row, f"{REFLECTION}, {given} (weight 4).")
            answer = world.critique(replace(row, principle=given), draw, FAULTLESS, principles=False)
        else:
            prompt, answer = prompt_of(row), world.critique(row, draw, FAULTLESS)
        taught.append([*prompt, _assistant(answer)])
    return taught


def prompt_of(row: Row, principles: str | None = None) -> list[dict[str, str]]:
    return judge_messages(Preference(row.query, row.responses, principles=principles), TEMPLATE)


def teach(judge: str, folder: str, world: World) -> str:
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(judge)
    dataset = _tokenized(tokenizer, lessons(world, LESSONS), by_length=0.0, seed=0)
    args = SFTConfig(
        folder,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=32,
        num_train_epochs=1,
        max_length=None,
        **_common(0),
    )
    model = AutoModelForCausalLM.from_pretrained(judge)
    _trained(SFTTrainer(model, args=args, train_dataset=dataset, processing_class=tokenizer)).save_model()
    model.generation_config.save_pretrained(folder)
    return folder


def measure(judge: str, principles: str, k: int, world: World, rounds: int) -> dict[str, float]:
    reward = JudgeReward(judge, meta_rm=None, k=k, principles=principles, batch_size=GROUPS)
    written = tokens_of_principles(reward)
    rows = list({row.query: row for row in world.rows(3 * GROUPS, "test", seed=1, sizes=(GROUP,))}.values())[:GROUPS]
    draw = random.Random(0)
    seconds, tokens, rewards, labels = [], 0.0, [], []
    for step in range(rounds):
        log = {}
        answers = [draw.sample(range(GROUP), GROUP) for _ in rows]
        prompts = [row.query for row in rows for _ in range(GROUP)]
        texts = [row.responses[i] for row, order in zip(rows, answers, strict=True) for i in order]
        started = time.perf_counter()
        found = reward(prompts, texts, trainer_state=argparse.Namespace(global_step=step), log_metric=log.__setitem__)
        seconds.append(time.perf_counter() - started)
        tokens += log["judge_reward/tokens"] * GROUPS
        rewards += found
        labels += [row.labels[i] for row, order in zip(rows, answers, strict=True) for i in order]
    pairs = np.array([(r, label) for r, label in zip(rewards, labels, strict=True) if r is not None])
    return {
        "tokens per group": (tokens + sum(written)) / (GROUPS * rounds),
        "groups per second": GROUPS / float(np.median(seconds[1:])),
        "correlation": float(np.corrcoef(pairs.T)[0, 1]),
        "unreadable": 1 - len(pairs) / len(rewards),
    }


def tokens_of_principles(reward: JudgeReward) -> list[int]:
    """Grows by the number of tokens of each text of principles that the judge writes."""
    written: list[int] = []
    ask = reward.judge.principles

    def counted(*args, **kwargs):
        found = ask(*args, **kwargs)
        heading = "Specific Criteria: "
        written.extend(len(reward.judge.tokenizer.encode(heading + text)) + 1 for text in found if text)
        return found

    reward.judge.principles = counted
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", default="outputs/tiny/spct", help="what recipes/spct.py leaves")
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    _quiet()
    world = World(json.loads((Path(options.judge).parent / MANIFEST).read_text())["seed"])
    with tempfile.TemporaryDirectory() as folder:
        for name, judge in (("as it is", options.judge), ("taught", teach(options.judge, folder, world))):
            found = {
                principles: measure(judge, principles, options.k, world, options.rounds)
                for principles in ("own", "query")
            }
            for principles, values in found.items():
                shown = ", ".join(f"{key} {value:.3g}" for key, value in values.items())
                console.print(f"{name}, {principles}: {shown}")
            saved = 1 - found["query"]["tokens per group"] / found["own"]["tokens per group"]
            faster = found["query"]["groups per second"] / found["own"]["groups per second"]
            console.print(f"{name}: {100 * saved:.0f} % fewer tokens, {faster:.2f} times the groups per second")


if __name__ == "__main__":
    main()
