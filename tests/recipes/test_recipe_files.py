# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Recipes for named models: they are what the generator writes, they parse, and their headers do not lie."""

import importlib.util
import math
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from paths import ROOT
from tiny_models import save_tiny, tiny_causal_lm, tiny_tokenizer
from transformers import AutoModelForCausalLM
from trl import ModelConfig, get_quantization_config

from trl_spct.data.loading import find_chat_template


CPU = ["--use_cpu", "--bf16", "false"]


@cache
def module(name):
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / "recipes" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


generator = module("make_recipes")
RECIPES = {recipe.path: recipe for recipe in generator.recipes()}


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
    return {stage: keys(f"recipes/{recipe.name}/{stage}_{recipe.variant}.yaml") for stage in generator.STAGES}


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


# The files


def test_the_files_are_what_the_generator_writes():
    assert {path: (ROOT / path).read_text() for path in RECIPES} == {p: r.text for p, r in RECIPES.items()}
    readme = (ROOT / "recipes" / "README.md").read_text()
    assert readme == generator.with_table(readme)
    assert generator.table() in readme


def test_there_are_no_other_files():
    folders = {ROOT / "recipes" / name for name in generator.MODELS}
    assert {str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*")} == set(RECIPES)


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
    mixture = yaml.safe_load((ROOT / "recipes" / "data" / "paper_mixture.yaml").read_text())["datasets"]
    small = f"[:{generator.SLICE}]" if RECIPES[path].variant == "qlora" else ""
    found = keys(path)["datasets"]
    assert all(part["split"].endswith(small) for part in found)
    assert [{**part, "split": part["split"].removesuffix(small)} for part in found] == mixture


@pytest.mark.parametrize("path", RECIPES)
def test_batches(path):
    recipe, given = RECIPES[path], keys(path)
    processes = [launched(c)[2] for c in commands_in(recipe.text) if "accelerate" in c][-1]
    batch, accumulation = given["per_device_train_batch_size"], given["gradient_accumulation_steps"]
    assert processes == recipe.plan.gpus
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
        assert module("spct").wants_embedded_default(arguments)
    elif not hasattr(module(script), "main") or script == "make_recipes":
        pytest.fail(f"{script} takes no arguments")
    elif script in ("rft", "spct", "meta_rm"):
        parse(script, [*arguments, *([] if "--use_cpu" in arguments else CPU)])
    elif script == "view":
        module(script).make_parser().parse_args(arguments)
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


# Memory

LINE = re.compile(r"^#     (?P<what>.+?)  +(?P<factors>[\d.e x]+?)(?: / (?P<shared>\d+))?  +=  *(?P<value>[\d.]+)$")
TOTAL = re.compile(r"^#   while (?P<moment>.+):  +=  *(?P<value>[\d.]+)$")


def moments(text):
    """The arithmetic of a header as it is printed: its lines by moment, and the sums."""
    found, lines = [], []
    for line in text.splitlines():
        if term := LINE.match(line):
            factors = [float(factor) for factor in term["factors"].split(" x ")]
            lines.append((term["what"], factors, int(term["shared"] or 1), float(term["value"])))
        elif total := TOTAL.match(line):
            found.append((total["moment"], lines, float(total["value"])))
            lines = []
    assert found and not lines
    return found


@pytest.mark.parametrize("path", RECIPES)
def test_the_arithmetic_of_a_header(path):
    recipe, given = RECIPES[path], keys(path)
    gpu = int(re.search(r"Needs \d+ x (\d+) GB", (ROOT / path).read_text())[1])
    for _, lines, total in moments((ROOT / path).read_text()):
        for _, factors, shared, value in lines:
            assert math.prod(factors) / shared / 1e9 == pytest.approx(value, abs=0.0051)
            assert shared in (1, recipe.plan.gpus)
        assert sum(value for *_, value in lines) == pytest.approx(total, abs=0.006 * len(lines))
        assert total <= 0.9 * gpu
    trains = {what: factors for what, factors, *_ in moments((ROOT / path).read_text())[0][1]}
    longest = given.get("max_context_length", given.get("max_length"))
    _, batch, length, _, _ = trains["layer inputs, checkpointed"]
    assert (batch, length) == (given["per_device_train_batch_size"], longest)
    weights = trains.get("weights, float32") or trains["weights, nf4"]
    assert weights[0] == pytest.approx(
        generator.size_of(recipe.name).__getattribute__("parameters" if recipe.variant == "full" else "packed"),
        rel=1e-3,
    )
    if given.get("use_vllm") and given["vllm_mode"] == "colocate":
        assert trains["vLLM: its share of the GPU"][0] == given["vllm_gpu_memory_utilization"]
    for moment, lines, _ in moments((ROOT / path).read_text())[1:]:
        critiques = next(factors[0] for what, factors, *_ in lines if what == "keys and values")
        if recipe.stage == "spct":
            assert critiques == batch * given["steps_per_generation"]
        else:
            assert critiques == given["sampling_batch_size"]
        assert given.get("choose_k", 0) <= critiques, moment


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        *[("gemma-2-27b", 27.2), ("gemma-2-9b", 9.24), ("gemma-2-2b", 2.61), ("deepseek-v2-lite", 15.7)],
        *[("qwen3-0.6b", 0.6), ("qwen3-1.7b", 1.7), ("qwen3-4b", 4.0), ("qwen3-8b", 8.2), ("qwen3-14b", 14.8)],
        *[("qwen3-32b", 32.8), ("qwen2.5-0.5b", 0.49), ("qwen2.5-7b", 7.61), ("qwen2.5-14b", 14.7)],
        *[("qwen2.5-32b", 32.5), ("llama-3.1-8b", 8.03)],
    ],
)
def test_models_have_the_published_number_of_parameters(name, billions):
    assert generator.size_of(name).parameters / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize("arch", ["deepseek_v2", "gemma2", "llama", "qwen2", "qwen3"])
