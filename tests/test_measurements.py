# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Measurements that need what this machine may lack run here in small."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hand_made import judged
from paths import TESTS

from trl_spct import SPCTConfig


@pytest.fixture
def paper_grid(monkeypatch):
    monkeypatch.syspath_prepend(TESTS / "measurements")
    import paper_grid

    return paper_grid


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(TESTS / "measurements")
    import ablations

    return ablations


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


def test_the_paper_grid_by_hand(paper_grid):
    """Two rows with two responses, of which the GRM judges one right by half of its votes, and two single ones."""
    single = [judged((label,), [(label,)] * 4, (0.0,) * 4) for label in (1, 0)]
    grm = [judged((1, 0), [(7, 3)] * 4, (0.0,) * 4), *single]
    grm.insert(1, judged((0, 1), [(9, 2), (2, 9), (1, 9), None], (0.0, 2.0, 1.0, 3.0)))
    written = [judged((1, 0), [(1.5, 2)] * 4), judged((0, 1), [(0, 1)] * 4), *single]
    silent = [judged((1, 0), [(1, 0)]), judged((0, 1), [(1, 0)]), None, None]
    found = {"scalar": silent, "semi-scalar": written, paper_grid.REFERENCE: grm}
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in paper_grid.table(found, 4)[2:]}
    assert [lines[name][1].split(" ")[0] for name in lines] == ["50.0", "50.0", "75.0", "75.0"]
    assert lines["scalar"][2:4] == ["does not scale"] * 2 and lines["scalar"][7] == "–"
    assert lines["GRM"][4] == "–" and lines["GRM"][5:7] == ["5", "100.0 (4)"], "the sum 12 to 20 wins"
    assert lines["semi-scalar"][4].startswith("-50.0 (") and lines["GRM"][7] == "1.000"
    assert lines["GRM"][8] == "6.2 % |"


@pytest.mark.slow
def test_the_paper_grid_of_a_small_run(paper_grid, tiny_job, tiny_run, tmp_path):
    folder = tiny_run / "outputs" / "tiny"
    found = paper_grid.judged(folder, 3, tmp_path, votes=4)
    rows = tiny_job.ROWS["held_out"]
    assert {len(judgments) for judgments in found.values()} == {rows} and len(found) == 7
    several = [len(j.labels) > 1 for j in found["GRM"]]
    for name, scored in {"pairwise": several, "TokenProb": several, "semi-scalar": [True] * rows}.items():
        assert [judgment is not None for judgment in found[name]] == scored
    choices = zip(found["LLM-as-a-Judge"], found["TokenProb"], strict=True)
    for plain, weighted in (pair for pair in choices if pair[0] is not None):
        for one, other in zip(plain.scores, weighted.scores, strict=True):
            assert (one is None) == (other is None), "of the same samples"
            assert one is None or (one.index(max(one)) == other.index(max(other)) and 0 < max(other) <= 1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    paper_grid.judged(folder, 3, tmp_path, votes=4)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(paper_grid.table(found, 4)) == 2 + 8 and "k = 2: " in paper_grid.token_prob_gain(found, 4)


def test_ablations_name_what_exists(ablations):
    """Each line starts from a judge that is made before it, and its options are those of its stage."""
    made = ["base"]
    for name, line in ablations.LINES.items():
        assert line.start in made and hasattr(ablations.Ablation, line.stage)
        known = {field.name for field in fields(SPCTConfig)} if line.stage == "spct" else {"keep", "general"}
        assert line.options.keys() <= known
        made.append(name)


def written(first, second, scores):
    """A judgment of two critiques with these texts."""
    judgment = judged((1, 0), scores)
    texts = zip(judgment.critiques, (first, second), strict=True)
    return replace(judgment, critiques=tuple(replace(critique, text=text) for critique, text in texts))


def test_ablations_by_hand(ablations):
    text = "Specific Criteria: on reflection, brief (weight 4).\nAnalysis: none."
    wrong, right = f"Specific Criteria: at a glance, warm (weight 3).\n{text[-15:]}", text
    assert ablations.criteria(right) == "Specific Criteria: on reflection, brief (weight 4).\n"
    assert ablations.criteria("Analysis: none.") is None
    judgment = written(wrong, right, [(3, 7), (7, 3)])
    assert ablations.right_criteria(judgment) == ablations.criteria(right)
    judgment = written(wrong, right, [(3, 7), (3, 3)])
    assert ablations.right_criteria(judgment) == ablations.criteria(wrong), "without a right one the first"
    assert ablations.cell([1.0, 0.0], None) == "50.0"
    assert ablations.cell([1.0, 1.0], [0.0, 0.0]) == "100.0, +100.0 (+100.0 to +100.0)"
    parts = [{"RFT": {"@1": [1.0, 0.0]}}, {"RFT": {"@1": [1.0]}}]
    assert ablations.pooled(parts) == {"RFT": {"@1": [1.0, 0.0, 1.0]}}
