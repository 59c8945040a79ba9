# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
r"""What a judge wrote, and the scores read from it: `{S_i} = f_extract(C)` (paper, section 2.1).

Only the last `\boxed{…}` of the judge's own completion counts. Whatever cannot be read is no score, and says why.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .preferences import restore_order


MISSING, COUNT, RANGE, VALUE = "missing", "count", "range", "value"
PROBLEMS = (MISSING, COUNT, RANGE, VALUE)

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
            One score per response, or `None` if none could be read. From [`parse_critique`] they are in the order that
            the judge read; [`Critique.in_row_order`] moves them into the order of the row, in which they are stored.
        problem (`str`, *optional*):
            Why there are no scores: `"missing"` (no closed, filled last box), `"count"` (not one score per response),
            `"range"` (a number outside of the score range), `"value"` (something that is not a whole number), or
            `"truncated"` (the completion reached the token limit).
        order (`tuple[int, ...]`, *optional*): `order[p]` is the response that the judge read as number p + 1.
        meta_score (`float`, *optional*): The Meta RM's logit; `None` if it did not score the critique.
        counted (`bool`, *optional*, defaults to `False`): Whether the critique votes.
        num_tokens (`int`, *optional*): Length of the completion in tokens.
    """

    text: str
    scores: tuple[int, ...] | None = None
    problem: str | None = None
    order: tuple[int, ...] | None = None
    meta_score: float | None = None
    counted: bool = False
    num_tokens: int | None = None

    def in_row_order(self, order: Sequence[int]) -> "Critique":
        """The critique with its scores in the order of the row, and the `order` in which the judge read the responses.

        Args:
            order (sequence of `int`): `order[p]` is the response that the judge read as number p + 1.
        """
        return replace(self, scores=restore_order(self.scores, order), order=tuple(order))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-like values: scores and order as lists."""
        fields = dict(vars(self))
        for name in ("scores", "order"):
            fields[name] = None if fields[name] is None else list(fields[name])
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Critique":
        """The inverse of [`Critique.to_dict`]. Other keys are ignored."""
        known = {name: fields[name] for name in cls.__dataclass_fields__ if name in fields}
        for name in ("scores", "order"):
            known[name] = None if known.get(name) is None else tuple(known[name])
        return cls(**known)

    @property
    def principles(self) -> str | None:
        """What stands between `Specific Criteria:` and `Analysis:`, or `None` if the judge named no criteria."""
        return read_principles(self.text) if _PRINCIPLES.search(_answer(self.text)) else None


def parse_critique(text: str, num_responses: int = 2, score_range: tuple[int, int] = (1, 10)) -> Critique:
    r"""Reads the scores from a judge's completion.

    The last `\boxed{…}` must hold exactly `num_responses` whole numbers within `score_range`, separated by commas.
    Earlier boxes, brackets and numbers in the text are never consulted, not even when the last box is unreadable; text
    up to `</think>` is a draft. Full-width digits and commas are read as their plain forms.

    Args:
        text (`str`): The judge's completion, without the prompt.
        num_responses (`int`, *optional*, defaults to `2`): n.
        score_range (`tuple[int, int]`, *optional*, defaults to `(1, 10)`):
            Lowest and highest score. `(0, 1)` for the single-response training template.

    Returns:
        [`Critique`]: with `scores`, or with `problem` where there are none. Runs in time linear in the text.

    Example:

    ```python
    >>> from trl_spct import parse_critique
    >>> parse_critique(r"Scores: \boxed{8, 3}").scores
    (8, 3)
    >>> parse_critique(r"Scores: \boxed{8/10, 3}").problem
    'value'
    ```
    """
    content = _box_content(text)
    if content is None:
        return Critique(text, problem=MISSING)
    fields = [field.strip(" \t\r\n\xa0$") for field in content.translate(_FULL_WIDTH).split(",")]
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


def read_principles(text: str) -> str | None:
    """Reads principles from an answer to [`~trl_spct.judge.prompts.principle_messages`], or from a whole critique.

    The section `Specific Criteria:` if there is one, as in [`Critique.principles`]; else the answer up to `Analysis:`
    or its last box, since a model that is asked for nothing but criteria may leave the heading out. A draft before
    `</think>` is never read.

    Args:
        text (`str`): What the model wrote, without the prompt.

    Returns:
        `str`, or `None` if there are none: nothing was written, the section is empty, or the draft was never closed.

    Example:

    ```python
    >>> from trl_spct.judge.critiques import read_principles
    >>> read_principles("Specific Criteria: Brevity (weight 2)")
    'Brevity (weight 2)'
    >>> read_principles("1. Brevity (weight 2)")
    '1. Brevity (weight 2)'
    ```
    """
    answer = _answer(text)
    opening = _PRINCIPLES.search(answer)
    start = opening.end() if opening else 0
    closing = _ANALYSIS.search(answer, start)
    found = answer[start : closing.start() if closing else _last_box(answer)].strip()
    return found or None


def _last_box(text: str) -> int:
    """Where the last opened box begins, or the text's length if there is none."""
    start = len(text)
    for match in _BOX_OPENS.finditer(text):
        start = match.start()
    return start


def _answer(text: str) -> str:
    """What follows the draft: nothing if the draft was opened and never closed."""
    _, closed, answer = text.rpartition("</think>")
    return "" if not closed and "<think>" in text else answer


def _box_content(text: str) -> str | None:
    answer = _answer(text)
    opened = _BOX_OPENS.match(answer, _last_box(answer))
    if opened is None:
        return None
    closed = answer.find("}", opened.end())
    return answer[opened.end() : closed] if closed >= 0 else None
