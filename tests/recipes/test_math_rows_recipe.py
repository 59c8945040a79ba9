# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The recipe that makes preference rows of MATH: answers labeled by hand, rows of answers, and whole runs."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager

import pytest
from datasets import load_dataset
from hub_server import USER, HubServer
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import RECIPES
from test_engines import Server
from tiny_models import save_writing, tiny_tokenizer
from trl import DatasetMixtureConfig, ScriptArguments

from trl_spct.data.loading import load_preferences
from trl_spct.data.preparation import judge_rows, prepare_preferences
from trl_spct.judge.sampling import Sample

pytest.importorskip("math_verify")

SCRIPT = RECIPES / "math_rows.py"


def recipe():
    spec = importlib.util.spec_from_file_location("recipe_math_rows", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPE = recipe()


def run(*arguments):
    RECIPE.main(*RECIPE.make_parser().parse_args_and_config([str(argument) for argument in arguments]))


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


# --- problems ---


def load(tmp_path, *rows, **options):
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RECIPE.load_problems(RECIPE.MathRowsArguments(dataset_name=str(tmp_path / "problems.jsonl"), **options))


def math(problem, solution):
    return {"problem": problem, "level": "Level 2", "type": "Algebra", "solution": solution}


PROBLEMS = [
    math("What is $1+1$?", r"One and one are $\boxed{2}$."),
    math("What is half of one?", r"It is $\boxed{\frac12}$."),
    math("What is there to prove?", "Nothing."),
    math("What is broken?", r"$\boxed{\frac{}}$"),
    math("What is $1+1$?", r"$\boxed{2}$"),
    math("For which $x$ is $2 \\le x < 5$?", r"$\boxed{[2,5)}$"),
]


def test_problems_in_the_schema_of_math(tmp_path, no_cache):
    problems = load(tmp_path, *PROBLEMS)
    assert problems["answer"][:] == ["2", r"\frac12", None, r"\frac{}", "2", "[2,5)"]
    assert problems["fault"][:] == [None] * 4 + ["repeated", None]
    assert problems[0] == {
        "query": "What is $1+1$?", "answer": "2", "level": "Level 2", "type": "Algebra", "fault": None,
    }  # fmt: skip


def test_problems_with_an_answer(tmp_path, no_cache):
    [problem] = load(tmp_path, {"problem": "p", "answer": 5, "solution": r"\boxed{4}", "level": 3})
    assert problem == {"query": "p", "answer": "5", "level": "3", "type": None, "fault": None}


@pytest.mark.parametrize(
    "row",
    [
        {"problem": None, "solution": "s"},
        {"problem": " ", "solution": "s"},
        {"problem": 5, "solution": "s"},
        {"problem": [{"role": "user", "content": "p"}], "solution": "s"},
        {"question": "q", "answer": "5"},
        {"problem": "q"},
    ],
)
def test_rows_that_are_no_problems(row, tmp_path, no_cache):
    with pytest.raises(ValueError, match=r"problems.jsonl row 0: found the problem .* among the columns \["):
        load(tmp_path, row)


# --- answers ---


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{3} at first, then \boxed{5}", "5"),
        (r"\boxed{3} at first, then \boxed{", None),
        (r"\boxed{3} at first, then \boxed{}", None),
        (r"\boxed{ 5. }", "5"),
        (r"$\boxed 5$", "5"),
        (r"is \boxed 12.", "12"),
        (r"\boxed", None),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.} and }", r"\left\{ x \right."),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxedness{5}", None),
        ("The answer is 5.", None),
        ("", None),
    ],
)
def test_boxed_answer(text, answer):
    assert RECIPE.boxed_answer(text) == answer


@settings(deadline=None)
@given(st.text(alphabet="\\{}boxed $5.<think/>", max_size=60))
def test_boxes_of_any_text(text):
    answer = RECIPE.boxed_answer(text)
    assert answer is None or (answer.strip() and answer in text)
    assert RECIPE.boxed_answer(text + r"\boxed{6}") == "6"


