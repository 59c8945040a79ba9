r"""parse_critique: the last box of the judge's own text, exactly n whole numbers in range, or the reason why not."""

import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trl_spct.judge.critiques import (
    PROBLEMS,
    Critique,
    opens_draft,
    parse_critique,
    without_thoughts,
)
from trl_spct.judge.templates import JudgeTemplate

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # for a busy machine


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        (r"\boxed{8, 3}", (8, 3)),
        (r"\boxed{8,3}", (8, 3)),
        (r"\boxed {8, 3}", (8, 3)),
        (r"\boxed{ 8 , 3 }", (8, 3)),
        ("\\boxed{\n8,\n3\n}", (8, 3)),
        (r"Scores: $\boxed{8, 3}$.", (8, 3)),
        (r"**Scores: \boxed{8, 8}**", (8, 8)),
        ("### Output\nScores: \\boxed{8, 3}\n", (8, 3)),
        ("Scores for each response:\n\n\\boxed{8, 3}", (8, 3)),
        (r"Weights [0.4, 0.6]; \boxed{1, 2} at first. Scores: \boxed{8, 3} (see [1, 2])", (8, 3)),
        (r"\boxed{8.0, +3}", (8, 3)),
        (r"\boxed{08, 003}", (8, 3)),
        (r"\boxed{$8$, $3$}", (8, 3)),
        ("\\boxed{８，３}", (8, 3)),
        ("\\boxed{８．０，\u3000３\xa0}", (8, 3)),
        (r"\boxed{10, 1}", (10, 1)),
        (r"<think>\boxed{1, 2}</think>\boxed{8, 3}", (8, 3)),
        (r"\boxed{1, 2}</think>\boxed{8, 3}", (8, 3)),
        (r"<think>a</think><think>b</think>\boxed{8, 3}", (8, 3)),
        (r"\boxed{8, 3}}", (8, 3)),
        (r"\\boxed{8, 3}", (8, 3)),
    ],
)
def test_real_outputs_around_the_last_box(text, scores):
    critique = parse_critique(text)
    assert critique == Critique(text, scores)
    assert all(type(score) is int for score in critique.scores)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "missing"),
        ("8, 3", "missing"),
        ("[8, 3]", "missing"),
        (r"\boxed{}", "missing"),
        (r"\boxed{ }", "missing"),
        (r"\boxed{,}", "missing"),
        (r"\boxed{8, 3", "missing"),
        (r"\boxed{8, 3} and \boxed{", "missing"),
        (r"\boxed{8, 3} and \boxed{}", "missing"),
        (r"\boxed", "missing"),
        (r"\Boxed{8, 3}", "missing"),
        (r"boxed{8, 3}", "missing"),
        (r"\fbox{8, 3}", "missing"),
        (r"<think>\boxed{8, 3}", "missing"),
        (r"<think>\boxed{8, 3}</think>", "missing"),
        (r"\boxed{8}", "count"),
        (r"\boxed{8, 3, 5}", "count"),
        (r"\boxed{8}, \boxed{3}", "count"),
        (r"\boxed{8, 3} \boxed{11, 3, 5}", "count"),
        (r"\boxed{0, 3}", "range"),
        (r"\boxed{11, 3}", "range"),
        (r"\boxed{-8, 3}", "range"),
        (r"\boxed{999999999, 3}", "range"),
        (r"\boxed{8/10, 3}", "value"),
        (r"\boxed{8 (good), 3}", "value"),
        (r"\boxed{7.5, 3}", "value"),
        (r"\boxed{x, x}", "value"),
        (r"\boxed{8, 3,}", "value"),
        (r"\boxed{8,, 3}", "value"),
        (r"\boxed{8 3}", "value"),
        (r"\boxed{8; 3}", "value"),
        (r"\boxed{8e0, 3}", "value"),
        (r"\boxed{0x8, 3}", "value"),
        (r"\boxed{1_0, 3}", "value"),
        (r"\boxed{nan, inf}", "value"),
        (r"\boxed{eight, three}", "value"),
        (r"\boxed{Response 1: 8, 3}", "value"),
        (r"\boxed{\text{8}, 9}", "value"),
        (r"\boxed{{8}, {9}}", "value"),
        (r"\boxed{\boxed{8}, 9}", "count"),
        ("\\boxed{8\u00b2, 3}", "value"),  # a superscript is not a digit: 8 squared is not 82
        ("\\boxed{1\u2070, 3}", "value"),
        ("\\boxed{\u2467, 3}", "value"),
        ("\\boxed{\u0668, \u0663}", "value"),
        ("\\boxed{\ud800, 3}", "value"),
        ("\\boxed{8\x00, 3}", "value"),
        (r"\boxed{" + "9" * 5000 + ", 3}", "value"),
    ],
)
def test_no_score_names_its_problem(text, problem):
    assert parse_critique(text) == Critique(text, None, problem)
    assert problem in PROBLEMS


