# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Labels: the rows read, scores and pairs of the votes, resumed judging, and the files that TRL trains on."""

import fnmatch
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import yaml
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import RECIPES
from test_engines import choice, serving
from tiny_models import save_tiny, save_writing

from trl_spct.engines import OpenAIEngine
from trl_spct.evaluation.diagnostics import PROBLEM_ADVICE, UNREADABLE_ADVICE
from trl_spct.jobs import FolderInUseError, locked
from trl_spct.judge.pipelines import GRMRewardPipeline
from trl_spct.judge.preferences import InvalidPreference
from trl_spct.judge.sampling import EngineError, PromptRefusedError, PromptTooLongError
from trl_spct.labeling import writing
from trl_spct.labeling.judgments import JUDGMENT_FEATURES, LabelingJudge, judge_dataset
from trl_spct.labeling.labels import (
    COLUMNS,
    PAIRS,
    best_of_n,
    check_columns,
    mean_scores,
    preference_pairs,
    score_columns,
)
from trl_spct.labeling.rows import prepare_rows
from trl_spct.labeling.writing import NoScoresError, push_labels, report_lines, write_labels, write_labels_card

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = RECIPES / "label.py"
SHORT = {"template": "compact", "max_new_tokens": 32}


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """A judge whose critiques of two responses can all be read, and one of whose none can."""
    folder = tmp_path_factory.mktemp("judges")
    return {"writing": save_writing(folder / "writing"), "mute": save_tiny(folder / "mute")}


@pytest.fixture(scope="module")
def judge(judges):
    from transformers import pipeline

    return pipeline("grm-reward", model=judges["writing"])


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def rows_of(count, n=2):
    return Dataset.from_list(
        [{"prompt": f"q{i}", "responses": [f"{i}-{j}" for j in range(n)], "kept": i} for i in range(count)]
    )


# Rows


def said(text, role="assistant"):
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    ("row", "query", "responses"),
    [
        ({"query": "q", "responses": ["a", "b"], "labels": [1, 1]}, "q", ("a", "b")),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [0.5, 0.5]}, "q", ("a", "b")),
        ({"prompt": "q", "responses": ["a", "b"], "best_index": 7}, "q", ("a", "b")),
        ({"prompt": "q", "completions": ["a", "b", "c"], "prompts": "x"}, "q", ("a", "b", "c")),
        ({"prompt": "q", "completion": "a"}, "q", ("a",)),
        ({"prompt": "q", "completion": "a", "label": None}, "q", ("a",)),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q", ("a", "b")),
        ({"chosen": "Say a", "rejected": "Say b"}, "Say", (" a", " b")),
        ({"prompt": [said("q", "user")], "completion": [said("a")]}, ({"role": "user", "content": "q"},), ("a",)),
        (
            {"prompt": [said("q", "user")], "completions": [[said("a")], [said("b")]]},
            ({"role": "user", "content": "q"},),
            ("a", "b"),
        ),
        (
            {"messages": [said("q", "user"), said("a"), said("r", "user"), said("b")]},
            (said("q", "user"), said("a"), said("r", "user")),
            ("b",),
        ),
        (
            {"chosen": [said("q", "user"), said("a")], "rejected": [said("q", "user"), said("b")]},
            (said("q", "user"),),
            ("a", "b"),
        ),
    ],
)
def test_shapes(row, query, responses):
    """Labels of any kind are neither read nor lost."""
    rows = prepare_rows([{**row, "extra": 1}])
    assert (rows[0].query, rows[0].responses, rows[0].labels) == (query, responses, None)
    assert set(rows.originals.column_names) == {*row, "extra"}
    assert rows.originals[0] == {**row, "extra": 1}


def test_a_source_becomes_query_and_responses():
    row = {"input": "q", "output_1": "a", "output_2": "b", "label": 2, "extra": 1}
    rows = prepare_rows([row])
    assert rows[0].responses == ("a", "b") and rows[0].labels is None
    assert rows.originals[0] == {"query": "q", "responses": ["a", "b"], **row}


def test_no_row_is_dropped_for_its_labels():
    """Sources whose rule needs one best response, and labels without one, lose no row."""
    rows = [{"prompt": "q", "responses": ["a", "b"], "labels": [1.0, 1.0]}, {"prompt": "q", "responses": ["a", "b"]}]
    assert len(prepare_rows(rows)) == 2
    tie = {"input": "q", "output_1": "a", "output_2": "b", "label": 7}
    labeled = prepare_rows([tie])
    assert labeled.dropped == {} and labeled[0].responses == ("a", "b") and labeled.originals["label"] == [7]


def test_references_and_principles_are_read():
    rows = prepare_rows([{"prompt": "q", "responses": ["a"], "reference": "r", "principles": None}])
    assert rows[0].reference == "r" and rows[0].principles is None


BAD = [
    ({"prompt": None, "responses": ["a", "b"]}, "shape"),
    ({"prompt": " ", "responses": ["a", "b"]}, "query"),
    ({"prompt": "q", "responses": []}, "responses"),
    ({"prompt": "q", "responses": None}, "shape"),
    ({"prompt": "q", "responses": ["a", None]}, "responses"),
    ({"prompt": "q", "responses": ["a", " "]}, "empty"),
]


@pytest.mark.parametrize(("bad", "cause"), BAD)
def test_bad_rows_are_named_or_counted(bad, cause):
    good = {"prompt": "q", "responses": ["a", "b"], "kept": None}
    given = [good, {**bad, "kept": 1}, {**good, "kept": 2}]
    with pytest.raises(InvalidPreference, match=r"rows.jsonl row 1: .*invalid_rows") as refused:
        prepare_rows(Dataset.from_list(given), name="rows.jsonl")
    assert refused.value.cause == cause
    rows = prepare_rows(Dataset.from_list(given), invalid_rows="drop")
    assert (rows.num_read, rows.dropped, rows.row_numbers) == (3, {cause: 1}, (0, 2))
    assert len(rows) == 2 and rows.originals["kept"] == [None, 2]


def test_rows_that_mix_types_are_named():
    with pytest.raises(InvalidPreference, match=r"dataset row 1: Response 2 is int \(3\)"):
        prepare_rows([{"prompt": "q", "responses": ["a", "b"]}, {"prompt": "q", "responses": ["a", 3]}])


def test_what_has_no_rows_at_hand_is_refused():
    for rows in (rows_of(2).to_iterable_dataset(), "rows.jsonl", {"train": rows_of(2)}):
        with pytest.raises(TypeError, match="expected a `datasets.Dataset`"):
            prepare_rows(rows)


def test_a_conversation_without_an_answer_is_named():
    given = [{"messages": [said("q", "user"), said("a")]}, {"messages": [said("q", "user")]}]
    with pytest.raises(InvalidPreference, match="row 1"):
        prepare_rows(given)
    assert prepare_rows(given, invalid_rows="drop").dropped == {"shape": 1}
    with pytest.raises(InvalidPreference, match=r"found the columns \['instruction'\]"):
        prepare_rows([{"instruction": "q"}])


