# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Public data in their original schemas: real rows from `tests/data`, synthetic ones where there are none."""

import gzip
import json
import re
from dataclasses import replace

import datasets
import pytest
from paths import DATA, RECIPES
from tiny_models import tiny_tokenizer
from trl import DatasetMixtureConfig, ScriptArguments, TrlParser

from trl_spct.data.loading import load_preferences
from trl_spct.data.preparation import judge_rows, prepare_judge_rows, prepare_preferences
from trl_spct.data.sources import SOURCES, LeftOut, detect_source, get_source, one_best
from trl_spct.judge.preferences import InvalidPreference

datasets.disable_progress_bars()

MIXTURE = RECIPES / "data" / "paper_mixture.yaml"


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
    "hhh-alignment": (5, {}, [2] * 5, {"_subset"}),
    "evalbiasbench": (3, {}, [2] * 3, {"bias", "_group"}),
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
        assert re.search(r"^.+ \((MIT|Apache-2.0|BSD-3-Clause|CC-BY-4.0)\): .+", source.description), name
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


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (
            {"user_query": "q", "chatgpt_response": "a", "hallucination": "no"},
            {"query": "q", "responses": ["a"], "labels": [1]},
        ),
        (
            {"input": "q", "steps": ["a", "b"], "target": "4", "answer": "4", "mistake_index": None},
            {"query": "q", "responses": ["a\nb"], "labels": [1]},
        ),
        (
            {"question": "q", "passages": [["p"]], **{f"prediction {i}": f"a{i}" for i in (1, 2)}, "preference": [1]},
            {"query": "q", "responses": ["a1", "a2"], "labels": [1, 0]},
        ),
    ],
)
def test_other_schemas_are_refused_until_their_columns_are_renamed(row, shape):
    with pytest.raises(InvalidPreference, match=r"found the columns .* Rename the columns, or name a `source`"):
        prepare_preferences([row])
    assert prepare_preferences([{**row, **shape}]).dataset["responses"] == [shape["responses"]]


@pytest.mark.parametrize("name", EXPECTED)
def test_prepared_rows_of_a_source_are_prepared_again_as_they_are(name):
    made = prepared(name, source=name).dataset
    again = prepare_preferences(made, source=name)
    assert list(again.dataset) == list(made) and again.dropped == {}


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
    first = sum(order == [0, 1] for order in made["order"]) / len(made)
    assert 0.42 < first < 0.58
    assert made["labels"] == many["labels"] and made["responses"] == many["responses"]


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


def test_ukpconvarg1():
    row = {"#id": "x", "label": "a2", "a1": "No.", "a2": "It is.<br/>Truly.", "_topic": "tv-is-better_books-"}
    [made] = prepare_preferences([row]).dataset
    assert made["query"] == 'Write a convincing argument in the debate "tv is better" for the side "books".'
    assert made["responses"] == ["No.", "It is.\nTruly."] and made["labels"] == [0, 1] and made["#id"] == "x"
    del row["_topic"]
    assert prepare_preferences([row]).dataset[0]["query"] == "Write a convincing argument."
    with pytest.raises(InvalidPreference, match="Found 'a3' as the better response"):
        prepare_preferences([{**row, "label": "a3"}])


# --- the public data of the paper: made-up rows, in the schema of each ---

ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def completion(text, score, ratings="5555", fine=True):
    annotations = {
        aspect: {"Rating": rating if rating != "-" else "N/A", "Rationale": "So it is."}
        for aspect, rating in zip(ASPECTS, ratings, strict=True)
    }
    numbers = [int(rating) for rating in ratings if rating != "-"]
    return {
        "annotations": annotations,
        "critique": "Be brief.",
        "custom_system_prompt": "As an AI assistant, be honest.",
        **({"fine-grained_score": sum(numbers) / len(numbers) if numbers else None} if fine else {}),
        "model": "alpaca-7b",
        "overall_score": score,
        "principle": "honesty",
        "response": text,
    }


