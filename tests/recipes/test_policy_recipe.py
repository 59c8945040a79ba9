# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The recipe that trains a policy with a judge as its reward, and its embedded example."""

import importlib.util
import json
import re
import sys
import threading

import pytest
from paths import RECIPES
from tiny_models import save_tiny, save_writing

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = ("--use_cpu", "--bf16", "false", "--report_to", "none", "--disable_tqdm", "true", "--save_strategy", "no")


def recipe():
    spec = importlib.util.spec_from_file_location("recipe_policy", RECIPES / "policy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(*arguments):
    module = recipe()
    module.main(*module.make_parser().parse_args_and_config([*map(str, arguments), *CPU]))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("policy"), "llama", initializer_range=0.3)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return save_writing(tmp_path_factory.mktemp("judge"))


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"prompt": f"q{i}?", "reference": f"a{i}"} for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "prompts.jsonl"


def arguments(policy, prompts, out, *more):
    return [
        *["--model_name_or_path", policy, "--dataset_name", prompts, "--output_dir", out, "--max_steps", "2"],
        *["--per_device_train_batch_size", "4", "--num_generations", "2", "--max_completion_length", "4"],
        *["--logging_steps", "1", "--learning_rate", "0.01", "--judge_template", "compact"],
        *["--judge_max_new_tokens", "20", "--k", "2", *more],
    ]


def logs_of(out):
    """What was logged of each step, as the trainer wrote it into its card's folder."""
    return [log for log in json.loads((out / "trainer_state.json").read_text())["log_history"] if "reward" in log]


# --- arguments ---


def test_the_parser_is_strict_and_reads_the_launch_line():
    module = recipe()
    command = re.search(r"accelerate launch recipes/policy\.py((?:.*\\\n)*.*)", module.__doc__)[1]
    parsed = module.make_parser().parse_args_and_config([*command.replace("\\\n", " ").split(), *CPU])
    assert parsed[0].judge == "judge-spct" and parsed[0].k == 4
    with pytest.raises(ValueError, match="no_such_flag"):
        module.make_parser().parse_args_and_config(["--no_such_flag", "1", *CPU])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], True),
        (["--judge", "outputs/tiny/spct"], True),
        (["--tiny", "--config", "x"], True),
        (["--model_name_or_path=x"], False),
        (["--config", "c.yaml"], False),
        (["--help"], False),
    ],
)
def test_when_the_embedded_example_runs(given, expected):
    assert recipe().wants_embedded(given) is expected


def test_what_is_missing_is_said_before_a_model_is_loaded(prompts, tmp_path):
    given = ["--model_name_or_path", "no/such", "--output_dir", tmp_path / "out"]
    with pytest.raises(ValueError, match="Found no `judge`"):
        run(*given, "--dataset_name", prompts)
    with pytest.raises(ValueError, match="Either `datasets` or `dataset_name`"):
        run(*given, "--judge", "x")
    prompts.write_text('{"question": "q?"}\n')
    with pytest.raises(ValueError, match=r"Found the columns \['question'\]; expected `prompt`"):
        run(*given, "--judge", "x", "--dataset_name", prompts)


# --- runs ---


def test_a_policy_learns_from_a_judge_in_this_process(policy, judge, prompts, tmp_path):
    out = tmp_path / "out"
    run(*arguments(policy, prompts, out, "--judge", judge))
    assert (out / "model.safetensors").exists() and "GRPO" in (out / "README.md").read_text()


def test_a_policy_learns_from_a_judge_on_a_server(policy, prompts, tmp_path):
    from test_engines import MODELS, Server, choice

    def answer(path, body, number):
        if path.endswith("/models"):
            return MODELS
        count = body["messages"][0]["content"].count("[The Begin of Response")
        seeds = range(body["seed"], body["seed"] + body.get("n", 1))
        scores = [", ".join(str(1 + (seed + place) % 10) for place in range(count)) for seed in seeds]
        return {"choices": [choice(rf"Scores: \boxed{{{text}}}", i) for i, text in enumerate(scores)]}

    server = Server(answer)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        more = ("--judge_base_url", server.url, "--save_strategy", "steps", "--save_steps", "2")
        module = recipe()
        given = [*map(str, arguments(policy, prompts, tmp_path / "out")), *CPU, *more]
        module.main(*module.make_parser().parse_args_and_config(given))
    finally:
        server.shutdown()
        server.server_close()
    logs = logs_of(tmp_path / "out" / "checkpoint-2")
    assert len(logs) == 2 and all(log["judge_reward/unreadable"] == 0 for log in logs)
    assert any("Reference Answer" in body["messages"][0]["content"] for body in server.bodies)


