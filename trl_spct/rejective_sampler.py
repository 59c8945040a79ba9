# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Stage 1 of SPCT: sample critiques, reject, fine-tune on what is left (paper, section 4)."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTTrainer
from trl.models.utils import unwrap_model_for_generation

from . import __version__
from .cards import PAPER, JudgeCards, write_trajectories_card
from .data import judged, score_range_of
from .judges import load_config, load_tokenizer, name_template, rows_for
from .manifests import write_json
from .outcomes import is_correct
from .prompts import judge_messages, judge_template
from .rejection import Trajectory, Verdict, select_trajectories
from .rejective_sampler_config import RejectiveSamplerConfig
from .sampling import Sample, Sampler, read_sample, sample_critiques, special_tokens
from .shards import ShardedJob


logger = get_logger(__name__)


class NothingKeptError(RuntimeError):
    """No trajectory survived rejection, so that there is nothing to fine-tune on."""


class RejectiveSampler(JudgeCards, SFTTrainer):
    """
    Trainer for rejective fine-tuning (RFT), the cold start of Self-Principled Critique Tuning.

    [`~RejectiveSampler.collect`] samples `num_generations` critiques per row, and one more with the ground truth as a
    hint, and rejects those that are unreadable or incorrect, and the rows that are too easy.
    [`~RejectiveSampler.train`] collects if that has not been done, and fine-tunes on the kept critiques with the
    unhinted prompts and completion-only loss. Everything else is [`~trl.SFTTrainer`].

    ```python
    >>> from trl_spct import RejectiveSampler, RejectiveSamplerConfig

    >>> trainer = RejectiveSampler(
    ...     model="google/gemma-2-2b-it",
    ...     args=RejectiveSamplerConfig(output_dir="judge-rft"),
    ...     train_dataset=load_dataset("trl-lib/ultrafeedback_binarized", split="train"),
    ... )
    >>> trainer.train()
    ```

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or `PeftModel`):
            The judge to fine-tune, as for [`~trl.SFTTrainer`].
        args ([`RejectiveSamplerConfig`], *optional*):
            Configuration.
        train_dataset ([`~datasets.Dataset`]):
            Preference rows in any shape that [`~trl_spct.Preference.from_row`] reads, or trajectories that an earlier
            `collect()` returned.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer with a chat template and a pad token. Loaded from the model's path by default.
        sampler (`Callable` or [`~transformers.PreTrainedModel`], *optional*):
            Who samples: another model that shares the tokenizer, or any
            `sampler(prompts, k, seed) -> list[list[Sample]]` with prompts as message lists. The model itself by
            default; the paper samples with a stronger one.
        general_dataset ([`~datasets.Dataset`], *optional*):
            Instruction data with `prompt` and `completion`, or `messages`, to mix in: at most `general_ratio` rows per
            kept trajectory. Without general data the paper loses 5 points.
        **kwargs: Passed to [`~trl.SFTTrainer`].
    """

    _tag_names = ["trl", "rft", "spct", "generative-reward-model"]
    _name = "RFT"
    _paper = PAPER

    def __init__(
        self,
        model: "str | PreTrainedModel",
        args: RejectiveSamplerConfig | None = None,
        train_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        sampler: Sampler | PreTrainedModel | None = None,
        general_dataset: Dataset | None = None,
        **kwargs,
    ):
        if train_dataset is None:
            raise ValueError("`train_dataset` is required: preference rows, or trajectories from `collect()`.")
        config = load_config(model, getattr(args, "model_init_kwargs", None))
        if args is None:
            args = RejectiveSamplerConfig(f"{config._name_or_path.split('/')[-1]}-RFT")
        processing_class = processing_class or load_tokenizer(config, args.model_init_kwargs)
        self.sampler = sampler
        self.general_dataset = general_dataset
        self.trajectories = self.rows = None
        if {"prompt", "completion", "verdict"} <= set(train_dataset.column_names):
            self.trajectories = train_dataset
            prompt = train_dataset[0]["prompt"]
        else:
            self.rows = rows_for(train_dataset, processing_class, args, config, "train_dataset")
            prompt = self.rows[0]["prompt"]
        # `SFTTrainer` prepares its data before it has an accelerator; one row in the final format tells it the kind.
        placeholder = Dataset.from_list([{"prompt": prompt, "completion": _assistant(".")}])
        super().__init__(
            model=model, args=args, train_dataset=placeholder, processing_class=processing_class, **kwargs
        )
        name_template(self.model.config, args.template)

    def collect(self) -> Dataset:
        """Samples and judges trajectories, shard by shard; a restart with the same settings resumes.

        Returns:
            [`~datasets.Dataset`]: one row per trajectory: `prompt` (without the hint) and `completion` as messages;
            `query`, `responses`, `labels` and `scores`, all in the order that the judge read; `order`; `hinted`;
            `verdict` (`"kept"`, `"incorrect"`, `"unreadable"` or `"too_easy"`); `problem` (why there are no scores);
            `row`, `sample`, `num_tokens`; and the other columns of the preference rows.

        Raises:
            `FileExistsError`: if the folder holds trajectories of another configuration.
        """
        if self.rows is None:
            raise ValueError("This trainer was given collected trajectories; there are no preference rows to sample.")
        folder = Path(self.args.trajectories_dir or os.path.join(self.args.output_dir, "trajectories"))
        settings = self._settings()
        with self.accelerator.main_process_first():
            job = ShardedJob(folder, len(self.rows), self.args.rows_per_shard, self._trajectory_features(), settings)
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            self._sample(job, self._resolve_sampler(model))
        self.accelerator.wait_for_everyone()
        self.trajectories = job.read()
        self._report(folder, settings)
        return self.trajectories

    def train(self, *args, **kwargs):
        """Collects trajectories unless there are some, then fine-tunes on the kept ones.

        Raises:
            `NothingKeptError`: if no trajectory was kept, with the counts and what to do.
        """
        if self.trajectories is None:
            self.collect()
        self.train_dataset = self._prepare_dataset(
            self._training_rows(), self.processing_class, self.args, self.args.packing, None, "train"
        )
        return super().train(*args, **kwargs)

    def card_facts(self) -> dict[str, Any]:
        report = rejection_report(self.trajectories)
        return {
            "preference rows": report["rows"],
            "trajectories": report["trajectories"],
            "unhinted, by verdict": _counts(report["verdicts"]),
            "hinted, by verdict": _counts(report["hinted_verdicts"]),
            "hinted share of the kept": f"{report['shares']['hinted_kept']:.3f}",
        }

    def _settings(self) -> dict[str, Any]:
        """What determines the trajectories."""
        args = self.args
        names = "num_generations hint reject_too_easy temperature top_p max_completion_length template seed".split()
        sampler = self.sampler if self.sampler is not None else self.model
        return {
            "kind": "trajectories",
            "version": __version__,
            "sampler": getattr(getattr(sampler, "config", None), "_name_or_path", None) or type(sampler).__name__,
            "data": _digest(self.rows),
            "template_digest": [judge_template(args.template, verdict).digest for verdict in (False, True)],
            **{name: getattr(args, name) for name in names},
        }

    def _trajectory_features(self) -> Features:
        return Features(
            {
                **self.rows.features,
                "completion": self.rows.features["prompt"],
                "row": Value("int64"),
                "sample": Value("int64"),
                "hinted": Value("bool"),
                "scores": List(Value("int64")),
                "problem": Value("string"),
                "num_tokens": Value("int64"),
                "verdict": Value("string"),
            }
        )

    def _resolve_sampler(self, model: PreTrainedModel) -> Sampler:
        if self.sampler is not None and not isinstance(self.sampler, PreTrainedModel):
            return self.sampler
        model = self.sampler.to(self.accelerator.device) if self.sampler is not None else model
        return partial(
            sample_critiques,
            model,
            self.processing_class,
            temperature=self.args.temperature,
            top_p=self.args.top_p,
            max_new_tokens=self.args.max_completion_length,
            batch_size=self.args.sampling_batch_size,
        )

    def _sample(self, job: ShardedJob, sampler: Sampler) -> None:
        def work(rows: range) -> list[dict[str, Any]]:
            return self._sample_shard(rows.start, list(self.rows.select(rows)), sampler)

        accelerator = self.accelerator
        with tqdm(total=len(self.rows), desc="Sampling", unit="row", disable=self.args.disable_tqdm) as bar:
            for rows in job.run(work, accelerator.process_index, accelerator.num_processes):
                bar.update(len(rows) * accelerator.num_processes)

    def _sample_shard(self, first: int, rows: list[dict[str, Any]], sampler: Sampler) -> list[dict[str, Any]]:
        unhinted = sampler([row["prompt"] for row in rows], self.args.num_generations, self.args.seed)
        records = [
            self._record(first + i, number, rows[i], sample, hinted=False)
            for i, samples in enumerate(unhinted)
            for number, sample in enumerate(samples)
        ]
        chosen = self._rows_to_hint(first, rows, records)
        prompts = [self._hinted_prompt(rows[i]) for i in chosen]
        hinted = sampler(prompts, 1, self.args.seed) if prompts else []
        records += [
            self._record(first + i, self.args.num_generations, rows[i], samples[0], hinted=True)
            for i, samples in zip(chosen, hinted, strict=True)
        ]
        selection = select_trajectories(
            [Trajectory(r["row"], r["scores"], r["labels"], r["hinted"]) for r in records], self.args.reject_too_easy
        )
        for record, verdict in zip(records, selection.verdicts, strict=True):
            record["verdict"] = verdict.value
        return sorted(records, key=lambda record: (record["row"], record["sample"]))

    def _rows_to_hint(self, first: int, rows: Sequence[Mapping], records: Sequence[Mapping]) -> list[int]:
        if self.args.hint == "none":
            return []
        solved = {record["row"] - first for record in records if is_correct(record["scores"], record["labels"])}
        return [i for i in range(len(rows)) if self.args.hint == "all" or i not in solved]

    def _hinted_prompt(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        preference = judged(row)
        tokens = special_tokens(self.processing_class)
        return judge_messages(preference, self.args.template, len(preference) == 1, hint=True, special_tokens=tokens)

    def _record(self, index: int, number: int, row: Mapping, sample: Sample, hinted: bool) -> dict[str, Any]:
        preference = judged(row)
        critique = read_sample(sample, len(preference), score_range_of(len(preference), self.args.template))
        return {
            **row,
            "responses": list(preference.responses),
            "completion": _assistant(sample.text),
            "row": index,
            "sample": number,
            "hinted": hinted,
            "scores": None if critique.scores is None else list(critique.scores),
            "problem": critique.problem,
            "num_tokens": sample.num_tokens,
        }

    def _report(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.report = rejection_report(self.trajectories)
        self.log({f"rft/{name}": value for name, value in self.report["shares"].items()})
        if self.accelerator.is_main_process:
            write_json(folder / "rejection.json", self.report)
            write_trajectories_card(folder, self.report, settings)
        logger.info(f"Rejection report: {self.report}", main_process_only=True)

    def _training_rows(self) -> Dataset:
        kept = [i for i, verdict in enumerate(self.trajectories["verdict"]) if verdict == Verdict.KEPT.value]
        if not kept:
            counts = dict(Counter(self.trajectories["verdict"]))
            raise NothingKeptError(
                f"No trajectory was kept out of {len(self.trajectories)} ({counts}). If most are unreadable, raise "
                "`max_completion_length` or let a stronger `sampler` sample; if most are incorrect, set `hint='all'` "
                "or take an easier dataset; if most are too easy, take a harder one or set `reject_too_easy=False`."
            )
        rows = self.trajectories.select(kept).select_columns(["prompt", "completion"])
        if self.general_dataset is None:
            return rows
        limit = min(len(self.general_dataset), round(self.args.general_ratio * len(kept)))
        general = self.general_dataset.shuffle(seed=self.args.seed).select(range(limit))
        general = Dataset.from_list([_general_row(row, number) for number, row in enumerate(general)])
        return concatenate_datasets([rows.cast(general.features), general])


def rejection_report(trajectories: Dataset) -> dict[str, Any]:
    """Counts of trajectories by verdict, hint and problem, and the shares among them.

    Returns:
        `dict` with `trajectories` and `rows` (`int`), `verdicts` and `hinted_verdicts` (counts of unhinted and hinted
        trajectories by verdict), `problems` (counts of unreadable ones by cause), and `shares` (`kept`, `incorrect`,
        `unreadable`, `too_easy` of all trajectories; `accuracy` of the unhinted; `hinted_kept`, the hinted among the
        kept).
    """
    table = trajectories.select_columns(["row", "hinted", "verdict", "problem"]).to_dict()
    pairs = list(zip(table["verdict"], table["hinted"], strict=True))
    verdicts = {v.value: pairs.count((v.value, False)) for v in Verdict}
    hinted = {v.value: pairs.count((v.value, True)) for v in Verdict}
    total = len(pairs)
    shares = {v.value: (verdicts[v.value] + hinted[v.value]) / total for v in Verdict}
    kept = verdicts["kept"] + hinted["kept"]
    shares["accuracy"] = (verdicts["kept"] + verdicts["too_easy"]) / max(1, sum(verdicts.values()))
    shares["hinted_kept"] = hinted["kept"] / max(1, kept)
    return {
        "trajectories": total,
        "rows": len(set(table["row"])),
        "verdicts": verdicts,
        "hinted_verdicts": hinted,
        "problems": dict(Counter(problem for problem in table["problem"] if problem)),
        "shares": shares,
    }


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _general_row(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A row of instruction data as `prompt` and `completion` messages."""
    if row.get("messages"):
        return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
    prompt, completion = row.get("prompt"), row.get("completion")
    if not prompt or not completion:
        raise ValueError(
            f"general_dataset row {number}: found the columns {sorted(row)}; expected `messages`, or `prompt` and "
            "`completion`."
        )
    return {
        "prompt": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
        "completion": _assistant(completion) if isinstance(completion, str) else completion,
    }


def _digest(rows: Dataset) -> str:
    """A hash of what is sampled and of what decides about it."""
    state = hashlib.blake2b(digest_size=16)
    for row in rows.select_columns(["prompt", "labels"]):
        state.update(repr((row["prompt"], row["labels"])).encode("utf-8", "surrogatepass"))
    return state.hexdigest()
