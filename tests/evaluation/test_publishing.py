# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Results of an evaluation in the card of the judge."""

import json
import re

import pytest
from huggingface_hub import ModelCard, ModelCardData
from paths import RECIPES
from test_reports import result

from trl_spct import packaged
from trl_spct.cards import PAPER
from trl_spct.evaluation.benchmark_loading import LoadedBenchmark
from trl_spct.evaluation.benchmark_results import judge_benchmark
from trl_spct.evaluation.benchmarks import BENCHMARKS
from trl_spct.evaluation.judgments import Judge, Judgment
from trl_spct.evaluation.reports import with_blocks, write_results
from trl_spct.judge.critiques import Critique

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


# --- what leaderboards take ---


class Texts(Judge):
    """Scores `good` 9 and other texts 2; a row with `silent` has no vote."""

    settings = {"judge": "texts"}

    def __call__(self, rows, occurrences=None):
        scores = [tuple(9 if text == "good" else 2 for text in row.responses) for row in rows]
        return [
            Judgment((), (Critique("", None if "silent" in row.responses else s),)) for row, s in zip(rows, scores)
        ]


def test_the_documented_files_for_leaderboards(tmp_path, monkeypatch):
    text = (RECIPES / "EVALUATION.md").read_text(encoding="utf-8")
    code = re.search(r"## Submitting.*?```python\n(.*?)```", text, re.DOTALL)[1]
    benchmark = BENCHMARKS["judgebench-gpt"]
    rows = [("A>B", "good", "bad"), ("B>A", "bad", "good"), ("A>B", "bad", "silent"), ("B>A", "bad", "worse")]
    names = ("label", "response_A", "response_B")
    pairs = [{**dict(zip(names, row, strict=True)), "pair_id": str(i)} for i, row in enumerate(rows)]
    items = [benchmark.read(None, {**p, "question": "q?", "source": "livebench-math"}, 0) for p in pairs]
    loaded = LoadedBenchmark(benchmark, tuple(items), {})
    judge_benchmark(Texts(), loaded, tmp_path / "judgments" / "judgebench-gpt")
    values = {"Chat": [0.8, 0, 1], "mt-bench-easy": [0.75, 0, 1]}
    entry = {"stage": "judge", "benchmark": "rewardbench", "values": values}
    worse = {**entry, "values": {"mt-bench-easy": [0.5, 0, 1]}}
    results = [{**entry, "k": 8}, {**worse, "k": 1}, {"stage": "judge", "benchmark": "judgebench-gpt", "values": {}}]
    (tmp_path / "results.json").write_text(json.dumps([*results, {**worse, "stage": "other", "k": 32}]))
    monkeypatch.setattr("trl_spct.evaluation.benchmark_loading.load_benchmark", lambda name: loaded)
    exec(compile(code.replace("judge-results", str(tmp_path)), "EVALUATION.md", "exec"), {})
    assert json.loads((tmp_path / "rewardbench.json").read_text()) == {
        "model": "me/judge", "model_type": "Generative RM", "chat_template": None, "mt-bench-easy": 0.75
    }  # fmt: skip
    assert not (tmp_path / "rewardbench-2.json").exists()
    lines = [json.loads(line) for line in (tmp_path / "judgebench-gpt.jsonl").read_text().splitlines()]
    decided = [[j and j["decision"] for j in line["judgments"]] for line in lines]
    assert decided == [["A>B", "B>A"], ["B>A", "A>B"], [None, None], ["A=B", "A=B"]], "each in the order it was read"
    assert [(line["pair_id"], line["label"]) for line in lines] == [(p["pair_id"], p["label"]) for p in pairs]
