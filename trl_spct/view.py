# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""One judgment, made to be looked at: in the terminal, as HTML or as an SVG picture.

What a judge read and wrote may hold anything: markup is shown as text, and invisible characters are made visible.
"""

import html
import io
import unicodedata
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from .judge.critiques import Critique
from .judge.preferences import Preference
from .judge.prompts import conversation_text


WINNER = "★"
VOTED, SILENT = "✓", "–"
MAX_CHARACTERS = 1500


def show(
    verdict: Mapping[str, Any],
    row: Mapping[str, Any] | Preference | None = None,
    critiques: int = 2,
    console: Console | None = None,
) -> None:
    """Shows a judgment in the terminal.

    ```python
    >>> from trl_spct.view import show
    >>> verdict = judge(row, k=8)
    >>> show(verdict, row)
    ```

    Args:
        verdict (mapping): What a [`GRMRewardPipeline`] returned for one row.
        row (mapping or [`Preference`], *optional*): The row itself, to show its query and responses as well.
        critiques (`int`, *optional*, defaults to `2`):
            Critiques to show in full: those that voted first, the best by meta score if there is one.
        console (`rich.console.Console`, *optional*): Where to show it.
    """
    (console or Console()).print(render(verdict, row, critiques))


def render(verdict: Mapping[str, Any], row: Mapping[str, Any] | Preference | None = None, critiques: int = 2) -> Group:
    """A judgment as something that `rich` can print. See [`show`] for the arguments."""
    preference = _preference(row)
    parts: list[Any] = []
    if preference is not None:
        parts.append(Panel(Text(visible(conversation_text(preference.query))), title="Query", title_align="left"))
        for name, kind in ((preference.principles, "Given principles"), (preference.reference, "Reference")):
            if name is not None:
                parts.append(Panel(Text(visible(name)), title=kind, title_align="left"))
        for index, response in enumerate(preference.responses):
            best = index == verdict["best"]
            title = Text(f"Response {index + 1}{_of(verdict, index)}", style="bold green" if best else "")
            style = "green" if best else "dim"
            parts.append(Panel(Text(visible(response)), title=title, title_align="left", border_style=style))
    parts.append(Rule(Text(_headline(verdict)), align="left"))
    table = Table()
    header, *lines = _table(verdict)
    for place, name in enumerate(header):
        numbers = 2 <= place < len(header) - 1
        table.add_column(Text(name), justify="right" if numbers else "left", no_wrap=place < 2)
    for line in lines[:-1]:
        table.add_row(*map(Text, line), style="" if line[-1] == VOTED else "dim")
    table.add_section()
    table.add_row(*map(Text, lines[-1]), style="bold")
    parts.append(table)
    for number, critique in _chosen(verdict, critiques):
        parts.append(Rule(Text(f"Critique {number}: {_reading(critique)}"), align="left"))
        principles = Critique(critique["text"]).principles
        if principles is not None:
            parts.append(Panel(Text(visible(principles)), title="Principles", title_align="left", border_style="cyan"))
        parts.append(Text(visible(critique["text"])))
    return Group(*parts)


def to_svg(
    verdict: Mapping[str, Any],
    row: Mapping[str, Any] | Preference | None = None,
    critiques: int = 1,
    title: str = "trl_spct",
    width: int = 100,
) -> str:
    """The same as an SVG picture, `width` characters wide. See [`show`] for the arguments."""
    console = Console(record=True, width=width, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(render(verdict, row, critiques))
    return console.export_svg(title=visible(title))


def to_html(
    verdict: Mapping[str, Any], row: Mapping[str, Any] | Preference | None = None, critiques: int | None = None
) -> str:
    """The same as a page of HTML, without scripts and without anything from elsewhere; all critiques by default."""
    preference = _preference(row)
    body = []
    if preference is not None:
        body.append(_section("Query", conversation_text(preference.query)))
        for text, title in ((preference.principles, "Given principles"), (preference.reference, "Reference")):
            if text is not None:
                body.append(_section(title, text))
        for index, response in enumerate(preference.responses):
            kind = "best" if index == verdict["best"] else ""
            body.append(_section(f"Response {index + 1}{_of(verdict, index)}", response, kind))
    header, *lines = _table(verdict)
    rows = "".join(f"<tr>{''.join(f'<td>{_escaped(cell)}</td>' for cell in line)}</tr>\n" for line in lines)
    head = "".join(f"<th>{_escaped(name)}</th>" for name in header)
    body.append(f"<h2>{_escaped(_headline(verdict))}</h2>\n<table>\n<tr>{head}</tr>\n{rows}</table>")
    for number, critique in _chosen(verdict, len(verdict["critiques"]) if critiques is None else critiques):
        principles = Critique(critique["text"]).principles
        inner = "" if principles is None else _section("Principles", principles, "principles")
        body.append(
            f"<details><summary>Critique {number}: {_escaped(_reading(critique))}</summary>\n{inner}"
            f"<pre>{_escaped(critique['text'])}</pre></details>"
        )
    return _PAGE.format(body="\n".join(body))


def visible(text: str, most: int | None = MAX_CHARACTERS) -> str:
    """Text in which nothing is hidden: control and format characters by their code, and no more than `most`.

    Line breaks and tabs stay; the direction of text cannot be turned, and a terminal gets no commands.
    """
    missing = 0 if most is None else len(text) - most
    if missing > 0:
        text = f"{text[: most - most // 3]} […{missing} characters…] {text[-(most // 3) :]}"
    return "".join(
        f"<U+{ord(sign):04X}>" if sign not in "\n\t" and unicodedata.category(sign) in _HIDDEN else sign
        for sign in text
    )


_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Judgment</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }}
section {{ border-left: 4px solid #bbb; margin: .6em 0; padding: .2em .8em; }}
section.best {{ border-color: #2a7d2a; }} section.principles {{ border-color: #2a6f7d; }}
h2, h3 {{ font-size: 1em; margin: .4em 0; }} pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: .3em 0; }}
table {{ border-collapse: collapse; }} td, th {{ border: 1px solid #ccc; padding: .15em .6em; text-align: right; }}
tr:last-child {{ font-weight: bold; }} details {{ margin: .4em 0; }} summary {{ cursor: pointer; }}
</style></head><body>
{body}
</body></html>
"""


