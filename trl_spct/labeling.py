# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Rows of any kind → scores, the best of n, and preference pairs with a margin, as a judge's votes say."""

import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value, concatenate_datasets
from huggingface_hub import DatasetCard, DatasetCardData
from tqdm.auto import tqdm

from .budget import prompt_length
from .cards import PAPER, template_path
from .data import InvalidRows, Rows, prepare_preferences
from .diagnostics import agreement, chosen_places, order_flips
from .evaluation import Judgment, PipelineJudge
from .hub import push_folder
from .manifests import rows_digest, write_json
from .preferences import Preference
from .prompts import conversation_text
from .sampling import PromptTooLongError, derive_seed
from .shards import SHARDS, ShardedJob
from .voting import Guidance


PAIRS = ("best-vs-worst", "best-vs-random", "all")
"""Which responses of a row make pairs, see [`preference_pairs`]."""

COLUMNS = ("scores", "best", "tied", "votes", "confidence", "problems")
"""What [`score_columns`] adds to a row."""

TOO_LONG = "length"
"""The cause of a row that was not judged since it does not fit into the judge's context."""

_STOPS = ("early_stopping", "max_responses_per_prompt")
_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_QUERIES = ("query", "prompt", "messages")
_ASIDE = ("reference", "principles")
_READ = ("query", "responses", *_ASIDE)

VERDICT_FEATURES = Features(
    {
        "row": Value("int64"),
        "seconds": Value("float64"),
        "totals": List(Value("float64")),
        "weight": Value("float64"),
        "best": Value("int64"),
        "tied": List(Value("int64")),
        "refused": Value("string"),
        "blocks": Value("bool"),
        "truncated": Value("bool"),
        "texts": List(Value("string")),
        "scores": List(List(Value("float64"))),
        "problems": List(Value("string")),
        "orders": List(List(Value("int64"))),
        "num_tokens": List(Value("int64")),
        "meta_scores": List(Value("float64")),
        "counted": List(Value("bool")),
    }
)
"""Columns of stored verdicts: one record per row, with one list entry per critique in the last seven.

`totals` are the votes' sums, in the order of the row's responses, and `weight` is what they are the sums of; `refused`
says why a row was not judged at all.
"""


@dataclass(frozen=True)
class LabelRows:
    """Rows to be judged, all of whose columns are kept. Item i is the i-th row as a [`Preference`] without labels.

    Args:
        originals ([`~datasets.Dataset`]): The rows as they came, without those that were dropped.
        preferences ([`~datasets.Dataset`]): `query` and `responses` of the same rows, and `reference` and `principles`
            if they have any.
        num_read (`int`): Rows that were read.
        dropped (`dict[str, int]`): Rows that were dropped, by cause.
        row_numbers (`tuple[int, ...]`): For each row, its number among those that were read.
    """

    originals: Dataset
    preferences: Dataset
    num_read: int
    dropped: dict[str, int]
    row_numbers: tuple[int, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.preferences)

    def __getitem__(self, number: int) -> Preference:
        return self._preference(self.preferences[number])

    def __iter__(self) -> Iterator[Preference]:
        return map(self._preference, self.preferences)

    @staticmethod
    def _preference(row: Mapping[str, Any]) -> Preference:
        return Preference(row["query"], row["responses"], None, row.get("reference"), row.get("principles"))

    @property
    def have_messages(self) -> bool:
        """Whether queries are messages and not texts."""
        return not isinstance(self.preferences.features["query"], Value)


