"""Preference: every accepted shape, every refused row with its cause, and permutation in one place."""

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trl_spct.judge.preferences import InvalidPreference, Preference, checked_labels, message_text, restore_order

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine

USER = {"role": "user", "content": "Which is larger, 9.9 or 9.11?"}
GOOD = {"role": "assistant", "content": "9.9"}
BAD = {"role": "assistant", "content": "9.11"}
Q = USER["content"]


def refused(cause, match=None):
    """The row is refused as a `ValueError` that names its cause."""

    class Refused:
        def __enter__(self):
            self.raises = pytest.raises(InvalidPreference, match=match)
            self.info = self.raises.__enter__()

        def __exit__(self, *exc):
            swallowed = self.raises.__exit__(*exc)
            assert self.info.value.cause == cause, str(self.info.value)
            assert isinstance(self.info.value, ValueError)
            return swallowed

    return Refused()


# --- what a preference holds


def test_sequences_become_tuples_and_the_best_is_the_highest_label():
    preference = Preference(Q, ["a", "b", "c"], labels=[0.5, 3, 2.0])
    assert (preference.responses, preference.labels) == (("a", "b", "c"), (0.5, 3, 2))
    assert (len(preference), preference.best) == (3, 1)


@pytest.mark.parametrize(("labels", "responses"), [(None, ("a", "b")), ((1,), ("a",)), ((0,), ("a",)), (None, ("a",))])
def test_without_labels_and_for_one_response_there_is_no_best(labels, responses):
    assert Preference(Q, responses, labels).best is None


def test_lists_and_tuples_make_equal_preferences():
    assert Preference(Q, ["a", "b"], [1, 0]) == Preference(Q, ("a", "b"), (1.0, 0.0))
    assert hash(Preference(Q, ["a", "b"], [1, 0])) == hash(Preference(Q, ("a", "b"), (True, False)))


def test_messages_keep_role_and_text_only():
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "a", "image": None}, {"type": "text", "text": "b"}],
    }
    assert Preference([message], ["x"]).query == ({"role": "user", "content": "ab"},)
    assert Preference([USER | {"tool_calls": None}], ["x"]).query == (USER,)


@pytest.mark.parametrize("query", ["", "  \n", None, 5, [], (), {}, USER, b"bytes", ["text"], [{"role": "user"}]])
def test_a_query_that_is_neither_text_nor_messages_is_refused(query):
    with refused("query"):
        Preference(query, ["a", "b"])


@pytest.mark.parametrize(
    "message",
    [
        {"role": None, "content": "x"},
        {"role": "user", "content": None},
        {"role": "user", "content": " "},
        {"role": "user", "content": []},
        {"role": "user", "content": b""},
        {"role": "user", "content": [{"type": "image"}]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "text", "text": None}]},
    ],
)
def test_messages_without_role_or_text_are_refused(message):
    with refused("query"):
        Preference([message], ["a", "b"])


@pytest.mark.parametrize("responses", [None, "text", b"text", {"a": 1}, 5, [], (), {"a", "b"}, iter("ab")])
def test_responses_that_are_no_list_are_refused(responses):
    with refused("responses"):
        Preference(Q, responses)


@pytest.mark.parametrize(
    ("responses", "cause", "number"),
    [
        (["a", None], "responses", 2),
        ([5, "a"], "responses", 1),
        (["a", " \n"], "empty", 2),
        ([["a"], "b"], "responses", 1),
    ],
)
def test_a_refused_response_is_named_by_its_number(responses, cause, number):
    with refused(cause, match=f"Response {number} "):
        Preference(Q, responses)


@pytest.mark.parametrize("name", ["reference", "principles"])
def test_a_reference_and_principles_are_texts(name):
    assert getattr(Preference(Q, ["a", "b"], **{name: "9.9"}).permuted([1, 0]), name) == "9.9"
    assert getattr(Preference(Q, ["a"], **{name: " \n"}), name) is None, "blank counts as none"
    assert Preference(Q, ["a"]) == Preference(Q, ["a"], **{name: ""}) != Preference(Q, ["a"], **{name: "9.9"})
    with refused("query", match=name):
        Preference(Q, ["a"], **{name: 9.9})