def ultrafeedback(*completions, source="evol_instruct"):
    return {
        "source": source,
        "instruction": "Name a prime.",
        "models": ["alpaca-7b"] * len(completions),
        "completions": list(completions),
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def test_ultrafeedback():
    row = ultrafeedback(*(completion(f"r{i}", score) for i, score in enumerate([7.5, 9.0, 2.0, 9.0])))
    tied = ultrafeedback(*(completion(f"r{i}", 5.0) for i in range(4)))
    made = prepare_preferences(datasets.Dataset.from_list([row, tied]))
    assert made.source == "ultrafeedback" and made.dropped == {"ties": 1}
    [made] = made.dataset
    assert sorted(made["labels"]) == [2, 7.5, 9] and best(made) in ("r1", "r3") and made["source"] == "evol_instruct"


def test_ultrafeedback_without_a_score_or_a_text():
    rows = [
        ultrafeedback(completion("a", None, "----"), completion("b", 6.0), completion("c", 8.0), completion(" ", 9.0)),
        ultrafeedback(completion("a", float("nan")), completion("b", 3.0), completion("c", 2.0)),
        ultrafeedback(completion("a", None), completion("b", 6.0)),
        ultrafeedback(),
    ]
    for given in (rows, datasets.Dataset.from_list(rows)):
        made = prepare_preferences(given)
        assert made.dropped == {"responses": 2}
        assert made.dataset["responses"] == [["b", "c"], ["b", "c"]] and made.dataset["labels"] == [[6, 8], [3, 2]]
    strings = ultrafeedback(completion("a", "N/A"), completion("b", "7"), completion("c", "10"))
    assert prepare_preferences([strings]).dataset["labels"] == [[7, 10]]
    with pytest.raises(InvalidPreference, match="row 0: Found the score 'high'; expected a number"):
        prepare_preferences([ultrafeedback(completion("a", "high"), completion("b", 7))])


@pytest.mark.parametrize("fine", [True, False])
def test_ultrafeedback_before_its_scores_were_corrected(fine):
    sound = ultrafeedback(completion("a", 10.0, "5545", fine), completion("b", 1.0, "1211", fine))
    faulty = ultrafeedback(completion("a", 7.0, "3334", fine), completion("b", 10.0, "12-1", fine))
    with pytest.raises(InvalidPreference, match=r"row 1: Found the score 10 .* mean rating of 1.33.*revision 40b4365"):
        prepare_preferences([sound, faulty])
    made = prepare_preferences([sound, faulty], invalid_rows="drop")
    assert made.dropped == {"revision": 1} and made.dataset["labels"] == [[10, 1]]


def helpsteer2(strength, prompt="Name a prime.", split="train"):
    """As `preference/preference.jsonl.gz` has it."""
    return {
        "split": split,
        "prompt": prompt,
        "response_1": "Two.",
        "response_2": "Seven is a prime.",
        "preference_strength": strength,
        "preference_statement": "@Response 1 is better.",
        "preference_elaboration": "It is brief.",
        "three_most_similar_preferences": [{"statement": "@Response 1 is better.", "strength": strength}],
        "all_preferences_unprocessed": [{"statement": "@Response 1 is better.", "strength": strength}],
    }


TURNS = "Hi\n<extra_id_1>Assistant\nHello.\n\nWhat now?\n<extra_id_1>User\nName a prime."


def test_helpsteer2_preference():
    rows = [helpsteer2(-2), helpsteer2(1, TURNS), helpsteer2(0), helpsteer2(3, split="val")]
    made = prepare_preferences(rows)
    assert made.source == "helpsteer2-preference" and made.dropped == {"ties": 1, "held_out": 1}
    assert made.dataset["labels"] == [[1, 0], [0, 1]] and made.dataset["preference_strength"] == [-2, 1]
    assert made.dataset["query"] == [
        [{"role": "user", "content": "Name a prime."}],
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.\n\nWhat now?"},
            {"role": "user", "content": "Name a prime."},
        ],
    ]
    held_out = datasets.Dataset.from_list(rows).remove_columns("split")
    assert len(prepare_preferences(held_out).dataset) == 3, "without the column all rows are read"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (helpsteer2(None), "strength None; expected one from -3 to 3"),
        (helpsteer2(True), "strength True"),
        (helpsteer2(-5), "strength -5"),
        (helpsteer2(float("nan")), "strength None"),
        (helpsteer2(1, "Hi\n<extra_id_1>Assistant\nHello."), "whose last turn is not the user's"),
        (helpsteer2(1, "Hi <extra_id_1>Robot\nHello."), "cannot be split into turns"),
        (helpsteer2(1, None), "not in the source's schema"),
        (helpsteer2(1, " "), "empty query"),
    ],
)
def test_helpsteer2_rows_that_cannot_be_read(row, message):
    with pytest.raises(InvalidPreference, match=message):
        prepare_preferences([row])


