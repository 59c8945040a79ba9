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

import pytest
from paths import ROOT

import trl_spct

PACKAGE = ROOT / "trl_spct"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.relative_to(PACKAGE).parts[0] not in ("recipes", "model_cards")
}

STANDARD_LIBRARY_ONLY = {
    "judge.card_prompts", "judge.conversations", "judge.critiques", "judge.fence", "judge.implicit_prompts",
    "judge.orders", "judge.outcomes", "judge.preferences", "judge.prompts", "judge.stopping", "judge.templates",
    "judge.voting", "trainers.rejection",
}  # fmt: skip
# A module imports from its own floor and the floors before it.
FLOORS = [
    {"judge"},
    {"server_answers", "engines", "jobs"},
    {"cards"},
    {"data"},
    {"evaluation"},
    {"trainers"},
    {"labeling"},
    {"rewards", "cli", "scripts", "serving", "remote_rewards", "__init__"},
]
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
    assert trl and home == "trl_spct.trainers.spct_trainer", "a trainer is loaded when it is touched"


def test_public_names():
    assert PUBLIC <= set(trl_spct.__all__) <= set(dir(trl_spct))
    for name in trl_spct.__all__:
        value = getattr(trl_spct, name)
        assert value.__name__ == name and value.__module__.startswith("trl_spct."), name
        assert inspectable(value), f"{name} has no docstring of its own"
    assert trl_spct.vote is importlib.import_module("trl_spct.judge.voting").vote
    with pytest.raises(AttributeError, match="'trl_spct' has no attribute 'nonsense'"):
        trl_spct.nonsense  # noqa: B018


def inspectable(value):
    return bool((value.__doc__ or "").strip()) and not (value.__doc__ or "").startswith(f"{value.__name__}(")


def test_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert trl_spct.__version__ == project["version"]


# --- imports go down only ---


def siblings(module, lazy=True):
    """Names of the modules of this package that a module imports; with `lazy=False` only when it is loaded."""
    parts = module.split(".")
    nodes = ast.walk(MODULES[module]) if lazy else MODULES[module].body
    names = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*parts[: len(parts) - node.level], *(node.module.split(".") if node.module else [])]
            targets = [base] if ".".join(base) in MODULES else [[*base, alias.name] for alias in node.names]
            names |= {".".join(target) for target in targets}
        elif isinstance(node, ast.ImportFrom):
            assert node.module.partition(".")[0] != "trl_spct", f"{module} names the package"
        elif isinstance(node, ast.Import) and module != "cli":
            assert not any(alias.name.partition(".")[0] == "trl_spct" for alias in node.names)
    return names & set(MODULES)


def absolute(module, lazy=True):
    names = set()
    for node in ast.walk(MODULES[module]) if lazy else MODULES[module].body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names


def floor(module):
    (number,) = [number for number, floor in enumerate(FLOORS) if module.partition(".")[0] in floor]
    return number


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_only(module):
    above = {name for name in siblings(module) if floor(name) > floor(module)}
    assert not above, f"{module} imports {above}"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("judge.")))
def test_what_travels_with_a_judge_imports_nothing_outside_its_folder(module):
    assert all(node.level <= 1 for node in ast.walk(MODULES[module]) if isinstance(node, ast.ImportFrom))
    optional = {"peft"} if module == "judge.repositories" else set()  # guarded: without it, adapters are refused
    assert absolute(module) <= {"huggingface_hub", "torch", "transformers", "numpy", "tqdm", "yaml"} | optional


@pytest.mark.parametrize("module", sorted(STANDARD_LIBRARY_ONLY))
def test_the_method_itself_needs_nothing_installed(module):
    assert absolute(module, lazy=False) == set()
    assert siblings(module) <= STANDARD_LIBRARY_ONLY


def test_no_circles():
    levels = {}

    def level(module, above=()):
        assert module not in above, f"a circle: {[*above, module]}"
        if module not in levels:
            levels[module] = 1 + max((level(name, (*above, module)) for name in siblings(module, False)), default=0)
        return levels[module]

    assert level("judge.implicit_prompts") == 1 < level("judge.preferences") < level("judge.pipelines")
    for module in MODULES:
        if module != "__init__":
            level(module)


def test_dependencies_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=~! ]", name)[0].replace("-", "_") for name in project["dependencies"]}
    brought = {"torch", "numpy", "tqdm", "pyarrow", "filelock", "fsspec"}  # by transformers, accelerate and datasets
    optional = {"bitsandbytes", "httpx", "math_verify", "openai", "pydantic", "ray", "requests", "yaml", "vllm"}
    optional |= {"fastapi", "prometheus_client", "uvicorn"}
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
        catches_all = isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
        assert not catches_all or isinstance(handler.body[-1], ast.Raise), "caught whole and not raised again"
    assert (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8").startswith("# Copyright")


def test_the_wheel(tmp_path):
    """It holds every module, the marker for type checkers, the card templates, the recipes and the console entry."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("pip")
    source = tmp_path / "source"  # a build leaves folders behind
    for name in ("trl_spct", "model_cards", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("trl_spct-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    cards = {f"trl_spct/model_cards/{path.name}" for path in (ROOT / "model_cards").glob("*.md")}
    assert len(cards) >= 3
    assert cards | {"trl_spct/py.typed"} | {f"trl_spct/{module.replace('.', '/')}.py" for module in MODULES} <= names
    recipes = [path for suffix in ("py", "yaml") for path in (ROOT / "recipes").rglob(f"*.{suffix}")]
    assert {f"trl_spct/recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" for path in recipes} <= names
    information = f"trl_spct-{trl_spct.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"trl_spct", information}


def test_one_parser():
    """No other module has a pattern that reads boxes."""
    readers = {
        path.stem
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\\\\boxed", node.value)
    }
    assert readers <= {"critiques"}


def test_the_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    bounds = [*project["dependencies"], *(bound for name in extras if name != "dev" for bound in extras[name])]
    lines = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = dict(line.split("==") for line in lines if not line.startswith("#"))
    bounds = [re.sub(r"\[.*\]", "", bound) for bound in bounds]  # a constraint has no extras
    assert set(oldest) == {bound.split(">=")[0] for bound in bounds}
    for bound in bounds:
        name, version = bound.split(">=")
        assert (oldest[name] + ".").startswith(version.removesuffix(".0") + "."), f"{bound} is not tested"


@pytest.mark.parametrize("failing", ["pytest", "ruff", "mypy", None])
def test_the_checks_stop_at_the_first_that_fails(failing, tmp_path):
    """`.ci/run` with programs that only write down that they were called; the environment it makes is empty."""
    called = tmp_path / "called"
    for name in ("pip", "pytest", "ruff", "mypy", "python"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {name} >> {called}\nexit {int(name == failing)}\n")
        program.chmod(0o755)
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\nmkdir -p "$4/bin"\ntouch "$4/bin/activate"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", ROOT / ".ci" / "run"], env=environment, capture_output=True, text=True)
    programs = called.read_text().split()
    assert (done.returncode == 0) == (failing is None), done.stderr
    assert programs[-1] == (failing or "pytest")
    assert programs.count("pytest") == (1 if failing else 2)
