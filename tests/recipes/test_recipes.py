# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import gzip
import importlib.util
import json
import re
import shutil

import pytest
import yaml
from datasets import Dataset, DatasetDict
from paths import DATA, ROOT
from tiny_models import save_tiny
from trl import DatasetMixtureConfig, ScriptArguments
from trl.scripts.utils import DatasetConfig

from trl_spct.data.loading import (
    dataset_name_of,
    finish,
    load_named,
    load_preferences,
    push_or_exit,
    set_model_init_kwargs,
)
from trl_spct.judge.hub import PushError

SCRIPTS = ("rft", "spct", "meta_rm", "evaluate")


def recipe(name):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *arguments):
    module = recipe(name)
    module.main(*module.make_parser().parse_args_and_config([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("judge"))


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def rows(tmp_path, no_cache):
    path = tmp_path / "rows.jsonl"
    made = [{"query": f"q{i}?", "responses": [f"a{i}", f"b{i}"], "labels": [0.0, 1.0]} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


CPU = ("--use_cpu", "--bf16", "false", "--report_to", "none", "--disable_tqdm", "true", "--save_strategy", "no")


# Parsers


@pytest.mark.parametrize("name", SCRIPTS)
def test_parsers_take_every_field_from_a_yaml_file(name, tmp_path):
    parser = recipe(name).make_parser()
    values = {}
    for kind in parser.dataclass_types:
        for field in dataclasses.fields(kind):
            if field.init and isinstance(field.default, (str, int, float, bool)) and field.default != "":
                values[field.name] = field.default
    values.pop("bf16", None)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values | {"use_cpu": True} if name != "evaluate" else values))
    extra = [] if name == "evaluate" else ["--bf16", "false"]
    parsed = parser.parse_args_and_config(["--config", str(tmp_path / "config.yaml"), *extra])
    assert len(parsed) == len(parser.dataclass_types)


@pytest.mark.parametrize("name", SCRIPTS)
def test_parsers_are_strict(name, tmp_path):
    (tmp_path / "config.yaml").write_text("max_prompt_length: 512\n")
    parser = recipe(name).make_parser()
    extra = [] if name == "evaluate" else CPU
    with pytest.raises(ValueError, match="max_prompt_length"):
        parser.parse_args_and_config(["--config", str(tmp_path / "config.yaml"), *extra])
    with pytest.raises(ValueError, match="no_such_flag"):
        parser.parse_args_and_config(["--no_such_flag", "1", *extra])


@pytest.mark.parametrize("name", ["evaluate", "label", "label_ray", "math_rows"])
def test_scripts_that_train_nothing_keep_the_dtype_of_a_checkpoint(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes")
    for given, dtype in (([], "auto"), (["--dtype", "float32"], "float32")):
        parsed = recipe(name).make_parser().parse_args_and_config(given)
        assert [args.dtype for args in parsed if hasattr(args, "dtype")] == [dtype]


def test_trajectories_of_several_runs_keep_their_rows_apart(tmp_path):
    run = {"prompt": [""] * 3, "completion": [""] * 3, "outcome": ["kept"] * 3, "row": [0, 0, 2]}
    for name in ("a", "b"):
        Dataset.from_dict({**run, "only": [name] * 3}).to_parquet(tmp_path / name / "rows.parquet")
    joined = recipe("rft").load_trajectories([str(tmp_path / name / "rows.parquet") for name in ("a", "b")])
    assert joined["row"][:] == [0, 0, 2, 3, 3, 5]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_launch_line_of_the_docstring_parses(name):
    module = recipe(name)
    command = re.search(rf"accelerate launch recipes/{name}\.py((?:.*\\\n)*.*)", module.__doc__)[1]
    arguments = command.replace("\\\n", " ").split()
    assert len(arguments) >= 6
    module.make_parser().parse_args_and_config([*arguments, *([] if name == "evaluate" else ["--use_cpu", *CPU[1:3]])])


@pytest.mark.parametrize("name", [*SCRIPTS, "label", "label_ray", "policy", "math_rows"])
def test_help_names_every_option_and_its_values(name, capsys, monkeypatch):
    """Of the recipe's own classes; and `%` in a help text would break it."""
    monkeypatch.syspath_prepend(ROOT / "recipes")
    module = recipe(name)
    parser = module.make_parser()
    own = [kind for kind in parser.dataclass_types if kind.__module__ in (module.__name__, "trl_spct.scripts")]
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    for kind in own:
        for field in dataclasses.fields(kind):
            assert field.metadata.get("help") and f"--{field.name}" in shown, field.name
    expected = {
        "label": ["compact", "official", "balanced", "best-vs-random"],
        "evaluate": ["compact", "rewardbench", "ppe-correctness", "balanced"],
        "rft": ["compact"], "spct": ["compact"], "policy": ["compact"],
    }  # fmt: skip
    assert not [word for word in expected.get(name, ()) if word not in " ".join(shown.split())]


def test_keys_of_servers_are_in_no_representation():
    for name in ("label", "evaluate", "rft", "policy", "math_rows"):
        option = {"rft": "--sampler_api_key", "policy": "--judge_api_key"}.get(name, "--api_key")
        extra = CPU if name in ("rft", "policy") else ()
        parts = recipe(name).make_parser().parse_args_and_config([option, "sk-secret", *extra])
        assert "sk-secret" not in repr(parts)
        assert any("sk-secret" in vars(part).values() for part in parts)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_command_line_goes_before_the_file(name, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 5\ndataset_name: there\n")
    extra = [] if name == "evaluate" else CPU
    parsed = (
        recipe(name)
        .make_parser()
        .parse_args_and_config(["--config", str(tmp_path / "config.yaml"), "--seed", "6", *extra])
    )
    assert parsed[0].dataset_name == "there"
    assert next(part.seed for part in parsed if hasattr(part, "seed")) == 6


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], True),
        (["--output_dir", "out", "--seed", "3"], True),
        (["--model_name_or_path", "judge"], False),
        (["--model-name-or-path", "judge"], False),
        (["--model_name_or_path=judge"], False),
        (["--config", "c.yaml"], False),
        (["--config=c.yaml"], False),
        (["--help"], False),
        (["-h"], False),
    ],
)
def test_when_the_embedded_default_runs(arguments, expected):
    assert recipe("spct").wants_embedded(arguments) is expected


