# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The recipe that makes preference rows of MATH, from its arguments to what a trainer reads."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from hub_server import USER, HubServer
from paths import RECIPES
from test_engines import Server
from tiny_models import save_writing
from trl import DatasetMixtureConfig, ScriptArguments

from trl_spct.data.loading import load_preferences
from trl_spct.judge.preferences import InvalidPreference


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


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


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
    assert 0 < report["problems"]["mixed"] == sum(len(row["labels"]) == 2 for row in rows) == len(rows) / 2
    for row in rows:
        for text, label in zip(row["responses"], row["labels"], strict=True):
            assert (set(re.findall("[0-9]", text)) == set(row["answer"].split(", "))) == bool(label)
    loaded = load_preferences(ScriptArguments(dataset_name=str(folder / "train.jsonl")), DatasetMixtureConfig())
    assert len(loaded["train"]) == len(rows) and loaded["train"]["labels"][0] == rows[0]["labels"]
    assert "`policy`" in (folder / "README.md").read_text(encoding="utf-8"), "the card names no place on this machine"


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
    run(*options, "--output_dir", tmp_path / "rows", "--num_responses", 4, "--single_rows_per_problem", 0)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "rows" / "answers").glob("*.parquet")] == before
    assert {len(row["labels"]) for row in rows_of(tmp_path / "rows")} == {4}
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
    with pytest.raises(ValueError, match=r"has the splits \['train'\]; expected 'test' among them"):
        run(*options, "--output_dir", tmp_path, "--dataset_split", "test")
    with pytest.raises(ValueError, match="Found neither `model_name_or_path` nor `base_url`"):
        run(*options[2:], "--output_dir", tmp_path)
    with pytest.raises(ValueError, match="num_responses=1"):
        run(*options, "--output_dir", tmp_path, "--num_responses", 1)
    (tmp_path / "bad.jsonl").write_text(json.dumps({"problem": " ", "solution": "s"}) + "\n")
    with pytest.raises(InvalidPreference, match="bad.jsonl row 0: Found the problem ' '; expected a text"):
        run(*options, "--output_dir", tmp_path, "--dataset_name", tmp_path / "bad.jsonl")
    assert not (tmp_path / "answers").exists()


def test_no_rows_are_told_and_written(toys, tmp_path, no_cache, caplog):
    options, _ = toys
    unsolved = [{**row, "solution": r"\boxed{0}"} for row in toy_problems()[:2]]
    (tmp_path / "unsolved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unsolved))
    run(*options, "--output_dir", tmp_path / "rows", "--dataset_name", tmp_path / "unsolved.jsonl")
    assert rows_of(tmp_path / "rows") == []
    assert "Found no problem with a correct and an incorrect answer" in caplog.text


PUSH = "import sys; from trl_spct.data.math_rows import push_rows; print(push_rows(sys.argv[1], 'math-rows', True))"


def test_what_is_pushed(toys, tmp_path):
    _, folder = toys
    with HubServer() as hub:
        done = subprocess.run(
            [sys.executable, "-c", PUSH, str(folder)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **hub.environment(tmp_path)},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        pushed = hub.repository(f"{USER}/math-rows", "dataset")
        assert pushed.private and set(pushed.files) >= {"train.jsonl", "README.md", "report.json"}
        assert not any("answers" in path for path in pushed.files)


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
