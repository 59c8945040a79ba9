# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Folders of the project that tests read."""

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
DATA = TESTS / "data"
RECIPES = ROOT / "recipes"