# End to end


def rft(judge, rows, out, *more):
    run(
        *["rft", "--model_name_or_path", judge, "--dataset_name", rows, "--output_dir", out, *CPU],
        *["--template", "compact", "--max_completion_length", "4", "--num_generations", "2", *more],
    )


def test_collecting_training_on_critiques_and_evaluating(judge, rows, tmp_path):
    rft(judge, rows, tmp_path / "rft", "--collect_only", "--hint", "none")
    trajectories = load_named(str(tmp_path / "rft" / "trajectories"))["train"]
    assert len(trajectories) == 16
    assert not (tmp_path / "rft" / "model.safetensors").exists()

    readable = trajectories.to_list()
    for number, record in enumerate(readable):
        record["scores"], record["problem"] = ([1, 2] if number % 2 else [2, 1]), None
    Dataset.from_list(readable).to_parquet(tmp_path / "critiques.parquet")
    run(
        *["meta_rm", "--model_name_or_path", judge, "--trajectories", tmp_path / "critiques.parquet"],
        *["--output_dir", tmp_path / "meta", "--max_steps", "1", "--eval_share", "0.3", *CPU],
    )
    assert (tmp_path / "meta" / "model.safetensors").exists()
    assert "meta-rm" in (tmp_path / "meta" / "README.md").read_text()

    arguments = [
        *["evaluate", "--model_name_or_path", judge, "--meta_rm", tmp_path / "meta", "--dataset_name", rows],
        *["--k", "2", "--max_new_tokens", "3", "--template", "compact", "--max_rows", "3"],
        *["--output_dir", tmp_path / "results"],
    ]
    run(*arguments)
    assert json.loads((tmp_path / "results" / "results.json").read_text())
    assert (tmp_path / "results" / "scaling.png").stat().st_size > 1000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "judgments").glob("*.parquet")}
    run(*arguments)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_recorded_critiques_are_learned_from_without_sampling(judge, tmp_path, monkeypatch):
    from trl_spct.trainers import rejective_sampler

    monkeypatch.delattr(rejective_sampler, "sample_critiques")
    critiques = [
        {"reason": "Response 2 is a prime.", "verdict": 1},
        {"reason": "Response 1 is a prime.", "verdict": 1, "order": [1, 0]},
        {"reason": "Response 1 is a prime.", "verdict": 0},
        {"text": "Nothing."},
    ]
    rows = [
        {"prompt": f"Name a prime, not {i}.", "responses": ["9", "7"], "best_index": 1, "critiques": [critique]}
        for i, critique in enumerate(critiques)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rft(judge, tmp_path / "rows.jsonl", tmp_path / "rft", "--max_steps", "1", "--per_device_train_batch_size", "2")
    card = (tmp_path / "rft" / "README.md").read_text()
    assert "unhinted, by outcome: 2 kept, 1 incorrect, 1 unreadable, 0 too_easy" in card
    assert "kept, by place of the best response: 1 place 1, 1 place 2" in card
    assert "on rows.jsonl" in card and (tmp_path / "rft" / "model.safetensors").exists()


def test_training_from_trajectories_that_are_there(judge, rows, tmp_path, monkeypatch):
    from trl_spct.judge.sampling import Sample
    from trl_spct.trainers import rejective_sampler

    def critiques(model, tokenizer, prompts, k, seed, **kwargs):
        samples = []
        for prompt in prompts:
            first = prompt[0]["content"].split("[The Begin of Response 1]\n")[1]
            better = ("9, 2", "2, 9")[first.startswith("a")]
            samples.append([Sample(f"\\boxed{{{better if j == 0 else '5, 5'}}}", 9, False) for j in range(k)])
        return samples

    monkeypatch.setattr(rejective_sampler, "sample_critiques", critiques)
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"prompt": f"p{i}", "completion": "c"}) + "\n" for i in range(6)))
    more = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--general_dataset_name", general]
    rft(judge, rows, tmp_path / "rft", *more, "--general_ratio", "0.25")
    for name in ("model.safetensors", "tokenizer_config.json", "config.json", "README.md"):
        assert (tmp_path / "rft" / name).exists()
    card = (tmp_path / "rft" / "README.md").read_text()
    assert "on rows.jsonl" in card
    assert "unhinted, by outcome: 8 kept, 8 incorrect" in card
    assert json.loads((tmp_path / "rft" / "config.json").read_text())["grm"]["template"] == "compact"
    # An adapter through the same script, and then its reinforcement learning by path.
    rft(judge, rows, tmp_path / "lora", *more, "--use_peft", "--lora_target_modules", "q_proj", "v_proj")
    assert (tmp_path / "lora" / "adapter_model.safetensors").exists()
    spct(tmp_path / "lora", rows, tmp_path / "lora-spct")
    assert (tmp_path / "lora-spct" / "adapter_model.safetensors").exists()


