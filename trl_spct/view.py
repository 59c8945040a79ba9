# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judgments in the terminal. Markup in texts is shown as text, and invisible characters by their code."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Column, Table
from rich.text import Text

from .judge.judging import NEXT_STEPS
from .judge.preferences import Preference
from .judge.prompts import conversation_text


_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

Judgment = Mapping[str, Any]
Row = Mapping[str, Any] | Preference


def show(judgment: Judgment, row: Row | None = None, critiques: int = 2, console: Console | None = None) -> None:
    """Shows a judgment of a [`GRMRewardPipeline`] in the terminal, with the query and the responses of its row if that
    is passed, and some critiques in full: voters first, by meta score if there is one.

    A `rich` console with `record=True` can save what it printed, with `save_svg` and `save_html`."""
    parts: list[Any] = [] if row is None else _row_panels(judgment, row)
    legend = [f"{cause}: {NEXT_STEPS[cause]}." for cause in judgment["problems"] if cause in NEXT_STEPS]
    parts += [Rule(Text(_headline(judgment)), align="left"), _table(judgment), *map(Text, legend)]
    numbered = sorted(
        enumerate(judgment["critiques"], start=1),
        key=lambda pair: (not pair[1]["counted"], -(pair[1]["meta_score"] or 0)),
    )
    for number, critique in numbered[:critiques]:
        vote = "votes" if critique["counted"] else "does not vote"
        scores = "" if critique["scores"] is None else f", scores {' '.join(map(_number, critique['scores']))}"
        heading = f"Critique {number}: read in the order {_names(critique['order'], ' ')}{scores}, {vote}"
        parts += [Rule(Text(heading), align="left"), Text(visible(critique["text"]))]
    (console or Console()).print(Group(*parts))


def visible(text: str, most: int | None = 1500) -> str:
    """Text with its control and format characters by their code, which cannot change its direction or control a
    terminal, and at most `most` characters. Line breaks and tabs stay."""
    if most is not None and len(text) > most:
        text = f"{text[: most - most // 3]} […{len(text) - most} characters…] {text[-(most // 3) :]}"
    return "".join(
        f"<U+{ord(sign):04X}>" if sign not in "\n\t" and unicodedata.category(sign) in _HIDDEN else sign
        for sign in text
    )


def _row_panels(judgment: Judgment, row: Row) -> list[Panel]:
    preference = row if isinstance(row, Preference) else Preference.from_row(row)
    texts = [
        ("Query", conversation_text(preference.query), "none"),
        ("Given principles", preference.principles, "none"),
        ("Reference", preference.reference, "none"),
    ]
    for index, response in enumerate(preference.responses):
        total = "" if judgment["scores"] is None else f": {_total(judgment, index)}"
        texts.append((f"Response {index + 1}{total}", response, "green" if index == judgment["best"] else "dim"))
    return [
        Panel(Text(visible(text)), title=Text(title), title_align="left", border_style=style)
        for title, text, style in texts
        if text is not None
    ]


def _headline(judgment: Judgment) -> str:
    parts = [f"{judgment['votes']} of {judgment['drawn']} critiques vote"]
    if judgment["drawn"] < judgment["k"]:
        parts.append(f"decided early, {judgment['k']} were asked for")
    if judgment["best"] is None:
        parts.append("no winner")
    elif len(judgment["tied"]) > 1:
        parts.append(f"tied: {_names(judgment['tied'])}")
    if judgment["problems"]:
        parts.append("unreadable: " + ", ".join(f"{count} {cause}" for cause, count in judgment["problems"].items()))
    if judgment["truncated"]:
        parts.append("texts were cut to fit")
        parts += [f"the cut made responses {_names(group)} equal" for group in judgment["truncated"]["made_equal"]]
    if judgment["blocks"]:
        parts.append(f"in {len(judgment['blocks']['responses'])} blocks, anchor {judgment['blocks']['anchor'] + 1}")
    return "; ".join(parts)


def _table(judgment: Judgment) -> Table:
    critiques = judgment["critiques"]
    n = max((max(critique["order"]) + 1 for critique in critiques), default=0)
    guided = any(critique["meta_score"] is not None for critique in critiques)
    numbers = [f"R{i + 1}" for i in range(n)] + ["meta"] * guided
    table = Table("#", Column("read as", no_wrap=True), *(Column(name, justify="right") for name in numbers), "votes")
    for number, critique in enumerate(critiques, start=1):
        scores = critique["scores"] or [None] * n
        meta = [_number(critique["meta_score"])] * guided
        voted = "✓" if critique["counted"] else critique["problem"] or "–"
        cells = [str(number), _names(critique["order"], " "), *map(_number, scores), *meta, voted]
        table.add_row(*map(Text, cells), style="" if critique["counted"] else "dim")
    sums = [""] * n if judgment["scores"] is None else [_total(judgment, i) for i in range(n)]
    table.add_section()
    table.add_row("", "sum", *sums, *[""] * guided, str(judgment["votes"]), style="bold")
    return table


def _total(judgment: Judgment, index: int) -> str:
    return _number(judgment["scores"][index]) + " ★" * (index == judgment["best"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _names(responses: Sequence[int], separator: str = ", ") -> str:
    return separator.join(str(response + 1) for response in responses)
