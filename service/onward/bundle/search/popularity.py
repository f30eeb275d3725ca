"""Rank items by popularity: the bundle's own, or combined with the weights of recent events.

Dimension key: C candidates.
"""

from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.eligible import Eligible

PRIOR_EVENTS = 1_000
"""Weight of the bundle's popularity as a prior: all items together count as this many recent events."""


class ItemPopularity:
    """Popularity as exported with the bundle."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def best(self, eligible: Eligible, k: int, hidden_rows: Set[int]) -> NDArray[np.int64]:
        """Return the k most popular eligible rows that are not hidden; ties are broken by the smaller row."""
        return self._catalog.most_popular(eligible, k, hidden_rows=hidden_rows)

    def scores(self, rows_C: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return the popularity of each row, (C,)."""
        return self._catalog.popularity(rows_C)


class RecentPopularity(ItemPopularity):
    """The weights of recent events, with the bundle's popularity as a prior of `PRIOR_EVENTS` events."""

    def __init__(self, catalog: Catalog, weights: "_Weights") -> None:
        super().__init__(catalog)
        new = sorted((row, weight) for item_id, weight in weights.of_others if (row := catalog.row(item_id)))
        self._rows = np.concatenate([weights.rows, np.array([row for row, _ in new], dtype=np.int64)])
        self._weights = np.concatenate([weights.weights, np.array([weight for _, weight in new], dtype=np.float64)])
        self._prior_scale = weights.prior_scale

    def best(self, eligible: Eligible, k: int, hidden_rows: Set[int]) -> NDArray[np.int64]:
        """Return the k rows with the largest combined popularity; ties are broken by the smaller row."""
        recent = self._rows[eligible.rows_R1[self._rows]]
        recent = recent[~np.isin(recent, np.fromiter(hidden_rows, np.int64))]
        rows = np.union1d(super().best(eligible, k, hidden_rows), recent)
        return rows[np.argsort(-self.scores(rows), kind="stable")[:k]]

    def scores(self, rows_C: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return the combined popularity of each row in event weights, (C,)."""
        scores_C = self._prior_scale * super().scores(rows_C)
        places_C = np.searchsorted(self._rows, rows_C)
        is_recent_C = np.isin(rows_C, self._rows)
        scores_C[is_recent_C] += self._weights[places_C[is_recent_C]]
        return scores_C


class _Weights:
    """Weights of recent events by row, as far as they are of items of the files: those keep it in any catalog."""

    def __init__(self, catalog: Catalog, weights: Mapping[str, float]) -> None:
        found = [(catalog.row(item_id), item_id, weight) for item_id, weight in weights.items()]
        known = sorted((row, weight) for row, _, weight in found if row and row <= catalog.items)
        self.rows = np.array([row for row, _ in known], dtype=np.int64)
        self.weights = np.array([weight for _, weight in known], dtype=np.float64)
        self.of_others = [(item_id, weight) for row, item_id, weight in found if not row or row > catalog.items]
        self.prior_scale = PRIOR_EVENTS / max(catalog.popularity_sum, 1)


class PopularityCache:
    """Popularity in one catalog; caches the ranking by the last weights. Thread-safe."""

    def __init__(self, catalog: Catalog, last: tuple[Mapping[str, float], _Weights] | None = None) -> None:
        """Take the catalog, and the last weights of one with the same files, in which they have the same rows."""
        self._catalog = catalog
        self._exported = ItemPopularity(catalog)
        self._last = last
        self._ranking: tuple[Mapping[str, float], RecentPopularity] | None = None

    def of_catalog(self, catalog: Catalog) -> "PopularityCache":
        """Return the popularity in another catalog of the same files."""
        return PopularityCache(catalog, self._last)

    def of(self, weights: Mapping[str, float] | None) -> ItemPopularity:
        """Return popularity with these weights of recent events by item, or the bundle's own without any.

        The cache compares `weights` by identity: never change a mapping that was passed.
        """
        if not weights:
            return self._exported
        ranking = self._ranking
        if ranking is None or ranking[0] is not weights:
            last = self._last
            if last is None or last[0] is not weights:
                self._last = last = (weights, _Weights(self._catalog, weights))
            self._ranking = ranking = (weights, RecentPopularity(self._catalog, last[1]))
        return ranking[1]
