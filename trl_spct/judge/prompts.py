# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
r"""What a judge reads (paper, sections 2.1 to 2.4). The only place that renders a judge's or a Meta RM's prompt.

A judge reads hostile text: every part of a preference is fenced, so that a response can neither close its own block
nor open another one.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from .card_prompts import read_card_prompt
from .preferences import Messages, Preference


CONTEXT, RESPONSES, FORMAT = "Conversation Context", "Responses to be Scored", "Output Format Requirements"
CRITERIA, GIVEN, REFERENCE = "Evaluation Criteria", "Given Criteria", "Reference Answer"


def _heading(title: str) -> str:
    return f"#### {title} ####"


BEFORE = tuple(f"\n\n{_heading(title)}\n" for title in (CONTEXT, RESPONSES, FORMAT))
"""What stands before the conversation, the responses and the output format."""

DELIMITERS = ("[The Begin of Response {i}]\n", "\n[The End of Response {i}]")

OFFICIAL, RELEASED = "official", "BBQGOD/DeepSeek-GRM-27B"
CARD = "README.md"


@dataclass(frozen=True)
class JudgeTemplate:
    """The fixed text around a preference.

    Args:
        instructions (`str`): Role, task and criteria: everything before the conversation.
        output_format (`str`): What the judge must write: everything after the responses.
        score_range (`tuple[int, int]`): Lowest and highest score that the instructions allow.
        numbered (`bool`, *optional*, defaults to `True`): Whether response blocks carry their number.
        before (`tuple[str, str, str]`, *optional*):
            The text before the conversation, the responses and the output format, line breaks included. By default
            the paper's headings, between blank lines.
        separator (`str`, *optional*, defaults to a line break): What stands between two response blocks.
        delimiters (`tuple[str, str]`, *optional*):
            The text before and behind each response, line breaks included, with `{i}` for its number.
        labels (`tuple[str, ...]`, *optional*): Names in place of numbers, as `("A", "B")`: one for each response.
        speaker (`bool`, *optional*, defaults to `True`):
            Whether a query of one turn is written as `User: …`, as longer conversations always are.
        system (`str`, *optional*): A system turn before the prompt, where the judge was trained with one.
    """

    instructions: str
    output_format: str
    score_range: tuple[int, int] = (1, 10)
    numbered: bool = True
    before: tuple[str, str, str] = BEFORE
    separator: str = "\n"
    delimiters: tuple[str, str] = DELIMITERS
    labels: tuple[str, ...] | None = None
    speaker: bool = True
    system: str | None = None

    @classmethod
    def from_text(
        cls,
        text: str,
        score_range: tuple[int, int] = (1, 10),
        numbered: bool = True,
        separator: str = "\n",
        **others,
    ) -> "JudgeTemplate":
        """A template from a whole prompt, in which `{conversation}` and `{responses}` stand for themselves.

        The rest is taken as it is, character by character: other braces need no escape. For a judge that was trained
        elsewhere and whose prompt must be exact, typing errors included. Each response stands in a block
        `[The Begin of Response i]` … `[The End of Response i]`, unless `delimiters` say otherwise.

        A judge of two responses called A and B, with a system turn (as `haizelabs/j1-micro-1.7B`; its texts are to be
        had where its adapter is):

        ```python
        >>> template = JudgeTemplate.from_text(
        ...     "Score both.\\n{conversation}\\n{responses}\\nAnswer in tags.",
        ...     delimiters=("[The Begin of Response {i}]\\n", "\\n[The End of Response {i}]"),
        ...     labels=("A", "B"),
        ...     system="You answer in XML.",
        ... )
        ```

        Args:
            text (`str`): The prompt.
            score_range, numbered, separator, **others: As for the template itself.

        Raises:
            `ValueError`: if not both stand in the text once, the conversation first.
        """
        parts = re.split(r"\{(conversation|responses)\}", text)
        if parts[1::2] != ["conversation", "responses"]:
            raise ValueError(
                f"Found the places {parts[1::2]} in a template's text; expected {{conversation}} and then "
                "{responses}, each of them once."
            )
        return cls(parts[0], parts[4], score_range, numbered, ("", parts[2], ""), separator, **others)

    @classmethod
    def from_model_card(
        cls,
        card: str | os.PathLike,
        revision: str | None = None,
        score_range: tuple[int, int] = (1, 10),
        speaker: bool | None = None,
    ) -> "JudgeTemplate":
        """The template that the Python code on a judge's model card renders, to the character.

        The prompt of the released DeepSeek-GRM checkpoints stands on their cards and nowhere in this package. The code
        is read, never run: [`read_card_prompt`] says what is understood, and what is not is an
        error that names it. Scores are read as ever, from the judge's last box.

        Args:
            card (`str` or `os.PathLike`):
                A repository on the Hub (fetched, or taken from the cache), a folder with the checkpoint and its
                `README.md`, or the text of a card.
            revision (`str`, *optional*): Branch, tag or commit of the repository.
            score_range (`tuple[int, int]`, *optional*, defaults to `(1, 10)`): Scores that the prompt asks for.
            speaker (`bool`, *optional*):
                See above. By default as the card's own example writes its query; `True` where it has none.

        Raises:
            `ValueError`: if the card has no such prompt, or one that is not understood.
            `OSError`: if there is no card, naming the repository, the file, and what to do.
        """
        text, home = str(card), "the card"
        if "\n" not in text:
            text, home = _read_card(text, revision), f"{CARD} of {text}"
        try:
            found = read_card_prompt(text)
        except ValueError as error:
            raise ValueError(
                f"Could not read the judge's prompt from {home}: {error} Make a template of the prompt's text with "
                "`JudgeTemplate.from_text` and name it with `trl_spct.judge.prompts.add_template`."
            ) from error
        return cls(
            found.before,
            found.after,
            score_range,
            before=("", found.between, ""),
            separator=found.separator,
            delimiters=found.delimiters,
            speaker=found.speaker if speaker is None else speaker,
            system=found.system,
        )

    def label(self, number: int) -> str:
        """What the prompt calls the response with this number, counted from 1."""
        return str(number) if self.labels is None else self.labels[number - 1]

    def blocks(self, responses: tuple[str, ...]) -> str:
        """The responses between their delimiters."""
        if self.labels is not None and len(responses) > len(self.labels):
            raise ValueError(f"Found {len(responses)} responses; the template has the labels {self.labels}.")
        begin, end = self.delimiters if self.numbered else (side.replace(" {i}", "") for side in self.delimiters)
        names = [self.label(number) for number in range(1, len(responses) + 1)]
        return self.separator.join(
            f"{begin.replace('{i}', name)}{response}{end.replace('{i}', name)}"
            for name, response in zip(names, responses, strict=True)
        )

    @property
    def marks(self) -> tuple[str, ...]:
        """Lines that give the prompt its structure, `{i}` for a number; responses are fenced against them."""
        fixed = "\n".join((self.instructions, *self.before, self.output_format))
        headings = (line.strip() for line in fixed.splitlines() if len(line) < 100 and _HEADING_LIKE.fullmatch(line))
        around = (line.strip() for side in self.delimiters for line in side.splitlines())
        return tuple(dict.fromkeys(mark for mark in (*around, *headings) if re.search(r"[^\W_]", mark)))

    def render(self, conversation: str, responses: tuple[str, ...]) -> str:
        """The whole prompt, with `conversation` and `responses` already fenced."""
        blocks = self.blocks(responses)
        parts = (self.instructions, conversation, blocks, self.output_format)
        return parts[0] + "".join(before + part for before, part in zip(self.before, parts[1:], strict=True))

    @property
    def digest(self) -> str:
        """A short hash of the fixed text, for manifests and cards."""
        parts = [self.instructions, self.output_format, str(self.score_range), str(self.numbered)]
        if (self.before, self.separator) != (BEFORE, "\n"):
            parts += [*self.before, self.separator]
        others = (self.delimiters, self.labels, self.speaker, self.system)
        if others != (DELIMITERS, None, True, None):
            parts.append(repr(others))
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]


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

_BINARY_CRITERIA = f"""{_heading(CRITERIA)}
1. Instruction Adherence: does the response do what the query asks, in content and in form? Fully, partly, or not.
2. Clarity: is every step stated plainly and in order? Clear, partly clear, or unclear.
3. Accuracy: are all facts, steps and results right? Right throughout, wrong in minor steps only, or wrong."""

_PAPER_FORMAT = r"""Specific Criteria: the further criteria for this query, each with its weight.
Analysis: compare the responses, step by step, against the criteria.
Scores: the overall scores of all responses in order, separated by commas, as in \boxed{x, x}."""

_BINARY_FORMAT = r"""Specific Criteria: the further criteria for this query, each with its weight.
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
            + _BINARY_CRITERIA,
            _BINARY_FORMAT,
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