@pytest.mark.parametrize("name", ["reference", "principles"])
@pytest.mark.parametrize(
    "row",
    [
        {"query": Q, "responses": ["a", "b"]},
        {"prompt": Q, "chosen": "a", "rejected": "b"},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": Q, "completion": "a", "label": True},
        {"messages": [USER], "responses": ["a", "b"], "best_index": 1},
    ],
)
def test_a_row_of_any_shape_may_have_a_reference_and_principles(row, name):
    assert getattr(Preference.from_row({**row, name: "9.9 (weight 1)"}), name) == "9.9 (weight 1)"
    assert Preference.from_row({**row, name: None}) == Preference.from_row(row)


def test_principles_come_last():
    assert Preference(Q, ("a",), (1,), "reference", "principles").principles == "principles"


@pytest.mark.parametrize(
    ("changed", "cause", "match"),
    [
        ({"query": "half \ud800"}, "query", "The query holds .* at character 5: half of a surrogate"),
        ({"query": [USER, {"role": "user", "content": "\udfff"}]}, "query", "Message 2 of the query"),
        ({"query": [{"role": "\udfff", "content": "x"}]}, "query", "Message 1 of the query"),
        ({"responses": ["a", "\ud83d"]}, "responses", "Response 2"),
        ({"responses": ["\ud83d\ude00"]}, "responses", "Response 1"),
        ({"reference": "\ud800"}, "query", "`reference`"),
        ({"principles": "\ud800"}, "query", "`principles`"),
    ],
)
def test_lone_surrogates_are_refused_by_name(changed, cause, match):
    with refused(cause, match=match):
        Preference(**{"query": Q, "responses": ["a", "b"], **changed})
    with pytest.raises(InvalidPreference, match="surrogate pair"):
        Preference.from_row({"query": Q, "responses": ["a", "b"], **changed})


def test_other_unicode_is_text():
    hard = "🙂\u200d\u202e\x00\ufffe\U0010ffff\ufffd e\u0301"
    assert Preference(hard, [hard], reference=hard, principles=hard).responses == (hard,)


# --- labels


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ([1, 0], (1, 0)),
        ([True, False], (1, 0)),
        ([0.25, -3.0], (0.25, -3)),
        ([np.int64(3), np.float32(0.5)], (3, 0.5)),
        ([np.bool_(True), np.bool_(False)], (1, 0)),
        ([10**400, 10**400 - 1], (10**400, 10**400 - 1)),
        ([1], (1,)),
        ([0.0], (0,)),
        ([np.True_], (1,)),
    ],
)
def test_labels_become_plain_numbers(labels, values):
    checked = checked_labels(labels, len(labels))
    assert checked == values
    assert {type(value) for value in checked} <= {int, float}


@pytest.mark.parametrize(
    ("labels", "n", "cause"),
    [
        ([1, 1], 2, "ties"),
        ([0, 2, 2.0], 3, "ties"),
        ([0, 0], 2, "ties"),
        ([1, 0, 0], 2, "count"),
        ([], 2, "count"),
        ([float("nan"), 1], 2, "labels"),
        ([float("inf"), 1], 2, "labels"),
        ([1, -float("inf")], 2, "labels"),
        ([None, 1], 2, "labels"),
        (["1", "0"], 2, "labels"),
        ([[1], [0]], 2, "labels"),
        ([1j, 0], 2, "labels"),
        ("10", 2, "labels"),
        (b"10", 2, "labels"),
        ({0: 1, 1: 0}, 2, "labels"),
        (1, 2, "labels"),
        (None, 2, "labels"),
        ([0.5], 1, "labels"),
        ([7], 1, "labels"),
        ([-1], 1, "labels"),
        ([], None, "count"),
    ],
)
def test_labels_that_eq_10_cannot_use_are_refused(labels, n, cause):
    with refused(cause):
        checked_labels(labels, n)


def test_a_tie_below_the_maximum_is_allowed():
    assert checked_labels([0, 0, 1], 3) == (0, 0, 1)


def test_a_tie_is_counted_at_the_highest_label():
    with refused("ties", match="2 responses share the highest label"):
        checked_labels([0, 0, 0, 5, 5], 5)


# --- permutation


def test_permuted_moves_responses_and_labels_and_keeps_the_rest():
    preference = Preference([USER], ["a", "b", "c"], [0, 1, 2], reference="r")
    assert preference.permuted([2, 0, 1]) == Preference([USER], ["c", "a", "b"], [2, 0, 1], reference="r")
    assert preference.permuted(np.array([2, 0, 1])) == preference.permuted(iter([2, 0, 1]))


@pytest.mark.parametrize("order", [[0], [0, 0], [1, 2], [0, 1, 2], [-1, 0], []])
def test_an_order_must_be_a_permutation(order):
    with pytest.raises(ValueError, match="permutation"):
        Preference(Q, ["a", "b"]).permuted(order)
    with pytest.raises(ValueError, match="permutation"):
        restore_order((8, 3), order)