@pytest.mark.parametrize(
    ("box", "n", "score_range", "scores"),
    [
        ("1", 1, (0, 1), (1,)),
        ("0", 1, (0, 1), (0,)),
        ("2", 1, (0, 1), None),
        ("0", 1, (1, 10), None),
        ("7", 1, (1, 10), (7,)),
        ("1, 2, 3, 4", 4, (1, 10), (1, 2, 3, 4)),
        ("-2, 100", 2, (-5, 100), (-2, 100)),
    ],
)
def test_number_of_responses_and_score_range(box, n, score_range, scores):
    assert parse_critique(f"\\boxed{{{box}}}", n, score_range).scores == scores


def test_figure_3_boxes():
    texts = [f"Analysis. Scores: \\boxed{{{a}, {b}}}" for a, b in [(1, 5), (5, 6), (4, 8), (7, 6)]]
    assert [parse_critique(text).scores for text in texts] == [(1, 5), (5, 6), (4, 8), (7, 6)]


fragments = st.lists(
    st.sampled_from(
        ["\\boxed{", "\\boxed{1, 1}", "}", "{", "[9, 9]", "</think>", "Scores: ", "\\boxed{}", "8", ", ", "\n", "\\"]
    )
    | st.text(max_size=8),
    max_size=12,
).map("".join)
rows = st.lists(st.integers(1, 10), min_size=1, max_size=6)


@patient
@given(fragments, rows)
@example("\\boxed{", [8, 3])
@example("\\", [8, 3])
def test_the_last_box_wins_whatever_stands_before(before, scores):
    text = f"{before} Scores: \\boxed{{{', '.join(map(str, scores))}}}"
    found = parse_critique(text, len(scores))
    if "<think>" in before and "</think>" not in before:
        assert found.problem == "missing"
    else:
        assert found.scores == tuple(scores)


@patient
@given(fragments, fragments, st.integers(1, 4))
def test_text_before_never_changes_the_result(before, tail, n):
    critique = f"\n\\boxed{{5, 5}}{tail}"
    if "<think>" in before or "</think>" in critique:
        return
    alone, together = parse_critique(critique, n), parse_critique(before + critique, n)
    assert (alone.scores, alone.problem) == (together.scores, together.problem)


@patient
@given(st.text() | fragments, st.integers(1, 4))
def test_any_text_gives_scores_or_a_problem(text, n):
    critique = parse_critique(text, n)
    assert critique.text == text
    assert (critique.scores is None) != (critique.problem is None)
    assert critique.scores is None or (len(critique.scores) == n and all(1 <= s <= 10 for s in critique.scores))
    assert critique.principles is None or critique.principles in text


# --- principles


@pytest.mark.parametrize(
    ("text", "principles"),
    [
        ("Specific Criteria: Accuracy (60%), tone (40%).\nAnalysis: …\n\\boxed{8, 3}", "Accuracy (60%), tone (40%)."),
        ("**Specific Criteria:**\n- Accuracy: 0.6\n- Tone: 0.4\n\n**Analysis:** …", "- Accuracy: 0.6\n- Tone: 0.4"),
        ("### SPECIFIC  CRITERIA\n1. Accuracy\n### Analysis\n…", "1. Accuracy"),
        ("Specific Criteria: Depth of analysis matters.\nAnalysis: …", "Depth of analysis matters."),
        ("Specific Criteria: Accuracy. \\boxed{8, 3}", "Accuracy."),
        ("Specific Criteria: Accuracy.", "Accuracy."),
        ("Specific Criteria:\n**Analysis:** …", None),
        ("Specific Criteria:\nAnalysis: …", None),
        ("Analysis: …\n\\boxed{8, 3}", None),
        ("", None),
        ("<think>specific criteria: draft</think>Specific Criteria: Accuracy.\nAnalysis: …", "Accuracy."),
        ("<think>Specific Criteria: draft", None),
        ("Sure.\n**Specific Criteria:**\n- Accuracy\n\n**Analysis:** none yet", "- Accuracy"),
        ("1. Accuracy (weight 2)\n2. Tone", None),
    ],
)
def test_principles_stand_between_criteria_and_analysis(text, principles):
    assert parse_critique(text).principles == principles


# --- time

MEGABYTE = 1_000_000
HOSTILE = {
    "opened boxes": "\\boxed{",
    "empty boxes": "\\boxed{}",
    "blanks behind boxed": "\\boxed" + " " * 2000,
    "one long box": ("\\boxed{", "8,"),
    "digits": ("\\boxed{", "9"),
    "expanding ligatures": ("\\boxed{", "\ufdfa"),
    "braces": "{}",
    "thoughts": "<think>",
    "closed thoughts": "</think>",
    "criteria": "specific criteria ",
    "blanks behind specific": "specific" + " " * 2000,
    "newlines behind criteria": ("specific criteria: a", "\n"),
    "bullets behind criteria": ("specific criteria: a", "\n* "),
    "marks behind criteria": ("specific criteria: a", "*"),
}