_CHOICE_TASK = """You are an expert at judging responses, and you judge them against given criteria.

The last round of the conversation below is the user's query. Refer to the general criteria, and state further \
criteria that are specific to this query, each with its weight. Then select the best response. Before you select it, \
analyze step by step. Judge as strictly as possible."""

_CHOICE_FORMAT = r"""Specific Criteria: the further criteria for this query, each with its weight.
Analysis: compare the responses, step by step, against the criteria.
Best Response: the number of the best response, as in \boxed{x}."""

CHOICE = JudgeTemplate(_CHOICE_TASK + "\n\n" + re.sub(r"[0-9]+-[0-9]+ points: ", "", _PAPER_CRITERIA), _CHOICE_FORMAT)
"""The LLM-as-a-Judge baseline (paper, section 2.5): no scores, see [`choice_messages`]."""


def add_template(name: str, template: JudgeTemplate, binary: JudgeTemplate | None = None) -> None:
    """Makes a template available by name, wherever a `template` is asked for in this process.

    Args:
        name (`str`): Its name, which a judge's config will hold.
        template ([`JudgeTemplate`]): For scoring n responses; [`JudgeTemplate.from_text`] makes one from a prompt.
        binary ([`JudgeTemplate`], *optional*): For 0 or 1 on a single response. Defaults to the paper's.

    Raises:
        `ValueError`: if another template has that name.

    Example:

    ```python
    >>> from trl_spct.judge.prompts import JudgeTemplate, add_template, judge_messages
    >>> add_template("brief", JudgeTemplate.from_text("{conversation}\\n{responses}\\nScores: "))
    ```
    """
    pair = (template, TEMPLATES["paper"][1] if binary is None else binary)
    if TEMPLATES.setdefault(name, pair) != pair:
        raise ValueError(f"Found another template of the name {name!r}; expected a new name.")