def prepare_rows(
    dataset: Rows, source: str | None = None, invalid_rows: InvalidRows = "error", name: str = "dataset"
) -> LabelRows:
    """Reads rows that need no labels, and checks them all.

    | columns | n |
    |---|---|
    | `query`, `prompt` or `messages`, and `responses` or `completions` | ≥ 1 |
    | [`prompt`], `chosen`, `rejected` (prompt explicit or implicit) | 2 |
    | `query`, `prompt` or `messages`, and `completion` | 1 |
    | `messages` that end with the assistant's | 1 |
    | those of a source of [`~trl_spct.sources.SOURCES`], which then become `query` and `responses` | ≥ 1 |

    Texts may be messages everywhere. Labels of any kind are not read, but kept like all other columns.

    Args:
        dataset ([`~datasets.Dataset`] or sequence of mappings): The rows.
        source, invalid_rows, name: See [`~trl_spct.data.prepare_preferences`].

    Returns:
        [`LabelRows`]

    Raises:
        [`InvalidPreference`]: for a row that cannot be judged, with its number.
    """
    if isinstance(dataset, Sequence) and source is None:
        dataset = _as_dataset(dataset)
    judged = _judged_columns(dataset) if isinstance(dataset, Dataset) and source is None else None
    given = dataset if judged is None else judged
    prepared = prepare_preferences(given, source, invalid_rows, name, require_labels=False)
    if judged is None:
        originals = prepared.dataset
    else:
        numbers = prepared.row_numbers
        originals = dataset if len(numbers) == len(dataset) else dataset.select(numbers)
    kept = [column for column in prepared.dataset.column_names if column in _READ]
    preferences = prepared.dataset.select_columns(kept)
    return LabelRows(originals, preferences, prepared.num_read, dict(prepared.dropped), prepared.row_numbers)


def _as_dataset(rows: Rows) -> Rows:
    """Rows as a dataset; as they are if their columns mix types, so that the row to blame is found."""
    try:
        columns = dict.fromkeys(column for row in rows for column in row)
        return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, AttributeError):
        return rows


def _judged_columns(dataset: Dataset) -> Dataset | None:
    """What a judge reads of rows in a shape of our own, as [`Preference.from_row`] does; `None` for other shapes."""
    columns = dataset.column_names
    used = [name for name in (*_QUERIES, *_ASIDE) if name in columns and _has_values(dataset[name])]
    queries, aside = ([name for name in used if name in names] for names in (_QUERIES, _ASIDE))
    answers = next((name for name in ("responses", "completions") if name in columns), None)
    if queries and answers:
        part = dataset.select_columns([*queries, answers, *aside])
        return part if answers == "responses" else part.rename_column(answers, "responses")
    if {"chosen", "rejected"} <= set(columns):
        return dataset.select_columns([*queries, "chosen", "rejected", *aside])
    if queries and "completion" in columns:
        part = dataset.select_columns([*queries, "completion", *aside])
        return _mapped(part, _alone, "completion", {"responses": List(dataset.features["completion"])})
    if queries == ["messages"]:
        part = dataset.select_columns(["messages", *aside])
        made = {"prompt": dataset.features["messages"], "responses": List(dataset.features["messages"])}
        return _mapped(part, _last_turns, "messages", made)
    return None


def _has_values(column: Iterable[Any]) -> bool:
    return any(value is not None for value in column)


def _mapped(part: Dataset, function: Callable, column: str, made: Mapping[str, Any]) -> Dataset:
    features = {name: feature for name, feature in part.features.items() if name != column}
    return part.with_format(None).map(
        function, remove_columns=column, features=Features({**features, **made}), load_from_cache_file=False
    )


def _alone(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"responses": [row["completion"]]}


def _last_turns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation as a prompt and the assistant's last turns, the one response to it."""
    messages = list(row["messages"] or ())
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    return {"prompt": messages[:end] or None, "responses": [messages[end:]] if messages[end:] else None}


