"""Answers whose order is not that of the scores alone: boosts, diversity, pins.

Dimension key: C candidates.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.search.boosts import Levels
from onward.bundle.search.diversity import category_numbers, diversify, diversify_by_vectors, in_unit_range
from onward.bundle.search.index import Candidates, ItemIndex, Strategy
from onward.bundle.search.options import Options
from onward.bundle.search.rankers import Ranker, best_boosted
from onward.bundle.search.retrieval import Moved, RetrievedItem, RetrievedItems

CATEGORY = "category"
LEAST_POOL, POOL_PER_PLACE = 100, 5


def pool(options: Options) -> int:
    """How many candidates an answer is chosen from."""
    return max(LEAST_POOL, POOL_PER_PLACE * options.k) if options.diversity else options.k


@dataclass(frozen=True, slots=True)
class Reranking:
    """One answer in the making; `levels` where it has boosts."""

    catalog: Catalog
    index: ItemIndex
    ranker: Ranker
    options: Options
    levels: Levels | None

    def items(
        self, eligible: Eligible, hidden_rows: Set[int], pins: Mapping[int, int]
    ) -> tuple[RetrievedItems, Strategy | None]:
        """The answer, and how it was searched.

        Args:
            eligible: the rows that may be shown.
            hidden_rows: but for these.
            pins: the row to show at each position, from 1.
        """
        hidden_rows = hidden_rows | set(pins.values())
        found = self._candidates(eligible, hidden_rows)
        others = self._moved(found, self._chosen(found))
        return RetrievedItems.of(placed(others, self._pinned(pins), self.options.k)), found.strategy

    def _candidates(self, eligible: Eligible, hidden_rows: Set[int]) -> Candidates:
        if self.levels is None:
            return self.ranker.best(eligible, pool(self.options), hidden_rows=hidden_rows)
        return best_boosted(self.ranker, eligible, pool(self.options), hidden_rows=hidden_rows, levels=self.levels)

    def _chosen(self, found: Candidates) -> NDArray[np.int64]:
        """The places of the candidates to show, in order."""
        k, weight, by = self.options.k, self.options.diversity, self.options.diversity_by
        if not weight:
            return np.arange(len(found.rows))
        scores_C = in_unit_range(found.scores.astype(np.float32))
        if by is None and CATEGORY not in self.catalog.schema:
            return diversify_by_vectors(scores_C, self.index.vectors(found.rows), k, weight)
        values = [self.catalog.attributes(row).get(by or CATEGORY) for row in found.rows.tolist()]
        return diversify(scores_C, category_numbers(values), k, weight)

    def _moved(self, found: Candidates, places: NDArray[np.int64]) -> Iterator[RetrievedItem]:
        added_C = self._added(found.rows)
        plain_C = self.ranker.boosted(found.scores, -added_C)
        columns = (found.rows, found.scores, found.interests, plain_C, added_C, np.arange(len(found.rows)))
        by_interest = self.ranker.source == "encoder"
        for row, score, interest, plain, added, place in zip(*(c[places].tolist() for c in columns), strict=True):
            yield RetrievedItem(
                self.catalog.item_id(row),
                score,
                self.ranker.source,
                interest if by_interest else None,
                Moved(plain, added, place + 1),
            )

    def _pinned(self, pins: Mapping[int, int]) -> dict[int, RetrievedItem]:
        rows_C = np.array(list(pins.values()), dtype=np.int64)
        if not len(rows_C):
            return {}
        plain_C, added_C = self.ranker.scores(rows_C), self._added(rows_C)
        columns = (self.ranker.boosted(plain_C, added_C), plain_C, added_C)
        return {
            position: RetrievedItem(self.catalog.item_id(row), score, "pinned", None, Moved(plain, added, None))
            for (position, row), score, plain, added in zip(pins.items(), *(c.tolist() for c in columns), strict=True)
        }

    def _added(self, rows_C: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.zeros(len(rows_C)) if self.levels is None else self.levels.added(rows_C)


def placed(others: Iterable[RetrievedItem], pins: Mapping[int, RetrievedItem], k: int) -> Iterator[RetrievedItem]:
    """The first k of an answer with the pinned items at their positions, or at its end where it is too short."""
    rest, left = iter(others), dict(sorted(pins.items()))
    for position in range(1, k + 1):
        following = left.pop(position, None) or next(rest, None) or (left.pop(next(iter(left))) if left else None)
        if following is None:
            return
        yield following
