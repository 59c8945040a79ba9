# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks from made-up local copies in the authors' schemas: read, checked, judged and measured."""

import json
import logging
import os
import subprocess
import sys
import traceback
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from hub_server import HubServer
from paths import ROOT

from trl_spct.evaluation.baselines import ContentBlindJudge
from trl_spct.evaluation.benchmark_loading import ChangedBenchmark, load_benchmark, load_rows
from trl_spct.evaluation.benchmark_results import (
    benchmark_results,
    compare_judges,
    item_units,
    judge_benchmark,
    with_intervals,
)
from trl_spct.evaluation.benchmarks import BENCHMARKS, EMPTY_RESPONSE, METRICS, rows_benchmark
from trl_spct.evaluation.diagnostics import diagnose
from trl_spct.evaluation.judgments import Judge, Judgment, read_judgments, votes_at
from trl_spct.judge.critiques import Critique
from trl_spct.judge.sampling import EngineError


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr("trl_spct.evaluation.benchmark_results.RESAMPLES", 50)


class Worth(Judge):
    """Scores a response by the number in its text, k times; `wrong` critiques are mistaken, `unreadable` ones lost."""

    def __init__(self, k=1, wrong=(), unreadable=()):
        self.k, self.wrong, self.unreadable = k, wrong, unreadable
        self.settings = {"judge": "worth", "k": k, "wrong": list(wrong), "unreadable": list(unreadable)}
        self.asked = 0

    def __call__(self, rows, occurrences=None):
        self.asked += len(rows)
        return [Judgment((), tuple(self.critique(row, number) for number in range(self.k))) for row in rows]

    def critique(self, row, number):
        scores = tuple(float(text.split()[-1]) for text in row.responses)
        scores = tuple(-score for score in scores) if number in self.wrong else scores
        lost = number in self.unreadable
        text = f"I quote {row.query} and {row.responses[0]}."
        order = tuple(range(len(row)))
        return Critique(text, None if lost else scores, "missing" if lost else None, order, num_tokens=7)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def rewardbench(folder):
    subsets = ["alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm", "hep-cpp"]
    rows = [
        {"id": i, "prompt": "q?", "chosen": "worth 3", "rejected": "worth 1", "subset": s}
        for i, s in enumerate(subsets)
    ]
    write(folder / "data" / "filtered-00000.jsonl", rows)


def rewardbench2(folder):
    def row(id, subset, chosen, rejected):
        return {
            "id": id,
            "prompt": "q?",
            "chosen": chosen,
            "rejected": rejected,
            "num_correct": len(chosen),
            "subset": subset,
        }

    write(
        folder / "test.jsonl",
        [
            row("1", "Math", ["worth 9"], ["worth 1", "worth 2", "worth 3"]),
            row("ref:4", "Ties", ["worth 8"], ["worth 2"]),
            row("tied:4", "Ties", ["worth 8", "worth 7"], ["worth 2"]),
        ],
    )


def ppe_preference(folder):
    row = {"question_id": "a", "prompt": "q?", "response_1": "worth 1", "response_2": "worth 2", "winner": "model_b"}
    rows = [row, {**row, "question_id": "b", "winner": "tie (bothbad)"}, {**row, "winner": "model_a"}]
    write(folder / "test.jsonl", rows)


def ppe_correctness(folder):
    for name in ("MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus"):
        row = {
            "question_id": "1",
            "prompt": "q?",
            **{f"response_{i}": f"worth {i}" for i in (1, 2, 3)},
            "scores": [False, True, True],
            "sampled_conflict_pairs": [[0, 1], [2, 0]],
        }
        write(folder / f"PPE-{name}-Best-of-K" / "data" / "train.jsonl", [row])


