# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What is pushed to a Hub and read back from it, by the real client, from processes of their own.

Functions called `client_…` run in such a process, which sees a Hub on this machine (`hub_server`) and nothing else.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from hub_server import TOKEN, USER, HubServer
from paths import RECIPES

ROW = {"query": "Name a prime number.", "responses": ["Four.", "Seven."]}
CPU = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "max_steps": 1,
}


def run(hub, function, home, *arguments, check=True, **environment):
    """Calls a function of this module in a process whose Hub is `hub` and whose cache is `home`."""
    code = f"import json, sys, test_hub; print(json.dumps(test_hub.{function}(*sys.argv[1:])))"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=home,
        env={**os.environ, **hub.environment(home), **environment},
    )
    if not check:
        return done
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


def preference_rows():
    from datasets import Dataset

    return Dataset.from_list(
        [{"query": f"q{i}?", "responses": [f"a{i}", f"b{i}"], "labels": [0.0, 1.0]} for i in range(4)]
    )


def told(prompts, k, seed, **options):
    """A sampler that is right about every other critique."""
    from trl_spct.judge.sampling import Sample

    texts = ["\\boxed{2, 7}", "\\boxed{7, 2}", "\\boxed{1, 9}", "no idea"]
    return [[Sample(texts[(row + i) % 4], 8, False) for i in range(k)] for row in range(len(prompts))]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    from tiny_models import save_tiny

    base = Path(save_tiny(tmp_path_factory.mktemp("base"), "llama"))
    rows = "".join(json.dumps({**row, "kind": "x"}) + "\n" for row in preference_rows())
    with HubServer() as server:
        files = {path.name: path.read_bytes() for path in base.iterdir()}
        server.create(f"{USER}/base", **files, **{"README.md": b"---\nlicense: apache-2.0\n---\n\n# Base\n"})
        server.create(f"{USER}/preferences", "dataset", **{"train.jsonl": rows.encode()})
        server.create(f"{USER}/described", **{"README.md": b"---\ntags:\n- own\n---\n\n# My own card\n"})
        server.create("Qwen/Qwen3-0.6B", **files)
        prompt = {"prompt": [{"role": "user", "content": "Why?"}]}
        server.create("trl-lib/ultrafeedback-prompt", "dataset", **{"train.jsonl": json.dumps(prompt).encode()})
        yield server


