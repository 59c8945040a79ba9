# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Collection of trajectories from preference rows, one shard at a time."""

import inspect
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, List, Value
from transformers import PreTrainedTokenizerBase

from ..data.preparation import preference_of
from ..jobs import rows_digest, write_json
from ..judge.closing import with_closed
from ..judge.conversations import conversation_text
from ..judge.outcomes import is_correct
from ..judge.preferences import Messages
from ..judge.prompts import hint_line, judge_messages, judge_template
from ..judge.sampling import PromptTooLongError, Sample, Sampler, encode_prompts, read_sample, special_tokens
from .rejection import Trajectory, select_trajectories

logger = logging.getLogger(__name__)

REFUSED = ".refused.json"
"""Suffix of the file beside a shard that counts the prompts which the sampler refused, by cause."""

_MESSAGES = List({"role": Value("string"), "content": Value("string")})
TRAJECTORY_FEATURES = {
    "prompt": _MESSAGES,
    "order": List(Value("int64")),
    "completion": _MESSAGES,
    "row": Value("int64"),
    "sample": Value("int64"),
    "hinted": Value("bool"),
    "scores": List(Value("int64")),
    "problem": Value("string"),
    "completion_ids": List(Value("int32")),
    "num_tokens": Value("int64"),
    "closed": Value("bool"),
    "outcome": Value("string"),
    "sampled_on": Value("string"),
}
"""Columns of trajectories, beside those of the preference rows."""


