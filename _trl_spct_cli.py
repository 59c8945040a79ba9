# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The console entry. It stands beside the package because importing `trl_spct` registers with transformers, which
loads torch: seconds before a list of verbs is shown."""

import importlib.util
import runpy
from pathlib import Path


def main() -> int:
    package = importlib.util.find_spec("trl_spct")  # found, not imported
    (folder,) = package.submodule_search_locations
    return runpy.run_path(str(Path(folder) / "cli.py"))["main"]()