def collect_verdicts(
    pipe,
    rows: LabelRows,
    k: int,
    folder: str | os.PathLike,
    invalid_rows: InvalidRows = "error",
    rows_per_shard: int = 64,
    batch_size: int | None = None,
    verdict: bool = False,
    progress: str | None = None,
    process_index: int = 0,
    num_processes: int = 1,
    wait: Callable[[], None] | None = None,
    **parameters,
) -> Dataset:
    """Judges rows and writes as it goes; a restart with the same settings resumes, and judges no written row again.

    Args:
        pipe ([`GRMRewardPipeline`]): The judge.
        rows ([`LabelRows`]): Of [`prepare_rows`].
        k (`int`): Critiques per row.
        folder (`str` or path): Where the verdicts are written as parquet.
        invalid_rows (`str`, *optional*, defaults to `"error"`):
            What becomes of rows that do not fit into the judge's context: `"error"` refuses them before any row is
            judged, `"drop"` leaves them without scores, with the cause `"length"`.
        rows_per_shard (`int`, *optional*, defaults to `64`): Rows written at once; what a kill costs at most.
        batch_size (`int`, *optional*): Rows judged together; by default as many as make 256 critiques.
        verdict (`bool`, *optional*, defaults to `False`): Ask for 0 or 1 for single responses, as in training.
        progress (`str`, *optional*): Title of a progress bar over rows.
        process_index, num_processes (`int`, *optional*): This process's share of the rows.
        wait (`Callable`, *optional*): A barrier among the processes.
        **parameters: Passed to the pipeline: `seed` (0 by default), `temperature`, `early_stopping` and the like.

    Returns:
        [`~datasets.Dataset`] with [`VERDICT_FEATURES`]: one verdict per row, in order.

    Raises:
        [`~trl_spct.sampling.PromptTooLongError`]: with the number of a row that does not fit.
        `FileExistsError`: if the folder holds verdicts of another judge, other rows or other settings.
    """
    stops = {name: parameters.pop(name) for name in _STOPS if parameters.get(name)}
    batch_size = batch_size or max(1, 256 // (k * _most_blocks(rows, stops.get("max_responses_per_prompt"))))
    judge = PipelineJudge(pipe, k, batch_size, verdict, **parameters)
    settings = {"kind": "verdicts", **judge.settings, **stops, "data": _digest(rows)}
    job = ShardedJob(folder, len(rows), rows_per_shard, VERDICT_FEATURES, settings)
    options = {"k": k, "verdict": verdict, "batch_size": judge.batch_size, **judge.parameters, **stops}
    measure = None if stops.get("max_responses_per_prompt") else _measure(judge)
    drop = invalid_rows == "drop"
    if measure is not None and not drop:
        missing = [numbers for path, numbers in job.shards[process_index::num_processes] if not path.exists()]
        _check_lengths(rows, chain.from_iterable(missing), measure)

    def work(numbers: range) -> list[dict[str, Any]]:
        batches = _batches(numbers, judge.batch_size)
        return [record for batch in batches for record in _judge(pipe, rows, batch, drop, measure, options)]

    with tqdm(total=len(rows), desc=progress, disable=progress is None, unit="row") as bar:
        for numbers in job.run(work, process_index, num_processes):
            bar.update(len(numbers) * num_processes)
    if wait is not None:
        wait()
    return job.read()


def judging_protocol(
    pipe, k: int, batch_size: int | None = None, verdict: bool = False, **parameters
) -> dict[str, Any]:
    """How the critiques of [`collect_verdicts`] come about, for cards: see [`PipelineJudge.protocol`]."""
    stops = {name: parameters.pop(name, None) for name in _STOPS}
    return {**PipelineJudge(pipe, k, batch_size, verdict, **parameters).protocol, **stops}


def _most_blocks(rows: LabelRows, most: int | str | None) -> int:
    """In how many blocks a row is judged, at most; those of `"auto"` may have two responses."""
    if most is None:
        return 1
    longest = max(map(len, rows.preferences["responses"]), default=1)
    return max(1, math.ceil((longest - 1) / ((2 if most == "auto" else most) - 1)))


def _digest(rows: LabelRows) -> str:
    return rows_digest((row.query, row.responses, row.reference, row.principles) for row in rows)


def _measure(judge: PipelineJudge) -> Callable[[Preference], tuple[int, int, int]] | None:
    """What tells of a row (tokens of its prompt, of a critique, of the judge's context); `None` if nothing can, or if
    what is too long is cut."""
    protocol, tokenizer = judge.protocol, judge.pipe.tokenizer
    if protocol["context"] is None or tokenizer is None or judge.parameters.get("truncation"):
        return None

    def measure(row: Preference) -> tuple[int, int, int]:
        length = prompt_length(row, tokenizer, protocol["template"], judge.verdict and len(row) == 1)
        return length, protocol["max_new_tokens"], protocol["context"]

    return measure


def _check_lengths(rows: LabelRows, numbers: Iterable[int], measure) -> None:
    """Refuses a row that does not fit before the first one is judged."""
    for number in numbers:
        lengths = measure(rows[number])
        if _exceeds(*lengths):
            raise _too_long(rows, number, *lengths)


def _exceeds(length: int, max_new_tokens: int, limit: int) -> bool:
    return length + max_new_tokens > limit


def _too_long(rows: LabelRows, number: int, *lengths: int) -> PromptTooLongError:
    return PromptTooLongError(f"Row {rows.row_numbers[number]}", *lengths, number)


def _judge(pipe, rows: LabelRows, numbers: list[int], drop: bool, measure, options) -> list[dict[str, Any]]:
    """The verdicts of some rows. Those that are too long go before the others are judged, if they may."""
    started = time.perf_counter()
    judged = [number for number in numbers if not (drop and measure and _exceeds(*measure(rows[number])))]
    verdicts = {}
    while judged:
        try:
            verdicts = dict(zip(judged, pipe([rows[number] for number in judged], **options), strict=True))
            break
        except PromptTooLongError as error:  # in an order that takes a token more, or in blocks
            if not drop:
                raise _too_long(rows, judged[error.row], *error.lengths) from None
            del judged[error.row]
    seconds = (time.perf_counter() - started) / len(numbers)
    guidance = _guidance(pipe, options)
    return [{"row": n, "seconds": seconds, **_record(verdicts.get(n, _REFUSED), guidance)} for n in numbers]


_REFUSED = {"scores": None, "best": None, "tied": [], "critiques": [], "blocks": None, "truncated": None}


def _record(verdict: Mapping[str, Any], guidance: Guidance | None) -> dict[str, Any]:
    names = {"text": "texts", "scores": "scores", "problem": "problems", "order": "orders"}
    names |= {"num_tokens": "num_tokens", "meta_score": "meta_scores", "counted": "counted"}
    return {
        "totals": verdict["scores"],
        "weight": _weight(verdict, guidance),
        "best": verdict["best"],
        "tied": verdict["tied"],
        "refused": TOO_LONG if verdict is _REFUSED else None,
        "blocks": verdict["blocks"] is not None,
        "truncated": verdict["truncated"] is not None,
        **{column: [critique[name] for critique in verdict["critiques"]] for name, column in names.items()},
    }


def _guidance(pipe, options: Mapping[str, Any]) -> Guidance | None:
    """How the Meta RM guides the votes, as asked for or as stored with it."""
    if pipe.guidance is None:
        return None
    return Guidance.of(pipe.guidance.settings, options.get("k_meta"), options.get("guide"))


def _weight(verdict: Mapping[str, Any], guidance: Guidance | None) -> float:
    """How many votes a verdict's scores are the sum of, or how much the votes weigh."""
    if verdict["blocks"] is not None:
        return verdict["k"]
    if guidance is None or guidance.guide == "top":
        return sum(critique["counted"] for critique in verdict["critiques"])
    columns = ([critique[name] for critique in verdict["critiques"]] for name in ("scores", "meta_score"))
    return sum(guidance.weights(*columns))


def score_columns(verdicts: Dataset, prefix: str = "") -> Dataset:
    """What the judge says of each row, to stand beside its other columns.

    | column | |
    |---|---|
    | `scores` | mean score per vote of each response, whatever k; `None` if no critique of the row can be read |
    | `best` | a response with the highest score, drawn with the seed from `tied`; `None` without scores |
    | `tied` | all responses with the highest score |
    | `votes` | critiques that voted |
    | `confidence` | share of them whose own winner is `best`; `None` for n = 1 and for rows in blocks |
    | `problems` | why critiques could not be read, each; or `["length"]` if the row was too long to be judged |

    Args:
        verdicts ([`~datasets.Dataset`]): Of [`collect_verdicts`].
        prefix (`str`, *optional*, defaults to `""`): Put before the columns' names.
    """
    types = (List(Value("float64")), Value("int64"), List(Value("int64")), Value("int64"), Value("float64"))
    features = dict(zip(COLUMNS, (*types, List(Value("string"))), strict=True))

    def to_columns(record: dict[str, Any]) -> dict[str, Any]:
        values = (mean_scores(record), record["best"], record["tied"], sum(record["counted"]), _confidence(record))
        return {prefix + name: value for name, value in zip(COLUMNS, (*values, _problems(record)), strict=True)}

    return verdicts.map(
        to_columns,
        remove_columns=verdicts.column_names,
        features=Features({prefix + name: feature for name, feature in features.items()}),
        keep_in_memory=True,
        load_from_cache_file=False,
    )


def check_columns(rows: LabelRows, prefix: str = "") -> None:
    """Refuses rows with columns that [`score_columns`] would overwrite."""
    clashing = [prefix + name for name in COLUMNS if prefix + name in rows.originals.column_names]
    if clashing:
        raise ValueError(
            f"The rows have the columns {clashing} already, which the judge's would overwrite. Rename them, or put "
            'something before the names of the judge\'s, as `prefix="judge_"`.'
        )


def mean_scores(record: Mapping[str, Any]) -> list[float] | None:
    """Mean score per vote of each response of a stored verdict; `None` if there is none."""
    if record["totals"] is None or not record["weight"]:
        return None
    return [total / record["weight"] for total in record["totals"]]


def _confidence(record: Mapping[str, Any]) -> float | None:
    if record["totals"] is None or len(record["totals"]) < 2 or record["blocks"]:
        return None
    voters = [scores for scores, counted in zip(record["scores"], record["counted"], strict=True) if counted]
    return agreement(voters, record["best"])


def _problems(record: Mapping[str, Any]) -> list[str]:
    if record["refused"] is not None:
        return [record["refused"]]
    return [problem for problem in record["problems"] if problem is not None]


def best_of_n(rows: LabelRows, verdicts: Iterable[Mapping[str, Any]], messages: bool = False) -> Iterator[dict]:
    """The best response to each query, as rows of TRL's `prompt` and `completion`, with `score` and `row`.

    Of responses that share the highest score, it is the one that the pipeline has drawn. Rows without scores give
    none.

    Args:
        rows ([`LabelRows`]): What was judged.
        verdicts (iterable of records): Of [`collect_verdicts`].
        messages (`bool`, *optional*, defaults to `False`): Write texts as messages.
    """
    for number, (row, record) in enumerate(zip(rows, verdicts, strict=True)):
        scores = mean_scores(record)
        if scores is not None:
            best = record["best"]
            prompt, completion = _written(row.query, row.responses[best], messages=messages)
            yield {
                "prompt": prompt,
                "completion": completion,
                "score": scores[best],
                "row": rows.row_numbers[number],
            }


def preference_pairs(
    rows: LabelRows,
    verdicts: Iterable[Mapping[str, Any]],
    pairs: str = "best-vs-worst",
    min_margin: float = 0.0,
    seed: int = 0,
    messages: bool = False,
    skipped: Counter | None = None,
) -> Iterator[dict[str, Any]]:
    """Pairs of responses that the judge tells apart, in TRL's preference format, for `DPOTrainer` and `RewardTrainer`.

    Args:
        rows ([`LabelRows`]): What was judged.
        verdicts (iterable of records): Of [`collect_verdicts`].
        pairs (`str`, *optional*, defaults to `"best-vs-worst"`):
            `"best-vs-worst"`: one pair a row. `"best-vs-random"`: one pair a row, the best against any other that may
            be paired with it. `"all"`: any two responses. Where scores are shared, a draw decides who is best or
            worst, not the place.
        min_margin (`float`, *optional*, defaults to `0.0`):
            A pair's scores are further apart than this, in points per vote. A tie makes no pair.
        seed (`int`, *optional*, defaults to `0`): Of what is drawn.
        messages (`bool`, *optional*, defaults to `False`): Write texts as messages.
        skipped (`Counter`, *optional*):
            Counts pairs that were not made: `tie`, `margin` and `duplicate` (the same text twice); and rows that had
            none to make: `single` (n = 1) and `unreadable`.

    Yields:
        `dict`: `prompt`, `chosen`, `rejected`, `score_chosen`, `score_rejected`, `margin`, and `row`, the number of
        the row that it was made of.
    """
    check_pairs(pairs, min_margin)
    skipped = Counter() if skipped is None else skipped
    for number, (row, record) in enumerate(zip(rows, verdicts, strict=True)):
        scores = mean_scores(record)
        if scores is None or len(row) == 1:
            skipped["single" if len(row) == 1 else "unreadable"] += 1
            continue
        judged = _JudgedRow(row.responses, record["totals"], record["weight"], min_margin)
        draw = random.Random(derive_seed(seed, "pair", conversation_text(row.query), *row.responses))
        for chosen, rejected in judged.candidates(pairs, record["best"], draw):
            cause = judged.refusal(chosen, rejected)
            if cause is not None:
                skipped[cause] += 1
                continue
            texts = _written(row.query, row.responses[chosen], row.responses[rejected], messages=messages)
            yield {
                **dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)),
                "score_chosen": scores[chosen],
                "score_rejected": scores[rejected],
                "margin": judged.margin(chosen, rejected),
                "row": rows.row_numbers[number],
            }


