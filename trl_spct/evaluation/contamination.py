# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Near duplicates between training rows and a benchmark, by MinHash over word n-grams.

Requires datasketch: `pip install "trl-spct[eval]"`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..judge.preferences import Preference
from .benchmarks import Item


NUM_PERM = 128


@dataclass(frozen=True)
class Overlap:
    """A training row (its number) and a benchmark's item (its id) with a near-duplicate `"query"` or `"response"`, and
    the exact Jaccard similarity of their n-grams; 1 for equal words. The texts are not quoted."""

    row: int
    item: str
    part: str
    similarity: float


def find_overlaps(
    rows: Iterable[Mapping[str, Any] | Preference],
    items: Sequence[Item],
    threshold: float = 0.8,
    ngram: int = 5,
    seed: int = 1,
) -> list[Overlap]:
    """Finds training rows whose query or response is a near duplicate of a benchmark's. Not in the paper.

    Candidates of a MinHash index are compared exactly; pairs near the threshold that the index misses are not found.
    Texts of fewer words than `ngram` are one n-gram, so that only equal words match.

    Returns:
        `list[Overlap]`, by row; per row, item and part the highest similarity.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise ImportError('The contamination check needs datasketch: `pip install "trl-spct[eval]"`.') from error

    def signature(grams: set[str]):
        minhash = MinHash(num_perm=NUM_PERM, seed=seed)
        minhash.update_batch([gram.encode("utf-8", "surrogatepass") for gram in grams])
        return minhash

    # Candidates are verified, so the weights favor recall over precision.
    index = MinHashLSH(threshold=threshold, num_perm=NUM_PERM, weights=(0.1, 0.9))
    known: dict[tuple[str, frozenset[int]], list[str]] = {}  # hashes take less memory than n-grams
    for item in items:
        for part, text in {pair for row in item.rows for pair in _texts(row)}:
            if grams := _grams(text, ngram):
                key = part, frozenset(map(hash, grams))
                if key not in known:
                    index.insert(key, signature(grams))
                known.setdefault(key, []).append(item.id)
    overlaps = []
    for number, row in enumerate(rows):
        best: dict[tuple[str, str], float] = {}
        for part, text in _texts(row if isinstance(row, Preference) else Preference.from_row(row)):
            grams = _grams(text, ngram)
            hashes = frozenset(map(hash, grams))
            for key in index.query(signature(grams)) if grams else ():
                similarity = len(hashes & key[1]) / len(hashes | key[1])
                for item_id in known[key] if key[0] == part and similarity >= threshold else ():
                    best[item_id, part] = max(similarity, best.get((item_id, part), 0.0))
        overlaps += [Overlap(number, item_id, part, value) for (item_id, part), value in sorted(best.items())]
    return overlaps


def _texts(row: Preference) -> Iterator[tuple[str, str]]:
    query = row.query if isinstance(row.query, str) else "\n".join(message["content"] for message in row.query)
    yield "query", query
    for response in row.responses:
        yield "response", response


def _grams(text: str, ngram: int) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    count = max(1, len(words) - ngram + 1)
    return {" ".join(words[i : i + ngram]) for i in range(count)} - {""}
