# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""From preference rows to judged trajectories, a shard at a time, whoever samples."""

import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.preparation import preference_of
from ..jobs import rows_digest, write_json
from ..judge.outcomes import is_correct
from ..judge.preferences import Messages
from ..judge.prompts import hint_line, judge_messages, judge_template
from ..judge.sampling import Sample, Sampler, check_lengths, encode_prompts, read_sample, special_tokens
from .rejection import Trajectory, select_trajectories


logger = logging.getLogger(__name__)


class TrajectoryCollector:
    """Samples the rows of a shard without and with hints, reads the scores, and applies the rejection rule.

    Args:
        rows ([`~datasets.Dataset`]): Rows of [`~trl_spct.data.preparation.judge_rows`].
        sampler (`Callable`): See [`RejectiveSampler`].
        args ([`RejectiveSamplerConfig`]): What is sampled, and which rows are hinted.
        judge_tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Of the judge that the prompts were made for.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Of who samples; the judge's by default.
        context_length (`int`, *optional*): Of who samples. Prompts are not measured without it.
    """

    def __init__(
        self,
        rows: Dataset,
        sampler: Sampler,
        args: Any,
        judge_tokenizer: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase | None = None,
        context_length: int | None = None,
    ):
        self.rows = rows
        self.args = args
        self.tokenizer = tokenizer or judge_tokenizer
        self.context_length = context_length
        self.sampler = partial(
            sampler, temperature=args.temperature, top_p=args.top_p, max_new_tokens=args.max_completion_length
        )
        self._overhead = len(encode_prompts(self.tokenizer, [[{"role": "user", "content": "."}]])[0])
        own = set(special_tokens(judge_tokenizer))
        engine = sampler.func if isinstance(sampler, partial) else sampler
        foreign = set(special_tokens(self.tokenizer)) | set(getattr(engine, "special_tokens", ()))
        # Prompts stand fenced against the judge's special tokens; who samples may have others.
        self._fence = None if foreign <= own else tuple(sorted(own | foreign))

    def check_rows(self) -> None:
        """Refuses rows that do not fit the context of who samples.

        Raises:
            [`~trl_spct.judge.sampling.PromptTooLongError`]: naming the row.
        """
        if self.context_length is None:
            return
        lengths: list[int] = []
        for batch in self.rows.select_columns("prompt").iter(batch_size=256):
            lengths += map(len, encode_prompts(self.tokenizer, batch["prompt"]))
        check_lengths(lengths, self.args.max_completion_length, self.context_length, "train_dataset row")

    def __call__(self, numbers: range, path: Path) -> list[dict[str, Any]]:
        """The trajectories of these rows, in the order of the rows.

        Args:
            numbers (`range`): Row numbers.
            path (`Path`): Of their shard. Beside it is kept what was sampled when a sampler failed.
        """
        rows = list(self.rows.select(numbers))
        kept = _Samples(path.with_suffix(".samples.partial"))
        try:
            records = self._unhinted(numbers, rows, kept)
            records += self._hinted(numbers, rows, records, kept)
        except (RuntimeError, ValueError, OSError) as error:
            kept.write()
            error.add_note(f"It happened to rows {numbers.start} to {numbers.stop - 1}. A restart goes on from here.")
            raise
        selection = select_trajectories(
            [Trajectory(r["row"], r["scores"], r["labels"], r["hinted"]) for r in records], self.args.reject_too_easy
        )
        for record, outcome in zip(records, selection.outcomes, strict=True):
            record["outcome"] = outcome.value
        return sorted(records, key=lambda record: (record["row"], record["sample"]))

    def _unhinted(self, numbers: range, rows: list[dict], kept: "_Samples") -> list[dict[str, Any]]:
        prompts = [self._prompt(row) for row in rows]
        drawn = kept.draw(self.sampler, prompts, self.args.num_generations, self.args.seed)
        return [
            self._record(numbers[i], number, rows[i], sample, hinted=False)
            for i, samples in enumerate(drawn)
            for number, sample in enumerate(samples)
        ]

    def _hinted(self, numbers: range, rows: list[dict], records: list[dict], kept: "_Samples") -> list[dict[str, Any]]:
        chosen = self._rows_to_hint(numbers, records)
        prompts = {i: self._hinted_prompt(rows[numbers.index(i)]) for i in chosen}
        prompts = self._fitting(prompts)
        drawn = kept.draw(self.sampler, list(prompts.values()), 1, self.args.seed)
        return [
            self._record(i, self.args.num_generations, rows[numbers.index(i)], samples[0], hinted=True)
            for i, samples in zip(prompts, drawn, strict=True)
        ]

    def _rows_to_hint(self, numbers: range, records: Sequence[Mapping[str, Any]]) -> list[int]:
        if self.args.hint == "none":
            return []
        solved = {record["row"] for record in records if is_correct(record["scores"], record["labels"])}
        return [i for i in numbers if self.args.hint == "all" or i not in solved]

    def _prompt(self, row: Mapping[str, Any]) -> Messages:
        if self._fence is None:
            return row["prompt"]
        shown = preference_of(row).permuted(row["order"])
        return judge_messages(shown, self.args.template, len(shown) == 1, special_tokens=self._fence)

    def _hinted_prompt(self, row: Mapping[str, Any]) -> Messages:
        *before, turn = self._prompt(row)
        shown = preference_of(row).permuted(row["order"])
        template = judge_template(self.args.template, binary=len(shown) == 1)
        hint = hint_line(shown, template, row.get("preference_strength"))
        return [*before, {**turn, "content": f"{turn['content']}\n\n{hint}"}]

    def _fitting(self, prompts: dict[int, Messages]) -> dict[int, Messages]:
        """A hint makes a prompt longer than the one that was checked; a row that it does not fit goes without."""
        if self.context_length is None or not prompts:
            return prompts
        longest = self.context_length - self.args.max_completion_length
        # A byte makes at most one token, and few prompts come so close to the limit that they must be counted.
        close = [i for i, prompt in prompts.items() if self._overhead + _num_bytes(prompt) > longest]
        lengths = map(len, encode_prompts(self.tokenizer, [prompts[i] for i in close]))
        too_long = {i for i, length in zip(close, lengths, strict=True) if length > longest}
        if too_long:
            logger.warning(
                "Rows %s have no hinted trajectory: with the hint, their prompts exceed %d tokens.",
                sorted(too_long),
                longest,
            )
        return {i: prompt for i, prompt in prompts.items() if i not in too_long}

    def _record(self, index: int, number: int, row: Mapping[str, Any], sample: Sample, hinted: bool) -> dict[str, Any]:
        n = len(row["responses"])
        critique = read_sample(sample, n, judge_template(self.args.template, binary=n == 1)).in_row_order(row["order"])
        return {
            **row,
            "completion": [{"role": "assistant", "content": sample.text}],
            "row": index,
            "sample": number,
            "hinted": hinted,
            "scores": None if critique.scores is None else list(critique.scores),
            "problem": critique.problem,
            "completion_ids": None if sample.ids is None else list(sample.ids),
            "num_tokens": sample.num_tokens,
        }