def seconds(function, argument):
    """The fastest of three, so that a busy machine does not fail the test."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        function(argument)
        best = min(best, time.perf_counter() - start)
    return best


def hostile(name, size):
    head, unit = HOSTILE[name] if isinstance(HOSTILE[name], tuple) else ("", HOSTILE[name])
    return head + unit * (size // len(unit))


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_linear_in_the_text(name, closed):
    def read(text):
        critique = parse_critique(text + ("}" if closed else ""))
        return critique.principles

    quarter, whole = seconds(read, hostile(name, MEGABYTE // 4)), seconds(read, hostile(name, MEGABYTE))
    assert whole < max(10 * quarter, 0.25)  # 4 if linear, 16 if quadratic
    assert whole < 5


def test_scores_move_into_the_order_of_the_row():
    critique = parse_critique(r"\boxed{8, 3, 5}", 3).in_row_order((2, 0, 1))
    assert critique.scores == (3, 5, 8) and critique.order == (2, 0, 1)
    unreadable = parse_critique("none", 3).in_row_order([2, 0, 1])
    assert unreadable == Critique("none", None, "missing", (2, 0, 1))


def test_a_critique_and_its_dict_are_inverse():
    critique = Critique("text", (3, 8), None, (1, 0), 0.5, True, 7)
    fields = critique.to_dict()
    assert fields == {
        "text": "text",
        "scores": [3, 8],
        "problem": None,
        "order": [1, 0],
        "meta_score": 0.5,
        "counted": True,
        "num_tokens": 7,
        "closed": False,
    }
    assert Critique.from_dict({**fields, "other": 1}) == critique
    assert Critique.from_dict(Critique("x", problem="value").to_dict()) == Critique("x", problem="value")


# --- drafts of other spellings, and other forms of scores ---

TAGS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<THINK>", "</THINK>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
]


@pytest.mark.parametrize(("opens", "closes"), TAGS)
def test_a_draft_is_never_read(opens, closes):
    draft, answer = r"\boxed{1, 2}", r"\boxed{8, 3}"
    assert without_thoughts(f"{opens}{draft}{closes}{answer}") == answer
    assert parse_critique(f"{opens}{draft}{closes}{answer}").scores == (8, 3)
    assert parse_critique(f"{draft}{closes}{answer}", prefilled=True).scores == (8, 3)
    assert parse_critique(f"{opens}{draft}{answer}").problem == "missing", "never closed"
    assert without_thoughts(f"{opens}{draft}") is None
    assert without_thoughts(f"{opens}a{closes}b{opens}{draft}") is None, "opened again"
    assert opens_draft(f"…assistant\n{opens}\n") and not opens_draft(f"{opens}\n{closes}\n\n")


def test_an_open_draft_in_the_prompt():
    assert without_thoughts(r"\boxed{8, 3}") == r"\boxed{8, 3}" and without_thoughts("", True) is None
    assert parse_critique(r"\boxed{8, 3}", prefilled=True).problem == "missing"


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab\\{}8,3<>/", max_size=12), st.sampled_from(TAGS), st.text(alphabet="ab<>[]", max_size=8))
def test_the_answer_behind_any_draft(draft, tags, answer):
    assert without_thoughts(f"{tags[0]}{draft}{tags[1]}{answer}") == answer
    assert without_thoughts(f"{draft}{tags[1]}{answer}", prefilled=True) == answer


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("<scores>{scores}</scores>", "<scores>1, 2</scores> <scores>\n8, 3\n</scores>", (8, 3)),
        ("<scores>{scores}</scores>", "<scores>8, 3", "missing"),
        ("<scores>{scores}</scores>", r"\boxed{8, 3}", "missing"),
        ("<scores>{scores}</scores>", "<scores>8/10, 3</scores>", "value"),
        ("<scores>{scores}</scores>", "<scores>8</scores>", "count"),
        ("Scores: {scores}", "Scores: 8, 3\nDone.", (8, 3)),
        ("Scores: {scores}", "Scores: 8, 3", (8, 3)),
        ("<score_{i}>{score}</score_{i}>", "<score_A>8</score_A><score_B>3</score_B>", (8, 3)),
        ("<score_{i}>{score}</score_{i}>", "<score_B>3</score_B>\n<score_A>8</score_A>", (8, 3)),
        ("<score_{i}>{score}</score_{i}>", "<score_A>8</score_A>", "missing"),
        ("<score_{i}>{score}</score_{i}>", "<score_A>8, 3</score_A><score_B>3</score_B>", "value"),
        ("<score_{i}>{score}</score_{i}>", "<score_A>11</score_A><score_B>3</score_B>", "range"),
    ],
)
def test_other_forms_of_scores(form, text, expected):
    critique = parse_critique(text, 2, score_form=form, names=("A", "B"))
    assert (critique.scores or critique.problem) == expected
    template = JudgeTemplate.from_text("{conversation}{responses}", score_form=form, labels=("A", "B"))
    assert template.parse(text, 2) == critique


@pytest.mark.parametrize("form", ["", "{scores}", "scores", "<s>{score}</s>"])
def test_a_form_needs_something_to_find(form):
    with pytest.raises(ValueError, match="score_form"):
        JudgeTemplate("", "", score_form=form)