def _preference(row: Mapping[str, Any] | Preference | None) -> Preference | None:
    return row if row is None or isinstance(row, Preference) else Preference.from_row(row)


def _section(title: str, text: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h3>{_escaped(title)}</h3><pre>{_escaped(text)}</pre></section>'


def _escaped(text: str) -> str:
    return html.escape(visible(text))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _of(verdict: Mapping[str, Any], index: int) -> str:
    """What a response got, behind its name."""
    if verdict["scores"] is None:
        return ""
    return f": {_number(verdict['scores'][index])}{f' {WINNER}' if index == verdict['best'] else ''}"


def _headline(verdict: Mapping[str, Any]) -> str:
    parts = [f"{verdict['votes']} of {verdict['drawn']} critiques vote"]
    if verdict["drawn"] < verdict["k"]:
        parts.append(f"decided early, {verdict['k']} were asked for")
    if verdict["best"] is None:
        parts.append("no winner")
    elif len(verdict["tied"]) > 1:
        parts.append(f"tied: {', '.join(str(index + 1) for index in verdict['tied'])}")
    if verdict["problems"]:
        parts.append("unreadable: " + ", ".join(f"{count} {cause}" for cause, count in verdict["problems"].items()))
    if verdict["truncated"]:
        parts.append("texts were cut to fit")
    if verdict["blocks"]:
        parts.append(f"in {len(verdict['blocks']['responses'])} blocks, anchor {verdict['blocks']['anchor'] + 1}")
    return "; ".join(parts)


def _table(verdict: Mapping[str, Any]) -> list[list[str]]:
    """Header, a line per critique, and the totals."""
    critiques = verdict["critiques"]
    n = max((max(critique["order"]) + 1 for critique in critiques), default=0)
    guided = any(critique["meta_score"] is not None for critique in critiques)
    header = ["#", "read as", *(f"R{i + 1}" for i in range(n)), *(["meta"] if guided else []), "votes"]
    lines = [header]
    for number, critique in enumerate(critiques, start=1):
        scores = critique["scores"] or [None] * n
        meta = [_number(critique["meta_score"])] if guided else []
        lines.append([str(number), _order(critique), *map(_number, scores), *meta, _voted(critique)])
    totals = verdict["scores"] or [None] * n
    cells = [f"{_number(total)}{f' {WINNER}' if i == verdict['best'] else ''}" for i, total in enumerate(totals)]
    return [*lines, ["", "sum", *cells, *([""] if guided else []), str(verdict["votes"])]]


def _order(critique: Mapping[str, Any]) -> str:
    return " ".join(str(response + 1) for response in critique["order"])


def _voted(critique: Mapping[str, Any]) -> str:
    return VOTED if critique["counted"] else critique["problem"] or SILENT


def _reading(critique: Mapping[str, Any]) -> str:
    """In which order the responses were read; a critique calls them by their place in it."""
    scores = "" if critique["scores"] is None else f", scores {' '.join(map(_number, critique['scores']))}"
    return f"read in the order {_order(critique)}{scores}, {'votes' if critique['counted'] else 'does not vote'}"


def _chosen(verdict: Mapping[str, Any], count: int) -> list[tuple[int, Mapping[str, Any]]]:
    """The critiques to show, with their numbers: voters before others, better meta scores before worse ones."""

    def rank(numbered: tuple[int, Mapping[str, Any]]) -> tuple:
        number, critique = numbered
        meta = critique["meta_score"]
        return not critique["counted"], -(meta if meta is not None else 0), number

    return sorted(enumerate(verdict["critiques"], start=1), key=rank)[:count]
