# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The paper's other kinds of reward models, trained from the base judge of a run of the tiny world on the rows of its
GRM: rejective fine-tuning (LLM-as-a-Judge), and that and reinforcement learning (scalar, pairwise, semi-scalar)."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

from trl_spct import Preference
from trl_spct.data.loading import load_named
from trl_spct.evaluation.baselines import some_of
from trl_spct.judge.prompts import choice_messages, judge_messages, meta_messages
from trl_spct.judge.templates import JudgeTemplate

CHOICE = JudgeTemplate("Select the best response.", r"Analysis: \boxed{x}")
"""A prompt for the best response that fits into the tiny judge's context."""
EPOCHS, LEARNING_RATE = 3, 1e-3


class EqualTerms:
    """Trains what is missing in `folder` from a job of the tiny world; `part` limits its rows, for a trial."""

    def __init__(self, job: Any, folder: Path, part: int | None = None):
        self.job, self.folder, self.part = job, folder, part
        self.tokenizer = AutoTokenizer.from_pretrained(job.path("base"))

    def rows(self) -> list[Preference]:
        """The rows of both stages of the GRM, with labels."""
        rows = [row for stage in ("rft", "spct") for row in list(self.job.rows(stage))[: self.part]]
        return [Preference.from_row(row) for row in rows]

    def path(self, name: str) -> Path:
        """The folder of a trained model."""
        folder = self.folder / name
        if not (folder / "config.json").exists():
            getattr(self, name)(folder)
        return folder

    def scalar(self, folder: Path) -> None:
        """Bradley-Terry, by TRL's `RewardTrainer`."""
        pairs = []
        for row in self.rows():
            turns = [[_turn("user", row.query), _turn("assistant", text)] for text in row.responses]
            pairs += [{"chosen": turns[best], "rejected": turns[other]} for best, other in _compared(row)]
        self._reward(folder, pairs)

    def semi_scalar(self, folder: Path) -> None:
        """Bradley-Terry on responses with critiques, which the rejectively fine-tuned judge writes."""
        stored = self.folder / "critiques.json"
        rows = self.rows()
        prompts = [[judge_messages(some_of(r, (i,)), "compact", True) for i in range(len(r))] for r in rows]
        if not stored.exists():
            stored.write_text(json.dumps(self._critiques([prompt for of_row in prompts for prompt in of_row])))
        texts, pairs = iter(json.loads(stored.read_text())), []
        for row, of_row in zip(rows, prompts, strict=True):
            turns = [[*prompt, _turn("assistant", next(texts))] for prompt in of_row]
            pairs += [{"chosen": turns[best], "rejected": turns[other]} for best, other in _compared(row)]
        self._reward(folder, pairs, semi_scalar={"binary": True})

    def _critiques(self, prompts: list) -> list[str]:
        pipe = pipeline("grm-reward", model=self.job.path("rft"), meta_rm=None, device="cpu")
        sampling = {"temperature": 0.5, "top_p": 1.0, "max_new_tokens": pipe.default_length, "batch_size": 256}
        drawn = pipe.sample(prompts, [1] * len(prompts), self.job.seed, **sampling)
        return [sample.text for (sample,) in drawn]

    def pairwise(self, folder: Path) -> None:
        """Cross-entropy of "the first is better", on both orders."""
        rows = []
        for row in self.rows():
            for pair in (order for best, other in _compared(row) for order in ((best, other), (other, best))):
                turns = meta_messages(some_of(row, pair), "")[:1]
                ids = self.tokenizer.apply_chat_template(turns, return_dict=False)
                rows.append({"input_ids": ids, "labels": [float(row.labels[pair[0]] > row.labels[pair[1]])]})
        kind = {"num_labels": 1, "problem_type": "multi_label_classification"}
        model = AutoModelForSequenceClassification.from_pretrained(self.job.path("base"), **kind)
        self._train(model, folder, rows, DataCollatorWithPadding(self.tokenizer))

    def llm_judge(self, folder: Path) -> None:
        """The critiques that the GRM learned from in its first stage, with the best response in place of scores."""
        from tiny.job import _tokenized

        conversations = []
        for record in load_named(self.job.path("trajectories"))["train"]:
            if record["outcome"] == "kept" and len(record["labels"]) > 1:
                shown = Preference.from_row(record).permuted(record["order"])
                text, best = record["completion"][-1]["content"], shown.best
                text = re.sub(r"\\boxed\{[^}]*\}", lambda match, best=best: rf"\boxed{{{best + 1}}}", text)
                conversations.append([*choice_messages(shown, template=CHOICE), _turn("assistant", text)])
        rows = _tokenized(self.tokenizer, conversations[: self.part])
        model = AutoModelForCausalLM.from_pretrained(self.job.path("base"))
        self._train(model, folder, rows, DataCollatorForSeq2Seq(self.tokenizer))

    def _reward(self, folder: Path, pairs: list[dict], **entries: Any) -> None:
        from trl import RewardConfig, RewardTrainer

        args = RewardConfig(str(folder), max_length=None, **self._arguments())
        model = AutoModelForSequenceClassification.from_pretrained(self.job.path("base"), num_labels=1)
        model.config.update(entries)
        rows = Dataset.from_list(pairs)
        trainer = RewardTrainer(model, args, train_dataset=rows, processing_class=self.tokenizer)
        trainer.train()
        trainer.save_model()

    def _train(self, model: Any, folder: Path, rows: list[dict], collator: Any) -> None:
        args = TrainingArguments(str(folder), train_sampling_strategy="group_by_length", **self._arguments())
        trainer = Trainer(model, args, collator, Dataset.from_list(rows), processing_class=self.tokenizer)
        trainer.train()
        trainer.save_model()

    def _arguments(self) -> dict[str, Any]:
        from tiny.job import _common

        given = {"learning_rate": LEARNING_RATE, "lr_scheduler_type": "cosine", "num_train_epochs": EPOCHS}
        common = {**_common(self.job.seed), "save_strategy": "no", "disable_tqdm": True}
        return {"per_device_train_batch_size": 32, **given, **common}


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _compared(row: Preference) -> list[tuple[int, int]]:
    """Pairs of a better and a worse response."""
    labels = row.labels
    pairs = combinations(range(len(row)), 2)
    return [
        pair if labels[pair[0]] > labels[pair[1]] else pair[::-1]
        for pair in pairs
        if len({labels[i] for i in pair}) > 1
    ]
