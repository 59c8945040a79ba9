# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Preparation of datasets: from any accepted shape to preference rows, and from these to a judge's prompts."""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from ..judge.outcomes import meta_label
from ..judge.preferences import ACCEPTED_SHAPES, InvalidPreference, Preference
from ..judge.prompts import conversation_text, judge_messages, judge_template
from ..judge.sampling import check_lengths, check_tokenizer, derive_seed, encode_prompts, special_tokens
from .reading import QUERIES, RowReader, plain_value
from .sources import SOURCES, LeftOut, detect_source, get_source


logger = logging.getLogger(__name__)

Rows: TypeAlias = Dataset | Sequence[Mapping[str, Any]]
InvalidRows = Literal["error", "drop"]

# Names that GRPOTrainer passes to reward functions itself, or reads images from (trl 1.16).
RESERVED_COLUMNS = frozenset(
    "prompts completions completion_ids trainer_state log_extra log_metric environments image images".split()
)
_TEXT, _MESSAGES = Value("string"), List({"role": Value("string"), "content": Value("string")})
_OWN_FEATURES = {
    "responses": List(Value("string")),
    "labels": List(Value("float64")),
    "reference": Value("string"),
    "principles": Value("string"),
}
_OPTIONAL = ("labels", "reference", "principles")


@dataclass(frozen=True)
class PreparedPreferences:
    """Preference rows, with counts of the rows that they were read from.

    Args:
        dataset ([`~datasets.Dataset`]): The preference rows.
        num_read (`int`): Number of rows read. Each was dropped, or gave at least one preference row.
        dropped (`dict[str, int]`): Number of dropped rows by cause.
        name (`str`, *optional*, defaults to `"train_dataset"`): Name of the dataset in messages.
        source (`str`, *optional*): Name of the source adapter that read the rows.
        row_numbers (`tuple[int, ...]`, *optional*): For each preference row, the number of the row read.
        response_numbers (`dict[int, tuple[int, ...]]`, *optional*): For each preference row without some responses of
            the row read, the numbers of those that it has.
    """

    dataset: Dataset
    num_read: int
    dropped: dict[str, int]
    name: str = "train_dataset"
    source: str | None = None
    row_numbers: tuple[int, ...] = field(default=(), repr=False)
    response_numbers: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        origin = f" from {self.source}" if self.source else ""
        count = len(self.dataset)
        return f"{self.name}: read {self.num_read} rows{origin}, made {count}, dropped {_counts(self.dropped)}"


def prepare_preferences(
    dataset: Rows,
    source: str | None = None,
    invalid_rows: InvalidRows = "error",
    name: str = "train_dataset",
    require_labels: bool = True,
    read_labels: bool = True,
    prompt_column: str | None = None,
    invalid_responses: InvalidRows = "error",
) -> PreparedPreferences:
    """Converts a dataset of any accepted shape to the columns `query`, `responses` and `labels`.

    `reference` and `principles` are added if a row has one; unknown columns are kept. Queries are texts; if one is a
    list of messages, all become messages, which a judge reads as it reads texts. `labels` is left out if no row has
    any. A top-level NaN counts as `None`.

    Args:
        dataset ([`~datasets.Dataset`] or sequence of mappings):
            Rows in a shape of [`Preference.from_row`] or in the schema of a source of [`SOURCES`].
        source (`str`, *optional*):
            Name of the source adapter. By default the shapes of [`Preference.from_row`] are tried first, then the only
            source with these columns.
        invalid_rows (`str`, *optional*, defaults to `"error"`):
            `"error"` raises for the first row that cannot be used, `"drop"` skips these rows and counts them by cause.
            Rows that a source's own rule leaves out, for instance ties, are skipped and counted in both cases.
        name (`str`, *optional*, defaults to `"train_dataset"`): Name of the dataset in messages.
        require_labels (`bool`, *optional*, defaults to `True`): Whether a row without labels is invalid.
        read_labels (`bool`, *optional*, defaults to `True`):
            `False` ignores labels, valid or not: no row is dropped for its labels, and sources give all responses.
        prompt_column (`str`, *optional*): Column with the query, if it has another name than `query`, `prompt` or
            `messages`.
        invalid_responses (`str`, *optional*, defaults to `"error"`):
            `"drop"` removes empty or missing responses from rows that have others, without labels alone.

    Returns:
        [`PreparedPreferences`]

    Raises:
        [`InvalidPreference`]: for a row that cannot be used, with its number.
        `ValueError`: if columns are missing or reserved, or if no row is left.
        `TypeError`: for a dataset without random access, for instance an `IterableDataset`.
    """
    if invalid_rows not in ("error", "drop") or invalid_responses not in ("error", "drop"):
        wrong = {"invalid_rows": invalid_rows, "invalid_responses": invalid_responses}
        name, value = next((name, value) for name, value in wrong.items() if value not in ("error", "drop"))
        raise ValueError(f"Found {name}={value!r}; expected 'error' or 'drop'.")
    if invalid_responses == "drop" and read_labels:
        raise ValueError("Found invalid_responses='drop' with labels; expected read_labels=False.")
    rows, columns = _checked_rows(dataset, name)
    if prompt_column is not None and prompt_column not in columns:
        raise ValueError(f"{name}: found the columns {sorted(columns)}; expected prompt_column={prompt_column!r}.")
    source = _source_name(columns, source, prompt_column, read_labels, name)
    adapter = get_source(source, columns) if source else None
    reader = RowReader(
        adapter, require_labels and read_labels, read_labels, prompt_column, invalid_responses == "drop"
    )
    survey = _survey(rows, reader, invalid_rows, name)
    if not survey.row_numbers:
        raise ValueError(
            f"{name}: none of the {survey.num_read} rows is left; dropped {_counts(survey.dropped)}. Expected at "
            f"least one row that can be used. {survey.first_fault}".rstrip()
        )
    kept = [column for column in columns if column not in survey.consumed | survey.empty]
    _check_kept(kept, name)
    prepared = PreparedPreferences(
        _write(rows, survey, kept, name),
        survey.num_read,
        dict(survey.dropped),
        name,
        source,
        tuple(survey.row_numbers),
        survey.response_numbers,
    )
    logger.log(logging.WARNING if survey.dropped else logging.INFO, "%s", prepared)
    return prepared


