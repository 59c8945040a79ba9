# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Every accepted shape becomes the same rows, and a bad row is named before anything is trained."""

import inspect
import subprocess
import sys

import datasets
import hypothesis
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import settings
from hypothesis import strategies as st
from tiny_models import EOS, TURN, tiny_tokenizer
from trl import GRPOTrainer

from trl_spct.data.preparation import (
    RESERVED_COLUMNS,
    judge_rows,
    preference_of,
    prepare_judge_rows,
    prepare_preferences,
    response_order,
)
from trl_spct.data.reading import RowReader, consumed_columns
from trl_spct.judge.preferences import InvalidPreference, Preference
from trl_spct.judge.prompts import judge_messages

datasets.disable_progress_bars()

USER = [{"role": "user", "content": "What is 2 + 2?"}]
RIGHT, WRONG = [{"role": "assistant", "content": "4"}], [{"role": "assistant", "content": "5"}]
PAIR = {"query": "What is 2 + 2?", "responses": ["4", "5"], "labels": [1, 0]}
MESSAGE_PAIR = {**PAIR, "query": USER}
TRIPLE = {"query": "What is 2 + 2?", "responses": ["3", "4", "5"], "labels": [0, 1, 0]}
SINGLE = {"query": "What is 2 + 2?", "responses": ["4"], "labels": [1]}
SHAPES = {
    "ours": (PAIR, PAIR),
    "ours n-way": (TRIPLE, TRIPLE),
    "ours single": (SINGLE, SINGLE),
    "ours messages": (MESSAGE_PAIR, MESSAGE_PAIR),
    "explicit texts": ({"prompt": PAIR["query"], "chosen": "4", "rejected": "5"}, PAIR),
    "explicit messages": ({"prompt": USER, "chosen": RIGHT, "rejected": WRONG}, MESSAGE_PAIR),
    "implicit messages": ({"chosen": USER + RIGHT, "rejected": USER + WRONG}, MESSAGE_PAIR),
    "repeated prompt": ({"prompt": PAIR["query"], "chosen": USER + RIGHT, "rejected": USER + WRONG}, MESSAGE_PAIR),
    "unpaired text": ({"prompt": PAIR["query"], "completion": "4", "label": True}, SINGLE),
    "unpaired messages": ({"prompt": USER, "completion": RIGHT, "label": True}, {**SINGLE, "query": USER}),
    "scores": (
        {"prompt": PAIR["query"], "responses": ["4", "5"], "scores": [7.5, 2.0]},
        {**PAIR, "labels": [7.5, 2]},
    ),
    "best_index": ({"prompt": PAIR["query"], "responses": ["3", "4", "5"], "best_index": 1}, TRIPLE),
    "labels": ({"prompt": PAIR["query"], "responses": ["4", "5"], "labels": [True, False]}, PAIR),
    "messages column": ({"messages": USER, "responses": ["4", "5"], "best_index": 0}, MESSAGE_PAIR),
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def numbered(count, **columns):
    """Rows with n from 2 to 5, whose best response is in any place."""
    rows = []
    for i in range(count):
        n = 2 + i % 4
        rows.append(
            {
                "query": f"Question {i}?",
                "responses": [f"Answer {i}.{j}" for j in range(n)],
                "labels": [int(j == i % n) for j in range(n)],
                **{name: values[i] for name, values in columns.items()},
            }
        )
    return rows


class TestPreparePreferences:
    @pytest.mark.parametrize("as_dataset", [True, False], ids=["dataset", "list"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_shape(self, shape, as_dataset):
        given, expected = SHAPES[shape]
        rows = [{**given, "domain": "math", "id": 7}] * 3
        prepared = prepare_preferences(Dataset.from_list(rows) if as_dataset else rows)
        assert list(prepared.dataset) == [{**expected, "domain": "math", "id": 7}] * 3
        assert prepared.num_read == 3 and prepared.dropped == {} and prepared.row_numbers == (0, 1, 2)
        assert prepared.source is None

    @pytest.mark.parametrize("shape", SHAPES)
    def test_consumed_columns_are_those_that_matter(self, shape):
        given, _ = SHAPES[shape]
        given = {**given, "reference": "four", "domain": "math", "best": None}
        consumed = consumed_columns(given)
        assert "domain" not in consumed and "best" not in consumed
        assert Preference.from_row({name: given[name] for name in consumed}) == Preference.from_row(given)
        for name in consumed - {"labels", "scores", "best_index", "reference"}:
            if shape == "repeated prompt" and name == "prompt":
                continue
            with pytest.raises(InvalidPreference):
                Preference.from_row({other: given[other] for other in consumed - {name}})

    @pytest.mark.parametrize("empty", ["reference", "principles", "labels"])
    def test_columns_without_a_value_are_no_obstacle(self, empty):
        rows = [{"query": "q", "responses": ["a", "b"], "labels": [1, 0], empty: None} for _ in range(2)]
        made = prepare_preferences(rows, require_labels=False).dataset
        assert made["responses"][:] == [["a", "b"]] * 2
        assert empty not in made.column_names

    def test_none_counts_as_absent(self):
        rows = [
            {"prompt": "q", "chosen": "a", "rejected": "b", "responses": None, "scores": None},
            {"prompt": "q", "chosen": None, "rejected": None, "responses": ["a", "b"], "scores": [1.0, 3.0]},
        ]
        made = prepare_preferences(Dataset.from_list(rows)).dataset
        assert made.column_names == ["query", "responses", "labels"]
        assert made["labels"] == [[1, 0], [1, 3]]

    def test_mixed_queries_become_messages(self, tokenizer):
        made = prepare_preferences([PAIR, MESSAGE_PAIR]).dataset
        assert made["query"] == [USER, USER]
        prompts = judge_rows(made, tokenizer, shuffle_responses=False)["prompt"]
        assert prompts[0] == prompts[1] == judge_messages(Preference(**PAIR))

    def test_reference_stays_only_where_it_is(self):
        made = prepare_preferences([{**PAIR, "reference": "four"}, PAIR]).dataset
        assert made["reference"] == ["four", None]
        assert "reference" not in prepare_preferences([PAIR]).dataset.column_names

    def test_kept_columns_keep_their_features(self):
        features = datasets.Features(
            {
                **Dataset.from_list([PAIR]).features,
                "domain": datasets.ClassLabel(names=["math", "code"]),
                "nested": {"a": datasets.Value("int8")},
            }
        )
        given = Dataset.from_list([{**PAIR, "domain": 1, "nested": {"a": 3}}], features=features)
        made = prepare_preferences(given).dataset
        assert made.features["domain"] == features["domain"] and made.features["nested"] == features["nested"]
        assert made[0]["nested"] == {"a": 3}

    def test_formatted_dataset_is_read_as_plain_python(self):
        made = prepare_preferences(Dataset.from_list([PAIR]).with_format("torch")).dataset
        assert made[0] == PAIR

    def test_lists_may_lack_columns(self):
        made = prepare_preferences([{**PAIR, "id": 3}, PAIR]).dataset
        assert made["id"] == [3, None]

    def test_file_backed_dataset(self, tmp_path):
        Dataset.from_list(numbered(20)).save_to_disk(tmp_path / "rows")
        given = datasets.load_from_disk(tmp_path / "rows")
        bad = given.add_column("x", list(range(20)))
        for dataset in (given, bad, given):
            prepared = prepare_preferences(dataset)
            assert prepared.num_read == len(prepared.dataset) == 20
        assert prepared.dataset["responses"] == given["responses"]

    def test_memory_dataset_leaves_no_files(self, tokenizer):
        prepared = prepare_judge_rows(Dataset.from_list(numbered(20)), tokenizer)
        assert prepared.dataset.cache_files == []

    @pytest.mark.parametrize(
        ("row", "cause", "words"),
        [
            ({"responses": ["a", "b"]}, "count", ["1 labels for 2 responses", "one label per response"]),
            ({"responses": ["a", ""], "labels": [1, 0]}, "empty", ["Response 2 is empty", "expected a text"]),
            ({"labels": [1, 1], "responses": ["a", "b"]}, "ties", ["[1, 1]", "single best response", "drop"]),
            ({"labels": [0.5]}, "labels", ["0.5", "1 (correct) or 0 (incorrect)"]),
            ({"labels": None}, "labels", ["no labels", "best_index"]),
            ({"query": "  "}, "query", ["empty query", "expected a text"]),
            ({"query": None}, "shape", ["expected one of", "Rename the columns"]),
            ({"responses": []}, "responses", ["non-empty list"]),
        ],
    )
    def test_bad_rows(self, row, cause, words):
        rows = [SINGLE, SINGLE, {**SINGLE, **row}, SINGLE]
        dataset = Dataset.from_list(rows)
        with pytest.raises(InvalidPreference, match="^eval_dataset row 2: ") as error:
            prepare_preferences(dataset, name="eval_dataset")
        assert error.value.cause == cause
        for word in [*words, "invalid_rows='drop'"]:
            assert word in str(error.value)
        prepared = prepare_preferences(dataset, invalid_rows="drop")
        assert prepared.dropped == {cause: 1} and prepared.num_read == 4
        assert prepared.row_numbers == (0, 1, 3) and len(prepared.dataset) == 3

    @pytest.mark.parametrize("response", [True, 3, None, {"text": "a"}, b"a"])
    def test_response_that_is_no_text(self, response):
        rows = [PAIR, {**PAIR, "responses": ["4", response]}]
        with pytest.raises(InvalidPreference, match="train_dataset row 1: Response 2 is .* expected a text"):
            prepare_preferences(rows)
        assert prepare_preferences(rows, invalid_rows="drop").dropped == {"responses": 1}

    def test_row_that_is_no_mapping(self):
        with pytest.raises(
            InvalidPreference, match="train_dataset row 1: Found a row of type str; expected a mapping"
        ):
            prepare_preferences([PAIR, "What is 2 + 2?"])

    def test_labels_are_not_needed_for_judging(self):
        rows = [{"query": "q", "responses": ["a", "b"]}]
        prepared = prepare_preferences(rows, require_labels=False)
        assert prepared.dataset.column_names == ["query", "responses"]
        mixed = prepare_preferences([*rows, PAIR], require_labels=False).dataset
        assert mixed["labels"] == [None, [1, 0]]

    def test_counts_are_logged_and_readable(self, caplog):
        rows = [PAIR, {**PAIR, "labels": [1, 1]}, {**PAIR, "labels": [0, 0]}, {**PAIR, "query": ""}]
        prepared = prepare_preferences(rows, invalid_rows="drop")
        summary = "train_dataset: read 4 rows, made 1, dropped 3 (query 1, ties 2)"
        assert str(prepared) == summary
        assert [record.getMessage() for record in caplog.records] == [summary]

    @pytest.mark.parametrize("rows", [[], [{**PAIR, "labels": [1, 1]}] * 3], ids=["empty", "all dropped"])
    def test_nothing_left(self, rows):
        with pytest.raises(ValueError, match="none of the [03] rows is left; dropped") as error:
            prepare_preferences(rows, invalid_rows="drop")
        if rows:
            assert "ties 3" in str(error.value) and "row 0" in str(error.value)
        with pytest.raises(ValueError, match="none of the 0 rows is left"):
            prepare_preferences(Dataset.from_list([PAIR]).select([]))

    def test_unknown_columns_are_named(self):
        with pytest.raises(
            ValueError, match=r"found the columns \['answer', 'text'\]; expected one of: query.*llmbar"
        ):
            prepare_preferences([{"text": "q", "answer": "a"}])

    @pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
    def test_reserved_columns(self, name):
        with pytest.raises(ValueError, match=f"found the columns \\['{name}'\\].*TRL.*Rename or remove"):
            prepare_preferences([{**PAIR, name: "x"}])

    def test_reserved_columns_are_those_of_trl(self):
        code = inspect.getsource(GRPOTrainer._calculate_rewards)
        for name in RESERVED_COLUMNS - {"image", "images"}:
            assert f'"{name}"' in code or f"{name}=" in code, name

    def test_clashing_columns(self):
        row = {"prompt": "q", "chosen": "a", "rejected": "b", "labels": [3, 4]}
        with pytest.raises(ValueError, match=r"\['labels'\] beside .* overwritten. Rename"):
            prepare_preferences([row])

    def test_columns_of_mixed_types(self):
        with pytest.raises(ValueError, match="the column `id` cannot be stored: found values of the types int, str"):
            prepare_preferences([{**PAIR, "id": 1}, {**PAIR, "id": "b"}])

    def test_what_is_no_dataset(self):
        dataset = Dataset.from_list([PAIR])
        with pytest.raises(TypeError, match="IterableDataset.*Materialize"):
            prepare_preferences(dataset.to_iterable_dataset())
        with pytest.raises(TypeError, match=r"the splits \['train'\]"):
            prepare_preferences(DatasetDict(train=dataset))
        with pytest.raises(TypeError, match="train_dataset is str"):
            prepare_preferences("trl-lib/ultrafeedback_binarized")
        with pytest.raises(ValueError, match="invalid_rows='skip'; expected 'error' or 'drop'"):
            prepare_preferences(dataset, invalid_rows="skip")


class TestReading:
    """What is read of a row, and what is refused, by the number of the row."""

    @pytest.mark.parametrize("as_dataset", [True, False], ids=["dataset", "list"])
    def test_the_prompt_may_have_another_name(self, as_dataset):
        rows = [
            {"article": "A cat sat.", "chosen": "Cat.", "rejected": "Dog.", "prompt": None, "year": 1},
            {"article": "A dog ran.", "chosen": "Dog.", "rejected": "Cat.", "prompt": None, "year": 2},
        ]
        dataset = Dataset.from_list(rows).remove_columns("prompt") if as_dataset else rows
        with pytest.raises(InvalidPreference, match=r"row 0: .* beside the columns \['article'\].*prompt_column"):
            prepare_preferences(dataset)
        made = prepare_preferences(dataset, prompt_column="article").dataset
        assert made["query"] == ["A cat sat.", "A dog ran."] and made["responses"][0] == ["Cat.", "Dog."]
        assert made["year"] == [1, 2] and "article" not in made.column_names
        with pytest.raises(ValueError, match=r"\['article', .*expected \['text'\] among them. .*`prompt_column`"):
            prepare_preferences(dataset, prompt_column="text")

    @pytest.mark.parametrize("as_dataset", [True, False], ids=["dataset", "list"])
    def test_one_word_in_the_column_of_prompts_is_a_prompt_as_well(self, as_dataset):
        rows = [{"question": text, "chosen": "It is.", "rejected": "It was."} for text in ("Why?", "Is it so?")]
        rows = Dataset.from_list(rows) if as_dataset else rows
        with pytest.raises(
            InvalidPreference, match=r"row 0: Found .* beside the columns \['question'\].*prompt_column"
        ):
            prepare_preferences(rows)
        with pytest.raises(ValueError, match="none of the 2 rows is left; dropped 2 .query 2."):
            prepare_preferences(rows, invalid_rows="drop")
        assert prepare_preferences(rows, prompt_column="question").dataset["query"] == ["Why?", "Is it so?"]

    def test_prepared_rows_need_no_prompt_column(self, tokenizer):
        rows = [{"article": "A cat sat.", "chosen": "Cat.", "rejected": "Dog."}]
        prepared = prepare_preferences(rows, prompt_column="article").dataset
        made = prepare_judge_rows(prepared, tokenizer, template="compact").dataset
        assert "A cat sat." in made[0]["prompt"][0]["content"]
        once = prepare_preferences(rows, prompt_column="article").dataset
        assert list(prepare_preferences(once, prompt_column="article").dataset) == list(once)

    def test_the_prompt_column_goes_before_the_known_ones(self):
        rows = [{"prompt": "Step 1:", "dialogue": "Hello?", "chosen": "Hi.", "rejected": "No."}]
        made = prepare_preferences(rows, prompt_column="dialogue").dataset
        assert made["query"] == ["Hello?"] and made["responses"] == [["Hi.", "No."]]
        with pytest.raises(ValueError, match=r"found the columns \['query'\] beside .* overwritten. Rename"):
            prepare_preferences([{"query": "Step 1:", **rows[0]}], prompt_column="dialogue")

    @pytest.mark.parametrize("as_dataset", [True, False], ids=["dataset", "list"])
    def test_a_prompt_that_is_missing_in_one_row_is_not_made_of_shared_words(self, as_dataset):
        turn = "\n\nHuman: Hi\n\nAssistant:"
        rows = [
            {"prompt": "Hello?", "chosen": "Hi you", "rejected": "Hi all"},
            {"prompt": None, "chosen": turn + " Yes", "rejected": turn + " No"},
            {"prompt": None, "chosen": "Hi you", "rejected": "Hi all"},
        ]
        rows = Dataset.from_list(rows) if as_dataset else rows
        with pytest.raises(
            InvalidPreference, match="train_dataset row 2: Found no prompt; expected one, maybe in `prompt`"
        ):
            prepare_preferences(rows)
        made = prepare_preferences(rows, invalid_rows="drop")
        assert made.dataset["query"] == ["Hello?", turn] and made.dropped == {"query": 1}

    def test_a_prompt_column_without_a_value_is_no_query(self):
        rows = [
            {"prompt": "x", "dialogue": value, "chosen": "Hi you", "rejected": "Hi all"} for value in ("Hello?", None)
        ]
        with pytest.raises(InvalidPreference, match="train_dataset row 1: "):
            prepare_preferences(rows, prompt_column="dialogue")

    def test_identical_responses(self):
        rows = [PAIR, {"query": "q", "responses": ["a", "a", "b"], "labels": [2, 1, 0]}, SINGLE]
        with pytest.raises(
            InvalidPreference, match="row 1: Responses 1 and 2 are identical and have the labels 2 and 1"
        ):
            prepare_preferences(rows)
        assert prepare_preferences(rows, invalid_rows="drop").dropped == {"identical": 1}
        same = [{"query": "q", "responses": ["b", "a", "a"], "labels": [2, 1, 1]}]
        assert prepare_preferences(same).dropped == {}

    @pytest.mark.parametrize("missing", [None, "", " \n", 3, [], [{"role": "assistant", "content": None}]])
    def test_a_missing_response_costs_itself_alone(self, missing):
        rows = [
            {"query": "q", "responses": ["a", "b", "c", "d"], "labels": ["?"]},
            {"query": "q", "responses": ["a", missing, "c", None]},
            {"query": "q", "responses": [missing, None]},
        ]
        options = {"read_labels": False, "invalid_responses": "drop"}
        with pytest.raises(InvalidPreference, match="train_dataset row 2: "):
            prepare_preferences(rows, **options)
        made = prepare_preferences(rows, invalid_rows="drop", **options)
        assert made.dataset["responses"] == [["a", "b", "c", "d"], ["a", "c"]]
        assert made.response_numbers == {1: (0, 2)} and made.row_numbers == (0, 1) and sum(made.dropped.values()) == 1
        with pytest.raises(ValueError, match="expected read_labels=False"):
            prepare_preferences(rows, invalid_responses="drop")

    @pytest.mark.parametrize(
        ("changed", "number"),
        [
            (lambda rows: rows.filter(lambda row: row["number"] >= 50), 20),
            (lambda rows: rows.select(range(99, -1, -1)), 29),
            (lambda rows: rows.shuffle(seed=0), None),
            (lambda rows: rows.train_test_split(0.9, seed=0)["test"], None),
            (lambda rows: datasets.concatenate_datasets([rows.select(range(60)), rows.select(range(60, 100))]), 70),
        ],
        ids=["filter", "select", "shuffle", "split", "concatenate"],
    )
    def test_a_late_bad_row_has_its_number_in_the_data(self, changed, number, tokenizer):
        rows = [
            {"query": f"q{i}", "responses": ["a", "b"], "labels": [1, int(i == 70)], "number": i} for i in range(100)
        ]
        dataset = changed(Dataset.from_list(rows))
        number = dataset["number"][:].index(70) if number is None else number
        before = r" \(row 70 before rows were selected\)" if number != 70 else ""
        with pytest.raises(
            InvalidPreference, match=rf"^train_dataset row {number}{before}: Found the labels \[1, 1\]"
        ):
            prepare_preferences(dataset)
        long = dataset.map(lambda row: {"query": "x" * (999 if row["number"] == 70 else 1), "labels": [1, 0]})
        with pytest.raises(ValueError, match=rf"^train_dataset row {number}: the prompt has"):
            prepare_judge_rows(long, tokenizer, template="compact", context_length=700, max_completion_length=9)

    def test_tool_calls_are_a_response(self):
        call = [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]
        rows = [{"query": "q", "responses": [[{"role": "assistant", "content": "a"}], call, None]}]
        made = prepare_preferences(rows, read_labels=False, invalid_responses="drop")
        assert made.response_numbers == {0: (0, 1)} and "f" in made.dataset[0]["responses"][1]

    @pytest.mark.parametrize("label", [None, float("nan")])
    def test_a_completion_without_its_label(self, label):
        rows = [{"prompt": "q", "completion": "a", "label": True}, {"prompt": "q", "completion": "a", "label": label}]
        with pytest.raises(
            InvalidPreference, match="row 1: Found the columns .*expected .*prompt . completion . label"
        ):
            prepare_preferences(rows)
        assert prepare_preferences(rows, invalid_rows="drop").dropped == {"shape": 1}
        assert len(prepare_preferences(rows, read_labels=False).dataset) == 2

    def test_prepared_rows_stay_as_they_are(self):
        call = '[{"type": "function", "function": {"name": "f"}}]'
        rows = [{"prompt": "q", "system": "Be brief.", "tools": call, "chosen": "a", "rejected": "b"}]
        made = prepare_preferences(rows).dataset
        assert list(prepare_preferences(made).dataset) == list(made)
        assert [turn["role"] for turn in made["query"][0]] == ["system", "tools", "user"]

    @pytest.mark.parametrize("format", ["numpy", "torch", "pandas", "arrow", "polars", None])
    def test_formats(self, format):
        if format == "polars":
            pytest.importorskip("polars")
        rows = [{**PAIR, "id": 1}, {**PAIR, "labels": [0, 1], "id": 2}]
        dataset = Dataset.from_list(rows).with_format(format)
        assert list(prepare_preferences(dataset).dataset) == rows
        if format in ("numpy", "torch"):
            assert list(prepare_preferences(list(dataset)).dataset.with_format(None).select_columns(list(PAIR))) == [
                {name: row[name] for name in PAIR} for row in rows
            ]

    def test_records_of_a_data_frame(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(
            [
                {"prompt": "q", "chosen": "a", "rejected": "b"},
                {"prompt": "q", "responses": ["a", "b"], "best_index": 1},
            ]
        )
        for rows in (frame.iloc[:1].to_dict("records"), Dataset.from_pandas(frame.iloc[:1])):
            assert prepare_preferences(rows).dataset["responses"] == [["a", "b"]]
        records = frame.to_dict("records")
        with pytest.raises(InvalidPreference, match="row 1: `best_index` is 1.0; expected an index from 0 to 1"):
            prepare_preferences(records)
        with pytest.raises(TypeError, match="DataFrame; expected .* `Dataset.from_pandas"):
            prepare_preferences(frame)

    @pytest.mark.parametrize(
        ("labels", "cause"),
        [(["1", "0"], "labels"), ([1, None], "labels"), ([1, float("nan")], "labels"), ([1.5, 1.5], "ties")],
    )
    def test_labels_that_are_no_ranking(self, labels, cause):
        rows = [PAIR] * 70 + [{**PAIR, "labels": labels}]
        with pytest.raises(InvalidPreference, match="train_dataset row 70: ") as error:
            prepare_preferences(rows)
        assert error.value.cause == cause
        assert prepare_preferences(rows, invalid_rows="drop").dropped == {cause: 1}
        assert len(prepare_preferences(rows, read_labels=False).dataset) == 71


TEXTS = st.one_of(st.none(), st.text(max_size=5), st.sampled_from(["a", "q a", "q b", 3, float("nan")]))
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXTS}), max_size=3)
CELLS = TEXTS | TURNS
NUMBERS = st.one_of(st.none(), st.integers(-2, 2), st.booleans(), st.sampled_from([0.5, float("nan"), "1"]))
ROWS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("query", "prompt", "messages", "chosen", "rejected", "completion", "reference"), CELLS),
        "responses": st.lists(CELLS, max_size=3),
        "labels": st.lists(NUMBERS, max_size=3),
        "scores": st.lists(NUMBERS, max_size=3),
        "label": NUMBERS,
        "best_index": NUMBERS,
    },
)


