# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Stage 1 of SPCT: sample critiques, reject, fine-tune on what is left (paper, section 4)."""

import copy
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from trl import SFTTrainer

from .. import __version__
from ..cards import PAPER, JudgeCards, is_repo_id, push_trajectories, write_trajectories_card
from ..data.instructions import instruction_rows
from ..data.preparation import preference_of
from ..engines import OpenAIEngine
from ..jobs import ShardedJob, locked, rows_digest, write_json
from ..judge.closing import close_critiques, closer_of
from ..judge.critiques import is_draft_tag, opens_draft, without_thoughts
from ..judge.dates import on_day
from ..judge.generation import keep_trainable
from ..judge.prompts import TEMPLATES, judge_messages, judge_template
from ..judge.sampling import (
    Sample,
    Sampler,
    context_length,
    decode_completions,
    encode_prompts,
    ends_in_draft,
    sample_critiques,
    special_ids,
)
from .loading import (
    checked_arguments,
    each_set,
    load_adapter,
    load_config,
    load_sampler,
    load_tokenizer,
    longest_sequence,
    read_chat_template,
    rows_for,
    saved_weights_digest,
    store_template,
    with_template,
)
from .recorded import CRITIQUES, recorded_trajectories
from .rejection import Outcome, cap_hinted
from .rejection_report import Report, counts_text, rejection_metrics, rejection_report, rejection_summary
from .rejective_sampler_config import RejectiveSamplerConfig
from .trajectories import TRAJECTORY_FEATURES, TrajectoryCollector, check_sampler, count_refused, name_of

logger = get_logger(__name__)


