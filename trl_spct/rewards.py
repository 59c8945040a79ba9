# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""A judge as the reward of policy RL: one judgment of n = G responses for each GRPO group (paper, section 10)."""

import asyncio
import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel, pipeline

from .judge.critiques import PROBLEMS
from .judge.pipelines import TASK, GRMRewardPipeline
from .judge.preferences import InvalidPreference, Messages, Preference, message_text
from .judge.prompts import conversation_text, judge_template
from .judge.sampling import TRUNCATED, PromptTooLongError, Sampler, derive_seed


SCALES = ("raw", "centered", "rank")
TOO_LONG = "too_long"
_SPACE = 2**31
_IN_TURN = ThreadPoolExecutor(1, "judge")  # processes must exchange what they judge in the same sequence


class JudgeReward:
    r"""A reward function for [`~trl.GRPOTrainer`]: a judge reads each group of completions in one prompt, k times.

    A generative judge compares: what it says about a response depends on the responses beside it. So all completions
    of a prompt form one judgment of n = G responses, and its mean score per critique is the reward.

    ```python
    >>> from trl import GRPOTrainer
    >>> from trl_spct import JudgeReward

    >>> trainer = GRPOTrainer("path/to/policy", reward_funcs=JudgeReward("path/to/judge", k=4), train_dataset=rows)
    ```

    - **Groups.** Completions with the same prompt, and the same `reference` and `principles` if the dataset has such
      columns, are judged together; equal ones are read once and share their score. A group that does not fit into the
      judge's context is judged in blocks with a shared anchor (`max_responses_per_prompt`).
    - **Several processes.** TRL hands each process its own slice of the batch, which ends within a group unless the
      completions per process are a multiple of `num_generations`. The slices are exchanged: the process that holds
      the first completion of a group judges all of it, once, and every process gets the rewards of its own.
    - **Failures.** A group of which no critique can be read, or that is too long for the judge even two by two, has
      the reward `None`, which TRL leaves out of the group's mean and gives no advantage. Shares by cause are logged.
      An empty completion gets the lowest score unread: it meets no criterion (ours). Errors of a server end the run.
    - **Seeds.** Orders and critiques depend on `seed`, the trainer's step and what is judged, and on nothing else: the
      policy's sampling is not touched, and a resumed run judges as it would have.
    - **Principles.** `principles="query"` (ours; paper, section 10) has the judge write principles for each query
      alone, once, and judges with them at every later step: no completion can move them, and they do not drift within
      a run. A row's own `principles` go before.

    Logged under `{name}/`: `unreadable` (share of groups without a score), `problems/…` (share of critiques that could
    not be read, by cause; of groups for `too_long`), `tokens` (of critiques, per group), `duplicates` and `empty`
    (shares of completions); with `principles="query"` also `principles_written` (queries) and `principles_missing`
    (share of groups for which the judge wrote none and uses its own). With `log_completions` the table shows a
    critique of each group.

    Args:
        judge (`str`, [`GRMRewardPipeline`] or a sampler):
            A path or an id; a loaded pipeline; or a sampler such as an [`~trl_spct.engines.OpenAIEngine`], which
            should have its `tokenizer`. With a path or an id the reward function can be pickled, and every process
            loads the judge.
        meta_rm ([`MetaRMForSequenceClassification`] or `str`, *optional*, defaults to `"auto"`):
            As for [`GRMRewardPipeline`]; not with a loaded pipeline, which has its own.
        k (`int`, *optional*, defaults to `4`):
            Critiques per group. Each reads the completions in an order of its own.
        principles (`str`, *optional*, defaults to `"own"`):
            `"own"`: each critique begins with principles of its own (paper). `"query"`: see above. It asks for a judge
            that can write principles for a query alone, and judge by given ones.
        principles_file (`str` or path, *optional*):
            Keeps the principles of `"query"` over restarts, for any number of processes and judges: an SQLite file.
        scale (`str`, *optional*, defaults to `"raw"`):
            `"raw"`: the mean score. `"centered"`: less the mean of the group. `"rank"`: the share of the group's other
            completions that it beats, ties half; for judges whose scores bunch. The last two matter where TRL does not
            normalize within groups (`scale_rewards`) or where rewards are added up.
        seed (`int`, *optional*, defaults to `0`): Of all that is drawn.
        batch_size (`int`, *optional*):
            Groups judged together. By default 8, and over a sampler all of them, which bounds its requests itself.
        device (`str` or [`torch.device`], *optional*):
            Where to load the judge. Defaults to the process's own device.
        name (`str`, *optional*, defaults to `"judge_reward"`): Of the metrics; `rewards/{name}/mean` is TRL's.
        **options:
            As for judging with [`GRMRewardPipeline`]: `temperature`, `max_new_tokens`, `order`, `template`, `k_meta`,
            `guide`, `early_stopping`, `max_responses_per_prompt` (`"auto"` by default where tokens can be counted),
            `truncation`.

    Raises:
        `ValueError`: if an option is out of its range, before a judge is loaded where it does not depend on it.
    """

    def __init__(
        self,
        judge: str | GRMRewardPipeline | Sampler,
        *,
        meta_rm: PreTrainedModel | str | bool | None = "auto",
        k: int = 4,
        principles: str = "own",
        principles_file: str | os.PathLike | None = None,
        scale: str = "raw",
        seed: int = 0,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        name: str = "judge_reward",
        **options,
    ):
        if scale not in SCALES:
            raise ValueError(f"Found scale={scale!r}; expected one of {', '.join(map(repr, SCALES))}.")
        if principles not in ("own", "query"):
            raise ValueError(f"Found principles={principles!r}; expected 'own' or 'query'.")
        if principles_file is not None and principles == "own":
            raise ValueError("Found a principles_file with principles='own', which are never kept; expected 'query'.")
        if isinstance(judge, GRMRewardPipeline) and meta_rm != "auto":
            raise ValueError("Found a loaded pipeline and a `meta_rm`; expected the Meta RM in the pipeline.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"Found batch_size={batch_size}; expected at least one group.")
        self.__name__ = name
        self.source, self.meta_rm, self.device = judge, meta_rm, device
        self.principles, self.principles_file = principles, principles_file
        self.scale, self.seed, self.batch_size = scale, seed, batch_size
        self.options = {"k": k, **{option: value for option, value in options.items() if value is not None}}
        GRMRewardPipeline._sanitize_parameters(self, **self.options)  # refuses what is wrong before it loads a judge
        self.judge  # noqa: B018

    @cached_property
    def judge(self) -> GRMRewardPipeline:
        """The judge that is asked."""
        if isinstance(self.source, GRMRewardPipeline):
            return self.source
        if not isinstance(self.source, str):
            return GRMRewardPipeline(self.source, meta_rm=self.meta_rm)
        device = PartialState().device if self.device is None else self.device
        return pipeline(TASK, model=self.source, meta_rm=self.meta_rm, device=device)

    @cached_property
    def cache(self) -> "PrincipleCache":
        """The principles that the judge wrote for queries alone."""
        settings = {"template": self._asked("template"), "max_new_tokens": self._asked("max_new_tokens")}
        return PrincipleCache(judge_identity(self.judge, **settings), self.principles_file)

    def __getstate__(self) -> dict[str, Any]:
        loaded = {"cache", "judge"} if isinstance(self.source, str) else {"cache"}
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
        """The rewards of completions, as TRL asks for them.

        Args:
            prompts (sequence of texts or message lists): One for each completion.
            completions (sequence of texts or message lists): Of messages the assistant's are read.
            reference, principles (sequence of `str` or `None`, *optional*): The dataset's columns of these names.
            trainer_state ([`~transformers.TrainerState`], *optional*): Its `global_step` makes seeds fresh.
            log_metric, log_extra (callable, *optional*): TRL's.
            **columns: Ignored.

        Returns:
            `list` of a `float` for each completion, or `None` where the judge gave no score.
        """
        rank, step = PartialState().process_index, getattr(trainer_state, "global_step", 0)
        groups = _grouped(_from_all(lambda: _read(prompts, completions, reference, principles)))
        own = {number: group for number, group in enumerate(groups) if group.owner == rank}
        shared = _from_all(lambda: self._judged(own, step, log_metric))
        outcomes = {number: judgment for part in shared for number, judgment in part.items()}
        rewards: list[float | None] = [None] * len(completions)
        critiques: list[str | None] = [None] * len(completions)
        for number, group in enumerate(groups):
            found = self._scaled(outcomes[number].scores, group.texts)
            for (process, place), reward in zip(group.members, found, strict=True):
                if process == rank:
                    rewards[place], critiques[place] = reward, outcomes[number].critique
        if log_extra is not None:
            log_extra(f"{self.__name__}_critique", critiques)
        return rewards

    def _asked(self, option: str) -> Any:
        """An option of the judge: what was asked for here, else the pipeline's own."""
        return self.options.get(option, self.judge._forward_params.get(option))

    def _judged(self, groups: Mapping[int, "_Group"], step: int, log_metric) -> dict[int, "_Judged"]:
        """Judges the groups that are this process's, and logs what became of them."""
        asked = {number: group for number, group in groups.items() if group.distinct}
        rows = [group.row for group in asked.values()]
        metrics = self._add_principles(rows) if self.principles == "query" else {}
        judge, seed = self.judge, derive_seed(self.seed, step) % _SPACE
        options = {**self.options, "seed": seed, "batch_size": self.batch_size or self._default_batch(len(rows))}
        if judge.tokenizer is not None and self._asked("max_responses_per_prompt") is None:
            options["max_responses_per_prompt"] = "auto"
        verdicts = dict(zip(asked, _fitting(lambda rows: judge(iter(rows), **options), rows), strict=True))
        if log_metric is not None and groups:
            for name, value in {**_shares(groups.values(), verdicts.values()), **metrics}.items():
                log_metric(f"{self.__name__}/{name}", value)
        lowest = judge_template(self._template).score_range[0]
        return {number: self._outcome(group, verdicts.get(number), lowest) for number, group in groups.items()}

    @property
    def _template(self) -> str:
        return self.judge._template(self._asked("template"))

    def _default_batch(self, groups: int) -> int:
        return 8 if self.judge.engine is None else max(1, groups)

    def _outcome(self, group: "_Group", verdict: dict[str, Any] | None, lowest: int) -> "_Judged":
        empty = {text: float(lowest) for text in group.texts if not text.strip()}
        if not group.distinct:
            return _Judged(empty)
        if verdict is None or verdict["scores"] is None:
            return _Judged(None, None if verdict is None else verdict["critiques"][0]["text"])
        means = [score / verdict["weight"] for score in verdict["scores"]]
        counted = next(critique["text"] for critique in verdict["critiques"] if critique["counted"])
        return _Judged({**dict(zip(group.distinct, means, strict=True)), **empty}, counted)

    def _scaled(self, scores: Mapping[str, float] | None, texts: Sequence[str]) -> list[float | None]:
        if scores is None:
            return [None] * len(texts)
        values = [scores[text] for text in texts]
        if self.scale == "raw":
            return values
        if self.scale == "centered":
            mean = sum(values) / len(values)
            return [value - mean for value in values]
        return [_share_beaten(value, values) for value in values]

    def _add_principles(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Gives each row the principles for its query; returns what to log of it."""
        lacking = [row for row in rows if row["principles"] is None]
        queries = {conversation_text(row["query"]): row["query"] for row in lacking}
        kept = self.cache.get(queries)
        new = [text for text in queries if text not in kept]
        if new:
            options = {name: self._asked(name) for name in ("template", "max_new_tokens")}
            size = self.batch_size or self._default_batch(len(new))
            for start in range(0, len(new), size):
                asked = [queries[text] for text in new[start : start + size]]
                written = _fitting(partial(self.judge.principles, batch_size=size, **options), asked)
                found = dict(zip(new[start : start + size], written, strict=True))
                self.cache.put(found)
                kept |= found
        for row in lacking:
            row["principles"] = kept[conversation_text(row["query"])]
        counts = {"principles_written": len(new)}
        if lacking:
            counts["principles_missing"] = sum(row["principles"] is None for row in lacking) / len(lacking)
        return counts


class AsyncJudgeReward(JudgeReward):
    """A [`JudgeReward`] that TRL awaits: it judges over a server while other asynchronous rewards do their work.

    The groups of a batch are judged at the same time by either class, since an engine has all of their requests in
    flight at once. With several processes several judges take turns. Arguments as for [`JudgeReward`].
    """

    async def __call__(self, *args, **kwargs) -> list[float | None]:
        turns = _IN_TURN if PartialState().num_processes > 1 else None
        judging = partial(super().__call__, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(turns, judging)


class PrincipleCache:
    """Principles of one judge by query: in memory, and in a file if there is one.

    Queries for which the judge wrote none are remembered in memory, so that they are not asked again in this run.

    Args:
        judge (`str`): Tells judges apart that share a file, see [`judge_identity`].
        path (`str` or path, *optional*): An SQLite file; made if it does not exist. Processes may share it.
        max_size (`int`, *optional*, defaults to `100000`):
            Queries that are kept, in memory and in the file; the oldest go first.
    """

    def __init__(self, judge: str, path: str | os.PathLike | None = None, max_size: int = 100_000):
        self.judge, self.path, self.max_size = judge, path, max_size
        self._memory: dict[str, str | None] = {}
        if path is not None:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            try:
                self._run(
                    "CREATE TABLE IF NOT EXISTS principles"
                    " (judge TEXT, query TEXT, text TEXT NOT NULL, PRIMARY KEY (judge, query))"
                )
            except sqlite3.DatabaseError as error:
                raise ValueError(
                    f"Found {os.fspath(path)!r}, which cannot be used as a file of principles ({error}); expected an "
                    "SQLite file, or a path at which one can be made."
                ) from error

    def get(self, queries: Iterable[str]) -> dict[str, str | None]:
        """What is known of these queries; `None` where the judge wrote nothing."""
        queries = list(queries)
        missing = [query for query in queries if query not in self._memory]
        if self.path is not None:
            wanted = [(self.judge, query) for query in missing]
            self._remember(dict(self._run("SELECT query, text FROM principles WHERE judge = ? AND query = ?", wanted)))
        return {query: self._memory[query] for query in queries if query in self._memory}

    def put(self, found: Mapping[str, str | None]) -> None:
        """Keeps principles by query."""
        self._remember(found)
        rows = [(self.judge, query, text) for query, text in found.items() if text is not None]
        if self.path is not None and rows:
            self._run("INSERT OR REPLACE INTO principles VALUES (?, ?, ?)", rows)
            self._run(
                "DELETE FROM principles WHERE rowid <= (SELECT max(rowid) FROM principles) - ?", [(self.max_size,)]
            )

    def _remember(self, found: Mapping[str, str | None]) -> None:
        self._memory.update(found)
        while len(self._memory) > max(self.max_size, len(found)):
            del self._memory[next(iter(self._memory))]

    def _run(self, statement: str, rows: Sequence[tuple] = ((),)) -> list[tuple]:
        # A connection of its own each time: usable from any thread and after a fork.
        with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
            return [line for row in rows for line in database.execute(statement, row)]


def judge_identity(judge: GRMRewardPipeline, **settings) -> str:
    """Tells judges apart by name, by samples of their weights where they are in this process, and by settings.

    Wherever the weights lie, and however they came to be: a judge that was trained on is another judge. Of a server
    only the name is known.
    """
    model = judge.model
    name = getattr(model.config, "_name_or_path", "")
    if judge.engine is None:
        state = hashlib.blake2b(digest_size=16)
        for key, value in sorted(model.state_dict().items()):
            state.update(f"{key} {tuple(value.shape)}".encode())
            if value.device.type != "meta":
                flat = value.detach().flatten()
                few = flat[:: max(1, flat.numel() // 64)].cpu().contiguous()
                state.update(few.view(torch.uint8).numpy().tobytes())
        name = state.hexdigest()
    template = judge._template(settings.pop("template", None))
    return json.dumps({"judge": name, "template": judge_template(template).digest, **settings}, sort_keys=True)


@dataclass(frozen=True)
class _Group:
    """The completions of one prompt, in the sequence of processes and places."""

    query: str | Messages
    reference: str | None
    principles: str | None
    members: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]

    @property
    def owner(self) -> int:
        """The process that judges the group."""
        return self.members[0][0]

    @cached_property
    def distinct(self) -> tuple[str, ...]:
        """What there is to judge: texts that are not empty, each once."""
        return tuple(dict.fromkeys(text for text in self.texts if text.strip()))

    @cached_property
    def row(self) -> dict[str, Any]:
        aside = {"reference": self.reference, "principles": self.principles}
        return {"query": self.query, "responses": list(self.distinct), **aside}


@dataclass(frozen=True)
class _Judged:
    """The score of each text of a group, `None` if there are none, and one critique to look at."""

    scores: dict[str, float] | None
    critique: str | None = None


def _read(prompts, completions, references, principles) -> list[tuple[Preference, str]]:
    """Each completion with the preference that it belongs to; a stand-in is in the place of its responses."""
    count = len(completions)
    columns = (prompts, references or [None] * count, principles or [None] * count, completions)
    read = []
    for number, (query, reference, given, completion) in enumerate(zip(*columns, strict=True)):
        try:
            asked = Preference(query, ("?",), reference=reference, principles=given)
            read.append((asked, _text(completion)))
        except InvalidPreference as error:
            raise InvalidPreference(f"Completion {number}: {error}", error.cause) from None
    return read


def _text(completion: str | Messages) -> str:
    """A completion as text: of messages the assistant's, without what only calls a tool."""
    if isinstance(completion, str):
        return completion
    written = [message.get("content") for message in completion if message.get("role", "assistant") == "assistant"]
    return "\n".join(message_text(content, "responses") for content in written if content)


def _grouped(slices: Sequence[Sequence[tuple[Preference, str]]]) -> list[_Group]:
    """Groups in the sequence of their first completions, the same ones in every process."""
    found: dict[tuple, tuple[Preference, list, list]] = {}
    for process, own in enumerate(slices):
        for place, (asked, text) in enumerate(own):
            key = (conversation_text(asked.query), asked.reference, asked.principles)
            _, members, texts = found.setdefault(key, (asked, [], []))
            members.append((process, place))
            texts.append(text)
    return [
        _Group(asked.query, asked.reference, asked.principles, tuple(members), tuple(texts))
        for asked, members, texts in found.values()
    ]


def _from_all(make: Callable[[], Any]) -> list[Any]:
    """What each process makes, in every one of them. One that fails says so, since the others wait for it."""
    made = None
    try:
        made = make()
    finally:
        found = _exchanged(made)
    if None in found:
        raise RuntimeError(f"Process {found.index(None)} could not judge its completions; its own error says why.")
    return found


def _exchanged(value: Any) -> list[Any]:
    """The values of all processes."""
    state = PartialState()
    if state.num_processes == 1:
        return [value]
    # NCCL sends from the thread's current device, which in a thread of its own is the first one.
    here = torch.cuda.device(state.device) if state.device.type == "cuda" else nullcontext()
    with here:
        return gather_object([value])


def _fitting(judge: Callable[[list], Iterable], items: Sequence[Any]) -> list[Any]:
    """What is judged of each item; `None` for those that are too long for the judge."""
    results: dict[int, Any] = {}
    while waiting := [place for place in range(len(items)) if place not in results]:
        try:
            for place, result in zip(waiting, judge([items[place] for place in waiting]), strict=True):
                results[place] = result
        except PromptTooLongError as error:
            results[waiting[error.row]] = None
    return [results[place] for place in range(len(items))]


def _share_beaten(value: float, values: Sequence[float]) -> float:
    """The share of the other values that this one beats, ties half; 0.5 if there are none."""
    others = len(values) - 1
    if not others:
        return 0.5
    return (sum(value > other for other in values) + (values.count(value) - 1) / 2) / others


def _shares(groups: Iterable[_Group], verdicts: Iterable[dict[str, Any] | None]) -> dict[str, float]:
    """What became of groups, for the log."""
    groups, verdicts = list(groups), list(verdicts)
    texts = sum(len(group.texts) for group in groups)
    empty = sum(not text.strip() for group in groups for text in group.texts)
    distinct = sum(len(group.distinct) for group in groups)
    shares = {"duplicates": (texts - empty - distinct) / texts, "empty": empty / texts}
    if not verdicts:
        return shares
    read = [verdict for verdict in verdicts if verdict is not None]
    critiques = [critique for verdict in read for critique in verdict["critiques"]]
    problems = Counter(critique["problem"] for critique in critiques)
    unreadable = sum(verdict is None or verdict["scores"] is None for verdict in verdicts)
    causes = {cause: problems[cause] / max(1, len(critiques)) for cause in (*PROBLEMS, TRUNCATED)}
    causes[TOO_LONG] = (len(verdicts) - len(read)) / len(verdicts)
    return {
        **shares,
        "unreadable": unreadable / len(verdicts),
        "tokens": sum(critique["num_tokens"] for critique in critiques) / len(verdicts),
        **{f"problems/{cause}": share for cause, share in causes.items()},
    }
