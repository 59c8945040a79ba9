# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""From trajectories to what a Meta RM learns from; and the recipe that goes all the way."""

import importlib.util
import json

import pytest
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import RECIPES
from tiny_models import save_tiny

from trl_spct.data.meta_rows import meta_rows, prepare_meta_rows
from trl_spct.data.preparation import split_by_query
from trl_spct.evaluation.guidance import PLAIN
from trl_spct.judge.modeling_meta_rm import MetaRMForSequenceClassification
from trl_spct.judge.voting import Guidance

pytestmark = pytest.mark.usefixtures("one_thread")


def trajectory(query, right=True, **changes):
    """A critique of two responses that the judge read in reversed order; the first one, `b`, is the better one."""
    record = {
        "query": query,
        "responses": ["b", "a"],
        "labels": [1.0, 0.0],
        "order": [1, 0],
        "completion": [{"role": "assistant", "content": f"{query}: {right}"}],
        "completion_ids": None,
        "hinted": False,
        "scores": [8, 3] if right else [3, 8],
        "outcome": "kept",
        **changes,
    }
    return record


FIRST = [
    *[trajectory(f"q{i}", i % 2 == 0) for i in range(20)],
    trajectory("q0", hinted=True),
    trajectory("q1", scores=None),
    trajectory("q2", scores=[5, 5]),
]
FRESH = [trajectory(f"q{i}", i % 3 == 0) for i in range(10, 30)]


def parts():
    return {"rft": Dataset.from_list(FIRST), "fresh": Dataset.from_list(FRESH)}


def test_rows_and_counts():
    data = prepare_meta_rows(parts())
    assert data.held_out is None and len(data.train) == 41
    assert data.counts == {
        "rft": {"correct": 10, "incorrect": 11, "close": 0, "hinted": 1, "unreadable": 1},
        "fresh": {"correct": 6, "incorrect": 14, "close": 0, "hinted": 0, "unreadable": 0},
    }
    assert data.train[0] == {
        "query": "q0", "responses": ["b", "a"], "critique": "q0: True", "label": 1, "source": "rft",
        "scores": [8, 3], "labels": [1.0, 0.0], "read_order": [1, 0],
    }  # fmt: skip
    assert data.train["label"][20] == 0, "a tie is incorrect"
    assert "41 rows to train on, 0 held out" in str(data) and "rft: 10 correct, 11 incorrect" in str(data)


def test_correct_critiques_that_are_close_can_be_left_out():
    """Margins of 2, 3 and 1 to the best other response; a wrong critique, and one of a single response, stay."""
    three = {"responses": ["b", "a", "c"], "labels": [1.0, 0.0, 0.0], "order": [2, 1, 0]}
    rows = [
        trajectory("two", scores=[8, 6]),
        trajectory("three", scores=[9, 6, 2], **three),
        trajectory("one", scores=[9, 8, 1], **three),
        trajectory("wrong", scores=[6, 7]),
        trajectory("single", responses=["a"], labels=[1.0], order=[0], scores=[1]),
    ]
    assert meta_rows(Dataset.from_list(rows), min_margin=3)["query"][:] == ["three", "wrong", "single"]
    assert meta_rows(Dataset.from_list(rows), min_margin=2)["query"][:] == ["two", "three", "wrong", "single"]
    assert len(meta_rows(Dataset.from_list(rows))) == 5
    data = prepare_meta_rows({"rft": Dataset.from_list(rows)}, min_margin=3)
    assert data.counts["rft"] == {"correct": 2, "incorrect": 1, "close": 2, "hinted": 0, "unreadable": 0}
    assert len(data.train) == 3 and "2 close" in str(data)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.2, 0.8))
def test_no_query_is_on_both_sides(seed, share):
    data = prepare_meta_rows(parts(), share, seed)
    train, held_out = (set(rows["query"]) for rows in (data.train, data.held_out))
    assert not train & held_out and train | held_out == {f"q{i}" for i in range(30)}
    assert len(data.train) + len(data.held_out) == 41


