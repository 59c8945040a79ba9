# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import pytest
from datasets import Dataset
from tiny_models import tiny_tokenizer

from trl_spct.data import prepare_judge_rows
from trl_spct.sampling import Sample
from trl_spct.signal import too_easy, without_too_easy


def prepared(labels=((0.0, 1.0), (1.0, 0.0), (0.0, 1.0), (1.0,))):
    rows = [
        {"query": f"q{i}", "responses": [f"{i}{j}" for j in range(len(row))], "labels": list(row)}
        for i, row in enumerate(labels)
    ]
    return prepare_judge_rows(
        Dataset.from_list(rows), tiny_tokenizer(), template="compact", shuffle_responses=False
    ).dataset


def drawing(texts):
    def sampler(prompts, k, seed):
        assert len(prompts) == len(texts)
        return [[Sample(text, 5, "…" in text) for text in row] for row in texts]

    return sampler


RIGHT, WRONG, CUT = "\\boxed{2, 9}", "\\boxed{9, 2}", "\\boxed{2, 9} …"
TEXTS = [[RIGHT, RIGHT], [RIGHT, RIGHT], [RIGHT, CUT], ["\\boxed{1}", "\\boxed{1}"]]


def test_rows_that_are_right_every_time_are_removed():
    kept = without_too_easy(prepared(), drawing(TEXTS), k=2, template="compact")
    assert kept["query"] == ["q1", "q2"]


def test_the_rule_by_hand():
    drawn = drawing(TEXTS)([None] * 4, 2, 0)
    assert too_easy(drawn, [(0.0, 1.0), (1.0, 0.0), (0.0, 1.0), (1.0,)], "compact") == {0, 3}
    assert too_easy(drawn[:1], [(1.0, 0.0)], "compact") == set()


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="all 1 rows are judged correctly 3 of 3 times"):
        without_too_easy(prepared(((0.0, 1.0),)), drawing([[RIGHT] * 3]), template="compact")
    with pytest.raises(ValueError, match="k=0"):
        without_too_easy(prepared(), drawing(TEXTS), k=0)