# What the votes make of rows, by hand


def judgment(totals, weight=2.0, **changed):
    """A stored judgment of two critiques in the order of the row and its reverse."""
    n = len(totals) if totals else 2
    columns = {
        "text": ["x", "y"],
        "scores": [[total / 2 for total in totals]] * 2 if totals else [None, None],
        "problem": [None, None] if totals else ["missing", "truncated"],
        "order": [list(range(n)), list(reversed(range(n)))],
        "num_tokens": [3, 5],
        "meta_score": [None, None],
        "counted": [bool(totals)] * 2,
    }
    columns |= {name: changed.pop(name) for name in list(changed) if name in columns}
    record = {
        "row": 0,
        "totals": totals,
        "weight": weight if totals else 0.0,
        "best": totals.index(max(totals)) if totals else None,
        "tied": [i for i, total in enumerate(totals) if total == max(totals)] if totals else [],
        "refused": None,
        "blocks": False,
        "truncated": False,
        "critiques": [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)],
    }
    return {**record, **changed}


def stored(*judgments):
    return Dataset.from_list([{**v, "row": i} for i, v in enumerate(judgments)], features=JUDGMENT_FEATURES)


def responses_of(*counts):
    return prepare_rows(
        [{"prompt": f"q{i}", "responses": [f"{i}-{j}" for j in range(n)]} for i, n in enumerate(counts)]
    )


def test_columns():
    """Two critiques, (8, 2) and (3, 5), sum to (11, 7); the second one's own winner is the other response."""
    split = judgment([11.0, 7.0], scores=[[8.0, 2.0], [3.0, 5.0]])
    guided = judgment([8.0, 2.0], 1.0, scores=[[8.0, 2.0], [3.0, 5.0]], counted=[True, False])
    partly = judgment([8.0, 2.0], 1.0, scores=[[8.0, 2.0], None], problem=[None, "count"], counted=[True, False])
    single = judgment([9.0])
    refused = {"refused": "length", "critiques": []}
    rows = responses_of(2, 2, 2, 1, 2, 2, 2)
    judgments = stored(split, guided, partly, single, judgment([4.0, 4.0]), judgment(None), judgment(None, **refused))
    found = score_columns(rows, judgments)
    assert found["scores"] == [[5.5, 3.5], [8.0, 2.0], [8.0, 2.0], [4.5], [2.0, 2.0], None, None]
    assert found["best"] == [0, 0, 0, 0, 0, None, None]
    assert found["tied"] == [[0], [0], [0], [0], [0, 1], [], []]
    assert found["votes"] == [2, 1, 1, 2, 2, 0, 0]
    assert found["confidence"] == [0.5, 1.0, 1.0, None, 0.5, None, None]
    assert found["problems"] == [[], [], ["count"], [], [], ["missing", "truncated"], ["length"]]


def pairs_of(rows, judgments, *arguments, **options):
    skipped, options = Counter(), {"messages": False, **options}
    made = list(preference_pairs(rows, stored(*judgments), *arguments, skipped=skipped, **options))
    return made, dict(skipped)


def test_best_against_worst():
    rows = responses_of(3, 2, 2, 1, 2)
    judgments = [
        judgment([12.0, 16.0, 4.0]),
        judgment([7.0, 7.0]),
        judgment(None),
        judgment([9.0]),
        judgment([9.0, 8.0]),
    ]
    made, skipped = pairs_of(rows, judgments)
    assert made[0] == {
        "prompt": "q0",
        "chosen": "0-1",
        "rejected": "0-2",
        "score_chosen": 8.0,
        "score_rejected": 2.0,
        "score_margin": 6.0,
        "row": 0,
    }
    assert [pair["row"] for pair in made] == [0, 4] and skipped == {"tie": 1, "unreadable": 1, "single": 1}
    made, skipped = pairs_of(rows, judgments, "best-vs-worst", 0.5)
    assert [pair["row"] for pair in made] == [0], "a margin of exactly 0.5 is not more than 0.5"
    assert skipped == {"tie": 1, "unreadable": 1, "single": 1, "margin": 1}


def test_margins_of_three_votes_are_exact():
    """23/3 - 20/3 is not 1 in floating point; (23 - 20)/3 is."""
    rows, votes = responses_of(2), [judgment([16.1, 13.1], 3.0)]
    votes = [judgment([23.0, 20.0], 3.0)]
    assert pairs_of(rows, votes, "all", 1.0) == ([], {"margin": 1})
    ((pair,), _) = pairs_of(rows, votes, "all", 0.999)
    assert pair["score_margin"] == 1.0


def test_any_two_responses():
    made, skipped = pairs_of(responses_of(4), [judgment([8.0, 2.0, 8.0, 6.0])], "all", 1.0)
    found = {(pair["chosen"][-1], pair["rejected"][-1], pair["score_margin"]) for pair in made}
    assert found == {("0", "1", 3.0), ("2", "1", 3.0), ("3", "1", 2.0)}
    assert skipped == {"tie": 1, "margin": 2}


def test_the_place_decides_nothing_where_scores_are_shared():
    rows = responses_of(*[4] * 60)
    judgments = [judgment([8.0, 2.0, 4.0, 2.0])] * 60
    worst = Counter(pair["rejected"][-1] for pair in pairs_of(rows, judgments)[0])
    assert set(worst) == {"1", "3"} and min(worst.values()) > 15
    other = Counter(pair["rejected"][-1] for pair in pairs_of(rows, judgments, "best-vs-random")[0])
    assert set(other) == {"1", "2", "3"} and min(other.values()) > 8
    assert pairs_of(rows, judgments, seed=1) == pairs_of(rows, judgments, seed=1) != pairs_of(rows, judgments, seed=2)
    far = Counter(pair["rejected"][-1] for pair in pairs_of(rows, judgments, "best-vs-random", 2.5)[0])
    assert set(far) == {"1", "3"} and sum(far.values()) == 60, "among those that it may be paired with"


def test_draws_of_pairs_differ_between_rows_with_equal_responses_and_between_equal_rows():
    """Each of 300 draws among three is a coin of its own: each response is drawn 70 to 130 times, four deviations."""
    for queries in ([f"Is {i} prime?" for i in range(300)], ["Is 7 prime?"] * 300):
        rows = prepare_rows([{"prompt": query, "responses": ["a", "b", "c", "d"]} for query in queries])
        pairs, _ = pairs_of(rows, [judgment([8.0, 2.0, 2.0, 2.0])] * 300)
        counts = Counter(pair["rejected"] for pair in pairs)
        assert set(counts) == {"b", "c", "d"} and all(68 <= count <= 132 for count in counts.values()), counts


def test_the_same_text_twice_makes_no_pair():
    rows = prepare_rows([{"prompt": "q", "responses": ["a", "a"]}])
    assert pairs_of(rows, [judgment([8.0, 2.0])]) == ([], {"duplicate": 1})


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5) | st.none(), min_size=1, max_size=5),
    st.sampled_from(PAIRS),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)
