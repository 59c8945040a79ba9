# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judge as the reward of policy RL: one judgment of n = G responses per GRPO group (paper, section 10)."""

import asyncio
import json
import os
from collections import ChainMap, Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import pipeline

from .evaluation.judgments import judge_all
from .judge.conversations import conversation_text, message_text, response_text
from .judge.critiques import PROBLEMS, opens_draft, without_thoughts
from .judge.judging import JudgingOptions, check_whole
from .judge.meta_scoring import is_engine
from .judge.orders import derive_seed
from .judge.pipelines import TASK, GRMRewardPipeline
from .judge.preferences import InvalidPreference, Messages, Preference
from .judge.prompts import judge_template
from .judge.sampling import TRUNCATED, EngineError, PromptRefusedError, Refusal, Sampler, storable

THOUGHTS = ("hide", "prefilled", "show")
API_KEY = "TRL_SPCT_API_KEY"
"""The environment variable with the key of a served judge, for the server and its clients."""
_IN_TURN = ThreadPoolExecutor(1, "judge")  # processes must exchange what they judge in the same sequence


class JudgeReward:
    r"""Reward function for [`~trl.GRPOTrainer`]: a judge reads each group of completions in one prompt, k times.

    All completions of a prompt form one judgment of n = G responses, and the mean score per vote is the reward.

    ```python
    >>> trainer = GRPOTrainer("path/to/policy", reward_funcs=JudgeReward("path/to/judge", k=4), train_dataset=rows)
    ```

    - **Groups.** Completions with equal prompt, `reference` and `principles` (columns of the dataset) are judged
      together; equal ones are read once and share their score. Groups that exceed the judge's context are judged in
      blocks with a shared anchor (`max_responses_per_prompt`).
    - **Agents.** The judge reads all messages of a completion, with role names, tool calls and their results.
    - **Failures.** A group without a readable critique, too long for the judge even two by two, or refused by its
      server has the reward `None`, which TRL leaves out. An empty completion gets the lowest score unread. Other
      errors of a server end the run.
    - **Pickling.** Over an engine the function can be pickled, for TRL's `AsyncGRPOTrainer`, whose workers see no GPU.
      A judge in this process cannot, unless it has a path and a `device` to load it to there.
    - **Seeds.** Orders and critiques depend on `seed`, the trainer's step and the group alone.

    Logged under `{name}/`: `unreadable` (share of groups without a score), `problems/…` (share of unreadable critiques
    by cause; of groups for `too_long` and `refused`), `tokens` (of critiques, per group), `duplicates` and `empty`
    (shares of completions). The table of `log_completions` shows a critique of each group.

    Args:
        judge (`str`, [`GRMRewardPipeline`] or a sampler):
            A path or an id, with which every process loads the judge; a loaded pipeline; a sampler, for instance an
            [`~trl_spct.engines.OpenAIEngine`], which should have a `tokenizer`; or the URL of a `trl-spct serve`.
        meta_rm ([`MetaRMForSequenceClassification`], `str` or an engine, *optional*, defaults to `"auto"`):
            As for [`GRMRewardPipeline`]; a loaded pipeline has its own.
        k (`int`, *optional*, defaults to `4`): Critiques per group.
        thoughts (`str`, *optional*, defaults to `"hide"`):
            `"hide"`: drafts (`<think>…</think>`) are cut off where a completion or the end of its prompt opens one; a
            draft that was never closed has no answer and counts as empty. `"prefilled"`: the policy's chat template
            opens the draft. `"show"`: drafts are judged as well.
        seed (`int`, *optional*, defaults to `0`): Seed of all draws.
        batch_size (`int`, *optional*): Groups judged together. Defaults to 8, and to all of them for an engine.
        device (`str` or [`torch.device`], *optional*): Device of the judge. Defaults to the one of the process.
        name (`str`, *optional*, defaults to `"judge_reward"`): Name of the metrics.
        **options:
            Options of judging, see [`GRMRewardPipeline`]. `max_responses_per_prompt` defaults to `"auto"` where tokens
            can be counted.
    """

    def __init__(
        self,
        judge: str | GRMRewardPipeline | Sampler,
        *,
        meta_rm: Any = "auto",
        k: int = 4,
        thoughts: str = "hide",
        seed: int = 0,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        name: str = "judge_reward",
        **options,
    ):
        if thoughts not in THOUGHTS:
            raise ValueError(f"Found thoughts={thoughts!r}; expected one of {', '.join(map(repr, THOUGHTS))}.")
        if isinstance(judge, GRMRewardPipeline) and meta_rm != "auto":
            raise ValueError("Found a loaded pipeline and a `meta_rm`; expected the Meta RM in the pipeline.")
        if batch_size is not None:
            check_whole("batch_size", batch_size, 1, "at least one group")
        self.__name__ = name
        self.source, self.meta_rm, self.device = judge, meta_rm, device
        self.thoughts, self.seed, self.batch_size = thoughts, seed, batch_size
        self.options = {"k": k, **{option: value for option, value in options.items() if value is not None}}
        JudgingOptions(**self.options)  # refuses wrong options before it loads a judge
        self.judge.judging(**self.options)  # and then those that do not fit the judge

    @cached_property
    def judge(self) -> GRMRewardPipeline:
        """The pipeline that judges."""
        if isinstance(self.source, GRMRewardPipeline):
            return self.source
        if isinstance(self.source, str) and self.source.startswith(("http://", "https://")):
            return cast(GRMRewardPipeline, ServedJudge(self.source))
        device = PartialState().device if self.device is None else self.device
        if not isinstance(self.source, str):
            return GRMRewardPipeline(self.source, meta_rm=self.meta_rm, device=device)
        return pipeline(TASK, model=self.source, meta_rm=self.meta_rm, device=device)

    def __getstate__(self) -> dict[str, Any]:
        loaded = isinstance(self.source, GRMRewardPipeline)
        local = self.judge.engine is None or not (self.judge.meta_rm is None or is_engine(self.judge.meta_rm))
        if local and (loaded or self.device is None):
            raise ValueError(
                "Found a judge or a Meta RM in this process, which is not sent to another one; expected a judge on a "
                "server, `AsyncJudgeReward(OpenAIEngine(…))`, or a path with the `device` to load it to there."
            )
        return {name: value for name, value in vars(self).items() if loaded or name != "judge"}

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
        """Rewards of completions, texts or message lists; `None` where the judge gave no score.

        `reference` and `principles` are columns of the dataset; `trainer_state.global_step` varies the seeds;
        `log_metric` and `log_extra` are TRL's.
        """
        rank, step = PartialState().process_index, getattr(trainer_state, "global_step", 0)
        missing = [None] * len(completions)
        inputs = (prompts, reference or missing, principles or missing, completions)
        groups = group_completions(_from_all(lambda: read_completions(inputs, self.thoughts)))
        owned = {number: group for number, group in enumerate(groups) if group.members[0][0] == rank}
        outcomes = ChainMap(*_from_all(lambda: self._judged(owned, step, log_metric)))
        rewards: list[float | None] = [*missing]
        critiques: list[str | None] = [*missing]
        for number, group in enumerate(groups):
            scores, critique = outcomes[number]
            for (process, place), text in zip(group.members, group.texts, strict=True):
                if process == rank:
                    rewards[place], critiques[place] = None if scores is None else scores[text], critique
        if log_extra is not None:
            log_extra(f"{self.__name__}_critique", critiques)
        return rewards

    def _judged(
        self, groups: Mapping[int, "Group"], step: int, log_metric: Callable[[str, float], None] | None
    ) -> dict[int, "_Outcome"]:
        """Judges the groups of this process, and logs their metrics."""
        readable = {number: group for number, group in groups.items() if group.distinct}
        rows = [replace(group.row, responses=group.distinct) for group in readable.values()]
        judge, seed = self.judge, derive_seed(self.seed, step) % 2**31
        size = self.batch_size or (8 if judge.engine is None else max(1, len(rows)))
        options = {**self.options, "seed": seed, "batch_size": size}
        if judge.tokenizer is not None and judge.preset.get("max_responses_per_prompt") is None:
            options.setdefault("max_responses_per_prompt", "auto")
        call: Any = partial(judge, **options)  # a list for a list
        results, causes = judge_all(call, rows, [0] * len(rows), drop=True)
        judgments = {number: results.get(place) for place, number in enumerate(readable)}
        if log_metric is not None and groups:
            for name, value in _shares(groups.values(), list(results.values()), list(causes.values())).items():
                log_metric(f"{self.__name__}/{name}", value)
        lowest = judge_template(judge.find_template(self.options.get("template"))).score_range[0]
        return {number: group_rewards(group, judgments.get(number), lowest) for number, group in groups.items()}