_TAG = re.compile(r"[<\[◁][^\s<>\[\]◁▷]+[>\]▷]")


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
        args ([`RejectiveSamplerConfig`], *optional*): Configuration.
        train_dataset ([`~datasets.Dataset`]):
            Preference rows in any shape that [`~trl_spct.Preference.from_row`] reads; these with `critiques` to learn
            from, see [`~trl_spct.trainers.recorded.recorded_trajectories`]; or trajectories of an earlier `collect()`.
        eval_dataset ([`~datasets.Dataset`] or `dict` of them, *optional*):
            Trajectories of held-out rows, whose kept ones give the evaluation loss.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer with a chat template and a pad token. Loaded from the model's path by default.
        sampler (`str`, [`~transformers.PreTrainedModel`] or `Callable`, *optional*):
            Who samples; the model itself by default, in the paper a stronger one. The path or id of another model,
            with its own tokenizer; another model that shares the tokenizer; an [`~trl_spct.engines.OpenAIEngine`]; or
            any [`~trl_spct.judge.sampling.Sampler`]. What it had `completed` before a `RuntimeError` is kept.
        general_dataset ([`~datasets.Dataset`] or sequence of them, *optional*):
            Instruction data with `prompt` and `completion`, or `messages`, to mix in: at most `general_ratio` rows per
            trajectory that is trained on. Without general data the paper loses 5 points.
        **kwargs: Passed to [`~trl.SFTTrainer`].
    """

    _tag_names = ["trl", "rft", "spct", "generative-reward-model"]
    _name = "RFT"
    _paper = PAPER

    args: RejectiveSamplerConfig
    model: Any
    processing_class: Any

    def __init__(
        self,
        model: "str | PreTrainedModel",
        args: RejectiveSamplerConfig | None = None,
        train_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        sampler: "str | PreTrainedModel | Sampler | None" = None,
        general_dataset: Dataset | Sequence[Dataset] | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        **kwargs,
    ):
        if train_dataset is None:
            raise ValueError("`train_dataset` is required: preference rows, or trajectories from `collect()`.")
        args, config = checked_arguments(model, args, RejectiveSamplerConfig, self._name, kwargs.get("peft_config"))
        args = with_template(args, config)
        assert args.template is not None
        processing_class = processing_class or load_tokenizer(model, config, args)
        read_chat_template(processing_class, args.chat_template_path)
        is_processor = isinstance(processing_class, ProcessorMixin)
        self.judge_tokenizer = processing_class.tokenizer if is_processor else processing_class
        check_sampler(sampler)
        self.sampler = sampler
        self.general_dataset: Dataset | None = None
        if general_dataset is not None:
            self.general_dataset = instruction_rows(general_dataset, self.judge_tokenizer)
        eval_dataset = each_set(eval_dataset, _kept)
        self.trajectories: Dataset | None = None
        self.rows: Dataset | None = None
        self.report: Report | None = None
        self.mixture: dict[str, int] = {}
        by_itself = model if isinstance(model, str) else config._name_or_path
        self._samples_with = by_itself if sampler is None else sampler
        self.context_length = context_length(config)
        if _are_trajectories(train_dataset):
            _check_trajectories(train_dataset, args.template)
            self.trajectories = train_dataset
        elif CRITIQUES in (getattr(train_dataset, "column_names", None) or ()):
            rule = (args.template, args.source, args.invalid_rows, args.reject_too_easy)
            limits = (longest_sequence(args, config), args.variables)
            self.trajectories = recorded_trajectories(train_dataset, self.judge_tokenizer, *rule, *limits)
        else:
            prepared = rows_for(train_dataset, processing_class, args, config, "train_dataset")
            self.rows = prepared.dataset
            self.row_numbers = prepared.row_numbers
        prompt = next(iter(self.rows or self.trajectories or ()))["prompt"]
        # `SFTTrainer` prepares its data before it has a model; one row in the final format shows it the kind.
        placeholder = Dataset.from_list([{"prompt": prompt, "completion": _assistant(".")}])
        super().__init__(
            model=load_adapter(model, args, kwargs),
            args=args,
            train_dataset=placeholder,
            eval_dataset=each_set(eval_dataset, lambda rows, name: placeholder),
            processing_class=processing_class,
            **kwargs,
        )
        keep_trainable(self.model)
        store_template(self.model.config, args)
        if eval_dataset is not None:
            self.eval_dataset = each_set(eval_dataset, self._eval_rows)

    def collect(self) -> Dataset:
        """Samples and judges trajectories, shard by shard; a restart with the same settings resumes.

        Returns one row per trajectory: `prompt` (without the hint) and `completion` as messages; `scores` in the order
        of the row; `hinted`; `outcome`, see [`~trl_spct.trainers.rejection.Outcome`]; `problem` (why there are no
        scores); `row`, `sample`, `num_tokens`; and the preference rows' columns of other names."""
        if self.rows is None:
            raise ValueError(
                "Found collected trajectories or recorded critiques as `train_dataset`; expected preference rows to "
                "sample, without the column `critiques`."
            )
        folder = Path(self.args.trajectories_dir or Path(self.args.output_dir or ".", "trajectories"))
        settings = self._settings()
        features = Features({**self.rows.features, **TRAJECTORY_FEATURES})
        with self.accelerator.main_process_first():
            job = ShardedJob(folder, len(self.rows), self.args.rows_per_shard, features, settings)
        if job.num_missing:
            self._sample(job)
        self.accelerator.wait_for_everyone()
        with self.accelerator.main_process_first():
            self.trajectories = job.read()
        self._report(self.trajectories, folder, settings)
        return self.trajectories

    def train(self, *args, **kwargs):
        """Collects trajectories unless there are some, then fine-tunes on the kept ones, if there are any."""
        trajectories = self.trajectories or self.collect()
        with locked(self.args.output_dir, self.accelerator.process_index):
            kept, general = self._training_rows(trajectories)
            num_general = 0 if general is None else len(general)
            self.mixture = {"trajectories": len(kept), "hinted": sum(kept["hinted"]), "general": num_general}
            self.train_dataset = self._prepared(kept, self.args.packing, "train", general)
            self.log({f"rft/trained_on/{name}": count for name, count in self.mixture.items()})
            output = super().train(*args, **kwargs)
        self.report = self.report or rejection_report(trajectories)
        summary = f"Fine-tuned on {counts_text(self.mixture)} of {rejection_summary(self.report)}"
        logger.info(summary, main_process_only=True)
        return output

    def evaluate(self, eval_dataset=None, *args, **kwargs) -> dict[str, float]:
        """Evaluates as [`~trl.SFTTrainer`] does, also on trajectories of held-out rows, whose kept ones count."""
        eval_dataset = eval_dataset if isinstance(eval_dataset, str) else each_set(eval_dataset, self._eval_rows)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def _eval_rows(self, rows: Dataset, name: str) -> Dataset:
        packing = bool(self.args.eval_packing)
        done = "input_ids" in (getattr(rows, "column_names", None) or ())
        return rows if done else self._prepared(_kept(rows, name), packing, "eval")

    def card_facts(self) -> dict[str, Any]:
        if self.trajectories is None:
            return {}
        report = self.report = self.report or rejection_report(self.trajectories)
        sampler = name_of(self._samples_with)
        if os.path.isdir(sampler) or not is_repo_id(sampler):
            sampler = Path(sampler).name or "the judge, made in memory"
        return {
            "preference rows": report["rows"],
            "trajectories": report["trajectories"],
            **({} if self.rows is None else {"sampled by": sampler}),
            "unhinted, by outcome": counts_text(report["outcomes"]),
            "hinted, by outcome": counts_text(report["hinted_outcomes"]),
            "unreadable, by cause": counts_text(report["problems"]) or "none",
            "kept, by place of the best response": counts_text(report["places"]) or "none",
            **{f"fine-tuned on, {name}": count for name, count in self.mixture.items()},
        }

    def _settings(self) -> dict[str, Any]:
        """What determines the trajectories."""
        args = self.args
        assert args.template is not None and self.rows is not None  # since `__init__`, and in `collect`
        names = "num_generations hint reject_too_easy temperature top_p max_completion_length template seed".split()
        variables = getattr(self._samples_with, "chat_template_kwargs", None)  # of an engine
        return {
            "kind": "trajectories",
            "version": __version__,
            "sampler": name_of(self._samples_with),
            "sampler_revision": getattr(self._sampler_config(), "_commit_hash", None),
            "sampler_weights": saved_weights_digest(self._samples_with),
            "data": rows_digest(
                (row["prompt"], row["labels"]) for row in self.rows.select_columns(["prompt", "labels"])
            ),
            "template_digest": [judge_template(args.template, binary).digest for binary in (False, True)],
            **({"chat_template_kwargs": args.variables} if args.variables else {}),
            **{name: getattr(args, name) for name in names},
            **({"sampler_chat_template_kwargs": variables} if variables else {}),
            **{name: value for name in ("close_critiques", "max_thinking_tokens") if (value := getattr(args, name))},
        }

    def _sampler_config(self) -> PreTrainedConfig | None:
        if isinstance(self.sampler, str):
            return load_config(self.sampler, SimpleNamespace(trust_remote_code=self.args.trust_remote_code))
        return getattr(self.model if self.sampler is None else self.sampler, "config", None)

    def _sample(self, job: ShardedJob) -> None:
        assert self.rows is not None
        sampler, tokenizer, accelerator = self.sampler, None, self.accelerator
        engine = sampler.func if isinstance(sampler, partial) else sampler
        # A server need not wait for the last critique of a shard.
        concurrency = 2 if isinstance(engine, OpenAIEngine) else 1
        config = self._sampler_config()
        limit = self.context_length if config is None else context_length(config)
        if isinstance(sampler, str):
            sampler, tokenizer = load_sampler(sampler, self.args)
        elif sampler is None:
            if self.is_fsdp_enabled or (self.is_deepspeed_enabled and self.args.deepspeed_plugin.zero_stage == 3):
                raise RuntimeError(
                    "Found FSDP or ZeRO-3, under which the model is whole on no device; expected trajectories, or "
                    "another `sampler`. Call `collect()` in a job without sharding and with the same configuration."
                )
            sampler = accelerator.unwrap_model(self.model)
        variables = self.args.variables
        if isinstance(engine, OpenAIEngine) and engine.tokenizer is not None:  # measured as the server reads them
            tokenizer, limit = engine.tokenizer, engine.context_length
            variables = engine.chat_template_kwargs or {}
        closer: Callable[..., list[Sample]] | None = None
        if isinstance(sampler, torch.nn.Module):
            model = sampler if sampler.device == accelerator.device else sampler.to(accelerator.device)
            options: Any = {"batch_size": self.args.sampling_batch_size, "chat_template_kwargs": variables}
            sampler = partial(sample_critiques, model, tokenizer or self.judge_tokenizer, **options)
            sampler = partial(sampler, max_thinking_tokens=self.args.max_thinking_tokens)
            closer = partial(close_critiques, model, tokenizer or self.judge_tokenizer, **options)
        elif self.args.close_critiques:
            closer = closer_of(engine)
        collector = TrajectoryCollector(
            self.rows, sampler, self.args, self.judge_tokenizer, tokenizer, limit, self.row_numbers, variables
        )
        collector.closer = closer if self.args.close_critiques else None
        if tokenizer is not None or limit != self.context_length:
            collector.check_rows()

        def work(rows: range) -> list[dict[str, Any]]:
            day = job.day.isoformat()
            return [{**record, "sampled_on": day} for record in collector(rows, job.path_of(rows))]

        with tqdm(total=len(self.rows), desc="Sampling", unit="row", disable=self.args.disable_tqdm) as bar:
            for rows in job.run(work, accelerator.process_index, accelerator.num_processes, concurrency):
                bar.update(len(rows) * accelerator.num_processes)

    def _prepared(self, rows: Dataset, packing: bool, name: str, general: Dataset | None = None) -> Dataset:
        """Trajectories and general data as [`~trl.SFTTrainer`] trains on them."""
        parts = [self._tokenized(rows)]
        if general is not None:
            # Tokenized by itself, and neither truncated nor packed before it is mixed.
            if self.args.variables:
                general = general.add_column("chat_template_kwargs", [self.args.variables] * len(general))
            whole = copy.copy(self.args)
            whole.max_length = None
            general = self._prepare_dataset(general, self.processing_class, whole, False, None, name)
            parts.append(general.select_columns(["input_ids", "labels"]).cast(parts[0].features))
        return self._prepare_dataset(
            concatenate_datasets(parts), self.processing_class, self.args, packing, None, name
        )

    def _tokenized(self, trajectories: Dataset) -> Dataset:
        """The sampled tokens behind the sampled prompt, and what the chat template writes after a turn.

        The template does not render the completion, since some templates strip thoughts, or move them.
        """
        tokenizer, end = self.judge_tokenizer, self._turn_end(trajectories[0]["prompt"])
        ends = self._ends() | special_ids(tokenizer)[0]

        def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
            texts = [completion[-1]["content"] for completion in batch["completion"]]
            known = batch.get("completion_ids") or [None] * len(texts)
            known = [ids[:-1] if ids and ids[-1] in ends else ids for ids in known]
            encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
            # Trajectories may come from a model with another tokenizer.
            decoded = decode_completions(tokenizer, [ids or [] for ids in known])
            completions = [
                [*(ids if ids and text == decoded_text else retokenized), *end]
                for text, ids, decoded_text, retokenized in zip(texts, known, decoded, encoded, strict=True)
            ]
            days = batch.get("sampled_on") or [date.today().isoformat()] * len(texts)
            prompts: list[list[int]] = []
            for day, group in groupby(zip(days, batch["prompt"], strict=True), key=itemgetter(0)):
                with on_day(date.fromisoformat(day)):
                    prompts += encode_prompts(tokenizer, [prompt for _, prompt in group], self.args.variables)
            for row, prompt, text in zip(batch["row"], prompts, texts, strict=True):
                _check_draft(row, text, ends_in_draft(tokenizer, prompt))
            masked = [[-100] * len(prompt) if self.completion_only_loss else prompt for prompt in prompts]
            return {
                "input_ids": [[*prompt, *ids] for prompt, ids in zip(prompts, completions, strict=True)],
                "labels": [[*labels, *ids] for labels, ids in zip(masked, completions, strict=True)],
            }

        return trajectories.with_format(None).map(
            tokenize,
            batched=True,
            batch_size=256,
            remove_columns=trajectories.column_names,
            features=Features({"input_ids": List(Value("int32")), "labels": List(Value("int64"))}),
            load_from_cache_file=False,
        )

    def _turn_end(self, prompt: list[dict[str, str]]) -> list[int]:
        """What the chat template writes after a turn, if it ends the generation, else the end-of-sequence token."""
        tokenizer = self.judge_tokenizer
        turns, variables = [[*prompt, *_assistant(text)] for text in ("a", "b")], self.args.variables
        one, other = (tokenizer.apply_chat_template(turn, return_dict=False, **variables) for turn in turns)
        if one == other:  # a small vocabulary that holds neither letter
            texts = [tokenizer.apply_chat_template(turn, tokenize=False, **variables)[::-1] for turn in turns]
            tail = tokenizer(os.path.commonprefix(texts)[::-1], add_special_tokens=False)["input_ids"]
        else:
            tail = os.path.commonprefix([one[::-1], other[::-1]])[::-1]
        return tail if self._ends().intersection(tail) else [tokenizer.eos_token_id]

    def _ends(self) -> set[int | None]:
        """The tokens that end a generation."""
        ends = self.model.generation_config.eos_token_id
        return {self.judge_tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    def _report(self, trajectories: Dataset, folder: Path, settings: Mapping[str, Any]) -> None:
        args, self.report = self.args, rejection_report(trajectories)
        self.log(rejection_metrics(self.report))
        logger.info(rejection_summary(self.report), main_process_only=True)
        if refused := count_refused(folder):
            self.report["refused"] = refused
            logger.warning(f"The sampler refused {counts_text(refused)} prompts.", main_process_only=True)
        if self.accelerator.is_main_process:
            for leftover in folder.glob(".rejection.json.*.partial"):
                leftover.unlink()  # of a start that was killed here
            write_json(folder / "rejection.json", self.report)
            write_trajectories_card(folder, self.report, settings)
            if args.trajectories_hub_repo is not None:
                with self.tolerating_push_errors():
                    push_trajectories(folder, args.trajectories_hub_repo, args.hub_private_repo, args.hub_token)
        for remark in self.report["remarks"]:
            logger.warning(remark, main_process_only=True)

    def _training_rows(self, trajectories: Dataset) -> tuple[Dataset, Dataset | None]:
        """The kept trajectories, and the general data to mix in."""
        rows, hinted, outcomes = (trajectories.with_format(None)[name][:] for name in ("row", "hinted", "outcome"))
        kept = cap_hinted(rows, hinted, outcomes, self.args.max_hinted_share, self.args.seed)
        if not kept:
            causes = counts_text(Counter(filter(None, trajectories["problem"]))) or "none"
            raise NothingKeptError(
                f"No trajectory was kept out of {len(trajectories)} ({dict(Counter(outcomes))}; problems: {causes}). "
                "If most are unreadable, raise `max_completion_length`, bound drafts by `max_thinking_tokens`, set "
                "`close_critiques`, or start from a stronger judge's critiques (`sampler`, or a column `critiques`); "
                "if most are incorrect, set `hint='all'` or take an easier dataset; if most are too easy, take a "
                "harder one or set `reject_too_easy=False`; if all kept ones were hinted, raise `max_hinted_share`."
            )
        general = self.general_dataset
        if general is not None:
            limit = min(len(general), round(self.args.general_ratio * len(kept)))
            general = general.shuffle(seed=self.args.seed).select(range(limit)) if limit else None
        return trajectories.select(kept), general


def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _are_trajectories(dataset: Any) -> bool:
    return {"prompt", "completion", "outcome"} <= set(getattr(dataset, "column_names", None) or ())


def _check_trajectories(trajectories: Dataset, template: str) -> None:
    """Refuses trajectories that are not the result of `collect()` with this template."""
    missing = sorted({"row", "hinted", "problem", "query", "responses", "order"} - set(trajectories.column_names))
    if missing or not len(trajectories):
        columns = f"the columns {sorted(trajectories.column_names)}" if missing else "no trajectories"
        raise ValueError(f"train_dataset: found {columns}; expected what `collect()` returned, whole.")
    judge_template(template)
    first = trajectories[0]
    shown = preference_of(first).permuted(first["order"])
    used = [name for name in TEMPLATES if judge_messages(shown, name, len(shown) == 1) == first["prompt"]]
    if used and template not in used:
        raise ValueError(
            f"train_dataset: found trajectories that were prompted with the template {used[0]!r}; expected "
            f"template={template!r} as in the configuration. Set `template={used[0]!r}`."
        )


def _kept(trajectories: Dataset, name: str) -> Dataset:
    if not _are_trajectories(trajectories):
        raise ValueError(
            f"{name}: found the columns {sorted(trajectories.column_names)}; expected trajectories of held-out rows, "
            "as `collect()` returns them, since preference rows hold no critique to compute a loss on."
        )
    kept = [i for i, outcome in enumerate(trajectories["outcome"]) if outcome == Outcome.KEPT.value]
    if not kept:
        raise ValueError(f"{name}: found no kept trajectory among {len(trajectories)}; expected at least one.")
    return trajectories.select(kept)


def _check_draft(row: int, text: str, prefilled: bool) -> None:
    """Refuses a critique from which a judge would learn drafts that are opened twice or never closed."""
    tags = [tag for tag in _TAG.findall(text) if is_draft_tag(tag)]
    if without_thoughts(text, prefilled) is None:
        difference = "never closes it" if prefilled else "opens one that it never closes"
    elif prefilled and tags and opens_draft(tags[0]) and text.lstrip().startswith(tags[0]):
        difference = "opens it again"
    else:
        return
    raise ValueError(
        f"The critique {text!r:.60} of row {row} does not fit to the judge's prompt: the chat template "
        f"{'opens a draft' if prefilled else 'opens no draft'}, and the critique {difference}. Take a `sampler` with "
        "the judge's chat template, or change it (`chat_template_kwargs`, `chat_template_path`)."
    )
