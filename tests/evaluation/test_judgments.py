# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Accuracy over votes, worked out by hand, and judgments that are never mixed up."""

import io
import json
import re

import matplotlib
import numpy as np
import pytest
import torch
from hand_made import collect_judgments, judged
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny_models import tiny_causal_lm, tiny_config, tiny_tokenizer
from transformers import pipeline

import trl_spct  # noqa: F401  registers the pipeline
from trl_spct import GRMRewardPipeline, MetaRMForSequenceClassification, Preference
from trl_spct.evaluation.benchmark_metrics import beats_all, judgebench_item, pick_credit, ties_score
from trl_spct.evaluation.benchmarks import BENCHMARKS, Item
from trl_spct.evaluation.diagnostics import diagnose, report_lines
from trl_spct.evaluation.judgments import (
    JUDGMENT_FEATURES,
    Judgment,
    PipelineJudge,
    credits_at,
    record_judgments,
    scaling_results,
    votes_at,
)
from trl_spct.evaluation.reports import plot_scaling, results_table
from trl_spct.evaluation.statistics import roc_auc
from trl_spct.judge import prompts
from trl_spct.judge.outcomes import credit
from trl_spct.judge.prompts import judge_template
from trl_spct.judge.sampling import EngineError, PromptTooLongError, Sample
from trl_spct.judge.voting import Guidance

pytestmark = pytest.mark.usefixtures("one_thread")


def at(results, k, guided=False):
    (found,) = [result for result in results if result["k"] == k and result["guided"] is guided]
    return found


# --- accuracy over votes ---

# The first response is the better one.
FIRST = judged((1, 0), ((8, 2), (3, 5), (4, 4), (6, 5)))
SECOND = judged((0, 1), ((5, 5), None, (9, 1), (2, 8)))


def test_disjoint_blocks_by_hand():
    assert credits_at(FIRST, 1) == [1.0, 0.0, 0.5, 1.0]
    assert credits_at(FIRST, 2) == [1.0, 1.0]  # (11, 7), (10, 9)
    assert credits_at(FIRST, 3) == [1.0]  # (15, 11); the fourth critique is left over
    assert credits_at(FIRST, 4) == [1.0]  # (21, 16)
    assert credits_at(SECOND, 1) == [0.5, 0.0, 0.0, 1.0]
    assert credits_at(SECOND, 2) == [0.5, 0.0]  # (5, 5) alone, (11, 9)
    results = scaling_results([FIRST, SECOND])
    assert [result["k"] for result in results] == [1, 2, 4]
    assert at(results, 1)["accuracy"] == pytest.approx((2.5 / 4 + 1.5 / 4) / 2)
    assert at(results, 2)["accuracy"] == pytest.approx((1 + 0.25) / 2)
    assert at(results, 4)["accuracy"] == pytest.approx((1 + 0) / 2)  # (16, 14)
    assert {result["unreadable"] for result in results} == {1 / 8}
    assert at(results, 1)["ties"] == 2 / 7  # of the votes that were cast
    assert at(results, 2)["ties"] == 1 / 4 and at(results, 4)["ties"] == 0
    assert all(result["n"] == 2 and 0 <= result["low"] <= result["accuracy"] <= result["high"] for result in results)


def test_ties_are_worth_their_share():
    three = judged((0, 1, 0), ((7, 7, 7), (7, 7, 1), (7, 1, 7)))
    assert credits_at(three, 1) == pytest.approx([1 / 3, 1 / 2, 0])


def test_majority_of_verdicts():
    right = judged((1,), ((1,), (0,), (1,), None))
    assert credits_at(right, 1) == [1, 0, 1, 0]
    assert credits_at(right, 2) == [0.5, 1]  # a split vote; one readable verdict decides alone
    assert credits_at(right, 4) == [1]
    wrong = judged((0,), ((1,), (1,), (0,), (0,)))
    assert credits_at(wrong, 4) == [0.5] and credits_at(wrong, 2) == [0, 1]
    assert scaling_results([wrong])[0]["ties"] == 0, "ties are counted among responses"


