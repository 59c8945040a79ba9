# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""No test may reach the network, and tiny models are fastest on one thread: set before torch is imported."""

import logging
import os
import sys

import pytest
from paths import RECIPES, ROOT, TESTS

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Processes that tests start import the project and the tests' modules as pytest does.
os.environ["PYTHONPATH"] = os.pathsep.join(
    map(str, (ROOT, TESTS, *(path for path in TESTS.iterdir() if path.is_dir())))
)


@pytest.fixture(autouse=True)
def warnings_are_heard():
    """The tiny job silences the package's loggers, and a warning is given once a process; what a test hears must not
    depend on the tests before it."""
    logging.getLogger("trl_spct").setLevel(logging.NOTSET)
    warning_once = getattr(logging.Logger, "warning_once", None)  # from transformers, once it is imported
    if warning_once is not None:
        warning_once.cache_clear()


@pytest.fixture(scope="session")
def tiny_job():
    """The module of the embedded default, cut down until it runs in seconds; it judges badly."""
    sys.path.insert(0, str(RECIPES))
    from tiny import job

    sys.path.remove(str(RECIPES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "ROWS", {"rft": 48, "spct": 40, "meta_rm": 16, "guidance": 10, "held_out": 14})
        for name, value in {"LESSONS": 200, "DRILLS": 2400, "CORPUS": 1600, "SPCT_STEPS": 2, "VOTES": 4}.items():
            patch.setattr(job, name, value)
        patch.setattr(job, "GUIDANCE_VOTES", 4)
        yield job


@pytest.fixture(scope="session")
def tiny_run(tiny_job, tmp_path_factory):
    """A finished run of it, in `outputs/tiny` under the returned folder."""
    home = tmp_path_factory.mktemp("home")
    tiny_job.run(str(home / "outputs" / "tiny"), seed=3)
    return home


@pytest.fixture
def one_thread():
    """Tiny models are faster on one thread, above all where other processes want the cores, too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