@settings(max_examples=30, deadline=None)
def test_every_candidate_is_a_pair_or_counted(sums, pairs, least):
    rows = responses_of(*[2 if totals is None else len(totals) for totals in sums])
    judgments = [judgment(None if totals is None else [float(total) for total in totals], 4.0) for totals in sums]
    made, skipped = pairs_of(rows, judgments, pairs, least)
    for pair in made:
        assert pair["score_margin"] > least and pair["score_chosen"] > pair["score_rejected"]
        assert pair["chosen"] != pair["rejected"]
    several = [len(totals) for totals in sums if totals is not None and len(totals) > 1]
    candidates = sum(n * (n - 1) // 2 if pairs == "all" else 1 for n in several)
    assert len(made) + sum(skipped.values()) == candidates + len(sums) - len(several)


def test_what_pairs_do_not_know_is_refused():
    for arguments, told in ((("worst",), "Found pairs='worst'"), (("all", -1.0), "Found min_margin=-1.0")):
        with pytest.raises(ValueError, match=told):
            pairs_of(responses_of(2), [judgment([8.0, 2.0])], *arguments)


def test_best_of_n_and_messages():
    rows = responses_of(2, 1, 2)
    judgments = stored(judgment([2.0, 8.0]), judgment([9.0]), judgment(None))
    assert list(best_of_n(rows, judgments, messages=False)) == [
        {"prompt": "q0", "completion": "0-1", "score": 4.0, "row": 0},
        {"prompt": "q1", "completion": "1-0", "score": 4.5, "row": 1},
    ]
    first = next(best_of_n(rows, judgments))
    assert (first["prompt"], first["completion"]) == ([said("q0", "user")], [said("0-1")])


def test_columns_that_are_there_are_refused():
    rows = prepare_rows([{"prompt": "q", "responses": ["a", "b"], "scores": [1, 0], "votes": 3}])
    with pytest.raises(ValueError, match=r"columns \['scores', 'votes'\] in the rows.*prefix"):
        check_columns(rows)
    check_columns(rows, "judge_")


# Judging


def collected(judge, rows, folder, k=2, **options):
    """Judgments, with options of the run beside those of the pipeline."""
    options = {**SHORT, **options}
    names = ("rows_per_shard", "invalid_rows", "process_index", "num_processes", "wait")
    run = {name: options.pop(name) for name in names if name in options}
    return judge_dataset(LabelingJudge(judge, k, **options), rows, folder, **run)


def texts_of(judgments):
    return [[critique["text"] for critique in record["critiques"]] for record in judgments]


def test_judgments_are_those_of_the_pipeline(judge, tmp_path):
    rows = prepare_rows(rows_of(5))
    judgments = collected(judge, rows, tmp_path, k=3, seed=4)
    expected = judge(list(rows), k=3, seed=4, **SHORT)
    assert judgments["totals"] == [found["scores"] for found in expected]
    assert texts_of(judgments) == [[critique["text"] for critique in found["critiques"]] for found in expected]
    assert [mean_scores(v) for v in judgments] == [[total / 3 for total in found["scores"]] for found in expected]


def test_nothing_is_judged_twice(judge, tmp_path, monkeypatch):
    rows = prepare_rows(rows_of(7))
    whole = collected(judge, rows, tmp_path / "whole", rows_per_shard=2)
    for process in (1, 0):
        done = {"process_index": process, "num_processes": 2, "rows_per_shard": 2}
        if process:
            with pytest.raises(FileNotFoundError):
                collected(judge, rows, tmp_path / "shared", **done)
        else:
            shared = collected(judge, rows, tmp_path / "shared", **done)
    assert shared["totals"] == whole["totals"]
    (tmp_path / "whole" / "shard-00001.parquet").unlink()
    judged = []
    original = LabelingJudge.__call__

    def noting(self, rows, occurrences=None):
        judged.extend(row.query for row in rows)
        return original(self, rows, occurrences)

    monkeypatch.setattr(LabelingJudge, "__call__", noting)
    again = collected(judge, rows, tmp_path / "whole", rows_per_shard=2)
    assert judged == ["q2", "q3"] and again["critiques"] == whole["critiques"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"k": 3}, "k: 2 there, 3 now"), ({"early_stopping": "exact"}, "early_stopping: None there")],
)
def test_another_configuration_is_refused(judge, tmp_path, changed, named):
    rows = prepare_rows(rows_of(2))
    collected(judge, rows, tmp_path)
    with pytest.raises(FileExistsError, match=named):
        collected(judge, rows, tmp_path, **changed)
    with pytest.raises(FileExistsError, match="data: "):
        collected(judge, prepare_rows(rows_of(2, n=3)), tmp_path)


def test_columns_that_only_some_rows_have():
    rows = prepare_rows([{"prompt": "q", "responses": ["a"]}, {"prompt": "q", "responses": ["a"], "kept": 1}])
    assert rows.originals["kept"] == [None, 1]


def test_rows_that_do_not_fit(judge, tmp_path, monkeypatch):
    """Named by their number among the rows that were read, before any row is judged; or left without scores."""
    given = rows_of(6).to_list()
    given[1]["responses"] = ["", "b"]
    given[4]["responses"] = ["long " * 400, "b"]
    monkeypatch.setattr(judge.model.config, "max_position_embeddings", 2048)
    rows = prepare_rows(given, invalid_rows="drop")
    with pytest.raises(PromptTooLongError, match='Row 4: the prompt has .*`truncation=.fair.`.*"drop"'):
        collected(judge, rows, tmp_path / "error", rows_per_shard=1)
    assert not list((tmp_path / "error").glob("shard-*"))
    judgments = collected(judge, rows, tmp_path / "drop", invalid_rows="drop")
    found = score_columns(rows, judgments)
    assert found["problems"] == [[], [], [], ["length"], []]
    assert [scores is None for scores in found["scores"]] == [False, False, False, True, False]
    report = write_labels(rows, judgments, tmp_path / "drop")
    assert report["rows"]["dropped"] == {"empty": 1} and report["unscored"] == {"length": 1}
    assert report["pairs"]["skipped"] == {"unreadable": 1}
    cut = collected(judge, rows, tmp_path / "cut", truncation="fair")
    assert cut["truncated"] == [False, False, False, True, False] and None not in cut["totals"]


def test_rows_in_blocks(judge, tmp_path):
    rows = prepare_rows(rows_of(3, n=4))
    judgments = collected(judge, rows, tmp_path, max_responses_per_prompt=2)
    expected = judge(list(rows), k=2, seed=0, max_responses_per_prompt=2, **SHORT)
    for record, found in zip(judgments, expected, strict=True):
        assert record["blocks"] and mean_scores(record) == [total / 2 for total in found["scores"]]
    assert score_columns(rows, judgments)["confidence"] == [None] * 3
    write_labels(rows, judgments, tmp_path / "labels", pairs="all")
    assert LabelingJudge(judge, 2, max_responses_per_prompt=2, **SHORT).protocol["max_responses_per_prompt"] == 2


