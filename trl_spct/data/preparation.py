# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Preparation of datasets: from any accepted shape to preference rows, and from these to a judge's prompts."""

import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, IterableDatasetDict, List, Value
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from ..judge.implicit_prompts import possible_prompts
from ..judge.preferences import ACCEPTED_SHAPES, InvalidPreference, Preference
from ..judge.prompts import conversation_text, judge_messages
from ..judge.sampling import PromptTooLongError, check_tokenizer, derive_seed, encode_prompts, special_tokens
from .reading import QUERIES, RowReader, plain_value
from .sources import SOURCES, LeftOut, detect_source, get_source, require_columns

logger = logging.getLogger(__name__)

Rows: TypeAlias = Dataset | Sequence[Mapping[str, Any]]
InvalidRows = Literal["error", "drop"]

# Names that GRPOTrainer passes to reward functions itself, or reads images from (trl 1.16).
RESERVED_COLUMNS = frozenset(
    "prompts completions completion_ids trainer_state log_extra log_metric environments image images".split()
)
_TEXT, _MESSAGES = Value("string"), List({"role": Value("string"), "content": Value("string")})
_OWN_FEATURES = {"responses": List(_TEXT), "labels": List(Value("float64")), "reference": _TEXT, "principles": _TEXT}
_OPTIONAL = ("labels", "reference", "principles")
_IN_BATCHES: Any = {"with_indices": True, "batched": True, "batch_size": 256, "load_from_cache_file": False}