def rmb(folder):
    def answer(text):
        return {"llm_name": "m", "answer": text}

    talk = [{"role": "user", "content": "q?", "language": "English"}]
    for goal in ("Helpfulness", "Harmlessness"):
        place = folder / "RMB_dataset"
        pair = {"pair_uid": "p", "conversation_input": talk, "chosen": answer("worth 2"), "reject": answer("worth 1")}
        best = {
            "bon_uid": "b", "conversation_input": talk, "bon_best": answer("worth 5"),
            "loser_list": [answer("worth 1"), answer("worth 5"), answer("worth 4")],
        }  # fmt: skip
        for kind, row in (("Pairwise", pair), ("BoN", best)):
            path = place / f"{kind}_set" / goal / "Some Task" / "Idea Development.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps([row]))


SECRET = "unpublishable-input"


def realmistake(folder, response="worth {}"):
    for task in ("math_word_problem_generation", "finegrained_fact_verification", "answerability_classification"):
        for name in ("gpt-4-0613.jsonl", "Llama-2-70b-chat-hf.jsonl"):
            rows = [
                {
                    "input": SECRET,
                    "llm_response": response.format(9 if i else 1),
                    "label": "no_error" if i else "error",
                }
                for i in range(2)
            ]
            write(folder / "data" / task / name, rows)


def rm_bench(folder):
    domains = ["chat", "math", "code", "safety-refuse", "safety-response"]
    rows = [
        {"id": i, "prompt": "q?", "chosen": ["worth 2", "worth 4", "worth 6"],
         "rejected": ["worth 1", "worth 3", "worth 5"], "domain": domain}
        for i, domain in enumerate(domains)
    ]  # fmt: skip
    path = folder / "data" / "total_dataset.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows))


def judgebench(folder):
    row = {"question": "q?", "response_A": "worth 1", "response_B": "worth 2"}
    kinds = [("mmlu-pro-law", "B>A"), ("livecodebench", "A>B")] * 2
    for model in ("gpt-4o-2024-05-13", "claude-3-5-sonnet-20240620"):
        rows = [
            {**row, "pair_id": f"{model}{number}", "source": source, "label": label}
            for number, (source, label) in enumerate(kinds)
        ]
        write(folder / "data" / f"dataset=judgebench,response_model={model}.jsonl", rows)


def best_of_n(folder):
    solutions = [{"model_output": f"worth {i}", "correctness": int(i in (2, 3))} for i in range(4)]
    write(folder / "solutions.jsonl", [{"question": "q?", "responses": solutions}])


MADE = {
    "rewardbench": rewardbench,
    "rewardbench-2": rewardbench2,
    "ppe-preference": ppe_preference,
    "ppe-correctness": ppe_correctness,
    "rmb": rmb,
    "realmistake": realmistake,
    "rm-bench": rm_bench,
    "rm-bench-pairs": rm_bench,
    "judgebench-gpt": judgebench,
    "judgebench-claude": judgebench,
    "best-of-n": best_of_n,
}


def made(name, folder):
    MADE[name](folder)
    return load_benchmark(name, str(folder), check=False)


def test_every_benchmark_is_tested():
    assert set(MADE) == set(BENCHMARKS)


# --- reading ---


@pytest.mark.parametrize(
    ("name", "items", "rows"),
    [
        ("rewardbench", 5, {2: 5}),
        ("rewardbench-2", 2, {4: 1, 2: 1, 3: 1}),
        ("ppe-preference", 2, {2: 2}),
        ("ppe-correctness", 5, {2: 10}),
        ("rmb", 4, {2: 2, 4: 2}),
        ("realmistake", 12, {1: 12}),
        ("rm-bench", 5, {6: 5}),
        ("rm-bench-pairs", 5, {2: 45}),
        ("judgebench-gpt", 4, {2: 8}),
        ("judgebench-claude", 4, {2: 8}),
        ("best-of-n", 1, {4: 1}),
    ],
)
def test_what_a_judge_reads(name, items, rows, tmp_path):
    loaded = made(name, tmp_path)
    sizes = [len(row) for item in loaded.items for row in item.rows]
    assert len(loaded.items) == items == loaded.facts["items"]
    assert {size: sizes.count(size) for size in sizes} == rows
    assert len({item.id for item in loaded.items}) == items
    assert all(row.labels is None for item in loaded.items for row in item.rows), "no truth in what is judged"
    for item in loaded.items:
        assert [len(labels) for labels in item.labels] == [len(row) for row in item.rows]


