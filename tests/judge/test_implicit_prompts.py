# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Prompts in `chosen` and `rejected` texts: no character is lost, and no query is invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_spct.judge.implicit_prompts import possible_prompts, split_turn, split_words, without_prompt
from trl_spct.judge.preferences import InvalidPreference, Preference

HH = "\n\nHuman: Why is the sky blue?\n\nAssistant:"


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        (HH, " I think it scatters light.", " I do not know."),
        (HH, " Yes", " Yes, of course."),
        (HH + " Air.\n\nHuman: And?\n\nAssistant:", " It scatters.", " Nothing."),
        (HH, " Air.\n\nHuman: And?\n\nAssistant: More.", " Dust.\n\nHuman: So?\n\nAssistant: Less."),
        ("Sum up.\nTL;DR:", " a cat", " a cat sat"),
        ("### Instruction:\nAdd.\n\n### Response:", "\n4", "\n5"),
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Hello", "Hell"),
        ("<s>[INST] Hi [/INST]", " Hello", " Hey"),
        ("The sky is", " blue.", " green."),
        ("What is larger, 9.9 or 9.11?", " 9.9", " 9.11"),
        ("Name one.", "\n\n2", "\n\n3"),
        ("Name one.", " yes", "\nno"),
        ("Is it so?", " Yes", " Yes, it is."),
        ("请解释量子力学。", "好的，量子力学研究微观世界。", "不知道。"),
        ("写一首诗", "春眠不觉晓", "床前明月光"),
        ("天は青い。", "はい。", "はい。そうです。"),
        ("日", "本", "月"),
    ],
)
def test_texts_by_hand(prompt, chosen, rejected):
    row = {"chosen": prompt + chosen, "rejected": prompt + rejected}
    assert Preference.from_row(row) == Preference(prompt, (chosen, rejected), (1, 0))


ALPHABET = st.sampled_from(list("ab .\n:") + ["\n\nAssistant:", "\n\nHuman:", "é", "好", "。", "ครั", "\u3000"])
TEXTS = st.lists(ALPHABET, max_size=12).map("".join)


@given(TEXTS, TEXTS, TEXTS)
def test_splits_are_lossless(shared, first, second):
    for split in (split_turn, split_words):
        parts = split(shared + first, shared + second)
        if parts is not None:
            prompt, chosen, rejected = parts
            assert (prompt + chosen, prompt + rejected) == (shared + first, shared + second)
            assert prompt.strip()
            assert split is split_turn or (chosen.strip() and rejected.strip())


@given(TEXTS, TEXTS, TEXTS)
def test_rows_keep_their_texts_or_are_refused(shared, first, second):
    row = {"chosen": shared + first, "rejected": shared + second}
    try:
        preference = Preference.from_row(row)
    except InvalidPreference as error:
        assert error.cause in ("query", "empty", "identical")
    else:
        assert tuple(preference.query + response for response in preference.responses) == tuple(row.values())


@given(TEXTS, TEXTS, TEXTS)
def test_a_prompt_beside_the_texts_is_read(prompt, first, second):
    for row in ({"chosen": first, "rejected": second}, {"chosen": prompt + first, "rejected": prompt + second}):
        try:
            preference = Preference.from_row({"prompt": prompt, **row})
        except InvalidPreference:
            continue
        assert preference.query == prompt
        assert preference.responses in (tuple(row.values()), (first, second))


def test_a_repeated_prompt_is_read_once():
    row = {"prompt": HH, "chosen": HH + " Air.", "rejected": HH + " Dust."}
    assert Preference.from_row(row).responses == (" Air.", " Dust.")
    assert without_prompt("Hi", "Hi there", "Hi!") == ("Hi there", "Hi!"), "responses may greet as the prompt does"
    assert without_prompt("Why is it so?", "Why is it so?", "No.") == ("Why is it so?", "No.")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("article", "A cat sat on a mat."),
        ("history", ["Hi", "Hello"]),
        ("dialogue", [{"speaker": "A", "text": "Hi"}]),
        ("trajectory", [{"role": "user", "content": "Open the page."}]),
        ("question", "Which page?"),
        ("问题", "为什么"),
    ],
)
def test_no_query_is_invented(name, value):
    row = {"chosen": "Step 1: open it.", "rejected": "Step 1: close it.", name: value, "source": "a web page", "id": 3}
    with pytest.raises(
        InvalidPreference, match=rf"beside the columns \['{name}'\].*Rename .* `prompt_column`"
    ) as error:
        Preference.from_row(row)
    assert error.value.cause == "query"
    answers = {name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
    with pytest.raises(InvalidPreference, match="do not begin with the same turn of a user.*prompt_column"):
        Preference.from_row({**row, **answers})
    assert possible_prompts(row) == [name]


@pytest.mark.parametrize("head", ["\nAnswer:", "\n\nAssistant:", " "])
@pytest.mark.parametrize(
    ("name", "value"),
    [("question", "Why?"), ("article", "A cat sat."), ("Instruction", "Hi"), ("info", {"text": "Add two numbers."})],
)
def test_a_column_that_may_hold_the_prompt_forbids_every_split(name, value, head):
    row = {"chosen": f"First I add.{head} 5", "rejected": f"First I add.{head} 6", "prompt_id": "a1", "model": "m"}
    assert Preference.from_row(row).query == f"First I add.{head}".rstrip(" ")
    with pytest.raises(InvalidPreference, match=rf"beside the columns \['{name}'\].*remove columns that hold none"):
        Preference.from_row({**row, name: value})


def test_texts_that_share_no_words():
    with pytest.raises(InvalidPreference, match="that share no words in front"):
        Preference.from_row({"chosen": "yes", "rejected": "yeah"})


def test_labels_need_not_be_read():
    pair = {"prompt": "Is it so?", "chosen": "a", "rejected": "a"}
    assert Preference.from_row(pair, read_labels=False) == Preference("Is it so?", ("a", "a"))
    tied = {"query": "Is it so?", "responses": ["a", "b"], "labels": ["?", None]}
    assert Preference.from_row(tied, read_labels=False) == Preference("Is it so?", ("a", "b"))
    assert Preference.from_row({"prompt": "q", "completion": "a"}, read_labels=False) == Preference("q", ("a",))
