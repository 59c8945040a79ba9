# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Results of an evaluation in the card of the judge."""

import json

import pytest
from huggingface_hub import ModelCard, ModelCardData
from test_reports import result

from trl_spct import packaged
from trl_spct.cards import PAPER
from trl_spct.evaluation.reports import with_blocks, write_results


DIAGNOSIS = {
    "rows": 100,
    "critiques": 800,
    "unreadable": 0.01,
    "problems": {"missing": 8},
    "places": {
        "0": {"accuracy": 0.8, "low": 0.71, "high": 0.89, "critiques": 400},
        "1": {"accuracy": 0.6, "low": 0.51, "high": 0.69, "critiques": 400},
    },
}


def evaluation(folder, benchmark="rmb", accuracy=0.7, k=8):
    """What the evaluation script leaves of one benchmark."""
    folder.mkdir()
    results = [result("judge", benchmark, accuracy, k=votes) for votes in (1, k)]
    results.append(result("longest", benchmark, 0.5, baseline=True))
    protocol = {"seed": 3, "template": "paper", "template_digest": "abc", "revision": None, "max_new_tokens": 64}
    report = {
        "judge": "judge",
        "items": {benchmark: {"benchmark": benchmark, "digest": "d1"}},
        "protocol": {benchmark: protocol},
        "diagnosis": {benchmark: DIAGNOSIS},
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def judge(tmp_path):
    folder = tmp_path / "judge"
    folder.mkdir()
    card = ModelCard.from_template(
        ModelCardData(base_model="someone/base", license="mit", tags=["spct"]),
        template_path=str(packaged("model_cards") / "judge.md"),
        model_name="judge",
        repository="me/judge",
        base_model="base",
        method="SPCT",
        template="paper",
        paper=PAPER,
    )
    card.save(folder / "README.md")
    return folder


def test_results_stand_in_the_card_and_in_its_index(judge, tmp_path):
    assert write_results(judge, evaluation(tmp_path / "out"))
    card = ModelCard.load(judge / "README.md")
    assert "Not evaluated yet" not in card.text
    block = card.text[card.text.index("## Results") : card.text.index("## Limits")]
    assert "| judge | plain | 8 | 70.0 (67.0–74.0) |" in block and "| longest | – | 1 | 50.0" in block
    assert "- seed: `3`" in block and "- template_digest: `abc`" in block and "- revision" not in block
    assert "80.0 (71.0–89.0) / 60.0 (51.0–69.0)" in block, "accuracy by place"
    assert "](scaling-rmb.png)" in block and (judge / "scaling-rmb.png").read_bytes().startswith(b"\x89PNG")
    (entry,) = card.data.eval_results
    assert (entry.dataset_name, entry.metric_value, entry.metric_name) == ("rmb", 70.0, "accuracy, Voting@8")
    assert entry.metric_args["seed"] == 3 and "95 % interval" in entry.metric_args["interval"]
    assert card.data.license == "mit" and card.data.base_model == "someone/base" and card.data.tags == ["spct"]


def test_writing_twice_is_writing_once_and_edits_stay(judge, tmp_path):
    path = judge / "README.md"
    text = path.read_text().replace("## Limits\n", "## Limits\n\nMy own words \\1 \\g<0>.\n")
    text = text.replace("license: mit", "license: mit\nlanguage: de\nmine: [1, 2]")
    path.write_text(text)
    found = evaluation(tmp_path / "out")
    write_results(judge, found)
    once = path.read_text()
    write_results(judge, found)
    assert path.read_text() == once
    before, after = text.split("<!-- results: none yet -->")[0], once.split("<!-- results: rmb -->")[0]
    assert before.split("---\n", 2)[2] == after.split("---\n", 2)[2]
    assert once.endswith(text[text.index("## Limits") :]) and "My own words \\1 \\g<0>." in once
    assert "language: de" in once and ModelCard.load(path).data.to_dict()["mine"] == [1, 2]


def test_a_later_evaluation_replaces_its_own_benchmark_alone(judge, tmp_path):
    write_results(judge, evaluation(tmp_path / "first", accuracy=0.7))
    write_results(judge, evaluation(tmp_path / "second", "realmistake", accuracy=0.6))
    write_results(judge, evaluation(tmp_path / "third", accuracy=0.9, k=4))
    card = ModelCard.load(judge / "README.md")
    assert {entry.dataset_name: entry.metric_value for entry in card.data.eval_results} == {
        "realmistake": 60.0,
        "rmb": 90.0,
    }
    assert card.text.count("### rmb") == 1 and "70.0" not in card.text and "| 4 | 90.0" in card.text
    assert card.text.index("### rmb") < card.text.index("### realmistake") < card.text.index("## Limits")


def test_several_benchmarks_have_a_table_of_all(judge, tmp_path):
    first, second = evaluation(tmp_path / "a"), evaluation(tmp_path / "b", "realmistake")
    results, report = (json.loads((first / name).read_text()) for name in ("results.json", "report.json"))
    more, told = (json.loads((second / name).read_text()) for name in ("results.json", "report.json"))
    for name in ("items", "protocol", "diagnosis"):
        report[name] |= told[name]
    (first / "results.json").write_text(json.dumps(results + more))
    (first / "report.json").write_text(json.dumps(report))
    write_results(judge, first)
    text = ModelCard.load(judge / "README.md").text
    assert "| judge | vote | k | rmb | realmistake | mean |" in text
    assert text.count("### ") == 3


def test_a_judge_without_a_card_gets_none(tmp_path):
    (tmp_path / "base").mkdir()
    assert not write_results(tmp_path / "base", evaluation(tmp_path / "out"))
    assert not list((tmp_path / "base").iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Mine\n", "# Mine\n\n## Results\n\n{}"),
        ("# Mine\n\n## Limits\nx\n", "# Mine\n\n## Results\n\n{}\n## Limits\nx\n"),
        ("# Mine\n\n## Results\n\nSome.\n", "# Mine\n\n## Results\n\nSome.\n\n{}"),
    ],
)
def test_where_there_is_no_place_for_results_one_is_made(text, expected):
    block = "<!-- results: b -->\nnew\n<!-- /results: b -->\n"
    assert with_blocks(text, {"b": "new"}) == expected.format(block)


def test_a_block_whose_end_was_deleted_is_left_to_its_owner():
    text = "## Results\n\n<!-- results: b -->\nold\n\n## Limits\n"
    made = with_blocks(text, {"b": "new"})
    assert "old" in made and made.count("new") == 1