EXPECTED = {
    "rewardbench": 1.0,
    "rewardbench-2": (1 + 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * np.tanh(5 / 1 - 1)) / 2,
    "ppe-preference": 0.5,  # the third row is labeled against its worth
    "ppe-correctness": 1.0,
    "rmb": 0.5,  # best-of-N rows are tied for the best
    "realmistake": 1.0,
    "rm-bench": (0 + 0 + 1 + 1 + 1 + 1 + 1 + 1 + 1) / 9,  # see below
    "rm-bench-pairs": 6 / 9,
    "judgebench-gpt": 0.5,
    "judgebench-claude": 0.5,
    "best-of-n": 1.0,
}


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("name", sorted(MADE))
def test_a_judge_of_worth(name, tmp_path):
    """RM-Bench: chosen 2, 4, 6 against rejected 1, 3, 5 loses all of hard, and wins normal and easy."""
    loaded = made(name, tmp_path / "data")
    judgments = judge_benchmark(Worth(), loaded, tmp_path / "judgments")
    (result,) = benchmark_results(loaded, judgments, stage="worth")
    expected = 6 / 9 if name == "rm-bench" else EXPECTED[name]
    assert result["accuracy"] == pytest.approx(expected)
    assert result["low"] <= result["accuracy"] <= result["high"] + 1e-12
    assert (result["k"], result["n"], result["stage"]) == (1, len(loaded.items), "worth")
    if name.startswith("rm-bench"):
        assert [result["values"][level][0] for level in ("hard", "normal", "easy")] == [0, 1, 1]
    blind = judge_benchmark(Worth(unreadable=[0]), loaded, tmp_path / "lost")
    (lost,) = benchmark_results(loaded, blind)
    assert lost["accuracy"] == 0 and lost["unreadable"] == 1, "an unreadable judgment is worth nothing"


@pytest.mark.usefixtures("few_resamples")
def test_judgebench_is_judged_in_both_orders(tmp_path):
    loaded = made("judgebench-gpt", tmp_path / "data")
    assert loaded.benchmark.order == "fixed"
    first, second = loaded.items[0].rows
    assert first.responses == second.responses[::-1]
    assert loaded.items[0].labels == ((0, 1), (1, 0))
    judgments = judge_benchmark(ContentBlindJudge("first"), loaded, tmp_path / "first")
    (result,) = benchmark_results(loaded, judgments)
    assert result["accuracy"] == 0, "always the first place wins one game and loses the other"
    assert set(result["values"]) == {"knowledge", "coding"}


def test_an_empty_response_is_judged(tmp_path):
    rewardbench(tmp_path)
    path = tmp_path / "data" / "filtered-00000.jsonl"
    path.write_text(path.read_text().replace('"worth 1"', '" "', 1))
    loaded = load_benchmark("rewardbench", str(tmp_path), check=False)
    assert loaded.items[0].rows[0].responses == ("worth 3", EMPTY_RESPONSE)


def test_separators_within_json_lines(tmp_path):
    row = {"id": 1, "prompt": "q\u2028r\x85s", "chosen": "a", "rejected": "b", "subset": "donotanswer"}
    write(tmp_path / "filtered.jsonl", [row])
    (item,) = load_benchmark("rewardbench", str(tmp_path / "filtered.jsonl"), check=False).items
    assert item.rows[0].query == "q\u2028r\x85s"


def test_folders_of_parquet_files(tmp_path):
    rows = Dataset.from_list([{"id": 1, "prompt": "q", "chosen": "a", "rejected": "b", "subset": "donotanswer"}])
    rows.to_parquet(tmp_path / "clone" / "data" / "filtered-00000-of-00001.parquet")
    assert len(load_benchmark("rewardbench", str(tmp_path / "clone"), check=False).items) == 1


