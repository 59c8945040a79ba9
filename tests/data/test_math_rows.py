# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Problems with known answers to preference rows: what counts, what is left out and why, what a kill costs."""

import json
import signal
import subprocess
import sys
from collections import Counter

import datasets
import pytest
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer

from trl_spct.data.math_rows import AnswerCollector, VerifiedRows, read_problems, verified_rows
from trl_spct.data.preparation import judge_rows, prepare_preferences
from trl_spct.jobs import FolderInUseError, locked
from trl_spct.judge.preferences import InvalidPreference
from trl_spct.judge.sampling import Sample


pytest.importorskip("math_verify")
datasets.disable_progress_bars()


def math(problem, solution, **columns):
    return {"problem": problem, "level": "Level 2", "type": "Algebra", "solution": solution, **columns}


PROBLEMS = [
    math("What is $1+1$?", r"One and one are $\boxed{2}$."),
    math("What is half of one?", r"It is $\boxed{\frac12}$."),
    math("What is there to prove?", "Nothing."),
    math("What is broken?", r"$\boxed{\frac{}}$"),
    math("What is $1+1$?", r"$\boxed{2}$"),
    math("For which $x$ is $2 \\le x < 5$?", r"$\boxed{[2,5)}$"),
]
ANSWERS = {
    PROBLEMS[0]["problem"]: [
        (r"It is $\boxed{2}$.", "correct"),
        (r"<think>Is it \boxed{2}?</think>It is $\boxed{3}$.", "incorrect"),
        (r"It is $\boxed{2}$.", "correct"),
        ("It is 2.", "missing"),
    ],
    PROBLEMS[1]["problem"]: [
        (r"$\boxed{0.5}$", "correct"),
        (r"$\boxed{5\\}$", "unparsable"),
        (" \n", "empty"),
        (r"$\boxed{0.5}$ and so on", "truncated"),
    ],
    PROBLEMS[5]["problem"]: [
        (r"\boxed{(2,5)}", "incorrect"),
        (r"\boxed{2 \le x \le 5}", "incorrect"),
        (r"\boxed{[2, 5)}", "correct"),
        (r"\boxed{[2,5)}!", "correct"),
    ],
}


class Policy:
    """A sampler that has the answers above by heart, and counts what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, k, seed, *, temperature, top_p, max_new_tokens):
        queries = [turn["content"].partition("\n\n")[0] for [turn] in prompts]
        self.asked += queries
        return [
            [Sample(text, len(text), outcome == "truncated") for text, outcome in ANSWERS[query][:k]]
            for query in queries
        ]


def problems():
    return read_problems(Dataset.from_list(PROBLEMS))


def collector(folder, rows_per_shard=2, **sampling):
    options = {"num_generations": 4, "rows_per_shard": rows_per_shard, **sampling}
    return AnswerCollector(problems(), folder, "policy", **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, and what its policy was asked."""
    job, policy = collector(tmp_path_factory.mktemp("whole")), Policy()
    assert list(job.collect(policy)) == [range(0, 2), range(2, 4), range(4, 6)]
    return job, policy.asked


# --- problems ---


def test_problems_in_the_schema_of_math():
    found = problems()
    assert [problem["answer"] for problem in found] == ["2", r"\frac12", None, r"\frac{}", "2", "[2,5)"]
    assert found[0] == {"query": "What is $1+1$?", "answer": "2", "level": "Level 2", "type": "Algebra"}


def test_problems_with_an_answer():
    rows = Dataset.from_list([{"problem": "p", "answer": 5, "solution": r"\boxed{4}", "level": 3}])
    assert read_problems(rows) == [{"query": "p", "answer": "5", "level": "3", "type": None}]


@pytest.mark.parametrize("problem", [None, " ", 5, [{"role": "user", "content": "p"}]])
def test_problems_that_are_no_text(problem):
    given = [problem] if problem is None or problem == " " else []
    rows = Dataset.from_list([{"problem": p, "solution": "s"} for p in (["p", *given] if given else [problem])])
    with pytest.raises(
        InvalidPreference, match=rf"problems row {len(rows) - 1}: Found the problem .* expected a text"
    ):
        read_problems(rows)


def test_columns_of_problems():
    with pytest.raises(ValueError, match=r"gsm8k: found the columns \['answer', 'question'\]; expected `problem`"):
        read_problems(Dataset.from_list([{"question": "q", "answer": "5"}]), "gsm8k")
    with pytest.raises(ValueError, match=r"found the columns \['problem'\]; expected `problem`, and `solution`"):
        read_problems(Dataset.from_list([{"problem": "q"}]))


# --- answers ---


