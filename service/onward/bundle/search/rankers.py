"""What scores items: interests, an item that they are to be like, or popularity; and boosts of the scores.

Dimension key: R rows, D embedding, K interests, C candidates, k results.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.eligible import Eligible
from onward.bundle.search.boosts import Levels
from onward.bundle.search.index import Candidates, ItemIndex, merged
from onward.bundle.search.popularity import Popularity
from onward.bundle.search.retrieval import Source

Scores = NDArray[np.floating[Any]]

SIMILAR_POOL = 200


class Ranker(Protocol):
    """Scores items by one of the things that can be known of a session."""

    source: ClassVar[Source]

    def best(self, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: Levels | None = None) -> Candidates:
        """The k best of the eligible rows that are not hidden, or all; with `levels` by boosted scores."""
        ...

    def scores(self, rows_C: NDArray[np.int64]) -> Scores:
        """Score some rows."""
        ...

    def boosted(self, scores_C: Scores, added_C: Scores) -> Scores:
        """Scores that are `added_C` more on the scale of a logarithm of odds."""
        ...


@dataclass(frozen=True, slots=True)
class ByInterests:
    """By the largest inner product with an interest of the session."""

    source: ClassVar[Source] = "encoder"
    index: ItemIndex
    interests_KD: NDArray[np.float32]
    exact: bool = False

    def best(self, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: Levels | None = None) -> Candidates:
        """As the protocol says."""
        if levels is not None:
            return self.index.scan(self.interests_KD, k, eligible=eligible, hidden_rows=hidden_rows, added=levels.added)
        return self.index.search(self.interests_KD, k, eligible=eligible, hidden_rows=hidden_rows, exact=self.exact)

    def scores(self, rows_C: NDArray[np.int64]) -> Scores:
        """As the protocol says."""
        scores_C: Scores = (self.index.vectors(rows_C) @ self.interests_KD.T).max(axis=1)
        return scores_C

    def boosted(self, scores_C: Scores, added_C: Scores) -> Scores:
        """As the protocol says; the scores are logits already."""
        return scores_C + added_C


@dataclass(frozen=True, slots=True)
class BySimilarity:
    """By the cosine with the vector of one item.

    The cosine orders the items with the largest inner products, ten for each that is wanted and at least
    `SIMILAR_POOL`; by itself the inner product would favour popular items, whose vectors are long.
    """

    source: ClassVar[Source] = "similar"
    index: ItemIndex
    vector_D: NDArray[np.float32]
    exact: bool = False

    def best(self, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: Levels | None = None) -> Candidates:
        """As the protocol says."""
        near = ByInterests(self.index, self.vector_D[np.newaxis], self.exact)
        pool = near.best(eligible, max(10 * k, SIMILAR_POOL), hidden_rows=hidden_rows, levels=levels)
        scores_C = self.scores(pool.rows)
        if levels is not None:
            scores_C = self.boosted(scores_C, levels.added(pool.rows))
        best = np.argsort(-scores_C, kind="stable")[:k]
        return Candidates(pool.rows[best], scores_C[best], pool.interests[best], pool.strategy)

    def scores(self, rows_C: NDArray[np.int64]) -> Scores:
        """As the protocol says."""
        vectors_CD = self.index.vectors(rows_C)
        lengths_C = np.linalg.norm(vectors_CD, axis=1) * np.linalg.norm(self.vector_D)
        cosines_C: Scores = (vectors_CD @ self.vector_D) / np.maximum(lengths_C, np.finfo(np.float32).tiny)
        return cosines_C

    def boosted(self, scores_C: Scores, added_C: Scores) -> Scores:
        """As the protocol says, with the cosine for a logit."""
        return scores_C + added_C


@dataclass(frozen=True, slots=True)
class ByPopularity:
    """By popularity, where nothing of the session is known."""

    source: ClassVar[Source] = "popular"
    popularity: Popularity

    def best(self, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: Levels | None = None) -> Candidates:
        """As the protocol says."""
        count = k if levels is None else eligible.count
        rows = self.popularity.best(eligible, count, hidden_rows)
        scores_C = self.scores(rows)
        if levels is not None:
            scores_C = self.boosted(scores_C, levels.added(rows))
            best = np.lexsort((rows, -scores_C))[:k]
            rows, scores_C = rows[best], scores_C[best]
        return Candidates(rows, scores_C, np.zeros(len(rows), dtype=np.int64), None)

    def scores(self, rows_C: NDArray[np.int64]) -> Scores:
        """As the protocol says."""
        return self.popularity.scores(rows_C)

    def boosted(self, scores_C: Scores, added_C: Scores) -> Scores:
        """As the protocol says: a popularity is a multiple of a probability."""
        return scores_C * np.exp(added_C)


def best_boosted(ranker: Ranker, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: Levels) -> Candidates:
    """The k best of the eligible rows by boosted score: of each level the best by score, merged."""
    if not levels.eligible:
        return ranker.best(eligible, k, hidden_rows=hidden_rows, levels=levels)
    found = [ranker.best(one, k, hidden_rows=hidden_rows) for one in levels.eligible]
    boosted = [one._replace(scores=ranker.boosted(one.scores, levels.added(one.rows))) for one in found]
    return merged(boosted, k)
