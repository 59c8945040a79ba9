# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""General instruction data: one form, and everything that would fail after the sampling fails before it."""

import pytest
from datasets import Dataset
from tiny_models import tiny_tokenizer

from trl_spct.data.instructions import instruction_rows


def turn(role, content):
    return {"role": role, "content": content}


CHAT = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
SYSTEM = [turn("system", "Be brief."), turn("user", "a"), turn("assistant", "b")]


def test_the_last_turn_of_a_conversation_is_learned():
    rows = instruction_rows(Dataset.from_list([{"messages": CHAT, "source": "x"}]), tiny_tokenizer())
    assert rows.to_list() == [{"prompt": CHAT[:3], "completion": CHAT[3:]}]


def test_sets_of_different_shapes_are_joined():
    parts = [
        Dataset.from_list([{"messages": CHAT}]),
        Dataset.from_list([{"prompt": "p", "completion": "c"}]),
        Dataset.from_list([{"prompt": [turn("user", "u")], "completion": [turn("assistant", "v")], "extra": 1}]),
    ]
    rows = instruction_rows(parts, tiny_tokenizer())
    assert [row["completion"][0]["content"] for row in rows] == ["d", "c", "v"]
    with pytest.raises(ValueError, match=r"general_dataset\[1\]: found the columns \['text'\]"):
        instruction_rows([parts[0], Dataset.from_list([{"text": "x"}])], tiny_tokenizer())
    assert len(instruction_rows([], tiny_tokenizer())) == 0


def test_a_chat_template_that_refuses_a_role_is_met_before_training():
    rows = Dataset.from_list([{"messages": CHAT}, {"messages": SYSTEM}])
    with pytest.raises(ValueError, match="row 1: the judge's chat template refuses .*system.*System role not supp"):
        instruction_rows(rows, tiny_tokenizer())
    assert len(instruction_rows(rows, tiny_tokenizer(allow_system=True))) == 2


@pytest.mark.parametrize("content", [None, ""])
def test_what_is_no_text_is_named(content):
    rows = Dataset.from_list([{"messages": CHAT}, {"messages": [turn("user", content), turn("assistant", "b")]}])
    if content is None:
        with pytest.raises(ValueError, match="row 1: found the content None in a turn of the role 'user'"):
            instruction_rows(rows, tiny_tokenizer())
    else:
        assert len(instruction_rows(rows, tiny_tokenizer())) == 2


def test_a_stream_is_refused():
    with pytest.raises(TypeError, match="general_dataset is IterableDataset"):
        instruction_rows(Dataset.from_list([{"messages": CHAT}]).to_iterable_dataset(), tiny_tokenizer())