# --- the embedded example ---


@pytest.fixture(scope="module")
def tiny():
    sys.path.insert(0, str(RECIPES))
    from tiny import policy

    sys.path.remove(str(RECIPES))
    return policy


def test_true_quality(tiny):
    rows = tiny.World(0).rows(2000, sizes=(4,))
    row = next(row for row in rows if row.principle == "brief" and " bees " in row.query)
    answers = {
        "In short, bees carry pollen.": 1,
        "Briefly: a hive feeds the meadow. Full stop.": 1,
        "Well, bees carry pollen. That is all.": 1,
        "Well, bees carry pollen.": 0,
        "In short, bees carry pollen. Big hugs.": 0,
        "In short, taxes pay for roads.": 0,
        "In short, bees carry pollen. That is all. That is all.": 0,
        "Put plainly, bees carry pollen.": 0,
        "": 0,
    }
    assert {text: tiny.true_quality(row, text) for text in answers} == answers


def test_the_worlds_own_answers_are_worth_what_their_labels_say(tiny):
    for row in tiny.World(1).rows(300, "test", sizes=(4,)):
        assert [tiny.true_quality(row, text) for text in row.responses] == list(row.labels)


def test_noise_is_a_function_of_seed_and_step(tiny):
    state = type("State", (), {"global_step": 3})
    found = [tiny.random_reward(["x"] * 5, state, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2] and len(set(found[0])) == 5
    assert tiny.random_reward(["x"] * 5, seed=0) != found[0]


def test_a_judge_that_is_not_there(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="recipes/spct.py"):
        tiny.run(judge=str(tmp_path / "spct"), output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def untrained_judge(tiny, tmp_path):
    """A folder as `recipes/spct.py` leaves it, with a judge that has learned nothing."""
    from tiny.judge import build_judge, build_tokenizer, pieces_of

    rows = tiny.World(0).rows(400, sizes=(4,))
    tokenizer = build_tokenizer(pieces_of(text for row in rows for text in (row.query, *row.responses)))
    model = build_judge(tokenizer)
    model.config.grm = {"template": "compact"}
    model.generation_config.max_new_tokens = 4
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "job" / "spct")
    (tmp_path / "job" / "manifest.json").write_text(json.dumps({"kind": "tiny", "seed": 0}))
    return str(tmp_path / "job" / "spct")


def test_the_example_runs_and_resumes(tiny, untrained_judge, tmp_path, monkeypatch):
    for name, value in {"SFT_ROWS": 64, "PROMPTS": 32, "HELD_OUT": 5}.items():
        monkeypatch.setattr(tiny, name, value)
    options = {"judge": untrained_judge, "output_dir": str(tmp_path / "out")}
    options |= {"seeds": 1, "steps": 2, "control_judge": untrained_judge}
    results = tiny.run(**options)
    assert [found["arm"] for found in results] == ["judge", "control", "random"]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    for found in results:
        for when in ("before", "after"):
            assert 0 <= found[when]["true_quality"]["low"] <= found[when]["true_quality"]["high"] <= 1
            assert found[when]["judged"]["unreadable"] == 1 and found[when]["judged"]["correlation"] is None
        assert found["before"] == results[0]["before"], "all arms start from the same policy"
    monkeypatch.setattr(tiny.PolicyRun, "_reinforce", None)
    assert tiny.run(**options) == results
    with pytest.raises(FileExistsError, match="another configuration"):
        tiny.run(**{**options, "k": 3})


@pytest.mark.slow
def test_the_true_quality_of_a_policy_rises(tiny, tmp_path):
    """With a judge as its reward, and not with noise. About six minutes on two cores."""
    from tiny.job import Job

    job = Job(tmp_path / "tiny", 0, True)
    for name, build in (("base", job.build_base), ("rft", job.fine_tune), ("spct", job.reinforce)):
        job.stage(name, build, name)
    judged, noise = tiny.run(judge=job.path("spct"), output_dir=str(tmp_path / "policy"), seeds=1)
    assert judged["gained"][1] > 0.05, "the lower bound of the paired interval"
    assert judged["after"]["true_quality"]["low"] > noise["after"]["true_quality"]["high"]
    assert judged["after"]["judged"]["mean"] > judged["before"]["judged"]["mean"]