def test_the_cache_is_counted_as_it_is(arch):
    model = tiny_causal_lm(arch)
    cache = model(input_ids=torch.arange(1, 11)[None], use_cache=True).past_key_values
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert generator.measured(model, ("all-linear",)).cache == 2 * numbers / 10


@pytest.mark.parametrize("arch", ["deepseek_v2", "gemma2"])
def test_what_nf4_packs_is_counted_as_it_is(arch, tmp_path):
    quantized = get_quantization_config(ModelConfig(load_in_4bit=True, use_bnb_nested_quant=True, dtype="bfloat16"))
    folder = save_tiny(tmp_path, arch)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantized, dtype=torch.bfloat16)
    packed = sum(2 * p.numel() for p in model.parameters() if p.dtype == torch.uint8)
    size = generator.measured(tiny_causal_lm(arch), ("all-linear",))
    assert packed == size.packed
    kept = sum(p.numel() for p in model.parameters() if p.dtype == torch.bfloat16)
    assert kept == size.parameters - size.packed


def test_bytes_of_an_nf4_weight():
    from bitsandbytes.functional import quantize_4bit

    weight = torch.randn(1024, 1024)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    scales = state.absmax.nbytes + state.state2.absmax.nbytes
    assert (packed.nbytes + scales) / weight.numel() == pytest.approx(generator.NF4, rel=2e-3)


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
    find_chat_template(args, ROOT / "recipes")
    assert args.chat_template_path == str(ROOT / named)
    own = tmp_path / named
    own.parent.mkdir(parents=True)
    own.write_text("one's own")
    for kept in (named, "some/model", "recipes/no_such.jinja", None):
        args.chat_template_path = kept
        find_chat_template(args, ROOT / "recipes")
        assert args.chat_template_path == kept


def test_chat_templates_are_files():
    """TRL takes more than the template from a model that `chat_template_path` names: its end-of-sequence token, which
    does not end Gemma-2's turns, and the size of its vocabulary."""
    named = {keys(path).get("chat_template_path") for path in RECIPES} - {None}
    assert named and all((ROOT / path).is_file() for path in named)
