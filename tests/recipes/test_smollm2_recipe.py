# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The recipe of SmolLM2-135M-Instruct: its rows, and that its stages parse and chain."""

import gzip
import json
import re
import subprocess
import sys

import pytest
from paths import ROOT
from smollm2 import prepare_script
from test_recipe_files import CPU, commands_in, keys, launched, parse
from tiny_models import tiny_tokenizer
from trl import DatasetMixtureConfig, ModelConfig, RewardConfig, ScriptArguments, TrlParser

from trl_spct.data.preparation import prepare_preferences
from trl_spct.judge.prompts import judge_template
from trl_spct.trainers.recorded import recorded_trajectories

HOME = ROOT / "recipes" / "smollm2-135m"
STAGES = [f"recipes/smollm2-135m/{stage}_full.yaml" for stage in ("rft", "spct", "meta_rm")]

SCALAR = "recipes/smollm2-135m/scalar_rm.yaml"


@pytest.fixture(scope="module")
def prepare():
    return prepare_script()


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_critiques_that_name_a_winner_are_joined(prepare):
    """Of both ways to write them: PandaLM's own files, and lines that name the judge."""
    recorded = [
        {"idx": 1, "pandalm_result": 2, "pandalm_reason": "Response 2 is shorter."},
        {"idx": 0, "pandalm_result": 0, "pandalm_reason": "Both are alike."},
        {"idx": 1, "judge": "gpt-3.5-turbo", "result": "1", "reason": "Response 1 is right."},
        {"idx": 1, "judge": "gpt-3.5-turbo", "result": "garbage", "reason": ""},
    ]
    first, second = prepare.with_critiques([{"idx": 0}, {"idx": 1}], recorded)
    assert first["critiques"] == []
    assert second["critiques"] == [
        {"reason": "Response 2 is shorter. Better: response 2.", "verdict": "1"},
        {"reason": "Response 1 is right. Better: response 1.", "verdict": "0"},
    ]


def test_the_arguments_are_read_as_they_are_published(prepare, tmp_path):
    """Tab-separated, with quotes that are text, a file for each side of a debate."""
    (tmp_path / "b_no.csv").write_text('#id\tlabel\ta1\ta2\nx\ta1\tHe said "no\tYes\n')
    (tmp_path / "a_yes.csv").write_text("#id\tlabel\ta1\ta2\ny\ta2\tMaybe, so\tNo\n")
    assert prepare.read(tmp_path) == [
        {"#id": "y", "label": "a2", "a1": "Maybe, so", "a2": "No", "_topic": "a_yes"},
        {"#id": "x", "label": "a1", "a1": 'He said "no', "a2": "Yes", "_topic": "b_no"},
    ]


