# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The embedded default: its world, and the job from end to end with small sizes."""

import json
import random
import re
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from datasets import load_dataset
from paths import ROOT
from safetensors.torch import load_file
from test_engines import Server, honest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline, set_seed

from trl_spct import Preference, is_correct, parse_critique
from trl_spct.judge.critiques import PROBLEMS
from trl_spct.judge.prompts import judge_template

RESULT_KEYS = {
    "stage",
    "k",
    "guided",
    "temperature",
    "accuracy",
    "low",
    "high",
    "n",
    "unreadable",
    "ties",
    "voted",
    "seed",
}


@pytest.fixture(scope="module")
def world(tiny_job):
    return sys.modules["tiny.world"]


# The world


def test_rows_are_preferences_whose_best_response_shows_the_wanted_quality(world):
    tiny = world.World(0)
    rows = tiny.rows(300)
    assert {len(row.responses) for row in rows} == {1, 2, 3, 4}
    assert len({row.domain for row in rows}) == len(world.QUERIES)
    for row in rows:
        Preference(row.query, row.responses, row.labels)
        assert row.principle == tiny.wanted[row.audience, row.occasion] != row.unwanted
        assert [quality == row.principle for quality in row.shown] == [bool(label) for label in row.labels]
        assert row.principle not in row.query and row.unwanted not in row.query


def test_single_responses_are_right_half_of_the_time(world):
    labels = [row.labels[0] for row in world.World(0).rows(400, sizes=(1,))]
    assert 0.4 < sum(labels) / len(labels) < 0.6


def test_no_query_is_both_learned_from_and_held_out(world):
    tiny = world.World(1)
    train, dev, test = ({r.query for r in tiny.rows(200, split)} for split in ("train", "dev", "test"))
    assert not train & dev and not train & test and not dev & test


def test_neither_audience_nor_occasion_alone_tells_the_principle(world):
    tiny = world.World(2)
    for audience in world.AUDIENCES:
        assert len({tiny.wanted[audience, occasion] for occasion in world.OCCASIONS}) == 2
    for occasion in world.OCCASIONS:
        assert len({tiny.wanted[audience, occasion] for audience in world.AUDIENCES}) >= 4


def test_a_world_is_a_function_of_its_seed(world):
    assert world.World(5).rows(40) == world.World(5).rows(40) != world.World(6).rows(40)
    assert world.World(5).rows(40, seed=1) != world.World(5).rows(40, seed=2)


def test_faulty_critiques_follow_the_principle_that_they_name(world):
    tiny, rng = world.World(0), random.Random(0)
    flawless = world.Habits(misread=0.0, halo=0.0, unreadable=0.0)
    for row in tiny.rows(200, sizes=(2, 3)):
        text = tiny.critique(row, rng, flawless)
        named = world.named_principle(text)
        scores = parse_critique(text, len(row.responses)).scores
        if named in row.shown:  # scores of good and poor responses meet at 6
            assert scores[row.shown.index(named)] == max(scores)
        else:
            assert max(scores) <= 6


def test_the_base_corpus_has_the_faults_that_it_states(world):
    tiny, rng = world.World(0), random.Random(1)
    rows = tiny.rows(1500, sizes=(3,))
    texts = [tiny.critique(row, rng) for row in rows]
    problems = [parse_critique(text, 3).problem for text in texts]
    assert 0.1 < sum(p is not None for p in problems) / len(problems) < 0.18 and set(problems) <= {None, *PROBLEMS}
    right = {
        manner: [world.named_principle(t) == r.principle for t, r in zip(texts, rows, strict=True) if manner in t]
        for manner in world.MANNERS
    }
    assert sum(right[world.GLANCE]) / len(right[world.GLANCE]) + 0.1 < sum(right[world.REFLECTION]) / len(
        right[world.REFLECTION]
    )


def test_without_principles_nothing_but_the_criteria_line_is_missing(world):
    tiny = world.World(0)
    row = tiny.rows(1, sizes=(2,))[0]
    text = tiny.critique(row, random.Random(0), principles=False)
    assert text.startswith("Analysis:") and world.named_principle(text) is None