def test_stopped_early(judge, tmp_path):
    """Means are of the votes that there are."""
    rows = prepare_rows(rows_of(12))
    judgments = collected(judge, rows, tmp_path, k=8, early_stopping=0.3)
    drawn = [len(record["critiques"]) for record in judgments]
    assert min(drawn) < 8
    for record, count in zip(judgments, drawn, strict=True):
        assert record["weight"] == count
        columns = list(zip(*(critique["scores"] for critique in record["critiques"]), strict=True))
        assert mean_scores(record) == [sum(column) / count for column in columns]


def test_a_chat_template_that_refuses_a_prompt_names_the_row(judge, tmp_path, monkeypatch):
    """By its number among the rows read, before any row is judged, with what to do; also where rows may be dropped."""
    template = "{% if 'q4' in messages[0]['content'] %}{{ raise_exception('No q4') }}{% endif %}"
    monkeypatch.setattr(judge.tokenizer, "chat_template", template + judge.tokenizer.chat_template)
    given = [{"prompt": "q0", "responses": ["", "b"], "kept": 0}, *rows_of(6).to_list()[1:]]
    rows = prepare_rows(given, invalid_rows="drop")
    for invalid_rows in ("error", "drop"):
        with pytest.raises(ValueError, match="Row 4: the judge's tokenizer cannot render the prompt .*No q4"):
            collected(judge, rows, tmp_path / invalid_rows, invalid_rows=invalid_rows, rows_per_shard=64)
        assert not list((tmp_path / invalid_rows).glob("shard-*"))


# Servers


def refusing(refusals):
    """Scores (9, 2), and refuses prompts with some of the words."""

    def answer(path, body, number):
        if path.endswith("/models"):
            return {"data": [{"id": "judge"}]}
        text = body["messages"][0]["content"]
        refusal = next((refusal for word, refusal in refusals.items() if word in text), None)
        return refusal or {"choices": [choice(r"\boxed{9, 2}", i) for i in range(body.get("n", 1))]}

    return answer


FILTERED = (400, {}, {"error": {"code": "content_filter", "message": "The prompt triggered the content policy."}})
TOO_LONG = (400, {}, {"error": {"message": "This model's maximum context length is 512 tokens.", "type": "x"}})


def test_rows_that_a_server_refuses(tmp_path):
    """Named by their number among the rows read; or counted by cause, with all others labeled. Either way the same
    folder is resumed, and nothing that is written is judged again."""
    given = [{"prompt": f"q{i}", "responses": [f"{i}-a", f"{i}-b"]} for i in range(6)]
    given[0]["responses"] = ["", "b"]
    given[3]["prompt"], given[5]["prompt"] = "violent q3", "endless q5"
    rows = prepare_rows(given, invalid_rows="drop")
    options = {"rows_per_shard": 1, "order": "fixed"}
    with serving(refusing({"violent": FILTERED, "endless": TOO_LONG})) as server:
        pipe = GRMRewardPipeline(OpenAIEngine("judge", base_url=server.url), meta_rm=None)
        with pytest.raises(PromptRefusedError, match=r'Row 3: .*content policy.*shards are kept.*"drop"') as refused:
            collected(pipe, rows, tmp_path, **options)
        assert (refused.value.row, set(refused.value.refusals)) == (3, {3})
        assert len(list(tmp_path.glob("shard-*"))) == 2, "rows 1 and 2 of those read"
        before = len(server.bodies)
        judgments = collected(pipe, rows, tmp_path, invalid_rows="drop", **options)
        again = server.bodies[before:]
        assert not [body for body in again for word in ("q1", "q2") if word in body["messages"][0]["content"]]
        length = judgments["refused"][4]
        assert judgments["refused"] == [None, None, "content_filter", None, length] and "length" in length
        batched = collected(pipe, rows, tmp_path / "b", invalid_rows="drop", order="fixed")
    assert batched["totals"] == judgments["totals"] == [[18.0, 4.0], [18.0, 4.0], None, [18.0, 4.0], None]
    report = write_labels(rows, judgments, tmp_path / "labels")
    assert report["unscored"] == {"content_filter": 1, length: 1} and report["problems"] == {}
    assert report["pairs"]["made"] == 3 and report["pairs"]["skipped"] == {"unreadable": 2}
    pairs = Dataset.from_parquet(str(tmp_path / "labels" / "preferences" / "data.parquet"))
    assert pairs["row"] == [1, 2, 4] and score_columns(rows, judgments)["problems"][2] == ["content_filter"]


def test_a_server_that_refuses_every_row(tmp_path):
    rows = prepare_rows([{"prompt": f"violent q{i}", "responses": ["a", "b"]} for i in range(3)])
    with serving(refusing({"violent": FILTERED})) as server:
        pipe = GRMRewardPipeline(OpenAIEngine("judge", base_url=server.url), meta_rm=None)
        judgments = collected(pipe, rows, tmp_path, invalid_rows="drop")
    with pytest.raises(NoScoresError, match=r"none of 3 rows.*content_filter 3.*content_filter: the server refuses"):
        write_labels(rows, judgments, tmp_path / "labels")


def test_a_server_that_fails_names_the_row(tmp_path):
    given = [{"prompt": "q0", "responses": ["", "b"]}, {"prompt": "broken", "responses": ["a", "b"]}]
    rows = prepare_rows(given, invalid_rows="drop")
    with serving(refusing({"broken": (401, {}, {"error": {"message": "Wrong key."}})})) as server:
        pipe = GRMRewardPipeline(OpenAIEngine("judge", base_url=server.url), meta_rm=None)
        with pytest.raises(EngineError, match="Row 1: .*Wrong key.*shards are kept"):
            collected(pipe, rows, tmp_path, invalid_rows="drop")


# Empty responses


def test_empty_responses_are_left_out_and_the_row_stays(tmp_path, no_cache):
    """Scores and winners are numbered as in the row that was read."""
    given = [
        {"prompt": "q0", "responses": ["a", "", "b", None]},
        {"prompt": "q1", "responses": ["a", "b", "c", "d"]},
        {"prompt": "q2", "responses": [None, " ", "b", ""]},
        {"prompt": "q3", "responses": [None, " "]},
    ]
    with pytest.raises(InvalidPreference, match=r"row 0: "):
        prepare_rows(given)
    rows = prepare_rows(given, invalid_rows="drop", invalid_responses="drop")
    assert [row.responses for row in rows] == [("a", "b"), ("a", "b", "c", "d"), ("b",)]
    assert rows.num_read == 4 and sum(rows.dropped.values()) == 1
    judgments = stored(judgment([2.0, 8.0]), judgment([8.0, 2.0, 8.0, 4.0]), judgment([6.0]))
    columns = score_columns(rows, judgments)
    assert columns["scores"] == [[1.0, None, 4.0, None], [4.0, 1.0, 4.0, 2.0], [None, None, 3.0, None]]
    assert columns["best"] == [2, 0, 2] and columns["tied"] == [[2], [0, 2], [2]]
    report = write_labels(rows, judgments, tmp_path)
    assert report["rows"]["shortened"] == 2 and report["ties"] == 0.5
    assert "(2 without empty responses)" in report_lines(report)[0]
    scores = load_dataset("parquet", data_files=str(tmp_path / "scores" / "*.parquet"), split="train")
    for row in scores:
        assert row["responses"][row["best"]] and len(row["responses"]) == len(row["scores"])
        assert [score is None for score in row["scores"]] == [not (r or "").strip() for r in row["responses"]]
    pairs = load_dataset("parquet", data_files=str(tmp_path / "preferences" / "*.parquet"), split="train")
    assert pairs[0]["chosen"] == [said("b")] and pairs[0]["rejected"] == [said("a")]
    best = load_dataset("parquet", data_files=str(tmp_path / "best_of_n" / "*.parquet"), split="train")
    assert [row["completion"][0]["content"] for row in best] == ["b", "a", "b"]