BY_HAND = [
    (r"\frac12", "0.5", "correct"),
    (r"\frac12", "1/2", "correct"),
    (r"\frac12", r"\dfrac{2}{4}", "correct"),
    (r"\frac12", "0.51", "incorrect"),
    (r"\frac13", "0.33", "incorrect"),
    (r"10\text{ cm}", "10", "correct"),
    ("10", r"10\text{ meters}", "correct"),
    (r"\$32.50", "32.5", "correct"),
    (r"120^\circ", "120", "correct"),
    ("1,000", "1000", "correct"),
    ("[2,5)", "[2, 5)", "correct"),
    ("[2,5)", "(2,5]", "incorrect"),
    ("(-3,4)", "(4,-3)", "incorrect"),
    (r"(-\infty, 2]", r"(-\infty,2]", "correct"),
    ("1,2", "2, 1", "correct"),
    ("1,2", "2", "incorrect"),
    ("x^2+2x", "x(x+2)", "correct"),
    ("5", "x=5", "correct"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}", "incorrect"),
    (r"\text{east}", r"\text{East}", "correct"),
    (r"\text{east}", r"\text{west}", "incorrect"),
    (r"\text{(C)}", "C", "correct"),
    ("5", r"\text{none}", "incorrect"),
    ("5", r"5\\", "unparsable"),
    (r"\frac{}", "5", "unparsable"),
    (r"\frac{1}{0}", "5", "error"),
]


def test_answers_labeled_by_hand():
    outcomes = [RECIPE.match_answers(truth, answer) for truth, answer, _ in BY_HAND]
    assert outcomes == [outcome for *_, outcome in BY_HAND]


@pytest.mark.parametrize(
    "answer", ["9^{9^{9^9}}", "(" * 3000 + "1" + ")" * 3000, r"\sum_{k=1}^{10^9}\frac1k", "100000000!"]
)
def test_what_never_ends_is_an_outcome(answer):
    assert RECIPE.match_answers("1", answer, timeout=1) in ("timeout", "unparsable")
    assert RECIPE.match_answers("1", "1") == "correct"


def test_a_limit_outlasts_a_lost_exception():
    """Python drops what is raised in a finalizer, and continues."""
    from math_verify.errors import TimeoutException

    lost = []
    with pytest.raises(TimeoutException), RECIPE.cpu_limit(0.05, again=0.05):
        while True:
            try:
                while True:
                    pass
            except TimeoutException:
                lost.append(1)
                if len(lost) == 3:
                    raise
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


def test_answers_are_compared_within_the_limit(monkeypatch):
    monkeypatch.setattr("math_verify.verify", lambda *_, **__: signal.getitimer(signal.ITIMER_PROF)[0] > 3)
    assert RECIPE.match_answers("x(x+2)", "x^2+2x", timeout=1) == "correct"


def test_a_lone_surrogate_is_no_mathematics():
    assert RECIPE.match_answers("1", "\ud800") == "unparsable"


def test_a_crash_is_no_incorrect_answer(monkeypatch):
    monkeypatch.setattr("math_verify.verify", lambda *_, **__: 1 / 0)
    assert RECIPE.match_answers("x(x+2)", "x^2+2x") == "error"
    monkeypatch.setattr("math_verify.parse", lambda *_, **__: 1 / 0)
    assert RECIPE.match_answers("5", "6") == "error"


ANSWERS = {
    PROBLEMS[0]["problem"]: [
        (r"It is $\boxed{2}$.", "correct"),
        (r"<think>Is it \boxed{2}?</think>It is $\boxed{3}$.", "incorrect"),
        (r"It is $\boxed{2}$.", "correct"),
        ("It is 2.", "missing"),
        (r"<think>It is \boxed{2}", "missing"),
    ],
    PROBLEMS[1]["problem"]: [
        (r"$\boxed{0.5}$", "correct"),
        (r"$\boxed{5\\}$", "unparsable"),
        (" \n", "empty"),
        (r"$\boxed{0.5}$ and so on", "truncated"),
        (r"It is \boxed{0.5}", "correct"),
    ],
    PROBLEMS[5]["problem"]: [
        (r"\boxed{(2,5)}", "incorrect"),
        (r"\boxed{2 \le x \le 5}", "incorrect"),
        (r"\boxed{[2, 5)}", "correct"),
        (r"\boxed{[2,5)}!", "correct"),
        (r"\boxed{[2,5}", "unparsable"),
    ],
}


def answered(problems):
    """Records of the answers above, and the prompts that the policy read."""
    prompts = []

    def policy(read, k, seed, **options):
        assert (k, seed, options) == (5, 3, {"temperature": 0.7})
        prompts.extend(turn["content"] for [turn] in read)
        queries = [turn["content"].removesuffix("\n\nBox it.") for [turn] in read]
        return [[Sample(text, 1, outcome == "truncated") for text, outcome in ANSWERS[query]] for query in queries]

    return RECIPE.answer_problems(problems, policy, "Box it.", 5, 3, temperature=0.7), prompts