def spct(judge, rows, out, *more):
    run(
        *["spct", "--model_name_or_path", judge, "--dataset_name", rows, "--output_dir", out, *CPU],
        *["--template", "compact", "--max_completion_length", "4", "--max_steps", "1"],
        *["--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "4", *more],
    )


def test_reinforcement_learning(judge, rows, tmp_path):
    spct(judge, rows, tmp_path / "spct")
    for name in ("model.safetensors", "tokenizer_config.json", "config.json", "README.md"):
        assert (tmp_path / "spct" / name).exists()
    card = (tmp_path / "spct" / "README.md").read_text()
    assert re.search(r"loss_type.*grpo.*grpo", card) and re.search(r"beta.*0\.08.*0\.08 or 0\.002", card)


def test_evaluation_during_training_needs_a_test_split(judge, rows, tmp_path):
    with pytest.raises(ValueError, match=r"splits \['train'\]; expected \['test'\] among them"):
        spct(judge, rows, tmp_path / "spct", "--eval_strategy", "steps", "--eval_steps", "1")
    mixture = {"datasets": [{"path": "json", "data_files": str(rows)}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(mixture))
    arguments = ["--config", tmp_path / "config.yaml", "--eval_strategy", "steps", "--eval_steps", "1"]
    with pytest.raises(ValueError, match=r"The mixture has the splits \['train'\]; expected \['test'\]"):
        spct(judge, rows, tmp_path / "spct", *arguments)
    spct(judge, rows, tmp_path / "spct", *arguments, "--test_split_size", "0.25")
    assert (tmp_path / "spct" / "model.safetensors").exists()


def test_a_stronger_sampler_by_path(judge, rows, tmp_path):
    other = save_tiny(tmp_path / "other", arch="llama", seed=5)
    rft(judge, rows, tmp_path / "rft", "--collect_only", "--sampler_name_or_path", other)
    assert json.loads((tmp_path / "rft" / "trajectories" / "manifest.json").read_text())["sampler"] == other


def test_fresh_critiques_of_a_judge(judge, rows, tmp_path):
    module = recipe("meta_rm")
    parsed = module.make_parser().parse_args_and_config(
        [
            *["--judge_name_or_path", judge, "--dataset_name", str(rows), "--output_dir", str(tmp_path / "meta")],
            *["--max_completion_length", "3", "--template", "compact", "--num_generations", "1", *CPU],
        ]
    )
    set_model_init_kwargs(parsed[1], parsed[2])
    trajectories = module.sample_fresh(parsed[0], parsed[1], parsed[3], None)
    assert len(trajectories) == 8
    assert not any(trajectories["hinted"])
    assert (tmp_path / "meta" / "fresh" / "trajectories" / "shard-00000.parquet").exists()


def test_fresh_critiques_use_the_template_that_the_judge_names(judge, rows, tmp_path):
    named = shutil.copytree(judge, tmp_path / "named")
    config = json.loads((named / "config.json").read_text())
    (named / "config.json").write_text(json.dumps({**config, "grm": {"template": "compact"}}))
    module = recipe("meta_rm")
    arguments = ["--judge_name_or_path", named, "--dataset_name", rows, "--output_dir", tmp_path / "meta"]
    arguments += ["--max_completion_length", "2", "--num_generations", "1", *CPU]
    parsed = module.make_parser().parse_args_and_config([str(argument) for argument in arguments])
    set_model_init_kwargs(parsed[1], parsed[2])
    trajectories = module.sample_fresh(parsed[0], parsed[1], parsed[3], None)
    assert trajectories[0]["prompt"][0]["content"].startswith("Name the criteria for this query")


def test_a_meta_rm_needs_critiques(judge, tmp_path):
    with pytest.raises(ValueError, match="neither `trajectories` nor a `judge_name_or_path`"):
        run("meta_rm", "--model_name_or_path", judge, "--output_dir", tmp_path / "meta", *CPU)


# Reading data


def test_a_prompt_in_another_column_is_read_by_every_recipe(judge, tmp_path, no_cache):
    path, made = tmp_path / "rows.jsonl", [f"Text {i}." for i in range(3)]
    rows = [{"article": text, "chosen": f"Good {i}", "rejected": f"Bad {i}"} for i, text in enumerate(made)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"train row 0: .* beside the columns \['article'\].*`prompt_column`"):
        rft(judge, path, tmp_path / "rft", "--collect_only")
    rft(judge, path, tmp_path / "rft", "--collect_only", "--hint", "none", "--prompt_column", "article")
    assert set(load_named(str(tmp_path / "rft" / "trajectories"))["train"]["query"]) == set(made)
    spct(judge, path, tmp_path / "spct", "--prompt_column", "article")
    options = ["--dataset_name", str(path), "--prompt_column", "article"]
    for name in ("label", "evaluate", "meta_rm"):
        module = recipe(name)
        parsed = module.make_parser().parse_args_and_config([*options, *(CPU if name == "meta_rm" else ())])
        if name == "label":
            assert [row.query for row in module.read_rows(parsed[0])] == made
        elif name == "evaluate":
            [loaded] = module.load_items(parsed[0], parsed[3]).values()
            assert [item.rows[0].query for item in loaded.items] == made
        else:
            assert module.load_rows(parsed[0], parsed[1], parsed[3])["query"][:] == made


def test_a_named_source_is_read_by_recipe_and_trainer(judge, tmp_path, no_cache):
    rft(judge, DATA / "llmbar.jsonl", tmp_path / "rft", "--collect_only", "--hint", "none", "--source", "llmbar")
    assert len(load_named(str(tmp_path / "rft" / "trajectories"))["train"]) == 8


def preferences(name=None, parts=(), splits=("train",), invalid_rows="error", **mixture):
    return load_preferences(
        ScriptArguments(dataset_name=None if name is None else str(name)),
        DatasetMixtureConfig(datasets=list(parts), **mixture),
        splits=splits,
        invalid_rows=invalid_rows,
    )


@pytest.mark.parametrize("kind", ["jsonl", "json", "jsonl.gz", "parquet", "csv", "dataset", "dataset dict", "folder"])
def test_rows_are_read_from_wherever_they_are(kind, tmp_path, no_cache):
    made = Dataset.from_list([{"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(3)])
    path = tmp_path / f"rows.v1.{kind}"
    if kind in ("jsonl", "json"):
        made.to_json(path)
    elif kind == "jsonl.gz":
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in made)
    elif kind == "parquet":
        made.to_parquet(path)
    elif kind == "csv":
        made.to_csv(path)
    elif kind == "dataset":
        made.save_to_disk(path)
    elif kind == "dataset dict":
        DatasetDict({"train": made, "other": made}).save_to_disk(path)
    else:
        path.mkdir()
        made.to_parquet(path / "train.parquet")
    loaded = preferences(path)
    assert set(loaded) == {"train"}
    assert loaded["train"]["query"][:] == ["p0", "p1", "p2"]
    assert sorted(loaded["train"][0]["responses"]) == ["c0", "r0"]


def test_folders_of_the_same_name_are_not_mistaken_for_each_other(tmp_path, no_cache):
    card = "---\nconfigs:\n- config_name: default\n  data_files: shard-*.parquet\n---\n"

    def write(run, count):
        folder = tmp_path / run / "trajectories"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        (folder / "manifest.json").write_text("{}")
        Dataset.from_dict({"row": list(range(count))}).to_parquet(folder / "shard-00000.parquet")
        return str(folder)

    for run, count in (("one", 3), ("other", 5), ("one", 4)):
        assert load_named(write(run, count))["train"]["row"][:] == list(range(count))


def test_folders_of_the_same_name_in_mixtures_are_not_mistaken_for_each_other(tmp_path, no_cache):
    for run in ("one", "other"):
        folder = tmp_path / run / "rows"
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: rows.parquet\n---\n")
        row = {"query": run, "responses": ["a", "b"], "labels": [0.0, 1.0], "kind": run}
        Dataset.from_list([row]).to_parquet(folder / "rows.parquet")
        part = DatasetConfig(path=str(folder), columns=["query", "responses", "labels"])
        mixed = load_preferences(ScriptArguments(), DatasetMixtureConfig(datasets=[part]))["train"]
        assert mixed["query"][:] == [run] and "kind" not in mixed.column_names


@pytest.mark.parametrize("name", ["llmbar", "hhh-alignment", "pandalm"])
def test_public_data_is_read_by_its_columns(name, no_cache):
    loaded = preferences(DATA / f"{name}.jsonl", invalid_rows="drop")
    assert {"query", "responses", "labels"} <= set(loaded["train"].column_names)
    assert len(loaded["train"]) >= 2


def test_lines_whose_types_differ_are_read_one_by_one(tmp_path, no_cache):
    rows = [
        {"query": "text", "responses": ["a", "b"], "labels": [0, 1]},
        {"query": [{"role": "user", "content": "messages"}], "responses": ["a", "b"], "labels": [0, 1]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [query[0]["content"] for query in preferences(path)["train"]["query"]] == ["text", "messages"]


def part(path, **kwargs):
    return DatasetConfig(path="json", data_files=str(path), **kwargs)


def test_a_mixture_of_different_schemas(rows, no_cache):
    mixed = preferences(parts=[part(rows), part(DATA / "llmbar.jsonl"), part(DATA / "hhh-alignment.jsonl")])
    expected = 8 + len(preferences(DATA / "llmbar.jsonl")["train"])
    expected += len(preferences(DATA / "hhh-alignment.jsonl")["train"])
    assert len(mixed["train"]) == expected
    assert all(len(row["labels"]) == len(row["responses"]) for row in mixed["train"])


def test_a_mixture_of_texts_and_messages(rows, tmp_path):
    other = tmp_path / "messages.jsonl"
    query = [{"role": "user", "content": "hello"}]
    other.write_text(json.dumps({"query": query, "responses": ["a", "b"], "labels": [0.0, 1.0]}) + "\n")
    mixed = preferences(parts=[part(rows), part(other)])["train"]
    assert mixed[0]["query"] == [{"role": "user", "content": "q0?"}]
    assert mixed[8]["query"] == query


def test_a_mixtures_fractions_and_test_split(rows, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace(': "q', ': "z'))
    mixed = preferences(parts=[part(rows, fraction=0.75), part(other, fraction=0.25)])["train"]
    counted = [sum(row["query"].startswith(letter) for row in mixed) for letter in "qz"]
    assert counted[0] == pytest.approx(3 * counted[1], abs=1)
    with pytest.raises(ValueError, match="either all datasets"):
        preferences(parts=[part(rows, fraction=0.5), part(other)])
    split = preferences(parts=[part(rows)], splits=("train", "test"), test_split_size=0.25)
    assert (len(split["train"]), len(split["test"])) == (6, 2)


def test_the_column_of_the_query_can_be_named(judge, tmp_path, no_cache):
    """It is never invented: texts that begin alike beside another column are refused, with what names it."""
    path = tmp_path / "rows.jsonl"
    given = [{"article": f"Long {i}", "chosen": f"Step 1: a{i}", "rejected": f"Step 1: b{i}"} for i in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    for name in ("rft", "spct", "meta_rm"):
        asked = ["--model_name_or_path", "not/there", "--dataset_name", path, "--output_dir", tmp_path / name, *CPU]
        asked += ["--judge_name_or_path", judge] if name == "meta_rm" else []
        with pytest.raises(ValueError, match=r"beside the columns \['article'\].*`prompt_column`"):
            run(name, *asked)
        with pytest.raises(ValueError, match=r"expected \['text'\] among them. .*`prompt_column`"):
            run(name, *asked, "--prompt_column", "text")
    asked = ["--model_name_or_path", judge, "--dataset_name", path, "--output_dir", tmp_path / "rft", *CPU]
    asked += ["--num_generations", 2, "--max_completion_length", 4, "--template", "compact", "--collect_only"]
    run("rft", *asked, "--prompt_column", "article")
    trajectories = Dataset.from_parquet(str(tmp_path / "rft" / "trajectories" / "*.parquet"))
    assert set(trajectories["query"]) == {"Long 0", "Long 1"}
    assert trajectories[0]["responses"][0].startswith("Step 1:")


def test_what_cannot_be_loaded_says_why(rows, tmp_path):
    with pytest.raises(ValueError, match="Either `datasets` or `dataset_name`"):
        preferences()
    with pytest.raises(ValueError, match=r"has the splits \['train'\]; expected \['test'\] among them"):
        preferences(rows, splits=("train", "test"))
    streamed = ScriptArguments(dataset_name=str(rows), dataset_streaming=True)
    with pytest.raises(ValueError, match="Found streaming of the dataset; expected none"):
        load_preferences(streamed, DatasetMixtureConfig())
    with pytest.raises(ValueError, match="Found streaming of the dataset; expected none"):
        preferences(parts=[part(rows)], streaming=True)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"query": "q", "responses": ["a", "b"], "labels": [1.0, 1.0]}) + "\n")
    with pytest.raises(ValueError, match="train row 0"):
        preferences(bad)
    with pytest.raises(ValueError, match=r"bad\.jsonl row 0"):
        preferences(parts=[part(rows), part(bad)])


def test_a_mixture_goes_before_a_name_and_has_none(rows, caplog):
    script_args = ScriptArguments(dataset_name="elsewhere")
    mixture = DatasetMixtureConfig(datasets=[part(rows)])
    assert len(load_preferences(script_args, mixture)["train"]) == 8
    assert "`dataset_name` is ignored" in caplog.text
    assert dataset_name_of(script_args, mixture) is None
    assert dataset_name_of(script_args, DatasetMixtureConfig()) == "elsewhere"


# The end of a script


class Recorder:
    """A trainer that remembers what was asked of it."""

    push_errors = ()

    def __init__(self, folder):
        self.args = type("Args", (), {"output_dir": str(folder), "push_to_hub": False})
        self.accelerator = type("Accelerator", (), {"print": staticmethod(lambda text: self.calls.append("print"))})
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def test_finishing_saves_and_describes(tmp_path):
    trainer = Recorder(tmp_path / "judge")
    finish(trainer, "some/rows")
    called = [call[0] for call in trainer.calls if call != "print"]
    assert called == ["save_model", "create_model_card", "end"]
    assert trainer.calls[1][2] == {"model_name": "judge", "dataset_name": "some/rows"}
    assert trainer.calls[0][1] == (str(tmp_path / "judge"),)


def test_all_pushes_are_made_before_a_script_ends_with_those_that_failed():
    made = []

    def refused(name):
        made.append(name)
        if name != "b":
            raise PushError(f"Could not push to {name}")

    with pytest.raises(SystemExit) as ended:
        push_or_exit(*(lambda name=name: refused(name) for name in "abc"))
    assert made == ["a", "b", "c"] and ended.value.code == "Could not push to a\nCould not push to c"
    push_or_exit(lambda: refused("b"))


def test_the_models_options_reach_the_trainers():
    module = recipe("rft")
    arguments = ["--model_name_or_path", "x", "--dtype", "bfloat16", "--model_revision", "abc", "--trust_remote_code"]
    arguments += ["--model_init_kwargs", '{"attn_implementation": "eager"}', *CPU]
    _, training_args, model_args, _ = module.make_parser().parse_args_and_config(arguments)
    set_model_init_kwargs(training_args, model_args)
    assert training_args.model_init_kwargs == {
        "revision": "abc",
        "trust_remote_code": True,
        "attn_implementation": "eager",
        "dtype": "bfloat16",
    }