def test_every_answer_has_an_outcome_and_bad_problems_are_not_asked(whole):
    job, asked = whole
    assert asked == [PROBLEMS[i]["problem"] for i in (0, 1, 5)]
    answers = list(job.read())
    assert [found["fault"] for found in answers] == [None, None, "missing", "unparsable", "repeated", None]
    for found in answers:
        known = [] if found["fault"] else ANSWERS[found["query"]]
        assert list(zip(found["responses"], found["outcomes"], strict=True)) == known
        assert found["num_tokens"] == [len(text) for text, _ in known]
    assert list(job.collect(lambda *_, **__: 1 / 0)) == [range(0, 2), range(2, 4), range(4, 6)]


def test_the_same_answers_from_threads_and_processes(whole, tmp_path):
    for index in range(2):
        shards = collector(tmp_path).collect(Policy(), 2, index, 2)
        assert len(list(shards)) == 2 - index
    assert list(collector(tmp_path).read()) == list(whole[0].read())


def test_the_policy_reads_the_instruction(tmp_path):
    read = []

    def policy(prompts, k, seed, **options):
        read.append((prompts, k, seed, options))
        return [[Sample("a", 1, False)] * 2] * len(prompts)

    asked = [{"query": "p", "answer": "1", "level": None, "type": None}]
    sampling = {"temperature": 0.7, "top_p": 0.9, "max_completion_length": 64, "instruction": "Box it.", "seed": 5}
    list(AnswerCollector(asked, tmp_path / "a", "policy", num_generations=2, **sampling).collect(policy))
    list(AnswerCollector(asked, tmp_path / "b", "policy", num_generations=2, instruction="").collect(policy))
    prompts, *given = read[0]
    assert prompts == [[{"role": "user", "content": "p\n\nBox it."}]]
    assert given == [2, 5, {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 64}]
    assert read[1][0][0][0]["content"] == "p"


def test_sampling_that_cannot_give_pairs(tmp_path):
    with pytest.raises(ValueError, match="Greedy samples are all the same"):
        collector(tmp_path, temperature=0)
    with pytest.raises(ValueError, match="num_generations=0"):
        collector(tmp_path, num_generations=0)


@pytest.mark.parametrize("drawn", [[], [[]], [[Sample("a", 1, False)] * 3]])
def test_a_sampler_that_breaks_its_word(drawn, tmp_path):
    with pytest.raises(ValueError, match=r"samples for 2 prompts; expected 4 for each"):
        list(collector(tmp_path).collect(lambda *_, **__: drawn))


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    list(collector(tmp_path).collect(Policy()))
    with pytest.raises(FileExistsError, match="temperature: 1.0 there, 0.5 now"):
        collector(tmp_path, temperature=0.5)
    changed = [{**problem, "answer": "3"} for problem in problems()]
    with pytest.raises(FileExistsError, match="data: "):
        AnswerCollector(changed, tmp_path, "policy", rows_per_shard=2, num_generations=4)


def test_a_folder_in_use_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(FolderInUseError, match="is in use by process"):
        list(collector(tmp_path).collect(Policy()))


def test_a_run_that_sampled_nothing_leaves_the_folder_to_another_configuration(tmp_path):
    with pytest.raises(ZeroDivisionError):
        list(collector(tmp_path).collect(lambda *_, **__: 1 / 0))
    assert len(list(collector(tmp_path, max_completion_length=99).collect(Policy()))) == 3


KILLED = """
import os, signal, sys
from test_math_rows import PROBLEMS, Policy, collector

class Mortal(Policy):
    def __call__(self, prompts, *args, **kwargs):
        if any(PROBLEMS[5]["problem"] in turn["content"] for [turn] in prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(prompts, *args, **kwargs)

list(collector(sys.argv[1]).collect(Mortal()))
"""


def test_a_killed_run_goes_on_where_it_stopped(whole, tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, timeout=300).returncode == -signal.SIGKILL
    found = sorted(path.name for path in tmp_path.glob("*.parquet"))
    assert found == ["shard-00000.parquet", "shard-00001.parquet"]
    policy = Policy()
    list(collector(tmp_path).collect(policy))
    assert policy.asked == [PROBLEMS[5]["problem"]], "what was written is not asked again"
    assert list(collector(tmp_path).read()) == list(whole[0].read())


# --- rows ---


def rows(marks, **kwargs):
    """Rows of answers that are `+` (correct), `-` (incorrect) or `?` (unreadable)."""
    names = {"+": "correct", "-": "incorrect", "?": "truncated"}
    return list(verified_rows("q", [f"a{i}" for i in range(len(marks))], [names[m] for m in marks], **kwargs))


def test_a_pair_and_a_single_response():
    pair, single = rows("-?+?")
    assert sorted(zip(pair["responses"], pair["labels"], strict=True)) == [("a0", 0), ("a2", 1)]
    assert (single["responses"], single["labels"]) in ((["a0"], [0]), (["a2"], [1]))


