# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
import pytest

from trl_spct.evaluation.benchmarks import Item
from trl_spct.evaluation.contamination import Overlap, find_overlaps
from trl_spct.judge.preferences import Preference


pytest.importorskip("datasketch")

LONG = " ".join(f"word{i}" for i in range(60))


def item(id, query, *responses):
    return Item(id, "all", (Preference(query, responses),), ((1,) + (0,) * (len(responses) - 1),))


ITEMS = [item("a", LONG, "yes indeed", "no"), item("b", "What is the capital of France?", "Paris", LONG[::-1])]


def row(query, *responses):
    return {"query": query, "responses": list(responses or ("one thing", "another"))}


def test_near_duplicates_are_named():
    rows = [
        row("Something else entirely, about boats and rivers."),
        row(LONG),
        row(f"{LONG} and two more"),  # 56 of 59 n-grams
        row("what is the CAPITAL of France"),  # the same words
        row("What is the capital of Spain?"),
        row("A question of its own, no doubt about it", LONG[::-1], "x"),
    ]
    assert find_overlaps(rows, ITEMS) == [
        Overlap(1, "a", "query", 1.0),
        Overlap(2, "a", "query", 56 / 59),
        Overlap(3, "b", "query", 1.0),
        Overlap(5, "b", "response", 1.0),
    ]
    assert len(find_overlaps(rows, ITEMS, threshold=0.99)) == 3


def test_queries_are_compared_with_queries():
    assert find_overlaps([row("Hello there, who are you?", LONG, "x")], ITEMS) == []


def test_conversations_and_repeated_items():
    talk = [{"role": "user", "content": LONG}]
    items = [item("a", LONG, "x", "y"), item("b", talk, "x", "y")]
    assert [overlap.item for overlap in find_overlaps([row(talk)], items)] == ["a", "b"]


def test_texts_without_words():
    assert find_overlaps([row("?!", "…", "—")], [item("a", "?!", "…", "—")]) == []