def judge_template(template: str = "paper", binary: bool = False) -> JudgeTemplate:
    """The template for scoring from 1 to 10, or with `binary=True` the one for 0 or 1 on a single response.

    Args:
        template (`str`, *optional*, defaults to `"paper"`):
            `"paper"`: the instructions and seed criteria of the paper, sections 2.1 and 2.2, in clean English.
            `"compact"` (ours): the same blocks in the same order, with one line of instructions, for short contexts
            and for judges that learn the task in training. `"official"`: to the character the prompt of the released
            checkpoint `BBQGOD/DeepSeek-GRM-27B`, which is read from its model card: from the Hub, from the cache, or
            with `"official:FOLDER_OR_REPOSITORY"` from another card; see [`JudgeTemplate.from_model_card`]. Or a name
            that was given to [`add_template`].
        binary (`bool`, *optional*, defaults to `False`): Whether the single-response training template is meant.
    """
    if template not in TEMPLATES and template.partition(":")[0] == OFFICIAL:
        add_template(template, JudgeTemplate.from_model_card(template.partition(":")[2] or RELEASED))
    if template not in TEMPLATES:
        raise ValueError(
            f"Found template {template!r}; expected one of {sorted(TEMPLATES)}, or {OFFICIAL!r} for the released "
            "judge's own. Others are made known by `trl_spct.judge.prompts.add_template`."
        )
    return TEMPLATES[template][int(binary)]