def check_pairs(pairs: str, min_margin: float) -> None:
    """Refuses what [`preference_pairs`] does not know."""
    if pairs not in PAIRS:
        raise ValueError(f"Found pairs={pairs!r}; expected one of {', '.join(map(repr, PAIRS))}.")
    if not min_margin >= 0:
        raise ValueError(f"Found min_margin={min_margin}; expected a number of points from 0 on.")


@dataclass(frozen=True)
class _JudgedRow:
    """Which responses of a row make pairs. Sums are compared, since means of three votes are not exact."""

    responses: Sequence[str]
    totals: Sequence[float]
    weight: float
    min_margin: float

    def margin(self, chosen: int, rejected: int) -> float:
        return (self.totals[chosen] - self.totals[rejected]) / self.weight

    def refusal(self, chosen: int, rejected: int) -> str | None:
        """Why two responses make no pair; `None` if they do."""
        margin = self.margin(chosen, rejected)
        if margin <= self.min_margin:
            return "margin" if margin > 0 else "tie"
        return "duplicate" if self.responses[chosen] == self.responses[rejected] else None

    def candidates(self, pairs: str, best: int, draw: random.Random) -> list[tuple[int, int]]:
        others = [i for i in range(len(self.totals)) if i != best]
        if pairs == "all":
            order = sorted([best, *others], key=lambda i: -self.totals[i])
            return [(order[i], order[j]) for i in range(len(order)) for j in range(i + 1, len(order))]
        if pairs == "best-vs-random":
            return [(best, draw.choice([i for i in others if self.refusal(best, i) is None] or others))]
        lowest = min(self.totals[i] for i in others)
        return [(best, draw.choice([i for i in others if self.totals[i] == lowest]))]


