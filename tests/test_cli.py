# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The command line: which verbs there are, what goes to `accelerate launch`, and that a wheel needs no checkout."""

import argparse
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from tiny_models import save_writing

from trl_spct import cli, packaged

# Verbs


def test_verbs_are_the_recipes():
    scripts = packaged("recipes").glob("*.py")
    recipes = {path.stem for path in scripts if "\ndef make_parser(" in path.read_text(encoding="utf-8")}
    assert {verb.replace("-", "_") for verb in cli.VERBS} == recipes | {"serve"}
    assert all(5 < len(line) < 90 for line in cli.VERBS.values())


def test_an_unknown_verb_names_those_that_exist(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["sft"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "'sft'" in told and all(f"'{verb}'" in told for verb in cli.VERBS)


def test_help_lists_the_verbs(capsys):
    assert cli.main([]) == 0
    bare = capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert capsys.readouterr().out == bare
    lines = bare.splitlines()
    for verb, description in cli.VERBS.items():
        assert [line for line in lines if line.split(maxsplit=1) == [verb, description]], verb
    assert "--num_processes" in bare


# What is whose


@pytest.fixture(scope="module")
def parser():
    from trl import ModelConfig, ScriptArguments, TrlParser

    return TrlParser((ScriptArguments, ModelConfig), prog="trl-spct test")


@pytest.mark.parametrize(
    ("arguments", "launch", "own"),
    [
        ("--dataset_name x", "", "--dataset_name x"),
        ("--num_processes 2 --dataset_name 2", "--num_processes 2", "--dataset_name 2"),
        ("--dataset_name 2 --multi_gpu --num_processes 2", "--multi_gpu --num_processes 2", "--dataset_name 2"),
        ("--lora_target_modules q k --config_file f.yaml", "--config_file f.yaml", "--lora_target_modules q k"),
        ("--use_peft --accelerate_config zero2 --lora_r 4", "--accelerate_config zero2", "--use_peft --lora_r 4"),
        ("--multi_gpu --config x.yaml --lora_r 4", "--multi_gpu", "--config x.yaml --lora_r 4"),
    ],
)
def test_the_recipe_takes_what_it_knows(parser, arguments, launch, own):
    assert cli.split_arguments(parser, arguments.split()) == (launch.split(), own.split())


@given(st.lists(st.sampled_from(["--dataset_name", "--x", "--y=1", "1", "2"]), max_size=8))
def test_each_argument_goes_to_one_of_both(arguments):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--dataset_name", nargs="?")
    launch, own = cli.split_arguments(parser, arguments)
    assert sorted(launch + own) == sorted(arguments)
    assert parser.parse_known_args(own)[1] == [] and launch == parser.parse_known_args(arguments)[1]


def test_a_config_may_be_one_that_came_with_the_package(tmp_path, monkeypatch, capsys):
    packaged = tmp_path / "recipes" / "tiny-model"
    packaged.mkdir(parents=True)
    (packaged / "spct.yaml").write_text("seed: 1\n")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    asked = ["--config", "tiny-model/spct.yaml", "--seed", "2"]

    def configured(arguments):
        return cli._with_packaged_config(arguments, tmp_path / "recipes", argparse.ArgumentParser())

    for name in ("tiny-model/spct.yaml", "recipes/tiny-model/spct.yaml"):
        found = configured(["--config", name, "--seed", "2"])
        assert found == ["--config", str(packaged / "spct.yaml"), "--seed", "2"]
    (here / "tiny-model").mkdir()
    (here / "tiny-model" / "spct.yaml").write_text("seed: 3\n")
    assert configured(asked) == asked, "a file here goes before"
    with pytest.raises(SystemExit):
        configured(["--config", "no.yaml"])
    assert re.search(r"error: Found --config no.yaml.* such as tiny-model/spct.yaml\.", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        cli.main(["rft", "--config", "no.yaml"])
    assert "error: Found --config no.yaml" in capsys.readouterr().err


def launched(monkeypatch, *arguments):
    """What `accelerate launch` would be asked for."""
    found = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", found.append)
    assert cli.main([str(argument) for argument in arguments]) == 0
    (options,) = found
    return options


def test_a_recipe_is_launched_as_accelerate_does(monkeypatch, tmp_path):
    options = launched(monkeypatch, "evaluate", "--num_processes", 2, "--k", 4, "--accelerate_config", "multi_gpu")
    assert options.training_script == str(ROOT / "recipes" / "evaluate.py")
    assert options.training_script_args == ["--k", "4"] and options.num_processes == 2
    assert Path(options.config_file).name == "multi_gpu.yaml" and Path(options.config_file).is_file()
    config = tmp_path / "mine.yaml"
    config.write_text("num_processes: 3\n")
    options = launched(monkeypatch, "meta_rm", "--config_file", config, "--use_cpu", "--bf16", "false")
    assert options.config_file == str(config) and options.training_script.endswith("meta_rm.py")


def test_the_embedded_default_is_launched_without_any_argument(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    options = launched(monkeypatch, "spct")
    assert options.training_script == str(ROOT / "recipes" / "spct.py") and options.training_script_args == []
    options = launched(monkeypatch, "spct", "--seed", 1, "--num_processes", 2, "--output_dir", "o")
    assert options.training_script_args == ["--seed", "1", "--output_dir", "o"] and options.num_processes == 2


@pytest.mark.skipif(not (ROOT / "recipes" / "policy.py").exists(), reason="a checkout without this recipe")
def test_the_embedded_example_of_a_policy(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    options = launched(monkeypatch, "policy", "--tiny", "--steps", 2, "--num_processes", 1)
    assert options.training_script_args == ["--tiny", "--steps", "2"] and options.num_processes == 1


def test_what_nobody_knows_is_refused_before_anything_is_launched(monkeypatch, capsys):
    monkeypatch.setattr("accelerate.commands.launch.launch_command", lambda options: pytest.fail("launched"))
    for unknown in (["--apikey", "sk-secret"], ["--apikey"], ["--apikey=sk-secret"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["evaluate", *unknown, "--k", "4"])
        shown = capsys.readouterr().err
        assert stopped.value.code == 2 and "['--apikey']" in shown and "secret" not in shown


def test_a_failing_recipe_gives_its_exit_status(monkeypatch):
    def fail(options):
        raise subprocess.CalledProcessError(3, "python")

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    assert cli.main(["evaluate"]) == 3


def test_a_script_of_one_process_runs_here(monkeypatch, capsys):
    monkeypatch.setattr("accelerate.commands.launch.launch_command", lambda options: pytest.fail("launched"))
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as stopped:
        cli.main(["math-rows", "--help"])
    assert stopped.value.code == 0 and "usage: trl-spct math-rows" in capsys.readouterr().out


def test_upstream_contract():
    from accelerate.commands.launch import launch_command, launch_command_parser
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    assert list(inspect.signature(resolve_accelerate_config_argument).parameters) == ["launch_args"]
    assert list(inspect.signature(launch_command).parameters) == ["args"]
    options = launch_command_parser().parse_args(["--num_processes", "2", "script.py", "--x", "1"])
    assert (options.training_script, options.training_script_args) == ("script.py", ["--x", "1"])


# A wheel, away from the checkout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel in a folder of its own; the other packages are this environment's."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("pip")
    home = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("trl_spct", "model_cards", "recipes"):
        shutil.copytree(ROOT / name, home / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, home / "source")
    pip = [sys.executable, "-m", "pip", "-q"]
    build = ["wheel", home / "source", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", home]
    subprocess.run([*pip, *build], check=True, timeout=120)
    (wheel,) = home.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", home / "site", wheel], check=True)
    return home / "site"


def run(installed, cwd, *arguments, code=0):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, installed / "bin" / "trl-spct", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done


HELP = """
import runpy, sys
sys.argv = ["trl-spct", "--help"]
try:
    runpy.run_path({entry!r}, run_name="__main__")
except SystemExit:
    pass
print(sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "transformers", "trl", "accelerate"}}))
"""


def test_help_of_an_installed_wheel_loads_no_torch(installed, tmp_path):
    code = HELP.format(entry=str(installed / "bin" / "trl-spct"))
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert "Evaluate a judge" in done.stdout and done.stdout.splitlines()[-1] == "[]", done.stderr
    assert "'sft'" in run(installed, tmp_path, "sft", code=2).stderr
    assert run(installed, tmp_path, "--version").stdout.strip()


@pytest.mark.slow
def test_the_recipes_of_an_installed_wheel_run(installed, tmp_path):
    """In one process, and in two, as `accelerate launch` runs them."""
    judge = save_writing(tmp_path / "judge")
    rows = [{"prompt": f"q{i}", "responses": ["good", "bad"]} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--model_name_or_path", judge, "--dataset_name", "rows.jsonl", "--template", "compact", "--k", 2]
    options += ["--max_new_tokens", 32, "--rows_per_shard", 1]
    run(installed, tmp_path, "label", *options, "--output_dir", "one")
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"seed": 0}))
    options += ["--config", "two.yaml", "--multi_gpu", "--num_processes", 2]
    told = run(installed, tmp_path, "label", *options, "--output_dir", "two").stderr
    assert "Judging" in told
    found = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")]
    assert all(report["cost"].pop("seconds") > 0 for report in found)
    assert found[0] == found[1] and found[0]["critiques"] == 12 and found[0]["best_of_n"] == 6
    done = run(installed, tmp_path, "label", *options[:2], "--dataset_name", "none.jsonl", code=1)
    assert "launch_command" not in done.stderr, "the recipe's own error, not the launcher's"
    packaged = ["--config", "recipes/qwen3-0.6b/rft_qlora.yaml", "--model_name_or_path", judge]
    done = run(installed, tmp_path, "rft", *packaged, "--no_such_flag", "1", code=2)
    assert "['--no_such_flag']" in done.stderr
