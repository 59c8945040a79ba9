# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""How a Meta RM guides: the table, the rule of choice, what is stored and what the pipeline does with it."""

import random

import pytest
import torch
from hand_made import judged
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny_models import save_tiny, tiny_causal_lm, tiny_config, tiny_tokenizer
from transformers import pipeline

import trl_spct  # noqa: F401  registers the pipeline
from trl_spct.evaluation.guidance import (
    CANDIDATES,
    PLAIN,
    choose_guidance,
    guidance_results_table,
    guidance_table,
    store_guidance,
)
from trl_spct.evaluation.judgments import scaling_results
from trl_spct.judge.modeling_meta_rm import MetaRMForSequenceClassification, native_config
from trl_spct.judge.voting import Guidance

pytestmark = pytest.mark.usefixtures("one_thread")

SOFT, HALF, QUARTER = Guidance(guide="soft"), Guidance(0.5), Guidance(0.25)
# Two right critiques of four; the Meta RM is sure of the first and of the third.
KNOWN = judged((1, 0), ((9, 5), (1, 8), (8, 6), (2, 9)), (5.0, -5.0, 4.0, -4.0))


def judgments(rows=40, k=8, right=0.45, insight=0.0, seed=0):
    """Critiques that are right with probability `right`; the Meta RM adds `insight` to noise where they are."""
    draw = random.Random(seed)
    made = []
    for _ in range(rows):
        correct = [draw.random() < right for _ in range(k)]
        scores = tuple((7, 4) if ok else (4, 7) for ok in correct)
        meta = tuple(insight * (1 if ok else -1) + draw.gauss(0, 1) for ok in correct)
        made.append(judged((1, 0), scores, meta))
    return made


def line(table, guidance, k):
    (found,) = (row for row in table if Guidance.of(row) == guidance and row["k"] == k)
    return found


def row_of(choice, guidance=None):
    return line(choice.table, guidance or choice.guidance, choice.k)


def test_the_table_by_hand():
    """All: (20, 28), wrong. The best two: (17, 11). The best one: (9, 5). In blocks of two, the first is guided right
    to (9, 5) and the second to (8, 6), while plain votes of (10, 13) and (10, 15) are wrong."""
    table = guidance_table([KNOWN], ks=[2, 4], candidates=[PLAIN, HALF, QUARTER, SOFT])
    assert [line(table, guidance, 4)["accuracy"] for guidance in (PLAIN, HALF, QUARTER, SOFT)] == [0, 1, 1, 1]
    assert [line(table, guidance, 2)["accuracy"] for guidance in (PLAIN, HALF, QUARTER, SOFT)] == [0, 1, 1, 1]
    assert [line(table, guidance, 4)["voters"] for guidance in (PLAIN, HALF, QUARTER)] == [4, 2, 1]
    assert 2 < line(table, SOFT, 4)["voters"] < 2.1, "two that count and two that hardly do"
    assert line(table, HALF, 4) | {"k": 0} == {
        "k": 0, "k_meta": 0.5, "guide": "top", "voters": 2, "accuracy": 1, "low": 1, "high": 1,
        "difference": 1, "difference_low": 1, "difference_high": 1, "n": 1,
    }  # fmt: skip
    assert line(table, PLAIN, 4)["difference"] == 0


def test_the_table_agrees_with_the_scaling_results():
    made = judgments(12, 8, insight=0.5)
    table = guidance_table(made, candidates=[PLAIN, HALF, SOFT], seed=3)
    for guidance in (HALF, SOFT):
        for result in scaling_results(made, ks=[2, 4, 8], guided=True, seed=3, guidance=guidance):
            found = line(table, guidance, result["k"])
            assert [found[name] for name in ("accuracy", "low", "high")] == [
                result[name] for name in ("accuracy", "low", "high")
            ]
    for result in scaling_results(made, ks=[2, 4, 8], guided=False, seed=3):
        assert line(table, PLAIN, result["k"])["accuracy"] == result["accuracy"]


def test_single_responses_are_a_weighted_majority():
    """One confident 0 outweighs two doubtful 1s under soft weights: .95 against .54."""
    verdicts = judged((0,), ((1,), (0,), (1,)), (-1.0, 3.0, -1.0))
    table = guidance_table([verdicts], ks=[3], candidates=[PLAIN, SOFT, Guidance(1)])
    assert [row["accuracy"] for row in table] == [0, 1, 1]
    split = judged((0,), ((1,), (0,)), (2.0, 2.0))
    assert guidance_table([split], candidates=[SOFT])[0]["accuracy"] == 0.5


