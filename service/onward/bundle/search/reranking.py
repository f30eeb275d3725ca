"""Re-ranking: answers whose order depends on boosts, diversity or pins as well as on the scores.

Dimension key: C candidates.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.search.boosts import BoostLevels
from onward.bundle.search.diversity import category_numbers, diversify, diversify_by_vectors, in_unit_range
from onward.bundle.search.index import Candidates, ItemIndex, Strategy
from onward.bundle.search.rankers import Ranker, best_of_levels
from onward.bundle.search.retrieval import Options, RankingDetails, RetrievedItem, RetrievedItems

CATEGORY = "category"
MIN_POOL, POOL_PER_RESULT = 100, 5


def pool_size(options: Options) -> int:
    """Return the number of candidates that k items are chosen from."""
    return max(MIN_POOL, POOL_PER_RESULT * options.k) if options.diversity else options.k


@dataclass(frozen=True, slots=True)
class Reranker:
    """Builds one answer with boosts, diversity and pins; `levels` is None without boosts."""

    catalog: Catalog
    index: ItemIndex
    ranker: Ranker
    options: Options
    levels: BoostLevels | None

    def items(
        self, eligible: Eligible, hidden_rows: Set[int], pins: Mapping[int, int]
    ) -> tuple[RetrievedItems, Strategy | None]:
        """Return the re-ranked items, and how they were searched.

        Args:
            eligible: the rows that are available and pass the filter.
            hidden_rows: rows to leave out.
            pins: the row to show at each position, from 1.
        """
        hidden_rows = hidden_rows | set(pins.values())
        candidates = self._candidates(eligible, hidden_rows)
        ranked = self._ranked_items(candidates, self._diversified(candidates))
        return RetrievedItems.of(insert_pins(ranked, self._pinned_items(pins), self.options.k)), candidates.strategy

    def _candidates(self, eligible: Eligible, hidden_rows: Set[int]) -> Candidates:
        if self.levels is not None and self.levels.eligible and not self.options.exact:
            return best_of_levels(self.ranker, self.levels, pool_size(self.options), hidden_rows=hidden_rows)
        return self.ranker.best(eligible, pool_size(self.options), hidden_rows=hidden_rows, levels=self.levels)

    def _diversified(self, candidates: Candidates) -> NDArray[np.int64]:
        """Return the indexes of the candidates to show, in order."""
        k, weight, attribute = self.options.k, self.options.diversity, self.options.diversity_by
        if not weight:
            return np.arange(len(candidates.rows))
        scores_C = in_unit_range(candidates.scores.astype(np.float32))
        if attribute is None and CATEGORY not in self.catalog.schema:
            return diversify_by_vectors(scores_C, self.index.vectors(candidates.rows), k, weight)
        values = [self.catalog.attributes(row).get(attribute or CATEGORY) for row in candidates.rows.tolist()]
        return diversify(scores_C, category_numbers(values), k, weight)

    def _ranked_items(self, candidates: Candidates, places: NDArray[np.int64]) -> Iterator[RetrievedItem]:
        log_boost_C = self._log_boost(candidates.rows)
        base_C = self.ranker.boosted(candidates.scores, -log_boost_C)  # the scores without their boosts
        ranks_C = np.arange(1, len(candidates.rows) + 1)
        columns = (candidates.rows, candidates.scores, candidates.interests, base_C, log_boost_C, ranks_C)
        by_interest = self.ranker.source == "encoder"
        for row, score, interest, base, log_boost, rank in zip(*(c[places].tolist() for c in columns), strict=True):
            yield RetrievedItem(
                self.catalog.item_id(row),
                score,
                self.ranker.source,
                interest if by_interest else None,
                RankingDetails(base, log_boost, rank),
            )

    def _pinned_items(self, pins: Mapping[int, int]) -> dict[int, RetrievedItem]:
        """Return the pinned item of each position."""
        rows_C = np.array(list(pins.values()), dtype=np.int64)
        if not len(rows_C):
            return {}
        base_C, log_boost_C = self.ranker.scores(rows_C), self._log_boost(rows_C)
        columns = (self.ranker.boosted(base_C, log_boost_C), base_C, log_boost_C)
        return {
            position: RetrievedItem(
                self.catalog.item_id(row), score, "pinned", None, RankingDetails(base, log_boost, None)
            )
            for (position, row), score, base, log_boost in zip(
                pins.items(), *(column.tolist() for column in columns), strict=True
            )
        }

    def _log_boost(self, rows_C: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.zeros(len(rows_C)) if self.levels is None else self.levels.log_boost(rows_C)


def insert_pins(ranked: Iterable[RetrievedItem], pins: Mapping[int, RetrievedItem], k: int) -> Iterator[RetrievedItem]:
    """Yield the first k items with the pinned ones at their positions, or at the end if there are too few others."""
    others, pending = iter(ranked), dict(sorted(pins.items()))
    for position in range(1, k + 1):
        following = pending.pop(position, None) or next(others, None)
        following = following or (pending.pop(next(iter(pending))) if pending else None)
        if following is None:
            return
        yield following