class TrajectoryCollector:
    """Samples the rows of a shard without and with hints, reads the scores, and applies the rejection rule.

    `tokenizer`, `context_length` and `chat_template_kwargs` are the sampler's, `row_numbers` those of the user's rows,
    and `closer`, if it is set, closes samples without scores."""

    def __init__(
        self,
        rows: Dataset,
        sampler: Sampler,
        args: Any,
        judge_tokenizer: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase | None = None,
        context_length: int | None = None,
        row_numbers: Sequence[int] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ):
        self.closer: Callable[..., list[Sample]] | None = None
        self.too_long: set[int] = set()
        self.rows, self.args, self.context_length = rows, args, context_length
        self.tokenizer, self.chat_template_kwargs = tokenizer or judge_tokenizer, chat_template_kwargs
        self.row_numbers = range(len(rows)) if row_numbers is None else row_numbers
        self.sampler = partial(
            sampler, temperature=args.temperature, top_p=args.top_p, max_new_tokens=args.max_completion_length
        )
        fenced = set(special_tokens(judge_tokenizer))
        engine = sampler.func if isinstance(sampler, partial) else sampler
        foreign = set(special_tokens(self.tokenizer)) | set(getattr(engine, "special_tokens", ()))
        # Prompts are fenced against the judge's special tokens; a sampler may have others.
        self._fence = None if foreign <= fenced else tuple(sorted(fenced | foreign))

    def check_rows(self) -> None:
        """Refuses rows that do not fit into the sampler's context, or, if they may be dropped, leaves them out."""
        if self.context_length is not None:
            lengths: list[int] = []
            for batch in self.rows.select_columns("prompt").iter(batch_size=256):
                lengths += map(len, encode_prompts(self.tokenizer, batch["prompt"], self.chat_template_kwargs))
            written, limit = self.args.max_completion_length, self.context_length
            self.too_long = {index for index, length in enumerate(lengths) if length + written > limit}
            if self.too_long and self.args.invalid_rows != "drop":
                first = min(self.too_long)
                name = f"train_dataset row {self.row_numbers[first]}"
                raise PromptTooLongError(name, lengths[first], written, limit, first)

    def __call__(self, numbers: range, path: Path) -> list[dict[str, Any]]:
        """The trajectories of some rows. If the sampler fails, complete samples are kept beside `path`."""
        rows = {index: self.rows[index] for index in numbers}
        samples = _Samples(path.with_suffix(".samples.partial"))
        try:
            prompts = {index: self._prompt(row) for index, row in rows.items() if index not in self.too_long}
            records = self._sample(samples, rows, prompts)
            sampled = {record["row"] for record in records}
            solved = {record["row"] for record in records if is_correct(record["scores"], record["labels"])}
            chosen = {"none": set(), "failed": sampled - solved, "all": sampled}[self.args.hint]
            hinted = {index: self._hinted_prompt(row) for index, row in rows.items() if index in chosen}
            records += self._sample(samples, rows, self._fitting(hinted), hinted=True)
        except (RuntimeError, ValueError, OSError) as error:
            samples.write()
            error.add_note(f"In rows {numbers.start} to {numbers.stop - 1}. A restart resumes here.")
            raise
        if causes := [*samples.refused.values(), *("length" for _ in self.too_long.intersection(numbers))]:
            write_json(path.with_suffix(REFUSED), Counter(causes))
        selection = select_trajectories(
            [Trajectory(r["row"], r["scores"], r["labels"], r["hinted"]) for r in records], self.args.reject_too_easy
        )
        for record, outcome in zip(records, selection.outcomes, strict=True):
            record["outcome"] = outcome.value
        return sorted(records, key=lambda record: (record["row"], record["sample"]))

    def _sample(
        self, samples: "_Samples", rows: Mapping[int, Any], prompts: Mapping[int, Messages], hinted: bool = False
    ) -> list[dict[str, Any]]:
        k, first = (1, self.args.num_generations) if hinted else (self.args.num_generations, 0)
        numbers, drop = [self.row_numbers[index] for index in prompts], self.args.invalid_rows == "drop"
        queries = [conversation_text(rows[index]["query"]) for index in prompts]
        drawn = samples.draw(self.sampler, [*prompts.values()], k, self.args.seed, numbers, queries, drop)
        if self.closer is not None:
            counts = [len(rows[index]["responses"]) for index in prompts]
            asked = [(judge_template(self.args.template, binary=n == 1), n) for n in counts]
            drawn = with_closed(self.closer, [*prompts.values()], drawn, asked)
        template = self.args.template
        return [
            {**trajectory_of(rows[index], sample, template), "row": index, "sample": number, "hinted": hinted}
            for index, of_row in zip(prompts, drawn, strict=True)
            for number, sample in enumerate(of_row, first)
        ]

    def _prompt(self, row: Mapping[str, Any]) -> Messages:
        if self._fence is None:
            return row["prompt"]
        shown = preference_of(row).permuted(row["order"])
        return judge_messages(shown, self.args.template, len(shown) == 1, special_tokens=self._fence)

    def _hinted_prompt(self, row: Mapping[str, Any]) -> Messages:
        *before, turn = self._prompt(row)
        shown = preference_of(row).permuted(row["order"])
        template = judge_template(self.args.template, binary=len(shown) == 1)
        strength = row.get("preference_strength")
        hint = hint_line(shown, template, strength if isinstance(strength, int | float) else None)
        return [*before, {**turn, "content": f"{turn['content']}\n\n{hint}"}]

    def _fitting(self, prompts: dict[int, Messages]) -> dict[int, Messages]:
        """The prompts that fit into the context. A hint makes a prompt longer than the one that was checked."""
        if self.context_length is None:
            return prompts
        longest = self.context_length - self.args.max_completion_length
        lengths = map(len, encode_prompts(self.tokenizer, [*prompts.values()], self.chat_template_kwargs))
        too_long = [index for index, length in zip(prompts, lengths, strict=True) if length > longest]
        if too_long:
            logger.warning(
                "Rows %s have no hinted trajectory: with the hint, their prompts exceed %d tokens.", too_long, longest
            )
        return {index: prompt for index, prompt in prompts.items() if index not in too_long}


