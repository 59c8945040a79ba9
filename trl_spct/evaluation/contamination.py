# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Do training rows occur in a benchmark? Near duplicates by MinHash over n-grams of words.

Needs datasketch: `pip install "trl-spct[eval]"`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..judge.preferences import Preference
from .benchmarks import Item


NGRAM = 5
THRESHOLD = 0.8
NUM_PERM = 128


@dataclass(frozen=True)
class Overlap:
    """A training row and a benchmark's item that share a text. It names them, and quotes neither.

    Args:
        row (`int`): Number of the training row.
        item (`str`): Id of the item.
        part (`str`): `"query"` or `"response"`.
        similarity (`float`): Jaccard similarity of the texts' n-grams, exact; 1 for equal words.
    """

    row: int
    item: str
    part: str
    similarity: float


def find_overlaps(
    rows: Iterable[Mapping[str, Any] | Preference],
    items: Sequence[Item],
    threshold: float = THRESHOLD,
    ngram: int = NGRAM,
    seed: int = 1,
) -> list[Overlap]:
    """Training rows of which the query, or a response, is nearly that of a benchmark's item.

    The benchmark is indexed (MinHash LSH) and the training rows are read once, one after the other. What the index
    suggests is compared exactly; what it misses, near the threshold, stays unseen.

    Args:
        rows (iterable of rows): Training rows, in any shape that [`Preference.from_row`] reads.
        items (sequence of [`Item`]): Of the benchmark.
        threshold (`float`, *optional*, defaults to `0.8`): Least Jaccard similarity of an overlap (ours).
        ngram (`int`, *optional*, defaults to `5`):
            Words per n-gram (ours). Shorter texts are one n-gram: only the same words are an overlap.
        seed (`int`, *optional*, defaults to `1`): Of the hash functions.

    Returns:
        `list[Overlap]`, by row; of responses and queries of one pair of row and item, the most similar ones.
    """
    if not 0 < threshold <= 1 or ngram < 1:
        raise ValueError(f"Found threshold={threshold}, ngram={ngram}; expected (0, 1] and at least 1.")
    index = _Index(threshold, ngram, seed)
    for item in items:
        for part, text in {pair for row in item.rows for pair in _texts(row)}:
            index.add(part, text, item.id)
    overlaps = []
    for number, row in enumerate(rows):
        found: dict[tuple[str, str], float] = {}
        for part, text in _texts(row if isinstance(row, Preference) else Preference.from_row(row)):
            for item, similarity in index.like(part, text):
                found[item, part] = max(similarity, found.get((item, part), 0.0))
        overlaps += [Overlap(number, item, part, similarity) for (item, part), similarity in sorted(found.items())]
    return overlaps


def _texts(row: Preference) -> Iterator[tuple[str, str]]:
    query = row.query if isinstance(row.query, str) else "\n".join(message["content"] for message in row.query)
    yield "query", query
    for response in row.responses:
        yield "response", response


class _Index:
    """Texts of a benchmark, to be asked which of them are like another text."""

    def __init__(self, threshold: float, ngram: int, seed: int):
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise ImportError('The contamination check needs datasketch: `pip install "trl-spct[eval]"`.') from error
        self.threshold, self.ngram = threshold, ngram
        self.minhash = lambda: MinHash(num_perm=NUM_PERM, seed=seed)
        # Candidates are verified, so the index may suggest too many, and must not miss.
        self.lsh = MinHashLSH(threshold=threshold, num_perm=NUM_PERM, weights=(0.1, 0.9))
        self.known: list[np.ndarray] = []
        self.items: list[list[str]] = []
        self.places: dict[tuple[str, bytes], int] = {}

    def add(self, part: str, text: str, item: str) -> None:
        grams = self._grams(text)
        if not grams:
            return
        hashes = _hashes(grams)
        place = self.places.setdefault((part, hashes.tobytes()), len(self.known))
        if place == len(self.known):
            self.known.append(hashes)
            self.items.append([])
            self.lsh.insert((part, place), self._signature(grams))
        self.items[place].append(item)

    def like(self, part: str, text: str) -> Iterator[tuple[str, float]]:
        """(item, similarity) of all texts that are at least as similar as the threshold."""
        grams = self._grams(text)
        if not grams:
            return
        hashes = _hashes(grams)
        for kind, place in self.lsh.query(self._signature(grams)):
            if kind != part:
                continue
            known = self.known[place]
            shared = len(np.intersect1d(known, hashes, assume_unique=True))
            similarity = shared / (len(known) + len(hashes) - shared)
            if similarity >= self.threshold:
                yield from ((item, similarity) for item in self.items[place])

    def _grams(self, text: str) -> set[str]:
        words = re.findall(r"\w+", text.lower())
        return {" ".join(words[i : i + self.ngram]) for i in range(max(1, len(words) - self.ngram + 1))} - {""}

    def _signature(self, grams: set[str]):
        signature = self.minhash()
        signature.update_batch([gram.encode("utf-8", "surrogatepass") for gram in grams])
        return signature


def _hashes(grams: set[str]) -> np.ndarray:
    return np.unique(np.array([hash(gram) for gram in grams], dtype=np.int64))
