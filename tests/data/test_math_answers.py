# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Answers matched by rule, labeled by hand; and what a hostile one can do to the process that matches."""

import importlib.metadata
import os
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_spct.data.math_answers import AnswerMatcher, boxed_answer


pytest.importorskip("math_verify")


@pytest.fixture(scope="module")
def match():
    with AnswerMatcher() as matcher:
        yield matcher


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


def test_answers_labeled_by_hand(match):
    assert match((true, answer) for true, answer, _ in BY_HAND) == [outcome for *_, outcome in BY_HAND]


def test_what_never_ends_or_breaks_is_an_outcome_and_the_next_answer_is_matched():
    with AnswerMatcher(timeout=0.5) as match:
        hostile = ["9^{9^{9^9}}", "(" * 3000 + "1" + ")" * 3000, "\ud800", "1\n2", "1", r"\sum_{k=1}^{10^9}\frac1k"]
        outcomes = match(("1", answer) for answer in hostile)
        assert outcomes[0] == outcomes[1] == outcomes[5] == "timeout"
        assert outcomes[2] in ("unparsable", "error") and outcomes[3] == "incorrect" and outcomes[4] == "correct"


def test_a_process_that_was_killed_is_started_again():
    with AnswerMatcher() as match:
        assert match([("1", "1")]) == ["correct"]
        process = match._idle.get()
        match._idle.put(process)
        first = process._running
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert match([("1", "1"), ("1", "2")]) == ["correct", "incorrect"]
    assert process._running is None and first.returncode == -signal.SIGKILL
    assert match([("1", "1.0")]) == ["correct"], "closed is not the end"
    match.close()


def test_several_threads_and_processes():
    pairs = [(str(i), str(i + i % 2)) for i in range(40)]
    expected = ["incorrect" if i % 2 else "correct" for i in range(40)]
    found = {}
    with AnswerMatcher(num_proc=2) as match:
        threads = [threading.Thread(target=lambda n=n: found.update({n: match(pairs)})) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == dict.fromkeys(range(3), expected)


def test_no_process_outlives_the_answers(match):
    """A process whose parent is gone ends by itself, for its input has ended."""
    match([("1", "1")])
    process = match._idle.get()
    match._idle.put(process)
    running = process._running
    running.stdin.close()
    assert running.wait(timeout=60) == 0
    running.stdout.close()
    process._running = None


def test_arguments():
    with pytest.raises(ValueError, match="Found timeout=0 and num_proc=1"):
        AnswerMatcher(timeout=0)
    with pytest.raises(ValueError, match="num_proc=0"):
        AnswerMatcher(num_proc=0)


def test_without_the_library(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(ImportError, match=r"pip install trl-spct\[math\]"):
        AnswerMatcher()
