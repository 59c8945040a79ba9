# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Stage 1 of SPCT: sample critiques, reject, fine-tune on what is left (paper, section 4)."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from trl import SFTTrainer
from trl.models.utils import unwrap_model_for_generation

from . import __version__
from .cards import PAPER, JudgeCards, write_trajectories_card
from .data import judged, score_range_of
from .judges import (
    check_arguments,
    load_adapter,
    load_config,
    load_sampler,
    load_tokenizer,
    name_template,
    rows_for,
    saved_weights_digest,
)
from .manifests import rows_digest, write_json
from .outcomes import is_correct
from .preferences import Preference
from .prompts import TEMPLATES, judge_messages, judge_template
from .rejection import Trajectory, Verdict, select_trajectories
from .rejective_sampler_config import RejectiveSamplerConfig
from .sampling import Sample, Sampler, keep_trainable, read_sample, sample_critiques, special_tokens
from .shards import ShardedJob


logger = get_logger(__name__)


_MESSAGES = List({"role": Value("string"), "content": Value("string")})


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
        eval_dataset ([`~datasets.Dataset`] or `dict` of them, *optional*):
            Trajectories of held-out rows, whose kept ones give the evaluation loss, or instruction data. Preference
            rows hold no critique to compute a loss on and are refused.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer with a chat template and a pad token. Loaded from the model's path by default.
        sampler (`str`, [`~transformers.PreTrainedModel`] or `Callable`, *optional*):
            Who samples. The path or id of another model, which is loaded with its own tokenizer for the time of
            sampling; another model that shares the tokenizer; or any `sampler(prompts, k, seed) ->
            list[list[Sample]]` with prompts as message lists. The model itself by default; the paper samples with a
            stronger one.
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
        sampler: "str | PreTrainedModel | Sampler | None" = None,
        general_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        **kwargs,
    ):
        if train_dataset is None:
            raise ValueError("`train_dataset` is required: preference rows, or trajectories from `collect()`.")
        config = load_config(model, args)
        if args is None:
            args = RejectiveSamplerConfig(f"{config._name_or_path.split('/')[-1]}-RFT")
        check_arguments(args, RejectiveSamplerConfig)
        processing_class = processing_class or load_tokenizer(model, config, args)
        _read_chat_template(processing_class, args.chat_template_path)
        is_processor = isinstance(processing_class, ProcessorMixin)
        self.judge_tokenizer = processing_class.tokenizer if is_processor else processing_class
        self.sampler = sampler
        self.general_dataset = None
        if general_dataset is not None:
            self.general_dataset = _as_instructions(general_dataset, "general_dataset")
        if isinstance(eval_dataset, dict):
            eval_dataset = {key: _eval_rows(rows, f"eval_dataset[{key!r}]") for key, rows in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = _eval_rows(eval_dataset, "eval_dataset")
        self.trajectories = self.rows = None
        self.sampled_by = model if isinstance(model, str) else config._name_or_path
        if _are_trajectories(train_dataset):
            _check_trajectories(train_dataset, args.template)
            self.trajectories = train_dataset
            prompt = train_dataset[0]["prompt"]
        else:
            self.rows = rows_for(train_dataset, processing_class, args, config, "train_dataset")
            prompt = self.rows[0]["prompt"]
        # `SFTTrainer` prepares its data before it has an accelerator; one row in the final format tells it the kind.
        placeholder = Dataset.from_list([{"prompt": prompt, "completion": _assistant(".")}])
        super().__init__(
            model=load_adapter(model, args, kwargs),
            args=args,
            train_dataset=placeholder,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        keep_trainable(self.model)
        name_template(self.model.config, args.template)
        self._check_stop_token(prompt)

    def collect(self) -> Dataset:
        """Samples and judges trajectories, shard by shard; a restart with the same settings resumes.

        Returns:
            [`~datasets.Dataset`]: one row per trajectory: `prompt` (without the hint) and `completion` as messages;
            `query`, `responses`, `labels` and `scores`, all in the order that the judge read; `order`; `hinted`;
            `verdict` (`"kept"`, `"incorrect"`, `"unreadable"` or `"too_easy"`); `problem` (why there are no scores);
            `row`, `sample`, `num_tokens`; and the other columns of the preference rows.

        Raises:
            `FileExistsError`: if the folder holds trajectories of another configuration.
            `RuntimeError`: if the model itself is to sample and will be sharded by FSDP or ZeRO-3.
        """
        if self.rows is None:
            raise ValueError("This trainer was given collected trajectories; there are no preference rows to sample.")
        folder = Path(self.args.trajectories_dir or os.path.join(self.args.output_dir, "trajectories"))
        settings = self._settings()
        with self.accelerator.main_process_first():
            job = ShardedJob(folder, len(self.rows), self.args.rows_per_shard, self._trajectory_features(), settings)
        if not all(path.exists() for path, _ in job.shards):
            self._sample(job)
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
        if self.trajectories is None:
            return {}
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
        sampler = self.sampled_by if self.sampler is None else self.sampler
        return {
            "kind": "trajectories",
            "version": __version__,
            "sampler": _name_of(sampler),
            "sampler_weights": saved_weights_digest(sampler),
            "data": rows_digest(
                (row["prompt"], row["labels"]) for row in self.rows.select_columns(["prompt", "labels"])
            ),
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

    def _sample(self, job: ShardedJob) -> None:
        if self.sampler is None:
            self._check_whole()
            with unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model:
                self._fill(job, self._sampler_of(model, self.judge_tokenizer))
        elif isinstance(self.sampler, str):
            sampler, tokenizer = load_sampler(self.sampler, self.args)
            self._fill(job, self._sampler_of(sampler, tokenizer))
        elif isinstance(self.sampler, torch.nn.Module):
            self._fill(job, self._sampler_of(self.sampler, self.judge_tokenizer))
        else:
            self._fill(job, self.sampler)

    def _check_whole(self) -> None:
        if self.is_fsdp_enabled or (self.is_deepspeed_enabled and self.args.deepspeed_plugin.zero_stage == 3):
            raise RuntimeError(
                "Found FSDP or ZeRO-3, under which the model is not whole on any device before it trains; expected "
                "trajectories, or another `sampler`. Call `collect()` in a job without sharding and with the same "
                "configuration; this one finds its trajectories."
            )

    def _check_stop_token(self, prompt: list[dict[str, str]]) -> None:
        tokenizer = self.judge_tokenizer
        before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template([*prompt, *_assistant(".")], return_dict=False)
        ends = self.model.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        if not ends.intersection(whole[len(before) :]):
            logger.warning(
                "The chat template ends the judge's turn (%r) without an end-of-sequence token, and the judge would "
                "not learn to stop. Set `eos_token` to the token that ends it.",
                tokenizer.decode(whole[len(before) :]),
            )

    def _sampler_of(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> Sampler:
        return partial(
            sample_critiques,
            model if model.device == self.accelerator.device else model.to(self.accelerator.device),
            tokenizer,
            temperature=self.args.temperature,
            top_p=self.args.top_p,
            max_new_tokens=self.args.max_completion_length,
            batch_size=self.args.sampling_batch_size,
        )

    def _fill(self, job: ShardedJob, sampler: Sampler) -> None:
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
        tokens = special_tokens(self.judge_tokenizer)
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
        return concatenate_datasets([rows.cast(general.features), general]) if limit else rows


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


def _are_trajectories(dataset: Any) -> bool:
    return {"prompt", "completion", "verdict"} <= set(getattr(dataset, "column_names", None) or ())


def _check_trajectories(trajectories: Dataset, template: str) -> None:
    """Refuses trajectories that cannot be what `collect()` returned with this template."""
    missing = sorted({"row", "hinted", "problem", "query", "responses"} - set(trajectories.column_names))
    if missing or not len(trajectories):
        found = f"the columns {sorted(trajectories.column_names)}" if missing else "no trajectories"
        raise ValueError(f"train_dataset: found {found}; expected what `collect()` returned, whole.")
    judge_template(template)
    first = trajectories[0]
    preference = Preference(first["query"], first["responses"])
    asked = {name: judge_messages(preference, name, len(preference) == 1) for name in TEMPLATES}
    used = [name for name, messages in asked.items() if messages == first["prompt"]]
    if used and template not in used:
        raise ValueError(
            f"train_dataset: found trajectories that were prompted with the template {used[0]!r}; expected "
            f"template={template!r} as in the configuration. Set `template={used[0]!r}`."
        )


def _eval_rows(dataset: Dataset, name: str) -> Dataset:
    if not _are_trajectories(dataset):
        return _as_instructions(dataset, name)
    kept = [i for i, verdict in enumerate(dataset["verdict"]) if verdict == Verdict.KEPT.value]
    if not kept:
        raise ValueError(f"{name}: found no kept trajectory among {len(dataset)}; expected at least one.")
    return dataset.select(kept).select_columns(["prompt", "completion"])


def _as_instructions(dataset: Dataset, name: str) -> Dataset:
    """Instruction data as `prompt` and `completion` messages, checked before anything is sampled."""
    if not isinstance(dataset, Dataset):
        raise TypeError(f"{name} is {type(dataset).__name__}; expected a `datasets.Dataset`.")
    columns = set(dataset.column_names)
    shaped = "messages" in columns or {"prompt", "completion"} <= columns
    if not shaped or columns & {"responses", "label", "chosen", "rejected"}:
        raise ValueError(
            f"{name}: found the columns {sorted(columns)}; expected instruction data with `messages`, or with "
            "`prompt` and `completion`, or trajectories of `collect()`. Preference rows hold no critique to learn "
            "from: collect trajectories of them, or measure a judge on them with `recipes/evaluate.py`."
        )

    def convert(row: dict[str, Any], number: int) -> dict[str, Any]:
        prompt, completion = row.get("prompt"), row.get("completion")
        if row.get("messages"):
            prompt, completion = row["messages"][:-1], row["messages"][-1:]
        if not prompt or not completion:
            raise ValueError(f"{name} row {number}: found no prompt or no completion; expected both.")
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        completion = _assistant(completion) if isinstance(completion, str) else completion
        if completion[-1]["role"] != "assistant":
            raise ValueError(
                f"{name} row {number}: found a last turn of the role {completion[-1]['role']!r}; expected 'assistant'."
            )
        return {"prompt": _plain(prompt), "completion": _plain(completion)}

    return dataset.map(
        convert,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=Features({"prompt": _MESSAGES, "completion": _MESSAGES}),
        load_from_cache_file=False,
    )


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _read_chat_template(tokenizer: PreTrainedTokenizerBase, path: str | None) -> None:
    """Rows are measured in the chat template before TRL applies `chat_template_path`."""
    if path is None:
        return
    if os.path.isfile(path) and path.endswith((".jinja", ".j2")):
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
    else:
        tokenizer.chat_template = AutoTokenizer.from_pretrained(path).get_chat_template()


def _name_of(sampler: Any) -> str:
    """Who samples, as far as it can be told across starts."""
    if isinstance(sampler, str):
        return sampler
    if isinstance(sampler, partial):
        return _name_of(sampler.func)
    path = getattr(getattr(sampler, "config", None), "_name_or_path", None)
    return path or getattr(sampler, "__qualname__", type(sampler).__qualname__)