def test_the_tokenizer_decodes_what_it_encodes(tiny_run):
    tokenizer = AutoTokenizer.from_pretrained(tiny_run / "outputs/tiny/base")
    text = "Specific Criteria: on reflection, brief (weight 4).\nAnalysis: Response 1 is warm: poor.\n"
    text += r"Scores: \boxed{10, 3}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


# The job


def test_it_leaves_complete_checkpoints(tiny_run):
    folder = tiny_run / "outputs/tiny"
    for stage in ("rft", "spct"):
        AutoModelForCausalLM.from_pretrained(folder / stage)
        AutoTokenizer.from_pretrained(folder / stage)
        assert "2504.02495" in (folder / stage / "README.md").read_text()
    assert AutoModelForSequenceClassification.from_pretrained(folder / "meta_rm").config.num_labels == 1
    assert "2504.02495" in (folder / "meta_rm" / "README.md").read_text()
    judge = pipeline("grm-reward", model=str(folder / "spct"), meta_rm=str(folder / "meta_rm"), device="cpu")
    verdict = judge(
        {"query": "Advise a chef on rain at a party.", "responses": ["Ha ha.", "Briefly: rain."]}, k=4, seed=0
    )
    assert verdict["k"] == verdict["drawn"] == 4


def test_the_meta_rm_guides_as_was_chosen_on_rows_of_their_own(tiny_run):
    folder = tiny_run / "outputs/tiny"
    chosen = json.loads((folder / "guidance.json").read_text())
    assert set(chosen) == {"base", "rft", "spct"} and all(choice["k"] == 4 for choice in chosen.values())
    assert {line["n"] for choice in chosen.values() for line in choice["table"]} == {10}
    judge = pipeline("grm-reward", model=str(folder / "spct"), meta_rm=str(folder / "meta_rm"), device="cpu")
    assert judge.guidance.settings == chosen["spct"]["guidance"]
    assert judge.meta_rm.config.meta_rm["template"] == judge_template("compact").digest


def test_each_stage_changed_the_judge(tiny_run):
    folder = tiny_run / "outputs/tiny"
    weights = [AutoModelForCausalLM.from_pretrained(folder / s).state_dict() for s in ("base", "rft", "spct")]
    for before, after in zip(weights, weights[1:], strict=False):
        assert all(not before[name].equal(after[name]) for name in before if "weight" in name)


def test_results_are_what_the_readme_says(tiny_run):
    folder = tiny_run / "outputs/tiny"
    results = json.loads((folder / "results.json").read_text())
    assert all(set(result) == RESULT_KEYS for result in results)
    described = {(r["stage"], r["k"], r["guided"], r["temperature"]) for r in results}
    for stage in ("base", "rft", "spct"):
        assert (stage, 1, False, 0.0) in described
        assert {(stage, k, guided, 0.5) for k in (1, 2, 4) for guided in (False, True)} <= described
    assert all(r["low"] <= r["accuracy"] <= r["high"] and r["n"] == 14 and r["seed"] == 3 for r in results)
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_trajectories_are_a_dataset_with_the_kept_and_the_rejected(tiny_run, tmp_path):
    folder = tiny_run / "outputs/tiny/trajectories"
    rows = load_dataset(str(folder), cache_dir=str(tmp_path))["train"]
    report = json.loads((folder / "rejection.json").read_text())
    assert len(rows) == report["trajectories"] == 48 * 4
    for row in rows:
        if row["outcome"] in ("kept", "too_easy"):
            assert is_correct(row["scores"], row["labels"])
        assert "The best response is" not in row["prompt"][0]["content"]


