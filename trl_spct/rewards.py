# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judge as the reward of policy RL: one judgment of n = G responses per GRPO group (paper, section 10)."""

import asyncio
from collections import ChainMap, Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel, pipeline

from .judge.critiques import PROBLEMS, opens_draft, without_thoughts
from .judge.judging import JudgingOptions, check_whole
from .judge.orders import derive_seed
from .judge.pipelines import TASK, GRMRewardPipeline
from .judge.preferences import InvalidPreference, Messages, Preference, message_text
from .judge.prompts import conversation_text, judge_template
from .judge.sampling import TRUNCATED, PromptTooLongError, Sampler


_CHOICES = {"scale": ("raw", "rank"), "thoughts": ("hide", "prefilled", "show"), "principles": ("own", "query")}
_IN_TURN = ThreadPoolExecutor(1, "judge")  # processes must exchange what they judge in the same sequence


class JudgeReward:
    r"""Reward function for [`~trl.GRPOTrainer`]: a judge reads each group of completions in one prompt, k times.

    A generative judge compares: its score of a response depends on the responses beside it. All completions of a
    prompt therefore form one judgment of n = G responses, and the mean score per vote is the reward.

    ```python
    >>> from trl import GRPOTrainer
    >>> from trl_spct import JudgeReward

    >>> trainer = GRPOTrainer("path/to/policy", reward_funcs=JudgeReward("path/to/judge", k=4), train_dataset=rows)
    ```

    - **Groups.** Completions with equal prompt, `reference` and `principles` (columns of the dataset) are judged
      together; equal ones are read once and share their score. Groups that exceed the judge's context are judged in
      blocks with a shared anchor (`max_responses_per_prompt`).
    - **Several processes.** The process with the first completion of a group judges all of it, once, and every process
      gets the rewards of its own slice.
    - **Failures.** A group without a readable critique, or too long for the judge even two by two, has the reward
      `None`, which TRL leaves out. An empty completion gets the lowest score unread. Errors of a server end the run.
    - **Seeds.** Orders and critiques depend on `seed`, the trainer's step and the group alone: the policy's sampling
      is not affected, and a resumed run judges as it would have.

    Logged under `{name}/`: `unreadable` (share of groups without a score), `problems/…` (share of unreadable critiques
    by cause; of groups for `too_long`), `tokens` (of critiques, per group), `duplicates` and `empty` (shares of
    completions), `principles_written` (queries) and `principles_missing` (share of groups). The table of
    `log_completions` shows a critique of each group.

    Args:
        judge (`str`, [`GRMRewardPipeline`] or a sampler):
            A path or an id, with which every process loads the judge; a loaded pipeline; or a sampler, for instance an
            [`~trl_spct.engines.OpenAIEngine`], which should have a `tokenizer`.
        meta_rm ([`MetaRMForSequenceClassification`] or `str`, *optional*, defaults to `"auto"`):
            As for [`GRMRewardPipeline`]; a loaded pipeline has its own.
        k (`int`, *optional*, defaults to `4`): Critiques per group.
        principles (`str`, *optional*, defaults to `"own"`):
            `"own"`: each critique begins with its own principles (paper). `"query"` (not in the paper; suggested in
            its section 10): the judge writes principles for each query alone, once, and judges with them at every
            later step. A row's own `principles` precede.
        scale (`str`, *optional*, defaults to `"raw"`):
            `"raw"`: the mean score. `"rank"`: the share of the group's other completions that it beats, ties half,
            which matters where rewards are added.
        thoughts (`str`, *optional*, defaults to `"hide"`):
            `"hide"`: drafts (`<think>…</think>`) are cut off where a completion, or a prompt that is text, opens or
            closes one; a draft that was never closed has no answer and counts as empty. `"prefilled"`: the policy's
            chat template opens the draft, so that a completion without its end has no answer. `"show"`: drafts are
            judged as well.
        seed (`int`, *optional*, defaults to `0`): Seed of all draws.
        batch_size (`int`, *optional*): Groups judged together. Defaults to 8, and to all of them for an engine.
        device (`str` or [`torch.device`], *optional*): Device of the judge. Defaults to the one of the process.
        name (`str`, *optional*, defaults to `"judge_reward"`): Name of the metrics.
        **options:
            Options of judging, see [`GRMRewardPipeline`]. `max_responses_per_prompt` defaults to `"auto"` where tokens
            can be counted.

    Raises:
        `ValueError`: if an option is out of its range, before a judge is loaded where possible.
    """

    def __init__(
        self,
        judge: str | GRMRewardPipeline | Sampler,
        *,
        meta_rm: PreTrainedModel | str | bool | None = "auto",
        k: int = 4,
        principles: str = "own",
        scale: str = "raw",
        thoughts: str = "hide",
        seed: int = 0,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        name: str = "judge_reward",
        **options,
    ):
        chosen = {"scale": scale, "thoughts": thoughts, "principles": principles}
        for option, value in chosen.items():
            if value not in _CHOICES[option]:
                expected = ", ".join(map(repr, _CHOICES[option]))
                raise ValueError(f"Found {option}={value!r}; expected one of {expected}.")
        if isinstance(judge, GRMRewardPipeline) and meta_rm != "auto":
            raise ValueError("Found a loaded pipeline and a `meta_rm`; expected the Meta RM in the pipeline.")
        if batch_size is not None:
            check_whole("batch_size", batch_size, 1, "at least one group")
        self.__name__ = name
        self.source, self.meta_rm, self.device = judge, meta_rm, device
        self.scale, self.thoughts, self.principles = scale, thoughts, principles
        self.seed, self.batch_size = seed, batch_size
        self._principles: dict[str, str | None] = {}
        self.options = {"k": k, **{option: value for option, value in options.items() if value is not None}}
        JudgingOptions.of(self.options)  # refuses wrong options before it loads a judge
        self.judge.judging(**self.options)  # and then those that do not fit the judge

    @cached_property
    def judge(self) -> GRMRewardPipeline:
        """The pipeline that judges."""
        if isinstance(self.source, GRMRewardPipeline):
            return self.source
        if not isinstance(self.source, str):
            return GRMRewardPipeline(self.source, meta_rm=self.meta_rm)
        device = PartialState().device if self.device is None else self.device
        return pipeline(TASK, model=self.source, meta_rm=self.meta_rm, device=device)

    def __getstate__(self) -> dict[str, Any]:
        loaded = set() if isinstance(self.source, GRMRewardPipeline) else {"judge"}
        return {name: value for name, value in vars(self).items() if name not in loaded}

    def __call__(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        *,
        reference: Sequence[str | None] | None = None,
        principles: Sequence[str | None] | None = None,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list], None] | None = None,
        **columns,
    ) -> list[float | None]:
        """Rewards of completions.

        Args:
            prompts, completions (sequence of texts or message lists):
                Of messages those of the assistant are judged. Their tool calls are not shown to the judge.
            reference, principles (sequence of `str` or `None`, *optional*): Columns of the dataset.
            trainer_state ([`~transformers.TrainerState`], *optional*): Its `global_step` varies the seeds.
            log_metric, log_extra (callable, *optional*): TRL's.

        Returns:
            `list` of a `float` for each completion, or `None` where the judge gave no score.
        """
        rank, step = PartialState().process_index, getattr(trainer_state, "global_step", 0)
        read = partial(_read, prompts, completions, reference, principles, self.thoughts)
        groups = _grouped(_from_all(read))
        owned = {number: group for number, group in enumerate(groups) if group.members[0][0] == rank}
        outcomes = ChainMap(*_from_all(lambda: self._judged(owned, step, log_metric)))
        rewards: list[float | None] = [None] * len(completions)
        critiques: list[str | None] = [None] * len(completions)
        for number, group in enumerate(groups):
            scores, critique = outcomes[number]
            for (process, place), reward in zip(group.members, self._scaled(scores, group.texts), strict=True):
                if process == rank:
                    rewards[place], critiques[place] = reward, critique
        if log_extra is not None:
            log_extra(f"{self.__name__}_critique", critiques)
        return rewards

    def _judged(
        self, groups: Mapping[int, "_Group"], step: int, log_metric: Callable[[str, float], None] | None
    ) -> dict[int, "_Outcome"]:
        """Judges the groups of this process, and logs their metrics."""
        readable = {number: group for number, group in groups.items() if group.distinct}
        rows = [replace(group.row, responses=group.distinct) for group in readable.values()]
        judge, seed = self.judge, derive_seed(self.seed, step) % 2**31
        size = self.batch_size or (8 if judge.engine is None else max(1, len(rows)))
        metrics: dict[str, float] = {}
        if self.principles == "query":
            rows, metrics = self._with_principles(rows, size)
        options = {**self.options, "seed": seed, "batch_size": size}
        if judge.tokenizer is not None and judge.preset.get("max_responses_per_prompt") is None:
            options.setdefault("max_responses_per_prompt", "auto")
        judgments = dict(zip(readable, _fitting(lambda rows: judge(iter(rows), **options), rows), strict=True))
        if log_metric is not None and groups:
            for name, value in {**_shares(groups.values(), judgments.values()), **metrics}.items():
                log_metric(f"{self.__name__}/{name}", value)
        lowest = judge_template(judge.find_template(self.options.get("template"))).score_range[0]
        return {number: _outcome(group, judgments.get(number), lowest) for number, group in groups.items()}

    def _scaled(self, scores: Mapping[str, float] | None, texts: Sequence[str]) -> Sequence[float | None]:
        if scores is None:
            return [None] * len(texts)
        values = [scores[text] for text in texts]
        if self.scale == "raw":
            return values
        if len(values) == 1:
            return [0.5]
        beaten = [sum(value > other for other in values) + (values.count(value) - 1) / 2 for value in values]
        return [share / (len(values) - 1) for share in beaten]

    def _with_principles(
        self, rows: Sequence[Preference], batch_size: int
    ) -> tuple[list[Preference], dict[str, float]]:
        """The rows, those without principles with the ones for their query; and metrics."""
        lacking = {conversation_text(row.query): row.query for row in rows if row.principles is None}
        new = [text for text in lacking if text not in self._principles]
        chosen = {**self.judge.preset, **self.options}
        options: dict[str, Any] = {name: chosen.get(name) for name in ("template", "max_new_tokens")}
        for start in range(0, len(new), batch_size):  # errors number the queries of a batch
            batch = new[start : start + batch_size]
            written = _fitting(
                lambda queries: [*(self.judge.principles(queries, batch_size=batch_size, **options) or ())],
                [lacking[text] for text in batch],
            )
            self._principles.update(zip(batch, written, strict=True))
        metrics: dict[str, float] = {"principles_written": len(new)}
        principles = [row.principles or self._principles[conversation_text(row.query)] for row in rows]
        if count := sum(row.principles is None for row in rows):
            metrics["principles_missing"] = principles.count(None) / count
        return [replace(row, principles=text) for row, text in zip(rows, principles, strict=True)], metrics


