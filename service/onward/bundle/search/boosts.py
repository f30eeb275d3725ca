"""Boosts grouped into levels: items of one level get the same boosts, so boosting does not change their order.

Each level can therefore be searched by unboosted scores, in an inverted file or a graph. One scan of all rows replaces
these searches for a flat index and for many levels. Dimension key: R rows, C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.catalog.filters import Filter
from onward.bundle.files.lru_cache import LRUCache
from onward.bundle.search.index import ItemIndex
from onward.bundle.search.retrieval import Boost

MAX_LEVELS = 8
"""With more levels one scan of all eligible items costs less than a search of each."""
CACHED_BOOST_SETS = 16


@dataclass(frozen=True, slots=True)
class BoostLevels:
    """The log boost of each eligible row, and the eligible rows grouped by it."""

    eligible: tuple[Eligible, ...]
    """The rows of each level; empty if one scan of all rows costs less than a search of each level."""
    log_boosts: NDArray[np.float64]
    """The log boost of each combination of boosts: bit b of its index is set if boost b applies."""
    combinations_R1: NDArray[np.uint16]
    """The combination of boosts that applies to each row."""

    def log_boost(self, rows_C: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return for each row the sum of ln(factor) over the boosts that apply to it, (C,)."""
        return self.log_boosts[self.combinations_R1[rows_C]]


class BoostLevelCache:
    """The levels of one catalog for the most recently used sets of boosts. Thread-safe."""

    def __init__(self, catalog: Catalog, index: ItemIndex) -> None:
        self._catalog = catalog
        self._max_levels = 0 if index.is_flat else MAX_LEVELS
        self._cache = LRUCache[BoostLevels](CACHED_BOOST_SETS)

    def of(self, condition: Filter | None, boosts: Sequence[Boost]) -> BoostLevels:
        """Return the levels of the rows that are available and pass the filter."""
        keys = [condition.key if condition else "", *(f"{boost.factor} {boost.filter.key}" for boost in boosts)]
        return self._cache.get("\n".join(keys), lambda: self._levels(condition, boosts))

    def _levels(self, condition: Filter | None, boosts: Sequence[Boost]) -> BoostLevels:
        eligible = self._catalog.eligible(condition)
        combinations_R1 = np.zeros(len(eligible.rows_R1), dtype=np.uint16)
        for bit, boost in enumerate(boosts):
            combinations_R1 |= self._catalog.eligible(boost.filter).rows_R1.astype(np.uint16) << np.uint16(bit)
        combinations = np.arange(2 ** len(boosts))
        log_boosts = sum(
            (np.log(boost.factor) * (combinations >> bit & 1) for bit, boost in enumerate(boosts)),
            np.zeros(len(combinations)),
        )
        occurs = np.bincount(combinations_R1[eligible.rows_R1], minlength=len(combinations)) > 0
        distinct = np.unique(log_boosts[occurs])
        levels = [
            Eligible(eligible.rows_R1 & (log_boosts == level)[combinations_R1], items=eligible.items)
            for level in (distinct if len(distinct) <= self._max_levels else ())
        ]
        return BoostLevels(tuple(levels), log_boosts, combinations_R1)
