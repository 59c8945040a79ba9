# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
The ablations of the paper (its tables 1 and 7, and figure 4) in the tiny world.

python tests/measurements/ablations.py --runs outputs/tiny_world --output outputs/ablations --seeds 0

Starts from the base judges of finished runs (`tiny_world.py` makes them) and trains one judge for each line, all by
the same code in one process of one thread. Each is judged on the same held-out rows, greedily and with 32 critiques at
T = 0.5; differences are paired by rows. "general" is the share of right answers to questions of the world that are no
judging: what an audience needs, how a text sounds. Finished parts are read, not repeated; one seed takes about an hour
of one core.
"""

import json
import random
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from tiny_world import continued, given, greedy_texts, runs_parser

VOTES, STEPS, TEMPERATURE = 32, 60, 0.5
LARGE = "four times as large"


@dataclass(frozen=True)
class Line:
    """One judge: the stage that makes it, the judge that it starts from, and what differs from the method."""

    stage: str
    start: str = "base"
    options: dict[str, Any] = field(default_factory=dict)
    reference: bool = False


LINES = {
    "RFT": Line("rft"),
    "RFT without hinted": Line("rft", options={"keep": "unhinted"}),
    "RFT without unhinted": Line("rft", options={"keep": "hinted"}),
    "RFT with general data": Line("rft", options={"general": True}),
    "general data alone": Line("general"),
    "RFT, too easy kept": Line("rft", options={"keep": "too_easy"}),
    "SPCT": Line("spct", "RFT"),
    "SPCT without RFT": Line("spct"),
    "SPCT from RFT without hinted": Line("spct", "RFT without hinted"),
    "SPCT from RFT, too easy kept": Line("spct", "RFT, too easy kept"),
    "SPCT, G = 2": Line("spct", "RFT", {"num_generations": 2}),
    "SPCT, G = 8": Line("spct", "RFT", {"num_generations": 8}),
    "SPCT, beta = 0": Line("spct", "RFT", {"beta": 0.0}),
    "SPCT, beta = 0.16": Line("spct", "RFT", {"beta": 0.16}),
    "SPCT with a reference answer": Line("spct", "RFT", reference=True),
}
"""Each line by the name of its folder. beta is 0.04 and G 4 [P] where nothing else is said."""


class Ablation:
    """The lines of one seed."""

    def __init__(self, run: Path, seed: int, output: Path):
        from tiny.job import Job

        self.job, self.output = Job(run, seed, True), output
        self.held_out = list(self.job.rows("held_out"))

    def model(self, name: str) -> str:
        """The folder of a judge, trained if it is not yet."""
        if name == "base":
            return self.job.path("base")
        if name == LARGE:
            return self.large()
        folder, line = self.output / name, LINES[name]
        if not (folder / "config.json").exists():
            getattr(self, line.stage)(folder, self.model(line.start), line)
        return str(folder)

    def trajectories(self):
        """Those that the base judge of the run has sampled: three unhinted ones and a hinted one per row."""
        from trl_spct.data.loading import load_named

        return load_named(self.job.path("trajectories"))["train"]

    def rft(self, folder: Path, start: str, line: Line) -> None:
        from tiny.job import TEMPLATE, _common, _finish

        from trl_spct import RejectiveSampler, RejectiveSamplerConfig

        rows, keep = self.trajectories(), line.options.get("keep")
        if keep in ("hinted", "unhinted"):
            rows = rows.filter(lambda hinted: hinted == (keep == "hinted"), input_columns="hinted")
        if keep == "too_easy":
            rows = rows.map(lambda outcome: {"outcome": outcome.replace("too_easy", "kept")}, input_columns="outcome")
        args = RejectiveSamplerConfig(
            str(folder),
            template=TEMPLATE,
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=32,
            num_train_epochs=1,
            **_common(self.job.seed),
        )
        general = self.lessons() if line.options.get("general") else None
        _finish(RejectiveSampler(start, args=args, train_dataset=rows, general_dataset=general))

    def general(self, folder: Path, start: str, line: Line) -> None:
        """Neither hinted nor unhinted trajectories: as many steps on general data as there are for RFT."""
        from tiny.job import _common, _finish
        from trl import SFTConfig, SFTTrainer

        steps = json.loads(Path(self.model("RFT"), "trainer_state.json").read_text())["global_step"]
        args = SFTConfig(
            str(folder),
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=32,
            max_steps=steps,
            **_common(self.job.seed),
        )
        _finish(SFTTrainer(start, args=args, train_dataset=self.lessons()))

    def spct(self, folder: Path, start: str, line: Line) -> None:
        from tiny.job import MAX_CRITIQUE, TEMPLATE, _common, _finish

        from trl_spct import SPCTConfig, SPCTTrainer

        options = {"beta": 0.04, "learning_rate": 2e-4, **line.options}
        args = SPCTConfig(
            str(folder),
            template=TEMPLATE,
            max_completion_length=MAX_CRITIQUE,
            lr_scheduler_type="constant",
            per_device_train_batch_size=128,
            max_steps=STEPS,
            **options,
            **{**_common(self.job.seed), "save_steps": 20},
        )
        rows = self.job.rows("spct")
        if line.reference:
            rows = rows.map(lambda row: {"reference": self.reference(row)})
        _finish(SPCTTrainer(start, args=args, train_dataset=rows))

    def reference(self, row: dict) -> str:
        """A text of its own with the quality that the query wants."""
        from tiny.world import TOPICS, _response

        draw = random.Random(f"reference-{row['query']}")
        return _response(draw, draw.choice(tuple(TOPICS)), row["principle"])

    def lessons(self):
        from datasets import Dataset
        from tiny.job import LESSONS, _assistant, _user

        pairs = self.job.world.lessons(LESSONS)
        return Dataset.from_list([{"prompt": [_user(q)], "completion": [_assistant(a)]} for q, a in pairs])

    def judged(self, name: str, k: int, reference: bool = False) -> list:
        """Judgments of the held-out rows."""
        from transformers import pipeline

        from trl_spct import Preference
        from trl_spct.evaluation.judgments import PipelineJudge, record_judgments

        pipe = pipeline("grm-reward", model=self.model(name), device="cpu")
        rows = map(Preference.from_row, self.held_out)
        if reference:
            rows = [replace(row, reference=self.reference(raw)) for row, raw in zip(rows, self.held_out, strict=True)]
        judge = PipelineJudge(pipe, k, temperature=TEMPERATURE if k > 1 else 0.0, seed=self.job.seed)
        part = f"{name}-k{k}" + ("-reference" if reference else "")
        return record_judgments(judge, rows, self.output / "judgments" / part, rows_per_shard=64)

    def ability(self, name: str) -> list[bool]:
        """Whether each question about needs and sounds of texts gets its answer, greedily."""
        from tiny.job import _user
        from tiny.world import AUDIENCES, NEEDS, OCCASIONS, QUALITIES, TOPICS, _response

        left = self.output / "ability" / f"{name}.json"
        if left.exists():
            return json.loads(left.read_text())
        world, draw = self.job.world, random.Random(f"ability-{self.job.seed}")
        asked = [
            (need.format(audience=who, occasion=when), f"Something {world.wanted[who, when]}.")
            for need in NEEDS
            for who in AUDIENCES
            for when in OCCASIONS
        ]
        for _ in range(len(asked)):
            quality = draw.choice(QUALITIES)
            text = _response(draw, draw.choice(tuple(TOPICS)), quality)
            asked.append((f"How does this sound?\n{text}", f"Rather {quality}."))
        questions, answers = zip(*asked, strict=True)
        conversations = [[_user(question)] for question in questions]
        texts = greedy_texts(self.model(name), conversations, max_new_tokens=8, add_generation_prompt=True)
        right = [text.strip() == answer for text, answer in zip(texts, answers, strict=True)]
        left.parent.mkdir(exist_ok=True)
        left.write_text(json.dumps(right))
        return right

    def credits(self, name: str, **options: Any) -> dict[str, list[float]]:
        """Greedy, Voting@8 and Voting@32 by row."""
        from trl_spct.evaluation.judgments import credits_at
        from trl_spct.evaluation.statistics import mean

        greedy, sampled = (self.judged(name, k, **options) for k in (1, VOTES))
        found = {"greedy": [mean(credits_at(judgment, 1)) for judgment in greedy]}
        for k in (1, 8, VOTES):
            found[f"@{k}"] = [mean(credits_at(judgment, k)) for judgment in sampled]
        return found

    def guided(self) -> dict[str, list[float]]:
        """Voting@32 of the run's own SPCT judge, by how many of its critiques its Meta RM lets vote."""
        from trl_spct.evaluation.judgments import credits_at, read_judgments
        from trl_spct.evaluation.statistics import mean
        from trl_spct.judge.voting import Guidance

        judgments = read_judgments(self.job.folder / "judgments" / f"spct-k{VOTES}-T{TEMPERATURE:g}")
        ways = {"all": None, "1": Guidance(1 / VOTES), "k/4": Guidance(0.25), "k/2": Guidance(0.5)}
        return {name: [mean(credits_at(j, VOTES, way)) for j in judgments] for name, way in ways.items()}

    def in_pairs(self, name: str) -> dict[str, list[float]]:
        """Rows of three and four responses, greedily: read whole, and as the wins over all pairs."""
        from transformers import pipeline

        from trl_spct import Preference
        from trl_spct.evaluation.judgments import PipelineJudge, record_judgments
        from trl_spct.judge.outcomes import credit

        rows = [Preference.from_row(row) for row in self.held_out if len(row["responses"]) > 2]
        whole = [j for j, row in zip(self.judged(name, 1), self.held_out, strict=True) if len(row["responses"]) > 2]
        pairs = [(row, pair) for row in rows for pair in combinations(range(len(row)), 2)]
        asked = [
            replace(row, responses=tuple(row.responses[i] for i in pair), labels=(1, 0))  # which are not read
            for row, pair in pairs
        ]
        judge = PipelineJudge(pipeline("grm-reward", model=self.model(name), device="cpu"), 1, seed=self.job.seed)
        judged = record_judgments(judge, asked, self.output / "judgments" / f"{name}-pairs", rows_per_shard=256)
        wins = {id(row): [0.0] * len(row) for row in rows}
        for (row, pair), judgment in zip(pairs, judged, strict=True):
            (scores,) = judgment.scores
            for place, other in (pair, pair[::-1]) if scores is not None else ():
                mine, its = scores[pair.index(place)], scores[pair.index(other)]
                wins[id(row)][place] += (mine > its) + 0.5 * (mine == its)
        return {
            "list": [credit(j.scores[0], j.labels) for j in whole],
            "pairs": [credit(wins[id(row)], row.labels) for row in rows],
        }

    def by_principle(self, name: str) -> dict[str, list[float]]:
        """Accuracy of greedy critiques that begin with a principle, by its origin (table 1 of the paper)."""
        own, other, sampled = (self.judged(*which) for which in ((name, 1), ("RFT", 1), (name, VOTES)))
        found: dict[str, list[str | None]] = {
            "its own": [criteria(j.critiques[0].text) for j in own],
            "of the RFT judge": [criteria(j.critiques[0].text) for j in other],
            "its own of a correct critique, where it has one": [right_criteria(j) for j in sampled],
            "the wanted one": [given(row["principle"]) for row in self.held_out],
        }
        model = self.model(name)
        return {
            origin: continued(self.job, model, lambda number, _, begun=beginnings: begun[number] or "")
            for origin, beginnings in found.items()
        }

    def by_size(self) -> dict[str, list[float]]:
        """A judge of four times as many weights, greedy, against votes of the small one (figure 4 of the paper)."""
        found = {"small": self.credits("SPCT"), "four times as large": self.credits(LARGE)}
        columns = ("greedy", "@8", f"@{VOTES}")
        return {f"{size}, {column}": credits[column] for size, credits in found.items() for column in columns}

    def large(self) -> str:
        """The folder of a judge of four times as many weights after all stages, at lower learning rates."""
        from unittest.mock import patch

        import tiny.job
        from tiny.judge import build_judge
        from transformers import LlamaForCausalLM, TrainingArguments

        def four_times(tokenizer) -> LlamaForCausalLM:
            config = build_judge(tokenizer).config
            config.hidden_size, config.intermediate_size, config.num_attention_heads = 256, 512, 8
            config.initializer_range = 0.06
            return LlamaForCausalLM(config)

        def slower(*args, learning_rate: float, **kwargs) -> TrainingArguments:
            return TrainingArguments(*args, learning_rate=learning_rate / 3, **kwargs)

        job, folder = tiny.job.Job(self.output / LARGE, self.job.seed, True), self.output / LARGE / "spct"
        if not (folder / "config.json").exists():
            job.folder.mkdir(exist_ok=True)
            with patch.multiple(tiny.job, build_judge=four_times, TrainingArguments=slower):
                job.stage("base", job.build_base, LARGE)
            job.stage("rft", job.fine_tune, LARGE)
            self.spct(folder, job.path("rft"), Line("spct", options={"learning_rate": 1e-4}))
        return str(folder)

    def measure(self) -> dict[str, dict[str, list]]:
        left = self.output / "credits.json"
        found = json.loads(left.read_text()) if left.exists() else {}
        for name in ("base", *LINES):
            if name not in found:
                reference = name in LINES and LINES[name].reference
                found[name] = {**self.credits(name, reference=reference), "general": self.ability(name)}
                left.write_text(json.dumps(found))
        found["k_meta"], found["input"] = self.guided(), self.in_pairs("SPCT")
        found["principle"], found["size"] = self.by_principle("SPCT"), self.by_size()
        return found