def test_guided_votes_by_hand():
    judgment = judged((0, 1), ((1, 5), (6, 5), None, (9, 1)), meta_scores=(1.0, 2.0, None, -3.0))
    assert credits_at(judgment, 4, Guidance()) == [1.0]  # the two best: (7, 10)
    assert credits_at(judgment, 4) == [0.0]  # (16, 11)
    assert credits_at(judgment, 2, Guidance()) == [0.0, 0.0]  # (6, 5); (9, 1), the only readable one
    results = scaling_results([judgment])
    assert {(result["k"], result["guided"]) for result in results} == {
        (k, g) for k in (1, 2, 4) for g in (False, True)
    }
    assert at(results, 1, True)["accuracy"] == at(results, 1)["accuracy"], "MetaRM@1 is Voting@1"
    assert (at(results, 4)["accuracy"], at(results, 4, True)["accuracy"]) == (0, 1)
    assert not any(result["guided"] for result in scaling_results([judgment], guided=False))
    assert all(result["guided"] for result in scaling_results([judgment], guided=True))


def test_no_guided_results_without_a_meta_rm():
    unreadable = judged((1, 0), (None, None), meta_scores=(None, None))
    for judgments in ([unreadable], [unreadable] * 3, [judged((1, 0), (None,))], [FIRST, SECOND]):
        assert not any(result["guided"] for result in scaling_results(judgments))
    scored = judged((1, 0), ((2, 1), None), meta_scores=(0.1, None))
    assert any(result["guided"] for result in scaling_results([scored, unreadable]))
    half = judged((1, 0), ((2, 1), (2, 1)), meta_scores=(0.1, None))
    assert not any(result["guided"] for result in scaling_results([scored, half])), "all readable ones, or none"
    with pytest.raises(ValueError, match="without a meta score"):
        scaling_results([half], guided=True)


def test_schema_of_results():
    (result,) = scaling_results([FIRST], ks=[4], stage="rft", temperature=0.5, seed=3)
    assert result == {
        "stage": "rft", "temperature": 0.5, "k": 4, "guided": False, "accuracy": 1.0, "low": 1.0, "high": 1.0, "n": 1,
        "unreadable": 0.0, "voted": 1.0, "ties": 0.0, "seed": 3,
    }  # fmt: skip
    assert json.loads(json.dumps([result])) == [result]


def test_results_repeat():
    judgments = [FIRST, SECOND] * 5
    assert scaling_results(judgments, seed=1) == scaling_results(judgments, seed=1)
    assert scaling_results(judgments, seed=1)[0]["low"] != scaling_results(judgments * 2, seed=1)[0]["low"]


@pytest.mark.parametrize(("ks", "judgments"), [([8], [FIRST]), ([0], [FIRST]), ([-1, 2], [FIRST]), (None, [])])
def test_numbers_of_votes_that_cannot_be(ks, judgments):
    with pytest.raises(ValueError, match="Found"):
        scaling_results(judgments, ks=ks)


@given(
    st.lists(st.lists(st.floats(-30, 30), min_size=1, max_size=6), min_size=2, max_size=6),
    st.sampled_from([Guidance(guide="soft"), Guidance(), Guidance(1), None]),
    st.integers(1, 10),
)
@settings(deadline=None)
def test_equal_scores_have_equal_means_whatever_they_weigh(rows, guidance, score):
    """Single responses with one score: the ranking ties, and the area under the curve is one half."""
    votes = [
        votes_at(judged((i % 2,), ((score,),) * len(metas), metas), len(metas), guidance)[0]
        for i, metas in enumerate(rows)
    ]
    assert {value for (value,) in votes} == {score}
    assert roc_auc([value for (value,) in votes], [i % 2 for i in range(len(votes))]) == 0.5


@given(
    st.lists(st.tuples(st.integers(1, 8), st.floats(-30, 30)), min_size=1, max_size=8),
    st.sampled_from([Guidance(guide="soft"), Guidance(), Guidance(1), None]),
    st.integers(1, 2),
)
@settings(deadline=None)
def test_exact_ties_are_ties_in_every_metric(critiques, guidance, lead):
    """Responses that all critiques score alike tie, and gaps that they see alike are equal, at any weights."""
    metas = [meta for _, meta in critiques]

    def vote(*leads):
        judgment = judged((1,) * len(leads), [[score + n for n in leads] for score, _ in critiques], metas)
        return votes_at(judgment, len(critiques), guidance)[0]

    tied, pair = vote(0, 0, 0), vote(0, 0)
    assert credit(pair, (1, 0)) == 0.5 and pick_credit(tied, (0, 1, 1)) == pytest.approx(2 / 3)
    assert beats_all(pair, (1, 0)) == 0 and judgebench_item([pair, pair], [(1, 0), (0, 1)]) == 0
    # The worst right answer leads the best wrong one as far as right answers lie apart: no gap exceeds the spread.
    item = Item("1", "Ties", (), ((1, 0), (1, 1, 0)))
    unit = BENCHMARKS["rewardbench-2"].metric.unit(item, [vote(lead, 0), vote(2 * lead, lead, 0)])
    assert unit == (1, 1, lead, lead, lead) and ties_score(np.array([unit])) == pytest.approx(0.6)


