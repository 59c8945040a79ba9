# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
r"""Rule-based matching of boxed answers with true ones, by the library `math-verify`.

The comparison runs in processes for which this module is the script, since computer algebra on a model's text may take
unbounded time or memory where no Python timeout interrupts it. A limit on the processor time of these processes does
not depend on the load of the machine, and they import neither torch nor this package, unlike those of a process pool.
"""

import importlib.metadata
import json
import queue
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor


CORRECT, INCORRECT = "correct", "incorrect"
MISSING, UNPARSABLE, TIMEOUT, ERROR = "missing", "unparsable", "timeout", "error"
OUTCOMES = (CORRECT, INCORRECT, MISSING, UNPARSABLE, TIMEOUT, ERROR)

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t\r\n]*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"[^\s${}]+")
_PERIOD = re.compile(r"(?<=[0-9}\])])\.$")
_MEMORY = 4 * 2**30


def boxed_answer(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` or `\fbox{…}`, with matched braces; `5` for `\boxed 5`.

    Earlier boxes do not count, not even where the last one cannot be read: MATH states its truth in the last one.

    Returns:
        `str`, or `None` if there is no box, none that closes, or nothing in it.

    Example:

    ```python
    >>> from trl_spct.data.math_answers import boxed_answer
    >>> boxed_answer(r"Not $\boxed{3}$ but $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    ```
    """
    boxes = [*_BOX.finditer(text)]
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        found = _UNBRACED.match(text, start)
        return found[0].rstrip(".,") or None if found else None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return _PERIOD.sub("", text[start + 1 : brace.start()].strip()) or None
    return None


def math_verify_version() -> str:
    """The version of `math-verify`, whose rules decide.

    Raises:
        `ImportError`: if it is not installed.
    """
    try:
        return importlib.metadata.version("math-verify")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError("Answers are matched by `math-verify`. Install it: `pip install trl-spct[math]`.") from error


class AnswerMatcher:
    """Compares answers with the truth by the rules of `math-verify` (an extra: `pip install trl-spct[math]`).

    ```python
    >>> with AnswerMatcher() as match:
    ...     match([(r"\\frac12", "0.5"), ("[2, 5)", "(2, 5]")])
    ['correct', 'incorrect']
    ```

    May be called from several threads. Needs the signals of POSIX.

    Args:
        timeout (`float`, *optional*, defaults to `10.0`): Seconds of processor time for one comparison. [?]
        num_proc (`int`, *optional*, defaults to `1`): Processes that compare.

    Raises:
        `ImportError`: if `math-verify` is not installed.
    """

    def __init__(self, timeout: float = 10.0, num_proc: int = 1):
        if not timeout > 0 or num_proc < 1:
            raise ValueError(
                f"Found timeout={timeout} and num_proc={num_proc}; expected timeout > 0 and num_proc >= 1."
            )
        math_verify_version()
        self.num_proc = num_proc
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for _ in range(num_proc):
            self._idle.put(_Process(timeout))

    def __call__(self, pairs: Iterable[tuple[str, str]]) -> list[str]:
        """Outcomes of pairs of a true answer and another, both as LaTeX without the box.

        Returns:
            `list[str]`: `"correct"`, `"incorrect"`, or why that cannot be said: `"unparsable"` (either is no
            mathematics), `"timeout"` or `"error"`.
        """
        with ThreadPoolExecutor(self.num_proc) as executor:
            return [*executor.map(self._outcome, pairs)]

    def _outcome(self, pair: tuple[str, str]) -> str:
        process = self._idle.get()
        try:
            return process.ask(pair)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Ends the processes; a later call starts them again."""
        processes = [self._idle.get() for _ in range(self.num_proc)]
        for process in processes:
            process.end()
            self._idle.put(process)

    def __enter__(self) -> "AnswerMatcher":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Process:
    """A process that starts at its first pair, and again after a pair that ended it."""

    def __init__(self, timeout: float):
        self.timeout = timeout
        self._running: subprocess.Popen | None = None

    def ask(self, pair: tuple[str, str]) -> str:
        if self._running is not None and self._running.poll() is not None:
            self.end()
        running = self._running = self._running or self._start()
        assert running.stdin is not None and running.stdout is not None
        running.stdin.write(json.dumps(pair) + "\n")
        running.stdin.flush()
        answer = running.stdout.readline()
        if answer:
            return json.loads(answer)
        return TIMEOUT if self.end() == -signal.SIGPROF else ERROR

    def _start(self) -> subprocess.Popen:
        command = [sys.executable, "-P", __file__, str(self.timeout)]
        pipe = subprocess.PIPE
        running = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="utf-8")
        assert running.stdout is not None
        if not running.stdout.readline():
            raise RuntimeError(
                f"The process that matches answers ended with {running.wait()} before its first pair. "
                f"`{' '.join(command)}` shows why."
            )
        return running

    def end(self) -> int | None:
        """The exit code, if there was a process."""
        running, self._running = self._running, None
        if running is None:
            return None
        assert running.stdin is not None and running.stdout is not None
        running.stdout.close()
        try:
            running.stdin.close()
        except BrokenPipeError:
            pass  # what could not be sent was for a process that is gone
        return running.wait()


def _serve(timeout: float) -> None:
    """Answers each line of the input, a pair, with a line; a pair that exceeds the time limit ends the process."""
    answers, sys.stdout = sys.stdout, sys.stderr
    _bound_memory()
    import math_verify  # noqa: F401  before the first question is timed

    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, timeout)  # without a handler, the signal ends the process
        outcome = _matched(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


def _bound_memory() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _matched(true: str, answer: str) -> str:
    from math_verify import verify

    known, found = _parsed(true), _parsed(answer)
    if known is None or found is None:
        return UNPARSABLE
    if known[1] == found[1]:
        return CORRECT
    try:
        # Without its own timeout: the signal of this process also interrupts C code, and counts processor time.
        same = verify(known[0], found[0], timeout_seconds=None, raise_on_error=True)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return ERROR
    return CORRECT if same else INCORRECT


def _parsed(answer: str) -> tuple | None:
    """The expression that a boxed answer is, and its normalized LaTeX; `None` if it is none."""
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    found = parse(rf"\boxed{{{answer}}}", [config], parsing_timeout=None)
    return tuple(found) if len(found) == 2 else None


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