def client_push_all(folder):
    """One run of each trainer that pushes what it has made, and of the pipeline."""
    from peft import LoraConfig
    from transformers import pipeline

    from trl_spct import (
        MetaRMTrainer,
        MetaRMTrainingConfig,
        RejectiveSampler,
        RejectiveSamplerConfig,
        SPCTConfig,
        SPCTTrainer,
    )
    from trl_spct.data.loading import finish
    from trl_spct.data.meta_rows import prepare_meta_rows

    pushed = {**CPU, "push_to_hub": True}
    judging = {"template": "compact", "max_completion_length": 8, "gradient_checkpointing": False}
    args = RejectiveSamplerConfig(
        f"{folder}/rft", trajectories_hub_repo="trajectories", hub_private_repo=True, **judging, **pushed
    )
    rft = RejectiveSampler(f"{USER}/base", args=args, train_dataset=preference_rows(), sampler=told)
    rft.train()
    finish(rft, f"{USER}/preferences")

    args = SPCTConfig(f"{folder}/adapter", per_device_train_batch_size=4, hub_model_id="lora", **judging, **pushed)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    spct = SPCTTrainer(f"{USER}/base", args=args, train_dataset=preference_rows(), peft_config=lora)
    spct.train()
    finish(spct, f"{USER}/preferences")

    data = prepare_meta_rows({"rft": rft.trajectories}, 0.5)
    args = MetaRMTrainingConfig(f"{folder}/meta", template="compact", **pushed)
    meta = MetaRMTrainer(f"{USER}/base", args=args, train_dataset=data.train, eval_dataset=data.held_out)
    meta.train()
    finish(meta, f"{USER}/preferences")

    judge = pipeline("grm-reward", model=f"{USER}/rft", meta_rm=f"{USER}/meta", max_new_tokens=4)
    judge.push_to_hub("guided")
    judge.push_to_hub("with-code", include_code=True)
    judge.push_to_hub("described", tags=["mine"])
    return judge(ROW, k=2, seed=0)["critiques"]


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """What the process that pushed has left, and the critiques of its judge."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, run(hub, "client_push_all", tmp_path_factory.mktemp("home"), folder)


MODEL = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}


def test_models_are_pushed_whole_and_alone(hub, pushed):
    """With their cards and tokenizers, and without rows, critiques and pickled arguments."""
    folder, _ = pushed
    found = {name: set(hub.repository(f"{USER}/{name}").files) for name in ("rft", "lora", "meta")}
    assert MODEL <= found["rft"] and MODEL - {"generation_config.json"} <= found["meta"]
    assert {"README.md", "adapter_model.safetensors", "adapter_config.json", "grm.json"} <= found["lora"]
    for name, paths in found.items():
        kept = {path for path in paths if "/" in path or path.endswith((".bin", ".parquet", "manifest.json"))}
        assert not kept, (name, kept)
        assert "End of training" in hub.repository(f"{USER}/{name}").messages
    assert (folder / "rft" / "trajectories" / "manifest.json").exists()
    assert hub.repository(f"{USER}/rft").private and not hub.repository(f"{USER}/lora").private


def test_weights_arrive_by_lfs_as_they_are(hub, pushed):
    folder, _ = pushed
    file = hub.repository(f"{USER}/rft").files["model.safetensors"]
    assert file.lfs and file.content == (folder / "rft" / "model.safetensors").read_bytes()
    assert hub.blobs[hashlib.sha256(file.content).hexdigest()] == file.content


def test_datasets_are_pushed_with_cards_and_without_manifests(hub, pushed):
    found = hub.repository(f"{USER}/trajectories", "dataset")
    assert set(found.files) - {".gitattributes"} == {
        "README.md",
        "rejection.json",
        "shard-00000.parquet",
    }
    assert found.private


def test_nothing_that_is_pushed_names_a_place_on_this_machine(hub, pushed):
    folder, _ = pushed
    for repository in hub.repositories.values():
        for path, file in repository.files.items():
            assert str(folder).encode() not in file.content, (repository.id, path)


def client_read_all():
    """What a stranger with an empty cache gets."""
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, pipeline

    import trl_spct  # noqa: F401

    meta = AutoModelForSequenceClassification.from_pretrained(f"{USER}/meta")
    options = {"k": 2, "seed": 0, "max_new_tokens": 4}
    guided = pipeline("grm-reward", model=f"{USER}/guided")
    lora = pipeline("grm-reward", model=f"{USER}/lora")
    return {
        "meta": [type(meta).__name__, meta.config.num_labels, meta.config.meta_rm],
        "trajectories": load_dataset(f"{USER}/trajectories")["train"].num_rows,
        "guided": guided(ROW, **options)["critiques"],
        "lora": [lora.model.config.grm["template"], len(lora(ROW, **options)["critiques"])],
    }


def client_stranger(judge):
    """All that a stranger does, in one process."""
    snippets = [client_use("rft"), client_use("trajectories", "dataset")]
    return {"read": client_read_all(), "snippets": snippets, "evaluated": client_evaluate(judge)}


@pytest.fixture(scope="module")
def stranger(hub, pushed, tmp_path_factory):
    home = tmp_path_factory.mktemp("stranger")
    hub.create("allenai/reward-bench", "dataset", **{"data/filtered-00000-of-00001.jsonl": rewardbench_rows()})
    shutil.copytree(pushed[0] / "rft", home / "judge")
    return home, run(hub, "client_stranger", home, home / "judge")


def test_all_of_it_is_read_back(pushed, stranger):
    found = stranger[1]["read"]
    assert found["meta"][:2] == ["LlamaForSequenceClassification", 1] and "tokenizer" in found["meta"][2]
    assert found["trajectories"] == 16
    assert found["guided"] == pushed[1], "the same judge and the same Meta RM"
    assert found["lora"] == ["compact", 2]


# Cards


def card(hub, name):
    text = hub.repository(f"{USER}/{name}").files["README.md"].content.decode()
    head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return yaml.safe_load(head[1]), text


@pytest.mark.parametrize("name", ["rft", "lora", "meta"])
def test_cards_of_models_name_what_they_were_made_from(name, hub, pushed):
    """The base on the Hub, and its license as its own card states it."""
    head, text = card(hub, name)
    assert head["base_model"] == f"{USER}/base" and head["license"] == "apache-2.0"
    assert head["datasets"] in ([f"{USER}/preferences"], f"{USER}/preferences")


@pytest.mark.parametrize("name", ["guided", "with-code"])
def test_a_pushed_pipeline_has_a_card_that_names_its_judge(name, hub, pushed):
    head, text = card(hub, name)
    assert head["base_model"] == f"{USER}/rft" and head["license"] == "apache-2.0"
    assert f"[{USER}/rft](https://huggingface.co/{USER}/rft) as a pipeline" in text and "template `compact`" in text
    assert f'pipeline("grm-reward", model="{USER}/{name}")' in text and "The folder `meta_rm` holds a Meta RM" in text
    assert ("trust_remote_code=True" in text) is (name == "with-code")


def test_a_pushed_pipeline_keeps_the_card_that_its_repository_has(hub, pushed):
    head, text = card(hub, "described")
    assert head["tags"] == ["own", "mine"] and text.endswith("# My own card\n")
    assert "model.safetensors" in hub.repository(f"{USER}/described").files


def test_the_card_of_a_judge_from_a_folder_names_its_ancestor_without_the_folder(tmp_path):
    from types import SimpleNamespace

    from trl_spct.judge.hub import _new_card

    (tmp_path / "README.md").write_text("---\nbase_model: me/base\nlicense: mit\n---\n")
    model = SimpleNamespace(config=SimpleNamespace(_name_or_path=str(tmp_path), grm={"template": "compact"}))
    made = _new_card(model, "me/judge", False, False, None)
    assert (made.data.base_model, made.data.license) == ("me/base", "mit")
    assert "reward model: a model as a pipeline" in made.text and str(tmp_path) not in str(made)


def client_use(name, kind="model", trains=0):
    """Runs the snippets of a card as they are, but for the address of the server; those that train, or the others."""
    from huggingface_hub import DatasetCard, ModelCard
    from test_engines import Server, honest

    text = {"model": ModelCard, "dataset": DatasetCard}[kind].load(f"{USER}/{name}").text
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    chosen = [block for block in blocks if ("trainer.train()" in block) is bool(int(trains))]
    server = Server(honest)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for block in chosen:
        names = {}
        exec(compile(block.replace("http://localhost:8000", server.url), "README.md", "exec"), names)
        assert {"trainer", "rows", "meta_rm"} & set(names) or len(names["judgment"]["critiques"]) == 8
    return len(chosen)


def test_the_snippets_of_a_card_run(stranger):
    assert stranger[1]["snippets"] == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "trains", "count"),
    [
        ("lora", "model", 0, 2),
        ("guided", "model", 0, 1),
        ("rft", "model", 1, 1),
    ],
)
def test_the_snippets_of_cards_run(name, kind, trains, count, hub, pushed, tmp_path):
    assert run(hub, "client_use", tmp_path, name, kind, trains) == count


# Evaluation, and code


def client_evaluate(judge):
    """Rows and a benchmark by their Hub ids; the card of the judge, here and on the Hub."""
    from datasets import load_dataset

    options = ["--k", "2", "--max_new_tokens", "4", "--max_rows", "3", "--write_card"]
    where = ["--results_hub_repo", f"{USER}/rft"]
    data = ["--dataset_name", f"{USER}/preferences", "--benchmarks", "rewardbench", "--allow_changed"]
    run_recipe("evaluate", "--model_name_or_path", judge, *data, *options, *where, "--output_dir", "out")
    return load_dataset("out", data_files="judgments/rewardbench/shard-*.parquet")["train"].num_rows


def test_an_evaluation_of_and_on_what_is_on_the_hub(hub, stranger):
    home, did = stranger
    folder = home / "judge"
    assert did["evaluated"] == 3
    head, text = card(hub, "rft")
    found = {entry["dataset"]["name"]: entry["metrics"][0] for entry in head["model-index"][0]["results"]}
    assert set(found) == {"preferences", "rewardbench"}
    assert "voting@2" in found["rewardbench"]["name"].lower()
    assert "- model: `judge`" in text and "### rewardbench" in text and "Not evaluated yet" not in text
    assert "scaling-rewardbench.png" in hub.repository(f"{USER}/rft").files
    local = (folder / "README.md").read_text()
    assert "### rewardbench" in local and (folder / "scaling-rewardbench.png").exists()
    assert str(home) not in text + local


def rewardbench_rows():
    row = {"prompt": "q?", "chosen": "worth 3", "rejected": "worth 1"}
    subsets = ("alpacaeval-easy", "llmbar-natural", "donotanswer", "math-prm", "hep-cpp")
    return b"".join(
        json.dumps({"id": i, "subset": subset, **row}).encode() + b"\n" for i, subset in enumerate(subsets)
    )


def client_card(judge, meta_rm, evaluation):
    """Results into a card, from folders and on the Hub."""
    from trl_spct.evaluation.reports import push_results, write_results
    from trl_spct.judge.hub import LEFT_OUT, keep_private, push_folder

    assert write_results(judge, evaluation)
    for folder, name in ((judge, "carded"), (meta_rm, "carded-meta")):
        keep_private(folder)
        push_folder(folder, name, "model", private=True, exclude=LEFT_OUT)
    push_results(f"{USER}/carded", evaluation)


@pytest.mark.slow
def test_folders_are_pushed_with_results_and_cards_change_on_the_hub(hub, pushed, stranger, tmp_path):
    folders = [shutil.copytree(pushed[0] / name, tmp_path / f"my-{name}") for name in ("rft", "meta")]
    for folder, old in zip(folders, ("rft", "meta"), strict=True):
        path = folder / "README.md"
        path.write_text(path.read_text().replace(f"{USER}/{old}", folder.name))  # as if it had never been pushed
    run(hub, "client_card", tmp_path, *folders, stranger[0] / "out")
    for name, old in (("carded", "my-rft"), ("carded-meta", "my-meta")):
        repository = hub.repository(f"{USER}/{name}")
        text = card(hub, name)[1]
        assert MODEL - {"generation_config.json"} <= set(repository.files) and repository.private
        assert not [path for path in repository.files if "/" in path or path == "training_args.bin"]
        assert f'"{USER}/{name}"' in text and f'"{old}"' not in text and f"serve {old}" not in text
    assert 'model="path/to/the/judge"' in card(hub, "carded-meta")[1]
    assert "### rewardbench" in card(hub, "carded")[1]
    assert hub.repository(f"{USER}/carded").messages[-2:] == ["Upload", "Evaluation results"]


ALONE = """
judge = pipeline("grm-reward", model=sys.argv[1], max_new_tokens=4, trust_remote_code=True)
print(json.dumps(judge(json.loads(sys.argv[2]), k=2, seed=0)["critiques"]))
"""


@pytest.mark.slow
def test_a_judge_with_code_runs_from_the_hub_where_the_package_is_absent(hub, pushed, tmp_path):
    from tiny_models import WITHOUT_THIS_PACKAGE

    command = [sys.executable, "-c", WITHOUT_THIS_PACKAGE + ALONE, f"{USER}/with-code", json.dumps(ROW)]
    environment = {**os.environ, **hub.environment(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == pushed[1]


# Pushes that fail


FLAGS = ["--use_cpu", "--bf16", "false", "--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "true"]
FLAGS += ["--max_steps", "1", "--dtype", "float32", "--template", "compact", "--max_completion_length", "8"]


def run_recipe(name, *arguments):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(*module.make_parser().parse_args_and_config([str(argument) for argument in arguments]))


def client_train(name):
    """The recipe of stage 2 as a user starts it, with rows from the Hub; what it pushes is called as its folder."""
    arguments = ["--model_name_or_path", f"{USER}/base", "--dataset_name", f"{USER}/preferences", "--output_dir", name]
    run_recipe("spct", *arguments, "--per_device_train_batch_size", "4", *FLAGS, "--push_to_hub")


def client_adapters(folder):
    """Adapters of judge and Meta RM, checkpoints pushed on the way, and what a pipeline makes of them."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import pipeline

    from trl_spct import MetaRMTrainer, MetaRMTrainingConfig, SPCTConfig, SPCTTrainer

    pushed = {**CPU, "push_to_hub": True, "save_strategy": "steps", "save_steps": 1, "hub_strategy": "checkpoint"}
    args = SPCTConfig(
        f"{folder}/lora-judge", per_device_train_batch_size=4, template="compact", max_completion_length=8,
        hub_token=TOKEN, **pushed
    )  # fmt: skip
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    spct = SPCTTrainer(f"{USER}/base", args=args, train_dataset=preference_rows(), peft_config=lora)
    spct.train()
    spct.save_model()  # pushes as well
    rows = Dataset.from_list(
        [{"query": "q", "responses": ["a", "b"], "critique": "\\boxed{1, 2}", "label": label} for label in (0, 1)]
    )
    args = MetaRMTrainingConfig(f"{folder}/lora-meta", template="compact", **pushed)
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])
    meta = MetaRMTrainer(f"{USER}/base", args=args, train_dataset=rows, peft_config=lora)
    meta.train()
    meta.push_to_hub()
    judge = pipeline("grm-reward", model=f"{USER}/lora-judge", meta_rm=f"{USER}/lora-meta", max_new_tokens=4)
    judge.push_to_hub("lora-both", tags=["mine"])
    again = pipeline("grm-reward", model=f"{USER}/lora-both", max_new_tokens=4)
    same = judge(ROW, k=2, seed=0) == again(ROW, k=2, seed=0)
    return [same, again.meta_rm is not None, type(again.model).__name__]