# Conversations with tools


def calling(city):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def conversations():
    """A row whose responses call a tool with different arguments, and one whose responses are texts."""
    result = {"role": "tool", "content": "18 degrees", "tool_call_id": "1", "name": "weather"}
    called = [[calling("Rome"), result, said("Warm.")], [calling("Bonn"), result, said("Cold.")]]
    plain = [[said("Hello.")], [said("Go away.")]]
    return [
        {"prompt": [said("Weather in Rome?", "user")], "responses": called, "system": "Be brief.", "tools": [TOOL]},
        {"prompt": [said("Hi!", "user")], "responses": plain, "system": None, "tools": None},
    ]


def without_none(value):
    if isinstance(value, dict):
        return {name: without_none(item) for name, item in value.items() if item is not None or name == "content"}
    return [*map(without_none, value)] if isinstance(value, list) else value


@pytest.mark.parametrize("where", ["memory", "file"])
def test_conversations_are_written_as_they_were_read(where, tmp_path, no_cache):
    given = conversations()
    if where == "file":
        written(tmp_path / "rows.jsonl", given)
        given = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train")
    rows = prepare_rows(given)
    assert "Rome" in rows[0].responses[0] and rows[0].responses[0] != rows[0].responses[1]
    assert "Be brief." in str(rows[0].query) and "weather" in str(rows[0].query)
    write_labels(rows, stored(judgment([8.0, 2.0]), judgment([2.0, 8.0])), tmp_path / "out", messages=False)
    pairs = load_dataset("parquet", data_files=f"{tmp_path}/out/preferences/*.parquet", split="train")
    first, second = conversations()
    assert pairs[0]["prompt"] == [said("Be brief.", "system"), *first["prompt"]]
    assert without_none(pairs[0]["chosen"]) == first["responses"][0]
    assert without_none(pairs[0]["rejected"]) == first["responses"][1]
    assert without_none(json.loads(pairs[0]["tools"])) == first["tools"]
    assert pairs[1]["prompt"] == second["prompt"] and pairs[1]["chosen"] == [said("Go away.")]
    assert pairs[1]["tools"] is None
    best = load_dataset("parquet", data_files=f"{tmp_path}/out/best_of_n/*.parquet", split="train")
    assert without_none(best[0]["completion"]) == first["responses"][0]


TOOL_TEMPLATE = """{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}{% for message in messages -%}
<start_of_turn>{{ message.role }}
{{ message.content or '' }}{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor -%}
<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant
{% endif %}"""


def test_trl_trains_on_conversations_with_tools(tmp_path, no_cache):
    """The arguments of the calls, and of the tools, reach the tokens."""
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    policy = save_tiny(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = TOOL_TEMPLATE
    tokenizer.save_pretrained(policy)
    rows = prepare_rows(conversations() * 4)
    write_labels(rows, stored(*[judgment([8.0, 2.0]), judgment([2.0, 8.0])] * 4), tmp_path)
    parts = {
        name: load_dataset("parquet", data_files=f"{tmp_path}/{name}/*.parquet", split="train")
        for name in ("preferences", "best_of_n")
    }
    for trainer_class, config_class in ((DPOTrainer, DPOConfig), (KTOTrainer, KTOConfig)):
        trainer, log = train(trainer_class, config_class, policy, tmp_path / "out", parts["preferences"])
        assert 0.3 < log["loss"] < 0.8
        if trainer_class is DPOTrainer:
            prompt, chosen = (
                tokenizer.decode(trainer.train_dataset[0][name]) for name in ("prompt_ids", "chosen_ids")
            )
            assert prompt.startswith("[weather]") and "Be brief." in prompt
            assert '{"city": "Rome"}' in chosen and "18 degrees" in chosen and "Bonn" not in chosen
    reward, log = train(RewardTrainer, RewardConfig, policy, tmp_path / "rm", parts["preferences"])
    assert log["loss"] == pytest.approx(math.log(2), abs=0.15)
    train(SFTTrainer, SFTConfig, policy, tmp_path / "sft", parts["best_of_n"])


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [said("q", "user"), calling("Rome")], "rejected": [said("q", "user"), calling("Bonn")]},
        {"prompt": "q", "chosen": [calling("Rome")], "rejected": [calling("Bonn")]},
        {"query": "q", "completions": [[calling("Rome")], [calling("Bonn")]]},
        {"question": "q", "responses": [[calling("Rome")], [calling("Bonn")]]},
    ],
)
def test_every_shape_keeps_its_messages(row, tmp_path, no_cache):
    rows = prepare_rows([row], prompt_column="question" if "question" in row else None)
    write_labels(rows, stored(judgment([8.0, 2.0])), tmp_path)
    (pair,) = load_dataset("parquet", data_files=f"{tmp_path}/preferences/*.parquet", split="train")
    assert pair["prompt"] == [said("q", "user")]
    assert without_none(pair["chosen"]) == [calling("Rome")] and without_none(pair["rejected"]) == [calling("Bonn")]


# Ties


def all_equal(path, body, number):
    if path.endswith("/models"):
        return {"data": [{"id": "judge"}]}
    return {"choices": [choice(r"\boxed{5, 5, 5, 5}", i) for i in range(body.get("n", 1))]}


def test_the_best_of_tied_responses_is_spread(tmp_path):
    """200 rows with the same four responses, all of which tie: each is best about 50 times (four deviations: 24)."""
    given = [{"prompt": f"Is {i} prime?", "responses": ["Yes", "No", "Maybe", "Who knows"]} for i in range(200)]
    with serving(all_equal) as server:
        pipe = GRMRewardPipeline(OpenAIEngine("judge", base_url=server.url), meta_rm=None)
        judgments = collected(pipe, prepare_rows(given), tmp_path, 1, temperature=0.5)
        again = collected(pipe, prepare_rows(given), tmp_path / "again", 1, temperature=0.5)
    counts = Counter(judgments["best"])
    assert all(tied == [0, 1, 2, 3] for tied in judgments["tied"]) and judgments["best"] == again["best"]
    assert len(counts) == 4 and all(26 <= count <= 74 for count in counts.values()), counts


