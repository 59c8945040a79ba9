# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Cost of judging: tokens, counted where they are read and written, seconds, and money."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, astuple, dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Tokens that the judge read (in this process, what prompts share once; of a server, what its usage says) and
    sampled, tokens that the Meta RM read, and seconds, added up over processes."""

    read: int = 0
    written: int = 0
    scored: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def report(self, prices: Sequence[float] | None = None) -> dict[str, Any]:
        """The fields, with the `money` that the judge costs at the `prices` of a million tokens read and written."""
        if prices is None:
            return asdict(self)
        money = (self.read * prices[0] + self.written * prices[1]) / 1e6
        return {**asdict(self), "prices": list(prices), "money": money}


def cost_text(report: Mapping[str, Any]) -> str:
    """A [`Cost.report`] in words."""
    text = f"{report['read']:,} tokens read, {report['written']:,} written"
    text += f", {report['scored']:,} read by the Meta RM" if report["scored"] else ""
    text += f", {report['seconds']:,.1f} s"
    paid = " and ".join(map("{:g}".format, report.get("prices", ())))
    return f"{text}, {report['money']:,.4g} at {paid} a million" if paid else text


_meters: ContextVar[tuple[list[Cost], ...]] = ContextVar("spct_meters", default=())


@contextmanager
def metered() -> Iterator[list[Cost]]:
    """Yields a list, whose sum is the cost of what is judged in the block, by this thread and those of its engines."""
    spent, start = list[Cost](), time.perf_counter()
    token = _meters.set((*_meters.get(), spent))
    try:
        yield spent
    finally:
        _meters.reset(token)
        spent.append(Cost(seconds=time.perf_counter() - start))


def spend(**tokens: int) -> None:
    """Counts tokens (fields of [`Cost`]) in the blocks that are [`metered`]."""
    for spent in _meters.get():
        spent.append(Cost(**tokens))