@pytest.mark.parametrize("marks", ["", "++++", "----", "????", "+?", "-?"])
def test_problems_that_are_always_or_never_solved_give_no_rows(marks):
    assert rows(marks, max_rows=3, max_single_rows=3) == []


def test_several_rows_share_no_answer():
    made = rows("+++-----", num_responses=3, max_rows=5, max_single_rows=0)
    assert [len(row["labels"]) for row in made] == [3, 3, 2], "the last one has what is left"
    texts = [text for row in made for text in row["responses"]]
    assert len(set(texts)) == len(texts) == 8
    assert [sum(row["labels"]) for row in made] == [1, 1, 1]


def test_equal_answers_count_once_and_drafts_are_left_out():
    responses = ["<think>hm</think>yes", "yes", "no", " no\n", "<think>so</think>no"]
    outcomes = ["correct", "correct", "incorrect", "incorrect", "incorrect"]
    [row] = verified_rows("q", responses, outcomes, num_responses=5, max_rows=9, max_single_rows=0)
    assert sorted(row["responses"]) == ["no", "yes"]
    singles = verified_rows("q", responses, outcomes, max_rows=0, max_single_rows=9)
    assert sorted(row["responses"][0] for row in singles) == ["no", "yes"]


def test_places_and_labels_are_balanced_over_problems():
    made = [
        list(verified_rows(f"q{i}", ["a", "b", "c"], ["correct", "incorrect", "incorrect"], 3)) for i in range(400)
    ]
    first = sum(pair["labels"][0] for pair, _ in made)
    ones = sum(single["labels"][0] for _, single in made)
    assert 100 < first < 167 and 160 < ones < 240
    both = [list(verified_rows(f"q{i}", ["a", "b"], ["correct", "incorrect"], 2, 0, 2)) for i in range(9)]
    assert all(Counter(row["labels"][0] for row in singles) == {0: 1, 1: 1} for singles in both)


@settings(deadline=None, max_examples=50)
@given(st.text("+-?", max_size=12), st.integers(2, 5), st.integers(0, 4), st.integers(0, 5), st.integers(0, 3))
def test_rows_of_any_answers(marks, num_responses, max_rows, max_single_rows, seed):
    options = {"num_responses": num_responses, "max_rows": max_rows, "max_single_rows": max_single_rows, "seed": seed}
    made = rows(marks, **options)
    assert made == rows(marks, **options)
    several = [row for row in made if len(row["labels"]) > 1]
    singles = [row for row in made if len(row["labels"]) == 1]
    assert len(several) <= max_rows and len(singles) <= max_single_rows
    truth = {f"a{i}": int(mark == "+") for i, mark in enumerate(marks) if mark != "?"}
    for row in made:
        assert row["labels"] == [truth[text] for text in row["responses"]]
    assert all(sum(row["labels"]) == 1 and len(row["labels"]) <= num_responses for row in several)
    if made:
        prepare_preferences(made)
    if {0, 1} <= set(truth.values()):
        assert bool(several) == (max_rows > 0) and bool(singles) == (max_single_rows > 0)
        ones = sum(row["labels"][0] for row in singles)
        assert len(singles) > 2 * min(Counter(truth.values()).values()) or abs(2 * ones - len(singles)) <= 1


@pytest.fixture
def verified(whole):
    return VerifiedRows.of(whole[0].read(), num_responses=3, max_rows=2, max_single_rows=2)


def test_counts_by_cause(verified):
    assert verified.report == {
        "problems": {"all_correct": 1, "missing": 1, "mixed": 2, "repeated": 1, "unparsable": 1},
        "answers": {"correct": 5, "empty": 1, "incorrect": 3, "missing": 1, "truncated": 1, "unparsable": 1},
        "solved": {"1/4": 1, "2/4": 2},
        "rows": {"1 response, label 0": 2, "1 response, label 1": 2, "2 responses": 1, "3 responses": 1},
    }
    assert sum(verified.report["rows"].values()) == len(verified.rows) == 6


def test_rows_are_read_by_everything_that_reads_preferences(whole, verified, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    verified.save(tmp_path / "math", whole[0].settings)
    loaded = load_dataset(str(tmp_path / "math"), split="train")
    assert len(loaded) == 6 and set(loaded["source"]) == {"math"}
    prepared = prepare_preferences(loaded)
    assert prepared.dropped == {} and {"answer", "level", "type", "source"} <= set(prepared.dataset.column_names)
    for row in judge_rows(prepared.dataset, tiny_tokenizer(), template="compact"):
        assert r"\frac12" not in row["prompt"][-1]["content"], "the truth is for whoever checks"
    card = (tmp_path / "math" / "README.md").read_text(encoding="utf-8")
    assert "| 3 responses | 1 |" in card and "| truncated | 1 |" in card and '"temperature": 1.0' in card
    assert json.loads((tmp_path / "math" / "report.json").read_text()) == verified.report