# --- what is refused ---


def test_changed_benchmarks_are_named(tmp_path, caplog):
    judgebench(tmp_path)
    with pytest.raises(ChangedBenchmark) as caught:
        load_benchmark("judgebench-gpt", str(tmp_path))
    for part in ("gpt has 4 rows instead of 350", "gpt has 2 A>B instead of 193, 2 B>A instead of 157"):
        assert part in str(caught.value)
    with pytest.raises(ChangedBenchmark, match="claude has 4 rows instead of 270"):
        load_benchmark("judgebench-claude", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        loaded = load_benchmark("judgebench-gpt", str(tmp_path), check=False)
    assert "not comparable" in caplog.text and len(loaded.facts["differences"]) == 2
    assert loaded.facts["revisions"] == {}


def test_recorded_balances_add_up():
    totals = {
        part.name: sum(part.balance.values())
        for benchmark in BENCHMARKS.values()
        for part in benchmark.parts
        if part.balance is not None
    }
    assert {name: total for name, total in totals.items() if "/" not in name} == {
        "RewardBench": 2985, "RewardBench 2": 1865, "RM-Bench": 1327, "gpt": 350, "claude": 270,
    }  # fmt: skip
    assert {total for name, total in totals.items() if name.endswith("/gpt4")} == {140}
    assert {total for name, total in totals.items() if name.endswith("/llama2")} == {160}


def test_missing_tables_and_columns_are_named(tmp_path):
    rmb(tmp_path)
    for path in tmp_path.glob("**/BoN_set/Harmlessness/**/*.json"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="rmb: found no file for Harmlessness BoN"):
        load_benchmark("rmb", str(tmp_path), check=False)
    write(tmp_path / "rows.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(ChangedBenchmark, match=r"rewardbench, RewardBench: row 0 is not in .*KeyError: 'id'"):
        load_benchmark("rewardbench", str(tmp_path / "rows.jsonl"), check=False)
    with pytest.raises(
        FileNotFoundError, match=r"rmb: found no file for Helpfulness Pairwise in .*rows\.jsonl; expected a folder"
    ):
        load_benchmark("rmb", str(tmp_path / "rows.jsonl"))
    with pytest.raises(
        FileNotFoundError, match="judgebench-gpt: found no file for gpt in .*nowhere; expected a folder"
    ):
        load_benchmark("judgebench-gpt", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="rmb is not on the Hub; name a local copy"):
        load_benchmark("rmb")
    with pytest.raises(ValueError, match="Found benchmark 'mt-bench'"):
        load_benchmark("mt-bench")


def test_broken_files_are_named(tmp_path):
    rmb(tmp_path / "rmb")
    path = next(tmp_path.glob("**/BoN_set/Harmlessness/**/*.json"))
    whole = path.read_text()
    for broken in (whole[:-20], "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"):
        path.write_text(broken)
        with pytest.raises(ChangedBenchmark, match=r"Idea Development\.json is not JSON: .*git lfs pull"):
            load_benchmark("rmb", str(tmp_path / "rmb"), check=False)
    for old, new in (('"answer": "worth 5"', '"text": "worth 5"'), ('"loser_list"', '"losers"')):
        path.write_text(whole.replace(old, new))
        with pytest.raises(ChangedBenchmark, match=r"rmb, Harmlessness BoN: row 0 is not in .*KeyError"):
            load_benchmark("rmb", str(tmp_path / "rmb"), check=False)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("judgebench-gpt", '"B>A"', '"A<B"', "row 0 is not in the authors' schema (KeyError: 'A<B')"),
        ("ppe-preference", '"model_b"', '"b"', "row 0 is not in the authors' schema (KeyError: 'b')"),
        ("ppe-correctness", "[[0, 1]", "[[1, 2]", "the responses 1 and 2 of a conflict pair have the same score"),
        ("rm-bench", '"worth 2", ', "", "found 2 of 5 responses chosen; expected 3 of 6"),
        ("rewardbench-2", '"ref:4"', '"ref:5"', "the Ties prompt 5 has the rows ['ref']; expected one `ref:5`"),
        (
            "rewardbench-2",
            '["worth 9"]',
            '"worth 9"',
            "(TypeError: found one text as `chosen` or `rejected`; expected",
        ),
        ("rewardbench", '"worth 3"', "7", "row 0 is not in the authors' schema (InvalidPreference: Response 1 is int"),
        ("realmistake", '"no_error"', '"fine"', "row 1 is not in the authors' schema; expected their files"),
    ],
)
def test_rows_that_are_not_in_the_schema(name, old, new, message, tmp_path):
    MADE[name](tmp_path)
    for path in [*tmp_path.glob("**/*.json*")]:
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ChangedBenchmark) as caught:
        load_benchmark(name, str(tmp_path), check=False)
    assert message in str(caught.value)


