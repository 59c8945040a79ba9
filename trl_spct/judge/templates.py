# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The fixed text of judge prompts (paper, sections 2.1 to 2.5)."""

import hashlib
import json
import re
from dataclasses import dataclass

from .critiques import BOX, Critique, parse_critique
from .fence import CONTEXT, CRITERIA, FORMAT, RESPONSES


def heading(title: str) -> str:
    """A title as the paper's prompts write it."""
    return f"#### {title} ####"


BEFORE = tuple(f"\n\n{heading(title)}\n" for title in (CONTEXT, RESPONSES, FORMAT))
"""The text before the conversation, the responses and the output format."""

DELIMITERS = ("[The Begin of Response {i}]\n", "\n[The End of Response {i}]")

# A line that begins and ends with signs of a heading or a tag, or begins with hashes.
_HEADING_LIKE = re.compile(r"\s*(?:#.*|[=*<{\[~|].*[=*>}\]~|])\s*")
_OPTIONS = "---\n"


@dataclass(frozen=True)
class JudgeTemplate:
    """The fixed text around a preference, and the form in which the judge writes its scores.

    Args:
        instructions, output_format (`str`): Everything before the conversation, and behind the responses.
        numbered (`bool`): Whether response blocks carry their number.
        before (`tuple[str, str, str]`): The text before the conversation, the responses and the output format.
        separator (`str`): The text between two response blocks.
        delimiters (`tuple[str, str]`): The text before and behind each response, with `{i}` for its number.
        labels (`tuple[str, ...]`, *optional*): Names in place of numbers, as `("A", "B")`.
        speaker (`bool`): Whether a query of one turn is written as `User: …`, as longer conversations always are.
        system (`str`, *optional*): A system turn before the prompt.
        score_form (`str`):
            The text around the scores in a completion: `{scores}` for all, separated by commas, or the text around
            each `{score}` with its number or label `{i}`: `"<score_{i}>{score}</score_{i}>"`.
    """

    instructions: str
    output_format: str
    score_range: tuple[int, int] = (1, 10)
    numbered: bool = True
    before: tuple[str, ...] = BEFORE
    separator: str = "\n"
    delimiters: tuple[str, str] = DELIMITERS
    labels: tuple[str, ...] | None = None
    speaker: bool = True
    system: str | None = None
    score_form: str = BOX

    def __post_init__(self):
        if not re.fullmatch(r".+(?:\{scores\}|\{i\}.*\{score\}).*", self.score_form, re.DOTALL):
            raise ValueError(
                f"Found score_form={self.score_form!r}; expected `{{scores}}` with text before it, or `{{score}}` "
                "with `{i}` in the text before it."
            )

    @classmethod
    def from_text(cls, text: str, **options) -> "JudgeTemplate":
        """A template from a whole prompt with the places `{conversation}` and `{responses}`.

        All other text is literal, braces included. Arguments may precede the prompt between two lines `---`, one a
        line, with a value in JSON or as plain text; `options` override them:

        ```text
        ---
        labels: ["A", "B"]
        score_form: <scores>{scores}</scores>
        ---
        Score both.
        {conversation}
        {responses}
        Answer in tags.
        ```
        """
        if text.startswith(_OPTIONS):
            header, _, text = text.removeprefix(_OPTIONS).partition("\n" + _OPTIONS)
            options = {**_read_options(header), **options}
        parts = re.split(r"\{(conversation|responses)\}", text)
        if parts[1::2] != ["conversation", "responses"]:
            raise ValueError(
                f"Found the places {parts[1::2]} in a template's text; expected {{conversation}} and then "
                "{responses}, each of them once."
            )
        return cls(parts[0], parts[4], before=("", parts[2], ""), **options)

    def names(self, count: int) -> tuple[str, ...]:
        """The names of the first `count` responses in the prompt."""
        if self.labels is not None and count > len(self.labels):
            raise ValueError(f"Found {count} responses; the template has the labels {self.labels}.")
        return self.labels[:count] if self.labels else tuple(str(number + 1) for number in range(count))

    def blocks(self, responses: tuple[str, ...]) -> str:
        """The responses between their delimiters."""
        begin, end = self.delimiters if self.numbered else (side.replace(" {i}", "") for side in self.delimiters)
        return self.separator.join(
            f"{begin.replace('{i}', name)}{response}{end.replace('{i}', name)}"
            for name, response in zip(self.names(len(responses)), responses, strict=True)
        )

    @property
    def marks(self) -> tuple[str, ...]:
        """The lines of the prompt that responses are fenced against, `{i}` for a number."""
        fixed = "\n".join((self.instructions, *self.before, self.output_format))
        headings = (line.strip() for line in fixed.splitlines() if len(line) < 100 and _HEADING_LIKE.fullmatch(line))
        around = (line.strip() for side in self.delimiters for line in side.splitlines())
        return tuple(dict.fromkeys(mark for mark in (*around, *headings) if re.search(r"[^\W_]", mark)))

    def render(self, conversation: str, responses: tuple[str, ...]) -> str:
        """The whole prompt, with `conversation` and `responses` already fenced."""
        blocks = self.blocks(responses)
        parts = (self.instructions, conversation, blocks, self.output_format)
        return parts[0] + "".join(before + part for before, part in zip(self.before, parts[1:], strict=True))

    def parse(self, text: str, num_responses: int, prefilled: bool = False) -> Critique:
        """Reads the scores from a completion in the template's form, see [`parse_critique`]."""
        names = self.names(num_responses)
        return parse_critique(text, num_responses, self.score_range, self.score_form, names, prefilled)

    @property
    def digest(self) -> str:
        """A short hash of the fixed text and the form of the scores, for manifests and cards."""
        parts = [self.instructions, self.output_format, str(self.score_range), str(self.numbered)]
        if (self.before, self.separator) != (BEFORE, "\n"):
            parts += [*self.before, self.separator]
        others = (self.delimiters, self.labels, self.speaker, self.system)
        if others != (DELIMITERS, None, True, None):
            parts.append(repr(others))
        if self.score_form != BOX:
            parts.append(self.score_form)
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]