def test_table_17_reversed_orders_are_undone():
    """Raw boxes (8,8), (9,5), (10,7); samples 2 and 3 read the reversed order: totals 20 and 27."""
    restored = [restore_order(box, order) for box, order in [((8, 8), (0, 1)), ((9, 5), (1, 0)), ((10, 7), (1, 0))]]
    assert restored == [(8, 8), (5, 9), (7, 10)]
    assert tuple(map(sum, zip(*restored))) == (20, 27)


def test_no_scores_have_no_order():
    assert restore_order(None, (1, 0)) is None


orders = st.integers(1, 7).flatmap(lambda n: st.permutations(range(n)))


@patient
@given(orders)
def test_restore_order_undoes_permuted(order):
    responses = tuple(f"response {i}" for i in range(len(order)))
    preference = Preference(Q, responses, tuple(range(len(order))))
    shown = preference.permuted(order)
    assert restore_order(shown.responses, order) == responses
    assert restore_order(shown.labels, order) == preference.labels
    inverse = restore_order(range(len(order)), order)
    assert shown.permuted(inverse) == preference
    if len(order) > 1:
        assert order[shown.best] == preference.best


# --- rows of datasets

PAIR = Preference(Q, ("9.9", "9.11"), (1, 0))
PAIR_OF_MESSAGES = Preference((USER,), ("9.9", "9.11"), (1, 0))

