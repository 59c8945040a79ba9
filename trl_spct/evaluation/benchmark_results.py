# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""What a judge is worth on a benchmark: values over the number of votes, intervals, and comparisons of two judges."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..judge.voting import Guidance
from .benchmark_loading import LoadedBenchmark
from .benchmark_metrics import OVERALL, Scores, Units
from .benchmarks import Item, Metric
from .judgments import Judge, Judgment, checked_votes, guided_modes, record_judgments, tie_share, votes_at


RESAMPLES = 2000
"""Of every bootstrap and permutation test here."""


def judge_benchmark(judge: Judge, loaded: LoadedBenchmark, folder, **options) -> list[Judgment]:
    """Judges all rows of a benchmark, writes as it goes and resumes; see [`record_judgments`] for the options.

    A row is called after its item, with `/0`, `/1`, … where an item has several. Rows of a private benchmark leave
    only hashes of what was written about them.
    """
    items = loaded.items
    return record_judgments(
        judge,
        [row for item in items for row in item.rows],
        [labels for item in items for labels in item.labels],
        folder,
        ids=[name for item in items for name in _row_names(item)],
        private=loaded.benchmark.private,
        **options,
    )


def _row_names(item: Item) -> list[str]:
    return [item.id] if len(item.rows) == 1 else [f"{item.id}/{number}" for number in range(len(item.rows))]


def benchmark_results(
    loaded: LoadedBenchmark,
    judgments: Sequence[Judgment],
    ks: Sequence[int] | None = None,
    guided: bool | None = None,
    seed: int = 0,
    guidance: Guidance | None = None,
    **described,
) -> list[dict[str, Any]]:
    """The benchmark's own metric over the number of votes, plain and guided, from one set of judgments.

    A value at k is the mean over the disjoint blocks of k critiques: no critique is used twice.

    Args:
        loaded ([`LoadedBenchmark`]): What was judged.
        judgments (sequence of [`Judgment`]): One per row, as [`judge_benchmark`] returns them.
        ks, guided, seed, guidance, **described: See [`~trl_spct.evaluation.judgments.scaling_results`].

    Returns:
        `list[dict]` with the entries of [`~trl_spct.evaluation.judgments.scaling_results`], of which `accuracy` is the
        benchmark's overall value and `n` its number of items, and `benchmark`, `metric`, `rows` (prompts), `tokens`
        and `seconds` (of the judge per item at this k; seconds in proportion to k), and `values`: (value, low, high)
        of each subset, section or task. A value that does not exist is `None`, and `undefined` tells why, by name.
    """
    _check_rows(loaded, judgments)
    ks = checked_votes(judgments, ks)
    results = []
    for mode in guided_modes(judgments, guided):
        guide = (guidance or True) if mode else False
        for k in ks:
            blocks = item_units(loaded, judgments, k, guide)
            metric = loaded.benchmark.metric
            found = with_intervals(blocks, metric, seed)
            undefined = {name: metric.undefined for name, (value, *_) in found.items() if np.isnan(value)}
            values = {name: None if name in undefined else list(value) for name, value in found.items()}
            overall = values.pop(OVERALL) or (None,) * 3
            results.append(
                {
                    **described,
                    "benchmark": loaded.benchmark.name,
                    "metric": metric.name,
                    "k": k,
                    "guided": mode,
                    **dict(zip(("accuracy", "low", "high"), overall, strict=True)),
                    "n": len(loaded.items),
                    "rows": len(judgments),
                    "unreadable": float(np.mean([row is None for j in judgments for row in j.scores])),
                    "ties": tie_share(judgments, k, guide),
                    **_costs(judgments, k, len(loaded.items)),
                    "values": values,
                    **({"undefined": undefined} if undefined else {}),
                    "seed": seed,
                }
            )
    return results


def compare_judges(
    loaded: LoadedBenchmark,
    first: Sequence[Judgment],
    second: Sequence[Judgment],
    k: int | tuple[int, int] = 1,
    guided: tuple[bool | Guidance, bool | Guidance] = (False, False),
    seed: int = 0,
) -> dict[str, Any]:
    """Is the second judge better than the first on the same items?

    Args:
        loaded ([`LoadedBenchmark`]): What both have judged.
        first, second (sequences of [`Judgment`]): Their judgments.
        k (`int` or pair of `int`, *optional*, defaults to `1`): Votes of both, or of each.
        guided (pair, *optional*): Whether, or how, the votes of each are guided.
        seed (`int`, *optional*, defaults to `0`): Of the resampling.

    Returns:
        `dict`: `difference` (second − first) with the 95 % interval `low`, `high` of a bootstrap over items, the same
        ones for both, and the two-sided `p` of a permutation test that exchanges the judges item by item, and `n`
        (items). All but `n` are `None`, and `undefined` tells why, if the benchmark's value does not exist.
    """
    metric = loaded.benchmark.metric
    votes = k if isinstance(k, tuple) else (k, k)
    pair = [
        item_units(loaded, judgments, count, guide)
        for judgments, count, guide in zip((first, second), votes, guided, strict=True)
    ]
    blocks = min(map(len, pair))
    pair = [units[:blocks] for units in pair]
    difference = _overall(metric, pair[1]) - _overall(metric, pair[0])
    if np.isnan(difference):
        nothing = dict.fromkeys(("difference", "low", "high", "p"))
        return {**nothing, "n": len(loaded.items), "undefined": metric.undefined}
    draws = np.array(
        [
            _overall(metric, _chosen(pair[1], chosen)) - _overall(metric, _chosen(pair[0], chosen))
            for chosen in _resamples(pair[0][0], seed)
        ]
    )
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    generator = np.random.default_rng(seed)
    extreme = 0
    for _ in range(RESAMPLES):
        swapped = _exchanged(pair, generator)
        extreme += abs(_overall(metric, swapped[1]) - _overall(metric, swapped[0])) >= abs(difference) - 1e-12
    p = (extreme + 1) / (RESAMPLES + 1)
    return {"difference": difference, "low": float(low), "high": float(high), "p": p, "n": len(loaded.items)}