# --- collecting ---

ROWS = [
    {"query": f"Question {i}?", "responses": ["worth 3", "worth 9"], "labels": [i % 2, 1 - i % 2]} for i in range(7)
] + [{"prompt": "Is it?", "completion": "worth 1", "label": True}]


def make(seed=0, **kwargs):
    model = tiny_causal_lm("llama", seed=seed)
    return pipeline("grm-reward", model=model, tokenizer=tiny_tokenizer(), **kwargs)


@pytest.fixture
def script(monkeypatch):
    """A judge that writes the worth of each response; the fifth question is one too many when told so."""

    def sampler(model, tokenizer, prompts, k, seed, **options):
        sampler.prompts += len(prompts)
        sampler.most = max(sampler.most, sum(k))
        sampler.options = options
        texts = [messages[0]["content"] for messages in prompts]
        if sampler.dies and any("Question 5?" in text for text in texts):
            raise KeyboardInterrupt
        boxes = [", ".join(re.findall(r"\nworth (\d+)\n", text)) for text in texts]
        return [[Sample(rf"\boxed{{{box}}}", 9, False)] * count for box, count in zip(boxes, k, strict=True)]

    sampler.prompts, sampler.most, sampler.dies = 0, 0, False
    monkeypatch.setattr("trl_spct.judge.pipelines.sample_critiques", sampler)
    return sampler


def test_collected_judgments(tmp_path, script):
    judgments = collect_judgments(make(), ROWS, 4, tmp_path, rows_per_shard=3)
    assert len(judgments) == 8
    for i, judgment in enumerate(judgments[:7]):
        assert judgment.labels == (i % 2, 1 - i % 2)
        assert judgment.scores == ((3, 9),) * 4 and {critique.problem for critique in judgment.critiques} == {None}
        assert all(sorted(critique.order) == [0, 1] for critique in judgment.critiques)
        assert judgment.meta_scores == (None,) * 4 and not judgment.guidable
    assert judgments[7].scores == ((1,),) * 4 and judgments[7].labels == (1,), "a verdict on a single response"
    assert scaling_results(judgments)[0]["accuracy"] == (4 + 1) / 8
    again = collect_judgments(make(), [Preference.from_row(row) for row in ROWS], 4, tmp_path, rows_per_shard=3)
    assert again == judgments


def test_stored_columns_are_the_documented_ones(tmp_path, script):
    collect_judgments(make(), ROWS, 2, tmp_path)
    import pyarrow.parquet as pq

    (path,) = tmp_path.glob("*.parquet")
    table = pq.read_table(path)
    assert set(table.column_names) == set(JUDGMENT_FEATURES)
    assert Judgment.from_dict(table.to_pylist()[0]).scores == ((3, 9), (3, 9))
    assert table.to_pylist()[3]["row"] == 3 and [c["num_tokens"] for c in table.to_pylist()[0]["critiques"]] == [9, 9]


def test_unreadable_critiques_are_stored_as_such(tmp_path):
    judgments = collect_judgments(make(max_new_tokens=3, template="compact"), ROWS[:2], 4, tmp_path)
    for judgment in judgments:
        assert judgment.scores == (None,) * 4 and len(judgment.critiques) == 4
        assert {critique.problem for critique in judgment.critiques} <= {"truncated", "missing"}
    assert scaling_results(judgments)[0]["unreadable"] == 1.0
    assert [result["guided"] for result in scaling_results(judgments)] == [False] * 3


def test_a_killed_collection_resumes(tmp_path, script):
    script.dies = True
    with pytest.raises(KeyboardInterrupt):
        collect_judgments(make(), ROWS, 2, tmp_path, rows_per_shard=2, order="fixed")
    assert script.prompts == 6, "two shards, and the one that died"
    script.dies = False
    judgments = collect_judgments(make(), ROWS, 2, tmp_path, rows_per_shard=2, order="fixed")
    assert script.prompts == 6 + 4, "the first two shards are not judged again"
    assert collect_judgments(make(), ROWS, 2, tmp_path, rows_per_shard=2, order="fixed") == judgments
    assert script.prompts == 10
    assert collect_judgments(make(), ROWS, 2, tmp_path / "new", rows_per_shard=2, order="fixed") == judgments