class AsyncJudgeReward(JudgeReward):
    """A [`JudgeReward`] that TRL awaits: it judges over a server while other asynchronous rewards are computed.

    Either class judges the groups of a batch concurrently over an engine. With several processes several judges take
    turns. Arguments as for [`JudgeReward`].
    """

    async def __call__(self, *args, **kwargs) -> list[float | None]:  # type: ignore[override]
        turns = _IN_TURN if PartialState().num_processes > 1 else None
        judging = partial(super().__call__, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(turns, judging)


_Outcome = tuple[dict[str, float] | None, str | None]
"""The score of each text of a group, if any, and one critique for the log."""


@dataclass(frozen=True)
class _Group:
    """The completions of one prompt: (process, place) and text of each, in this sequence."""

    row: Preference
    members: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @cached_property
    def distinct(self) -> tuple[str, ...]:
        """The texts to judge: those that are not empty, each once."""
        return tuple(dict.fromkeys(text for text in self.texts if text.strip()))


def _outcome(group: _Group, judgment: dict[str, Any] | None, lowest: int) -> _Outcome:
    empty = {text: float(lowest) for text in group.texts if not text.strip()}
    if not group.distinct:
        return empty, None
    if judgment is None or judgment["means"] is None:
        return None, None if judgment is None else judgment["critiques"][0]["text"]
    counted = next(critique["text"] for critique in judgment["critiques"] if critique["counted"])
    return {**dict(zip(group.distinct, map(float, judgment["means"]), strict=True)), **empty}, counted


def _read(
    prompts: Sequence[str | Messages],
    completions: Sequence[str | Messages],
    references: Sequence[str | None] | None,
    principles: Sequence[str | None] | None,
    thoughts: str,
) -> list[tuple[Preference, str]]:
    """Each completion as text, with a preference that holds its query and a placeholder response."""
    count = len(completions)
    columns = (prompts, references or [None] * count, principles or [None] * count, completions)
    read = []
    for number, (query, reference, given, completion) in enumerate(zip(*columns, strict=True)):
        try:
            preference = Preference(query, ("?",), reference=reference, principles=given)  # type: ignore[arg-type]
            prefilled = thoughts == "prefilled" or (isinstance(query, str) and opens_draft(query))
            read.append((preference, _text(completion, thoughts == "show", prefilled)))
        except InvalidPreference as error:
            raise InvalidPreference(f"Completion {number}: {error}", error.cause) from None
    return read


def _text(completion: str | Messages, show_thoughts: bool, prefilled: bool) -> str:
    """A completion as text: of messages those of the assistant."""
    if isinstance(completion, str):
        texts = [completion]
    else:
        written = [message.get("content") for message in completion if message.get("role", "assistant") == "assistant"]
        texts = [message_text(content, "responses") for content in written if content]
    if show_thoughts:
        return "\n".join(texts)
    answers = [without_thoughts(text, prefilled) or "" for text in texts]
    return "\n".join(answer if answer == text else answer.strip() for answer, text in zip(answers, texts, strict=True))


def _grouped(slices: Sequence[Sequence[tuple[Preference, str]]]) -> list[_Group]:
    """Groups in the sequence of their first completions, the same ones in every process."""
    groups: dict[tuple, _Group] = {}
    for process, completions in enumerate(slices):
        for place, (row, text) in enumerate(completions):
            group = groups.setdefault((conversation_text(row.query), row.reference, row.principles), _Group(row))
            group.members.append((process, place))
            group.texts.append(text)
    return list(groups.values())


def _from_all(make: Callable[[], Any]) -> list[Any]:
    """The values of all processes. A process that fails tells the others, which wait for it."""
    state, value = PartialState(), None
    try:
        value = make()
    finally:
        values = [value]
        if state.num_processes > 1:
            # NCCL sends from the thread's current device, which in a thread of its own is the first one.
            with torch.cuda.device(state.device) if state.device.type == "cuda" else nullcontext():
                values = gather_object(values)
    if None in values:
        raise RuntimeError(f"Process {values.index(None)} could not judge its completions; see its own error.")
    return values


def _fitting(judge: Callable[[list], Iterable], items: Sequence[Any]) -> list[Any]:
    """Results of items; `None` for those that are too long for the judge."""
    results: dict[int, Any] = {}
    while waiting := [place for place in range(len(items)) if place not in results]:
        try:
            for place, result in zip(waiting, judge([items[place] for place in waiting]), strict=True):
                results[place] = result
        except PromptTooLongError as error:
            results[waiting[error.row]] = None
    return [results[place] for place in range(len(items))]


def _shares(groups: Collection[_Group], judgments: Collection[dict[str, Any] | None]) -> dict[str, float]:
    """Metrics of groups and of their judgments."""
    texts = [text for group in groups for text in group.texts]
    empty = sum(not text.strip() for text in texts)
    distinct = sum(len(group.distinct) for group in groups)
    shares = {"duplicates": (len(texts) - empty - distinct) / len(texts), "empty": empty / len(texts)}
    if not judgments:
        return shares
    read = [judgment for judgment in judgments if judgment is not None]
    critiques = [critique for judgment in read for critique in judgment["critiques"]]
    problems = Counter(critique["problem"] for critique in critiques)
    for cause in (*PROBLEMS, TRUNCATED):
        shares[f"problems/{cause}"] = problems[cause] / max(1, len(critiques))
    shares["problems/too_long"] = (len(judgments) - len(read)) / len(judgments)
    readable = sum(judgment["scores"] is not None for judgment in read)
    shares["unreadable"] = (len(judgments) - readable) / len(judgments)
    shares["tokens"] = sum(critique["num_tokens"] for critique in critiques) / len(judgments)
    return shares