@dataclass(frozen=True)
class PreparedPreferences:
    """Preference rows, with counts of the rows that they were read from.

    Each of the `num_read` rows was `dropped`, counted by cause, or gave at least one preference row. `name` is that of
    the dataset in messages, `source` the adapter that read the rows, `row_numbers` the number of the row read for each
    preference row, and `response_numbers`, for those without some of its responses, the numbers of the others."""

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
    list of messages, all become messages. `labels` is left out if no row has any. A top-level NaN counts as `None`.
    Errors name the row; a dataset needs random access.

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
        prompt_column (`str`, *optional*): Column with the query, if not `query`, `prompt` or `messages`.
        invalid_responses (`str`, *optional*, defaults to `"error"`):
            `"drop"` removes empty or missing responses from rows that have others; needs `read_labels=False`.
    """
    for option, value in (("invalid_rows", invalid_rows), ("invalid_responses", invalid_responses)):
        if value not in ("error", "drop"):
            raise ValueError(f"Found {option}={value!r}; expected 'error' or 'drop'.")
    drop_responses = invalid_responses == "drop"
    if drop_responses and read_labels:
        raise ValueError("Found invalid_responses='drop' with labels; expected read_labels=False.")
    rows, columns = _checked_rows(dataset, name)
    source, prompt_column = _origin_of(columns, source, prompt_column, read_labels, name)
    adapter = get_source(source, columns) if source else None
    prompts: set[str] = set()  # columns that may hold the prompts of texts in `chosen` and `rejected`, by all rows
    if not (adapter or prompt_column or QUERIES & {*columns} or {*columns} <= {"chosen", "rejected"}):
        prompts.update(column for row in rows if isinstance(row, Mapping) for column in possible_prompts(row))
    labeled = require_labels and read_labels
    reader = RowReader(adapter, labeled, read_labels, prompt_column, drop_responses, tuple(sorted(prompts)))
    survey = _survey(rows, reader, invalid_rows, name)
    kept = [column for column in columns if column not in survey.consumed | survey.empty]
    reason = ", which TRL's trainers pass to reward functions themselves or read images from"
    _refuse_columns(kept, RESERVED_COLUMNS, name, reason)
    reason = " beside those that the preference is read from, and they would be overwritten"
    _refuse_columns(kept, ("query", *_OWN_FEATURES), name, reason)
    written = _write(rows, reader, survey, kept, name)
    numbers, without = tuple(survey.row_numbers), survey.response_numbers
    prepared = PreparedPreferences(written, len(rows), dict(survey.dropped), name, source, numbers, without)
    logger.log(logging.WARNING if survey.dropped else logging.INFO, "%s", prepared)
    return prepared


def judge_rows(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    template: str = "paper",
    seed: int = 0,
    shuffle_responses: bool = True,
    name: str = "train_dataset",
) -> Dataset:
    """Adds a judge's prompts to the rows of [`prepare_preferences`].

    `prompt` has the judge's messages; a single response is scored 0 or 1 (paper, section 2.2). `order[place]` is the
    index in `responses` of the response that the judge reads in that place, drawn from the seed and the row's place in
    the dataset alone. `processing_class` is the judge's, with a chat template and a pad token; for `template` see
    [`~trl_spct.judge.prompts.judge_template`]."""
    require_columns(dataset.column_names, ("query", "responses"), name, "Prepare the rows with `prepare_preferences`.")
    reason = ", which hold what the judge reads; rows that were prepared already must not be prepared again"
    _refuse_columns(dataset.column_names, ("prompt", "order"), name, reason)
    special = special_tokens(_tokenizer_of(processing_class))

    def render(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        added: dict[str, list] = {"prompt": [], "order": []}
        for place, index in enumerate(indices):
            preference = preference_of({column: values[place] for column, values in batch.items()})
            order = response_order(len(preference), seed, index) if shuffle_responses else range(len(preference))
            shown = preference.permuted(order)
            added["order"].append(list(order))
            added["prompt"].append(judge_messages(shown, template, len(shown) == 1, special_tokens=special))
        return added

    features = Features({**dataset.features, "prompt": _MESSAGES, "order": List(Value("int64"))})
    return dataset.with_format(None).map(render, features=features, **_IN_BATCHES)


def prepare_judge_rows(
    dataset: Rows,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    source: str | None = None,
    invalid_rows: InvalidRows = "error",
    name: str = "train_dataset",
    max_completion_length: int = 1024,
    context_length: int | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    **kwargs,
) -> PreparedPreferences:
    """[`prepare_preferences`], then [`judge_rows`] with `kwargs`.

    With a `context_length`, rows whose prompts leave less than `max_completion_length` tokens are invalid, too, and
    counted as `"length"`."""
    tokenizer = _tokenizer_of(processing_class)
    prepared = prepare_preferences(dataset, source, invalid_rows, name)
    rows = judge_rows(prepared.dataset, processing_class, name=name, **kwargs)
    if context_length is None:
        return replace(prepared, dataset=rows)
    lengths: list[int] = []
    for batch in rows.select_columns("prompt").iter(batch_size=256):
        lengths.extend(map(len, encode_prompts(tokenizer, batch["prompt"], chat_template_kwargs)))
    longest = context_length - max_completion_length
    kept = [index for index, length in enumerate(lengths) if length <= longest]
    if len(kept) == len(rows):
        return replace(prepared, dataset=rows)
    if invalid_rows == "error":
        first = next(index for index, length in enumerate(lengths) if length > longest)
        number, query = prepared.row_numbers[first], conversation_text(rows[first]["query"])
        advice = f"Its query begins {query!r:.60}. {PromptTooLongError.advice} `invalid_rows='drop'` skips such rows."
        measured = (lengths[first], max_completion_length, context_length, number, advice)
        raise PromptTooLongError(_row_name(dataset, number, name), *measured)
    if not kept:
        raise ValueError(
            f"{name}: all {len(lengths)} prompts are too long: the shortest has {min(lengths)} tokens, and {longest} "
            "are left beside the critique. Lower the completion length, or take a shorter `template`."
        )
    dropped = {**prepared.dropped, "length": len(rows) - len(kept)}
    logger.warning("%s: dropped %d rows with prompts of more than %d tokens", name, dropped["length"], longest)
    numbers = tuple(prepared.row_numbers[index] for index in kept)
    return replace(prepared, dataset=rows.select(kept), dropped=dropped, row_numbers=numbers)


def preference_of(row: Mapping[str, Any]) -> Preference:
    """The preference in a row of [`prepare_preferences`] or [`judge_rows`]."""
    return Preference(row["query"], tuple(row["responses"]), *map(row.get, _OPTIONAL))


def split_by_query(rows: Dataset, held_out_share: float, seed: int = 0) -> tuple[Dataset, Dataset | None]:
    """(train, held out): all rows of a query, a text or a message, are on a side drawn from query and seed alone."""
    if held_out_share <= 0:
        return rows, None
    threshold = held_out_share * 2**64
    sides: dict[bool, list[int]] = {False: [], True: []}
    for number, query in enumerate(rows.with_format(None)["query"]):
        sides[derive_seed(seed, "split", conversation_text(query)) < threshold].append(number)
    if not all(sides.values()):
        raise ValueError(
            f"A held-out share of {held_out_share} leaves one side of {len(rows)} rows empty; expected more queries "
            "or another share."
        )
    return rows.select(sides[False]), rows.select(sides[True])


def response_order(num_responses: int, seed: int, *parts) -> tuple[int, ...]:
    """A random permutation that depends on its arguments alone: `order[place]` is an index of a response."""
    order = list(range(num_responses))
    random.Random(derive_seed(seed, "order", *parts)).shuffle(order)
    return tuple(order)


@dataclass
class _Survey:
    """Result of the first pass over the rows, which checks them; the second one writes, with flat memory."""

    dropped: Counter = field(default_factory=Counter)
    row_numbers: list[int] = field(default_factory=list)
    response_numbers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)
    empty: set[str] = field(default_factory=lambda: {"query", *_OWN_FEATURES})
    own: set[str] = field(default_factory=lambda: {"responses"})
    messages: bool = False


def _survey(rows: Rows, reader: RowReader, invalid_rows: InvalidRows, name: str) -> _Survey:
    survey, first_fault = _Survey(), ""
    for number, row in _numbered(rows, name):
        try:
            read = reader(row)
        except InvalidPreference as error:
            fault = f"{_row_name(rows, number, name)}: {error}"
            if invalid_rows == "error" and not isinstance(error, LeftOut):
                advice = "" if "invalid_rows" in fault else " Repair it, or skip such rows with `invalid_rows='drop'`."
                raise InvalidPreference(fault + advice, error.cause) from error
            survey.dropped[error.cause] += 1
            first_fault = first_fault or fault
            continue
        for preference, responses in read:
            if responses is not None:
                survey.response_numbers[len(survey.row_numbers)] = responses
            survey.row_numbers.append(number)
            survey.messages |= not isinstance(preference.query, str)
            survey.own |= {column for column in _OPTIONAL if getattr(preference, column) is not None}
        survey.consumed |= reader.consumed(row)
        survey.empty -= {column for column in survey.empty if plain_value(row.get(column)) is not None}
    if not survey.row_numbers:
        raise ValueError(
            f"{name}: none of the {len(rows)} rows is left; dropped {_counts(survey.dropped)}. Expected at least one "
            f"row that can be used. {first_fault}".rstrip()
        )
    return survey


def _row_name(rows: Rows, number: int, name: str) -> str:
    """The number of a row, and the one that it had before `filter`, `select` or `shuffle`."""
    indices = getattr(rows, "_indices", None)
    before = number if indices is None else indices.column(0)[number].as_py()
    return f"{name} row {number}" + (f" (row {before} before rows were selected)" if before != number else "")


def _numbered(rows: Rows, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number = -1
    try:
        for number, row in enumerate(rows):
            yield number, row
    except UnicodeDecodeError as error:  # Arrow holds bytes, which are decoded in batches of 10 rows
        raise ValueError(
            f"{name}: found a text that is not UTF-8 ({error.reason}) in one of the 10 rows after row {number}; "
            "expected UTF-8. Decode the file again, or remove the row."
        ) from error


def _write(rows: Rows, reader: RowReader, survey: _Survey, kept: list[str], name: str) -> Dataset:
    own = {"query": _MESSAGES if survey.messages else _TEXT}
    own |= {column: feature for column, feature in _OWN_FEATURES.items() if column in survey.own}
    used = set(survey.row_numbers)

    def columns_of(numbered: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[str, list]:
        columns: dict[str, list] = {column: [] for column in (*own, *kept)}
        for number, row in numbered:
            for preference, _ in reader(row) if number in used else ():
                query: Any = preference.query
                if survey.messages:
                    query = [{"role": "user", "content": query}] if isinstance(query, str) else list(query)
                columns["query"].append(query)
                for column in [*own][1:]:
                    columns[column].append(getattr(preference, column))
                for column in kept:
                    columns[column].append(row.get(column))
        return columns

    if not isinstance(rows, Dataset):
        written = columns_of(enumerate(rows))
        features = {**own, **{column: _common_feature(written[column], column, name) for column in kept}}
        return Dataset.from_dict(written, features=Features(features))

    def write(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
        batch_rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
        return columns_of(zip(numbers, batch_rows, strict=True))

    types = Features({**own, **{column: rows.features[column] for column in kept}})
    return rows.map(write, remove_columns=rows.column_names, features=types, **_IN_BATCHES)


def _common_feature(values: list[Any], column: str, name: str) -> Any:
    """The Arrow type of a kept column of plain rows."""
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
        raise TypeError(f"{name} is a dict of the splits {sorted(dataset)}; expected one, as `dataset['train']`.")
    if isinstance(dataset, str) or not isinstance(dataset, Sequence):
        raise TypeError(
            f"{name} is {type(dataset).__name__}; expected a `datasets.Dataset` or a list of rows, since all rows are "
            "checked before training. Materialize a stream, for instance "
            "`Dataset.from_list(list(stream.take(10_000)))`; a data frame is `Dataset.from_pandas(frame)`."
        )
    return dataset, list(dict.fromkeys(column for row in dataset if isinstance(row, Mapping) for column in row))


def _origin_of(
    columns: Sequence[str], source: str | None, prompt_column: str | None, read_labels: bool, name: str
) -> tuple[str | None, str | None]:
    """The source adapter of these columns, `None` for a shape of [`Preference.from_row`], and the prompt column.

    Prepared rows need neither: a recipe prepares rows with these options, and a trainer with the same ones once more.
    """
    present = set(columns)
    if {"query", "responses"} <= present:
        if source in SOURCES and not SOURCES[source].signature <= present:
            source = None
        if prompt_column not in present:
            prompt_column = None
    if prompt_column is not None:
        require_columns(columns, [prompt_column], name, "Name the one with the prompt as `prompt_column`.")
    answered = "responses" in present or {"completion", *(["label"] if read_labels else [])} <= present
    is_shape = {"chosen", "rejected"} <= present or (answered and present & QUERIES)
    if source is not None or prompt_column is not None or is_shape or not present:
        return source, prompt_column
    detected = detect_source(columns)
    if detected is None:
        raise InvalidPreference(
            f"{name}: found the columns {sorted(columns)}; expected one of: {'; '.join(ACCEPTED_SHAPES)}; or the "
            f"schema of one of the sources {', '.join(sorted(SOURCES))}. Rename the columns, or name a `source` or "
            "the `prompt_column`.",
            "shape",
        )
    return detected, None


def _refuse_columns(columns: Sequence[str], refused: Iterable[str], name: str, reason: str) -> None:
    present = sorted({*refused}.intersection(columns))
    if present:
        raise ValueError(
            f"{name}: found the columns {present}{reason}. Rename or remove them (`dataset.rename_column`, "
            "`dataset.remove_columns`)."
        )


def _tokenizer_of(processing_class: PreTrainedTokenizerBase | ProcessorMixin) -> PreTrainedTokenizerBase:
    tokenizer = processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
    check_tokenizer(tokenizer)
    return tokenizer


def _counts(dropped: Mapping[str, int]) -> str:
    total = sum(dropped.values())
    return f"{total} ({', '.join(f'{cause} {n}' for cause, n in sorted(dropped.items()))})" if total else "0"
