"""Boosts grouped into levels: items of one level get the same boosts, so boosting does not change their order.

Each level can therefore be searched by unboosted scores, in an inverted file or a graph. One scan of all rows replaces
these searches for a flat index and for many levels. Dimension key: R rows, C candidates.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.catalog.filters import Filter
from onward.bundle.catalog.overlay import Version
from onward.bundle.files.lru_cache import LRUCache
from onward.bundle.search.index import ItemIndex
from onward.bundle.search.retrieval import Boost

MAX_LEVELS = 8
"""With more levels one scan of all eligible items costs less than a search of each."""
BOOST_BYTES = 256 * 2**20
"""Memory for the levels of the sets of boosts that were used last."""


@dataclass(frozen=True, slots=True)
class BoostLevels:
    """The log boost of each eligible row, and the eligible rows grouped by it."""

    eligible: tuple[Eligible, ...]
    """The rows of each level; empty if one scan of all rows costs less than a search of each level."""
    log_boosts: NDArray[np.float64]
    """The log boost of each combination of boosts: bit b of its index is set if boost b applies."""
    combinations_R1: NDArray[np.uint16]
    """The combination of boosts that applies to each row."""
    distinct: tuple[float, ...]
    """The log boost of each level, ascending, also if one scan costs less."""
    counts: NDArray[np.int64]
    """How many eligible rows have each combination."""

    @property
    def nbytes(self) -> int:
        """What the levels take in memory."""
        return sum([level.nbytes for level in self.eligible]) + self.combinations_R1.nbytes

    def log_boost(self, rows_C: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return for each row the sum of ln(factor) over the boosts that apply to it, (C,)."""
        return self.log_boosts[self.combinations_R1[rows_C]]


class _VersionedLevels(NamedTuple):
    """Levels, the eligible rows that they group, and the version of the catalog that they are of."""

    version: Version
    eligible: Eligible
    levels: BoostLevels

    @property
    def nbytes(self) -> int:
        """What the levels take in memory."""
        return self.levels.nbytes


class BoostLevelCache:
    """The levels of one catalog for the most recently used sets of boosts. Thread-safe."""

    def __init__(self, catalog: Catalog, index: ItemIndex) -> None:
        self._catalog = catalog
        self._max_levels = 0 if index.is_flat else MAX_LEVELS
        self._cache = LRUCache[BoostLevels](BOOST_BYTES)
        self._latest = LRUCache[_VersionedLevels](BOOST_BYTES)
        """Shared by all catalogs of one bundle."""

    def of_catalog(self, catalog: Catalog) -> "BoostLevelCache":
        """Return the levels of another catalog of the same files, which are made from those of this one."""
        other = copy(self)
        other._catalog, other._cache = catalog, LRUCache[BoostLevels](BOOST_BYTES)
        return other

    def of(self, condition: Filter | None, boosts: Sequence[Boost]) -> BoostLevels:
        """Return the levels of the rows that are available and pass the filter."""
        keys = [condition.key if condition else "", *(f"{boost.factor} {boost.filter.key}" for boost in boosts)]
        key = "\n".join(keys)
        return self._cache.get(key, lambda: self._levels(key, condition, boosts))

    def _levels(self, key: str, condition: Filter | None, boosts: Sequence[Boost]) -> BoostLevels:
        """Return the levels, made from those of an earlier version of the catalog if they are known."""
        catalog, eligible, earlier = self._catalog, self._catalog.eligible(condition), self._latest.peek(key)
        rows_T = None if earlier is None else catalog.rows_since(earlier.version)
        if earlier is None or rows_T is None:
            levels = self._computed(eligible, boosts)
        else:
            levels = self._brought_up_to_date(earlier, eligible, boosts, rows_T)
        if earlier is None or rows_T is not None or earlier.version.line is not catalog.version.line:
            self._latest.put(key, _VersionedLevels(catalog.version, eligible, levels))
        return levels

    def _computed(self, eligible: Eligible, boosts: Sequence[Boost]) -> BoostLevels:
        combinations_R1 = np.zeros(len(eligible.rows_R1), dtype=np.uint16)
        for bit, boost in enumerate(boosts):
            combinations_R1 |= self._catalog.eligible(boost.filter).rows_R1.astype(np.uint16) << np.uint16(bit)
        combinations = np.arange(2 ** len(boosts))
        log_boosts = sum(
            (np.log(boost.factor) * (combinations >> bit & 1) for bit, boost in enumerate(boosts)),
            np.zeros(len(combinations)),
        )
        counts = np.bincount(combinations_R1[eligible.rows_R1], minlength=len(combinations))
        return self._grouped(eligible, log_boosts, combinations_R1, counts)

    def _grouped(
        self,
        eligible: Eligible,
        log_boosts: NDArray[np.float64],
        combinations_R1: NDArray[np.uint16],
        counts: NDArray[np.int64],
    ) -> BoostLevels:
        distinct = np.unique(log_boosts[counts > 0])
        levels = [
            Eligible(eligible.rows_R1 & (log_boosts == level)[combinations_R1], items=eligible.items)
            for level in (distinct if len(distinct) <= self._max_levels else ())
        ]
        return BoostLevels(tuple(levels), log_boosts, combinations_R1, tuple(distinct.tolist()), counts)

    def _brought_up_to_date(
        self, earlier: _VersionedLevels, eligible: Eligible, boosts: Sequence[Boost], rows_T: NDArray[np.int64]
    ) -> BoostLevels:
        """Return the levels after some rows, and those of new items, have changed."""
        before, items = earlier.levels, eligible.items
        old_C = np.concatenate([rows_T, np.arange(items + 1, len(before.combinations_R1))])
        new_C = np.concatenate([rows_T, np.arange(items + 1, len(eligible.rows_R1))])
        changed_C = np.zeros(len(new_C), dtype=np.uint16)
        for bit, boost in enumerate(boosts):
            boosted_C = self._catalog.eligible(boost.filter).rows_R1[new_C]
            changed_C |= boosted_C.astype(np.uint16) << np.uint16(bit)
        added_R = np.zeros(len(eligible.rows_R1) - items - 1, dtype=np.uint16)
        combinations_R1 = np.concatenate([before.combinations_R1[: items + 1], added_R])
        combinations_R1[new_C] = changed_C
        size = len(before.log_boosts)
        left = np.bincount(before.combinations_R1[old_C[earlier.eligible.rows_R1[old_C]]], minlength=size)
        came = np.bincount(changed_C[eligible.rows_R1[new_C]], minlength=size)
        counts = before.counts - left + came
        distinct = tuple(np.unique(before.log_boosts[counts > 0]).tolist())
        if distinct != before.distinct:
            return self._grouped(eligible, before.log_boosts, combinations_R1, counts)
        log_boost_C = before.log_boosts[changed_C]
        levels = []
        for level, rows in zip(distinct, before.eligible, strict=False):
            of_level_C = eligible.rows_R1[new_C] & (log_boost_C == level)
            levels.append(rows.patched(rows_T, of_level_C[: len(rows_T)], of_level_C[len(rows_T) :]))
        return BoostLevels(tuple(levels), before.log_boosts, combinations_R1, distinct, counts)
