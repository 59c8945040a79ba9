# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The prompt of a released judge, read from the string literals of the Python code on its model card."""

import ast
import re
import string
import textwrap

from .fence import CONTEXT, CRITERIA, FORMAT, RESPONSES
from .templates import JudgeTemplate

_CODE = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?:python[0-9]?|py)\b[^\n]*\n(?P<code>.*?)^[ \t]*(?P=fence)[`~]*[ \t]*$",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
_HEADINGS = (CRITERIA, CONTEXT, RESPONSES, FORMAT)
_BLOCK = re.compile(r"Begin of Response.*End of Response", re.DOTALL)
_LOOP = re.compile(
    r"for \(?(?P<number>\w+)\b.* in (?:enumerate\([^(),]+(?P<one>, (?:start=)?1)?\)|range\((?P<from_one>1, )?.*\))"
)
_FIELD = "\0"  # around the expression of a field


def template_of_card(card: str) -> JudgeTemplate:
    """The template that the Python code on a model card builds. The code is parsed, not run.

    The prompt is an f-string or one for `str.format`, with the paper's four headings and one field under those of the
    conversation and of the responses. A response block is an f-string with `Begin of Response` and `End of Response`
    in a loop over the responses. Other forms are refused.
    """
    nodes = _nodes(card)
    before, conversation, between, _, after = _prompt(nodes)
    delimiters, separator = _response_blocks(nodes)
    speaker = _names_speaker(nodes, conversation)
    if before.endswith("\nUser: "):  # part of the rendered conversation
        before, speaker = before.removesuffix("User: "), True
    return JudgeTemplate(
        before, after, before=("", between, ""), separator=separator, delimiters=delimiters, speaker=speaker
    )


def _nodes(card: str) -> list[ast.AST]:
    blocks = [textwrap.dedent(match["code"]) for match in _CODE.finditer(card.replace("\r\n", "\n") + "\n")]
    if not blocks:
        raise ValueError("Found no Python block; expected one with the code that builds the judge's prompt.")
    nodes: list[ast.AST] = []
    for block in blocks:
        try:
            nodes += ast.walk(ast.parse(block))
        except (SyntaxError, ValueError, RecursionError):
            continue  # an excerpt
    return nodes


def _literal(node: ast.AST) -> str:
    """The text of a string literal, with the expressions of an f-string between two `_FIELD`; else empty."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_literal, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{_FIELD}{ast.unparse(node.value)}{_FIELD}"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _prompt(nodes: list[ast.AST]) -> list[str]:
    """Texts and field expressions of the prompt in turn: text, conversation, text, responses, text."""
    prompts = [node for node in nodes if all(heading in _literal(node) for heading in _HEADINGS)]
    if not prompts:
        raise ValueError(f"Found no string literal with the headings {list(_HEADINGS)}; expected the judge's prompt.")
    prompt = max(prompts, key=lambda node: len(_literal(node)))
    calls = _methods(nodes, prompt)
    if unknown := calls - {"format", "strip"}:
        raise ValueError(f"Found `.{min(unknown)}()` on the prompt; expected an f-string or `str.format`.")
    text = _literal(prompt)
    if "format" in calls:
        fields = string.Formatter().parse(text)
        text = "".join(text if name is None else f"{text}{_FIELD}{name}{_FIELD}" for text, name, *_ in fields)
    parts = (text.strip() if "strip" in calls else text).split(_FIELD)
    under = zip(_HEADINGS[1:], parts[::2], strict=False)
    if len(parts) != 5 or not all(heading in part for heading, part in under):
        raise ValueError(f"Found the fields {parts[1::2]}; expected one under {CONTEXT!r}, one under {RESPONSES!r}.")
    return parts


def _methods(nodes: list[ast.AST], literal: ast.AST) -> set[str]:
    """Names of the methods that are called on a literal or its name."""
    name = _assigned(nodes, literal)
    methods = [node.func for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return {
        method.attr
        for method in methods
        for node in ast.walk(method.value)
        if node is literal or (isinstance(node, ast.Name) and node.id == name)
    }


def _assigned(nodes: list[ast.AST], part: ast.AST) -> str | None:
    """The name to which an expression is assigned."""
    assignments = [node for node in nodes if isinstance(node, ast.Assign) and part in ast.walk(node.value)]
    return ast.unparse(assignments[0].targets[0]) if assignments else None


def _response_blocks(nodes: list[ast.AST]) -> tuple[tuple[str, str], str]:
    """The delimiters of a response, `{i}` for its number, and the text between two blocks."""
    blocks = [node for node in nodes if isinstance(node, ast.JoinedStr) and _BLOCK.search(_literal(node))]
    kinds = (ast.For, ast.ListComp, ast.GeneratorExp)
    loops = [node for node in nodes if isinstance(node, kinds) and blocks and blocks[0] in ast.walk(node)]
    counter = _LOOP.search(ast.unparse(loops[-1])) if loops else None
    if counter is None:
        raise ValueError(
            "Found no f-string with `Begin of Response` and `End of Response` in a loop over `enumerate` or `range`."
        )
    number = counter["number"] if counter["one"] or counter["from_one"] else f"{counter['number']} + 1"
    parts = _literal(blocks[0]).split(_FIELD)
    parts[1::2] = ["{i}" if part == number else part for part in parts[1::2]]
    others = [part for part in parts[1::2] if part != "{i}"]
    if len(others) != 1 or others == [counter["number"]] or not re.fullmatch(r"\w+(?:\[.+\])?", others[0]):
        raise ValueError(f"Found {others} in a response block; expected the response beside its number from 1.")
    place = parts.index(others[0], 1)
    return ("".join(parts[:place]), "".join(parts[place + 1 :])), _separator(nodes, blocks[0])


def _separator(nodes: list[ast.AST], block: ast.AST) -> str:
    """The text of the `str.join` over the blocks; none where they are added up."""
    held = _assigned(nodes, block)
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
            if block in ast.walk(node) or ast.unparse(node.args[0]) == held:
                return _literal(node.func.value)
    if not any(isinstance(node, ast.AugAssign) and block in ast.walk(node) for node in nodes):
        raise ValueError("Found response blocks that are neither joined nor added to a string.")
    return ""


def _names_speaker(nodes: list[ast.AST], conversation: str) -> bool:
    """Whether the card's example writes its query as `User: …`; `True` where it has none."""
    examples = [n.value for n in nodes if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == conversation]
    examples += [n.value for n in nodes if isinstance(n, ast.keyword) and n.arg == conversation]
    return all(_literal(node).startswith("User:") for node in examples if isinstance(node, ast.Constant))