def test_no_group_is_on_both_sides(prepare):
    rows = [{"topic": f"debate-{number % 7}", "number": number} for number in range(70)]
    parts = prepare.split(rows, lambda row: row["topic"], 0.3, (30, 100), seed=0)
    topics = {name: {row["topic"] for row in part} for name, part in parts.items()}
    assert not topics["train"] & topics["test"]
    assert len(topics["test"]) == 2 and len(parts["test"]) == 20 and len(parts["train"]) == 30
    assert parts == prepare.split(rows, lambda row: row["topic"], 0.3, (30, 100), seed=0)
    assert parts != prepare.split(rows, lambda row: row["topic"], 0.3, (30, 100), seed=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the script writes of pairs in both schemas."""
    folder = tmp_path_factory.mktemp("rows")
    annotators = {f"annotator{number}": 1 for number in (1, 2, 3)}
    pandalm = [
        {
            "idx": n,
            "instruction": f"Name {n} birds.",
            "input": "",
            "response1": "Owl.",
            "response2": "Bee.",
            **annotators,
        }
        for n in range(12)
    ]
    (folder / "pandalm.json").write_text(json.dumps(pandalm))
    critiques = [
        {
            "idx": row["idx"],
            "pandalm_result": 1 + number % 2,
            "pandalm_reason": f"Response {1 + number % 2} is better.",
        }
        for number, row in enumerate(pandalm)
    ]
    (folder / "critiques.json").write_text(json.dumps(critiques))
    with gzip.open(folder / "ukp.jsonl.gz", "wt") as file:
        for number in range(8):
            row = {"#id": str(number), "label": "a2", "a1": "No.", "a2": f"Yes, since {number}."}
            file.write(json.dumps({**row, "_topic": f"debate-{number % 4}_yes"}) + "\n")
    files = ["--pandalm", "pandalm.json", "--critiques", "critiques.json", "--ukpconvarg1", "ukp.jsonl.gz"]
    subprocess.run([sys.executable, str(HOME / "prepare.py"), *files, "--output", "out"], cwd=folder, check=True)
    return folder / "out"


def test_its_rows_are_read_by_every_stage(written):
    names = sorted(path.name for path in written.iterdir())
    parts = [f"{name}_{part}.jsonl" for name in ("pandalm", "ukpconvarg1") for part in ("test", "train")]
    assert names == sorted(["pairs.jsonl", "rl.jsonl", *parts])
    for name in [*parts, "rl.jsonl"]:
        prepared = prepare_preferences(rows_of(written / name), None, "drop").dataset
        assert len(prepared) and all(len(row["responses"]) == 2 for row in prepared)
    recorded = recorded_trajectories(
        rows_of(written / "pandalm_train.jsonl"), tiny_tokenizer(), str(HOME / "judge.txt"), invalid_rows="drop"
    )
    assert {"kept", "incorrect"} <= set(recorded["outcome"])
    kept = next(row for row in recorded if row["outcome"] == "kept")
    assert kept["completion"][0]["content"] == "Response 1 is better. Better: response 1.\n\nScores: \\boxed{8, 4}"


def test_the_scalar_model_reads_the_same_rows(written):
    """In TRL's preference format, the better response as chosen."""
    rows = [row for name in ("pandalm", "ukpconvarg1") for row in rows_of(written / f"{name}_train.jsonl")]
    pairs = rows_of(written / "pairs.jsonl")
    assert len(pairs) == len(rows)
    arguments = {row["chosen"][0]["content"] for row in pairs} - {"Owl."}
    assert arguments == {row["a2"] for row in rows if "a2" in row}
    assert {row["rejected"][0]["content"] for row in pairs} == {"Bee.", "No."}


def test_reinforcement_reads_the_better_response_in_both_places_in_turns(written):
    rows, pairs = rows_of(written / "rl.jsonl"), rows_of(written / "pairs.jsonl")
    assert [row["best_index"] for row in rows] == [number % 2 for number in range(len(pairs))]
    for row, pair in zip(rows, pairs, strict=True):
        assert row["prompt"] == pair["prompt"]
        assert row["responses"][row["best_index"]] == pair["chosen"][0]["content"]
        assert row["responses"][1 - row["best_index"]] == pair["rejected"][0]["content"]
    assert not keys(STAGES[1])["shuffle_dataset"] and not keys(STAGES[1])["shuffle_responses"]


def test_its_scalar_recipe_is_one_of_trl(monkeypatch):
    monkeypatch.chdir(ROOT)
    (command,) = re.findall(r"^# trl (reward .*)$", (ROOT / SCALAR).read_text(), flags=re.MULTILINE)
    parser = TrlParser((ScriptArguments, RewardConfig, ModelConfig, DatasetMixtureConfig))
    _, args, model, mixture = parser.parse_args_and_config([*command.split()[1:], *CPU])
    assert model.model_name_or_path == keys(STAGES[0])["model_name_or_path"]
    assert mixture.datasets[0].data_files == "outputs/smollm2-135m/pairs.jsonl"
    assert args.output_dir == "outputs/smollm2-135m/scalar_rm"


def test_its_template_asks_for_what_it_reads():
    template = judge_template(str(HOME / "judge.txt"))
    prompt = template.render("User: Which?", ("a", "b"))
    assert "User: Which?" in prompt and "[The Begin of Response 2]\nb\n[The End of Response 2]" in prompt
    assert template.parse("Response 2 is shorter.\n\nScores: \\boxed{4, 8}", 2).scores == (4, 8)


@pytest.mark.parametrize("path", STAGES)
def test_the_commands_of_its_headers_parse(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / path).read_text()
    commands = [command for command in commands_in(text) if command[0] == "accelerate"]
    assert commands[-1][-1] == path
    for command in commands:
        script, arguments, _ = launched(command)
        for further in ([], ["--use_peft", "--lora_r", "16", "--lora_target_modules", "all-linear"]):
            parse(script, [*arguments, *further, *CPU])


def test_its_stages_chain():
    rft, spct, meta_rm = map(keys, STAGES)
    assert spct["model_name_or_path"] == rft["output_dir"]
    assert meta_rm["judge_name_or_path"] == meta_rm["model_name_or_path"] == spct["output_dir"]
    assert len({stage["hub_model_id"] for stage in (rft, spct, meta_rm)}) == 3
    assert not any(stage["push_to_hub"] for stage in (rft, spct, meta_rm))
    assert spct["per_device_train_batch_size"] % spct["num_generations"] == 0
