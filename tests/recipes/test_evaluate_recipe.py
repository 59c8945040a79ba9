# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""`recipes/evaluate.py` from flags: benchmarks, every kind of judge, and what is written."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from paths import RECIPES
from test_benchmarks import SECRET, realmistake, rewardbench
from test_engines import MODELS, choice, serving
from tiny_models import save_tiny, save_writing, tiny_config, tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from trl_spct import MetaRMForSequenceClassification
from trl_spct.evaluation.judgments import read_judgments
from trl_spct.judge.sampling import EngineError

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = RECIPES / "evaluate.py"


def evaluate(*arguments):
    spec = importlib.util.spec_from_file_location("evaluate", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(*module.make_parser().parse_args_and_config([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    heads = {name: folder / name for name in ("rm", "pairs", "critic")}
    for head in heads.values():
        AutoModelForSequenceClassification.from_config(tiny_config("llama", num_labels=1)).save_pretrained(head)
        tokenizer.save_pretrained(head)
    return {"judge": save_tiny(folder / "judge"), **heads}


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_everything_from_flags(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("trl_spct.evaluation.benchmark_results.RESAMPLES", 50)
    rewardbench(tmp_path / "rb")
    realmistake(tmp_path / "rm")
    arguments = [
        *["--benchmarks", f"rewardbench={tmp_path / 'rb'}", f"realmistake={tmp_path / 'rm'}", "--allow_changed"],
        *["--model_name_or_path", models["judge"], "--template", "compact", "--max_new_tokens", "4", "--k", "1", "3"],
        *["--greedy", "--scalar_rm", models["rm"], "--llm_judge", models["judge"], "--token_prob", "true"],
        *["--pairwise_rm", models["pairs"], "--semi_scalar_rm", models["judge"], models["critic"]],
        *["--max_rows", "4", "--output_dir", tmp_path / "out"],
    ]
    evaluate(*arguments)
    out = tmp_path / "out"
    results = read(out, "results.json")
    lines = {(r["stage"], r["benchmark"], r["k"], r.get("temperature")) for r in results}
    for benchmark in ("rewardbench", "realmistake"):
        for stage in ("first", "random", "longest", "shortest", "rm"):
            assert (stage, benchmark, 1, None) in lines
        judge = {line for line in lines if line[:2] == ("judge", benchmark)}
        assert judge == {("judge", benchmark, 1, 0.0), ("judge", benchmark, 1, 0.5), ("judge", benchmark, 3, 0.5)}
        assert ("critic", benchmark, 3, 0.5) in lines, "the mean of three critiques"
    weighted = "LLM-as-a-judge, TokenProb"
    assert {(weighted, "rewardbench", 3, 0.5), ("pairs", "rewardbench", 1, None)} <= lines
    assert not [line for line in lines if line[:2] in ((weighted, "realmistake"), ("pairs", "realmistake"))]
    assert {r["n"] for r in results} == {4}

    report = read(out, "report.json")
    protocol = report["protocol"]["rewardbench"]
    assert protocol["template"] == "compact" and protocol["max_new_tokens"] == 4 and protocol["k"] == 3
    assert protocol["model"] == "judge", "no place on this machine"
    assert report["diagnosis"]["rewardbench"]["unreadable"] == 1.0
    assert report["items"]["rewardbench"]["differences"]
    baselines = report["baselines"]["rewardbench"]
    assert baselines["semi_scalar_rm"]["problems"] == {"truncated": 12} and baselines["llm_judge"]["cost"]["written"]
    assert baselines["pairwise_rm"]["cost"]["scored"] and "problems" not in baselines["scalar_rm"]
    (entry,) = read(out, "model-index.json")
    assert {found["dataset"]["name"] for found in entry["results"]} == {"rewardbench", "realmistake"}
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "table.md").read_text()
    assert "| judge | greedy | 1 |" in table and "| longest | – | 1 |" in table
    for path in out.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path

    before = {path: path.stat().st_mtime_ns for path in out.rglob("shard-*.parquet")}
    with pytest.raises(ValueError, match="out has judged other rows of rewardbench; expected those of the same rows"):
        evaluate(*arguments, "--compare_with", out, "--max_rows", "3")
    evaluate(*arguments, "--compare_with", out)
    assert len(before) == 18 and {path: path.stat().st_mtime_ns for path in before} == before, (
        "nothing is judged twice"
    )
    comparison = read(out, "report.json")["comparison"]["rewardbench"]["judge (out)"]
    assert comparison["difference"] == 0 and comparison["k"] == 3
    assert "against judge (out): +0.0 points" in capsys.readouterr().out
    assert "| judge (out) | plain | 3 |" in (out / "table.md").read_text()
    (again,) = read(out, "model-index.json")
    assert again == entry, "of one judge"


def test_without_a_model(tmp_path, monkeypatch):
    """Changed benchmarks stop the run before anything is judged; own rows need no flag."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("trl_spct.evaluation.benchmark_results.RESAMPLES", 50)
    rewardbench(tmp_path / "rb")
    with pytest.raises(ValueError, match="RewardBench has 5 rows instead of 2985"):
        evaluate("--benchmarks", f"rewardbench={tmp_path / 'rb'}", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    rows = tmp_path / "rows.jsonl"
    made = [{"prompt": f"q{i}", "completion": "a" * (i + 1), "label": i > 2, "kind": "x"} for i in range(6)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    arguments = ["--dataset_name", rows, "--metric", "roc_auc", "--group_column", "kind"]
    evaluate(*arguments, "--output_dir", tmp_path / "own")
    found = {result["stage"]: result["accuracy"] for result in read(tmp_path / "own", "results.json")}
    assert found["longest"] == 1 and found["shortest"] == 0 and found["first"] == 0.5
    assert not (tmp_path / "own" / "scaling.png").exists()


def test_a_judge_on_a_server(models, tmp_path, monkeypatch, caplog):
    """Without a model here: its name is the server's, and the address stays out of what is written."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("trl_spct.evaluation.benchmark_results.RESAMPLES", 50)

    def answer(path, body, number):
        if path.endswith("/models"):
            return MODELS
        return {"choices": [choice(r"\boxed{7, 7}", i, chat=False) for i in range(body.get("n", 1))]}

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"q{i}", "chosen": "aa", "rejected": "b"}) + "\n" for i in range(4)))
    with serving(answer) as server:
        evaluate(
            *["--dataset_name", rows, "--base_url", server.url, "--tokenizer_name_or_path", models["judge"]],
            *["--template", "compact", "--max_new_tokens", "16", "--k", "4", "--output_dir", tmp_path / "out"],
            *["--api_key", "sk-s3cret", "--greedy", "--prices", "1", "3"],
        )
        asked = server.bodies
    report = read(tmp_path / "out", "report.json")
    protocol = report["protocol"]["rows"]
    assert (protocol["model"], protocol["engine"], protocol["context"]) == ("judge", "OpenAIEngine", 2048)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-s3cret"}
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 3 and not [path for path in files if b"sk-s3cret" in path.read_bytes()]
    assert "sk-s3cret" not in caplog.text
    assert server.url not in json.dumps(report) and sum(body.get("n", 1) for body in asked) == 16 + 4
    cost, text = report["diagnosis"]["rows"]["cost"], (tmp_path / "out" / "table.md").read_text()
    assert cost["read"] == sum(len(body["prompt"]) for body in asked), "of votes and of greedy critiques"
    assert cost["written"] == 20 * 13 and cost["money"] == pytest.approx((cost["read"] + 3 * 260) / 1e6)
    assert f"{cost['read']:,} tokens read, 260 written" in text and "at 1 and 3 a million" in text
    assert all(isinstance(body["prompt"][0], int) for body in asked), "prompts go as token ids"
    judged = [result for result in read(tmp_path / "out", "results.json") if result["stage"] == "judge"]
    ks = (1, 1, 2, 4)  # greedy first
    assert [(result["k"], result["accuracy"], result["ties"]) for result in judged] == [(k, 0.5, 1) for k in ks]
    diagnosis = report["diagnosis"]["rows"]
    assert diagnosis["ties"] == {"single": 1, "vote": 1} and diagnosis["order_flips"]["flips"] == 0
    assert diagnosis["chosen_places"] == {"2": [0.5, 0.5]}