def criteria(critique: str) -> str | None:
    """The line with the principle."""
    line = critique.partition("\n")[0]
    return f"{line}\n" if line.startswith("Specific Criteria:") else None


def right_criteria(judgment) -> str | None:
    from trl_spct.judge.outcomes import is_correct

    right = (c for c in judgment.critiques if is_correct(c.scores, judgment.labels))
    return criteria(next(right, judgment.critiques[0]).text)


def cell(values: list[float], base: list[float] | None) -> str:
    from trl_spct.evaluation.statistics import mean, paired_interval

    share = f"{100 * mean(values):.1f}"
    if base is None or values is base:
        return share
    gain, low, high = (100 * value for value in paired_interval(base, values))
    return f"{share}, {gain:+.1f} ({low:+.1f} to {high:+.1f})"


def tables(found: dict[str, dict[str, list]]) -> str:
    """Markdown; each difference is to RFT for judges after RFT, and to SPCT for those after RL."""
    columns = ("greedy", "@1", "@8", f"@{VOTES}", "general")
    lines = ["| judge | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in ("base", *LINES):
        method = None if name == "base" else "SPCT" if LINES[name].stage == "spct" else "RFT"
        cells = [cell(found[name][c], found[method][c] if method else None) for c in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for title, plain in (
        ("k_meta", "all"),
        ("input", "list"),
        ("principle", "its own"),
        ("size", f"small, @{VOTES}"),
    ):
        lines += ["", f"| {title} | accuracy |", "|---|---|"]
        lines += [f"| {name} | {cell(values, found[title][plain])} |" for name, values in found[title].items()]
    return "\n".join(lines)


def pooled(parts: list[dict[str, dict[str, list]]]) -> dict[str, dict[str, list]]:
    return {
        name: {column: sum((part[name][column] for part in parts), []) for column in columns}
        for name, columns in parts[0].items()
    }


def main() -> None:
    import torch
    from rich.console import Console
    from tiny.job import _quiet

    options = runs_parser(__doc__, "outputs/ablations").parse_args()
    torch.set_num_threads(1)
    _quiet()
    console, parts = Console(width=250), []
    for seed in options.seeds:
        parts.append(Ablation(options.runs / f"seed{seed}", seed, options.output / f"seed{seed}").measure())
    console.print(tables(pooled(parts)), markup=False)


if __name__ == "__main__":
    main()
