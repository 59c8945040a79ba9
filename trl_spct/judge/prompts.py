# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Prompts of the judge and of the Meta RM (paper, sections 2.1 to 2.5), with every part of a preference fenced."""

import os
from collections.abc import Iterable
from functools import lru_cache

from .card_prompts import template_of_card
from .conversations import conversation_text
from .fence import GIVEN, REFERENCE, Fence
from .preferences import Preference
from .templates import BEFORE, BUILT_IN, CHOICE, USE_GIVEN, USE_REFERENCE, JudgeTemplate, heading

OFFICIAL, RELEASED = "official", "BBQGOD/DeepSeek-GRM-27B"
CARD = "README.md"

TEMPLATES = dict(BUILT_IN)
"""Templates by name: for n responses, and for 0 or 1 on a single response. [`add_template`] adds one."""


def add_template(name: str, template: JudgeTemplate, binary: JudgeTemplate | None = None) -> None:
    """Names a template for every `template` argument in this process. `binary` is the one for 0 or 1 on a single
    response, by default the paper's."""
    pair = (template, BUILT_IN["paper"][1] if binary is None else binary)
    if TEMPLATES.setdefault(name, pair) != pair:
        raise ValueError(f"Found another template of the name {name!r}; expected a new name.")


def judge_template(template: str = "paper", binary: bool = False) -> JudgeTemplate:
    """The template for scoring from 1 to 10, or with `binary=True` the one for 0 or 1 on a single response.

    Args:
        template (`str`, *optional*, defaults to `"paper"`):
            - `"paper"`: the instructions and seed criteria of the paper, sections 2.1 and 2.2, in clean English.
            - `"compact"` (not in the paper): the same blocks with one line of instructions.
            - `"official"`: the prompt of the released `BBQGOD/DeepSeek-GRM-27B` from its model card;
              `"official:FOLDER_OR_REPOSITORY"` reads another card.
            - A name given to [`add_template`].
            - The path of a text file with a prompt, or that text itself, see [`JudgeTemplate.from_text`].
    """
    template = portable_template(template)
    if template not in TEMPLATES:
        kind, _, home = template.partition(":")
        if _is_text(template):
            add_template(template, JudgeTemplate.from_text(template))
        elif kind == OFFICIAL:
            add_template(template, read_card_template(home or RELEASED))
        else:
            raise ValueError(
                f"Found template {template!r}; expected one of {sorted(TEMPLATES)}, {OFFICIAL!r} for the released "
                "judge's, the path of a text file with a prompt and the places {conversation} and {responses}, or a "
                "name registered with `trl_spct.judge.prompts.add_template`."
            )
    return TEMPLATES[template][int(binary)]


def portable_template(template: str) -> str:
    """A template's name as a judge's config holds it: the text in place of a file's path."""
    if template in TEMPLATES or _is_text(template) or not os.path.isfile(template):
        return template
    return _file_text(os.path.abspath(template))


def template_name(template: str) -> str:
    """A template's name on a card: a digest in place of a text or of a file's path."""
    text = portable_template(template)
    return f"text {judge_template(text).digest}" if _is_text(text) else template


def _is_text(template: str) -> bool:
    return "{conversation}" in template


@lru_cache(maxsize=64)
def _file_text(path: str) -> str:
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def judge_messages(
    preference: Preference,
    template: str = "paper",
    binary: bool = False,
    hint: bool = False,
    special_tokens: Iterable[str] = (),
) -> list[dict[str, str]]:
    """The judge's prompt: one user turn, without a system turn (paper, section 2.1) unless the template has one.

    Responses are in the order of the preference. Principles and reference follow the conversation, each under its
    heading (not in the paper).

    Args:
        template, binary: See [`judge_template`].
        hint (`bool`, *optional*, defaults to `False`): Append [`hint_line`] (section 2.3).
        special_tokens (iterable of `str`, *optional*): The tokenizer's, which are broken up in user text.
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


def choice_messages(
    preference: Preference, special_tokens: Iterable[str] = (), template: JudgeTemplate = CHOICE
) -> list[dict[str, str]]:
    """The prompt for the best response, without scores: the LLM-as-a-Judge baseline (paper, section 2.5), whose answer
    `parse_critique(text, num_responses=1, score_range=(1, len(preference)))` reads."""
    if len(preference) == 1:
        raise ValueError("Found a single response; expected at least two to select the best from.")
    return [{"role": "user", "content": _rendered(template, preference, Fence(special_tokens))}]


def hint_line(preference: Preference, template: JudgeTemplate | None = None, strength: float | None = None) -> str:
    """The line that names the best response by its number, or the label of a single one (paper, section 2.3).

    `strength` is the `preference_strength` of HelpSteer2-Preference, from -3 to 3, which the paper adds to the hint
    in words that it does not state **[?]**.
    """
    if preference.labels is None:
        raise ValueError("A hint needs labels; this preference has none.")
    if len(preference) == 1:
        return f"The correct score is: {preference.labels[0]}"
    assert preference.best is not None  # with labels and n > 1
    names = (template or judge_template()).names(len(preference))
    line = f"The best response is: Response {names[preference.best]}"
    return f"{line} (preference strength: {abs(strength):g} of 3)" if strength else line


def meta_messages(preference: Preference, critique: str, special_tokens: Iterable[str] = ()) -> list[dict[str, str]]:
    """The Meta RM's prompt: context and responses without criteria, then the judge's text (paper, section 2.4).

    The responses must be in the order in which the judge read them, since its critique names them by number **[I]**.
    """
    fence = Fence(special_tokens)
    conversation, responses = _fenced(preference, fence)
    content = f"Please score the responses.{BEFORE[0]}{conversation}{BEFORE[1]}{judge_template().blocks(responses)}"
    return [{"role": "user", "content": content}, {"role": "assistant", "content": fence(critique)}]


def _rendered(template: JudgeTemplate, preference: Preference, fence: Fence) -> str:
    """The prompt without a hint. The paper judges with references, but does not print its prompt for them."""
    context, responses = _fenced(preference, fence, template.speaker)
    parts = (GIVEN, USE_GIVEN, preference.principles), (REFERENCE, USE_REFERENCE, preference.reference)
    for title, use, text in parts:
        if text is not None:
            context += f"\n\n{heading(title)}\n{use}\n{fence(text)}"
    return template.render(context, responses)


def _fenced(preference: Preference, fence: Fence, speaker: bool = True) -> tuple[str, tuple[str, ...]]:
    conversation = fence(conversation_text(preference.query, speaker))
    return conversation, tuple(fence(response) for response in preference.responses)


def read_card_template(repository: str | os.PathLike) -> JudgeTemplate:
    """The template that the Python code on a judge's model card renders, to the character. The code is not run.

    `repository` is on the Hub or in the cache, or a folder with a checkpoint.
    """
    from transformers.utils import cached_file  # the rest of this module needs the standard library only

    try:
        file = cached_file(repository, CARD)
    except (OSError, ValueError) as error:  # the latter for an invalid name
        raise OSError(
            f"Could not read {CARD} of {repository!r}, the model card with the judge's prompt: {error} Fetch it once "
            f"with `hf download {repository} {CARD}`, or name a folder or a repository that holds it: "
            f'`template="{OFFICIAL}:FOLDER"`.'
        ) from error
    try:
        with open(file, encoding="utf-8") as opened:
            return template_of_card(opened.read())
    except ValueError as error:
        raise ValueError(
            f"Could not read the judge's prompt from {CARD} of {repository}: {error} Write the prompt to a text file, "
            "with {conversation} and {responses} in their places, and pass its path as `template`."
        ) from error