def test_offsetbias():
    rows = [{"id": "1", "instruction": "q", "output_1": "a", "output_2": "b", "label": label} for label in (1, 2)]
    made = prepare_preferences(rows)
    assert made.source == "offsetbias" and made.dataset["labels"] == [[1, 0], [0, 1]]
    with pytest.raises(InvalidPreference, match="Found 0 as the better response; expected 1 or 2"):
        prepare_preferences([{**rows[0], "label": 0}])


def skywork(chosen, rejected, source="helpsteer2"):
    return {"chosen": chosen, "rejected": rejected, "source": source}


def turns(*texts):
    return [{"content": text, "role": ("user", "assistant")[i % 2]} for i, text in enumerate(texts)]


def test_skywork():
    """Its prompts are what both conversations begin with."""
    rows = [
        skywork(turns("Name a prime.", "Two."), turns("Name a prime.", "Nine.")),
        skywork(turns("Hi", "Hello.", "Name a prime.", "Two."), turns("Hi", "Hello.", "Name a prime.", "Nine.")),
        skywork(turns("Name a prime.", "Two."), turns("Name a prime.", "Two."), "magpie_pro"),
    ]
    made = prepare_preferences(datasets.Dataset.from_list(rows), invalid_rows="drop")
    assert made.source is None and made.dropped == {"identical": 1} and made.dataset["source"] == ["helpsteer2"] * 2
    assert [[turn["content"] for turn in query] for query in made.dataset["query"]] == [
        ["Name a prime."],
        ["Hi", "Hello.", "Name a prime."],
    ]
    assert made.dataset["responses"] == [["Two.", "Nine."]] * 2 and made.dataset["labels"] == [[1, 0]] * 2


MATH = {
    "query": "What is $1+1$?",
    "responses": [r"It is $\boxed{2}$.", r"It is $\boxed{3}$."],
    "labels": [1, 0],
    "answer": "2",
    "level": "Level 1",
    "type": "Prealgebra",
    "source": "math",
}