# --- private rows ---


@pytest.mark.usefixtures("few_resamples")
def test_private_rows_leave_no_text(tmp_path, capfd, caplog):
    loaded = made("realmistake", tmp_path / "data")
    with caplog.at_level(logging.DEBUG):
        judgments = judge_benchmark(Worth(k=2), loaded, tmp_path / "out" / "judgments", progress="Judging")
        results = benchmark_results(loaded, judgments)
    (tmp_path / "out" / "results.json").write_text(json.dumps([results, loaded.facts]))
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in caplog.text + "".join(capfd.readouterr())
    texts = [critique.text for judgment in judgments for critique in judgment.critiques]
    assert all(text.startswith("blake2b:") for text in texts)
    assert texts[0] != texts[2], "a hash tells texts apart"
    public = made("judgebench-gpt", tmp_path / "public")
    (critique,) = judge_benchmark(Worth(), public, tmp_path / "texts")[0].critiques
    assert critique.text.startswith("I quote q?")


def test_errors_about_private_rows_quote_nothing(tmp_path):
    realmistake(tmp_path, response=SECRET + " worth {}")
    for path in tmp_path.glob("**/*.jsonl"):
        path.write_text(path.read_text().replace(f'"{SECRET} worth 1"', f'["{SECRET}"]'))
    with pytest.raises(ChangedBenchmark) as caught:
        load_benchmark("realmistake", str(tmp_path), check=False)
    assert SECRET not in str(caught.value) and "math_word_problem_generation/gpt4" in str(caught.value)
    assert caught.value.__suppress_context__


def test_errors_of_servers_about_private_rows_quote_nothing(tmp_path):
    """A server that refuses a request may tell it what it was."""

    class Refused(Worth):
        def __call__(self, rows, occurrences=None):
            raise EngineError(f"HTTP 422: {rows[0].query}", row=0, status=422)

    loaded = made("realmistake", tmp_path / "data")
    with pytest.raises(EngineError, match=r"Row .*/0: status 422\. The answer is left out") as caught:
        judge_benchmark(Refused(), loaded, tmp_path / "out")
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown and caught.value.status == 422
    with pytest.raises(EngineError, match=r"Row gpt-4o-2024-05-13\d/0: HTTP 422: q\?"):
        judge_benchmark(Refused(), made("judgebench-gpt", tmp_path / "public"), tmp_path / "texts")


# --- rows of one's own ---

ROWS = [
    {"query": "q?", "responses": ["worth 1", "worth 2"], "labels": [0, 1], "kind": "a", "id": "x"},
    {"query": "q?", "responses": ["worth 5", "worth 2", "also worth 5"], "labels": [9, 1, 2], "kind": "b", "id": "x"},
    {"query": "q?", "responses": ["worth 1"], "labels": [1], "kind": "b", "id": None},
]


