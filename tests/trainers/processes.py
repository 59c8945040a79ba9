# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The same training in one process and in several."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from paths import TESTS

SCRIPT = """
import sys, torch
sys.path[:0] = {paths!r}
{make}
trainer.train()
model = trainer.accelerator.unwrap_model(trainer.model)
found = dict(log=trainer.state.log_history, processes=trainer.accelerator.num_processes)
found["weights"] = {{name: value.detach() for name, value in model.named_parameters()}}
if trainer.accelerator.is_main_process:
    torch.save(found, {out!r})
trainer.accelerator.wait_for_everyone()  # a process that ends first may abort the other one
trainer.end()
"""


def trained_in(processes: int, make: str, folder: Path) -> dict[str, Any]:
    """Log, weights and number of processes of the training of the `trainer` that the code `make` defines."""
    out, script = folder / f"{processes}.pt", folder / f"{processes}.py"
    paths = [str(TESTS / "trainers"), str(TESTS)]
    script.write_text(SCRIPT.format(paths=paths, make=make, out=str(out)))
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone", "--local-addr=localhost"]
    command = [sys.executable, *(launch if processes > 1 else []), str(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=False)


def check_weights(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, atol=1e-4, rtol=1e-3, msg=name)
