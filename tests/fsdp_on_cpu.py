# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""
Runs a script under FSDP2 on CPUs: `accelerate launch --config_file fsdp2.yaml fsdp_on_cpu.py SCRIPT ARGUMENTS…`

Accelerate shards on accelerators alone and leaves its configuration aside on a CPU, though torch shards there as well.
Here its processes on CPUs count as such on GPUs, which changes nothing else. In the end it says what it ran under.
"""

import os
import runpy
import sys

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType


def count_cpus_as_gpus() -> None:
    start = PartialState.__init__

    def init(self, *args, **kwargs):
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init


if __name__ == "__main__":
    count_cpus_as_gpus()
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    state = AcceleratorState()
    version = state.fsdp_plugin.fsdp_version if state.distributed_type == DistributedType.FSDP else ""
    sys.stderr.write(f"Ran under {state.distributed_type.value}{version} on {state.num_processes} processes.\n")
