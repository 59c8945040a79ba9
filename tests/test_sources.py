# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Public data in their original schemas: real rows from `tests/data`, synthetic ones where there are none."""

import json
from pathlib import Path

import datasets
import pytest
from tiny_models import tiny_tokenizer

from trl_spct.data import judge_rows, prepare_judge_rows, prepare_preferences
from trl_spct.preferences import InvalidPreference
from trl_spct.sources import SOURCES, LeftOut, detect_source, get_source, one_best


datasets.disable_progress_bars()

DATA = Path(__file__).parent / "data"


def rows_of(name):
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def prepared(name, **kwargs):
    return prepare_preferences(rows_of(name), name=name, **{"invalid_rows": "drop", **kwargs})


def best(row):
    return row["responses"][row["labels"].index(max(row["labels"]))]


# source: rows made, dropped by cause, numbers of responses, columns kept
EXPECTED = {
    "llmbar": (4, {}, [2, 2, 2, 2], {"_subset", "_index"}),
    "pandalm": (2, {"ties": 2, "responses": 1, "empty": 1}, [2, 2], {"idx", "motivation_app", "cmp_key"}),
    "gsm8k": (3, {"none_correct": 1, "all_correct": 1}, [4, 3, 2], {"ground_truth"}),
    "genrm-cot": (7, {}, [4, 2, 4, 2, 4, 2, 2], {"question_id", "target"}),
    "bigbench-mistake": (4, {}, [1, 1, 1, 1], {"target", "answer", "mistake_index", "_task"}),
    "hhh-alignment": (5, {}, [2] * 5, {"_subset"}),
    "evalbiasbench": (3, {}, [2] * 3, {"bias", "_group"}),
    "halueval": (4, {}, [1] * 4, {"ID", "hallucination_spans"}),
    "finegrained-rlhf": (3, {"ties": 1}, [4, 3, 4], {"gold", "feedback"}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_rows(name):
    count, dropped, sizes, kept = EXPECTED[name]
    made = prepared(name)
    assert made.source == name
    assert made.num_read == len(rows_of(name)) and len(made.dataset) == count and made.dropped == dropped
    assert [len(responses) for responses in made.dataset["responses"]] == sizes
    assert set(made.dataset.column_names) == {"query", "responses", "labels"} | kept
    assert list(prepared(name, source=name).dataset) == list(made.dataset)
    assert set(made.row_numbers) <= set(range(made.num_read))


def test_every_source_is_described():
    for name, source in SOURCES.items():
        assert source.description and source.license and source.signature, name
        assert detect_source(source.signature) == name
        assert detect_source([*source.signature, "extra"]) == name
        assert detect_source(source.signature - {min(source.signature)}) is None
    assert {path.stem for path in DATA.glob("*.jsonl")} == set(EXPECTED) <= set(SOURCES)
    assert all(len(rows_of(name)) <= 6 for name in EXPECTED)


def test_wrong_source():
    with pytest.raises(ValueError, match="Found source 'llmbarr'; expected one of .*'llmbar'"):
        prepare_preferences(rows_of("llmbar"), source="llmbarr")
    with pytest.raises(ValueError, match=r"Source 'pandalm'.*expected \['annotator1'.* Name another source"):
        get_source("pandalm", ["instruction", "input", "response1", "response2"])
    # Two signatures at once: nobody can tell.
    columns = SOURCES["llmbar"].signature | SOURCES["hhh-alignment"].signature
    assert detect_source(columns) is None


def test_own_shapes_go_first():
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "response_1": "", "response_2": "", "preference_strength": 1}
    assert prepare_preferences([row]).source is None


def test_rows_outside_the_schema_are_named():
    rows = rows_of("hhh-alignment")
    rows[1]["targets"] = None
    with pytest.raises(InvalidPreference, match="hhh row 1: Found a row that is not in the source's schema"):
        prepare_preferences(rows, name="hhh")
    assert prepare_preferences(rows, invalid_rows="drop").dropped == {"shape": 1}


def test_ties_of_a_source_are_no_error():
    assert prepared("gsm8k", invalid_rows="error").dropped == {"none_correct": 1, "all_correct": 1}
    with pytest.raises(InvalidPreference, match="pandalm row 3: Response 2 is bool"):
        prepared("pandalm", invalid_rows="error")


@pytest.mark.parametrize("name", ["hhh-alignment", "evalbiasbench"])
def test_gold_has_no_fixed_place_after_the_shuffle(name):
    rows = prepared(name).dataset
    assert all(labels == [1, 0] for labels in rows["labels"])
    many = datasets.concatenate_datasets([rows] * 100)
    made = judge_rows(many, tiny_tokenizer(), template="compact")
    first = sum(labels == [1, 0] for labels in made["labels"]) / len(made)
    assert 0.42 < first < 0.58
    for row in made.select(range(20)):
        assert row["responses"][row["order"][row["labels"].index(1)]] == row["responses"][0]


def test_all_sources_reach_the_judge():
    for name in EXPECTED:
        made = prepare_judge_rows(rows_of(name), tiny_tokenizer(), name=name, invalid_rows="drop", template="compact")
        assert made.source == name and "prompt" in made.dataset.column_names


def test_pandalm_is_a_majority():
    made = prepared("pandalm").dataset
    assert made["labels"] == [[1, 0], [0, 1]]
    assert made[0]["query"].startswith("Answer the following question.\n\nHow do you say")


def test_gsm8k_keeps_one_correct_solution():
    made = prepared("gsm8k").dataset
    for row, given in zip(made, rows_of("gsm8k")[1:4], strict=True):
        solutions = [value for value in given.values() if isinstance(value, dict)]
        assert sum(row["labels"]) == 1
        assert best(row) in [s["solution"] for s in solutions if s["is_correct"]]
        incorrect = [s["solution"] for s in solutions if not s["is_correct"]]
        assert [r for r, label in zip(row["responses"], row["labels"], strict=True) if not label] == incorrect


def test_genrm_uses_each_incorrect_solution_once():
    made = prepared("genrm-cot")
    for number, given in enumerate(rows_of("genrm-cot")):
        rows = [row for row, n in zip(made.dataset, made.row_numbers, strict=True) if n == number]
        correctness = {s["model_output"]: s["correctness"] for s in given["responses"]}
        read = [response for row in rows for response in row["responses"]]
        assert sorted(r for r in read if not correctness[r]) == sorted(r for r in correctness if not correctness[r])
        assert all(correctness[best(row)] and sum(row["labels"]) == 1 for row in rows)
        num_correct = sum(correctness.values())
        assert len({best(row) for row in rows}) == min(len(rows), num_correct)


def test_finegrained_is_a_ranking():
    made = prepared("finegrained-rlhf").dataset
    assert made["labels"] == [[3, -1, -1, -1], [2, -2, -2], [-3, 1, -1, 3]]
    given = rows_of("finegrained-rlhf")
    assert best(made[0]) == given[1]["prediction 1"]
    assert best(made[1]) in [given[2]["prediction 1"], given[2]["prediction 2"]]
    assert made[0]["query"].startswith(given[1]["question"]) and given[1]["passages"][0][0] in made[0]["query"]


def test_finegrained_preferences_that_contradict_each_other():
    row = {**rows_of("finegrained-rlhf")[1], "preference": [1, 1, 2, 0, 1, 1]}  # 1 > 2 > 4 > 1
    with pytest.raises(LeftOut, match="single out no best answer"):
        list(SOURCES["finegrained-rlhf"].read(row))
    with pytest.raises(InvalidPreference, match="expected six of 0, 1 and 2"):
        list(SOURCES["finegrained-rlhf"].read({**row, "preference": [1, 1, 1]}))


def test_bigbench_labels_clean_traces():
    made = prepared("bigbench-mistake").dataset
    assert [labels[0] for labels in made["labels"]] == [int(index is None) for index in made["mistake_index"]]
    assert made[0]["query"].startswith("Sort the words alphabetically.\n\n")
    assert made[3]["query"] == rows_of("bigbench-mistake")[3]["input"]
    assert made["target"] and "reference" not in made.column_names


def test_halueval_labels():
    assert prepared("halueval").dataset["labels"] == [[0], [1], [0], [1]]
    with pytest.raises(InvalidPreference, match="expected yes or no"):
        prepare_preferences([{**rows_of("halueval")[0], "hallucination": "maybe"}])


def test_ukpconvarg1():
    row = {"#id": "x", "label": "a2", "a1": "No.", "a2": "It is.<br/>Truly.", "_topic": "tv-is-better_books-"}
    [made] = prepare_preferences([row]).dataset
    assert made["query"] == 'Write a convincing argument in the debate "tv is better" for the side "books".'
    assert made["responses"] == ["No.", "It is.\nTruly."] and made["labels"] == [0, 1] and made["#id"] == "x"
    del row["_topic"]
    assert prepare_preferences([row]).dataset[0]["query"] == "Write a convincing argument."
    with pytest.raises(InvalidPreference, match="Found 'a3' as the better response"):
        prepare_preferences([{**row, "label": "a3"}])


def test_ultrafeedback():
    completions = [{"response": f"r{i}", "overall_score": score} for i, score in enumerate([7.5, 9.0, 2.0, 9.0])]
    row = {"instruction": "q", "completions": completions, "models": ["m"], "source": "evol"}
    tied = {**row, "completions": [{**c, "overall_score": 5} for c in completions]}
    made = prepare_preferences(datasets.Dataset.from_list([row, tied]))
    assert made.source == "ultrafeedback" and made.dropped == {"ties": 1}
    [made] = made.dataset
    assert sorted(made["labels"]) == [2, 7.5, 9] and best(made) in ("r1", "r3") and made["source"] == "evol"


def test_helpsteer2_preference():
    row = {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": -2, "preference_statement": "s"}
    turns = "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nWhy?"
    rows = [row, {**row, "preference_strength": 1, "prompt": turns}, {**row, "preference_strength": 0}]
    made = prepare_preferences(rows)
    assert made.source == "helpsteer2-preference" and made.dropped == {"ties": 1}
    assert made.dataset["labels"] == [[1, 0], [0, 1]] and made.dataset["preference_strength"] == [-2, 1]
    assert made.dataset["query"] == [
        [{"role": "user", "content": "q"}],
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Why?"},
        ],
    ]


def test_offsetbias():
    rows = [{"id": "1", "instruction": "q", "output_1": "a", "output_2": "b", "label": label} for label in (1, 2)]
    made = prepare_preferences(rows)
    assert made.source == "offsetbias" and made.dataset["labels"] == [[1, 0], [0, 1]]


def test_one_best():
    row = one_best("q", ["a", "b", "c", "d"], [3, 1, 3, 2])
    assert row == one_best("q", ["a", "b", "c", "d"], [3, 1, 3, 2])
    assert row["labels"].count(3) == 1 and set(row["responses"]) in ({"a", "b", "d"}, {"b", "c", "d"})
    chosen = [one_best(f"q{i}", ["a", "b", "c"], [1, 1, 0])["responses"][0] for i in range(400)]
    assert 160 < chosen.count("a") < 240
    with pytest.raises(LeftOut, match="All 2 responses have the label 1"):
        one_best("q", ["a", "b"], [1, 1])
