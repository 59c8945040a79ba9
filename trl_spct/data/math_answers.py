# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
r"""Rule-based matching of boxed answers with true ones, by the library `math-verify`.

Computer algebra on a model's text may take unbounded time or memory where no Python timeout interrupts it. This module
is therefore run as a script, in processes with limits on both; these import neither torch nor this package.
"""

import importlib.metadata
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable


CORRECT, INCORRECT = "correct", "incorrect"
MISSING, UNPARSABLE, TIMEOUT, ERROR = "missing", "unparsable", "timeout", "error"

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t\r\n]*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"[^\s${}]+")
_PERIOD = re.compile(r"(?<=[0-9}\])])\.$")
_MEMORY = 4 * 2**30


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` or `\fbox{…}`, with matched braces; `5` for `\boxed 5`.

    `None` if there is no box, or if the last one, which holds the answer in MATH, does not close or is empty.
    """
    boxes = [*_BOX.finditer(text)]
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        word = _UNBRACED.match(text, start)
        return word[0].rstrip(".,") or None if word else None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return _PERIOD.sub("", text[start + 1 : brace.start()].strip()) or None
    return None


def math_verify_version() -> str:
    """The version of `math-verify`, whose rules decide."""
    try:
        return importlib.metadata.version("math-verify")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError("Answers are matched by `math-verify`. Install it: `pip install trl-spct[math]`.") from error


def match_answers(pairs: Iterable[tuple[str, str]], timeout: float = 10.0) -> list[str]:
    r"""Compares pairs of a true answer and another, both as LaTeX without the box. Needs the signals of POSIX.

    ```python
    >>> match_answers([(r"\frac12", "0.5"), ("[2, 5)", "(2, 5]")])
    ['correct', 'incorrect']
    ```

    Args:
        pairs (iterable of pairs of `str`): The true answers and the others.
        timeout (`float`, *optional*, defaults to `10.0`): Seconds of processor time for one pair. [?]

    Returns:
        `list[str]`: `"correct"`, `"incorrect"`, or why neither is known: `"unparsable"` (one of the two is no
        mathematics), `"timeout"` or `"error"`.
    """
    if not timeout > 0:
        raise ValueError(f"Found timeout={timeout}; expected timeout > 0.")
    math_verify_version()
    pairs = list(pairs)
    outcomes: list[str] = []
    command = [sys.executable, "-P", __file__, str(timeout)]
    while len(outcomes) < len(pairs):  # a pair that ends the process gets the cause, and another process the rest
        rest = json.dumps(pairs[len(outcomes) :])
        done = subprocess.run(command, input=rest, capture_output=True, encoding="utf-8", errors="replace")
        matched = done.stdout.split()
        if not matched:
            raise RuntimeError(
                f"`{' '.join(command)}`, which matches answers, ended with {done.returncode} before its first pair: "
                f"{done.stderr[-500:]}"
            )
        outcomes += matched[1:]
        if len(outcomes) < len(pairs):
            outcomes.append(TIMEOUT if done.returncode == -signal.SIGPROF else ERROR)
    return outcomes


def _main(timeout: float) -> None:
    """Writes a line for each pair of the input; a pair that exceeds the time limit ends the process."""
    answers, sys.stdout = sys.stdout, sys.stderr
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    import math_verify  # noqa: F401  before the first pair is timed

    answers.write("ready\n")
    answers.flush()
    for true, answer in json.load(sys.stdin):
        signal.setitimer(signal.ITIMER_PROF, timeout)  # without a handler, the signal ends the process
        outcome = _matched(true, answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(f"{outcome}\n")
        answers.flush()


def _matched(true: str, answer: str) -> str:
    from math_verify import verify

    known, other = _parsed(true), _parsed(answer)
    if known is None or other is None:
        return UNPARSABLE
    if known[1] == other[1]:
        return CORRECT
    try:
        # Without its own timeout: the signal of this process also interrupts C code, and counts processor time.
        same = verify(known[0], other[0], timeout_seconds=None, raise_on_error=True)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return ERROR
    return CORRECT if same else INCORRECT


def _parsed(answer: str) -> tuple | None:
    """The expression that a boxed answer is, and its normalized LaTeX; `None` if it is none."""
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    parsed = parse(rf"\boxed{{{answer}}}", [config], parsing_timeout=None)
    return tuple(parsed) if len(parsed) == 2 else None


if __name__ == "__main__":
    _main(float(sys.argv[1]))
