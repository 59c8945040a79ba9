# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Recipes for named models run: the commands of their headers, one after the other, on a CPU.

What is not the recipe's: the model is a tiny one of the same architecture, rows are few and short, two steps are
taken, and vLLM does not generate. Everything else is read from the file.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from paths import ROOT, TESTS
from test_recipe_files import (
    MODELS,
    PAPER_SAMPLER,
    RECIPES,
    STAGES,
    VARIANTS,
    commands_in,
    launched,
    mixture,
    module,
)
from tiny_models import save_writing, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

SHORT = {
    "template": "compact",
    "max_completion_length": 20,
    "max_context_length": 1024,
    "max_length": 1024,
    "max_steps": 2,
    "gradient_accumulation_steps": 4,
    "steps_per_generation": 4,
    "test_split_size": 0.1,
    "eval_share": 0.3,
    "eval_steps": 2,
    "use_vllm": False,
    "disable_tqdm": True,
}
"""What replaces a key of a recipe, where it has it; the first two and the last are set in any case."""


# A server with a judge


class Server(ThreadingHTTPServer):
    """Answers as vLLM does to prompts of token ids and to messages, with boxes of two scores."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    tokenizer = tiny_tokenizer()

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer({"data": [{"id": "judge", "max_model_len": 4096}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.path.endswith("/chat/completions")
        choices = [self.choice(body["seed"] + number, number, chat) for number in range(body.get("n", 1))]
        self.answer({"choices": choices, "usage": {"completion_tokens": 13 * len(choices)}})

    def choice(self, seed, number, chat):
        text = r"\boxed{8, 3}" if seed % 2 else r"\boxed{2, 7}"
        written = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        ids = [*self.tokenizer.encode(text), self.tokenizer.eos_token_id]
        return {"index": number, "finish_reason": "stop", "token_ids": ids, **written}

    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


# A workplace


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with rows in place of the mixture, from which commands run as they stand."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for part in range(len(mixture())):
        rows = [
            {"query": f"q{part}.{i}?", "responses": [f"a{i}", f"b{i}"], "labels": [i % 2, 1 - i % 2]} for i in range(8)
        ]
        (tmp_path / f"part-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    talk = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    (tmp_path / "general.jsonl").write_text((json.dumps(talk) + "\n") * 4)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # On CPUs with AVX512-BF16 bitsandbytes packs weights for inference, and breaks on rows of no multiple of 64.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_judge(folder, arch):
    """A judge that writes boxes of random scores, which its layers can learn to choose: tokens that are equally likely
    are not told apart by the same direction. It begins after a new line, and after the colon of `Assistant:`."""
    save_writing(folder, arch)
    model = AutoModelForCausalLM.from_pretrained(folder)
    head = model.get_output_embeddings().weight
    line, colon = (tiny_tokenizer().encode(text, add_special_tokens=False)[0] for text in "\n:")
    with torch.no_grad():
        head[:, colon] = head[:, line]
        head += 0.02 * torch.randn(head.shape, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)


def tiny(path, server):
    """A recipe with everything cut down; what names a model of the Hub names a tiny judge."""
    recipe = RECIPES[path]
    model = recipe.model
    judge = f"tiny-{model.kind}"
    if not Path(judge).exists():
        save_judge(judge, model.kind)
    given = yaml.safe_load((ROOT / path).read_text())
    for key, value in given.items():
        if value in (model.start, model.base, PAPER_SAMPLER) and value is not None:
            given[key] = judge
    given |= {key: value for key, value in SHORT.items() if key in given}
    given |= {"template": "compact", "max_steps": 2, "disable_tqdm": True, "use_cpu": True}
    given["datasets"] = [
        {"path": "json", "data_files": f"part-{number}.jsonl", "split": part["split"]}
        for number, part in enumerate(given["datasets"])
    ]
    if "general_dataset_name" in given:
        given["general_dataset_name"] = ["general.jsonl"]
    if "sampler_base_url" in given:
        given["sampler_base_url"] = server.url
    Path("tiny").mkdir(exist_ok=True)
    made = Path("tiny") / path.replace("/", "-")
    made.write_text(yaml.safe_dump(given, sort_keys=False))
    return str(made)


def cut_down(command, server):
    """A command of a header on the cut-down recipe that it names."""
    place = command.index("--config") + 1
    return [*command[:place], tiny(command[place], server), *command[place + 1 :]]


def run_here(command):
    script, arguments, _ = launched(command)
    runner = module(script)
    runner.main(*runner.make_parser().parse_args_and_config(arguments))


def two_processes():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return ["--num_machines", "1", "--num_processes", "2", "--main_process_port", port]


def run_launched(command, log):
    """As its users start it, with two processes, sharded where it says so; a launcher that hangs is stopped."""
    if command[0] == "accelerate":
        if is_sharded(command):
            place = next(place for place, word in enumerate(command) if word.endswith(".py"))
            command = [*command[:place], str(TESTS / "fsdp_on_cpu.py"), *command[place:]]
        command = [sys.executable, "-m", "accelerate.commands.launch", *two_processes(), *command[2:]]
    else:
        command = [sys.executable, *command[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            return process.wait(timeout=900)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            raise


def is_sharded(command):
    return any(f"{name}.yaml" in word for word in command for name in ("fsdp2", "multi_node"))


def commands_of(path, server):
    return [cut_down(c, server) for c in commands_in(RECIPES[path].text) if c[0] != "vllm"]


def check(path):
    """A stage left a model behind that was trained for two steps, and what it was trained on."""
    recipe = RECIPES[path]
    output = Path(recipe.output)
    weights = "adapter_model.safetensors" if recipe.variant == "qlora" else "model.safetensors"
    assert (output / weights).exists() and (output / "tokenizer_config.json").exists()
    state = json.loads((output / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    logged = [log for log in state["log_history"] if "grad_norm" in log]
    assert len(logged) == 2 and any(log["grad_norm"] > 1e-4 for log in logged)
    if recipe.stage != "meta_rm" and recipe.is_papers and recipe.model.turn_end:
        ends = json.loads((output / "generation_config.json").read_text())["eos_token_id"]
        tokenizer = AutoTokenizer.from_pretrained(output)
        assert tokenizer.eos_token == recipe.model.turn_end and tokenizer.eos_token_id in ends
    if recipe.stage == "rft":
        report = json.loads((output / "trajectories" / "rejection.json").read_text())
        assert report["outcomes"]["kept"] > 0
    if recipe.stage == "spct":
        assert any("eval_reward" in log for log in state["log_history"])
    if recipe.stage == "meta_rm":
        rows = load_dataset("parquet", data_files=str(output / "rows" / "**" / "*.parquet"), split="train")
        assert len(set(rows["source"])) == 2  # of stage 1, and fresh ones


CHAINS = {f"{name}-{variant}": (name, variant) for name in MODELS for variant in VARIANTS}
QUICK = ("qwen3-0.6b-qlora",)
CHAIN_CASES = [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CHAINS]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", CHAIN_CASES)
def test_the_stages_run_one_after_the_other(case, workplace, one_thread):
    name, variant = CHAINS[case]
    server = Server()
    for stage in STAGES:
        path = f"recipes/{name}/{stage}_{variant}.yaml"
        for command in commands_of(path, server):
            run_here(command)
        check(path)
    server.shutdown()


# Two processes

FAMILIES = ("gemma-2-27b", "qwen3-0.6b", "qwen3-8b", "deepseek-v2-lite")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_stages_run_in_two_processes(name, workplace):
    server = Server()
    for stage in STAGES:
        path = f"recipes/{name}/{stage}_full.yaml"
        for number, command in enumerate(commands_of(path, server)):
            log = workplace / f"{stage}-{number}.log"
            assert run_launched(command, log) == 0, log.read_text()[-3000:]
            assert ("Ran under FSDP2 on 2 processes." in log.read_text()) == is_sharded(command)
        check(path)
        # Each process has stored the state of its random generator.
        assert (Path(RECIPES[path].output) / "checkpoint-2" / "rng_state_1.pth").exists()
    server.shutdown()


@pytest.mark.slow
def test_a_sharded_model_is_not_let_sample_for_itself(workplace):
    collect, train = commands_of("recipes/qwen3-8b/rft_full.yaml", None)
    assert is_sharded(train) and not is_sharded(collect)
    place = train.index("--trajectories")
    log = workplace / "log"
    assert run_launched([*train[:place], *train[place + 2 :]], log) != 0
    assert "Found FSDP or ZeRO-3" in log.read_text()


# The page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_way_from_zero_runs(workplace, one_thread):
    """Its commands as they stand in the README, but for the Hub: nothing is pushed, and no benchmark is there."""
    readme = (ROOT / "recipes" / "README.md").read_text()
    scripts = []
    for command in commands_in(readme[readme.index("## From zero") :]):
        script = launched(command)[0]
        if script == "math_rows":  # which has tests of its own
            continue
        scripts.append(script)
        command = [word for word in command if word != "--push_to_hub"]
        if script == "evaluate":
            place = command.index("--benchmarks")
            command[place : place + 2] = ["--dataset_name", "part-0.jsonl", "--max_new_tokens", "20"]
            run_here(command)
        else:
            run_here(cut_down(command, None))
    assert scripts == ["rft", "spct", "meta_rm", "evaluate"]
    for stage in STAGES:
        check(f"recipes/qwen3-8b/{stage}_qlora.yaml")
    results = json.loads(Path("outputs/qwen3-8b/evaluation/results.json").read_text())
    judged = [result for result in results if not result.get("baseline")]
    assert {result["k"] for result in judged} == {1, 2, 4, 8} and all(result["n"] == 8 for result in judged)