def test_one_critique_is_the_same_whatever_guides():
    for row in guidance_table(judgments(10, 4), ks=[1]):
        assert (row["difference"], row["voters"]) == (0, 1)


def test_a_meta_rm_that_knows_is_followed():
    choice = choose_guidance(judgments(80, 16, right=0.4, insight=2.0))
    assert choice.k == 16 and choice.guidance in {HALF, QUARTER, Guidance(0.125)}
    assert row_of(choice)["accuracy"] > row_of(choice, PLAIN)["accuracy"] + 0.2
    assert row_of(choice)["difference_low"] > 0


@pytest.mark.parametrize("insight", [0.0, -1.0])
def test_a_meta_rm_that_knows_nothing_or_is_wrong_leaves_the_vote_plain(insight):
    for seed in range(3):
        assert choose_guidance(judgments(60, 16, right=0.7, insight=insight, seed=seed)).guidance == PLAIN


def test_where_all_are_alike_all_vote():
    certain = [judged((1, 0), ((9, 1),) * 4, (0.0, 1.0, 2.0, 3.0))] * 5
    for candidates in (CANDIDATES, CANDIDATES[::-1]):
        assert choose_guidance(certain, candidates=candidates).guidance == PLAIN
    without_plain = choose_guidance(certain, candidates=[QUARTER, HALF])
    assert without_plain.guidance == HALF


def test_the_choice_is_made_at_one_k():
    made = judgments(60, 16, right=0.4, insight=2.0)
    choice = choose_guidance(made, ks=[2, 4], k=4)
    assert choice.k == 4 and {row["k"] for row in choice.table} == {2, 4}
    with pytest.raises(ValueError, match=r"k=8; expected one of .*\[2, 4\]"):
        choose_guidance(made, ks=[2, 4], k=8)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.2, 0.9), st.floats(-1, 2))
@example(103, 0.5, 0.0)
def test_the_chosen_one_is_never_significantly_worse_than_another(seed, right, insight):
    choice = choose_guidance(judgments(20, 8, right, insight, seed), ks=[8], seed=seed)
    chosen = row_of(choice)
    for row in choice.table:
        assert row["voters"] <= chosen["voters"] or row["accuracy"] < max(r["accuracy"] for r in choice.table)
    if chosen["accuracy"] < row_of(choice, PLAIN)["accuracy"]:
        assert chosen["voters"] == 8


def test_unreadable_critiques_have_no_say():
    broken = judged((1, 0), (None, (9, 5), None, (1, 8)), (None, 1.0, 99.0, -1.0))
    table = guidance_table([broken], ks=[4], candidates=[Guidance(1), SOFT])
    assert [row["accuracy"] for row in table] == [1, 1]
    none = judged((1, 0), (None,) * 4, (None,) * 4)
    assert guidance_table([none], ks=[4], candidates=[SOFT])[0]["voters"] == 0
    assert guidance_table([none], ks=[4], candidates=[SOFT])[0]["accuracy"] == 0


def test_what_cannot_be_chosen_from():
    with pytest.raises(ValueError, match="no judgments"):
        choose_guidance([])
    with pytest.raises(ValueError, match="Row 1: found readable critiques without a meta score"):
        choose_guidance([KNOWN, judged((1, 0), ((9, 5), (1, 8)), (1.0, None))])
    with pytest.raises(ValueError, match="Row 0: found readable"):
        guidance_table([judged((1, 0), ((9, 5), (1, 8)))])
    with pytest.raises(ValueError, match=r"ks=\[8\] with 4 critiques"):
        guidance_table([KNOWN], ks=[8])
    with pytest.raises(ValueError, match="1 critique per row"):
        choose_guidance([judged((1, 0), ((9, 5),), (1.0,))])
    with pytest.raises(ValueError, match="no candidates"):
        choose_guidance([KNOWN], candidates=[])


def test_names_and_the_printed_table():
    names = [str(guidance) for guidance in (PLAIN, SOFT, HALF, Guidance(), Guidance(8), Guidance(0.875))]
    assert names == ["plain", "soft", "top 50 %", "top 50 %", "top 8", "top 87.5 %"]
    console = Console(record=True, width=120, quiet=False, file=open("/dev/null", "w"))
    console.print(guidance_results_table(choose_guidance([KNOWN, KNOWN], candidates=[PLAIN, HALF]), "choice"))
    text = console.export_text()
    assert "top 50 % *" in text and "+100.0" in text and "plain *" not in text


