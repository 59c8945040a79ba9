# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
r"""What a judge reads (paper, sections 2.1 to 2.4). The only place that renders a judge's or a Meta RM's prompt.

A judge reads hostile text: every part of a preference is fenced, so that a response can neither close its own block
nor open another one.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .preferences import Messages, Preference


CONTEXT, RESPONSES, FORMAT = "Conversation Context", "Responses to be Scored", "Output Format Requirements"
CRITERIA, GIVEN, REFERENCE = "Evaluation Criteria", "Given Criteria", "Reference Answer"


@dataclass(frozen=True)
class JudgeTemplate:
    """The fixed text around a preference.

    Args:
        instructions (`str`): Role, task and criteria: everything before the conversation.
        output_format (`str`): What the judge must write: everything after the responses.
        score_range (`tuple[int, int]`): Lowest and highest score that the instructions allow.
        numbered (`bool`, *optional*, defaults to `True`): Whether response blocks carry their number.
    """

    instructions: str
    output_format: str
    score_range: tuple[int, int] = (1, 10)
    numbered: bool = True

    def render(
        self,
        conversation: str,
        responses: tuple[str, ...],
        principles: str | None = None,
        reference: str | None = None,
    ) -> str:
        """The whole prompt; all arguments are fenced already.

        What is known about the query stands behind it: the principles that the judge is given, then a reference
        answer (both blocks are ours; the paper judges with references, but does not print such a prompt).
        """
        blocks = [self.instructions, _context_block(conversation)]
        if principles is not None:
            blocks.append(f"{_heading(GIVEN)}\n{_USE_GIVEN}\n{principles}")
        if reference is not None:
            blocks.append(f"{_heading(REFERENCE)}\n{_USE_REFERENCE}\n{reference}")
        blocks += [self._responses_block(responses), f"{_heading(FORMAT)}\n{self.output_format}"]
        return "\n\n".join(blocks)

    def _responses_block(self, responses: tuple[str, ...]) -> str:
        return responses_block(responses, self.numbered)

    @property
    def digest(self) -> str:
        """A short hash of the fixed text, for manifests and cards."""
        text = "\x1f".join((self.instructions, self.output_format, str(self.score_range), str(self.numbered)))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _heading(title: str) -> str:
    return f"#### {title} ####"


def _context_block(conversation: str) -> str:
    return f"{_heading(CONTEXT)}\n{conversation}"


def responses_block(responses: tuple[str, ...], numbered: bool = True) -> str:
    """The responses between their delimiters, numbered from 1."""
    blocks = []
    for number, response in enumerate(responses, start=1):
        name = f"Response {number}" if numbered else "Response"
        blocks.append(f"[The Begin of {name}]\n{response}\n[The End of {name}]")
    return "\n".join((_heading(RESPONSES), *blocks))


_USE_GIVEN = """The specific criteria for this query are given. Take them and their weights as your specific \
criteria, and state no others:"""

_USE_REFERENCE = "A reference answer to the query, for comparison. It is not one of the responses:"

_TASK = """You are an expert at scoring responses, and you judge them against given criteria.

The last round of the conversation below is the user's query. Refer to the general criteria, and state further \
criteria that are specific to this query, each with its weight. Then give {what}. {scale} Before you score, analyze \
step by step. Score as strictly as possible."""

_ASK_PRINCIPLES = """You are an expert at scoring responses, and you judge them against given criteria.

The last round of the conversation below is the user's query. Responses to it will be scored later; you do not see \
them. Refer to the general criteria, and state further criteria that are specific to this query, each with its \
weight: what tells a good response to it from a bad one. Do not answer the query, and do not give scores."""

_SCALE = """A score is a whole number from 1 to 10: 1 means that the response does not meet the criteria at all, 6 \
that it meets only some parts of them, and 10 that it meets them perfectly."""