def test_a_second_start_does_nothing_twice(tiny_job, tiny_run):
    folder = tiny_run / "outputs/tiny"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    results = tiny_job.run(str(folder), seed=3)
    assert results == json.loads((folder / "results.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_start_after_a_kill_goes_on_where_it_stopped(tiny_job, tiny_run):
    folder = tiny_run / "outputs/tiny"
    finished = json.loads((folder / "results.json").read_text())
    progress = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(
        json.dumps({name: progress[name] for name in progress if name != "evaluation"})
    )
    (folder / "results.json").unlink()
    lost, *others = sorted((folder / "judgments").rglob("shard-*.parquet"))
    lost.unlink()
    kept = [folder / "base" / "model.safetensors", *others]
    before = [path.stat().st_mtime_ns for path in kept]
    assert tiny_job.run(str(folder), seed=3) == finished
    assert lost.exists() and [path.stat().st_mtime_ns for path in kept] == before


def interrupt(self, args, state, control, **kwargs):
    if state.global_step == 11:
        raise KeyboardInterrupt


def bare_job(tiny_job, folder):
    job = tiny_job.Job.__new__(tiny_job.Job)
    job.folder, job.seed, job.principles, job.world = folder, 3, True, tiny_job.World(3)
    job.state = tiny_job.PartialState()
    return job


@pytest.mark.parametrize("interrupted_call", [12, 82])  # in the first phase of 80 steps; in the second
def test_the_base_judge_resumes_after_a_kill(tiny_job, tmp_path, monkeypatch, interrupted_call):
    for name, value in {"LESSONS": 160, "DRILLS": 2400, "CORPUS": 400, "SAVE_STEPS": 1}.items():
        monkeypatch.setattr(tiny_job, name, value)
    calls = []

    def start(name):
        set_seed(3)
        bare_job(tiny_job, tmp_path / name).build_base()
        assert not list((tmp_path / name / "base").glob("phase-*"))
        return load_file(tmp_path / name / "base/model.safetensors")

    def interrupt_one(self, args, state, control, **kwargs):
        calls.append(state.global_step)
        if len(calls) == interrupted_call:
            raise KeyboardInterrupt

    whole = start("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tiny_job._Progress, "on_step_end", interrupt_one)
        start("resumed")
    resumed = start("resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_reinforcement_resumes_after_a_kill(tiny_job, tiny_run, tmp_path, monkeypatch):
    """Killed after its first checkpoint, it ends with the weights of a run that was not."""
    monkeypatch.setattr(tiny_job, "SPCT_STEPS", 12)
    monkeypatch.setitem(tiny_job.ROWS, "spct", 200)  # one epoch, as in the job; TRL shuffles a second one anew

    def start(name):
        shutil.copytree(tiny_run / "outputs/tiny/rft", tmp_path / name / "rft", dirs_exist_ok=True)
        job = bare_job(tiny_job, tmp_path / name)
        set_seed(3)
        job.reinforce()
        assert not list((tmp_path / name / "spct").glob("checkpoint-*"))
        return load_file(tmp_path / name / "spct/model.safetensors")

    whole = start("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tiny_job._Progress, "on_step_end", interrupt)
        start("resumed")
    assert [path.name for path in (tmp_path / "resumed/spct").glob("checkpoint-*")] == ["checkpoint-10"]
    resumed = start("resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_folder_of_another_run_is_refused(tiny_job, tiny_run):
    with pytest.raises(FileExistsError, match="seed: 3 there, 4 now"):
        tiny_job.run(str(tiny_run / "outputs/tiny"), seed=4)


def test_the_script_names_its_options(tmp_path):
    shown = subprocess.run(
        [sys.executable, "recipes/spct.py", "--learning_rate", "1"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode != 0 and "--output_dir" in shown.stderr


# The README


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_python_blocks_run(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
    server = Server(honest)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for block in blocks("python"):
        exec(compile(block.replace("http://localhost:8000", server.url), "README.md", "exec"), {})


def test_readme_names_the_main_job_and_ci_runs_the_test_command():
    commands = blocks("bash")
    assert any("accelerate launch recipes/spct.py\n" in command for command in commands)
    readme = (ROOT / "README.md").read_text()
    marked = readme[readme.index("<!-- test command -->") :]
    assert re.search(r'```bash\npip install -e "\.\[dev\]" && pytest[^\n]*\n```', marked)