def write_lines(path, rows, opened=open):
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def paper_mixture(tmp_path, monkeypatch):
    """The mixture of the recipe over local folders that are laid out as the repositories are on the Hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    [mixture] = TrlParser([DatasetMixtureConfig]).parse_args_and_config(["--config", str(MIXTURE)])
    hub = tmp_path / "hub"
    scores = [[7.0, 8.0, 2.0, 3.0], [4.5, 4.5, 4.5, 4.5], [5.0, None, 1.0, 2.0]]
    rows = [ultrafeedback(*(completion(f"r{i}", score) for i, score in enumerate(four))) for four in scores]
    write_lines(hub / "openbmb/UltraFeedback/evol_instruct.jsonl", rows[:2])
    write_lines(hub / "openbmb/UltraFeedback/truthful_qa.jsonl", rows[2:])
    steered = [helpsteer2(-2), helpsteer2(0), helpsteer2(3, TURNS), helpsteer2(1, split="val")]
    write_lines(hub / "nvidia/HelpSteer2/preference/preference.jsonl.gz", steered, gzip.open)
    ratings = {"prompt": "q", "response": "r", "helpfulness": 4, "correctness": 4, "coherence": 4}
    write_lines(hub / "nvidia/HelpSteer2/train.jsonl.gz", [ratings], gzip.open)
    pairs = [skywork(turns("q", f"good {i}"), turns("q", f"bad {i}")) for i in range(6)]
    (hub / "Skywork/Skywork-Reward-Preference-80K-v0.2/data").mkdir(parents=True)
    datasets.Dataset.from_list(pairs).to_parquet(
        hub / "Skywork/Skywork-Reward-Preference-80K-v0.2/data/train-00000-of-00001.parquet"
    )
    biased = [{"instruction": "q", "output_1": "a", "output_2": "b", "label": label} for label in (1, 2, 2, 1)]
    write_lines(hub / "NCSOFT/offsetbias/offsetbias.jsonl", biased)
    made = {**MATH, "query": "What is 1?", "responses": ["1"], "labels": [1]}
    write_lines(tmp_path / "outputs/math_rows/train.jsonl", [MATH, made, MATH, MATH])
    for part in mixture.datasets:
        if part.data_files is not None:
            part.data_files = str(tmp_path / part.data_files)
        else:
            part.path = str(hub / part.path)
    return mixture


def test_the_papers_mixture_is_one_dataset(paper_mixture):
    rows = load_preferences(ScriptArguments(), paper_mixture)["train"]
    assert {"query", "responses", "labels", "source", "preference_strength"} <= set(rows.column_names)
    assert [len(responses) for responses in rows["responses"]] == [4, 3, *[2] * 12, 2, 1, 2, 2]
    assert rows["source"] == ["evol_instruct"] * 2 + [None] * 2 + ["helpsteer2"] * 6 + [None] * 4 + ["math"] * 4
    assert rows["preference_strength"][2:4] == [-2, 3] and [len(query) for query in rows["query"][2:4]] == [1, 3]
    assert len(judge_rows(rows, tiny_tokenizer(), template="compact")) == 18


def test_shares_of_the_papers_mixture(paper_mixture):
    for part, fraction in zip(paper_mixture.datasets, [0.1, 0.1, 0.3, 0.1, 0.4], strict=True):
        part.fraction = fraction
    rows = load_preferences(ScriptArguments(), paper_mixture)["train"]
    # MATH has 4 usable rows of which .4 are asked for: a mixture of 10.
    assert len(rows) == 10 and rows["source"].count("math") == 4 and rows["source"].count("helpsteer2") == 3
    split = replace(paper_mixture, test_split_size=0.2)
    assert {name: len(part) for name, part in load_preferences(ScriptArguments(), split).items()} == {
        "train": 8,
        "test": 2,
    }


# --- without labels ---


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_are_read_without_a_look_at_their_labels(name):
    rows = [row for row in rows_of(name) if name != "pandalm" or row["idx"] not in _not_text()]
    made = prepare_preferences(rows, name=name, read_labels=False)
    assert made.dropped == {} and made.row_numbers == tuple(range(len(rows)))
    assert "labels" not in made.dataset.column_names
    labeled = prepare_preferences(rows, name=name)
    for row, number in zip(labeled.dataset, labeled.row_numbers, strict=True):
        assert row["query"] == made.dataset[number]["query"]
        assert set(row["responses"]) <= set(made.dataset[number]["responses"])


def _not_text():
    return [
        row["idx"]
        for row in rows_of("pandalm")
        if not all(isinstance(row[name], str) and row[name].strip() for name in ("response1", "response2"))
    ]


def test_labels_are_not_read_even_if_they_are_broken():
    rows = [{**row, **{f"annotator{i}": "?" for i in (1, 2, 3)}} for row in rows_of("pandalm")[:2]]
    assert len(prepare_preferences(rows, read_labels=False).dataset) == 2
    rows = [helpsteer2(0), helpsteer2(None, split="val")]
    assert len(prepare_preferences(rows, read_labels=False).dataset) == 2


def test_one_best():
    kept, labels = one_best("q", [3, 1, 3, 2])
    assert (kept, labels) == one_best("q", [3, 1, 3, 2])
    assert labels.count(3) == 1 and kept in ([0, 1, 3], [1, 2, 3])
    chosen = [one_best(f"q{i}", [1, 1, 0])[0][0] for i in range(400)]
    assert 160 < chosen.count(0) < 240
    with pytest.raises(LeftOut, match="All 2 responses have the label 1"):
        one_best("q", [1, 1])