@pytest.mark.usefixtures("few_resamples")
def test_rows_of_ones_own(tmp_path):
    loaded = load_rows(rows_benchmark("mine"), ROWS, group_column="kind", where="mine.jsonl")
    assert [item.id for item in loaded.items] == ["x", "x#2", "2"]
    (result,) = benchmark_results(loaded, judge_benchmark(Worth(), loaded, tmp_path))
    assert result["accuracy"] == pytest.approx((1 + 0.5 + 1) / 3) and result["ties"] == 0.5
    assert result["values"]["b"][0] == 0.75
    with pytest.raises(ValueError, match="no column `domain`"):
        load_rows(rows_benchmark("mine"), ROWS, group_column="domain")
    with pytest.raises(ValueError, match="Found metric='f1'"):
        rows_benchmark("mine", "f1")


def test_an_id_of_zero_is_an_id():
    rows = [{**ROWS[0], "id": 7}, {**ROWS[0], "id": 0}, {**ROWS[0], "id": None}]
    loaded = load_rows(rows_benchmark("mine"), rows)
    assert [item.id for item in loaded.items] == ["7", "0", "2"]


def test_rows_keep_the_numbers_of_the_users_file():
    rows = [ROWS[0], {"query": "no responses"}, {**ROWS[2], "id": None}]
    loaded = load_rows(rows_benchmark("mine"), rows, invalid_rows="drop")
    assert [item.id for item in loaded.items] == ["x", "2"]
    assert sum(loaded.facts["dropped"].values()) == 1 and loaded.facts["rows"] == {"mine": 3}


