# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The paper's shape on the tiny world, on 256 held-out rows and for three seeds. Half an hour on two cores."""

import os
import sys
from pathlib import Path

import pytest
from paths import TESTS

sys.path.insert(0, str(TESTS / "measurements"))

from tiny_world import SEEDS, STAGES, result, run_all, shuffling  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`TINY_WORLD` names a folder with finished runs of `tests/measurements/tiny_world.py`, if there is one."""
    return Path(os.environ.get("TINY_WORLD") or tmp_path_factory.mktemp("tiny_world"))


@pytest.fixture(scope="module")
def found(folder):
    return run_all(folder)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_stage_is_better_than_the_one_before(found, seed):
    results, _ = found[str(seed)]
    for k in (1, 8, 32):
        base, rft, spct = (result(results, stage, k)["accuracy"] for stage in STAGES)
        assert base < rft < spct
    assert result(results, "base", 1)["n"] == 256
    assert result(results, "base", 1)["high"] < result(results, "rft", 1)["low"]
    assert result(results, "rft", 1)["high"] < result(results, "spct", 1)["low"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stage", STAGES)
def test_more_votes_are_better(found, seed, stage):
    results, _ = found[str(seed)]
    one, eight, most = (result(results, stage, k)["accuracy"] for k in (1, 8, 32))
    assert one < eight <= most


def gained(found, seed, stage):
    """What the guidance that was chosen for a judge gains over plain voting at k = 32: (points, low, high)."""
    line = found[str(seed)][1][stage]["guided"]["chosen"]
    return line["difference"], line["difference_low"], line["difference_high"]


def test_a_meta_rm_clearly_helps_most_base_judges(found):
    """Where no guidance was visibly better on the rows that choose, plain voting is stored: that gains nothing."""
    assert sum(gained(found, seed, "base")[1] > 0 for seed in SEEDS) >= 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_meta_rm_never_hurts(found, seed, stage):
    """On rows that did not choose how it guides; a hundredth of them is noise."""
    plain, guided = (result(found[str(seed)][0], stage, 32, guided=mode) for mode in (False, True))
    assert guided["accuracy"] >= plain["accuracy"] - 0.01
    assert gained(found, seed, stage)[2] >= 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stage", STAGES)
def test_principles_are_load_bearing_before_and_after_training(found, seed, stage):
    report = found[str(seed)][1][stage]
    assert report["accuracy_with_wanted_principle"] > 0.8
    if report["names_the_wanted_principle"] < 1:
        assert report["accuracy_with_another_principle"] < 0.3
    assert report["accuracy_given_the_wanted_principle"] > 0.8
    assert report["accuracy_given_the_unwanted_principle"] < 0.3


@pytest.mark.parametrize("stage", STAGES)
def test_a_judge_without_principles_does_worse(found, stage):
    for k in (1, 8, 32):
        assert result(found["no principles"][0], stage, k)["high"] < result(found["0"][0], stage, k)["low"]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_base_judge_prefers_the_first_place(found, seed):
    places = found[str(seed)][1]["base"]["accuracy_by_place_of_the_best"]
    assert all(places["0"]["accuracy"] > places[place]["accuracy"] + 0.05 for place in ("1", "2", "3"))


def test_shuffling_is_worth_something(found, folder):
    """Over the rows of all seeds, on average; the interval of 768 rows reaches 0."""
    assert shuffling(folder)["all rows"][0] > 0.01
