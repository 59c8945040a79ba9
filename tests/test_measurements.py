# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Measurements that need what this machine may lack run here in small."""

import json
import subprocess
import sys

import pytest
from paths import TESTS


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_runs_on_a_cpu(tmp_path):
    script = TESTS / "measurements" / "gpu.py"
    command = [sys.executable, str(script), "--smoke", "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert not [line for line in lines if "failed" in line]
    parts = "smollm2 smollm2 exact judge-0.5b judge-7b step-1.5b qlora vllm".split()
    assert [line["part"] for line in lines] == parts
    before, after, exact, *_, step, qlora, _ = lines
    assert (before["after"], after["after"]) == ("rft", "spct") and before["kept"] and after["steps"]
    assert all(exact["greedy_texts_equal"]) and exact["largest_logp_difference"] < 1e-4
    assert step["stock"]["seconds"] > 0 and qlora["stated_gb"] == 16