def texts_in(value):
    """All texts of a cell, and of its messages joined."""
    if isinstance(value, (list, tuple)):
        parts = [message["content"] for message in value if isinstance(message, dict)]
        parts = [part for part in parts if isinstance(part, str)]
        joined = {"\n".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
        return joined.union(*map(texts_in, value)) if joined or value else set()
    if isinstance(value, dict):
        return texts_in(value.get("content"))
    return {value} if isinstance(value, str) else set()


@settings(deadline=None, max_examples=400)
@hypothesis.given(ROWS, st.booleans())
def test_any_row_is_read_as_it_is_or_refused(row, read_labels):
    """Every text of a preference is a text of the row, or a lossless part of one."""
    reader = RowReader(require_labels=False, read_labels=read_labels)
    try:
        [(preference, _)] = reader(row)
    except InvalidPreference as error:
        assert error.cause and str(error)
        return
    texts = set().union(*map(texts_in, row.values()))
    assert set(
        texts_in([*preference.query]) if not isinstance(preference.query, str) else {preference.query}
    ) & texts or (preference.query + preference.responses[0] in texts)
    for response in preference.responses:
        if "User:" in response or "Assistant:" in response:
            continue  # turns of several roles are written out; `test_conversations` checks them
        whole = response if not isinstance(preference.query, str) else preference.query + response
        assert response in texts or whole in texts
    assert read_labels or preference.labels is None
    assert preference.labels is None or len(preference.labels) == len(preference.responses)


class TestJudgeRows:
    def test_columns(self, tokenizer):
        rows = numbered(40, domain=[f"d{i}" for i in range(40)])
        prepared = prepare_preferences(Dataset.from_list(rows)).dataset
        made = judge_rows(prepared, tokenizer, template="compact")
        for row, given in zip(made, rows, strict=True):
            order = row["order"]
            assert {name: row[name] for name in ("query", "responses", "domain")} == {
                name: given[name] for name in ("query", "responses", "domain")
            }
            assert sorted(order) == list(range(len(given["responses"])))
            assert row["labels"] == given["labels"]
            preference = Preference(given["query"], given["responses"], given["labels"])
            assert preference_of(row) == preference
            assert row["prompt"] == judge_messages(preference.permuted(order), "compact")
            content = row["prompt"][0]["content"]
            places = [content.index(given["responses"][i]) for i in order]
            assert places == sorted(places)

    def test_orders_depend_on_seed_and_place_alone(self, tokenizer):
        rows = prepare_preferences(numbered(30)).dataset
        orders = judge_rows(rows, tokenizer, "compact", seed=3)["order"]
        assert orders == judge_rows(rows, tokenizer, "compact", seed=3)["order"]
        assert orders != judge_rows(rows, tokenizer, "compact", seed=4)["order"]
        assert orders == [list(response_order(len(r), 3, i)) for i, r in enumerate(rows["responses"])]
        unshuffled = judge_rows(rows, tokenizer, "compact", shuffle_responses=False)
        assert unshuffled["order"] == [list(range(len(r))) for r in rows["responses"]]
        assert unshuffled["labels"] == rows["labels"]

    def test_orders_are_the_same_in_any_process(self):
        code = (
            "from trl_spct.data.preparation import response_order; print([response_order(4, 0, i) for i in range(8)])"
        )
        here = str([response_order(4, 0, i) for i in range(8)])
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == here

    def test_all_orders_are_equally_likely(self):
        counts = {}
        for i in range(6000):
            order = response_order(3, 0, i)
            counts[order] = counts.get(order, 0) + 1
        assert len(counts) == 6 and min(counts.values()) > 880 and max(counts.values()) < 1120

    def test_single_responses_are_asked_for_a_verdict(self, tokenizer):
        made = judge_rows(prepare_preferences([SINGLE, PAIR]).dataset, tokenizer)
        assert made[0]["prompt"] == judge_messages(Preference(**SINGLE), binary=True)
        assert made[0]["order"] == [0] and made[0]["labels"] == [1]
        assert "The score is 1 if it is correct and 0 if not" in made[0]["prompt"][0]["content"]

    def test_special_tokens_are_fenced(self, tokenizer):
        row = {**PAIR, "query": f"Hi{EOS}{TURN}model", "responses": [f"4{EOS}", "5"]}
        [prompt] = judge_rows(prepare_preferences([row]).dataset, tokenizer)["prompt"]
        assert EOS not in prompt[0]["content"] and TURN not in prompt[0]["content"]

    def test_reference_reaches_the_judge(self, tokenizer):
        made = judge_rows(prepare_preferences([{**PAIR, "reference": "It is four."}]).dataset, tokenizer)
        assert "It is four." in made[0]["prompt"][0]["content"]
        assert preference_of(made[0]).reference == "It is four."

    def test_rows_without_labels(self, tokenizer):
        prepared = prepare_preferences([{"query": "q", "responses": ["a", "b"]}], require_labels=False)
        [row] = judge_rows(prepared.dataset, tokenizer)
        assert "labels" not in row and preference_of(row).labels is None

    def test_long_prompts(self, tokenizer):
        rows = [PAIR, {**PAIR, "labels": [1, 1]}, {**PAIR, "query": "x" * 500}]
        settings = {"template": "compact", "max_completion_length": 50, "context_length": 600}
        with pytest.raises(
            ValueError, match="row 1: the prompt has 8.. tokens, and with up to 50 .* context of 600"
        ) as error:
            prepare_judge_rows([PAIR, rows[2]], tokenizer, **settings)
        assert "Its query begins 'User: xxx" in str(error.value) and error.value.row == 1
        assert "invalid_rows='drop'" in str(error.value)
        prepared = prepare_judge_rows(rows, tokenizer, invalid_rows="drop", **settings)
        assert prepared.dropped == {"ties": 1, "length": 1} and prepared.dataset["query"] == [PAIR["query"]]
        long_first = prepare_judge_rows([rows[2], rows[1], PAIR, PAIR], tokenizer, invalid_rows="drop", **settings)
        assert long_first.row_numbers == (2, 3) and long_first.num_read == 4
        with pytest.raises(ValueError, match="eval row 1: the prompt has"):
            prepare_judge_rows([PAIR, rows[2]], tokenizer, name="eval", **settings)
        with pytest.raises(ValueError, match="all 1 prompts are too long: the shortest has 8.. tokens, and 550"):
            prepare_judge_rows(rows[2:], tokenizer, invalid_rows="drop", **settings)

    def test_long_prompts_are_named_by_the_row_that_was_read(self, tokenizer):
        solutions = [{"model_output": f"{text} " * 40, "correctness": c} for text, c in [("a", 1)] + [("b", 0)] * 4]
        rows = [{"question": "q", "target": "1", "responses": solutions[:2]}] * 2
        rows.append({"question": "q", "target": "1", "responses": solutions})
        with pytest.raises(ValueError, match="train_dataset row 2: the prompt has"):
            prepare_judge_rows(rows, tokenizer, template="compact", context_length=600, max_completion_length=9)

    def test_prompts_are_not_measured_without_a_context(self, tokenizer):
        assert len(judge_rows(prepare_preferences([{**PAIR, "query": "x" * 9999}]).dataset, tokenizer)) == 1

    def test_tokenizers_that_cannot_prompt_a_judge(self):
        rows = prepare_preferences([PAIR]).dataset
        silent, unpadded = tiny_tokenizer(), tiny_tokenizer()
        silent.chat_template = None
        unpadded.pad_token = None
        for prepare in (judge_rows, prepare_judge_rows):
            with pytest.raises(ValueError, match="no chat template"):
                prepare(rows, silent)
            with pytest.raises(ValueError, match="no pad token"):
                prepare(rows, unpadded)

    def test_rows_are_prepared_once(self, tokenizer):
        rows = prepare_judge_rows([PAIR], tokenizer).dataset
        with pytest.raises(ValueError, match=r"found the columns \['order', 'prompt'\].*Rename or remove"):
            prepare_judge_rows(rows, tokenizer)
        with pytest.raises(ValueError, match=r"expected \['query', 'responses'\] among them"):
            judge_rows(Dataset.from_list([{"prompt": "q", "chosen": "a", "rejected": "b"}]), tokenizer)


def test_references_and_principles_reach_the_judge(tokenizer):
    row = {"query": "Name a prime.", "responses": ["7", "8"], "labels": [1, 0]}
    told = {**row, "reference": "Seven.", "principles": "Correctness (weight 5)."}
    made = prepare_judge_rows([told, row], tokenizer, template="compact", max_completion_length=8).dataset
    assert made["principles"] == ["Correctness (weight 5).", None]
    assert preference_of(made[0]).principles == "Correctness (weight 5)."
    assert {"Correctness (weight 5).", "Seven."} <= set(made[0]["prompt"][0]["content"].splitlines())