# What is written


@pytest.fixture(scope="module")
def labels(judge, tmp_path_factory):
    """A finished folder of labels, and its report."""
    folder = tmp_path_factory.mktemp("made") / "labels"
    rows = prepare_rows(rows_of(12))
    judgments = collected(judge, rows, folder / "judgments")
    report = write_labels(rows, judgments, folder)
    protocol = LabelingJudge(judge, 2, **SHORT).protocol
    write_labels_card(folder, report, protocol, "someone/prompts", "someone/labels")
    return folder, report


def test_a_folder_loads_by_the_names_on_its_card(labels, no_cache):
    folder, report = labels
    scores = load_dataset(str(folder), "scores", split="train")
    assert scores.column_names == ["prompt", "responses", "kept", *COLUMNS] and scores["kept"] == [*range(12)]
    pairs = load_dataset(str(folder), split="train")
    assert pairs.column_names[:3] == ["prompt", "chosen", "rejected"], "pairs are the default"
    assert len(pairs) == report["pairs"]["made"] and min(pairs["score_margin"]) > 0
    for pair in pairs:
        row = scores[pair["row"]]
        assert pair["prompt"] == [said(row["prompt"], "user")]
        assert pair["chosen"] == [said(row["responses"][row["best"]])]
        assert pair["score_margin"] == pytest.approx(max(row["scores"]) - min(row["scores"]))
    assert len(load_dataset(str(folder), "best_of_n", split="train")) == 12
    assert load_dataset(str(folder), "judgments", split="train")["row"] == [*range(12)]


def test_the_card_and_the_report_say_the_same(labels):
    folder, report = labels
    assert report == json.loads((folder / "report.json").read_text())
    assert report["rows"] == {"read": 12, "dropped": {}, "judged": 12, "cut": 0, "shortened": 0}
    assert report["critiques"] == 24 and report["unreadable"] == 0
    assert report["pairs"]["made"] + sum(report["pairs"]["skipped"].values()) == 12
    text = (folder / "README.md").read_text()
    card = yaml.safe_load(text.split("---")[1])
    assert card["source_datasets"] == ["someone/prompts"]
    assert [config["config_name"] for config in card["configs"]] == ["preferences", "best_of_n", "scores", "judgments"]
    assert 'load_dataset("someone/labels", "preferences", split="train")' in text
    assert f"| {report['pairs']['made']}, mean margin {report['pairs']['margin']:.2f} |" in text
    assert str(folder.parent) not in text and "{{" not in text and "\n\n\n" not in text
    assert any(f"{report['pairs']['made']}, mean margin" in line for line in report_lines(report))
    assert UNREADABLE_ADVICE not in report_lines(report)
    lines = report_lines({**report, "unreadable": 0.9, "problems": {"truncated": 20, "count": 2}})
    assert lines[-1] == UNREADABLE_ADVICE and f"truncated: {PROBLEM_ADVICE['truncated']}" in lines


def train(trainer_class, config_class, judge, folder, rows, **options):
    """One step; returns what was logged of it."""
    args = config_class(
        str(folder), max_steps=1, per_device_train_batch_size=4, learning_rate=0.1, use_cpu=True, bf16=False,
        report_to="none", save_strategy="no", disable_tqdm=True, gradient_checkpointing=False, logging_steps=1,
        **options,
    )  # fmt: skip
    trainer = trainer_class(judge, args=args, train_dataset=rows)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    changed = [name for name, weight in trainer.model.named_parameters() if not weight.equal(before[name])]
    assert trainer.state.global_step == 1 and changed
    return trainer, trainer.state.log_history[0]


@pytest.mark.parametrize("messages", [True, False])
def test_trl_trains_on_them_as_they_are(labels, judges, judge, tmp_path, no_cache, messages):
    """The first loss of a trainer that compares is about ln 2: no column shifts the comparison."""
    from trl import (
        DPOConfig,
        DPOTrainer,
        KTOConfig,
        KTOTrainer,
        RewardConfig,
        RewardTrainer,
        SFTConfig,
        SFTTrainer,
    )

    folder, _ = labels
    if not messages:
        rows = prepare_rows(rows_of(12))
        write_labels(rows, collected(judge, rows, folder / "judgments"), tmp_path, messages=False)
        folder = tmp_path
    parts = {
        name: load_dataset("parquet", data_files=f"{folder}/{name}/*.parquet", split="train")
        for name in ("preferences", "best_of_n")
    }
    assert isinstance(parts["preferences"][0]["chosen"], list) is messages
    for trainer_class, config_class in ((DPOTrainer, DPOConfig), (KTOTrainer, KTOConfig)):
        trainer, log = train(trainer_class, config_class, judges["mute"], tmp_path / "out", parts["preferences"])
        assert 0.3 < log["loss"] < 0.8
    reward, log = train(RewardTrainer, RewardConfig, judges["mute"], tmp_path / "rm", parts["preferences"])
    assert log["loss"] == pytest.approx(math.log(2), abs=0.15)
    train(SFTTrainer, SFTConfig, judges["mute"], tmp_path / "sft", parts["best_of_n"])
    if messages:
        pair = parts["preferences"][0]
        rendered = reward.processing_class.apply_chat_template(pair["prompt"] + pair["chosen"], tokenize=False)
        (chosen,) = [row["chosen_ids"] for row in reward.train_dataset.select([0])]
        assert reward.processing_class.decode(chosen) == rendered


def test_a_judge_that_cannot_be_read_makes_no_labels(judges, tmp_path, no_cache, capsys):
    """It ends with an error, keeps the judgments, and leaves labels of an earlier run as they were."""
    rows = written(tmp_path / "rows.jsonl", rows_of(3))
    label(
        "--model_name_or_path", judges["writing"], "--dataset_name", rows, "--output_dir", tmp_path / "out",
        "--template", "compact", "--max_new_tokens", 32, "--k", 2,
    )  # fmt: skip
    (tmp_path / "out" / "judgments").rename(tmp_path / "elsewhere")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(NoScoresError, match=r"none of 3 rows.*\(truncated 6\).*max_new_tokens") as refused:
        label(
            "--model_name_or_path", judges["mute"], "--dataset_name", rows, "--output_dir", tmp_path / "out",
            "--template", "compact", "--max_new_tokens", 4, "--k", 2,
        )  # fmt: skip
    folder = tmp_path / "out" / "judgments"
    assert str(folder) in str(refused.value) and len(list(folder.glob("shard-*.parquet"))) == 1
    assert {path: path.read_bytes() for path in before} == before