class AsyncJudgeReward(JudgeReward):
    """A [`JudgeReward`] that TRL awaits: it judges over a server while other asynchronous rewards are computed."""

    async def __call__(self, *args, **kwargs) -> list[float | None]:  # type: ignore[override]
        turns = _IN_TURN if PartialState().num_processes > 1 else None
        judging = partial(super().__call__, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(turns, judging)


@dataclass(frozen=True)
class ServedJudge:
    """The judge of `trl-spct serve` at a URL, called as a pipeline is. A key is that of `TRL_SPCT_API_KEY`."""

    url: str
    _clients: dict[int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    meta_rm = tokenizer = None
    preset = MappingProxyType[str, Any]({})

    @property
    def engine(self) -> "ServedJudge":
        """Itself: the judge is not in this process."""
        return self

    def judging(self, **options: Any) -> None:
        """Raises an [`EngineError`] if the server refuses the options."""
        self([], **options)

    def find_template(self, name: str | None = None) -> str:
        """The server's template."""
        return name or self._client.get("/health", cast_to=cast(Any, object))["template"]

    def __call__(self, rows: Sequence[Preference], occurrences: Any = None, batch_size: Any = None, **options: Any):
        """The judgments of rows. Raises as a pipeline over an engine does."""
        import openai

        fields = ("query", "responses", "reference", "principles")
        shown = [{name: value for name in fields if (value := getattr(row, name)) is not None} for row in rows]
        try:
            asked: Any = {"params": {name: json.dumps(value) for name, value in options.items()}}
            return self._client.post("/judge", body=shown, cast_to=cast(Any, object), options=asked)
        except openai.APIStatusError as error:
            found = error.body if isinstance(error.body, dict) else {}
            detail = {"message": str(error), "row": None, "cause": None, **(found.get("detail") or {})}
        except openai.OpenAIError as error:
            raise EngineError(f"{self.url} gave no answer ({error.__cause__ or error}).") from None
        if detail["cause"] is not None and detail["row"] is not None:
            refusals = {detail["row"]: Refusal(detail["cause"], detail["message"])}
            raise PromptRefusedError(detail["message"], detail["row"], 422, refusals=refusals)
        raise EngineError(f"{self.url}: {detail['message']}")

    @property
    def _client(self) -> Any:
        """The client, which is slow to make; another one in a forked process."""
        if (process := os.getpid()) not in self._clients:
            import openai

            key = os.environ.get(API_KEY) or "EMPTY"
            self._clients[process] = openai.OpenAI(base_url=self.url, api_key=key, max_retries=10, timeout=600.0)
        return self._clients[process]


_Outcome = tuple[dict[str, float] | None, str | None]
"""The score of each text of a group, if any, and one critique for the log."""


@dataclass(frozen=True)
class Group:
    """The completions of one prompt: (process, place) and text of each, in this sequence."""

    row: Preference
    members: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @cached_property
    def distinct(self) -> tuple[str, ...]:
        """The texts to judge: those that are not empty, each once."""
        return tuple(dict.fromkeys(text for text in self.texts if text.strip()))


def group_rewards(group: Group, judgment: dict[str, Any] | None, lowest: int) -> _Outcome:
    """The scores of a group's texts, `None` without a judgment; empty texts get the lowest one."""
    empty = {text: float(lowest) for text in group.texts if not text.strip()}
    if not group.distinct:
        return empty, None
    if judgment is None or judgment["means"] is None:
        return None, None if judgment is None else judgment["critiques"][0]["text"]
    counted = next(critique["text"] for critique in judgment["critiques"] if critique["counted"])
    return {**dict(zip(group.distinct, map(float, judgment["means"]), strict=True)), **empty}, counted


def read_completions(columns: tuple[Sequence[Any], ...], thoughts: str) -> list[tuple[Preference, str]]:
    """Each completion as text, with a preference that holds its query and a placeholder response."""
    read = []
    for number, (query, reference, principles, completion) in enumerate(zip(*columns, strict=True)):
        try:
            preference = Preference(query, ("?",), reference=reference, principles=principles)
            query = preference.query
            last = {"role": "assistant", "content": query} if isinstance(query, str) else query[-1]
            opened = last["role"] == "assistant" and opens_draft(last["content"])
            read.append((preference, _text(completion, thoughts == "show", thoughts == "prefilled" or opened)))
        except InvalidPreference as error:
            raise InvalidPreference(f"Completion {number}: {error}", error.cause) from None
    return read


def _text(completion: str | Messages, show_thoughts: bool, prefilled: bool) -> str:
    """A completion as text: the text of an assistant's message, or several turns with role names and calls."""

    def answer(text: str, prefilled: bool) -> str:
        shown = text if show_thoughts else without_thoughts(text, prefilled) or ""
        return shown if shown == text else shown.strip()

    if isinstance(completion, str):
        return storable(answer(completion, prefilled))
    turns = []
    for message in completion:
        role, content = message.get("role") or "assistant", message.get("content")
        text = "" if content is None else message_text(content, "responses")
        if role.lower() == "assistant":
            parsed = [message[name] for name in ("reasoning_content", "reasoning", "thinking") if name in message]
            text = answer(text, prefilled and not parsed)
            if show_thoughts and any(parsed):
                text = f"<think>\n{next(filter(None, parsed))}\n</think>\n\n{text}"
        turns.append({**message, "role": role, "content": text})
    return storable(response_text(turns))


def group_completions(slices: Sequence[Sequence[tuple[Preference, str]]]) -> list[Group]:
    """Groups in the sequence of their first completions, the same ones in every process."""
    groups: dict[tuple, Group] = {}
    for process, completions in enumerate(slices):
        for place, (row, text) in enumerate(completions):
            group = groups.setdefault((conversation_text(row.query), row.reference, row.principles), Group(row))
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


def _shares(groups: Collection[Group], judgments: Sequence[dict[str, Any]], causes: Sequence[str]) -> dict[str, float]:
    """Metrics of groups, of their judgments, and of the causes of those that have none."""
    texts = [text for group in groups for text in group.texts]
    empty = sum(not text.strip() for text in texts)
    distinct = sum(len(group.distinct) for group in groups)
    shares = {"duplicates": (len(texts) - empty - distinct) / len(texts), "empty": empty / len(texts)}
    total = len(judgments) + len(causes)
    if not total:
        return shares
    critiques = [critique for judgment in judgments for critique in judgment["critiques"]]
    problems = Counter(critique["problem"] for critique in critiques)
    for cause in (*PROBLEMS, TRUNCATED):
        shares[f"problems/{cause}"] = problems[cause] / max(1, len(critiques))
    too_long = sum(cause in ("length", "context_length") for cause in causes)
    shares["problems/too_long"], shares["problems/refused"] = too_long / total, (len(causes) - too_long) / total
    shares["unreadable"] = (total - sum(judgment["scores"] is not None for judgment in judgments)) / total
    shares["tokens"] = sum(critique["num_tokens"] for critique in critiques) / total
    return shares