def item_units(
    loaded: LoadedBenchmark, judgments: Sequence[Judgment], k: int, guided: bool | Guidance = False
) -> list[dict[str, np.ndarray]]:
    """What the items contribute, by group: for each block of k critiques, or their mean where that is the same."""
    _check_rows(loaded, judgments)
    metric = loaded.benchmark.metric
    votes = [[_mean_scores(*vote) for vote in votes_at(judgment, k, guided)] for judgment in judgments]
    blocks = []
    for block in range(min(map(len, votes))):
        units: dict[str, list] = {}
        row = 0
        for item in loaded.items:
            scores = [votes[row + number][block] for number in range(len(item.rows))]
            row += len(item.rows)
            units.setdefault(item.group, []).append(metric.unit(item, scores))
        blocks.append({group: np.asarray(found, dtype=float) for group, found in units.items()})
    if metric.linear:
        return [{group: np.mean([block[group] for block in blocks], axis=0) for group in blocks[0]}]
    return blocks


def _mean_scores(vote: Scores, weight: float) -> Scores:
    """Mean instead of sum, so that rows with unreadable critiques compare with others."""
    return None if vote is None else tuple(score / weight for score in vote)


def with_intervals(blocks: Sequence[Units], metric: Metric, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) by name, with 95 % percentile intervals of a bootstrap over items."""
    values = _mean_values(metric, blocks)
    draws: dict[str, list[float]] = {name: [] for name in values}
    for chosen in _resamples(blocks[0], seed):
        for name, value in _mean_values(metric, _chosen(blocks, chosen)).items():
            draws[name].append(value)
    return {
        name: (value, *(float(bound) for bound in np.nanpercentile(draws[name], (2.5, 97.5))))
        if np.isfinite(draws[name]).any()
        else (value, value, value)
        for name, value in values.items()
    }


def _resamples(units: Units, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Items drawn with replacement, as positions within their groups. First how many of each group, then which."""
    generator = np.random.default_rng(seed)
    sizes = np.array([len(array) for array in units.values()])
    for _ in range(RESAMPLES):
        counts = generator.multinomial(sizes.sum(), sizes / sizes.sum())
        yield {
            group: generator.integers(size, size=count)
            for group, size, count in zip(units, sizes, counts, strict=True)
            if count
        }


def _chosen(blocks: Sequence[Units], chosen: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{group: block[group][index] for group, index in chosen.items()} for block in blocks]


def _exchanged(pair: Sequence[Sequence[Units]], generator: np.random.Generator) -> list[list[dict[str, np.ndarray]]]:
    """Both judges' contributions, with the judges exchanged for a random half of the items."""
    swaps = {group: generator.random(len(array)) < 0.5 for group, array in pair[0][0].items()}

    def mixed(mine: Sequence[Units], other: Sequence[Units]) -> list[dict[str, np.ndarray]]:
        return [
            {group: np.where(swap[:, None], theirs[group], ours[group]) for group, swap in swaps.items()}
            for ours, theirs in zip(mine, other, strict=True)
        ]

    return [mixed(*pair), mixed(*reversed(pair))]


def _mean_values(metric: Metric, blocks: Sequence[Units]) -> dict[str, float]:
    found = [metric.values(block) for block in blocks]
    return {name: float(np.mean([values[name] for values in found])) for name in found[0]}


def _overall(metric: Metric, blocks: Sequence[Units]) -> float:
    return _mean_values(metric, blocks)[OVERALL]


def _costs(judgments: Sequence[Judgment], k: int, items: int) -> dict[str, float]:
    """Tokens written and seconds taken per item for k critiques of each of its rows, from what all critiques took."""
    critiques = sum(len(judgment.scores) for judgment in judgments)
    share = k * len(judgments) / critiques / items
    tokens = sum(sum(judgment.num_tokens) for judgment in judgments)
    return {"tokens": share * tokens, "seconds": share * sum(judgment.seconds for judgment in judgments)}


def _check_rows(loaded: LoadedBenchmark, judgments: Sequence[Judgment]) -> None:
    names = [name for item in loaded.items for name in _row_names(item)]
    if [judgment.id for judgment in judgments] != names:
        raise ValueError(
            f"Found {len(judgments)} judgments that are not those of the {len(names)} rows of "
            f"{loaded.benchmark.name}; expected one per row, in order."
        )
