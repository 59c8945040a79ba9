# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The package as a whole: what importing it costs, what it offers, and which way its stairs go."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import trl_spct


ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "trl_spct"
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.glob("*.py")}

GROUND = {
    "blocks", "card_prompts", "critiques", "orders", "outcomes", "preferences", "prompts", "rejection", "voting",
}  # fmt: skip
# What travels to the Hub with a judge: torch and transformers, no trainer.
FIRST = {
    "budget", "configuration_meta_rm", "decoding", "engines", "hub", "meta_fit", "meta_scoring", "modeling_meta_rm",
    "pipelines", "prefixes", "repositories", "sampling",
}  # fmt: skip
PUBLIC = {
    "Preference", "Critique", "parse_critique", "judge_messages",
    "is_correct", "outcome_reward", "meta_label", "select_trajectories", "vote", "guided_vote",
    "SPCTConfig", "SPCTTrainer", "RejectiveSamplerConfig", "RejectiveSampler",
    "MetaRMConfig", "MetaRMForSequenceClassification", "MetaRMTrainingConfig", "MetaRMTrainer",
    "GRMRewardPipeline", "OpenAIEngine",
}  # fmt: skip


def run(code, *arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


LIGHT = """
import json, sys
import trl_spct
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"trl", "peft", "datasets", "matplotlib", "rich"})
from transformers.pipelines import PIPELINE_REGISTRY
tasks = PIPELINE_REGISTRY.get_supported_tasks()
ground = trl_spct.vote([(1, 5), (5, 6)])
still = sorted({name.partition(".")[0] for name in sys.modules} & {"trl", "peft", "datasets"})
from trl_spct import SPCTTrainer
print(json.dumps([heavy, "grm-reward" in tasks, ground, still, "trl" in sys.modules, SPCTTrainer.__module__]))
"""


def test_a_bare_import_registers_and_loads_no_trainer():
    heavy, registered, ground, still, trl, home = json.loads(run(LIGHT).splitlines()[-1])
    assert heavy == [] and registered
    assert ground == [6, 11] and still == []
    assert trl and home == "trl_spct.spct_trainer", "a trainer is loaded when it is touched"


def test_public_names():
    assert PUBLIC <= set(trl_spct.__all__) <= set(dir(trl_spct))
    for name in trl_spct.__all__:
        value = getattr(trl_spct, name)
        assert value.__name__ == name and value.__module__.startswith("trl_spct."), name
        assert inspectable(value), f"{name} has no docstring of its own"
    assert trl_spct.vote is importlib.import_module("trl_spct.voting").vote
    with pytest.raises(AttributeError, match="'trl_spct' has no attribute 'nonsense'"):
        trl_spct.nonsense  # noqa: B018


def inspectable(value):
    return bool((value.__doc__ or "").strip()) and not (value.__doc__ or "").startswith(f"{value.__name__}(")


def test_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert trl_spct.__version__ == project["version"]


# --- stairs go down only ---


def siblings(module, lazy=True):
    """Names of the sibling modules that a module imports; with `lazy=False` only when it is loaded."""
    nodes = ast.walk(MODULES[module]) if lazy else MODULES[module].body
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, "the pipeline's code travels flat"
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module.partition(".")[0] != "trl_spct", f"{module} names the package"
        elif isinstance(node, ast.Import):
            assert not any(alias.name.partition(".")[0] == "trl_spct" for alias in node.names)
    return found & set(MODULES)


def absolute(module):
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


@pytest.mark.parametrize("module", sorted(GROUND | FIRST))
def test_lower_floors_import_no_higher_one(module):
    below = GROUND if module in GROUND else GROUND | FIRST
    assert siblings(module) <= below
    brought = {"huggingface_hub", "torch", "transformers", "numpy", "tqdm"}
    assert absolute(module) <= (set() if module in GROUND else brought)


def test_no_circles():
    levels = {}

    def level(module, above=()):
        assert module not in above, f"a circle: {[*above, module]}"
        if module not in levels:
            levels[module] = 1 + max((level(name, (*above, module)) for name in siblings(module, False)), default=0)
        return levels[module]

    assert level("preferences") == 1 < level("pipelines")
    for module in MODULES:
        if module != "__init__":
            level(module)


def test_dependencies_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=~! ]", name)[0].replace("-", "_") for name in project["dependencies"]}
    brought = {"torch", "numpy", "tqdm", "pyarrow"}  # by transformers, accelerate and datasets
    optional = {"bitsandbytes", "datasketch", "math_verify", "requests", "yaml", "vllm"}
    used = set().union(*map(absolute, MODULES)) - {"trl_spct"}
    assert {"trl", "transformers", "datasets"} <= used
    assert used <= declared | brought | optional, used - declared - brought - optional


# --- habits ---


@pytest.mark.parametrize("module", sorted(MODULES))
def test_habits(module):
    """No output but logs and bars, no error swallowed whole, a license line."""
    calls = [node.func for node in ast.walk(MODULES[module]) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("print", "eval", "exec")]
    handlers = [node for node in ast.walk(MODULES[module]) if isinstance(node, ast.ExceptHandler)]
    for handler in handlers:
        assert handler.type is not None, "a bare except"
        assert not (isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException"))
    assert (PACKAGE / f"{module}.py").read_text(encoding="utf-8").startswith("# Copyright")


def test_the_wheel(tmp_path):
    """It holds every module, the marker for type checkers, the card templates, the recipes and the console entry."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("pip")
    source = tmp_path / "source"  # a build leaves folders behind
    for name in ("trl_spct", "model_cards", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md", "_trl_spct_cli.py"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("trl_spct-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    cards = {f"trl_spct/model_cards/{path.name}" for path in (ROOT / "model_cards").glob("*.md")}
    assert len(cards) >= 3
    assert cards | {"trl_spct/py.typed"} | {f"trl_spct/{module}.py" for module in MODULES} <= names
    recipes = [path for suffix in ("py", "yaml") for path in (ROOT / "recipes").rglob(f"*.{suffix}")]
    assert {f"trl_spct/recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" for path in recipes} <= names
    information = f"trl_spct-{trl_spct.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"trl_spct", "_trl_spct_cli.py", information}
