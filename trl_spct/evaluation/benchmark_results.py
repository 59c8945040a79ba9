# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Benchmark values over the number of votes, with intervals, and paired comparisons of two judges."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..judge.voting import Guidance, Scores
from .benchmark_loading import LoadedBenchmark
from .benchmark_metrics import OVERALL, Units
from .benchmarks import Metric
from .judgments import Judge, Judgment, record_judgments, vote_facts, vote_schemes, votes_at

RESAMPLES = 2000
"""Resamples of each bootstrap."""


def judge_benchmark(judge: Judge, loaded: LoadedBenchmark, folder, **options: Any) -> list[Judgment]:
    """Judges all rows of a benchmark; see [`~trl_spct.evaluation.judgments.record_judgments`] for the options. Rows of
    an item with several have its id with `/0`, `/1`, … Critiques of a private benchmark are stored as hashes."""
    rows = [row for item in loaded.items for row in item.rows]
    labels = [labels for item in loaded.items for labels in item.labels]
    return record_judgments(judge, rows, folder, labels, _row_ids(loaded), loaded.benchmark.private, **options)


def _row_ids(loaded: LoadedBenchmark) -> list[str]:
    rows = ((item, number) for item in loaded.items for number in range(len(item.rows)))
    return [item.id if len(item.rows) == 1 else f"{item.id}/{number}" for item, number in rows]


def benchmark_results(
    loaded: LoadedBenchmark,
    judgments: Sequence[Judgment],
    ks: Sequence[int] | None = None,
    guided: bool | None = None,
    seed: int = 0,
    guidance: Guidance | None = None,
    **described: Any,
) -> list[dict[str, Any]]:
    """The benchmark's metric over the number of votes, from one set of judgments: results of
    [`~trl_spct.evaluation.judgments.scaling_results`], where `accuracy` is the overall value and `n` the number of
    items.

    A value at k is the mean over the disjoint blocks of k critiques, over all rows: one without a vote loses every
    comparison. Added are `benchmark`, `metric`, `rows` (prompts) and `values`: (value, low, high) of each subset, or
    `None` if it does not exist, and then the reason in `undefined`."""
    metric = loaded.benchmark.metric
    results = []
    for k, guide in vote_schemes(judgments, ks, guided, guidance):
        votes = [votes_at(judgment, k, guide) for judgment in judgments]
        intervals = with_intervals(item_units(loaded, judgments, votes), metric, seed)
        undefined = {name: metric.undefined for name, (value, *_) in intervals.items() if np.isnan(value)}
        values = {name: None if name in undefined else list(value) for name, value in intervals.items()}
        overall = values.pop(OVERALL) or (None,) * 3
        result = {
            **described,
            "benchmark": loaded.benchmark.name,
            "metric": metric.name,
            **dict(zip(("accuracy", "low", "high"), overall, strict=True)),
            "n": len(loaded.items),
            "rows": len(judgments),
            "k": k,
            "guided": guide is not None,
            **vote_facts(judgments, votes),
            "values": values,
            **({"undefined": undefined} if undefined else {}),
            "seed": seed,
        }
        results.append(result)
    return results


def compare_judges(
    loaded: LoadedBenchmark,
    first: Sequence[Judgment],
    second: Sequence[Judgment],
    k: int = 1,
    guidance: tuple[Guidance | None, Guidance | None] = (None, None),
    seed: int = 0,
) -> dict[str, Any]:
    """Paired comparison of two judges on the same items, at k votes that `guidance` guides.

    Returns:
        `dict`: `difference` (second − first), `low` and `high` (95 % interval of a paired bootstrap over items) and
        `n` (items). All but `n` are `None`, and `undefined` has the reason, if the benchmark's value does not exist.
    """
    metric = loaded.benchmark.metric
    modes = zip((first, second), guidance, strict=True)
    pair = [item_units(loaded, judged, [votes_at(row, k, guide) for row in judged]) for judged, guide in modes]
    pair = [units[: min(map(len, pair))] for units in pair]
    difference = _difference(metric, pair)
    if np.isnan(difference):
        undefined = dict.fromkeys(("difference", "low", "high"))
        return {**undefined, "n": len(loaded.items), "undefined": metric.undefined}
    resamples = _resamples(pair[0][0], seed)
    draws = [_difference(metric, [_chosen(units, chosen) for units in pair]) for chosen in resamples]
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return {"difference": difference, "low": float(low), "high": float(high), "n": len(loaded.items)}


def item_units(
    loaded: LoadedBenchmark, judgments: Sequence[Judgment], votes: Sequence[Sequence[Scores]]
) -> list[dict[str, np.ndarray]]:
    """Contributions of the items by group, for each block of votes; their mean if the metric is linear."""
    ids = _row_ids(loaded)
    if [judgment.id for judgment in judgments] != ids:
        raise ValueError(
            f"Found {len(judgments)} judgments that are not those of the {len(ids)} rows of {loaded.benchmark.name}; "
            "expected one per row, in order."
        )
    metric = loaded.benchmark.metric
    blocks = []
    for block in range(min(map(len, votes))):
        units: dict[str, list] = {}
        scores = iter([row[block] for row in votes])
        for item in loaded.items:
            units.setdefault(item.group, []).append(metric.unit(item, [next(scores) for _ in item.rows]))
        blocks.append({group: np.asarray(values, dtype=float) for group, values in units.items()})
    if metric.linear:
        return [{group: np.mean([block[group] for block in blocks], axis=0) for group in blocks[0]}]
    return blocks


def with_intervals(blocks: Sequence[Units], metric: Metric, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) by name, with 95 % percentile intervals of a bootstrap over items."""
    draws = [_mean_values(metric, _chosen(blocks, chosen)) for chosen in _resamples(blocks[0], seed)]
    intervals = {}
    for name, value in _mean_values(metric, blocks).items():
        finite = [draw[name] for draw in draws if np.isfinite(draw.get(name, np.nan))]
        low, high = np.percentile(finite, (2.5, 97.5)) if finite else (value, value)
        intervals[name] = (value, float(low), float(high))
    return intervals


def _resamples(units: Units, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Items drawn with replacement, as positions within their groups: group sizes first, then items."""
    generator = np.random.default_rng(seed)
    sizes = np.array([len(array) for array in units.values()])
    for _ in range(RESAMPLES):
        counts = generator.multinomial(sizes.sum(), sizes / sizes.sum())
        drawn = zip(units, sizes, counts, strict=True)
        yield {group: generator.integers(size, size=count) for group, size, count in drawn if count}


def _chosen(blocks: Sequence[Units], chosen: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{group: block[group][index] for group, index in chosen.items()} for block in blocks]


def _mean_values(metric: Metric, blocks: Sequence[Units]) -> dict[str, float]:
    values = [metric.values(block) for block in blocks]
    return {name: float(np.mean([block[name] for block in values])) for name in values[0]}


def _difference(metric: Metric, pair: Sequence[Sequence[Units]]) -> float:
    first, second = (_mean_values(metric, blocks)[OVERALL] for blocks in pair)
    return second - first