def _read_options(header: str) -> dict[str, object]:
    options: dict[str, object] = {}
    known = set(JudgeTemplate.__dataclass_fields__) - {"instructions", "output_format", "before"}
    for line in filter(str.strip, header.splitlines()):
        name, colon, text = (part.strip() for part in line.partition(":"))
        if not colon or name not in known:
            raise ValueError(f"Found the option {line!r} before a template's prompt; expected one of {sorted(known)}.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        options[name] = tuple(value) if isinstance(value, list) else value
    return options


USE_GIVEN = """The specific criteria for this query are given. Take them and their weights as your specific \
criteria, and state no others:"""

USE_REFERENCE = "A reference answer to the query, for comparison. It is not one of the responses:"

_TASK = """You are an expert at scoring responses, and you judge them against given criteria.

The last round of the conversation below is the user's query. Refer to the general criteria, and state further \
criteria that are specific to this query, each with its weight. Then give {what}. {scale} Before you score, analyze \
step by step. Score as strictly as possible."""

_SCORE_ALL = _TASK.format(
    what="each response an overall score",
    scale="A score is a whole number from 1 to 10: 1 means that the response does not meet the criteria at all, 6 "
    "that it meets only some parts of them, and 10 that it meets them perfectly.",
)
_SCORE_ONE = _TASK.format(what="the response an overall score", scale="The score is 1 if it is correct and 0 if not.")

PAPER_CRITERIA = f"""{heading(CRITERIA)}
1. Instruction Adherence
   - 9-10 points: follows every instruction of the query, in content and in form.
   - 6-8 points: follows most instructions, with small omissions or misreadings.
   - 3-5 points: follows some instructions, but misses important ones.
   - 1-2 points: does not follow the instructions.
   Example: the query asks for three short tips, and the response gives three short tips.
2. Usefulness
   - 9-10 points: correct and complete; the user can act on it at once.
   - 6-8 points: helpful, but with minor errors or gaps.
   - 3-5 points: of limited help; it needs much correction or more information.
   - 1-2 points: of no use, or misleading.
   Example: the query asks how to fix an error, and the response names the cause and a fix that works.
3. Level of Detail
   - 9-10 points: as much detail as the query calls for, and no more.
   - 6-8 points: somewhat too much or too little detail.
   - 3-5 points: clearly too shallow or too long.
   - 1-2 points: hardly any content, or buried in padding.
   Example: the query asks for an overview, and the response covers the main points in a few sentences.
4. Relevance
   - 9-10 points: everything in it serves the query.
   - 6-8 points: on topic, with some digressions.
   - 3-5 points: only partly on topic.
   - 1-2 points: off topic.
   Example: the query asks about one product, and the response does not wander to others."""

_BINARY_CRITERIA = f"""{heading(CRITERIA)}
1. Instruction Adherence: does the response do what the query asks, in content and in form? Fully, partly, or not.
2. Clarity: is every step stated plainly and in order? Clear, partly clear, or unclear.
3. Accuracy: are all facts, steps and results right? Right throughout, wrong in minor steps only, or wrong."""

_PAPER_FORMAT = r"""Specific Criteria: the further criteria for this query, each with its weight.
Analysis: compare the responses, step by step, against the criteria.
Scores: the overall scores of all responses in order, separated by commas, as in \boxed{x, x}."""

_BINARY_FORMAT = r"""Specific Criteria: the further criteria for this query, each with its weight.
Analysis: examine the response, step by step, against the criteria.
Scores: the overall score of the response, as in \boxed{x}."""

BUILT_IN = {
    "paper": (
        JudgeTemplate(f"{_SCORE_ALL}\n\n{PAPER_CRITERIA}", _PAPER_FORMAT),
        JudgeTemplate(f"{_SCORE_ONE}\n\n{_BINARY_CRITERIA}", _BINARY_FORMAT, (0, 1), numbered=False),
    ),
    "compact": (
        JudgeTemplate(
            "Name the criteria for this query, then score each response from 1 to 10.",
            r"Specific Criteria: Analysis: Scores: \boxed{x, x}",
        ),
        JudgeTemplate(
            "Name the criteria for this query, then score the response 0 or 1.",
            r"Specific Criteria: Analysis: Scores: \boxed{x}",
            (0, 1),
            numbered=False,
        ),
    ),
}

_CHOICE_TASK = """You are an expert at judging responses, and you judge them against given criteria.

The last round of the conversation below is the user's query. Refer to the general criteria, and state further \
criteria that are specific to this query, each with its weight. Then select the best response. Before you select it, \
analyze step by step. Judge as strictly as possible."""

_CHOICE_FORMAT = r"""Specific Criteria: the further criteria for this query, each with its weight.
Analysis: compare the responses, step by step, against the criteria.
Best Response: the number of the best response, as in \boxed{x}."""

CHOICE = JudgeTemplate(_CHOICE_TASK + "\n\n" + re.sub(r"[0-9]+-[0-9]+ points: ", "", PAPER_CRITERIA), _CHOICE_FORMAT)
"""The prompt of the LLM-as-a-Judge baseline (paper, section 2.5), which asks for the best response only."""
