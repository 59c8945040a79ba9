# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Recipes for named models: they parse, chain and fit together, and so do the commands of their headers."""

import importlib.util
import itertools
import re
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from paths import ROOT
from tiny_models import tiny_tokenizer

from trl_spct.data.loading import find_templates

CPU = ["--use_cpu", "--bf16", "false"]


@cache
def module(name):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / "recipes" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


STAGES, VARIANTS = ("rft", "spct", "meta_rm"), ("full", "qlora")


@dataclass(frozen=True)
class Model:
    """A model with recipes: its transformers model type, and the ids that recipes start from."""

    kind: str
    start: str
    base: str | None = None
    turn_end: str | None = None


MODELS = {
    "gemma-2-27b": Model("gemma2", "google/gemma-2-27b-it", "google/gemma-2-27b", "<end_of_turn>"),
    "deepseek-v2-lite": Model("deepseek_v2", "deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-ai/DeepSeek-V2-Lite"),
    "qwen3-0.6b": Model("qwen3", "Qwen/Qwen3-0.6B"),
    "qwen3-8b": Model("qwen3", "Qwen/Qwen3-8B"),
}
PAPER_SAMPLER = "deepseek-ai/DeepSeek-V2.5"


@dataclass(frozen=True)
class Recipe:
    name: str
    stage: str
    variant: str

    @property
    def path(self):
        return f"recipes/{self.name}/{self.stage}_{self.variant}.yaml"

    @property
    def text(self):
        return (ROOT / self.path).read_text()

    @property
    def model(self):
        return MODELS[self.name]

    @property
    def output(self):
        return f"outputs/{self.name}/{self.stage}_{self.variant}"

    @property
    def is_papers(self):
        return self.variant == "full" and self.model.base is not None


RECIPES = {recipe.path: recipe for recipe in (Recipe(*case) for case in itertools.product(MODELS, STAGES, VARIANTS))}


@cache
def mixture():
    return yaml.safe_load((ROOT / "recipes" / "data" / "paper_mixture.yaml").read_text())["datasets"]


def commands_in(text):
    """The commands of shell blocks, and of a header's comment lines, with their continuations joined."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    header = "\n".join(line[2:] for line in text.split("\n\n")[0].splitlines() if line.startswith("# "))
    text = "\n".join(blocks) if blocks else header
    found = re.findall(
        r"^(?:\w+=\S+ )*((?:accelerate launch|python|vllm serve)\b(?:.*\\\n)*.*)", text, flags=re.MULTILINE
    )
    return [shlex.split(command.replace("\\\n", " "), comments=True) for command in found]


def launched(command):
    """The script of a command and its arguments, and how many processes the launcher's configuration asks for."""
    if command[0] == "python":
        return Path(command[1]).stem, command[2:], 1
    arguments = launch_command_parser().parse_args(command[2:])
    processes = 1
    if arguments.config_file:
        processes = load_config_from_file(str(ROOT / arguments.config_file)).num_processes
    return Path(arguments.training_script).stem, arguments.training_script_args, processes


def parse(script, arguments):
    return module(script).make_parser().parse_args_and_config(list(arguments))


@cache
def keys(path):
    return yaml.safe_load((ROOT / path).read_text())


def siblings(path):
    recipe = RECIPES[path]
    return {stage: keys(f"recipes/{recipe.name}/{stage}_{recipe.variant}.yaml") for stage in STAGES}


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


# The files


