# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Answers matched by rule, labeled by hand; and what a hostile one can do to the process that matches."""

import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_spct.data import math_answers
from trl_spct.data.math_answers import boxed_answer, match_answers


pytest.importorskip("math_verify")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{3} at first, then \boxed{5}", "5"),
        (r"\boxed{3} at first, then \boxed{", None),
        (r"\boxed{3} at first, then \boxed{}", None),
        (r"\boxed{ 5. }", "5"),
        (r"$\boxed 5$", "5"),
        (r"is \boxed 12.", "12"),
        (r"\boxed", None),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.} and }", r"\left\{ x \right."),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxedness{5}", None),
        ("The answer is 5.", None),
        ("", None),
    ],
)
def test_boxed_answer(text, answer):
    assert boxed_answer(text) == answer


@settings(deadline=None)
@given(st.text(alphabet="\\{}boxed $5.<think/>", max_size=60))
def test_boxes_of_any_text(text):
    answer = boxed_answer(text)
    assert answer is None or (answer.strip() and answer in text)
    assert boxed_answer(text + r"\boxed{6}") == "6"


BY_HAND = [
    (r"\frac12", "0.5", "correct"),
    (r"\frac12", "1/2", "correct"),
    (r"\frac12", r"\dfrac{2}{4}", "correct"),
    (r"\frac12", "0.51", "incorrect"),
    (r"\frac13", "0.33", "incorrect"),
    (r"10\text{ cm}", "10", "correct"),
    ("10", r"10\text{ meters}", "correct"),
    (r"\$32.50", "32.5", "correct"),
    (r"120^\circ", "120", "correct"),
    ("1,000", "1000", "correct"),
    ("[2,5)", "[2, 5)", "correct"),
    ("[2,5)", "(2,5]", "incorrect"),
    ("(-3,4)", "(4,-3)", "incorrect"),
    (r"(-\infty, 2]", r"(-\infty,2]", "correct"),
    ("1,2", "2, 1", "correct"),
    ("1,2", "2", "incorrect"),
    ("x^2+2x", "x(x+2)", "correct"),
    ("5", "x=5", "correct"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}", "incorrect"),
    (r"\text{east}", r"\text{East}", "correct"),
    (r"\text{east}", r"\text{west}", "incorrect"),
    (r"\text{(C)}", "C", "correct"),
    ("5", r"\text{none}", "incorrect"),
    ("5", r"5\\", "unparsable"),
    (r"\frac{}", "5", "unparsable"),
    (r"\frac{1}{0}", "5", "error"),
]


def test_answers_labeled_by_hand():
    assert match_answers((true, answer) for true, answer, _ in BY_HAND) == [outcome for *_, outcome in BY_HAND]
    assert match_answers([]) == []


def test_what_never_ends_or_breaks_is_an_outcome_and_the_next_answer_is_matched():
    hostile = ["9^{9^{9^9}}", "(" * 3000 + "1" + ")" * 3000, "\ud800", "1\n2", "1", r"\sum_{k=1}^{10^9}\frac1k"]
    outcomes = match_answers([("1", answer) for answer in hostile], timeout=0.5)
    assert outcomes[0] == outcomes[1] == outcomes[5] == "timeout"
    assert outcomes[2] in ("unparsable", "error") and outcomes[3] == "incorrect" and outcomes[4] == "correct"


def test_a_process_that_dies_costs_one_pair(monkeypatch, tmp_path):
    """A script that matches as ours does, and is killed by the answer `die`."""
    code = Path(math_answers.__file__).read_text(encoding="utf-8")
    head = "def _matched(true: str, answer: str) -> str:\n"
    deadly = head + "    import os\n    if answer == 'die':\n        os.kill(os.getpid(), 9)\n"
    assert head in code
    (tmp_path / "script.py").write_text(code.replace(head, deadly), encoding="utf-8")
    monkeypatch.setattr(math_answers, "__file__", str(tmp_path / "script.py"))
    pairs = [("1", answer) for answer in ("1", "die", "2", "die", "1")]
    assert match_answers(pairs) == ["correct", "error", "incorrect", "error", "correct"]
    (tmp_path / "script.py").write_text("raise SystemExit('no room')", encoding="utf-8")
    with pytest.raises(RuntimeError, match="ended with 1 before its first pair: no room"):
        match_answers(pairs)


def test_several_threads():
    pairs = [(str(i), str(i + i % 2)) for i in range(40)]
    expected = ["incorrect" if i % 2 else "correct" for i in range(40)]
    with ThreadPoolExecutor(3) as executor:
        assert list(executor.map(match_answers, [pairs] * 3)) == [expected] * 3


def test_arguments():
    with pytest.raises(ValueError, match="Found timeout=0; expected timeout > 0"):
        match_answers([("1", "1")], timeout=0)


def test_without_the_library(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(ImportError, match=r"pip install trl-spct\[math\]"):
        match_answers([("1", "1")])