def judge_rows(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    template: str = "paper",
    seed: int = 0,
    shuffle_responses: bool = True,
    max_completion_length: int = 1024,
    context_length: int | None = None,
    hint: bool = False,
    invalid_rows: InvalidRows = "error",
    name: str = "train_dataset",
    row_numbers: Sequence[int] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Dataset:
    """Adds a judge's prompts to the rows of [`prepare_preferences`].

    | column | |
    |---|---|
    | `prompt` | the judge's messages; a single response is scored 0 or 1 (paper, section 2.2) |
    | `order` | `order[place]` is the index in `responses` of the response that the judge reads in that place |
    | `query`, `responses`, `labels`, … | unchanged, in the order of the row |

    Args:
        dataset ([`~datasets.Dataset`]): Rows with `query` and `responses`.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.ProcessorMixin`]):
            The judge's, with a chat template and a pad token.
        template (`str`, *optional*, defaults to `"paper"`): See [`~trl_spct.judge.prompts.judge_template`].
        seed (`int`, *optional*, defaults to `0`):
            Seed of the orders. A row's order depends on the seed and on its place in the dataset alone, so that all
            processes draw the same ones.
        shuffle_responses (`bool`, *optional*, defaults to `True`): Whether the judge reads the responses shuffled.
        max_completion_length (`int`, *optional*, defaults to `1024`): Longest critique, in tokens.
        context_length (`int`, *optional*): Positions of the judge. Prompts are not measured without it.
        hint (`bool`, *optional*, defaults to `False`): Whether prompts name the best response (paper, section 2.3).
        invalid_rows (`str`, *optional*, defaults to `"error"`): `"drop"` skips rows whose prompt is too long.
        name (`str`, *optional*, defaults to `"train_dataset"`): What messages call the dataset.
        row_numbers (sequence of `int`, *optional*): Numbers of the rows in messages, if not 0, 1, …

    Returns:
        [`~datasets.Dataset`]

    Raises:
        `ValueError`: if a prompt leaves no room for a critique (with the row and the numbers), if the tokenizer has no
            chat template or pad token, or if the columns `prompt` or `order` exist.
    """
    _check_judgeable(dataset.column_names, name)
    tokenizer = _tokenizer_of(processing_class)
    special = special_tokens(tokenizer)
    lengths: list[int] = []

    def render(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        added: dict[str, list] = {"prompt": [], "order": []}
        for place, index in enumerate(indices):
            preference = preference_of({column: values[place] for column, values in batch.items()})
            order = response_order(len(preference), seed, index) if shuffle_responses else range(len(preference))
            shown = preference.permuted(order)
            added["order"].append(list(order))
            added["prompt"].append(judge_messages(shown, template, len(shown) == 1, hint, special))
        if context_length is not None:
            lengths.extend(map(len, encode_prompts(tokenizer, added["prompt"], chat_template_kwargs)))
        return added

    features = Features({**dataset.features, "prompt": _MESSAGES, "order": List(Value("int64"))})
    rows = dataset.with_format(None).map(
        render, with_indices=True, batched=True, batch_size=256, features=features, load_from_cache_file=False
    )
    if invalid_rows == "drop" and context_length is not None:
        return _without_long(rows, lengths, context_length - max_completion_length, name)
    check_lengths(_by_row_number(lengths, row_numbers), max_completion_length, context_length, f"{name} row")
    return rows


def prepare_judge_rows(
    dataset: Rows,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    source: str | None = None,
    invalid_rows: InvalidRows = "error",
    name: str = "train_dataset",
    **kwargs,
) -> PreparedPreferences:
    """[`prepare_preferences`] with labels, then [`judge_rows`], with the rows that are too long counted as `"length"`.

    Args:
        dataset, source, invalid_rows, name: See [`prepare_preferences`].
        processing_class, kwargs: See [`judge_rows`].
    """
    _tokenizer_of(processing_class)
    prepared = prepare_preferences(dataset, source, invalid_rows, name)
    rows = judge_rows(
        prepared.dataset,
        processing_class,
        invalid_rows=invalid_rows,
        name=name,
        row_numbers=prepared.row_numbers,
        **kwargs,
    )
    too_long = len(prepared.dataset) - len(rows)
    dropped = {**prepared.dropped, **({"length": too_long} if too_long else {})}
    return replace(prepared, dataset=rows, dropped=dropped)


def preference_of(row: Mapping[str, Any]) -> Preference:
    """The preference in a row of [`prepare_preferences`] or [`judge_rows`]."""
    return Preference(row["query"], tuple(row["responses"]), *map(row.get, _OPTIONAL))


def meta_rows(trajectories: Dataset, source: str | None = None) -> Dataset:
    """A Meta RM's training rows: the unhinted, readable trajectories, correct and incorrect (paper, section 6).

    Unreadable critiques never vote, and need no score.

    Args:
        trajectories ([`~datasets.Dataset`]): What [`~trl_spct.RejectiveSampler.collect`] returns.
        source (`str`, *optional*): Origin of the trajectories, for a column `source`.

    Returns:
        [`~datasets.Dataset`] with `query`, `responses`, `order` (`order[p]` is the response that the judge read as
        number p + 1), `critique` and `label` (1 if the critique is correct, else 0); and `scores` and `labels`, with
        which a held-out set can vote. Responses, scores and labels are in the order of the row.
    """
    trajectories = trajectories.with_format(None)
    used = [
        i
        for i, (hinted, scores) in enumerate(zip(trajectories["hinted"], trajectories["scores"], strict=True))
        if not hinted and scores is not None
    ]

    def to_meta(row: dict[str, Any]) -> dict[str, Any]:
        label = meta_label(row["scores"], row["labels"])
        origin = {} if source is None else {"source": source}
        return {"critique": row["completion"][-1]["content"], "label": label, **origin}

    names = ["query", "responses", "scores", "labels", "order"]
    features = Features({name: trajectories.features[name] for name in names})
    features |= {"critique": Value("string"), "label": Value("int64")}
    features |= {} if source is None else {"source": Value("string")}
    removed = [name for name in trajectories.column_names if name not in names]
    return trajectories.select(used).map(
        to_meta, remove_columns=removed, features=Features(features), load_from_cache_file=False
    )


def split_by_query(rows: Dataset, held_out_share: float, seed: int = 0) -> tuple[Dataset, Dataset | None]:
    """(train, held out): all rows of a query are on the same side, drawn from the query and the seed alone.

    A text and a single message with it are the same query.
    """
    if held_out_share <= 0:
        return rows, None
    threshold = held_out_share * 2**64
    held_out = [
        derive_seed(seed, "split", conversation_text(query)) < threshold for query in rows.with_format(None)["query"]
    ]
    if all(held_out) or not any(held_out):
        raise ValueError(
            f"A held-out share of {held_out_share} leaves one side of {len(rows)} rows empty; expected more queries "
            "or another share."
        )
    sides = [[i for i, out in enumerate(held_out) if out is side] for side in (False, True)]
    return rows.select(sides[0]), rows.select(sides[1])


def response_order(num_responses: int, seed: int, *parts) -> tuple[int, ...]:
    """A random permutation that depends on its arguments alone: `order[place]` is an index of a response."""
    order = list(range(num_responses))
    random.Random(derive_seed(seed, "order", *parts)).shuffle(order)
    return tuple(order)


def score_range_of(num_responses: int, template: str = "paper") -> tuple[int, int]:
    """The lowest and highest score that the prompts of [`judge_rows`] allow for that many responses."""
    return judge_template(template, binary=num_responses == 1).score_range


@dataclass
class _Survey:
    """Result of the first pass over the rows, which checks them; the second one writes, with flat memory."""

    reader: RowReader
    num_read: int = 0
    dropped: Counter = field(default_factory=Counter)
    first_fault: str = ""
    row_numbers: list[int] = field(default_factory=list)
    response_numbers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)
    empty: set[str] = field(default_factory=lambda: {"query", *_OWN_FEATURES})
    own: set[str] = field(default_factory=lambda: {"responses"})
    messages: bool = False


def _survey(rows: Rows, reader: RowReader, invalid_rows: InvalidRows, name: str) -> _Survey:
    survey = _Survey(reader)
    for number, row in enumerate(rows):
        survey.num_read += 1
        try:
            read = reader.read(row)
        except InvalidPreference as error:
            fault = f"{name} row {number}: {error}"
            if invalid_rows == "error" and not isinstance(error, LeftOut):
                advice = "" if "invalid_rows" in fault else " Repair it, or skip such rows with `invalid_rows='drop'`."
                raise InvalidPreference(fault + advice, error.cause) from error
            survey.dropped[error.cause] += 1
            survey.first_fault = survey.first_fault or fault
            continue
        for _, numbers in read:
            if numbers is not None:
                survey.response_numbers[len(survey.row_numbers)] = numbers
            survey.row_numbers.append(number)
        preferences = [preference for preference, _ in read]
        survey.consumed |= reader.consumed(row)
        survey.empty -= {column for column in survey.empty if plain_value(row.get(column)) is not None}
        survey.messages |= any(not isinstance(preference.query, str) for preference in preferences)
        for column in _OPTIONAL:
            if any(getattr(preference, column) is not None for preference in preferences):
                survey.own.add(column)
    return survey


def _write(rows: Rows, survey: _Survey, kept: list[str], name: str) -> Dataset:
    own = {"query": _MESSAGES if survey.messages else _TEXT}
    own |= {column: feature for column, feature in _OWN_FEATURES.items() if column in survey.own}
    to_row = _row_writer(survey.messages, list(own))
    used = set(survey.row_numbers)

    def expand(batch: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterable[dict[str, Any]]:
        for number, row in batch:
            if number in used:
                unknown = {column: row.get(column) for column in kept}
                yield from ({**to_row(preference), **unknown} for preference in survey.reader(row))

    columns = [*own, *kept]
    if not isinstance(rows, Dataset):
        written = list(expand(enumerate(rows)))
        features = {**own, **{column: _common_feature(written, column, name) for column in kept}}
        return Dataset.from_dict({c: [row[c] for row in written] for c in columns}, features=Features(features))

    def write(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
        batch_rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        written = list(expand(zip(numbers, batch_rows, strict=True)))
        return {column: [row[column] for row in written] for column in columns}

    features = Features({**own, **{column: rows.features[column] for column in kept}})
    return rows.map(
        write,
        with_indices=True,
        batched=True,
        batch_size=256,
        remove_columns=rows.column_names,
        features=features,
        load_from_cache_file=False,
    )


def _row_writer(messages: bool, columns: list[str]) -> Callable[[Preference], dict[str, Any]]:
    def to_row(preference: Preference) -> dict[str, Any]:
        query: Any = preference.query
        if messages:
            query = [{"role": "user", "content": query}] if isinstance(query, str) else list(query)
        return {"query": query, **{column: getattr(preference, column) for column in columns if column != "query"}}

    return to_row


def _common_feature(rows: list[dict[str, Any]], column: str, name: str) -> Any:
    """The Arrow type of a kept column of plain rows."""
    values = [row[column] for row in rows]
    try:
        return Dataset.from_dict({column: values}).features[column]
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        types = sorted({type(value).__name__ for value in values if value is not None})
        raise ValueError(
            f"{name}: the column `{column}` cannot be stored: found values of the types {', '.join(types)}; expected "
            "one type in all rows. Convert it, or remove it."
        ) from error


def _checked_rows(dataset: Any, name: str) -> tuple[Rows, list[str]]:
    if isinstance(dataset, Dataset):
        return dataset.with_format(None), dataset.column_names
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        raise TypeError(
            f"{name} is a dict of the splits {sorted(dataset)}; expected one of them, as `dataset['train']`."
        )
    if (
        isinstance(dataset, IterableDataset)
        or isinstance(dataset, (str, Mapping))
        or not isinstance(dataset, Sequence)
    ):
        raise TypeError(
            f"{name} is {type(dataset).__name__}; expected a `datasets.Dataset` or a list of rows, since all rows are "
            "checked before training. Materialize a stream, for instance "
            "`Dataset.from_list(list(stream.take(10_000)))`; a data frame is `Dataset.from_pandas(frame)`."
        )
    return dataset, list(dict.fromkeys(column for row in dataset if isinstance(row, Mapping) for column in row))


def _source_name(
    columns: Sequence[str], source: str | None, prompt_column: str | None, read_labels: bool, name: str
) -> str | None:
    if source is not None or not columns or prompt_column or _is_own_shape(set(columns), read_labels):
        return source
    detected = detect_source(columns)
    if detected is None:
        raise InvalidPreference(
            f"{name}: found the columns {sorted(columns)}; expected one of: {'; '.join(ACCEPTED_SHAPES)}; or the "
            f"schema of one of the sources {', '.join(sorted(SOURCES))}. Rename the columns, or name a `source` or "
            "the `prompt_column`.",
            "shape",
        )
    return detected


def _is_own_shape(columns: set[str], read_labels: bool) -> bool:
    queried = bool(columns & QUERIES)
    answered = "responses" in columns or {"completion", *(["label"] if read_labels else [])} <= columns
    return (queried and answered) or {"chosen", "rejected"} <= columns


def _check_kept(kept: Sequence[str], name: str) -> None:
    reserved = sorted(RESERVED_COLUMNS.intersection(kept))
    if reserved:
        raise ValueError(
            f"{name}: found the columns {reserved}, which TRL's trainers pass to reward functions themselves or read "
            "images from. Rename or remove them (`dataset.rename_column`, `dataset.remove_columns`)."
        )
    clashing = sorted({"query", *_OWN_FEATURES}.intersection(kept))
    if clashing:
        raise ValueError(
            f"{name}: found the columns {clashing} beside those that the preference is read from, and they would be "
            "overwritten. Rename or remove them."
        )


def _check_judgeable(columns: Sequence[str], name: str) -> None:
    if not {"query", "responses"} <= set(columns):
        raise ValueError(
            f"{name}: found the columns {sorted(columns)}; expected `query` and `responses`, as from "
            "`prepare_preferences`."
        )
    present = sorted({"prompt", "order"}.intersection(columns))
    if present:
        raise ValueError(
            f"{name}: found the columns {present}, which hold what the judge reads. Rename or remove them; rows that "
            "were prepared already must not be prepared again."
        )


def _tokenizer_of(processing_class: PreTrainedTokenizerBase | ProcessorMixin) -> PreTrainedTokenizerBase:
    tokenizer = processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
    check_tokenizer(tokenizer)
    return tokenizer


def _without_long(rows: Dataset, lengths: Sequence[int], longest: int, name: str) -> Dataset:
    kept = [index for index, length in enumerate(lengths) if length <= longest]
    if not kept:
        raise ValueError(
            f"{name}: all {len(lengths)} prompts are too long: the shortest has {min(lengths, default=0)} tokens, and "
            f"{longest} are left beside the critique. Lower the completion length, or take a shorter `template`."
        )
    if len(kept) == len(lengths):
        return rows
    logger.warning(
        "%s: dropped %d of %d rows whose prompts exceed %d tokens",
        name,
        len(lengths) - len(kept),
        len(lengths),
        longest,
    )
    return rows.select(kept)


def _by_row_number(lengths: Sequence[int], row_numbers: Sequence[int] | None) -> Sequence[int]:
    """Length of the longest prompt of each row that was read."""
    if row_numbers is None or not lengths:
        return lengths
    longest = [0] * (max(row_numbers) + 1)
    for number, length in zip(row_numbers, lengths, strict=True):
        longest[number] = max(longest[number], length)
    return longest


def _counts(dropped: Mapping[str, int]) -> str:
    total = sum(dropped.values())
    return f"{total} ({', '.join(f'{cause} {n}' for cause, n in sorted(dropped.items()))})" if total else "0"