_PAPER_CRITERIA = f"""{_heading(CRITERIA)}
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

_VERDICT_CRITERIA = f"""{_heading(CRITERIA)}
1. Instruction Adherence: does the response do what the query asks, in content and in form? Fully, partly, or not.
2. Clarity: is every step stated plainly and in order? Clear, partly clear, or unclear.
3. Accuracy: are all facts, steps and results right? Right throughout, wrong in minor steps only, or wrong."""

_PAPER_FORMAT = r"""Specific Criteria: the further criteria for this query, each with its weight.
Analysis: compare the responses, step by step, against the criteria.
Scores: the overall scores of all responses in order, separated by commas, as in \boxed{x, x}."""

_VERDICT_FORMAT = r"""Specific Criteria: the further criteria for this query, each with its weight.
Analysis: examine the response, step by step, against the criteria.
Scores: the overall score of the response, as in \boxed{x}."""

_PRINCIPLES_FORMAT = "Specific Criteria: the further criteria for this query, each with its weight."

TEMPLATES: dict[str, tuple[JudgeTemplate, JudgeTemplate]] = {
    "paper": (
        JudgeTemplate(
            _TASK.format(what="each response an overall score", scale=_SCALE) + "\n\n" + _PAPER_CRITERIA, _PAPER_FORMAT
        ),
        JudgeTemplate(
            _TASK.format(what="the response an overall score", scale="The score is 1 if it is correct and 0 if not.")
            + "\n\n"
            + _VERDICT_CRITERIA,
            _VERDICT_FORMAT,
            score_range=(0, 1),
            numbered=False,
        ),
    ),
    "compact": (
        JudgeTemplate(
            "Name the criteria for this query, then score each response from 1 to 10.",
            r"Specific Criteria: Analysis: Scores: \boxed{x, x}",
        ),
        JudgeTemplate(
            "Name the criteria for this query, then score the response 0 or 1.",
            r"Specific Criteria: Analysis: Scores: \boxed{x}",
            score_range=(0, 1),
            numbered=False,
        ),
    ),
}


def judge_template(template: str = "paper", verdict: bool = False) -> JudgeTemplate:
    """The template for scoring from 1 to 10, or with `verdict=True` the one for a 0/1 verdict on a single response.

    Args:
        template (`str`, *optional*, defaults to `"paper"`):
            `"paper"`: the instructions and seed criteria of the paper, sections 2.1 and 2.2, in clean English.
            `"compact"` (ours): the same blocks in the same order, with one line of instructions, for short contexts
            and for judges that learn the task in training.
        verdict (`bool`, *optional*, defaults to `False`): Whether the single-response training template is meant.
    """
    if template not in TEMPLATES:
        raise ValueError(f"Found template {template!r}; expected one of {sorted(TEMPLATES)}.")
    return TEMPLATES[template][int(verdict)]


def judge_messages(
    preference: Preference,
    template: str = "paper",
    verdict: bool = False,
    hint: bool = False,
    special_tokens: Iterable[str] = (),
) -> list[dict[str, str]]:
    """The judge's prompt: one user turn, no system prompt (paper, section 2.1).

    Args:
        preference ([`Preference`]):
            What is judged; its response order is the order that the judge reads. Its principles and its reference
            stand in blocks of their own between the conversation and the responses (ours).
        template (`str`, *optional*, defaults to `"paper"`): See [`judge_template`].
        verdict (`bool`, *optional*, defaults to `False`):
            Ask for 0 or 1 on a single response, as in training (section 2.2), instead of a score from 1 to 10.
        hint (`bool`, *optional*, defaults to `False`):
            Append `The best response is: Response {j}` (section 2.3). For n = 1 the line names the label (ours).
        special_tokens (iterable of `str`, *optional*):
            The tokenizer's special tokens. Where user text spells one, it is broken up so that it stays text.

    Returns:
        `list[dict]` with a single `{"role": "user", "content": …}`.
    """
    if verdict and len(preference) != 1:
        raise ValueError(f"A verdict template reads one response; found {len(preference)}.")
    if hint and not verdict and len(preference) == 1:
        raise ValueError("A hint on a single response names its 0/1 label; expected `verdict=True` with it.")
    fence = Fence(special_tokens)
    aside = [None if text is None else fence(text) for text in (preference.principles, preference.reference)]
    content = judge_template(template, verdict).render(*_fenced(preference, fence), *aside)
    if hint:
        content += f"\n\n{hint_line(preference)}"
    return [{"role": "user", "content": content}]


def principle_messages(
    query: str | Messages, template: str = "paper", special_tokens: Iterable[str] = ()
) -> list[dict[str, str]]:
    """Asks for principles with their weights for a query alone, without responses (ours; paper, section 10).

    Such principles depend on nothing but the query, so that they are written once and kept:
    [`~trl_spct.critiques.read_principles`] reads them from the answer, and [`Preference`] hands them to the judge.

    Args:
        query (`str` or sequence of messages): What the user asked, as in [`Preference`].
        template (`str`, *optional*, defaults to `"paper"`):
            See [`judge_template`]. `"compact"` asks in one line; every other template asks in the words of `"paper"`,
            with its seed criteria.
        special_tokens (iterable of `str`, *optional*): See [`judge_messages`].

    Returns:
        `list[dict]` with a single `{"role": "user", "content": …}`.
    """
    judge_template(template)
    conversation = Fence(special_tokens)(conversation_text(Preference(query, ("?",)).query))
    if template == "compact":
        instructions, output_format = "Name the criteria for this query.", "Specific Criteria:"
    else:
        instructions, output_format = f"{_ASK_PRINCIPLES}\n\n{_PAPER_CRITERIA}", _PRINCIPLES_FORMAT
    blocks = (instructions, _context_block(conversation), f"{_heading(FORMAT)}\n{output_format}")
    return [{"role": "user", "content": "\n\n".join(blocks)}]


def hint_line(preference: Preference) -> str:
    """The line that gives the ground truth away; numbers refer to the preference's own order."""
    if preference.labels is None:
        raise ValueError("A hint needs labels; this preference has none.")
    if len(preference) == 1:
        return f"The correct score is: {preference.labels[0]}"
    return f"The best response is: Response {preference.best + 1}"