@pytest.mark.slow
def test_adapters_and_checkpoints(hub, tmp_path):
    same, has_meta_rm, _ = run(hub, "client_adapters", tmp_path, tmp_path)
    assert same and has_meta_rm
    for name in ("lora-judge", "lora-meta", "lora-both"):
        repository = hub.repository(f"{USER}/{name}")
        assert {"README.md", "adapter_model.safetensors"} <= set(repository.files), name
        for files in repository.commits.values():
            assert not [path for path in files if path.endswith("training_args.bin")]
            assert not [path for path, file in files.items() if TOKEN.encode() in file.content]
    assert "last-checkpoint/adapter_model.safetensors" in hub.repository(f"{USER}/lora-judge").files
    head, text = card(hub, "lora-both")
    assert "mine" in head["tags"] and f'model="{USER}/lora-both"' in text and "`meta_rm` holds a Meta RM" in text


def push_again(hub, said, home, name, kind="model"):
    """Runs the command that a failed push named, and returns what is on the Hub then."""
    hub.failures.clear()
    command = next(line for line in said.splitlines() if line.strip().startswith(f"hf upload {name} "))
    environment = {**os.environ, **hub.environment(home)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    subprocess.run(command, shell=True, check=True, env={**environment, "PATH": path}, capture_output=True)
    return hub.repository(f"{USER}/{name.removeprefix(f'{USER}/')}", kind).files


def client_refused(folder):
    """Trajectories that cannot be pushed do not keep the judge from being trained, and are told of at the end."""
    from trl_spct import RejectiveSampler, RejectiveSamplerConfig
    from trl_spct.data.loading import finish
    from trl_spct.judge.hub import PushError, push_folder

    pushed = {"push_to_hub": True, "hub_model_id": "refused", "trajectories_hub_repo": "refused-rows"}
    args = RejectiveSamplerConfig(folder, template="compact", max_completion_length=8, **pushed, **CPU)
    trainer = RejectiveSampler(f"{USER}/base", args=args, train_dataset=preference_rows(), sampler=told)
    trainer.train()
    try:
        push_folder(f"{folder}/trajectories", "refused")
    except PushError as error:
        said = str(error)
    try:
        finish(trainer)
    except SystemExit as end:
        return [trainer.state.global_step, said, end.code]


def test_what_is_refused_is_whole_here_and_can_be_pushed_again(hub, tmp_path):
    hub.fail("POST /api/(models|datasets)/someone/refused.*/preupload", 403, "Private storage limit reached")
    steps, said, end = run(hub, "client_refused", tmp_path, tmp_path / "judge")
    assert steps == 1 and MODEL <= {path.name for path in (tmp_path / "judge").iterdir()}
    assert "Private storage limit reached" in said and "hf upload refused" in said
    assert end.count("Private storage limit reached") == 2
    assert f"Nothing is lost: {tmp_path / 'judge'} holds it all" in end
    assert f"Nothing is lost: {tmp_path / 'judge' / 'trajectories'} holds it all" in end
    rows = push_again(hub, end, tmp_path, "refused-rows", "dataset")
    assert {"README.md", "shard-00000.parquet", "rejection.json"} == set(rows) - {".gitattributes"}
    model = push_again(hub, end, tmp_path, f"{USER}/refused")
    assert MODEL <= set(model) and "training_args.bin" not in model and not [path for path in model if "/" in path]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "refused", "status", "message"),
    [
        ("quota", "POST /api/models/.*quota/preupload", 403, "Private storage limit reached"),
        ("broken", "POST /api/models/.*broken/commit", 500, "Server Error"),
        ("cut", "POST /api/models/.*cut/commit", 0, "disconnected"),
        ("stored", "PUT /lfs/upload", 413, "Error while uploading 'model.safetensors'"),
        ("expired", "POST /api/models/.*expired/commit", 401, "hf auth login"),
    ],
)
def test_a_script_whose_push_fails_says_so_and_loses_nothing(name, refused, status, message, hub, tmp_path):
    hub.blobs.clear()
    hub.fail(refused, status, message)
    done = run(hub, "client_train", tmp_path, name, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert message in done.stderr and f"Nothing is lost: {tmp_path / name} holds it all" in done.stderr
    assert MODEL <= {path.name for path in (tmp_path / name).iterdir()}
    assert not hub.repository(f"{USER}/{name}").files.get("README.md")
    assert MODEL <= set(push_again(hub, done.stderr, tmp_path, f"{USER}/{name}"))


@pytest.mark.slow
def test_a_push_that_is_interrupted_loses_nothing(hub, tmp_path):
    """Ctrl-C while the Hub lets one wait."""
    hub.fail("POST /api/models/.*waiting/commit", 500, "too late", seconds=60)
    code = "import test_hub; test_hub.client_train('waiting')"
    environment = {**os.environ, **hub.environment(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=-1
    )
    deadline = time.monotonic() + 200
    while f"POST /api/models/{USER}/waiting/commit/main" not in hub.requests and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and MODEL <= {path.name for path in (tmp_path / "waiting").iterdir()}
    assert MODEL <= set(push_again(hub, said, tmp_path, f"{USER}/waiting"))
