# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
r"""Reads a judge's prompt out of the Python code on a model card, without running it.

A judge that was released with a model card is driven by the prompt that the card's code builds, to the character. The
code is interpreted with stand-ins for what is judged: strings are followed from literal to literal through names, `+`,
f-strings, `str.format`, `str.join`, `str.replace`, `str.strip`, `textwrap.dedent`, functions and loops. Nothing is
executed, and whatever is not understood and touches the prompt is an error that names it.
"""

import ast
import re
import string
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


_LONGEST, _MOST_CALLS, _DEEPEST = 200_000, 1000, 12  # characters of a text, calls in all, calls inside calls
_FENCED = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?:python[0-9]?|py)\b[^\n]*\n(?P<code>.*?)^[ \t]*(?P=fence)[`~]*[ \t]*$",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
_CONVERSATION = re.compile(r"context|conversation|query|question|dialog|history|messages|user", re.IGNORECASE)


@dataclass(frozen=True)
class CardPrompt:
    """The fixed text of a judge's prompt.

    Args:
        before, between, after (`str`): What stands before the conversation, before the responses and behind them.
        delimiters (`tuple[str, str]`): What stands around each response; `{i}` is its number, counted from 1.
        separator (`str`): What stands between two responses.
        speaker (`bool`): Whether a query of one turn is written with who says it, `User: …`.
        system (`str`, *optional*): A system turn before the prompt.
    """

    before: str
    between: str
    after: str
    delimiters: tuple[str, str]
    separator: str
    speaker: bool = True
    system: str | None = None


def read_card_prompt(card: str) -> CardPrompt:
    """The prompt that the Python blocks of a model card build.

    The loop over the responses says which part of the prompt is about them, and the one value before it that the code
    leaves open, or names like a conversation, is the conversation. Of several prompts the one that is handed over as a
    user's message counts, then the longest.

    Raises:
        `ValueError`: if there is no such prompt, or one of which a part is not understood, naming that part.
    """
    blocks = [textwrap.dedent(match["code"]) for match in _FENCED.finditer(card.replace("\r\n", "\n") + "\n")]
    if not blocks:
        raise ValueError("Found no Python block; expected one with the code that builds the judge's prompt.")
    reader, trees, broken = _Reader(), [], []
    for block in blocks:
        try:
            trees.append(ast.parse(block))
        except (SyntaxError, ValueError, RecursionError) as error:
            broken.append(str(error))
    try:
        for tree in trees:
            reader.run(tree.body, reader.globals)
        if not reader.found:
            reader.run_functions()
        return _choose(reader.found)
    except RecursionError as error:
        raise ValueError("Found code that is nested too deeply to be read.") from error
    except _NotFound as error:
        told = f" {len(broken)} of {len(blocks)} blocks are no Python: {broken[0]}." if broken else ""
        raise ValueError(f"{error}{told}") from error


class _NotFound(ValueError):
    pass


# What expressions amount to. A text is a tuple of literal strings and of stand-ins.


@dataclass(frozen=True)
class _Unknown:
    """Something that is not known without running the code."""

    source: str
    line: int

    def __str__(self) -> str:
        return f"`{self.source}` (line {self.line} of its block)"


@dataclass(frozen=True)
class _Item:
    """What a loop runs over, or a field of it."""

    loop: int
    key: str | None = None
    capitalized: bool = False


@dataclass(frozen=True)
class _Number:
    """The number of a loop's round, counted from `start`."""

    loop: int
    start: int


@dataclass(frozen=True)
class _Prior:
    """What a name held when the loop began."""

    loop: int
    name: str


class _Named(str):
    """A literal text that was read from a name."""

    name: str = ""


@dataclass(frozen=True)
class _Repeat:
    """What a loop makes of each item, with what stands between: a text in a text, and entries in a list."""

    loop: int
    body: tuple
    separator: str = ""
    items: tuple | None = None  # what it runs over, where the code says so


@dataclass(frozen=True)
class _List:
    entries: tuple


@dataclass(frozen=True)
class _Function:
    node: ast.FunctionDef
    scope: Mapping[str, Any]


@dataclass
class _Found:
    """A text with a loop in it."""

    text: tuple
    is_message: bool = False
    system: str | None = None


@dataclass
class _Reader:
    """Follows the strings of a program."""

    globals: dict[str, Any] = field(default_factory=dict)
    found: list[_Found] = field(default_factory=list)
    loops: int = 0
    depth: int = 0
    calls: int = 0

    # Statements

    def run(self, body: Sequence[ast.stmt], scope: dict[str, Any]) -> list[Any]:
        """Runs statements and returns what they return: nothing, one value, or several that depend on a condition."""
        returned: list[Any] = []
        for statement in body:
            handler = getattr(self, f"_run_{type(statement).__name__}", None)
            if handler is not None:
                returned += handler(statement, scope) or ()
            else:
                self._look_into(statement, scope)
            if returned:
                break
        return returned

    def run_functions(self) -> None:
        """Runs the functions that nothing calls, whatever their arguments."""
        for value in list(self.globals.values()):
            if isinstance(value, _Function):
                self._call(value, [], {}, value.node)

    def _look_into(self, statement: ast.stmt, scope: dict[str, Any]) -> None:
        for node in ast.iter_child_nodes(statement):
            if isinstance(node, ast.expr):
                self.value(node, scope)

    def _run_FunctionDef(self, node, scope) -> None:
        scope[node.name] = _Function(node, scope)

    _run_AsyncFunctionDef = _run_FunctionDef

    def _run_ClassDef(self, node, scope) -> None:
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                scope.setdefault(statement.name, _Function(statement, scope))

    def _run_Return(self, node, scope) -> list[Any]:
        return [self.value(node.value, scope) if node.value else None]

    def _run_Assign(self, node, scope) -> None:
        value = self.value(node.value, scope)
        for target in node.targets:
            self._assign(target, value, node, scope)

    def _run_AnnAssign(self, node, scope) -> None:
        if node.value is not None:
            self._assign(node.target, self.value(node.value, scope), node, scope)

    def _run_AugAssign(self, node, scope) -> None:
        if isinstance(node.target, ast.Name):
            sides = scope.get(node.target.id), self.value(node.value, scope)
            scope[node.target.id] = self._added(*sides, node) if isinstance(node.op, ast.Add) else _unknown(node)

    def _run_Expr(self, node, scope) -> None:
        call = node.value
        changes = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        if changes and isinstance(call.func.value, ast.Name) and len(call.args) == 1:
            name, method = call.func.value.id, call.func.attr
            if method in ("append", "extend") and isinstance(held := scope.get(name), _List):
                value = self.value(call.args[0], scope)
                more = (value,) if method == "append" else getattr(value, "entries", (_unknown(call),))
                scope[name] = _List((*held.entries, *more))
                return
        self.value(call, scope)

    def _run_If(self, node, scope) -> list[Any]:
        if isinstance(node.test, ast.Compare) and ast.unparse(node.test.left) == "__name__":
            return self.run(node.body, scope)
        one, other = dict(scope), dict(scope)
        returned = [self.run(node.body, one), self.run(node.orelse, other)]
        for name in {*one, *other}:
            scope[name] = one[name] if name in one and one[name] == other.get(name) else _Unknown(name, node.lineno)
        if any(returned):  # otherwise one of them would be followed by what comes next
            return [*returned[0], *returned[1], _Unknown("if", node.lineno)]
        return []

    def _run_With(self, node, scope) -> list[Any]:
        return self.run(node.body, scope)

    def _run_Try(self, node, scope) -> list[Any]:
        return self.run([*node.body, *node.orelse, *node.finalbody], scope)

    def _run_While(self, node, scope) -> None:
        self.run(node.body, scope)
        self._forget(node, scope)

    def _run_For(self, node, scope) -> None:
        loop = self._loop(node.target, node.iter, scope)
        before = {name: scope[name] for name in _stored(node) if isinstance(scope.get(name), (tuple, _List))}
        for name, value in before.items():
            prior = (_Prior(loop.loop, name),)
            scope[name] = prior if isinstance(value, tuple) else _List(prior)
        if self.run(node.body, scope):
            self._forget(node, scope)
        for name, value in before.items():
            scope[name] = self._after_loop(loop, name, value, scope[name], node)

    def _after_loop(self, loop: _Repeat, name: str, before: Any, now: Any, node: ast.AST) -> Any:
        """What a name holds after a loop that may have added to it in each round."""
        parts = now.entries if isinstance(now, _List) else now
        prior = _Prior(loop.loop, name)
        if not isinstance(parts, tuple) or prior not in parts:
            return now
        if parts[0] != prior or parts.count(prior) > 1 or isinstance(now, _List) != isinstance(before, _List):
            return _unknown(node)
        if len(parts) == 1:
            return before
        repeat = replace(loop, body=parts[1:])
        return _List((*before.entries, repeat)) if isinstance(before, _List) else (*before, repeat)

    def _forget(self, node: ast.AST, scope: dict[str, Any]) -> None:
        scope |= {name: _Unknown(name, node.lineno) for name in _stored(node)}

    def _assign(self, target: ast.expr, value: Any, node: ast.AST, scope: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            scope[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts = value.entries if isinstance(value, _List) and len(value.entries) == len(target.elts) else None
            for i, part in enumerate(target.elts):
                self._assign(part, _unknown(node) if parts is None else parts[i], node, scope)

    def _loop(self, target: ast.expr, iterated: ast.expr, scope: dict[str, Any]) -> _Repeat:
        """A loop, whose variables now stand for what they hold in any round."""
        self.loops += 1
        call = iterated if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name) else None
        kind, items, held = call.func.id if call is not None else None, iterated, _Item(self.loops)
        if kind == "enumerate" and call.args and isinstance(target, ast.Tuple) and len(target.elts) == 2:
            starts = [*call.args[1:], *(keyword.value for keyword in call.keywords)]
            start = self.value(starts[0], scope) if starts else 0
            number = _Number(self.loops, start) if isinstance(start, int) else _unknown(iterated)
            self._assign(target.elts[0], number, iterated, scope)
            target, items = target.elts[1], call.args[0]
        elif kind == "range":
            start = self.value(call.args[0], scope) if len(call.args) > 1 else 0
            held = _Number(self.loops, start) if isinstance(start, int) and len(call.args) < 3 else _unknown(iterated)
            items = None
        values = self.value(items, scope) if items is not None else None
        self._assign(target, held, iterated, scope)
        known = isinstance(values, _List) and not any(isinstance(entry, _Repeat) for entry in values.entries)
        return _Repeat(self.loops, (), items=values.entries if known else None)

    # Expressions

    def value(self, node: ast.expr, scope: dict[str, Any]) -> Any:
        """What an expression amounts to; texts with a loop in them are kept."""
        handler = getattr(self, f"_value_{type(node).__name__}", None)
        if handler is None:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.value(child, scope)
            return _unknown(node)
        value = handler(node, scope)
        if isinstance(value, tuple):
            if sum(len(part) for part in value if isinstance(part, str)) > _LONGEST or len(value) > _LONGEST:
                raise ValueError(f"Found a text of more than {_LONGEST} characters; expected a judge's prompt.")
            if any(isinstance(part, _Repeat) for part in value):
                self.found.append(_Found(value))
        return value

    def _value_Constant(self, node, scope) -> Any:
        return (node.value,) if isinstance(node.value, str) else node.value

    def _value_Name(self, node, scope) -> Any:
        value = scope.get(node.id, self.globals.get(node.id, _unknown(node)))
        if isinstance(value, tuple) and value and all(isinstance(part, str) for part in value):
            named = _Named("".join(value))
            named.name = node.id
            return (named,)
        return value

    def _value_JoinedStr(self, node, scope) -> tuple:
        return tuple(part for value in node.values for part in self._field(value, scope))

    def _field(self, node: ast.expr, scope: dict[str, Any]) -> tuple:
        if not isinstance(node, ast.FormattedValue):
            return self._value_Constant(node, scope)
        if node.format_spec is not None or node.conversion not in (-1, ord("s")):
            return (_unknown(node.value),)
        return self._as_text(self.value(node.value, scope), node.value)

    def _as_text(self, value: Any, node: ast.AST) -> tuple:
        if isinstance(value, tuple):
            return value
        if isinstance(value, (_Item, _Number, _Unknown)):
            return (value,)
        return (str(value),) if isinstance(value, int) else (_unknown(node),)

    def _value_BinOp(self, node, scope) -> Any:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        if isinstance(node.op, ast.Add):
            return self._added(left, right, node)
        if isinstance(node.op, ast.Sub) and isinstance(left, _Number) and isinstance(right, int):
            return replace(left, start=left.start - right)
        return _unknown(node)

    def _added(self, left: Any, right: Any, node: ast.AST) -> Any:
        if isinstance(left, int) and isinstance(right, _Number):
            left, right = right, left
        if isinstance(left, _Number) and isinstance(right, int):
            return replace(left, start=left.start + right)
        if isinstance(left, int) and isinstance(right, int):
            return left + right
        if isinstance(left, _List) and isinstance(right, _List):
            return _List(left.entries + right.entries)
        if isinstance(left, tuple) or isinstance(right, tuple):
            return self._as_text(left, node) + self._as_text(right, node)
        return _unknown(node)

    def _value_List(self, node, scope) -> _List:
        value = _List(tuple(self.value(entry, scope) for entry in node.elts))
        system = next((e["content"] for e in value.entries if isinstance(e, dict) and e.get("role") == "system"), None)
        if system is not None and all(isinstance(part, str) for part in system):
            for found in self.found:
                if found.is_message and any(isinstance(e, dict) and e["content"] is found.text for e in value.entries):
                    found.system = "".join(system)
        return value

    _value_Tuple = _value_List

    def _value_Dict(self, node, scope) -> Any:
        """A message, if it is one."""
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        values = dict(zip(keys, [self.value(value, scope) for value in node.values], strict=True))
        role, content = values.get("role"), values.get("content")
        if not isinstance(role, tuple) or not all(isinstance(part, str) for part in role):
            return _unknown(node)
        role = "".join(role)
        if role == "user" and isinstance(content, tuple) and any(isinstance(part, _Repeat) for part in content):
            self.found.append(_Found(content, is_message=True))
        return {"role": role, "content": content if isinstance(content, tuple) else (_unknown(node),)}

    def _value_Subscript(self, node, scope) -> Any:
        held, key = self.value(node.value, scope), self.value(node.slice, scope)
        if isinstance(held, _Item) and held.key is None and isinstance(key, tuple) and len(key) == 1:
            return replace(held, key=str(key[0]))
        if isinstance(key, _Number) and key.start == 0:
            return _Item(key.loop)
        if isinstance(key, _Item) and key.key is None:  # `responses[i] for i in order`
            return key
        return _unknown(node)

    def _value_Attribute(self, node, scope) -> Any:
        held = self.value(node.value, scope)
        return replace(held, key=node.attr) if isinstance(held, _Item) and held.key is None else _unknown(node)

    def _value_ListComp(self, node, scope) -> Any:
        scope, (generator, *others) = dict(scope), node.generators
        if others or generator.ifs:
            return _unknown(node)
        loop = self._loop(generator.target, generator.iter, scope)
        return _List((replace(loop, body=(self.value(node.elt, scope),)),))

    _value_GeneratorExp = _value_ListComp

    def _value_Call(self, node, scope) -> Any:
        arguments = [self.value(argument, scope) for argument in node.args]
        named = {keyword.arg: self.value(keyword.value, scope) for keyword in node.keywords}
        plain = None not in named and not any(isinstance(argument, ast.Starred) for argument in node.args)
        if isinstance(node.func, ast.Attribute):
            held = self.value(node.func.value, scope)
            method = getattr(self, f"_text_{node.func.attr}", None)
            if plain and isinstance(held, tuple) and method is not None:
                return method(held, arguments, named, node)
            if node.func.attr in ("capitalize", "title") and isinstance(held, _Item) and held.key and not arguments:
                return replace(held, capitalized=True)
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        if name in ("dedent", "cleandoc") and len(arguments) == 1:
            return self._text_dedent(arguments[0], node)
        function = scope.get(name, self.globals.get(name))
        if isinstance(node.func, ast.Name) and name == "str" and function is None and len(arguments) == 1:
            return self._as_text(arguments[0], node)
        if isinstance(function, _Function) and plain:
            return self._call(function, arguments, named, node)
        return _unknown(node)

    def _call(self, function: _Function, arguments: list[Any], named: dict[str, Any], node: ast.AST) -> Any:
        self.calls += 1
        if self.depth == _DEEPEST or self.calls > _MOST_CALLS:
            return _unknown(node)
        given = function.node.args
        names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
        if names[:1] == ["self"] and len(arguments) < len(names):
            names = names[1:]
        scope = {name: _Unknown(name, function.node.lineno) for name in (*names, *(a.arg for a in given.kwonlyargs))}
        defaults = zip(reversed(names), reversed(given.defaults), strict=False)
        for name, default in (*defaults, *zip((a.arg for a in given.kwonlyargs), given.kw_defaults, strict=True)):
            if default is not None and not (isinstance(default, ast.Constant) and default.value is None):
                scope[name] = self.value(default, self.globals)
        scope |= dict(zip(names, arguments, strict=False)) | named
        self.depth += 1
        try:
            returned = self.run(function.node.body, {**function.scope, **scope})
        finally:
            self.depth -= 1
        return returned[0] if len(returned) == 1 else _unknown(node)

    # Methods of texts

    def _text_format(self, text: tuple, arguments: list[Any], named: dict[str, Any], node: ast.AST) -> Any:
        if not all(isinstance(part, str) for part in text):
            return _unknown(node)
        made, counted = [], 0
        try:
            fields = list(string.Formatter().parse("".join(text)))
        except ValueError:
            return _unknown(node)
        for literal, name, spec, conversion in fields:
            made.append(literal)
            if name is None:
                continue
            if name == "":
                name, counted = str(counted), counted + 1
            values = dict(enumerate(arguments)) if name.isdigit() else named
            value = values.get(int(name) if name.isdigit() else name, _unknown(node))
            made += (_unknown(node),) if spec or conversion not in (None, "s") else self._as_text(value, node)
        return tuple(made)

    def _text_join(self, text: tuple, arguments: list[Any], named: dict[str, Any], node: ast.AST) -> Any:
        if len(arguments) != 1 or not isinstance(arguments[0], _List) or not all(isinstance(p, str) for p in text):
            return _unknown(node)
        separator, made = "".join(text), []
        for entry in arguments[0].entries:
            made += (separator,) if made else ()
            if isinstance(entry, _Repeat):
                body = []
                for part in entry.body:  # of several entries in each round
                    body += ((separator,) if body else ()) + self._as_text(part, node)
                made.append(replace(entry, body=tuple(body), separator=separator))
            else:
                made += self._as_text(entry, node)
        return tuple(made)

    def _text_replace(self, text: tuple, arguments: list[Any], named: dict[str, Any], node: ast.AST) -> Any:
        old = arguments[0] if arguments else ()
        if len(arguments) != 2 or not isinstance(old, tuple) or not all(isinstance(p, str) for p in old) or not old:
            return _unknown(node)
        new, made = self._as_text(arguments[1], node), []
        for part in text:
            for i, piece in enumerate(part.split("".join(old)) if isinstance(part, str) else [part]):
                made += (*new, piece) if i else (piece,)
        return tuple(made)

    def _text_strip(self, text: tuple, arguments: list[Any], named: dict[str, Any], node: ast.AST) -> Any:
        return self._text_lstrip(self._text_rstrip(text, arguments, named, node), arguments, named, node)

    def _text_lstrip(self, text: tuple, arguments: list[Any], named: dict[str, Any], node: ast.AST) -> Any:
        return self._stripped(text, arguments, node, 0, str.lstrip)

    def _text_rstrip(self, text: tuple, arguments: list[Any], named: dict[str, Any], node: ast.AST) -> Any:
        return self._stripped(text, arguments, node, -1, str.rstrip)

    def _stripped(self, text: Any, arguments: list[Any], node: ast.AST, end: int, strip) -> Any:
        """Strips one end, which must not reach what is not known."""
        if not isinstance(text, tuple) or arguments or not text:
            return _unknown(node)
        parts = list(text)
        while len(parts) > 1 and type(parts[end]) is str and not strip(parts[end]):
            parts.pop(end)
        if not isinstance(parts[end], str) or (isinstance(parts[end], _Named) and len(parts) > 1):
            return _unknown(node)
        parts[end] = strip(parts[end])
        return tuple(parts)

    def _text_dedent(self, text: Any, node: ast.AST) -> Any:
        known = isinstance(text, tuple) and all(isinstance(part, str) for part in text)
        if not known or getattr(node.func, "attr", getattr(node.func, "id", None)) == "cleandoc":
            return _unknown(node)
        return (textwrap.dedent("".join(text)),)


def _unknown(node: ast.AST) -> _Unknown:
    return _Unknown(ast.unparse(node)[:80], getattr(node, "lineno", 0))


def _stored(node: ast.AST) -> set[str]:
    """Names that a statement assigns or adds to."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    calls = (n.func for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute))
    changed = {f.value.id for f in calls if f.attr in ("append", "extend") and isinstance(f.value, ast.Name)}
    return names | changed


def _merged(parts: Sequence[Any]) -> list[Any]:
    """Literal strings that stand side by side as one."""
    made: list[Any] = []
    for part in parts:
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] = str(made[-1]) + str(part)
        elif part != "":
            made.append(str(part) if isinstance(part, str) else part)
    return made


# From a text with a loop to a prompt.


def _choose(found: Sequence[_Found]) -> CardPrompt:
    """The longest prompt that is sent; of those that are only made, the last of the long ones: a prompt grows."""
    prompts, failures = [], []
    for candidate in found:
        try:
            prompt = replace(_prompt(_unrolled(candidate.text)), system=candidate.system)
        except _NotFound as error:
            failures.append((candidate.is_message, _size(candidate.text), str(error)))
        else:
            prompts.append((candidate.is_message, _size(candidate.text), prompt))
    sent = any(candidate.is_message for candidate in found)
    prompts = [(size, prompt) for is_message, size, prompt in prompts if is_message == sent]
    if not prompts:
        told = f" {max(failures)[2]}" if failures else ""
        raise _NotFound(
            "Found no text with a loop over responses between a conversation and the output format; expected a "
            f"judge's prompt.{told}"
        )
    longest = max(size for size, _ in prompts)
    return [prompt for size, prompt in prompts if size >= (longest if sent else longest / 2)][-1]


def _size(text: tuple) -> int:
    return sum(len(part) for part in text if isinstance(part, str) and not isinstance(part, _Named))


def _unrolled(text: tuple) -> Iterator[Any]:
    """All loops but the last over known texts, written out: criteria, where the last one is over the responses."""
    last = max((place for place, part in enumerate(text) if isinstance(part, _Repeat)), default=0)
    for place, part in enumerate(text):
        known = isinstance(part, _Repeat) and all(isinstance(item, tuple) for item in part.items or (None,))
        if place == last or not known:
            yield part
            continue
        for i, item in enumerate(part.items):
            yield part.separator if i else ""
            for piece in part.body:
                if isinstance(piece, _Number):
                    yield str(piece.start + i)
                elif isinstance(piece, _Item) and piece.key is None and isinstance(item, tuple):
                    yield from item
                else:
                    yield piece


def _prompt(parts: Iterator[Any]) -> CardPrompt:
    parts = list(parts)
    loops = [place for place, part in enumerate(parts) if isinstance(part, _Repeat)]
    responses = loops[-1]
    before, after = parts[:responses], _merged(parts[responses + 1 :])
    if unknown := [part for part in after if not isinstance(part, str)]:
        raise _NotFound(f"Behind the responses stands {_told(unknown[0])}, which is not known without running it.")
    place, speaker = _conversation(before)
    sides = _merged(before[:place]), _merged(before[place + 1 :])
    if unknown := [part for side in sides for part in side if not isinstance(part, str)]:
        raise _NotFound(f"Before the responses stands {_told(unknown[0])}, which is not known without running it.")
    start, between, end = "".join(sides[0]), "".join(sides[1]), "".join(after)
    line = start.rpartition("\n")[2]
    if line.endswith("User: ") and not line[: -len("User: ")].strip():
        start, speaker = start.removesuffix("User: "), True  # a conversation is written with it
    elif re.fullmatch(r"[ \t]*\w[\w ]*:\s*", line):
        speaker = False
    if not start.strip() or not end.strip():
        raise _NotFound("Found a loop without text before and behind it.")
    return CardPrompt(start, between, end, _delimiters(parts[responses]), parts[responses].separator, speaker)


def _told(part: Any) -> str:
    return str(part) if isinstance(part, _Unknown) else "part of a loop"


def _conversation(before: list[Any]) -> tuple[int, bool]:
    """Where the conversation stands, and whether a query of one turn names its speaker."""
    open_ = [place for place, part in enumerate(before) if not isinstance(part, str)]
    named = [place for place, part in enumerate(before) if isinstance(part, _Named)]
    open_ += [place for place in named if _CONVERSATION.search(before[place].name)]
    open_ = open_ or named
    if len(open_) != 1:
        told = " and ".join(getattr(before[p], "name", "") or _told(before[p]) for p in open_)
        raise _NotFound(f"Before the responses {told or 'nothing'} may be the conversation; expected one value.")
    part = before[open_[0]]
    if isinstance(part, _Named):
        return open_[0], part.startswith("User: ")
    if isinstance(part, _Repeat):
        body = _merged(part.body)
        if len(body) == 4 and body[3] == "\n" and part.separator == "":  # each turn with its line break
            before.insert(open_[0] + 1, body.pop())
            part = replace(part, separator="\n")
        fields = [(part_.key, part_.capitalized) if isinstance(part_, _Item) else part_ for part_ in body]
        if (fields, part.separator) != ([("role", True), ": ", ("content", False)], "\n"):
            raise _NotFound("The conversation is not written in lines of `Role: text`, which is how ours is written.")
    return open_[0], True


def _delimiters(loop: _Repeat) -> tuple[str, str]:
    """What stands around a response, `{i}` in place of its number."""
    sides: list[list[str]] = [[]]
    for part in loop.body:
        if isinstance(part, str) and "{i}" not in part:
            sides[-1].append(part)
        elif isinstance(part, _Number) and part.loop == loop.loop and part.start == 1:
            sides[-1].append("{i}")
        elif isinstance(part, _Item) and part.loop == loop.loop and len(sides) == 1:
            sides.append([])
        else:
            told = f"numbers from {part.start}" if isinstance(part, _Number) else _told(part)
            raise _NotFound(f"Around each response stands {told}; expected fixed text and numbers from 1.")
    if len(sides) != 2:
        raise _NotFound("Found a loop that does not write what it runs over.")
    return "".join(sides[0]), "".join(sides[1])