def test_processes_share_the_rows(tmp_path, script):
    waited = []
    with pytest.raises(FileNotFoundError):
        collect_judgments(make(), ROWS, 2, tmp_path, rows_per_shard=2, process_index=1, num_processes=2)
    judgments = collect_judgments(
        make(), ROWS, 2, tmp_path, rows_per_shard=2, num_processes=2, wait=lambda: waited.append(1)
    )
    assert len(judgments) == 8 and waited == [1]


def meta_rm(seed=0):
    torch.manual_seed(seed)
    return MetaRMForSequenceClassification(tiny_config("gemma2")).eval()


def changed_rows():
    return [{**ROWS[0], "responses": ["worth 4", "worth 9"]}, *ROWS[1:]]


@pytest.mark.parametrize(
    ("pipe", "rows", "k", "parameters", "named"),
    [
        ({}, ROWS, 3, {}, "k: 2 there, 3 now"),
        ({}, ROWS, 2, {"seed": 1}, "seed: 0 there, 1 now"),
        ({}, ROWS, 2, {"temperature": 1.0}, "temperature: 0.7 there, 1.0 now"),
        ({"temperature": 0.1}, ROWS, 2, {}, "temperature: 0.7 there, 0.1 now"),
        ({}, ROWS, 2, {"template": "compact"}, "template: None there, 'compact' now"),
        ({}, changed_rows(), 2, {}, "data: "),
        ({}, ROWS[:-1], 2, {}, "rows: 8 there, 7 now"),
        ({"seed": 1}, ROWS, 2, {}, "model_weights: "),
        ({"meta_rm": 0}, ROWS, 2, {}, "meta_rm_weights: None there"),
    ],
    ids=["k", "seed", "temperature", "preset", "template", "data", "rows", "weights", "meta"],
)
def test_other_settings_are_refused(pipe, rows, k, parameters, named, tmp_path, script):
    def judge(options):
        options = {"temperature": 0.7, **options}
        if "meta_rm" in options:
            options["meta_rm"] = meta_rm(options["meta_rm"])
        seed = options.pop("seed", 0)
        return make(seed=seed, **options)

    collect_judgments(judge({}), ROWS, 2, tmp_path)
    before = script.prompts
    with pytest.raises(FileExistsError, match=re.escape(named)) as caught:
        collect_judgments(judge(pipe), rows, k, tmp_path, **parameters)
    assert script.prompts == before
    differing = re.search(r"\((.*)\)", str(caught.value), re.DOTALL)[1].split("; ")
    assert len(differing) <= 2, differing


def test_a_changed_template_file_or_length_is_refused(tmp_path, script, monkeypatch):
    """Their names stay the same. A process reads a file once, hence the emptied cache."""
    monkeypatch.setattr(prompts, "TEMPLATES", dict(prompts.TEMPLATES))
    template = tmp_path / "judge.txt"
    text = "{conversation}\n\n{responses}\n\nScores: \\boxed{scores}\n"

    def collect(text, judge):
        template.write_text(text)
        prompts._file_text.cache_clear()
        collect_judgments(judge, ROWS, 2, tmp_path / "out", template=str(template))

    collect(text, make())
    with pytest.raises(FileExistsError, match="template_digest: "):
        collect(f"Judge. {text}", make())
    other = make()
    other.model.generation_config.max_new_tokens = 17
    with pytest.raises(FileExistsError, match="max_new_tokens: [0-9]+ there, 17 now"):
        collect(text, other)


def test_settings_of_the_judges_config_count(tmp_path, script):
    collect_judgments(make(), ROWS, 2, tmp_path)
    other = make()
    other.model.config.grm = {"template": "compact"}
    with pytest.raises(FileExistsError, match="grm: None there, {'template': 'compact'} now"):
        collect_judgments(other, ROWS, 2, tmp_path)


def test_variables_of_the_chat_template_are_part_of_the_run(tmp_path, script):
    """Those of a call, of the judge's config, and of an engine that renders its prompts itself."""
    thinking, other = {"enable_thinking": False}, {"enable_thinking": True}

    def engine(prompts, k, seed, **options):
        return [[Sample(r"\boxed{3, 9}", 5, False)] * count for count in k]

    engine.chat_template_kwargs = thinking
    judges = [PipelineJudge(make(), 2, chat_template_kwargs=thinking), PipelineJudge(GRMRewardPipeline(engine), 2)]
    for number, judge in enumerate(judges):
        assert judge.protocol["chat_template_kwargs"] == judge.settings["chat_template_kwargs"] == thinking
        record_judgments(judge, [Preference.from_row(ROWS[0])], tmp_path / str(number))
    assert PipelineJudge(make(), 2).protocol["chat_template_kwargs"] is None
    changed = PipelineJudge(make(), 2, chat_template_kwargs=other)
    with pytest.raises(FileExistsError, match="chat_template_kwargs"):
        record_judgments(changed, [Preference.from_row(ROWS[0])], tmp_path / "0")


