# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Near duplicates between training rows and a benchmark, by MinHash over word n-grams.

Requires datasketch: `pip install "trl-spct[eval]"`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..judge.preferences import Preference
from .benchmarks import Item


NUM_PERM = 128


@dataclass(frozen=True)
class Overlap:
    """A training row and a benchmark's item with a near-duplicate text. The texts are not quoted.

    Args:
        row (`int`): Number of the training row.
        item (`str`): Id of the item.
        part (`str`): `"query"` or `"response"`.
        similarity (`float`): Exact Jaccard similarity of the texts' n-grams; 1 for equal words.
    """

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
    """Finds training rows whose query or response is a near duplicate of a benchmark's.

    The benchmark is indexed (MinHash LSH), the training rows are read once. Candidates of the index are compared
    exactly; pairs near the threshold that the index misses are not found.

    Args:
        rows (iterable of rows): Training rows, in any shape that [`Preference.from_row`] reads.
        items (sequence of [`Item`]): Items of the benchmark.
        threshold (`float`, *optional*, defaults to `0.8`): Minimum Jaccard similarity. Not in the paper.
        ngram (`int`, *optional*, defaults to `5`):
            Words per n-gram. Shorter texts are one n-gram, so that only equal words match. Not in the paper.
        seed (`int`, *optional*, defaults to `1`): Seed of the hash functions.

    Returns:
        `list[Overlap]`, by row; per row, item and part the highest similarity.

    Raises:
        `ImportError`: If datasketch is not installed.
        `ValueError`: If the threshold or the n-gram length is out of range.
    """
    if not 0 < threshold <= 1 or ngram < 1:
        raise ValueError(f"Found threshold={threshold}, ngram={ngram}; expected (0, 1] and at least 1.")
    index = _Index(threshold, ngram, seed)
    for item in items:
        for part, text in {pair for row in item.rows for pair in _texts(row)}:
            index.add(part, text, item.id)
    overlaps = []
    for number, row in enumerate(rows):
        best: dict[tuple[str, str], float] = {}
        for part, text in _texts(row if isinstance(row, Preference) else Preference.from_row(row)):
            for item_id, similarity in index.similar(part, text):
                best[item_id, part] = max(similarity, best.get((item_id, part), 0.0))
        overlaps += [
            Overlap(number, item_id, part, similarity) for (item_id, part), similarity in sorted(best.items())
        ]
    return overlaps


def _texts(row: Preference) -> Iterator[tuple[str, str]]:
    query = row.query if isinstance(row.query, str) else "\n".join(message["content"] for message in row.query)
    yield "query", query
    for response in row.responses:
        yield "response", response


class _Index:
    """Distinct texts of a benchmark with the ids of their items."""

    def __init__(self, threshold: float, ngram: int, seed: int):
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise ImportError('The contamination check needs datasketch: `pip install "trl-spct[eval]"`.') from error
        self.threshold, self.ngram = threshold, ngram
        self.minhash = lambda: MinHash(num_perm=NUM_PERM, seed=seed)
        # Candidates are verified, so the weights favor recall over precision.
        self.lsh = MinHashLSH(threshold=threshold, num_perm=NUM_PERM, weights=(0.1, 0.9))
        self.items: dict[tuple[str, bytes], list[str]] = {}

    def add(self, part: str, text: str, item: str) -> None:
        if grams := self._grams(text):
            key = part, _hashes(grams).tobytes()
            if key not in self.items:
                self.lsh.insert(key, self._signature(grams))
            self.items.setdefault(key, []).append(item)

    def similar(self, part: str, text: str) -> Iterator[tuple[str, float]]:
        """(item, similarity) of all texts that reach the threshold."""
        if not (grams := self._grams(text)):
            return
        hashes = _hashes(grams)
        for key in self.lsh.query(self._signature(grams)):
            known = np.frombuffer(key[1], np.int64)
            shared = len(np.intersect1d(known, hashes, assume_unique=True))
            similarity = shared / (len(known) + len(hashes) - shared)
            if key[0] == part and similarity >= self.threshold:
                yield from ((item, similarity) for item in self.items[key])

    def _grams(self, text: str) -> set[str]:
        words = re.findall(r"\w+", text.lower())
        count = max(1, len(words) - self.ngram + 1)
        return {" ".join(words[i : i + self.ngram]) for i in range(count)} - {""}

    def _signature(self, grams: set[str]):
        signature = self.minhash()
        signature.update_batch([gram.encode("utf-8", "surrogatepass") for gram in grams])
        return signature


def _hashes(grams: set[str]) -> np.ndarray:
    return np.unique(np.array([hash(gram) for gram in grams], dtype=np.int64))