# --- stored with the Meta RM, used by the pipeline ---


def tiny_meta(initializer_range=0.3, **entry):
    torch.manual_seed(0)
    config = native_config(tiny_config("llama", initializer_range=initializer_range), entry)
    return MetaRMForSequenceClassification(config).eval()


def test_stored_guidance_is_saved_and_replaced(tmp_path):
    model = tiny_meta(k_meta=3, template="0123456789ab")
    store_guidance(model, SOFT)
    assert model.config.meta_rm == {"guide": "soft", "template": "0123456789ab"}
    store_guidance(model, Guidance(0.75))
    model.save_pretrained(tmp_path)
    reloaded = MetaRMForSequenceClassification.from_pretrained(tmp_path)
    assert Guidance.of(reloaded.config.meta_rm) == Guidance(0.75)
    assert reloaded.config.meta_rm["template"] == "0123456789ab"


ROW = {"query": "Name a prime.", "responses": ["4", "7"]}


def judge_with(monkeypatch, meta_rm, logits, scores):
    """A pipeline whose k critiques have the given scores and meta scores, in order."""
    from trl_spct.judge.sampling import Sample

    texts = [rf"{j}: \boxed{{{a}, {b}}}" for j, (a, b) in enumerate(scores)]
    by_text = dict(zip(texts, logits, strict=True))
    monkeypatch.setattr(
        "trl_spct.judge.pipelines.sample_critiques",
        lambda model, tokenizer, prompts, k, seed, **options: [[Sample(t, 5, False) for t in texts]],
    )
    monkeypatch.setattr(
        "trl_spct.judge.pipelines.meta_scores",
        lambda model, tokenizer, conversations, *rest, **options: [by_text[c[1]["content"]] for c in conversations],
    )
    model = tiny_causal_lm("llama")
    return pipeline("grm-reward", model=model, tokenizer=tiny_tokenizer(), meta_rm=meta_rm)


def test_the_pipeline_follows_what_is_stored(monkeypatch):
    meta_rm = tiny_meta()
    pipe = judge_with(monkeypatch, meta_rm, [0.0, 2.0, -2.0, 1.0], [(1, 5), (5, 6), (4, 8), (7, 6)])
    judged = {"k": 4, "order": "fixed", "seed": 0}
    assert pipe.guidance == Guidance()
    assert pipe(ROW, **judged)["scores"] == [12, 12]
    store_guidance(meta_rm, Guidance(0.75))
    verdict = pipe(ROW, **judged)
    assert (verdict["scores"], verdict["votes"]) == ([13, 17], 3)
    store_guidance(meta_rm, SOFT)
    verdict = pipe(ROW, **judged)
    p = [1 / (1 + 2.718281828459045**-x) for x in (0.0, 2.0, -2.0, 1.0)]
    assert verdict["scores"] == pytest.approx(
        [p[0] + 5 * p[1] + 4 * p[2] + 7 * p[3], 5 * p[0] + 6 * p[1] + 8 * p[2] + 6 * p[3]]
    )
    assert verdict["votes"] == 4 and verdict["best"] == 1
    assert pipe(ROW, **judged, k_meta=1)["scores"] == [5, 6]
    assert pipe(ROW, **judged, k_meta=1.0)["scores"] == [17, 25]
    assert pipe(ROW, **judged, guide="top")["votes"] == 2


def test_the_pipeline_refuses_contradictions_before_it_samples():
    pipe = pipeline(
        "grm-reward", model=tiny_causal_lm("llama"), tokenizer=tiny_tokenizer(), meta_rm=tiny_meta(), k_meta=2
    )
    pipe.model = None  # nothing may be sampled
    for asked, message in (
        ({"guide": "best"}, "guide='best'"),
        ({"k_meta": 1.5}, "k_meta=1.5"),
        ({"guide": "soft"}, "k_meta=2 with guide='soft'"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(ROW, k=4, **asked)


def test_a_meta_rm_by_path_brings_its_guidance(tmp_path):
    model = tiny_meta()
    store_guidance(model, Guidance(0.25))
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    judge = save_tiny(tmp_path / "judge", "llama")
    assert pipeline("grm-reward", model=judge, meta_rm=str(tmp_path)).guidance == Guidance(0.25)
    assert pipeline("grm-reward", model=judge, meta_rm=str(tmp_path), guide="soft").guidance == SOFT
    assert pipeline("grm-reward", model=judge).guidance is None