def test_presets_of_the_pipeline_hold(tmp_path, script):
    collect_judgments(make(temperature=0.9, top_p=0.8), ROWS[:1], 2, tmp_path)
    assert (script.options["temperature"], script.options["top_p"]) == (0.9, 0.8)
    settings = json.loads((tmp_path / "manifest.json").read_text())
    assert settings["temperature"] == 0.9 and settings["top_p"] == 0.8 and settings["seed"] == 0


def test_batches_are_bounded_and_do_not_matter(tmp_path, script):
    rows = ROWS[:7] * 10
    judgments = collect_judgments(make(), rows, 16, tmp_path / "a")
    assert 200 < script.most <= 256, "critiques decoded at once, however many rows a shard has"
    script.most = 0
    assert collect_judgments(make(), rows, 16, tmp_path / "b", batch_size=2) == judgments
    assert script.most == 32
    assert collect_judgments(make(), rows, 16, tmp_path / "b", batch_size=3) == judgments


@pytest.mark.parametrize("options", [{"early_stopping": "exact"}, {"max_responses_per_prompt": 2}])
def test_what_leaves_critiques_out_is_refused(options):
    with pytest.raises(ValueError, match="every number of votes is read from k critiques of each whole row"):
        PipelineJudge(make(), 4, **options)
    with pytest.raises(ValueError, match="expected none"):
        PipelineJudge(make(**options), 4)


def test_the_protocol_of_a_judge():
    model = make(meta_rm=meta_rm(), template="compact")
    protocol = PipelineJudge(model, 4, temperature=0.7, max_new_tokens=9, seed=3).protocol
    assert protocol["template"] == "compact" and protocol["template_digest"] == judge_template("compact").digest
    assert (protocol["k"], protocol["temperature"], protocol["max_new_tokens"], protocol["seed"]) == (4, 0.7, 9, 3)
    assert protocol["guidance"] == "top 50 %" and protocol["engine"] == "transformers"
    assert "trl_spct" in protocol["versions"] and "torch" in protocol["versions"]
    assert {"revision", "meta_rm", "meta_rm_revision", "truncation", "order", "binary", "context"} <= set(protocol)
    assert json.loads(json.dumps(protocol)) == protocol


def test_a_row_that_is_too_long_is_named(tmp_path):
    rows = [{**ROWS[0], "query": "?" * (9000 if i == 3 else 1)} for i in range(5)]
    with pytest.raises(PromptTooLongError, match=r"Row 3: the prompt has") as caught:
        collect_judgments(make(max_new_tokens=3, template="compact"), rows, 1, tmp_path, rows_per_shard=2)
    assert caught.value.row == 3 and "truncation='fair'" in str(caught.value)
    assert not list(tmp_path.glob("*.parquet")), "before any row is judged"


def test_cut_rows_are_counted(tmp_path):
    rows = [{**ROWS[0], "responses": ["word " * (3000 if i == 3 else 1), "worth 9"]} for i in range(5)]
    judge = make(max_new_tokens=3, template="compact", truncation="fair")
    judgments = collect_judgments(judge, rows, 1, tmp_path)
    assert [judgment.truncated for judgment in judgments] == [False, False, False, True, False]
    report = diagnose(judgments)
    assert report["truncated"] == 1
    assert "1 rows cut to fit into the judge's context" in report_lines(report)[0]


def test_an_engine_judges(tmp_path):
    def engine(prompts, k, seed, **options):
        return [[Sample(r"\boxed{3, 9}", 5, False)] * count for count in k]

    judge = PipelineJudge(GRMRewardPipeline(engine), 2)
    assert judge.protocol["engine"] == "function" and judge.protocol["dtype"] is None
    rows = [Preference.from_row(row) for row in ROWS[:2]]
    judgments = record_judgments(judge, rows, tmp_path, ids=["a", "b"])
    assert [judgment.id for judgment in judgments] == ["a", "b"]
    assert [critique.num_tokens for critique in judgments[0].critiques] == [5, 5]
    assert len(judgments[0].scores) == 2