def test_rows_that_a_server_refuses(tmp_path, monkeypatch):
    """The error has the number of the user's row; with `invalid_rows drop` refusals are counted by cause."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("trl_spct.evaluation.benchmark_results.RESAMPLES", 50)

    def answer(path, body, number):
        if path.endswith("/models"):
            return MODELS
        if "q3" in body["messages"][0]["content"]:
            return 400, {}, {"error": {"code": "content_filter", "message": "The response was filtered"}}
        return {"choices": [choice(r"\boxed{7, 7}", i) for i in range(body.get("n", 1))]}

    made = [{"prompt": f"q{i}", "chosen": "aa", "rejected": "" if i == 1 else "b"} for i in range(5)]
    for name, rows in (("valid", made[2:]), ("all", made)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(answer) as server:
        options = ["--base_url", server.url, "--template", "compact", "--max_new_tokens", "16", "--k", "2"]
        with pytest.raises(EngineError, match=r"^Row 1: .*filtered.*invalid_rows"):
            evaluate("--dataset_name", tmp_path / "valid.jsonl", *options, "--output_dir", tmp_path / "error")
        out = tmp_path / "out"
        evaluate("--dataset_name", tmp_path / "all.jsonl", *options, "--output_dir", out, "--invalid_rows", "drop")
    report = read(out, "report.json")
    facts, diagnosis = report["items"]["rows"], report["diagnosis"]["rows"]
    assert facts["rows"] == {"all.jsonl": 5} and sum(facts["dropped"].values()) == 1
    assert diagnosis["problems"] == {"content_filter": 2} and diagnosis["rows"] == 4 and diagnosis["undecided"] == 1
    (result,) = (r for r in read(out, "results.json") if (r["stage"], r["k"]) == ("judge", 2))
    assert (result["n"], result["accuracy"], result["voted"]) == (4, 3 / 8, 3 / 4), "a refused row is worth nothing"
    assert [judgment.id for judgment in read_judgments(out / "judgments")] == ["0", "2", "3", "4"]


def test_ways_to_guide_are_ways_to_read(tmp_path, monkeypatch):
    """As stored with the Meta RM, or as asked for, from the same judgments; plain voting is not shown twice."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("trl_spct.evaluation.benchmark_results.RESAMPLES", 50)
    torch.manual_seed(0)
    meta_rm = MetaRMForSequenceClassification(tiny_config("llama"))
    meta_rm.config.meta_rm = {"k_meta": 1.0}
    meta_rm.save_pretrained(tmp_path / "meta_rm")
    tiny_tokenizer().save_pretrained(tmp_path / "meta_rm")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"q{i}", "chosen": "aa", "rejected": "b"}) + "\n" for i in range(4)))
    arguments = [
        *["--dataset_name", rows, "--model_name_or_path", save_writing(tmp_path / "judge"), "--template", "compact"],
        *["--meta_rm", tmp_path / "meta_rm", "--max_new_tokens", "24", "--k", "4", "--output_dir", tmp_path / "out"],
    ]

    def told(*more):
        evaluate(*arguments, *more)
        results, report = read(tmp_path / "out", "results.json"), read(tmp_path / "out", "report.json")
        return {result["guided"] for result in results}, report["protocol"]["rows"]["guidance"], report

    guided, guidance, report = told()
    assert (guided, guidance) == ({False}, "plain") and "comparison" not in report
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*.parquet")}
    for more, expected in (
        (["--k_meta", "0.5"], "top 50 %"),
        (["--k_meta", "3"], "top 3"),
        (["--guide", "soft"], "soft"),
    ):
        guided, guidance, report = told(*more)
        assert (guided, guidance) == ({False, True}, expected)
        assert report["comparison"]["rows"]["plain voting"]["k"] == 4
        assert report["diagnosis"]["rows"]["fidelity"]["critiques"] > 0, "of each judge with a Meta RM"
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is judged again"