def trajectory_of(row: Mapping[str, Any], sample: Sample, template: str) -> dict[str, Any]:
    """A sample of a row that was prompted in its `order`, with scores in the order of the row."""
    n = len(row["responses"])
    critique = read_sample(sample, n, judge_template(template, binary=n == 1)).in_row_order(row["order"])
    return {
        **row,
        "completion": [{"role": "assistant", "content": sample.text}],
        "scores": None if critique.scores is None else list(critique.scores),
        "problem": critique.problem,
        "completion_ids": None if sample.ids is None else list(sample.ids),
        "num_tokens": sample.num_tokens,
        "closed": sample.closed,
    }


class _Samples:
    """The samples of a shard so far, and the causes of refused prompts; written to a file when the sampler fails."""

    def __init__(self, path: Path):
        self.path = path
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"drawn": {}, "refused": {}}
        self.drawn = {key: [Sample(**sample) for sample in samples] for key, samples in stored["drawn"].items()}
        self.refused: dict[str, str] = stored["refused"]

    def draw(
        self,
        sampler: Callable[..., list[list[Sample]]],
        prompts: Sequence[Messages],
        k: int,
        seed: int,
        row_numbers: Sequence[int],
        queries: Sequence[str],
        drop_refused: bool,
    ) -> list[list[Sample]]:
        """k samples of each prompt, and none of prompts that the sampler refuses, if these may be dropped."""
        keys = [rows_digest([(k, prompt)]) for prompt in prompts]
        missing = [i for i, key in enumerate(keys) if key not in self.drawn and key not in self.refused]
        if missing:
            try:
                drawn = dict(enumerate(sampler([prompts[i] for i in missing], k, seed)))
                if len(drawn) != len(missing) or any(len(samples) != k for samples in drawn.values()):
                    raise ValueError(
                        f"The sampler returned lists of {sorted({*map(len, drawn.values())})} samples for "
                        f"{len(drawn)} of {len(missing)} prompts; expected k = {k} samples for each prompt."
                    )
            except RuntimeError as error:
                drawn, refused = getattr(error, "completed", {}), getattr(error, "refusals", {})
                self.drawn |= {keys[missing[j]]: samples for j, samples in drawn.items()}
                if not (drop_refused and refused and len(drawn) + len(refused) == len(missing)):
                    renumbered = getattr(error, "renumbered", None)
                    if renumbered is None:
                        raise
                    row = getattr(error, "row", None)
                    note = "" if row is None else f"Its query begins {queries[missing[row]]!r:.60}. "
                    note += "Drop rows that the sampler refuses with `invalid_rows='drop'`." if refused else ""
                    numbers = [row_numbers[i] for i in missing]
                    raise renumbered(numbers, note=note, name="train_dataset row") from error
                self.refused |= {keys[missing[j]]: refusal.cause for j, refusal in refused.items()}
            self.drawn |= {keys[missing[j]]: samples for j, samples in drawn.items()}
        return [self.drawn.get(key, []) for key in keys]

    def write(self) -> None:
        if self.drawn or self.refused:
            drawn = {key: [asdict(sample) for sample in samples] for key, samples in self.drawn.items()}
            write_json(self.path, {"drawn": drawn, "refused": self.refused})


def count_refused(folder: Path) -> dict[str, int]:
    """Numbers of dropped prompts by cause, over all shards of a folder."""
    counts: Counter[str] = Counter()
    for path in folder.glob(f"shard-*{REFUSED}"):
        counts.update(json.loads(path.read_text(encoding="utf-8")))
    return dict(counts)


def check_sampler(sampler: Any) -> None:
    """Raises a `TypeError` unless a sampler is a path, a model or a callable [`~judge.sampling.Sampler`]."""
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
    """Name of a sampler, the same in each start of a run."""
    if isinstance(sampler, str):
        return sampler
    if isinstance(sampler, partial):
        return name_of(sampler.func)
    path = getattr(getattr(sampler, "config", None), "_name_or_path", None)
    name = getattr(sampler, "name", None)
    kind = getattr(sampler, "__qualname__", type(sampler).__qualname__)
    return str(path or (name if isinstance(name, str) else kind))