def judge_messages(
    preference: Preference,
    template: str = "paper",
    binary: bool = False,
    hint: bool = False,
    special_tokens: Iterable[str] = (),
) -> list[dict[str, str]]:
    """The judge's prompt: one user turn, and no system prompt (paper, section 2.1) unless the template has one.

    Args:
        preference ([`Preference`]):
            What is judged; its response order is the order that the judge reads. Its principles and its reference
            stand in blocks of their own between the conversation and the responses (ours).
        template (`str`, *optional*, defaults to `"paper"`): See [`judge_template`].
        binary (`bool`, *optional*, defaults to `False`):
            Ask for 0 or 1 on a single response, as in training (section 2.2), instead of a score from 1 to 10.
        hint (`bool`, *optional*, defaults to `False`):
            Append `The best response is: Response {j}` (section 2.3). For n = 1 the line names the label (ours).
        special_tokens (iterable of `str`, *optional*):
            The tokenizer's special tokens. Where user text spells one, it is broken up so that it stays text.

    Returns:
        `list[dict]` with a single `{"role": "user", "content": …}`, behind the template's system turn if it has one.
    """
    if binary and len(preference) != 1:
        raise ValueError(f"Found `binary=True` with {len(preference)} responses; expected a single one.")
    if hint and not binary and len(preference) == 1:
        raise ValueError("A hint on a single response names its 0/1 label; expected `binary=True` with it.")
    chosen = judge_template(template, binary)
    content = _rendered(chosen, preference, Fence(special_tokens, chosen.marks))
    if hint:
        content += f"\n\n{hint_line(preference, chosen)}"
    system = [] if chosen.system is None else [{"role": "system", "content": chosen.system}]
    return [*system, {"role": "user", "content": content}]


def choice_messages(preference: Preference, special_tokens: Iterable[str] = ()) -> list[dict[str, str]]:
    r"""Asks which response is the best, without scores: the LLM-as-a-Judge baseline (paper, section 2.5).

    The answer holds one number in a box, the best response's place in the prompt, counted from 1:
    `parse_critique(text, num_responses=1, score_range=(1, len(preference)))` reads it.

    Args:
        preference ([`Preference`]): n ≥ 2 responses, in the order that the judge reads.
        special_tokens (iterable of `str`, *optional*): See [`judge_messages`].
    """
    if len(preference) == 1:
        raise ValueError("Found a single response; expected at least two to select the best from.")
    return [{"role": "user", "content": _rendered(CHOICE, preference, Fence(special_tokens))}]