def test_without_a_pair_there_is_no_default(tmp_path, no_cache):
    rows = responses_of(2, 2)
    report = write_labels(rows, stored(judgment([4.0, 4.0]), judgment([4.0, 4.0])), tmp_path)
    write_labels_card(tmp_path, report, {"model": "judge", "k": 2})
    card = yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])
    assert [config["config_name"] for config in card["configs"]] == ["best_of_n", "scores"]
    assert not any(config.get("default") for config in card["configs"])
    assert len(load_dataset(str(tmp_path), "best_of_n", split="train")) == 2


def test_what_is_pushed(labels, monkeypatch):
    """All that the card names, and not the manifest, which may name places on this machine."""
    folder, _ = labels
    asked = []
    monkeypatch.setattr(writing, "push_folder", lambda *given: asked.append(given) or "address")
    assert push_labels(folder, "someone/labels", private=True) == "address"
    (_, repo_id, kind, _, names, private, token), *_ = asked
    assert (repo_id, kind, private, token) == ("someone/labels", "dataset", True, None)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pushed = {name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in names)}
    parts = {f"{part}/data.parquet" for part in writing.PARTS}
    assert pushed == {*parts, "README.md", "report.json", "judgments/shard-00000.parquet"}
    assert "judgments/manifest.json" in files


PUSH = """
import sys
from trl_spct.labeling.writing import push_labels
print(push_labels(sys.argv[1], "someone/labels", private=True))
"""


@pytest.mark.slow
def test_a_push_to_a_hub(labels, tmp_path):
    from hub_server import HubServer

    folder, _ = labels
    with HubServer() as hub:
        environment = {**os.environ, **hub.environment(tmp_path)}
        command = [sys.executable, "-c", PUSH, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        repository = hub.repositories["dataset", "someone/labels"]
    assert repository.private and {"README.md", "scores/data.parquet"} <= set(repository.files)
    assert not [name for name in repository.files if "manifest" in name or ".cache" in name]


# The recipe


def recipe():
    spec = importlib.util.spec_from_file_location("label", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def label(*arguments):
    module = recipe()
    module.main(*module.make_parser().parse_args_and_config([str(argument) for argument in arguments]))


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_recipe_from_flags(judges, tmp_path, no_cache, monkeypatch, capsys):
    rows = written(tmp_path / "rows.jsonl", [*rows_of(6), {"prompt": "q", "responses": ["", "b"]}])
    asked = ["--model_name_or_path", judges["writing"], "--dataset_name", rows, "--output_dir", tmp_path / "labels"]
    asked += ["--template", "compact", "--max_new_tokens", 32, "--k", 2, "--rows_per_shard", 2]
    with pytest.raises(InvalidPreference, match=r"rows.jsonl row 6: Response 1 is empty"):
        label("--model_name_or_path", "not/there", *asked[2:])
    label(*asked, "--invalid_rows", "drop")
    report = json.loads((tmp_path / "labels" / "report.json").read_text())
    assert report["rows"] == {"read": 7, "dropped": {"empty": 1}, "judged": 6, "cut": 0, "shortened": 0}
    assert "7 rows read, 1 (empty 1) dropped, 6 judged" in capsys.readouterr().out
    protocol = json.loads((tmp_path / "labels" / "README.md").read_text().split("```json\n")[1].split("```")[0])
    assert protocol["model"] == "writing" and protocol["k"] == 2 and protocol["template"] == "compact"

    cost = report["cost"]
    assert cost["written"] == sum(c["num_tokens"] for record in critiques_of(tmp_path) for c in record)
    assert cost["read"] > cost["written"] > 0 == cost["scored"] and "money" not in cost
    monkeypatch.setattr(LabelingJudge, "__call__", lambda *args, **options: pytest.fail("judged again"))
    label(*asked, "--invalid_rows", "drop", "--prices", 2, 8)
    paid = json.loads((tmp_path / "labels" / "report.json").read_text())["cost"]
    assert paid == {**cost, "prices": [2, 8], "money": (2 * cost["read"] + 8 * cost["written"]) / 1e6}
    line = f"{cost['read']:,} tokens read, {cost['written']:,} written, {cost['seconds']:,.1f} s"
    assert f"cost: {line}, {paid['money']:,.4g} at 2 and 8 a million" in capsys.readouterr().out
    assert f"| cost | {line}, " in (tmp_path / "labels" / "README.md").read_text()
    more = ["--invalid_rows", "drop", "--pairs", "all", "--min_margin", 1000, "--messages", "--prefix", "judge_"]
    label(*asked, *more)
    report = json.loads((tmp_path / "labels" / "report.json").read_text())
    assert report["pairs"]["made"] == 0 and report["pairs"]["min_margin"] == 1000
    columns = load_dataset(str(tmp_path / "labels"), "scores", split="train").column_names
    assert "judge_scores" in columns and "scores" not in columns


def critiques_of(folder):
    return load_dataset(str(folder / "labels"), "judgments", split="train")["critiques"]


KEY = "sk-s3cret"


def test_a_judge_on_a_server(judges, tmp_path, no_cache, caplog):
    """It prefers what it reads first: the orders are balanced, so that all rows tie and none makes a pair."""

    def answer(path, body, number):
        if path.endswith("/models"):
            return {"data": [{"id": "judge", "max_model_len": 4096}]}
        return {"choices": [choice(r"\boxed{9, 2}", i, chat=False) for i in range(body.get("n", 1))]}

    rows = written(tmp_path / "rows.jsonl", [*rows_of(3), {"prompt": "long", "responses": ["a" * 5000, "b"]}])
    with serving(answer) as server:
        label(
            *[
                "--dataset_name",
                rows,
                "--base_url",
                server.url,
                "--tokenizer_name_or_path",
                judges["writing"],
                "--k",
                4,
            ],
            *["--api_key", KEY],
            *[
                "--template",
                "compact",
                "--max_new_tokens",
                16,
                "--invalid_rows",
                "drop",
                "--output_dir",
                tmp_path / "out",
            ],
        )
        asked = server.bodies
    assert sum(body["n"] for body in asked) == 12 and all(isinstance(body["prompt"][0], int) for body in asked)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["unscored"] == {"length": 1} and report["ties"] == 1 and report["score"] == 5.5
    assert report["pairs"]["skipped"] == {"tie": 3, "unreadable": 1}
    card = (tmp_path / "out" / "README.md").read_text()
    assert server.url not in card and '"engine": "OpenAIEngine"' in card
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    written_files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written_files) > 5 and not [path for path in written_files if KEY.encode() in path.read_bytes()]
    assert KEY not in caplog.text


def test_a_judge_on_a_server_reads_the_prompt_that_it_was_trained_with(tmp_path, no_cache, caplog):
    """Its config names it; without one the absence is said."""
    from transformers import AutoConfig

    judge = save_writing(tmp_path / "judge")
    config = AutoConfig.from_pretrained(judge)
    config.grm = {"template": "compact"}
    config.save_pretrained(judge)
    rows = written(tmp_path / "rows.jsonl", rows_of(1))
    asked = ["--dataset_name", rows, "--max_new_tokens", 16, "--k", 1]
    with serving(refusing({})) as server:
        asked += ["--base_url", server.url]
        label("--model_name_or_path", judge, *asked, "--output_dir", tmp_path / "named")
        label(*asked, "--output_dir", tmp_path / "unnamed")
        prompts = [body["messages"][0]["content"] for body in server.bodies]
    assert [prompt.startswith("Name the criteria") for prompt in prompts] == [True, False]
    assert "since the server names none" in caplog.text


def test_prompts_of_ones_own(judges, tmp_path, no_cache):
    (tmp_path / "prompt.txt").write_text("Be fair.\n{conversation}\n{responses}\nEnd with \\boxed{...}.")
    rows = written(tmp_path / "rows.jsonl", rows_of(2))
    asked = ["--dataset_name", rows, "--max_new_tokens", 16, "--k", 1, "--template", tmp_path / "prompt.txt"]
    with serving(refusing({})) as server:
        label(*asked, "--base_url", server.url, "--output_dir", tmp_path / "out")
        assert all(body["messages"][0]["content"].startswith("Be fair.") for body in server.bodies)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["unreadable"] == 0


def test_a_guidance_needs_a_meta_rm(judges, tmp_path, no_cache):
    rows = written(tmp_path / "rows.jsonl", rows_of(1))
    for guide in (["--guide", "soft"], ["--k_meta", "2"]):
        with pytest.raises(ValueError, match="without a Meta RM"):
            label("--model_name_or_path", judges["writing"], "--dataset_name", rows, *guide, "--output_dir", tmp_path)


def test_one_run_writes_into_a_folder(judge, tmp_path):
    rows = prepare_rows(rows_of(2))
    with locked(tmp_path), pytest.raises(FolderInUseError, match="in use by another run"):
        collected(judge, rows, tmp_path)
    assert len(collected(judge, rows, tmp_path)) == 2


def test_a_run_that_judged_nothing_claims_no_folder(tmp_path, no_cache):
    """The option that its error names is accepted there."""
    from transformers import AutoConfig

    judge = save_writing(tmp_path / "judge")
    config = AutoConfig.from_pretrained(judge)
    config.max_position_embeddings = 2048
    config.save_pretrained(judge)
    given = [{"prompt": "q", "responses": ["long " * 800, "b"], "kept": 0}, *rows_of(1)]
    rows = written(tmp_path / "rows.jsonl", given)
    asked = ["--model_name_or_path", judge, "--dataset_name", rows, "--output_dir", tmp_path / "out"]
    asked += ["--template", "compact", "--k", 1]
    with pytest.raises(PromptTooLongError, match=r"Row 0: .*truncation='fair'.*invalid_rows=\"drop\""):
        label(*asked, "--max_new_tokens", 32)
    label(*asked, "--max_new_tokens", 32, "--truncation", "fair")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["rows"]["cut"] == 1
    with pytest.raises(PromptTooLongError, match="Row 0: .*cut already") as refused:
        label(*asked, "--output_dir", tmp_path / "other", "--max_new_tokens", 2000, "--truncation", "fair")
    assert "or cut the texts" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--max_rows", "3"], "Found no `dataset_name`"),
        (["--dataset_name", "ROWS"], "Found no judge"),
        (["--dataset_name", "ROWS", "--min_margin", "-1"], "Found min_margin=-1"),
        (["--dataset_name", "ROWS", "--dataset_train_split", "test"], r"expected \['test'\] among them"),
        (["--dataset_name", "ROWS", "--k", "0"], "Found k=0"),
        (["--dataset_name", "ROWS", "--rows_per_shard", "0"], "Found rows_per_shard=0"),
        (["--dataset_name", "ROWS", "--template", "papr"], "Found template 'papr'"),
        (["--dataset_name", "ROWS", "--k_meta", "half"], "Found k_meta='half'"),
        (["--dataset_name", "ROWS", "--temperature", "-1"], "Found temperature=-1"),
        (["--dataset_name", "ROWS", "--early_stopping", "soon"], "Found early_stopping='soon'"),
    ],
)
def test_what_is_missing_is_said(tmp_path, no_cache, arguments, told):
    rows = written(tmp_path / "rows.jsonl", rows_of(2))
    with pytest.raises(ValueError, match=told):
        label(*[rows if argument == "ROWS" else argument for argument in arguments])