def test_every_answer_has_an_outcome_and_bad_problems_are_not_asked(tmp_path, no_cache):
    records, prompts = answered(load(tmp_path, *PROBLEMS))
    assert prompts == [PROBLEMS[i]["problem"] + "\n\nBox it." for i in (0, 1, 5)]
    assert [record["fault"] for record in records] == [None, None, "missing", "unparsable", "repeated", None]
    for record in records:
        known = [] if record["fault"] else ANSWERS[record["query"]]
        assert list(zip(record["responses"], record["outcomes"], strict=True)) == known


def test_a_draft_that_the_prompt_opened_and_the_answer_never_closed():
    assert RECIPE.outcome_of(Sample(r"Is it \boxed{2}?", 9, False, prefilled=True), "2") == "missing"
    assert RECIPE.outcome_of(Sample(r"3?</think>\boxed{2}", 9, False, prefilled=True), "2") == "correct"


# --- rows ---


def rows_of_marks(marks, **kwargs):
    """Rows of answers that are `+` (correct), `-` (incorrect) or `?` (unreadable)."""
    names = {"+": "correct", "-": "incorrect", "?": "truncated"}
    return list(RECIPE.verified_rows("q", [f"a{i}" for i in range(len(marks))], [names[m] for m in marks], **kwargs))


def test_a_pair_and_a_single_response():
    pair, single = rows_of_marks("-?+?")
    assert sorted(zip(pair["responses"], pair["labels"], strict=True)) == [("a0", 0), ("a2", 1)]
    assert (single["responses"], single["labels"]) in ((["a0"], [0]), (["a2"], [1]))


@pytest.mark.parametrize("marks", ["", "++++", "----", "????", "+?", "-?"])
def test_problems_that_are_always_or_never_solved_give_no_rows(marks):
    assert rows_of_marks(marks, max_rows=3) == []


def test_several_rows_share_no_answer():
    made = rows_of_marks("+++-----", num_responses=3, max_rows=5)
    assert [len(row["labels"]) for row in made[3:]] == [1] * 5
    made = made[:3]
    assert [len(row["labels"]) for row in made] == [3, 3, 2], "the last one has what is left"
    texts = [text for row in made for text in row["responses"]]
    assert len(set(texts)) == len(texts) == 8
    assert [sum(row["labels"]) for row in made] == [1, 1, 1]


def test_equal_answers_count_once_and_drafts_are_left_out():
    responses = ["<think>hm</think>yes", "yes", "no", " no\n", "<think>so</think>no"]
    outcomes = ["correct", "correct", "incorrect", "incorrect", "incorrect"]
    row, *singles = RECIPE.verified_rows("q", responses, outcomes, num_responses=5, max_rows=9)
    assert sorted(row["responses"]) == ["no", "yes"]
    assert sorted(row["responses"][0] for row in singles) == ["no", "yes"]


def test_places_and_labels_are_balanced_over_problems():
    outcomes = ["correct", "incorrect", "incorrect"]
    made = [list(RECIPE.verified_rows(f"q{i}", ["a", "b", "c"], outcomes, 3)) for i in range(400)]
    first = sum(pair["labels"][0] for pair, _ in made)
    ones = sum(single["labels"][0] for _, single in made)
    assert 100 < first < 167 and 160 < ones < 240
    both = [list(RECIPE.verified_rows(f"q{i}", ["a", "b"], outcomes[:2], 2, 2))[1:] for i in range(9)]
    assert all(Counter(row["labels"][0] for row in singles) == {0: 1, 1: 1} for singles in both)


@settings(deadline=None, max_examples=50)
@given(st.text("+-?", max_size=12), st.integers(2, 5), st.integers(0, 5), st.integers(0, 3))
def test_rows_of_any_answers(marks, num_responses, max_rows, seed):
    options = {"num_responses": num_responses, "max_rows": max_rows, "seed": seed}
    made = rows_of_marks(marks, **options)
    assert made == rows_of_marks(marks, **options)
    several = [row for row in made if len(row["labels"]) > 1]
    singles = [row for row in made if len(row["labels"]) == 1]
    assert len(several) <= max_rows and len(singles) <= max_rows
    truth = {f"a{i}": int(mark == "+") for i, mark in enumerate(marks) if mark != "?"}
    for row in made:
        assert row["labels"] == [truth[text] for text in row["responses"]]
    assert all(sum(row["labels"]) == 1 and len(row["labels"]) <= num_responses for row in several)
    if made:
        prepare_preferences(made)
    if {0, 1} <= set(truth.values()):
        assert bool(several) == bool(singles) == (max_rows > 0)
        ones = sum(row["labels"][0] for row in singles)
        assert len(singles) > 2 * min(Counter(truth.values()).values()) or abs(2 * ones - len(singles)) <= 1


