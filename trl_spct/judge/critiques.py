# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
r"""Critiques and the scores read from them: `{S_i} = f_extract(C)` (paper, section 2.1).

Only the last `\boxed{…}` of the judge's own completion counts. An unreadable completion has no scores, but a cause.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .preferences import restore_order

PROBLEMS = MISSING, COUNT, RANGE, VALUE = ("missing", "count", "range", "value")

_AROUND = " \t\r\n\xa0$"  # a score
BOX = r"\boxed{{scores}}"
"""The form of the scores in the paper. A box may have white space before its brace."""

_BOX_OPENS = re.compile(r"\\boxed[ \t]*\{")
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}(?:\.0{1,9})?")
_FULL_WIDTH = str.maketrans("０１２３４５６７８９，．＋－　", "0123456789,.+- ")
_PRINCIPLES = re.compile(r"specific\s+criteria[^\w\n]*", re.IGNORECASE)
_ANALYSIS = re.compile(r"^[^\w\n]*analysis\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Critique:
    """One critique: what the judge wrote, and what was read from it.

    Args:
        text (`str`): The completion, whole and unchanged.
        scores (`tuple[int, ...]`, *optional*):
            One score per response, in the order of the row (from [`parse_critique`], in the order that was read).
        problem (`str`, *optional*):
            Why there are no scores: `"missing"` (no closed, filled last box, or an open draft), `"count"` (not one per
            response), `"range"` (outside of the score range), `"value"` (not a whole number), or `"truncated"` (the
            token limit was reached).
        order (`tuple[int, ...]`, *optional*): `order[p]` is the response that the judge read as number p + 1.
        meta_score (`float`, *optional*): The Meta RM's logit; `None` if it did not score the critique.
        counted (`bool`, *optional*, defaults to `False`): Whether the critique votes.
        num_tokens (`int`, *optional*): Length of the completion in tokens.
        closed (`bool`, *optional*, defaults to `False`): Whether its scores were decoded behind a text without any.
    """

    text: str
    scores: tuple[int, ...] | None = None
    problem: str | None = None
    order: tuple[int, ...] | None = None
    meta_score: float | None = None
    counted: bool = False
    num_tokens: int | None = None
    closed: bool = False

    def in_row_order(self, order: Sequence[int]) -> "Critique":
        """The critique with its scores in the order of the row, and the `order` in which the judge read it."""
        return replace(self, scores=restore_order(self.scores, order), order=tuple(order))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-like values: scores and order as lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Critique":
        """The inverse of [`Critique.to_dict`]. Other keys are ignored."""
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        for name in ("scores", "order"):
            known[name] = None if known.get(name) is None else tuple(known[name])
        return cls(**known)

    @property
    def principles(self) -> str | None:
        """The text between `Specific Criteria:` and `Analysis:` or the last box; `None` if the judge named none."""
        answer = without_thoughts(self.text) or ""
        opening = _PRINCIPLES.search(answer)
        if opening is None:
            return None
        closing = _ANALYSIS.search(answer, opening.end()) or _last_box(answer)
        return answer[opening.end() : closing.start() if closing else None].strip() or None


def parse_critique(
    text: str,
    num_responses: int = 2,
    score_range: tuple[int, int] = (1, 10),
    score_form: str = BOX,
    names: Sequence[str] | None = None,
    prefilled: bool = False,
) -> Critique:
    r"""Reads the scores from a judge's completion.

    The last `\boxed{…}` must hold exactly `num_responses` whole numbers within `score_range`, separated by commas.
    Earlier boxes are never consulted, nor is a draft, see [`without_thoughts`]. Full-width digits and commas are read
    as their plain forms. Where there are no scores, `problem` says why.

    Args:
        score_form (`str`, *optional*, defaults to the last `\boxed{…}`):
            The text around the scores, see [`~trl_spct.judge.templates.JudgeTemplate`].
        names (sequence of `str`, *optional*): The names of the responses in `score_form`; `"1"`, `"2"`, … by default.
        prefilled (`bool`, *optional*, defaults to `False`): Whether the prompt ended with an open draft.

    ```python
    >>> parse_critique(r"Scores: \boxed{8, 3}").scores
    (8, 3)
    >>> parse_critique(r"Scores: \boxed{8/10, 3}").problem
    'value'
    ```
    """
    answer = without_thoughts(text, prefilled)
    if names is None:
        names = [str(number) for number in range(1, num_responses + 1)]
    fields = [field.strip(_AROUND) for field in _score_fields(answer or "", score_form, names)]
    if not any(fields):
        return Critique(text, problem=MISSING)
    if not all(_INTEGER.fullmatch(field) for field in fields):
        return Critique(text, problem=VALUE)
    if len(fields) != num_responses:
        return Critique(text, problem=COUNT)
    scores = tuple(int(float(field)) for field in fields)
    low, high = score_range
    if not all(low <= score <= high for score in scores):
        return Critique(text, problem=RANGE)
    return Critique(text, scores=scores)


_DRAFTS = (
    (re.compile(r"<think(?:ing)?>", re.IGNORECASE), re.compile(r"</think(?:ing)?>", re.IGNORECASE)),
    (re.compile(r"\[THINK\]"), re.compile(r"\[/THINK\]")),
    (re.compile("◁think▷"), re.compile("◁/think▷")),
    (re.compile(r"<\|begin_of_thought\|>"), re.compile(r"<\|end_of_thought\|>")),
)
_OPEN_DRAFT = re.compile(rf"(?:{'|'.join(opens.pattern for opens, _ in _DRAFTS)})\s*\Z", re.IGNORECASE)


def without_thoughts(text: str, prefilled: bool = False) -> str | None:
    """The text behind the last draft (`<think>…</think>`, `[THINK]…` and others), the whole text if there is none, or
    `None` if a draft was opened, or the prompt ended with an open one (`prefilled`), and it was never closed."""
    end = 0
    for opens, closes in _DRAFTS:
        closed = max((match.end() for match in closes.finditer(text)), default=0)
        if opens.search(text, closed):
            return None
        end = max(end, closed)
    return None if prefilled and not end else text[end:]


def closing_tag(text: str) -> str:
    """The tag that closes the draft with which a text ends, or nothing."""
    drafts = [(match.start(), match[0]) for opens, _ in _DRAFTS for match in opens.finditer(text)]
    if not drafts or without_thoughts(text) is not None:
        return ""
    tag = max(drafts)[1]
    return tag.replace("begin", "end") if "begin" in tag else f"{tag[0]}/{tag[1:]}"


def is_draft_tag(text: str) -> bool:
    """Whether a text is the tag that opens or closes a draft."""
    return any(tag.fullmatch(text) for tags in _DRAFTS for tag in tags)


def opens_draft(prompt: str) -> bool:
    """Whether a rendered prompt ends with an open draft, as of chat templates that begin the answer with `<think>`."""
    return bool(_OPEN_DRAFT.search(prompt[-40:]))


def _score_fields(answer: str, form: str, names: Sequence[str]) -> list[str]:
    """The texts of the scores, from the last occurrence of the form; no text for a form that is not closed."""
    opening, closing = re.split(r"\{scores?\}", form)
    if form == BOX:
        box = _last_box(answer)
        return _between(answer, box[0], closing).split(",") if box else []
    if "{scores}" in form:
        return _between(answer, opening, closing).split(",")
    fields = [_between(answer, opening.replace("{i}", name), closing.replace("{i}", name)) for name in names]
    return fields if all(fields) else []


def _between(text: str, opening: str, closing: str) -> str:
    """The text behind the last `opening`, up to `closing`, or to the end of the line for an empty one."""
    _, opened, behind = text.rpartition(opening)
    inside, closed, _ = behind.partition(closing or "\n")
    return inside.translate(_FULL_WIDTH) if opened and (closed or not closing) else ""


def boxed_span(text: str) -> tuple[int, int]:
    """Where the number in the last box of a text begins and ends."""
    box = _last_box(text)
    assert box is not None
    inside = text[box.end() :].partition("}")[0]
    start = box.end() + len(inside) - len(inside.lstrip(_AROUND))
    return start, start + len(inside.strip(_AROUND))


def _last_box(text: str) -> re.Match | None:
    """The opening of the last box."""
    return max(_BOX_OPENS.finditer(text), key=re.Match.start, default=None)
