"""Rankers score items by a session's interests, by similarity to an item, or by popularity; and apply boosts.

Nearest sessions add to the scores of interests.

Dimension key: R rows, D embedding, K interests, C candidates, V items with votes, k results.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.eligible import Eligible
from onward.bundle.search.boosts import BoostLevels
from onward.bundle.search.index import Candidates, ItemIndex, best_places, merge_candidates
from onward.bundle.search.nearest_sessions import SessionBonus
from onward.bundle.search.popularity import ItemPopularity
from onward.bundle.search.retrieval import Source

Scores = NDArray[np.floating[Any]]

SIMILAR_POOL = 200


class Ranker(Protocol):
    """Scores items by one kind of knowledge about a session."""

    source: ClassVar[Source]

    def best(
        self, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: BoostLevels | None = None
    ) -> Candidates:
        """Return the k best eligible rows that are not hidden, or all if fewer; by boosted score with `levels`."""
        ...

    def scores(self, rows_C: NDArray[np.int64]) -> Scores:
        """Return the unboosted scores of rows, (C,)."""
        ...

    def boosted(self, scores_C: Scores, log_boost_C: Scores) -> Scores:
        """Return the scores with boosts, whose logarithms add to the logits."""
        ...


@dataclass(frozen=True, slots=True)
class ByInterests:
    """Scores by the largest inner product with an interest of the session."""

    source: ClassVar[Source] = "encoder"
    index: ItemIndex
    interests_KD: NDArray[np.float32]
    exact: bool = False

    def best(
        self, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: BoostLevels | None = None
    ) -> Candidates:
        """Search the index; with `levels` scan every eligible row, since the index knows no boosts."""
        if levels is not None:
            return self.index.scan(
                self.interests_KD, k, eligible=eligible, hidden_rows=hidden_rows, log_boost=levels.log_boost
            )
        return self.index.search(self.interests_KD, k, eligible=eligible, hidden_rows=hidden_rows, exact=self.exact)

    def scores(self, rows_C: NDArray[np.int64]) -> Scores:
        """Return the largest inner product of each row with an interest."""
        scores_C: Scores = (self.index.vectors(rows_C) @ self.interests_KD.T).max(axis=1)
        return scores_C

    def boosted(self, scores_C: Scores, log_boost_C: Scores) -> Scores:
        """Add the log boosts: the scores are logits."""
        return scores_C + log_boost_C


@dataclass(frozen=True, slots=True)
class ByInterestsAndSessions:
    """Scores by the largest inner product with an interest of the session, and what nearest sessions and repeats add.

    They never take anything from a score, so the k best items are among those with a bonus and the k with the largest
    inner products. The longest vector bounds the products: the index is searched only if an item without a bonus can be
    one of the best, and only those items with a bonus are compared that can be.
    """

    source: ClassVar[Source] = "encoder"
    by_interests: ByInterests
    bonus: SessionBonus

    def best(
        self, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: BoostLevels | None = None
    ) -> Candidates:
        """Compare the items with a bonus and search the index; if `exact` or with `levels` scan every eligible row."""
        index, interests_KD = self.by_interests.index, self.by_interests.interests_KD
        if self.by_interests.exact or levels is not None:
            return index.scan(
                interests_KD,
                k,
                eligible=eligible,
                hidden_rows=hidden_rows,
                log_boost=self.bonus.of
                if levels is None
                else lambda rows: self.bonus.of(rows) + levels.log_boost(rows),
            )
        largest_product = float(np.linalg.norm(interests_KD, axis=1).max()) * index.longest_vector
        with_bonus = self._best_with_bonus(eligible, k, hidden_rows, 2 * largest_product)
        if len(with_bonus.rows) >= k and with_bonus.scores[k - 1] > largest_product:
            return with_bonus
        found = index.search(interests_KD, k, eligible=eligible, hidden_rows=hidden_rows)
        others = np.isin(found.rows, self.bonus.rows_V, invert=True)
        by_product = Candidates(found.rows[others], found.scores[others], found.interests[others], found.strategy)
        return merge_candidates((with_bonus, by_product), k)

    def _best_with_bonus(
        self, eligible: Eligible, k: int, hidden_rows: Set[int], largest_difference: float
    ) -> Candidates:
        """Return the k best eligible rows with a bonus, given how much their inner products may differ."""
        rows_V, shares_V, _ = self.bonus
        visible_V = eligible.rows_R1[rows_V]
        if hidden_rows:
            visible_V &= np.isin(rows_V, np.fromiter(hidden_rows, np.int64), invert=True)
        if not visible_V.all():
            rows_V, shares_V = rows_V[visible_V], shares_V[visible_V]
        if len(rows_V) > k:
            kth = len(shares_V) - k
            kth_best = float(self.bonus.of_shares(np.partition(shares_V, kth)[kth : kth + 1])[0])
            may_be_best_V = shares_V >= (1 - 1e-9) * self.bonus.share_for(kth_best - largest_difference)
            rows_V, shares_V = rows_V[may_be_best_V], shares_V[may_be_best_V]
        scores_VK = self.by_interests.index.vectors(rows_V) @ self.by_interests.interests_KD.T
        scores_V = scores_VK.max(axis=1) + self.bonus.of_shares(shares_V)
        best = np.lexsort((rows_V, -scores_V))[:k]
        return Candidates(rows_V[best], scores_V[best], scores_VK[best].argmax(axis=1), None)

    def scores(self, rows_C: NDArray[np.int64]) -> Scores:
        """Return the largest inner product of each row with an interest, and its bonus."""
        return self.by_interests.scores(rows_C) + self.bonus.of(rows_C)

    def boosted(self, scores_C: Scores, log_boost_C: Scores) -> Scores:
        """Add the log boosts: the scores are logits."""
        return scores_C + log_boost_C


@dataclass(frozen=True, slots=True)
class BySimilarity:
    """Scores by the cosine with the vector of one item.

    Candidates of the index are the items with the largest inner products, 10 k but at least `SIMILAR_POOL`; the cosine
    re-ranks them. The inner product alone would favour popular items, whose vectors are long. An exact search compares
    the cosines of all eligible items.
    """

    source: ClassVar[Source] = "similar"
    index: ItemIndex
    vector_D: NDArray[np.float32]
    exact: bool = False

    def best(
        self, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: BoostLevels | None = None
    ) -> Candidates:
        """Search by inner product, then re-rank by cosine; scan all cosines if `exact` or with `levels`."""
        if self.exact or levels is not None:
            length = max(np.linalg.norm(self.vector_D), np.finfo(np.float32).tiny)
            return self.index.scan(
                self.vector_D[np.newaxis] / length,
                k,
                eligible=eligible,
                hidden_rows=hidden_rows,
                log_boost=None if levels is None else levels.log_boost,
                by_length=True,
            )
        by_product = ByInterests(self.index, self.vector_D[np.newaxis])
        pool = by_product.best(eligible, max(10 * k, SIMILAR_POOL), hidden_rows=hidden_rows)
        scores_C = self.scores(pool.rows)
        best = np.argsort(-scores_C, kind="stable")[:k]
        return Candidates(pool.rows[best], scores_C[best], pool.interests[best], pool.strategy)

    def scores(self, rows_C: NDArray[np.int64]) -> Scores:
        """Return the cosine of each row with the item."""
        vectors_CD = self.index.vectors(rows_C)
        lengths_C = np.linalg.norm(vectors_CD, axis=1) * np.linalg.norm(self.vector_D)
        cosines_C: Scores = (vectors_CD @ self.vector_D) / np.maximum(lengths_C, np.finfo(np.float32).tiny)
        return cosines_C

    def boosted(self, scores_C: Scores, log_boost_C: Scores) -> Scores:
        """Add the log boosts, as if the cosine were a logit."""
        return scores_C + log_boost_C


@dataclass(frozen=True, slots=True)
class ByPopularity:
    """Scores by popularity: the fallback if nothing is known about a session."""

    source: ClassVar[Source] = "popular"
    popularity: ItemPopularity

    def best(
        self, eligible: Eligible, k: int, *, hidden_rows: Set[int], levels: BoostLevels | None = None
    ) -> Candidates:
        """Take the most popular rows; with `levels` score all eligible ones."""
        if levels is None:
            rows = self.popularity.best(eligible, k, hidden_rows)
            scores_C = self.scores(rows)
        else:
            rows = eligible.selected
            rows = rows[~np.isin(rows, np.fromiter(hidden_rows, np.int64))]
            scores_C = self.boosted(self.scores(rows), levels.log_boost(rows))
            best = best_places(scores_C, min(k, len(rows)))
            rows, scores_C = rows[best], scores_C[best]
        return Candidates(rows, scores_C, np.zeros(len(rows), dtype=np.int64), None)

    def scores(self, rows_C: NDArray[np.int64]) -> Scores:
        """Return the popularity of each row."""
        return self.popularity.scores(rows_C)

    def boosted(self, scores_C: Scores, log_boost_C: Scores) -> Scores:
        """Multiply by the boosts: a popularity is proportional to a probability."""
        return scores_C * np.exp(log_boost_C)


def best_of_levels(ranker: Ranker, levels: BoostLevels, k: int, *, hidden_rows: Set[int]) -> Candidates:
    """Return the k best rows of all levels by boosted score: search each level by score, then merge."""
    by_level = [ranker.best(level, k, hidden_rows=hidden_rows) for level in levels.eligible]
    boosted = [
        candidates._replace(scores=ranker.boosted(candidates.scores, levels.log_boost(candidates.rows)))
        for candidates in by_level
    ]
    return merge_candidates(boosted, k)