@pytest.mark.usefixtures("few_resamples")
def test_single_responses_by_their_ranking(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": f"worth {i}", "label": i > 1} for i in range(4)]
    loaded = load_rows(rows_benchmark("mine", "roc_auc"), rows)
    assert loaded.benchmark.binary is False and rows_benchmark("mine").binary is True
    (result,) = benchmark_results(loaded, judge_benchmark(Worth(), loaded, tmp_path / "a"))
    assert result["accuracy"] == 1
    (result,) = benchmark_results(loaded, judge_benchmark(Worth(wrong=[0]), loaded, tmp_path / "b"))
    assert result["accuracy"] == 0 and result["metric"] == "ROC-AUC"
    with pytest.raises(ValueError, match="Row 4 has several responses; expected one per row for the metric ROC-AUC"):
        load_rows(rows_benchmark("mine", "roc_auc"), [*rows, {"prompt": "q", "chosen": "a", "rejected": "b"}])


@pytest.mark.usefixtures("few_resamples")
def test_unreadable_critiques_do_not_lower_a_ranking(tmp_path):
    """Scores of different rows are compared as means over the critiques that can be read."""

    class Uneven(Worth):
        def critique(self, row, number):
            critique = super().critique(row, number)
            return replace(critique, scores=None) if number and row.query == "q3" else critique

    rows = [{"prompt": f"q{i}", "completion": f"worth {i}", "label": i > 1} for i in range(4)]
    loaded = load_rows(rows_benchmark("mine", "roc_auc"), rows)
    judgments = judge_benchmark(Uneven(k=4), loaded, tmp_path)
    assert [result["accuracy"] for result in benchmark_results(loaded, judgments)] == [
        pytest.approx(1 - 3 / 4 * 0.5),
        pytest.approx(0.75),
        1,
    ]


def test_samples_are_repeatable(tmp_path):
    loaded = made("rewardbench", tmp_path)
    some = loaded.sampled(3, seed=1)
    assert [item.id for item in some.items] == [item.id for item in loaded.sampled(3, seed=1).items]
    assert some.facts["sampled_items"] == 3 and some.facts["digest"] != loaded.facts["digest"]
    assert loaded.sampled(99) is loaded is loaded.sampled(None)


# --- results ---


@pytest.mark.usefixtures("few_resamples")
def test_every_number_of_votes_from_one_run(tmp_path):
    loaded = made("rewardbench", tmp_path / "data")
    judgments = judge_benchmark(Worth(k=4, wrong=[1], unreadable=[3]), loaded, tmp_path / "out")
    results = benchmark_results(loaded, judgments)
    # One by one: right, wrong, right, unreadable; in pairs: a tie, right; all four: right.
    assert {result["k"]: result["accuracy"] for result in results} == pytest.approx({1: 0.5, 2: 0.75, 4: 1})
    assert {result["unreadable"] for result in results} == {0.25}
    assert json.loads(json.dumps(results)) == results


def test_nothing_is_judged_twice(tmp_path):
    loaded = made("judgebench-gpt", tmp_path / "data")
    first, second = Worth(), Worth()
    judgments = judge_benchmark(first, loaded, tmp_path / "out", rows_per_shard=3)
    assert judge_benchmark(second, loaded, tmp_path / "out", rows_per_shard=3) == judgments
    assert (first.asked, second.asked) == (8, 0)
    assert read_judgments(tmp_path / "out") == judgments
    next((tmp_path / "out").glob("shard-00001*")).unlink()
    with pytest.raises(FileNotFoundError, match="expected those of a finished run"):
        read_judgments(tmp_path / "out")
    assert judge_benchmark(second, loaded, tmp_path / "out", rows_per_shard=3) == judgments and second.asked == 3
    with pytest.raises(FileExistsError, match="wrong"):
        judge_benchmark(Worth(wrong=[0]), loaded, tmp_path / "out", rows_per_shard=3)


@pytest.mark.usefixtures("few_resamples")
def test_judgments_of_other_rows_are_refused(tmp_path):
    loaded = made("judgebench-gpt", tmp_path / "data")
    judgments = judge_benchmark(Worth(), loaded, tmp_path / "out")
    for other in (judgments[:-1], judgments[::-1]):
        with pytest.raises(ValueError, match="not those of the 8 rows of judgebench-gpt"):
            benchmark_results(loaded, other)


def test_intervals_of_clusters():
    """Comparisons of one item go together: an interval over 100 items, not over 300 comparisons."""
    generator = np.random.default_rng(0)
    right = generator.random(100) < 0.7
    clustered = {"all": np.stack([3.0 * right, np.full(100, 3.0)], axis=1)}
    alone = {"all": np.stack([right.astype(float), np.ones(100)], axis=1)}
    metric = METRICS["accuracy"]
    assert with_intervals([clustered], metric) == with_intervals([alone], metric)
    value, low, high = with_intervals([alone], metric)["overall"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(value * (1 - value) / 100), rel=0.1)


def test_comparing_judges(tmp_path):
    rows = [{"query": f"q{i}", "responses": ["worth 1", "worth 2"], "labels": [0, 1]} for i in range(40)]
    loaded = load_rows(rows_benchmark("mine"), rows)
    good = judge_benchmark(Worth(), loaded, tmp_path / "good")
    chance = judge_benchmark(ContentBlindJudge("random"), loaded, tmp_path / "chance")
    found = compare_judges(loaded, chance, good)
    accuracy = benchmark_results(loaded, chance)[0]["accuracy"]
    assert found["difference"] == pytest.approx(1 - accuracy)
    assert 0 < found["low"] < found["difference"] < found["high"]
    same = compare_judges(loaded, good, good)
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    back = compare_judges(loaded, good, chance)
    assert back["difference"] == -found["difference"]
    other = judge_benchmark(ContentBlindJudge("random", 1), loaded, tmp_path / "other")
    unlike = compare_judges(loaded, chance, other)
    assert unlike["low"] < 0 < unlike["high"]


@pytest.mark.usefixtures("few_resamples")
def test_a_value_that_does_not_exist_is_null_with_its_reason(tmp_path):
    """A task of which all labels are the same, and a benchmark of them: valid JSON."""
    rows = [{"prompt": f"q{i}", "completion": f"worth {i}", "label": i > 1, "kind": "ab"[i > 1]} for i in range(4)]
    mixed = load_rows(rows_benchmark("mine", "roc_auc"), rows, group_column="kind")
    (result,) = benchmark_results(mixed, judge_benchmark(Worth(), mixed, tmp_path / "mixed"))
    assert result["accuracy"] == 1 and result["values"] == {"a": None, "b": None}
    assert result["undefined"] == dict.fromkeys("ab", "all labels are the same")
    same = load_rows(rows_benchmark("mine", "roc_auc"), rows[:2])
    judgments = judge_benchmark(Worth(), same, tmp_path / "same")
    results = benchmark_results(same, judgments)
    assert [results[0][name] for name in ("accuracy", "low", "high")] == [None] * 3
    compared = compare_judges(same, judgments, judgments)
    assert compared == {
        **dict.fromkeys(("difference", "low", "high")), "n": 2, "undefined": "all labels are the same",
    }  # fmt: skip
    json.dumps([result, results, compared, diagnose(judgments)], allow_nan=False)


def test_intervals_where_resamples_may_have_one_label_only(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": f"worth {i}", "label": i == 2} for i in range(3)]
    loaded = load_rows(rows_benchmark("mine", "roc_auc"), rows)
    good = judge_benchmark(Worth(), loaded, tmp_path / "good")
    bad = judge_benchmark(Worth(wrong=[0]), loaded, tmp_path / "bad")
    found = compare_judges(loaded, bad, good)
    assert found["difference"] == 1 and found["low"] == 1 and found["high"] == 1
    json.dumps([found, benchmark_results(loaded, good)], allow_nan=False)


@pytest.mark.usefixtures("few_resamples")
def test_units_are_averaged_only_where_that_is_the_same(tmp_path):
    loaded = made("realmistake", tmp_path / "data")
    judgments = judge_benchmark(Worth(k=2, wrong=[1]), loaded, tmp_path / "out")
    assert len(item_units(loaded, judgments, [votes_at(judgment, 1) for judgment in judgments])) == 2
    assert benchmark_results(loaded, judgments)[0]["accuracy"] == 0.5, "the mean of 1 and 0"


# --- from the Hub ---

CLIENT = """
import json
from trl_spct.evaluation.benchmark_loading import load_benchmark

found = load_benchmark("rewardbench", check=False)
missing = []
for name in ("realmistake", "rewardbench-2"):
    try:
        load_benchmark(name, check=False)
    except FileNotFoundError as error:
        missing.append(str(error))
print(json.dumps([found.facts, [item.id for item in found.items], missing]))
"""


def test_benchmarks_from_the_hub(tmp_path):
    """By the real client: the right split, the commit that was read, and what is not there, or lacks its split."""
    row = {"id": 1, "prompt": "q", "chosen": "a", "rejected": "b", "subset": "donotanswer"}
    card = b"---\nconfigs:\n- config_name: default\n  data_files:\n"
    card += b"  - split: raw\n    path: raw.jsonl\n  - split: filtered\n    path: filtered.jsonl\n---\n"
    lines = {name: json.dumps({**row, "id": name}).encode() + b"\n" for name in ("raw", "filtered")}
    files = {"README.md": card, **{f"{name}.jsonl": line for name, line in lines.items()}}
    with HubServer() as hub:
        repository = hub.create("allenai/reward-bench", "dataset", **files)
        hub.create("allenai/reward-bench-2", "dataset", **files)
        done = subprocess.run(
            [sys.executable, "-c", CLIENT], capture_output=True, text=True, timeout=300, cwd=tmp_path,
            env={**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    facts, items, missing = json.loads(done.stdout.splitlines()[-1])
    assert items == ["filtered"] and facts["from"] == ["allenai/reward-bench"]
    assert facts["revisions"] == {"allenai/reward-bench": repository.head}
    assert "could not load ryokamoi/realmistake (math_word_problem_generation), split `gpt4`" in missing[0]
    assert "could not load allenai/reward-bench-2, split `test`" in missing[1] and "your login" in missing[1]
