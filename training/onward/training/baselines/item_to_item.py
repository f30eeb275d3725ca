"""Item-to-item co-occurrence in sessions."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.training.baselines.past_sessions import PastSessions
from onward.training.baselines.popularity import BaselineItem, PopularityBaseline
from onward.training.data.dataset import Dataset, PartName

REACH = 10
"""Largest distance of two items in a session that counts as a co-occurrence."""
NEIGHBOURS = 100
"""Number of neighbours used per item."""
DECAY = 0.5
"""Weight of an item of the session, relative to the item after it."""


class ItemToItem:
    """Ranks items by co-occurrence with the session's items, the latest weighing most; then by popularity."""

    def __init__(self, dataset: Dataset, part: PartName) -> None:
        self._ids = dataset.item_ids()
        self._rows = {item: row for row, item in enumerate(self._ids, start=1)}
        self._popularity = PopularityBaseline(dataset, part)
        self._neighbours = _Neighbours.of(PastSessions.before(dataset, part), size=len(self._ids) + 1)

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[BaselineItem]:
        """Return the k best items."""
        recent = [self._rows[item] for item in reversed(item_ids) if item in self._rows][:REACH]
        weights: dict[int, float] = defaultdict(float)
        for steps_back, row in enumerate(recent):
            for neighbour, weight in self._neighbours.of_row(row):
                weights[neighbour] += weight * DECAY**steps_back
        return self._popularity.fill({self._ids[row - 1]: 1 + weight for row, weight in weights.items()}, k)


class _Neighbours(NamedTuple):
    """For each row, the rows that co-occur with it in sessions and their weights, the heaviest first."""

    offsets_N: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, past: PastSessions, size: int) -> "_Neighbours":
        """Sum 1 / distance over the pairs of items up to `REACH` positions apart, in both directions."""
        session = past.session_of_event()
        pairs, weights = [], []
        for distance in range(1, min(REACH, len(past.rows) - 1) + 1):
            same_session = session[:-distance] == session[distance:]
            before, after = past.rows[:-distance][same_session], past.rows[distance:][same_session]
            pairs += [before * size + after, after * size + before]
            weights.append(np.full(2 * len(before), 1 / distance))
        keys, inverse = np.unique(np.concatenate(pairs), return_inverse=True)
        weight = np.zeros(len(keys))
        np.add.at(weight, inverse, np.concatenate(weights))
        order = np.lexsort((-weight, keys // size))
        return cls(np.searchsorted(keys // size, np.arange(size + 1)), keys[order] % size, weight[order])

    def of_row(self, row: int) -> Iterator[tuple[int, float]]:
        """Return the heaviest neighbours of a row with their weights, at most `NEIGHBOURS`."""
        start, end = self.offsets_N[row : row + 2]
        end = min(end, start + NEIGHBOURS)
        return zip(self.rows[start:end].tolist(), self.weights[start:end].tolist(), strict=True)
