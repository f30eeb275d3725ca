"""What is popular: by the bundle, and by what visitors do now.

Dimension key: C some rows.
"""

from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.eligible import Eligible

PRIOR_EVENTS = 1_000
"""How many events the popularity in the bundle counts as, all items together, beside the events since."""


class Popularity:
    """Popularity as the bundle has it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def best(self, eligible: Eligible, k: int, hidden_rows: Set[int]) -> NDArray[np.int64]:
        """The k most popular of the eligible rows that are not hidden, or all; of equals the smaller row first."""
        return self._catalog.most_popular(eligible, k, hidden_rows=hidden_rows)

    def scores(self, rows_C: NDArray[np.int64]) -> NDArray[np.floating]:
        """How popular some rows are."""
        return self._catalog.popularity(rows_C)


class PopularityNow(Popularity):
    """Popularity in the bundle as a prior of `PRIOR_EVENTS`, and the weights of events since."""

    def __init__(self, catalog: Catalog, weights: Mapping[str, float]) -> None:
        super().__init__(catalog)
        known = sorted((row, weight) for item_id, weight in weights.items() if (row := catalog.row(item_id)))
        self._rows = np.array([row for row, _ in known], dtype=np.int64)
        self._weights = np.array([weight for _, weight in known], dtype=np.float64)
        self._worth = PRIOR_EVENTS / max(float(catalog.popularity_N1.sum(dtype=np.float64)), 1)

    def best(self, eligible: Eligible, k: int, hidden_rows: Set[int]) -> NDArray[np.int64]:
        """As popularity in the bundle tells it, with the score that is popularity now."""
        recent = self._rows[eligible.rows_R1[self._rows]]
        recent = recent[~np.isin(recent, np.fromiter(hidden_rows, np.int64))]
        rows = np.union1d(super().best(eligible, k, hidden_rows), recent)
        return rows[np.argsort(-self.scores(rows), kind="stable")[:k]]

    def scores(self, rows_C: NDArray[np.int64]) -> NDArray[np.floating]:
        """How popular some rows are, in weights of events."""
        scores_C = self._worth * super().scores(rows_C)
        places_C = np.searchsorted(self._rows, rows_C)
        is_recent_C = np.isin(rows_C, self._rows)
        scores_C[is_recent_C] += self._weights[places_C[is_recent_C]]
        return scores_C


class Popularities:
    """Popularity in one catalog, with the newest weights of events. Several threads may ask at once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._plain = Popularity(catalog)
        self._last: tuple[Mapping[str, float], PopularityNow] | None = None

    def now(self, weights: Mapping[str, float] | None) -> Popularity:
        """Return the bundle's popularity, or with the weights of items, an object that nobody changes, that of now."""
        if not weights:
            return self._plain
        last = self._last
        if last is None or last[0] is not weights:
            self._last = last = (weights, PopularityNow(self._catalog, weights))
        return last[1]