def test_a_meta_judge_on_a_server(tmp_path, monkeypatch, capsys):
    """It reads right critiques alone, once, three times each; what it said is stored."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("trl_spct.evaluation.benchmark_results.RESAMPLES", 50)
    rows, asked = tmp_path / "rows.jsonl", []
    rows.write_text("".join(json.dumps({"prompt": f"q{i}", "chosen": "aa", "rejected": "b"}) + "\n" for i in range(4)))

    def answer(path, body, number):
        if path.endswith("/models"):
            return MODELS
        asked.append(body)
        return {"choices": [choice(r"Scores: \boxed{1}", i) for i in range(body.get("n", 1))]}

    with serving(answer) as server:
        arguments = [
            *["--dataset_name", rows, "--model_name_or_path", save_writing(tmp_path / "judge"), "--k", "4"],
            *["--template", "compact", "--max_new_tokens", "24", "--meta_judge", server.url],
            *["--output_dir", tmp_path / "out"],
        ]
        evaluate(*arguments)
        count = len(asked)
        evaluate(*arguments)
    judgments = read_judgments(tmp_path / "out" / "judgments")
    right = {(n, c.text, c.order) for n, j in enumerate(judgments) for c in j.critiques if c.scores[0] > c.scores[1]}
    report = read(tmp_path / "out", "report.json")["diagnosis"]["rows"]
    assert report["meta_judged"]["sound"] == 1.0 and "fidelity" not in report, "there is no Meta RM"
    assert 0 < report["meta_judged"]["right"] < 1
    assert sum(body.get("n", 1) for body in asked) == 3 * len(right) and len(asked) == count
    assert all("Is this analysis sound?" in body["messages"][-1]["content"] for body in asked)
    assert "sound reason, if right: 100.0 (100.0–100.0) by the meta-judge" in capsys.readouterr().out
    assert "100.0 (100.0–100.0) by the meta-judge" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "0"], "expected numbers of votes from 1 on"),
        (["--k", "4", "-1"], "expected numbers of votes from 1 on"),
        (["--semi_scalar_rm", "cloud"], "expected a critic and its head"),
        (["--k_meta", "1.5"], "k_meta=1.5; expected at least 1 critique"),
        (["--k_meta", "2", "--guide", "soft"], "under which all critiques vote"),
    ],
)
def test_options_that_cannot_be(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate("--dataset_name", tmp_path, *options)


@pytest.mark.slow
def test_two_processes_judge_what_one_does(tmp_path):
    """On a machine without a GPU as well, and each row once."""
    judge = save_writing(tmp_path / "judge")
    rows = [{"query": f"q{i}", "responses": ["a" * (i + 1), "b"], "labels": [i % 2, 1 - i % 2]} for i in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        *[RECIPE, "--dataset_name", tmp_path / "rows.jsonl", "--model_name_or_path", judge, "--template", "compact"],
        *["--max_new_tokens", "24", "--k", "2", "--rows_per_shard", "2", "--greedy"],
    ]
    found, shown = {}, {}
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
             *map(str, arguments), "--output_dir", str(out)],
            capture_output=True, text=True, timeout=600, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(RECIPE.parent.parent)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found[processes] = read(out, "results.json")
        shown[processes] = done.stdout
        assert json.loads((out / "report.json").read_text())["processes"] == processes
    assert found[1] == found[2] and shown[1] == shown[2], "and told once"