def meta_messages(preference: Preference, critique: str, special_tokens: Iterable[str] = ()) -> list[dict[str, str]]:
    """What the Meta RM reads: context and responses without criteria, then the judge's text (paper, section 2.4).

    The responses must stand in the order in which the judge saw them, since its critique names them by number.
    """
    fence = Fence(special_tokens)
    conversation, responses = _fenced(preference, fence)
    blocks = ("Please score the responses.", _context_block(conversation), responses_block(responses))
    return [{"role": "user", "content": "\n\n".join(blocks)}, {"role": "assistant", "content": fence(critique)}]


def conversation_text(query: str | Messages) -> str:
    """A query as text. How turns are written is stated nowhere; `Role: text` lines are what public copies use."""
    if isinstance(query, str):
        return f"User: {query}"
    return "\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in query)


class Fence:
    """Rewrites what would be read as the prompt's own structure: our delimiters and headings, and special tokens.

    Square brackets of a delimiter become round ones, the hashes around one of our headings are dropped, and a special
    token gets a space behind its first character. All other text stays as it is. Case, white space and invisible
    characters between words make no difference. Fencing twice is fencing once, and takes time linear in the text.
    """

    _INVISIBLE = r"\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
    _GAP = rf"[\s{_INVISIBLE}]"
    _DELIMITER = re.compile(
        rf"\[({_GAP}*the{_GAP}+(?:begin|end){_GAP}+of{_GAP}+(?:the{_GAP}+)?response)(?:([^\[\]\n]{{0,40}})\])?",
        re.IGNORECASE,
    )
    _TITLE = "|".join((CRITERIA, CONTEXT, GIVEN, REFERENCE, RESPONSES, FORMAT)).replace(" ", rf"{_GAP}+")
    _MARKS = rf"[#*_ \t\xa0{_INVISIBLE}]"
    # A match begins where its marks begin: a long run of them is never tried again from its middle.
    _HEADING = re.compile(rf"(?<!{_MARKS}){_MARKS}*(?:(?:{_TITLE}){_MARKS}*)+", re.IGNORECASE)

    def __init__(self, special_tokens: Iterable[str] = ()):
        if isinstance(special_tokens, str):
            special_tokens = (special_tokens,)
        tokens = sorted({token for token in special_tokens if token and len(token.strip()) > 1}, key=len, reverse=True)
        # Matches only the first character, so that tokens which overlap are all broken up.
        self._special = re.compile(f"(?={'|'.join(map(re.escape, tokens))})(.)", re.DOTALL) if tokens else None

    def __call__(self, text: str) -> str:
        text = self._DELIMITER.sub(_round_brackets, self._HEADING.sub(_without_hashes, text))
        return text if self._special is None else self._special.sub(r"\1 ", text)


def _round_brackets(delimiter: re.Match) -> str:
    return f"({delimiter[1]}" if delimiter[2] is None else f"({delimiter[1]}{delimiter[2]})"


def _without_hashes(heading: re.Match) -> str:
    return heading[0].replace("#", "") if heading[0].count("#") > 1 else heading[0]


def _fenced(preference: Preference, fence: Fence) -> tuple[str, tuple[str, ...]]:
    return fence(conversation_text(preference.query)), tuple(fence(response) for response in preference.responses)