def test_a_query_falls_on_one_side_whether_it_is_a_text_or_a_message():
    messages = [trajectory([{"role": "user", "content": record["query"]}]) for record in FRESH]
    data = prepare_meta_rows({"rft": Dataset.from_list(FIRST), "fresh": Dataset.from_list(messages)}, 0.4)
    train, held_out = ({query[0]["content"] for query in rows["query"]} for rows in (data.train, data.held_out))
    assert not train & held_out
    texts = split_by_query(Dataset.from_dict({"query": [f"q{i}" for i in range(30)]}), 0.4)[1]
    assert held_out == set(texts["query"])


def test_what_cannot_be_learned_from():
    with pytest.raises(ValueError, match="no unhinted readable critique"):
        prepare_meta_rows({})
    with pytest.raises(ValueError, match=r"'rft' have the columns .* lack \['order', 'scores'\]"):
        prepare_meta_rows({"rft": Dataset.from_list(FIRST).remove_columns(["order", "scores"])})
    with pytest.raises(ValueError, match=r"lack \['completion_ids'\]; .* Collect them again"):
        prepare_meta_rows({"rft": Dataset.from_list(FIRST).remove_columns("completion_ids")})
    with pytest.raises(ValueError, match=r"'trajectories' have .* lack \['completion_ids'\]"):
        meta_rows(Dataset.from_list(FIRST).remove_columns("completion_ids"))
    with pytest.raises(ValueError, match="no unhinted readable critique"):
        prepare_meta_rows({"rft": Dataset.from_list([trajectory("q", hinted=True)])})
    with pytest.raises(ValueError, match="held-out share"):
        prepare_meta_rows(parts(), 0.999999)


def test_saved_rows_load(tmp_path):
    data = prepare_meta_rows(parts(), 0.3)
    data.save(tmp_path / "critiques")
    loaded = load_dataset(str(tmp_path / "critiques"), cache_dir=str(tmp_path / "cache"))
    assert {name: list(rows) for name, rows in loaded.items()} == {
        "train": list(data.train),
        "test": list(data.held_out),
    }


def test_the_recipe_goes_all_the_way(tmp_path, monkeypatch):
    """From trajectories and a judge to a Meta RM with its card, its rows, and a guidance that was chosen."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    judge = save_tiny(tmp_path / "judge", "llama", initializer_range=0.3)
    Dataset.from_list(FIRST).to_parquet(tmp_path / "critiques.parquet")
    rows = [{"query": f"q{i}", "responses": ["a", "b"], "labels": [0.0, 1.0]} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = RECIPES / "meta_rm.py"
    spec = importlib.util.spec_from_file_location("recipe_meta_rm", path)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    arguments = [
        *["--model_name_or_path", judge, "--judge_name_or_path", judge, "--template", "compact"],
        *["--trajectories", tmp_path / "critiques.parquet", "--dataset_name", tmp_path / "rows.jsonl"],
        *["--eval_share", "0.4", "--choose_k", "4", "--num_generations", "1", "--max_completion_length", "3"],
        *["--output_dir", tmp_path / "meta", "--max_steps", "1", "--dtype", "float32", "--save_strategy", "no"],
        *["--use_cpu", "--bf16", "false", "--report_to", "none", "--disable_tqdm", "true"],
    ]
    recipe.main(*recipe.make_parser().parse_args_and_config([str(argument) for argument in arguments]))
    folder = tmp_path / "meta"
    choice = json.loads((folder / "guidance.json").read_text())
    assert choice["k"] == 4 and {row["k"] for row in choice["table"]} == {2, 4}
    stored = MetaRMForSequenceClassification.from_pretrained(folder).config.meta_rm
    assert Guidance.of(stored) == PLAIN, "a judge that writes nothing readable gives no reason to leave anybody out"
    assert {"template", "tokenizer"} <= set(stored)
    held_out = load_dataset(str(folder / "rows"), cache_dir=str(tmp_path / "cache"))["test"]
    judged = load_dataset("parquet", data_files=str(folder / "judgments" / "*.parquet"), split="train")
    numbers = split_by_query(Dataset.from_list(rows), 0.4, 42)[1]
    assert len(judged) == len(numbers) and set(held_out["query"]) <= set(numbers["query"])
    card = (folder / "README.md").read_text()
    assert "\n- ROC-AUC: " in card and "guidance: plain" in card