def _written(query: Any, *answers: str, messages: bool) -> tuple:
    """A query and answers as TRL's trainers read them: all texts, or all messages."""
    if not messages and isinstance(query, str):
        return query, *answers
    prompt = [{"role": "user", "content": query}] if isinstance(query, str) else list(query)
    return prompt, *([{"role": "assistant", "content": answer}] for answer in answers)


def label_report(
    rows: LabelRows, verdicts: Dataset, made: Mapping[str, Any], best: int, scores: Dataset
) -> dict[str, Any]:
    """What came of labeling, JSON-like.

    Args:
        rows ([`LabelRows`]), verdicts ([`~datasets.Dataset`]): What was judged, and what came of it.
        made (mapping): What is known of the pairs.
        best (`int`): How many rows have a best response.
        scores ([`~datasets.Dataset`]): Of [`score_columns`], without a prefix.

    Returns:
        `dict`:

        - `rows`: how many were `read`, `dropped` (by cause), `judged` and `cut` to fit; `responses`: all of theirs.
        - `critiques` (`int`), `tokens` (mean length), `unreadable` (share) and `problems` (count by cause).
        - `unscored`: rows without scores, by the most frequent cause of theirs.
        - `score` and `confidence` (means), `ties`: share of scored rows with n ≥ 2 that have more than one winner.
        - `pairs`, `best_of_n`.
        - `places` and `order_flips`: the judge's position bias, see [`~trl_spct.diagnostics.chosen_places`] and
          [`~trl_spct.diagnostics.order_flips`].
    """
    problems, unscored, critiques, tokens, cut = Counter(), Counter(), 0, 0, 0
    for record in verdicts.remove_columns("texts"):
        causes = Counter(_problems(record))
        problems.update(problem for problem in record["problems"] if problem is not None)
        critiques, tokens = critiques + len(record["orders"]), tokens + sum(record["num_tokens"])
        cut += record["truncated"]
        if mean_scores(record) is None:
            unscored[min(causes, key=lambda cause: (-causes[cause], cause))] += 1
    given = [values for values in scores["scores"] if values is not None]
    tied = [len(tied) > 1 for values, tied in zip(scores["scores"], scores["tied"]) if values and len(values) > 1]
    return {
        "rows": {"read": rows.num_read, "dropped": rows.dropped, "judged": len(rows), "cut": cut},
        "responses": sum(map(len, rows.preferences["responses"])),
        "critiques": critiques,
        "tokens": tokens / critiques if critiques else None,
        "unreadable": sum(problems.values()) / critiques if critiques else None,
        "problems": dict(sorted(problems.items())),
        "unscored": dict(sorted(unscored.items())),
        "score": _mean([score for values in given for score in values]),
        "confidence": _mean([value for value in scores["confidence"] if value is not None]),
        "ties": _mean(tied),
        "pairs": dict(made),
        "best_of_n": best,
        "places": chosen_places(_judgments(verdicts)),
        "order_flips": order_flips(_judgments(verdicts)),
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in a few sentences, for a terminal."""
    read, pairs = report["rows"], report["pairs"]
    lines = [
        f"{read['read']} rows read, {_counted(read['dropped'])} dropped, {read['judged']} judged with "
        f"{report['critiques']} critiques, of which {_share(report['unreadable'])} unreadable"
        f"{_causes(report['problems'])}",
        f"rows without scores: {_counted(report['unscored'])}",
        f"pairs ({pairs['policy']}, margin over {pairs['min_margin']:g}): {pairs['made']}"
        + (f", mean margin {pairs['margin']:.2f}" if pairs["made"] else "")
        + f"; not made: {_counted(pairs['skipped'])}",
        f"best of n: {report['best_of_n']}; ties for the best: {_share(report['ties'])}",
    ]
    for n, shares in report["places"].items():
        lines.append(f"winner's place among {n}: " + ", ".join(map(_share, shares)))
    if report["order_flips"]:
        lines.append(f"two critiques in different orders disagree in {_share(report['order_flips']['flips'])}")
    return lines


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _counted(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values())}{_causes(counts)}"


def _causes(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{cause} {count}' for cause, count in counts.items())})" if counts else ""


def _judgments(verdicts: Dataset) -> Iterator[Judgment]:
    """What tells of places: rows that were judged whole."""
    return (
        Judgment((), record["scores"], orders=[tuple(order) for order in record["orders"]])
        for record in verdicts.select_columns(["scores", "orders", "blocks"])
        if not record["blocks"]
    )


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def write_labels(
    rows: LabelRows,
    verdicts: Dataset,
    folder: str | os.PathLike,
    pairs: str = "best-vs-worst",
    min_margin: float = 0.0,
    seed: int = 0,
    messages: bool = False,
    prefix: str = "",
) -> dict[str, Any]:
    """Writes scores, the best of n and preference pairs as parquet, each into a folder of its own, and `report.json`.

    Args:
        rows ([`LabelRows`]), verdicts ([`~datasets.Dataset`]): What was judged, and what came of it.
        folder (`str` or path): Where to. What an earlier call wrote is replaced.
        pairs, min_margin, seed: See [`preference_pairs`].
        messages (`bool`, *optional*, defaults to `False`):
            Write prompts and answers as messages, to which trainers apply a chat template, where queries are texts.
        prefix (`str`, *optional*, defaults to `""`): See [`score_columns`].

    Returns:
        `dict`: see [`label_report`].
    """
    check_columns(rows, prefix)
    folder, skipped = Path(folder), Counter()
    messages = messages or rows.have_messages
    added = score_columns(verdicts, prefix)
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    scored = concatenate_datasets([rows.originals.with_format(None), added], axis=1)
    _in_one_step(folder / "scores" / "data.parquet", scored.to_parquet)
    text = _MESSAGES if messages else Value("string")
    numbers = {"row": Value("int64")}
    best = {"prompt": text, "completion": text, "score": Value("float64"), **numbers}
    made = {"prompt": text, "chosen": text, "rejected": text}
    made |= {name: Value("float64") for name in ("score_chosen", "score_rejected", "margin")} | numbers
    num_best, _ = _write(folder / "best_of_n", best_of_n(rows, verdicts, messages), Features(best))
    found = preference_pairs(rows, verdicts, pairs, min_margin, seed, messages, skipped)
    num_pairs, margins = _write(folder / "preferences", found, Features(made))
    summary = {"policy": pairs, "min_margin": min_margin, "made": num_pairs}
    summary |= {"margin": margins / num_pairs if num_pairs else None, "skipped": dict(sorted(skipped.items()))}
    bare = added.rename_columns({name: name.removeprefix(prefix) for name in added.column_names})
    report = label_report(rows, verdicts, summary, num_best, bare)
    write_json(folder / "report.json", report)
    return report


def _write(folder: Path, records: Iterable[Mapping[str, Any]], features: Features) -> tuple[int, float]:
    """(records, sum of their margins), written with flat memory."""
    folder.mkdir(parents=True, exist_ok=True)
    count, margins = 0, 0.0

    def write(path: Path) -> None:
        nonlocal count, margins
        with pq.ParquetWriter(path, features.arrow_schema) as writer:
            for batch in _batches(records, 1000):
                writer.write_table(pa.Table.from_pylist(batch, schema=features.arrow_schema))
                count += len(batch)
                margins += sum(record.get("margin", 0.0) for record in batch)

    _in_one_step(folder / "data.parquet", write)
    return count, margins


def _in_one_step(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    write(partial)
    os.replace(partial, path)


PARTS = ("preferences", "best_of_n", "scores")


def write_labels_card(
    folder: str | os.PathLike,
    report: Mapping[str, Any],
    protocol: Mapping[str, Any],
    dataset_name: str | None = None,
    repo_id: str | None = None,
) -> None:
    """The card of a folder of labels; it tells `load_dataset(folder, "preferences")` what to read.

    Args:
        folder (`str` or path): What [`write_labels`] wrote. Verdicts in `verdicts/` beside it are part of the card.
        report (mapping): Of [`write_labels`].
        protocol (mapping): How the critiques came about, see [`PipelineJudge.protocol`].
        dataset_name (`str`, *optional*): What was labeled.
        repo_id (`str`, *optional*): Where the labels will be; the folder's name by default.
    """
    folder = Path(folder)
    data = {
        "preferences": report["pairs"]["made"],
        "best_of_n": report["best_of_n"],
        "scores": report["rows"]["judged"],
    }
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in PARTS if data[name]]
    configs[0]["default"] = True
    if (folder / "verdicts").is_dir():
        configs.append({"config_name": "verdicts", "data_files": f"verdicts/{SHARDS}"})
    is_local = dataset_name is not None and (os.path.exists(dataset_name) or "*" in dataset_name)
    card = DatasetCard.from_template(
        DatasetCardData(
            tags=["trl", "spct", "generative-reward-model", "preference"],
            source_datasets=None if is_local or dataset_name is None else [dataset_name],
            configs=configs,
        ),
        template_path=str(template_path("labels.md")),
        report=report,
        parts=[config["config_name"] for config in configs],
        causes=_causes,
        protocol=json.dumps(dict(protocol), indent=2, ensure_ascii=False),
        judge=protocol["model"],
        k=protocol["k"],
        dataset_name=Path(dataset_name).name if is_local else dataset_name,
        repository=repo_id or folder.name,
        versions={name: version(name) for name in ("trl-spct", "transformers", "torch", "datasets")},
        paper_title=PAPER["title"],
        paper_id=PAPER["id"],
    )
    card.save(folder / "README.md")


def push_labels(folder: str | os.PathLike, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Pushes a folder of labels to the Hub with its card: scores, pairs, the best of n, and all critiques.

    The manifest, which may name places on this machine, stays here.

    Args:
        folder (`str` or path): What [`write_labels`] and [`write_labels_card`] wrote.
        repo_id (`str`): Of a dataset repository, which is created if it is not there.
        private (`bool`, *optional*): Whether a new repository is private; as the account has it by default.
        token (`str`, *optional*): The one that is logged in with by default.

    Returns:
        `str`: address of the commit.

    Raises:
        [`~trl_spct.hub.PushError`]: if it fails, saying how to push again.
    """
    names = [*(f"{name}/data.parquet" for name in PARTS), f"verdicts/{SHARDS}", "README.md", "report.json"]
    return push_folder(folder, repo_id, "dataset", "Upload labels", names, private, token)
