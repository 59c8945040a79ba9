# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judgments in the terminal, as HTML and as SVG.

Markup in texts is shown as text, and invisible characters by their code.
"""

import io
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from .judge.critiques import Critique
from .judge.judging import NEXT_STEPS
from .judge.preferences import Preference
from .judge.prompts import conversation_text


WINNER = "★"
VOTED, SILENT = "✓", "–"
MAX_CHARACTERS = 1500
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

Judgment = Mapping[str, Any]
Row = Mapping[str, Any] | Preference


def show(judgment: Judgment, row: Row | None = None, critiques: int = 2, console: Console | None = None) -> None:
    """Shows a judgment in the terminal.

    ```python
    >>> from trl_spct.view import show
    >>> judgment = judge(row, k=8)
    >>> show(judgment, row)
    ```

    Args:
        judgment (mapping): From a [`GRMRewardPipeline`], for one row.
        row (mapping or [`Preference`], *optional*): The row, to show its query and responses as well.
        critiques (`int`, *optional*, defaults to `2`):
            Critiques to show in full: voters first, by meta score if there is one.
        console (`rich.console.Console`, *optional*): Where to print.
    """
    (console or Console()).print(render(judgment, row, critiques))


def render(judgment: Judgment, row: Row | None = None, critiques: int = 2) -> Group:
    """A judgment as an object that `rich` can print. Arguments as for [`show`]."""
    parts: list[Any] = [] if row is None else _row_panels(judgment, row)
    parts += [Rule(Text(_headline(judgment)), align="left"), _table(judgment), *_legend(judgment)]
    for number, critique in _chosen(judgment, critiques):
        parts.append(Rule(Text(f"Critique {number}: {_reading(critique)}"), align="left"))
        principles = Critique(critique["text"]).principles
        if principles is not None:
            parts.append(_panel("Principles", principles, "cyan"))
        parts.append(Text(visible(critique["text"])))
    return Group(*parts)


def to_svg(
    judgment: Judgment, row: Row | None = None, critiques: int = 1, title: str = "trl_spct", width: int = 100
) -> str:
    """A judgment as an SVG picture, `width` characters wide. Other arguments as for [`show`]."""
    return _recorded(judgment, row, critiques, width).export_svg(title=visible(title))


def to_html(judgment: Judgment, row: Row | None = None, critiques: int | None = None, width: int = 120) -> str:
    """A judgment as an HTML page without scripts and external content; with all critiques by default.

    Other arguments as for [`show`].
    """
    count = len(judgment["critiques"]) if critiques is None else critiques
    return _recorded(judgment, row, count, width).export_html()


def visible(text: str, most: int | None = MAX_CHARACTERS) -> str:
    """Text without hidden content: control and format characters by their code, and at most `most` characters.

    Line breaks and tabs stay; text cannot change its direction or control a terminal.
    """
    missing = 0 if most is None else len(text) - most
    if most is not None and missing > 0:
        text = f"{text[: most - most // 3]} […{missing} characters…] {text[-(most // 3) :]}"
    return "".join(
        f"<U+{ord(sign):04X}>" if sign not in "\n\t" and unicodedata.category(sign) in _HIDDEN else sign
        for sign in text
    )


def _recorded(judgment: Judgment, row: Row | None, critiques: int, width: int) -> Console:
    console = Console(record=True, width=width, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(render(judgment, row, critiques))
    return console


def _row_panels(judgment: Judgment, row: Row) -> list[Panel]:
    preference = row if isinstance(row, Preference) else Preference.from_row(row)
    panels = [_panel("Query", conversation_text(preference.query))]
    for title, text in (("Given principles", preference.principles), ("Reference", preference.reference)):
        if text is not None:
            panels.append(_panel(title, text))
    for index, response in enumerate(preference.responses):
        best = index == judgment["best"]
        title = f"Response {index + 1}"
        if judgment["scores"] is not None:
            title += f": {_number(judgment['scores'][index])}{f' {WINNER}' if best else ''}"
        panels.append(_panel(title, response, "green" if best else "dim"))
    return panels


def _panel(title: str, text: str, style: str = "none") -> Panel:
    heading = Text(title, style="bold green" if style == "green" else "")
    return Panel(Text(visible(text)), title=heading, title_align="left", border_style=style)


def _headline(judgment: Judgment) -> str:
    parts = [f"{judgment['votes']} of {judgment['drawn']} critiques vote"]
    if judgment["drawn"] < judgment["k"]:
        parts.append(f"decided early, {judgment['k']} were asked for")
    if judgment["best"] is None:
        parts.append("no winner")
    elif len(judgment["tied"]) > 1:
        parts.append(f"tied: {_numbers(judgment['tied'])}")
    if judgment["problems"]:
        parts.append("unreadable: " + ", ".join(f"{count} {cause}" for cause, count in judgment["problems"].items()))
    if judgment["truncated"]:
        parts.append("texts were cut to fit")
        for group in judgment["truncated"].get("made_equal", ()):
            parts.append(f"the cut made responses {_numbers(group)} equal")
    if judgment["blocks"]:
        parts.append(f"in {len(judgment['blocks']['responses'])} blocks, anchor {judgment['blocks']['anchor'] + 1}")
    return "; ".join(parts)


def _table(judgment: Judgment) -> Table:
    """A line per critique, and the totals."""
    critiques, totals = judgment["critiques"], judgment["scores"]
    n = max((max(critique["order"]) + 1 for critique in critiques), default=0)
    guided = any(critique["meta_score"] is not None for critique in critiques)
    table = Table()
    for name in ("#", "read as"):
        table.add_column(name, no_wrap=True)
    for name in (*(f"R{i + 1}" for i in range(n)), *(["meta"] if guided else [])):
        table.add_column(name, justify="right")
    table.add_column("votes")
    for number, critique in enumerate(critiques, start=1):
        scores = critique["scores"] or [None] * n
        meta = [_number(critique["meta_score"])] if guided else []
        voted = VOTED if critique["counted"] else critique["problem"] or SILENT
        cells = [str(number), _order(critique), *map(_number, scores), *meta, voted]
        table.add_row(*map(Text, cells), style="" if critique["counted"] else "dim")
    sums = [f"{_number(total)}{f' {WINNER}' if i == judgment['best'] else ''}" for i, total in enumerate(totals or ())]
    cells = ["", "sum", *(sums or [""] * n), *([""] if guided else []), str(judgment["votes"])]
    table.add_section()
    table.add_row(*map(Text, cells), style="bold")
    return table


def _legend(judgment: Judgment) -> list[Text]:
    """What each cause of an unreadable critique means, and what to do."""
    return [
        Text(f"{cause}: {NEXT_STEPS[cause]}.", style="dim") for cause in judgment["problems"] if cause in NEXT_STEPS
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _numbers(responses: Sequence[int]) -> str:
    return ", ".join(str(response + 1) for response in responses)


def _order(critique: Mapping[str, Any]) -> str:
    return " ".join(str(response + 1) for response in critique["order"])


def _reading(critique: Mapping[str, Any]) -> str:
    """The order in which the responses were read, by whose places a critique names them."""
    scores = "" if critique["scores"] is None else f", scores {' '.join(map(_number, critique['scores']))}"
    return f"read in the order {_order(critique)}{scores}, {'votes' if critique['counted'] else 'does not vote'}"


def _chosen(judgment: Judgment, count: int) -> list[tuple[int, Mapping[str, Any]]]:
    """The critiques to show, with their numbers: voters before others, by meta score."""

    def rank(numbered: tuple[int, Mapping[str, Any]]) -> tuple:
        number, critique = numbered
        meta = critique["meta_score"]
        return not critique["counted"], -(meta if meta is not None else 0), number

    return sorted(enumerate(judgment["critiques"], start=1), key=rank)[:count]