def test_the_docstring_command_parses():
    module = recipe()
    command = module.__doc__.split("recipes/label.py")[1].split("\n\n")[0].replace("\\\n", " ").split()
    script_args, *_ = module.make_parser().parse_args_and_config(command)
    assert script_args.options["early_stopping"] == "exact"


NOTING = """
import os, sys
from trl_spct.labeling.judgments import LabelingJudge
from test_labels import label
original = LabelingJudge.__call__
def judge(self, rows, occurrences=None):
    with open(os.path.join(os.environ["NOTES"], os.environ.get("RANK", "alone")), "a") as notes:
        notes.writelines(f"{row.query[1:]}\\n" for row in rows)
    return original(self, rows, occurrences)
LabelingJudge.__call__ = judge
label(*sys.argv[1:])
"""


@pytest.mark.slow
def test_a_kill_and_two_processes(judges, tmp_path):
    """Both name the same labels as one undisturbed process, and what was written is not judged again."""
    rows = written(tmp_path / "rows.jsonl", rows_of(40))
    (tmp_path / "noting.py").write_text(NOTING)
    asked = ["--model_name_or_path", judges["writing"], "--dataset_name", str(rows), "--k", "4", "--template"]
    asked += ["compact", "--max_new_tokens", "32", "--rows_per_shard", "1"]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

    def start(name, notes, *launcher):
        (tmp_path / notes).mkdir()
        environment = {
            "HF_DATASETS_CACHE": str(tmp_path / "cache"),
            "NOTES": str(tmp_path / notes),
        }
        return subprocess.Popen(
            [sys.executable, *launcher, str(tmp_path / "noting.py"), *asked, "--output_dir", str(tmp_path / name)],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(name, notes, *launcher):
        process = start(name, notes, *launcher)
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told[-4000:]
        return {path.name: list(map(int, path.read_text().split())) for path in (tmp_path / notes).iterdir()}

    assert finish("one", "of_one") == {"alone": [*range(40)]}
    process = start("killed", "of_killed")
    folder = tmp_path / "killed" / "judgments"
    while process.poll() is None and len(list(folder.glob("shard-*.parquet"))) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = len(list(folder.glob("shard-*.parquet")))
    assert 5 <= there < 40 and not (tmp_path / "killed" / "report.json").exists()
    judged = finish("killed", "of_rest", *two)
    assert sorted(judged["0"] + judged["1"]) == [*range(there, 40)]
    assert finish("two", "of_two", *two) == {"0": [*range(0, 40, 2)], "1": [*range(1, 40, 2)]}
    for name in ("killed", "two"):
        for part in writing.PARTS:
            first, second = (Dataset.from_parquet(str(tmp_path / n / part / "data.parquet")) for n in ("one", name))
            assert first.to_list() == second.to_list(), (name, part)