def test_a_row_that_a_server_fails_on_is_named_by_its_id(tmp_path):
    def engine(prompts, k, seed, **options):
        for number, messages in enumerate(prompts):
            if "Question 4?" in messages[0]["content"]:
                raise EngineError("HTTP 400: content_filter.", row=number, status=400)
        return [[Sample(r"\boxed{3, 9}", 5, False)] * count for count in k]

    rows = [Preference.from_row(row) for row in ROWS[:7]]
    judge = PipelineJudge(GRMRewardPipeline(engine), 2)
    ids = [f"item {i}" for i in range(7)]
    with pytest.raises(EngineError, match=r"^Row item 4: .*content_filter") as caught:
        record_judgments(judge, rows, tmp_path, ids=ids, rows_per_shard=3)
    assert (caught.value.row, caught.value.status) == ("item 4", 400)
    assert len(list(tmp_path.glob("shard-*.parquet"))) == 1, "the shard before it is kept"


def test_guided_judgments(tmp_path, script):
    judge = make(meta_rm=meta_rm(), template="compact")
    judgments = collect_judgments(judge, ROWS[:3], 2, tmp_path)
    assert all(judgment.guidable and len(judgment.meta_scores) == 2 for judgment in judgments)
    assert {result["guided"] for result in scaling_results(judgments)} == {False, True}
    plain = make(meta_rm=meta_rm(), template="compact")
    plain.meta_rm.config.meta_rm = {"k_meta": 1.0}
    assert plain(ROWS[0], k=2)["critiques"][0]["meta_score"] is None, "plain voting needs none"
    judgments = collect_judgments(plain, ROWS[:3], 2, tmp_path / "plain")
    assert all(judgment.guidable for judgment in judgments), "an evaluation compares ways to guide"


def test_rows_that_cannot_be_compared(tmp_path, script):
    rows = [Preference("q", ["worth 1", "worth 2"], labels) for labels in ([1, 0], None)]
    with pytest.raises(ValueError, match="Row 1 has no labels"):
        collect_judgments(make(), rows, 2, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_no_rows(tmp_path, script):
    assert collect_judgments(make(), [], 2, tmp_path) == []


def test_orders_are_balanced_within_each_block(tmp_path, script):
    """Blocks of few critiques see both orders, else a position bias would not cancel out."""
    rows = [{**ROWS[0], "query": f"{i}?"} for i in range(40)]
    judgments = collect_judgments(make(), rows, 8, tmp_path)
    blocks = [judgment.critiques[first : first + 4] for judgment in judgments for first in (0, 4)]
    same = sum(len({critique.order for critique in block}) == 1 for block in blocks)
    assert same < 25, "1/8 of 80 blocks on average, if orders are drawn independently"


# --- showing ---

RESULTS = [
    {**result, "stage": stage, "temperature": 0.5}
    for stage in ("rft", "spct")
    for result in scaling_results(
        [judged((1, 0), ((8, 2), (3, 5), (4, 4), (6, 5)), (0.1, 0.2, 0.3, 0.4))] * 3 + [SECOND], guided=False
    )
    + scaling_results([judged((1, 0), ((8, 2), (3, 5), (4, 4), (6, 5)), (0.1, 0.2, 0.3, 0.4))], guided=True)
]
GREEDY = {**scaling_results([FIRST], ks=[1])[0], "stage": "rft", "temperature": 0.0}


@pytest.mark.parametrize(
    "results", [RESULTS, [*RESULTS, GREEDY], [GREEDY], RESULTS[:1]], ids=["stages", "and greedy", "greedy", "one"]
)
def test_plot(results, tmp_path, recwarn):
    path = tmp_path / "scaling.png"
    plot_scaling(results, path, title="Votes")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 5000
    assert not [warning for warning in recwarn if "legend" in str(warning.message)]


def test_a_plot_leaves_the_users_backend_alone(tmp_path):
    before = matplotlib.get_backend()
    try:
        matplotlib.use("svg")
        plot_scaling(RESULTS, tmp_path / "plot.png")
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(before)


def test_table():
    table = results_table([*RESULTS, GREEDY], title="rows.jsonl")
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    assert table.row_count == len(RESULTS) + 1 and "rows.jsonl" in text
    assert "accuracy, all rows" in text and "with a vote" in text
    for word in ("greedy", "plain", "guided", "rft", "spct", "62.5", "100.0 – 100.0"):
        assert word in text, word
    results_table([{name: value for name, value in GREEDY.items() if name not in ("stage", "temperature")}])