def test_every_file_is_tested():
    folders = {ROOT / "recipes" / name for name in MODELS}
    assert {str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*")} == set(RECIPES)
    tested = {"accelerate_configs", "data", "smollm2-135m", *MODELS}  # see test_smollm2_recipe.py
    assert {path.parent.name for path in (ROOT / "recipes").glob("*/*.yaml")} == tested


def test_the_readme_lists_every_recipe():
    """With the hardware and the estimate of the recipe's own header."""
    readme = (ROOT / "recipes" / "README.md").read_text()
    for recipe in RECIPES.values():
        needs = re.search(r"Needs (\d+ x \d+ GB).*?; one GPU holds about (\d+) GB", recipe.text)
        config = re.findall(r"accelerate_configs/(\w+)\.yaml", recipe.text.split("\n\n")[0])[-1]
        link = recipe.path.removeprefix("recipes/")
        assert f"[{needs[1]}]({link}), `{config}`, {needs[2]} GB" in readme


@pytest.mark.parametrize("path", RECIPES)
def test_recipes_chain(path):
    stages = siblings(path)
    assert stages["spct"]["model_name_or_path"] == stages["rft"]["output_dir"]
    assert stages["meta_rm"]["trajectories"][0] == stages["rft"]["output_dir"] + "/trajectories"
    judge = stages["meta_rm"].get("judge_name_or_path")
    assert judge in (None, stages["spct"]["output_dir"])
    assert len({stage["output_dir"] for stage in stages.values()}) == 3
    assert len({stage["hub_model_id"] for stage in stages.values()}) == 3
    assert not any(stage["push_to_hub"] for stage in stages.values())
    assert len({stage["test_split_size"] for stage in stages.values()}) == 1


@pytest.mark.parametrize("path", RECIPES)
def test_the_data_are_the_papers_public_mixture(path):
    part_of_each = "[:2000]" if RECIPES[path].variant == "qlora" else ""
    datasets = keys(path)["datasets"]
    assert datasets == [{**part, "split": part["split"] + part_of_each} for part in mixture()]


@pytest.mark.parametrize("path", RECIPES)
def test_batches(path):
    recipe, given = RECIPES[path], keys(path)
    processes = [launched(c)[2] for c in commands_in(recipe.text) if "accelerate" in c][-1]
    batch, accumulation = given["per_device_train_batch_size"], given["gradient_accumulation_steps"]
    gpus = int(re.search(r"Needs (\d+) x", recipe.text)[1])
    assert processes == gpus
    assert f"{batch} x {accumulation} x {gpus} GPUs" in recipe.text
    papers = {"rft": 1024, "spct": 512, "meta_rm": 512}[recipe.stage]
    assert batch * accumulation * processes == (papers if recipe.variant == "full" else 64)
    if recipe.stage == "spct":
        per_generation = given.get("steps_per_generation", accumulation)
        assert accumulation % per_generation == 0
        assert batch * per_generation * processes % given["num_generations"] == 0


@pytest.mark.parametrize("path", RECIPES)
def test_a_sharded_model_never_samples_for_itself(path):
    recipe, given = RECIPES[path], keys(path)
    for command in commands_in(recipe.text):
        script, arguments, _ = launched(command) if command[0] != "vllm" else ("vllm", [], 1)
        config = command[command.index("--config_file") + 1] if "--config_file" in command else ""
        if not config or load_config_from_file(str(ROOT / config)).distributed_type != DistributedType.FSDP:
            continue
        assert script != "rft" or "--trajectories" in arguments
        assert script != "spct" or given["use_vllm"]
        assert script != "meta_rm" or "judge_name_or_path" not in given


@pytest.mark.parametrize("path", RECIPES)
def test_adapters(path):
    recipe, given = RECIPES[path], keys(path)
    assert given.get("load_in_4bit", False) == (recipe.variant == "qlora")
    # Reinforcement goes on with the adapter of stage 1: a second one would be refused.
    assert given.get("use_peft", False) == (recipe.variant == "qlora" and recipe.stage != "spct")
    assert given.get("lora_task_type") == ("SEQ_CLS" if recipe.stage == "meta_rm" and "use_peft" in given else None)
    assert given.get("lora_dropout", 0) == 0


def test_the_papers_values():
    rft, spct, meta_rm = siblings("recipes/gemma-2-27b/rft_full.yaml").values()
    assert (rft["learning_rate"], rft["max_steps"], rft["num_generations"]) == (5e-6, 900, 3)
    assert (spct["learning_rate"], spct["max_steps"], spct["num_generations"], spct["beta"]) == (4e-7, 900, 4, 0.08)
    assert meta_rm["learning_rate"] == 1e-5
    assert rft["model_name_or_path"] == meta_rm["model_name_or_path"] == "google/gemma-2-27b"
    assert keys("recipes/deepseek-v2-lite/spct_full.yaml")["beta"] == 0.002
    [spct] = parse("spct", ["--config", str(ROOT / "recipes/gemma-2-27b/spct_full.yaml"), *CPU])[1:2]
    assert (spct.loss_type, spct.scale_rewards, spct.use_bias_correction_kl, spct.top_k) == ("grpo", "group", False, 0)


# Commands


@pytest.mark.parametrize("path", RECIPES)
def test_the_commands_of_a_header_parse(path, at_root):
    """And with them the recipe, which the strict parser of its script reads."""
    commands = [command for command in commands_in(RECIPES[path].text) if command[0] != "vllm"]
    assert commands and commands[-1][commands[-1].index("--config") + 1] == path
    for command in commands:
        script, arguments, _ = launched(command)
        parse(script, [*arguments, *CPU])


README_COMMANDS = {
    f"{name}-{number}": command
    for name in ("README.md", "recipes/README.md")
    for number, command in enumerate(commands_in((ROOT / name).read_text()))
    if any(word.startswith("recipes/") and word.endswith(".py") for word in command)
}


@pytest.mark.parametrize("name", README_COMMANDS)
def test_the_commands_of_the_readmes_parse(name, at_root):
    script, arguments, _ = launched(README_COMMANDS[name])
    if not arguments:  # the embedded default
        assert module("spct").wants_embedded(arguments)
    elif not hasattr(module(script), "main"):
        pytest.fail(f"{script} takes no arguments")
    elif script in ("rft", "spct", "meta_rm"):
        parse(script, [*arguments, *([] if "--use_cpu" in arguments else CPU)])
    else:
        parse(script, arguments)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "accelerate_configs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_launch_configurations_are_accelerates(path):
    config = load_config_from_file(str(path))  # refuses keys that it does not know
    kinds = {"single_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "multi_node": "FSDP"}
    assert config.distributed_type.value == kinds.get(path.stem, "DEEPSPEED")
    assert config.mixed_precision == "bf16"
    actions = {action.dest for action in launch_command_parser()._actions}
    nested = {**config.deepspeed_config, **config.fsdp_config}
    assert set(nested) <= actions
    if path.stem in ("fsdp2", "multi_node"):
        assert nested["fsdp_version"] == 2


# Chat templates


@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        (
            "qwen3_no_thinking",
            "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "The first.<|im_end|>\n",
        ),
        (
            "gemma2",
            "<bos><start_of_turn>user\nWhich?<end_of_turn>\n<start_of_turn>model\n",
            "The first.<end_of_turn>\n",
        ),
        ("deepseek_v2", "<bos>User: Which?\n\nAssistant:", " The first.<eos>"),
    ],
)
def test_chat_templates(name, prompt, answer):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (ROOT / "recipes" / "chat_templates" / f"{name}.jinja").read_text()
    asked = [{"role": "user", "content": "Which?"}]
    told = [*asked, {"role": "assistant", "content": "The first."}]
    assert tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False) == prompt
    assert tokenizer.apply_chat_template(told, tokenize=False) == prompt + answer
    assert "Be brief." in tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, *told], tokenize=False
    )


def test_chat_templates_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "recipes" / "qwen3-0.6b" / "rft_qlora.yaml"
    args = parse("rft", ["--config", str(path), *CPU])[1]
    named = args.chat_template_path
    find_templates(args, ROOT / "recipes")
    assert args.chat_template_path == str(ROOT / named)
    own = tmp_path / named
    own.parent.mkdir(parents=True)
    own.write_text("one's own")
    for kept in (named, "some/model", "recipes/no_such.jinja", None):
        args.chat_template_path = kept
        find_templates(args, ROOT / "recipes")
        assert args.chat_template_path == kept


def test_templates_of_the_recipes_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = parse("rft", ["--config", str(ROOT / "recipes/smollm2-135m/rft_full.yaml"), *CPU])[1]
    named = args.template
    find_templates(args, ROOT / "recipes")
    assert args.template == str(ROOT / named) and Path(args.template).is_file()


def test_chat_templates_are_files():
    """TRL takes more than the template from a model that `chat_template_path` names: its end-of-sequence token, which
    does not end Gemma-2's turns, and the size of its vocabulary."""
    named = {keys(path).get("chat_template_path") for path in RECIPES} - {None}
    assert named and all((ROOT / path).is_file() for path in named)