# --- runs ---


def toy_problems():
    """What the tiny policy of `save_writing` may guess: it boxes an even digit and an odd one, in this order."""
    return [
        {
            "problem": f"Which two numbers are meant by sign {i}?",
            "level": "Level 5",
            "type": "Number Theory",
            "solution": rf"The sign says so: $\boxed{{{2 * (i % 4) + 2}, {2 * (i // 4 % 4) + 3}}}$.",
        }
        for i in range(12)
    ]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A policy, its problems, and the folder of a finished run."""
    home = tmp_path_factory.mktemp("toys")
    policy = save_writing(home / "policy")
    problems = toy_problems()
    problems[3]["solution"] = "There is no box."
    (home / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    options = ["--model_name_or_path", policy, "--dataset_name", home / "problems.jsonl", "--num_generations", 16]
    options += ["--max_completion_length", 32, "--rows_per_shard", 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", home / "cache")
        run(*options, "--output_dir", home / "rows")
    return options, home / "rows"


@contextmanager
def serving(answer):
    server = Server(answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def rows_of(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_of_a_policy_in_this_process(toys, no_cache):
    _, folder = toys
    report = json.loads((folder / "report.json").read_text())
    assert report["problems"]["missing"] == 1 and sum(report["problems"].values()) == 12
    assert sum(report["answers"].values()) == 11 * 16 and set(report["answers"]) == {"correct", "incorrect"}
    rows = rows_of(folder)
    assert (
        0
        < report["problems"]["correct and incorrect"]
        == sum(len(row["labels"]) == 2 for row in rows)
        == len(rows) / 2
    )
    for row in rows:
        for text, label in zip(row["responses"], row["labels"], strict=True):
            assert (set(re.findall("[0-9]", text)) == set(row["answer"].split(", "))) == bool(label)
    loaded = load_preferences(ScriptArguments(dataset_name=str(folder / "train.jsonl")), DatasetMixtureConfig())
    assert len(loaded["train"]) == len(rows) and loaded["train"]["labels"][0] == rows[0]["labels"]


def test_rows_are_read_by_everything_that_reads_preferences(toys, no_cache):
    loaded = load_dataset(str(toys[1]), split="train")
    prepared = prepare_preferences(loaded)
    assert len(loaded) == len(rows_of(toys[1])) and set(loaded["source"]) == {"math"} and prepared.dropped == {}
    assert {"answer", "level", "type", "source"} <= set(prepared.dataset.column_names)
    prompts, blind = (
        judge_rows(rows, tiny_tokenizer(), template="compact")["prompt"][:]
        for rows in (prepared.dataset, prepared.dataset.remove_columns("answer"))
    )
    assert prompts == blind, "the truth is for whoever checks"


def test_what_is_lost_is_made_again_and_the_rest_stays(toys, tmp_path, no_cache):
    options, folder = toys
    shutil.copytree(folder, tmp_path / "rows")
    answers = tmp_path / "rows" / "answers"
    (answers / "shard-00001.parquet").unlink()
    (tmp_path / "rows" / "train.jsonl").unlink()
    before = (answers / "shard-00000.parquet").stat().st_mtime_ns
    run(*options, "--output_dir", tmp_path / "rows")
    assert (answers / "shard-00000.parquet").stat().st_mtime_ns == before
    assert rows_of(tmp_path / "rows") == rows_of(folder)


def test_other_rows_of_the_same_answers(toys, tmp_path, no_cache):
    options, folder = toys
    shutil.copytree(folder, tmp_path / "rows")
    before = [path.stat().st_mtime_ns for path in (tmp_path / "rows" / "answers").glob("*.parquet")]
    run(*options, "--output_dir", tmp_path / "rows", "--num_responses", 4)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "rows" / "answers").glob("*.parquet")] == before
    assert {len(row["labels"]) for row in rows_of(tmp_path / "rows")} == {1, 4}
    with pytest.raises(FileExistsError, match="num_generations: 16 there, 4 now"):
        run(*options, "--output_dir", tmp_path / "rows", "--num_generations", 4)


def test_a_policy_on_a_server_that_fails_once(toys, tmp_path, no_cache):
    options, _ = toys
    broken = [True]

    def answer(path, body, number):
        if path.endswith("/models"):
            return {"data": [{"id": "policy"}]}
        if broken[0] and "sign 9?" in body["messages"][0]["content"]:
            return 400, {}, {"error": "out of order"}
        text = rf"They are \boxed{{{2 * (body['seed'] % 4) + 2}, 3}}."
        return {
            "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
            "usage": {"completion_tokens": 5},
        }

    with serving(answer) as server:
        served = [*options[2:], "--base_url", server.url, "--dialect", "openai", "--output_dir", tmp_path / "rows"]
        with pytest.raises(RuntimeError, match="out of order"):
            run(*served)
        assert not (tmp_path / "rows" / "train.jsonl").exists()
        asked, broken[0] = len(server.bodies), False
        run(*served)
        again = {re.search("sign ([0-9]+)", body["messages"][0]["content"])[1] for body in server.bodies[asked:]}
    assert again == {"8", "9", "10", "11"}, "shards that were whole are not asked for again"
    assert {row["query"][-2] for row in rows_of(tmp_path / "rows") if len(row["labels"]) == 2} <= set("012")


def test_a_sample_of_the_problems(toys, tmp_path, no_cache):
    options, _ = toys
    run(*options, "--output_dir", tmp_path, "--max_problems", 2, "--num_generations", 2)
    assert sum(json.loads((tmp_path / "report.json").read_text())["problems"].values()) == 2


def test_what_is_refused_before_a_policy_is_loaded(toys, tmp_path, no_cache):
    options, _ = toys
    with pytest.raises(ValueError, match=r"has the splits \['train'\]; expected \['test'\] among them"):
        run(*options, "--output_dir", tmp_path, "--dataset_split", "test")
    with pytest.raises(ValueError, match="Found neither `model_name_or_path` nor `base_url`"):
        run(*options[2:], "--output_dir", tmp_path)
    with pytest.raises(ValueError, match="num_responses=1"):
        run(*options, "--output_dir", tmp_path, "--num_responses", 1)
    (tmp_path / "bad.jsonl").write_text(json.dumps({"problem": " ", "solution": "s"}) + "\n")
    with pytest.raises(ValueError, match="Greedy samples are all the same"):
        run(*options, "--output_dir", tmp_path, "--temperature", 0)
    with pytest.raises(ValueError, match="bad.jsonl row 0: found the problem ' '"):
        run(*options, "--output_dir", tmp_path, "--dataset_name", tmp_path / "bad.jsonl")
    assert not (tmp_path / "answers").exists()


def test_no_rows_are_told_and_written(toys, tmp_path, no_cache, caplog):
    options, _ = toys
    unsolved = [{**row, "solution": r"\boxed{0}"} for row in toy_problems()[:2]]
    (tmp_path / "unsolved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unsolved))
    run(*options, "--output_dir", tmp_path / "rows", "--dataset_name", tmp_path / "unsolved.jsonl")
    assert rows_of(tmp_path / "rows") == []
    assert "Found no problem with a correct and an incorrect answer" in caplog.text


def test_what_is_pushed(toys, tmp_path):
    options, folder = toys
    options = [*options, "--output_dir", folder, "--push_to_hub_id", "math-rows", "--hub_private_repo", "true"]
    with HubServer() as hub:
        done = subprocess.run(
            [sys.executable, SCRIPT, *map(str, options)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **hub.environment(tmp_path)},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        pushed = hub.repository(f"{USER}/math-rows", "dataset")
        assert pushed.private and {"train.jsonl", "report.json"} <= set(pushed.files) <= {
            "train.jsonl", "report.json", ".gitattributes",
        }  # fmt: skip


def test_without_the_library(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(RECIPE, "is_math_verify_available", lambda: False)
    with pytest.raises(ImportError, match=r"pip install trl-spct\[math\]"):
        run(*toys[0], "--output_dir", tmp_path)


# --- arguments ---


def test_arguments_are_strict(tmp_path):
    command = re.search(r"accelerate launch recipes/math_rows\.py((?:.*\\\n)*.*)", RECIPE.__doc__)[1]
    RECIPE.make_parser().parse_args_and_config(command.replace("\\\n", " ").split())
    (tmp_path / "config.yaml").write_text("num_generations: 4\nno_such: 1\n")
    with pytest.raises(ValueError, match="no_such"):
        RECIPE.make_parser().parse_args_and_config(["--config", str(tmp_path / "config.yaml")])


def test_the_mixture_reads_what_is_written_by_default():
    mixture = (SCRIPT.parent / "data" / "paper_mixture.yaml").read_text(encoding="utf-8")
    assert f"data_files: {RECIPE.MathRowsArguments().output_dir}/train.jsonl" in mixture
