# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""No test may reach the network: these must be set before transformers or trl are imported."""

import os

import pytest


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


@pytest.fixture
def one_thread():
    """Tiny models are faster on one thread, above all where other processes want the cores, too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
