"""The ground floor stands on the standard library alone, and its stairs only go down."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parent.parent / "trl_spct"
# Each room may import the rooms named beside it.
ROOMS = {
    "preferences": set(),
    "card_prompts": set(),
    "prompts": {"card_prompts", "preferences"},
    "critiques": set(),
    "blocks": set(),
    "orders": set(),
    "outcomes": {"preferences"},
    "rejection": {"outcomes"},
    "voting": set(),
}


def imports(room):
    """(absolute top-level names, sibling names) that a module imports anywhere, functions included."""
    outside, siblings = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{room}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1
            siblings |= {node.module} if node.module else {alias.name for alias in node.names}
    return outside, siblings


@pytest.mark.parametrize("room", ROOMS)
def test_imports_are_of_the_standard_library(room):
    assert imports(room)[0] <= sys.stdlib_module_names


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_only(room):
    assert imports(room)[1] <= ROOMS[room]


BLOCKED = """
import importlib.abc, importlib, sys, types

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "datasets", "trl", "peft", "accelerate", "numpy"}:
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Block())
package = types.ModuleType("trl_spct")  # a stand-in: the real __init__ may import transformers
package.__path__ = [sys.argv[1]]
sys.modules["trl_spct"] = package
module = importlib.import_module("trl_spct." + sys.argv[2])
assert module.__file__.startswith(sys.argv[1])
foreign = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"__main__", "trl_spct"}
assert not foreign & {"torch", "transformers", "datasets", "trl", "peft", "accelerate", "numpy"}, foreign
"""


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_opens_where_nothing_is_installed(room):
    command = [sys.executable, "-c", BLOCKED, str(PACKAGE), room]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_one_parser():
    """No other module has a pattern that reads boxes."""
    readers = {
        path.stem
        for path in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\\\\boxed", node.value)
    }
    assert readers <= {"critiques"}