def principle_messages(
    query: str | Messages, template: str = "paper", special_tokens: Iterable[str] = ()
) -> list[dict[str, str]]:
    """Asks for principles with their weights for a query alone, without responses (ours; paper, section 10).

    Such principles depend on nothing but the query, so that they are written once and kept:
    [`read_principles`] reads them from the answer, and [`Preference`] hands them to the judge.

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
    content = f"{instructions}{BEFORE[0]}{conversation}{BEFORE[2]}{output_format}"
    return [{"role": "user", "content": content}]


def hint_line(preference: Preference, template: JudgeTemplate | None = None, strength: float | None = None) -> str:
    """The line that gives the ground truth away; numbers or labels refer to the preference's own order.

    HelpSteer2-Preference says in `preference_strength`, from -3 to 3, how much better the best response is. The paper
    adds this to the hint (section 2.3); the wording is ours [?].
    """
    if preference.labels is None:
        raise ValueError("A hint needs labels; this preference has none.")
    if len(preference) == 1:
        return f"The correct score is: {preference.labels[0]}"
    number = preference.best + 1
    line = f"The best response is: Response {number if template is None else template.label(number)}"
    return f"{line} (preference strength: {abs(strength):g} of 3)" if strength else line


def meta_messages(preference: Preference, critique: str, special_tokens: Iterable[str] = ()) -> list[dict[str, str]]:
    """What the Meta RM reads: context and responses without criteria, then the judge's text (paper, section 2.4).

    The responses must stand in the order in which the judge saw them, since its critique names them by number.
    """
    fence = Fence(special_tokens)
    conversation, responses = _fenced(preference, fence)
    content = f"Please score the responses.{BEFORE[0]}{conversation}{BEFORE[1]}{judge_template().blocks(responses)}"
    return [{"role": "user", "content": content}, {"role": "assistant", "content": fence(critique)}]


def conversation_text(query: str | Messages, speaker: bool = True) -> str:
    """A query as text. How turns are written is stated nowhere; `Role: text` lines are what public copies use.

    Args:
        query (`str` or sequence of messages): What the user asked.
        speaker (`bool`, *optional*, defaults to `True`): Whether a single turn of the user's names its role, too.
    """
    if not isinstance(query, str) and len(query) == 1 and query[0]["role"] == "user":
        query = query[0]["content"]
    if isinstance(query, str):
        return f"User: {query}" if speaker else query
    return "\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in query)


class Fence:
    """Rewrites what would be read as the prompt's own structure: our delimiters and headings, and special tokens.

    Square brackets of a delimiter become round ones, the hashes around one of our headings are dropped, and a special
    token gets a space behind its first character. All other text stays as it is. Case, white space, punctuation
    between words, invisible characters, accents and common look-alikes of letters, brackets and hashes make no
    difference to delimiters and headings. Fencing twice is fencing once, and takes time linear in the text. Of other
    `marks` all signs are dropped.

    What a fence leaves alone: instructions in plain words, scores and boxes (only the judge's own completion is ever
    read), role names without special tokens (`Assistant:`), special tokens of a single character, and marks that
    consist of words or of signs alone.

    Args:
        special_tokens (iterable of `str`, *optional*): The tokenizer's special tokens.
        marks (iterable of `str`, *optional*): See [`JudgeTemplate.marks`]; those of the paper's template are known.
    """

    _GAP = r"[\W_]"
    # Both match from where a run of signs begins, so that a long run is never tried again from its middle.
    _DELIMITER = re.compile(
        rf"(?<!{_GAP})({_GAP}+)(?:the{_GAP}*)?(?:begin|end){_GAP}*of{_GAP}*(?:the{_GAP}*)?response"
        r"(?:(?=[^\[\]\n]{0,40}(\])))?"
    )
    _TITLE = "|".join((CRITERIA, CONTEXT, GIVEN, REFERENCE, RESPONSES, FORMAT)).lower().replace(" ", f"{_GAP}*")
    _HEADING = re.compile(rf"(?<!{_GAP}){_GAP}*(?:(?:{_TITLE}){_GAP}*)+")

    def __init__(self, special_tokens: Iterable[str] = (), marks: tuple[str, ...] = ()):
        self._marks = _marks_pattern(marks)
        if isinstance(special_tokens, str):
            special_tokens = (special_tokens,)
        given = {token.lstrip() for token in special_tokens if token and len(token.strip()) > 1}
        self._special = _first_characters(sorted(given, key=len, reverse=True)) if given else None

    def __call__(self, text: str) -> str:
        text = _edited(text, self._edits)
        found = self._special is not None
        while found:  # a broken token may spell another one
            text, found = self._special.subn(r"\1 ", text)
        return text

    def _edits(self, folded: str) -> dict[int, str]:
        edits = {}
        for match in self._DELIMITER.finditer(folded):
            opening = [place for place in range(*match.span(1)) if folded[place] == "["]
            edits |= dict.fromkeys(opening, "(")
            if opening and match[2]:
                edits[match.start(2)] = ")"
        for match in self._HEADING.finditer(folded):
            if match[0].count("#") > 1:
                edits |= {place: "" for place in range(*match.span()) if folded[place] == "#"}
        if self._marks is not None:
            pattern, signs = self._marks
            for match in pattern.finditer(folded):
                edits |= {place: "" for place in range(*match.span()) if folded[place] in signs}
        return edits


# A line that begins and ends with signs of a heading or a tag, or begins with hashes.
_HEADING_LIKE = re.compile(r"\s*(?:#.*|[=*<{\[~|].*[=*>}\]~|])\s*")


@lru_cache(maxsize=64)
def _marks_pattern(marks: tuple[str, ...]) -> tuple[re.Pattern, frozenset[str]] | None:
    """Matches the marks that are no delimiters or headings of the paper, with the signs in and around them."""
    if not marks:
        return None
    plain = Fence()
    own = [mark.translate(_FOLDING) for mark in marks if plain(example := mark.replace("{i}", "1")) == example]
    signs = frozenset(char for mark in own for char in mark.replace("{i}", "") if re.fullmatch(r"[^\w\s]|_", char))
    if not signs:
        return None
    gap = Fence._GAP
    written = [
        rf"{gap}*".join(r"[^\W_]{1,4}" if word == "{i}" else re.escape(word) for word in words)
        for mark in own
        if (words := re.findall(r"\{i\}|[^\W_]+", mark))
    ]
    ahead, behind = rf"(?<!{gap}){gap}*", rf"{gap}*"
    return re.compile(rf"{ahead}(?:{'|'.join(sorted(written, key=len, reverse=True))}){behind}"), signs


def _first_characters(tokens: list[str]) -> re.Pattern:
    """Matches the first character of each occurrence, so that tokens which overlap are all found. Some vocabularies
    have a thousand of them: the set of first characters spares most places the search."""
    firsts = "".join(sorted({re.escape(token[0]) for token in tokens}))
    return re.compile(f"(?=[{firsts}])(?={'|'.join(map(re.escape, tokens))})(.)", re.DOTALL)


_LOOK_ALIKES = {
    "a": "аАαΑᴀɑ", "b": "ВвΒβʙ", "c": "сСϲϹᴄ", "d": "ԁԀᴅ", "e": "еЕεΕᴇ", "f": "ғϜꜰ", "g": "ɡԌɢ", "h": "һҺНнΗʜհ",
    "i": "іІιΙɪı", "l": "ӏӀʟ", "m": "МмΜᴍ", "n": "пηΝɴո", "o": "оОοΟᴏօ", "p": "рРρΡᴘ", "q": "ԛԚ", "r": "гʀ",
    "s": "ѕЅꜱ", "t": "тТτΤᴛ", "u": "υսᴜ", "v": "νѵᴠ", "w": "ԝԜᴡ", "x": "хХχΧ",
    "[": "【〔〖〘〚⟦⁅❲「『", "]": "】〕〗〙〛⟧⁆❳」』", "#": "♯⌗", " ": "\u115f\u1160\u2800\u3164\uffa0",
}  # fmt: skip
_LOOKS = {char: letter for letter, chars in _LOOK_ALIKES.items() for char in chars}


class _Folding(dict):
    """What a character looks like: a small letter or sign where it looks like one, nothing if it is invisible."""

    def __missing__(self, code: int) -> str:
        char = _LOOKS.get(chr(code), chr(code))
        seen = (part for part in unicodedata.normalize("NFKD", char) if unicodedata.category(part) not in _UNSEEN)
        first = char if char.isspace() else next(seen, "")
        self[code] = _LOOKS.get(first, first).lower()[:1]
        return self[code]


_UNSEEN = ("Cc", "Cf", "Mn", "Me")
_FOLDING = _Folding()


def _edited(text: str, edits_of: Callable[[str], dict[int, str]]) -> str:
    """Replaces single characters of a text by what `edits_of` says about the text as it looks."""
    edits = edits_of(text.translate(_FOLDING))
    if not edits:
        return text
    places = [place for place, char in enumerate(text) if _FOLDING[ord(char)]]
    edits = {places[i]: new for i, new in edits.items()}
    pieces, last = [], 0
    for place in sorted(edits):
        pieces += (text[last:place], edits[place])
        last = place + 1
    return "".join((*pieces, text[last:]))


def _rendered(template: JudgeTemplate, preference: Preference, fence: Fence) -> str:
    """The prompt without a hint. What is known about the query stands behind it: the principles that the judge is
    given, then a reference answer (ours; the paper judges with references, but does not print such a prompt)."""
    context, responses = _fenced(preference, fence, template.speaker)
    for title, use, text in (
        (GIVEN, _USE_GIVEN, preference.principles),
        (REFERENCE, _USE_REFERENCE, preference.reference),
    ):
        if text is not None:
            context += f"\n\n{_heading(title)}\n{use}\n{fence(text)}"
    return template.render(context, responses)


def _fenced(preference: Preference, fence: Fence, speaker: bool = True) -> tuple[str, tuple[str, ...]]:
    conversation = fence(conversation_text(preference.query, speaker))
    return conversation, tuple(fence(response) for response in preference.responses)


def _read_folder(card: str, revision: str | None = None) -> str:
    """The card in a folder; [`read_card`] takes its place, which reads the Hub as well."""
    with open(os.path.join(card, CARD), encoding="utf-8") as file:
        return file.read()


_read_card: Callable[[str, str | None], str] = _read_folder


def read_cards_with(reader: Callable[[str, str | None], str]) -> None:
    """Sets what fetches a model card by repository or folder and revision: here is nothing that knows the Hub."""
    global _read_card
    _read_card = reader
