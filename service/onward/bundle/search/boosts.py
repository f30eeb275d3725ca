"""Boosts as levels: items that get the same boosts keep their order among each other, so each level is searched alone.

Dimension key: R rows, C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.catalog.filters import Filter
from onward.bundle.files.lru_cache import LRUCache
from onward.bundle.search.options import Boost

MAX_LEVELS = 8
"""Beyond so many searches one scan of all eligible items costs less."""
REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class Levels:
    """What the eligible rows get added to their scores, and the rows that get the same."""

    eligible: tuple[Eligible, ...]
    """One for each sum that a row gets; empty where there are more than MAX_LEVELS."""
    sums: NDArray[np.float64]
    codes_R1: NDArray[np.uint16]

    def added(self, rows_C: NDArray[np.int64]) -> NDArray[np.float64]:
        """added_C: the sum of ln(factor) over the boosts that each row gets."""
        return self.sums[self.codes_R1[rows_C]]


class BoostLevels:
    """The levels of one catalog, remembered for the last sets of boosts. Several threads may ask at once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._remembered = LRUCache[Levels](REMEMBERED)

    def of(self, passing: Filter | None, boosts: Sequence[Boost]) -> Levels:
        """Return the levels of the rows that may be shown and pass a filter."""
        keys = [passing.key if passing else "", *(f"{boost.factor} {boost.filter.key}" for boost in boosts)]
        return self._remembered.get("\n".join(keys), lambda: self._levels(passing, boosts))

    def _levels(self, passing: Filter | None, boosts: Sequence[Boost]) -> Levels:
        eligible = self._catalog.eligible(passing)
        codes_R1 = np.zeros(len(eligible.rows_R1), dtype=np.uint16)  # bit b: the row gets boost b
        for bit, boost in enumerate(boosts):
            codes_R1 |= self._catalog.eligible(boost.filter).rows_R1.astype(np.uint16) << np.uint16(bit)
        codes = np.arange(2 ** len(boosts))
        sums = sum(
            (np.log(boost.factor) * (codes >> bit & 1) for bit, boost in enumerate(boosts)), np.zeros(len(codes))
        )
        found = np.bincount(codes_R1[eligible.rows_R1], minlength=len(codes)) > 0
        distinct = np.unique(sums[found])
        levels = [
            Eligible(eligible.rows_R1 & (sums == one)[codes_R1], items=eligible.items)
            for one in (distinct if len(distinct) <= MAX_LEVELS else ())
        ]
        return Levels(tuple(levels), sums, codes_R1)