class _Samples:
    """The samples of a shard as far as they go, and a file for what there was when a sampler failed."""

    def __init__(self, path: Path):
        self.path = path
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.drawn = {key: [Sample(**sample) for sample in samples] for key, samples in stored.items()}

    def draw(self, sampler: Callable, prompts: Sequence[Messages], k: int, seed: int) -> list[list[Sample]]:
        keys = [rows_digest([(k, prompt)]) for prompt in prompts]
        missing = [i for i, key in enumerate(keys) if key not in self.drawn]
        if missing:
            try:
                drawn = dict(enumerate(sampler([prompts[i] for i in missing], k, seed)))
            except RuntimeError as error:
                drawn = getattr(error, "completed", {})
                self.drawn |= {keys[missing[j]]: samples for j, samples in drawn.items()}
                raise
            _check_counts(drawn, len(missing), k)
            self.drawn |= {keys[missing[j]]: samples for j, samples in drawn.items()}
        return [self.drawn[key] for key in keys]

    def write(self) -> None:
        if self.drawn:
            write_json(self.path, {key: [asdict(sample) for sample in samples] for key, samples in self.drawn.items()})


def _num_bytes(prompt: Messages) -> int:
    return sum(len(turn["content"].encode("utf-8", "surrogatepass")) for turn in prompt)


def _check_counts(drawn: Mapping[int, Sequence[Sample]], num_prompts: int, k: int) -> None:
    wrong = {i: len(samples) for i, samples in drawn.items() if len(samples) != k}
    if len(drawn) != num_prompts or wrong:
        raise ValueError(
            f"The sampler returned lists for {len(drawn)} of {num_prompts} prompts, of lengths other than k = {k} for "
            f"the prompts {wrong}; expected k samples for each prompt."
        )


def check_sampler(sampler: Any) -> None:
    """Refuses what cannot sample before a model is loaded.

    Raises:
        `TypeError`: if a sampler is no path, no model and no callable that takes what it will be given.
    """
    if sampler is None or isinstance(sampler, (str, torch.nn.Module)):
        return
    expected = (
        "expected a path or id, a model, or a callable `sampler(prompts, k, seed, *, temperature, top_p, "
        "max_new_tokens) -> list[list[Sample]]`, such as an `OpenAIEngine`."
    )
    if not callable(sampler):
        raise TypeError(f"`sampler` is {type(sampler).__name__}; {expected}")
    signature = inspect.signature(sampler)
    try:
        signature.bind([], 1, 0, temperature=1.0, top_p=1.0, max_new_tokens=1)
    except TypeError as error:
        raise TypeError(f"`sampler` takes {signature} ({error}); {expected}") from error


def name_of(sampler: Any) -> str:
    """Who samples, as far as it can be told across starts."""
    if isinstance(sampler, str):
        return sampler
    if isinstance(sampler, partial):
        return name_of(sampler.func)
    path = getattr(getattr(sampler, "config", None), "_name_or_path", None)
    name = getattr(sampler, "name", None)
    named = path or (name if isinstance(name, str) else None)
    return named or getattr(sampler, "__qualname__", type(sampler).__qualname__)
