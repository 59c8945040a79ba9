# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The view shows what was judged, and nothing that was judged changes the view."""

import html.parser
import io
import json
import re
import runpy
import xml.etree.ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import RECIPES
from rich.console import Console
from tiny_models import save_tiny

from trl_spct import Preference
from trl_spct.view import show, visible


def critique(scores, order=(0, 1), text=None, meta=None, counted=True, problem=None):
    text = text or f"Specific Criteria: Accuracy (weight 9)\nAnalysis: the second.\nScores: \\boxed{{{scores}}}"
    return {
        "text": text,
        "scores": scores,
        "problem": problem,
        "order": list(order),
        "meta_score": meta,
        "counted": counted,
        "num_tokens": 9,
    }


def verdict(*critiques, **changed):
    return {
        "scores": [17, 25],
        "best": 1,
        "tied": [1],
        "k": 4,
        "drawn": len(critiques),
        "votes": 2,
        "problems": {},
        "critiques": list(critiques),
        "truncated": None,
        "blocks": None,
        **changed,
    }


ROW = {"query": "Name a prime.", "responses": ["four", "seven"]}
GUIDED = verdict(
    critique([1, 5], meta=1.67), critique([5, 6], (1, 0), meta=-15.78, counted=False), critique([4, 8], meta=1.31)
)


def recorded(*arguments, width=120):
    console = Console(file=io.StringIO(), width=width, color_system=None, record=True)
    show(*arguments, console=console)
    return console


def printed(*arguments, width=120):
    return recorded(*arguments, width=width).file.getvalue()


def to_html(*arguments, width=120):
    return recorded(*arguments, width=width).export_html()


class Text(html.parser.HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)
        self.text = "".join(self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_everything_is_there():
    for text in (printed(GUIDED, ROW), Text(to_html(GUIDED, ROW)).text):
        for part in ("Name a prime.", "four", "seven", "Accuracy (weight 9)", "-15.78", "2 of 3 critiques vote"):
            assert part in text, part
        assert "Response 2: 25 ★" in text and "Response 1: 17" in text
    assert re.search(r"│ 2 +│ 2 1 +│ +5 │ +6 │ -15.78 │ – ", printed(GUIDED))
    assert re.search(r"sum +│ +17 │ +25 ★ │", printed(GUIDED))


def test_problems_ties_and_early_ends():
    bad = critique(None, problem="missing", counted=False, text="I cannot say.")
    lost = verdict(bad, scores=None, best=None, tied=[], votes=0, problems={"missing": 1})
    assert all("no winner; unreadable: 1 missing" in text for text in (printed(lost, ROW), to_html(lost, ROW)))
    tied = verdict(critique([5, 5]), scores=[5, 5], best=0, tied=[0, 1], votes=1, drawn=1)
    assert "decided early, 4 were asked for; tied: 1, 2" in printed(tied)
    blocks = {"responses": [[2, 0], [2, 1]], "anchor": 2, "anchor_scores": [5.0, 5.0]}
    parts = [critique([3, None, 5], (2, 0)), critique([None, 4, 5], (1, 2))]
    apart = verdict(*parts, scores=[3.0, 4.0, 5.0], best=2, tied=[2], blocks=blocks, k=1)
    assert "in 2 blocks, anchor 3" in printed(apart) and "5 ★" in printed(apart)
    nothing = verdict(scores=None, best=None, tied=[], votes=0)
    assert "0 of 0" in printed(nothing) and "0 of 0" in to_html(nothing)


def test_unreadable_critiques_have_a_legend():
    bad = [critique(None, problem=problem, counted=False, text="?") for problem in ("missing", "truncated")]
    lost = verdict(*bad, scores=None, best=None, tied=[], votes=0, problems={"missing": 1, "truncated": 1})
    for text in (printed(lost, ROW), Text(to_html(lost)).text):
        assert "missing: no closed" in text and "`template`" in text and "raise `max_new_tokens`" in text
    assert "missing:" not in printed(GUIDED)


def test_responses_that_a_cut_made_equal():
    cut = {"query": 0, "responses": [3, 3], "reference": 0, "made_equal": [[0, 1]]}
    tied = verdict(critique([5, 5]), scores=[5, 5], best=0, tied=[0, 1], truncated=cut)
    assert "texts were cut to fit; the cut made responses 1, 2 equal" in printed(tied, width=200)


def test_show_and_other_rows():
    console = Console(file=io.StringIO(), width=100)
    show(GUIDED, Preference("Why?", ("a", "b"), reference="because", principles="Depth (weight 1)"), 0, console)
    text = console.file.getvalue()
    assert "because" in text and "Depth (weight 1)" in text and "Critique 1" not in text
    assert "Response" not in printed(GUIDED).replace("Critique", "")
    numbers = re.findall(r"Critique (\d):", printed(GUIDED, ROW))
    assert numbers == ["1", "3"], "voters first, by meta score"


HOSTILE = [
    "[bold red]x[/bold red][/] [link=http://x]y[/link] \\[z]",
    "</pre><script>alert(1)</script><img src=x onerror=y>&amp;",
    "\x1b[31mred\x1b]8;;http://x\x07 \x00\r\x08 \x9b1m",
    "\u202eabc\u200b\u2066d\ufeff \ud800 \udfff \u2028",
    "{body} {0} %s",
    "🧑‍🚀 汉字 é \t tab",
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_shown_as_text(hostile):
    found = verdict(critique([1, 2], text=f"Specific Criteria: {hostile}\nAnalysis: {hostile}"))
    row = {"query": f"a {hostile}".encode("utf-8", "replace").decode(), "responses": ["x", "y"]}
    page = to_html(found, row, width=400)
    assert set(Text(page).tags) <= {"html", "head", "meta", "style", "body", "pre", "code", "span"}
    assert visible(hostile).split()[0] in Text(page).text
    assert visible(hostile).split()[0] in printed(found, row, width=400)
    picture = recorded(found, row).export_svg()
    xml.etree.ElementTree.fromstring(picture.encode())
    for text in (page, picture, printed(found, row)):
        assert not any(sign in text for sign in "\x1b\x00\x07\x08\x9b\u202e\u2066\u200b\ufeff")


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters()))
def test_visible_text_has_nothing_to_hide(text):
    shown = visible(text, None)
    shown.encode()
    assert visible(shown, None) == shown, "what is visible stays as it is"
    assert all(sign.isprintable() or sign in "\n\t" or sign.isspace() for sign in shown)


def test_long_texts_are_cut():
    shown = visible("a" * 100_000 + "end")
    assert len(shown) < 1600 and shown.endswith("end") and "98503 characters" in shown


def test_the_recipe(tmp_path):
    row = tmp_path / "row.json"
    row.write_text(json.dumps(ROW))
    path = save_tiny(tmp_path / "judge", "llama", max_position_embeddings=4096)
    recipe = runpy.run_path(str(RECIPES / "view.py"))
    pictures = [str(tmp_path / name) for name in ("a.svg", "a.html")]
    asked = ["--model_name_or_path", path, "--row", str(row), "--k", "2", "--max_new_tokens", "4"]
    asked += ["--output", *pictures]
    recipe["main"](recipe["make_parser"]().parse_args(asked))
    svg, page = (Path(name).read_text() for name in pictures)
    xml.etree.ElementTree.fromstring(svg)
    assert Text(page).text.count("seven") == 1 and "2 truncated" in page