ROWS = {
    "ours": ({"query": Q, "responses": ["9.9", "9.11"], "labels": [1, 0]}, PAIR),
    "ours, tuples": ({"query": Q, "responses": ("9.9", "9.11"), "labels": (1, 0)}, PAIR),
    "ours, unlabelled": ({"query": Q, "responses": ["9.9"], "labels": None}, Preference(Q, ("9.9",))),
    "unknown columns": ({"query": Q, "responses": ["9.9", "9.11"], "labels": [1, 0], "id": 7, "source": None}, PAIR),
    "explicit texts": ({"prompt": Q, "chosen": "9.9", "rejected": "9.11"}, PAIR),
    "explicit messages": ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, PAIR_OF_MESSAGES),
    "one message each": ({"prompt": [USER], "chosen": GOOD, "rejected": BAD}, PAIR_OF_MESSAGES),
    "implicit messages": ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR_OF_MESSAGES),
    "implicit texts": ({"chosen": f"{Q} 9.9", "rejected": f"{Q} 9.11"}, Preference(Q, (" 9.9", " 9.11"), (1, 0))),
    "implicit, None prompt": ({"prompt": None, "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR_OF_MESSAGES),
    "repeated text prompt": ({"prompt": Q, "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR_OF_MESSAGES),
    "repeated prompt": ({"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, PAIR_OF_MESSAGES),
    "multi-turn": (
        {"chosen": [USER, BAD, USER, GOOD], "rejected": [USER, BAD, USER, BAD]},
        Preference((USER, BAD, USER), ("9.9", "9.11"), (1, 0)),
    ),
    "unpaired, right": ({"prompt": Q, "completion": "9.9", "label": True}, Preference(Q, ("9.9",), (1,))),
    "unpaired, wrong": ({"prompt": Q, "completion": "9.11", "label": False}, Preference(Q, ("9.11",), (0,))),
    "unpaired, numpy": ({"prompt": Q, "completion": "9.9", "label": np.True_}, Preference(Q, ("9.9",), (1,))),
    "unpaired messages": (
        {"prompt": [USER], "completion": [BAD], "label": 0},
        Preference((USER,), ("9.11",), (0,)),
    ),
    "scores": (
        {"prompt": Q, "responses": ["a", "b", "c"], "scores": [0.1, 0.9, 0.5]},
        Preference(Q, ("a", "b", "c"), (0.1, 0.9, 0.5)),
    ),
    "best index": ({"prompt": Q, "responses": ["a", "b"], "best_index": 1}, Preference(Q, ("a", "b"), (0, 1))),
    "numpy index": (
        {"messages": [USER], "responses": [[GOOD], [BAD]], "best_index": np.int64(0)},
        PAIR_OF_MESSAGES,
    ),
    "reference": (
        {"query": Q, "responses": ["9.9", "9.11"], "labels": [1, 0], "reference": "9.9"},
        Preference(Q, ("9.9", "9.11"), (1, 0), "9.9"),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_accepted_row(name):
    row, expected = ROWS[name]
    assert Preference.from_row(row) == expected


def test_rows_of_a_dataset_in_which_columns_are_none():
    rows = [
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "responses": None, "labels": None},
        {"prompt": [USER], "chosen": None, "rejected": None, "responses": ["9.9", "9.11"], "labels": [1.0, 0.0]},
    ]
    assert [Preference.from_row(row) for row in datasets.Dataset.from_list(rows)] == [PAIR_OF_MESSAGES] * 2
    seen = []
    datasets.Dataset.from_list(rows).map(lambda row: seen.append(Preference.from_row(row)))
    assert seen[:2] == [PAIR_OF_MESSAGES] * 2


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({}, "shape"),
        ([Q, "a"], "shape"),
        (None, "shape"),
        ({"query": Q}, "shape"),
        ({"responses": ["a", "b"], "labels": [1, 0]}, "shape"),
        ({"query": None, "responses": ["a", "b"]}, "shape"),
        ({"prompt": Q, "completion": "a", "label": None}, "shape"),
        ({"prompt": Q, "chosen": "a", "rejected": None}, "shape"),
        ({"chosen": "yes", "rejected": "no"}, "query"),
        ({"question": Q, "chosen": "It is a.", "rejected": "It is b."}, "query"),
        ({"chosen": "The same.", "rejected": "The same."}, "identical"),
        ({"chosen": 1, "rejected": 2}, "query"),
        ({"chosen": [], "rejected": []}, "query"),
        ({"chosen": ["a"], "rejected": ["b"]}, "query"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "query"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "identical"),
        ({"chosen": [USER], "rejected": [USER, BAD]}, "empty"),
        ({"prompt": Q, "chosen": [], "rejected": [BAD]}, "empty"),
        ({"prompt": Q, "chosen": {"role": "assistant"}, "rejected": "b"}, "responses"),
        ({"prompt": Q, "chosen": [{"role": "assistant", "content": None}], "rejected": [BAD]}, "responses"),
        ({"prompt": Q, "completion": "a", "label": -1}, "labels"),
        ({"prompt": Q, "completion": "a", "label": "false"}, "labels"),
        ({"prompt": Q, "completion": "a", "label": 0.5}, "labels"),
        ({"prompt": Q, "responses": ["a", "b"], "best_index": 2}, "labels"),
        ({"prompt": Q, "responses": ["a", "b"], "best_index": -1}, "labels"),
        ({"prompt": Q, "responses": ["a", "b"], "best_index": True}, "labels"),
        ({"prompt": Q, "responses": ["a", "b"], "best_index": "1"}, "labels"),
        ({"prompt": Q, "responses": 5, "best_index": 0}, "responses"),
        ({"prompt": Q, "responses": [], "best_index": 0}, "responses"),
        ({"query": Q, "responses": ["a", None], "labels": [1, 0]}, "responses"),
        ({"query": Q, "responses": ["a", "b"], "labels": [1, None]}, "labels"),
        ({"query": Q, "responses": ["a", "b"], "labels": [0.0, 0.0]}, "ties"),
        ({"query": Q, "responses": ["a", "b"], "labels": [1]}, "count"),
        ({"prompt": Q, "chosen": "a", "rejected": "a"}, "identical"),
        ({"query": Q, "responses": ["a", "b", "a"], "labels": [1, 0, 0]}, "identical"),
        ({"query": Q, "responses": ["a", "b"], "labels": [1, float("nan")]}, "labels"),
        ({"query": Q, "responses": ["a", "b"], "labels": ["1", "0"]}, "labels"),
        ({"chosen": [GOOD, USER], "rejected": [GOOD, BAD]}, "query"),
    ],
)
def test_every_refused_row_names_its_cause(row, cause):
    with refused(cause):
        Preference.from_row(row)


@patient
@given(
    st.dictionaries(
        st.sampled_from(
            ["query", "prompt", "messages", "responses", "labels", "scores", "best_index", "chosen", "rejected"]
            + ["completion", "label", "reference"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(USER),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
            max_leaves=6,
        ),
    )
)
def test_any_row_is_read_or_refused_and_never_crashes(row):
    try:
        preference = Preference.from_row(row)
    except InvalidPreference as error:
        assert error.cause in {"shape", "query", "responses", "empty", "labels", "count", "ties"}
    else:
        assert len(preference) >= 1


def test_message_text_names_what_it_found():
    with refused("query", match="NoneType"):
        message_text(None)
