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
EVENTS_AT_ONCE = 2**17
"""Number of events whose pairs are in memory at once: up to 20 of each."""


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
    """For each row, the rows that co-occur with it most in sessions and their weights, the heaviest first."""

    offsets_N: NDArray[np.int64]
    rows: NDArray[np.int32]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, past: PastSessions, size: int) -> "_Neighbours":
        """Sum 1 / distance over the pairs of items up to `REACH` positions apart, in both directions.

        Only the pairs of some rows are in memory at once, and of each row only `NEIGHBOURS` remain.
        """
        events = _Events.of(past, size)
        chunks = [cls._of_rows(events, first, end, size) for first, end in events.chunks()]
        counts = np.concatenate([np.diff(chunk.offsets_N) for chunk in chunks])
        return cls(
            np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
            np.concatenate([chunk.rows for chunk in chunks]),
            np.concatenate([chunk.weights for chunk in chunks]),
        )

    @classmethod
    def _of_rows(cls, events: "_Events", first: int, end: int, size: int) -> "_Neighbours":
        """Return the neighbours of the rows first..end - 1."""
        if end == first + 1:  # a row may have any number of events
            summed_N = np.zeros(size)
            for _, neighbour, share in events.pairs(first, end):
                np.add.at(summed_N, neighbour, share)
            keys: NDArray[np.int64] = np.flatnonzero(summed_N)
            weight: NDArray[np.float64] = summed_N[keys]
        else:
            pairs = [(row * size + other, share) for row, other, share in events.pairs(first, end)]
            shares_P = np.concatenate([np.full(len(of_pairs), share) for of_pairs, share in pairs])
            keys, inverse = np.unique(np.concatenate([of_pairs for of_pairs, _ in pairs]), return_inverse=True)
            weight = np.bincount(inverse, shares_P, len(keys)).astype(np.float64, copy=False)
        rows, neighbours = np.divmod(keys, size)
        order: NDArray[np.int64] = np.lexsort((-weight, rows))
        bounds = np.searchsorted(rows, np.arange(end - first + 1))
        kept = order[np.arange(len(order)) - bounds[rows] < NEIGHBOURS]
        counts = np.minimum(np.diff(bounds), NEIGHBOURS)
        return cls(
            np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]), neighbours[kept].astype(np.int32), weight[kept]
        )

    def of_row(self, row: int) -> Iterator[tuple[int, float]]:
        """Return the heaviest neighbours of a row with their weights, at most `NEIGHBOURS`."""
        start, end = self.offsets_N[row : row + 2]
        return zip(self.rows[start:end].tolist(), self.weights[start:end].tolist(), strict=True)


class _Events(NamedTuple):
    """The events of past sessions, in order of time and, by `order`, of rows."""

    rows: NDArray[np.integer]
    session: NDArray[np.integer]
    order: NDArray[np.integer]
    """Places of the events of row 0, 1, ..., each in order of time."""
    bounds_N: NDArray[np.int64]
    """The events of a row are order[bounds[row] : bounds[row + 1]]."""

    @classmethod
    def of(cls, past: PastSessions, size: int) -> "_Events":
        """Index the events by their rows, in 12 bytes for each beside theirs if there are fewer than 2^31."""
        place: type[np.int32 | np.int64] = np.int32 if len(past.rows) < 2**31 else np.int64
        order: NDArray[np.integer] = np.argsort(past.rows, kind="stable").astype(place)
        counts = np.bincount(past.rows, minlength=size)
        session: NDArray[np.integer] = past.session_of_event().astype(place)
        return cls(past.rows.astype(np.int32), session, order, np.concatenate([np.zeros(1, np.int64), counts.cumsum()]))

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows with at most `EVENTS_AT_ONCE` events together, or a single row with more."""
        first, rows = 0, len(self.bounds_N) - 1
        while first < rows:
            end = int(np.searchsorted(self.bounds_N, self.bounds_N[first] + EVENTS_AT_ONCE, side="right")) - 1
            end = max(end, first + 1)
            yield first, end
            first = end

    def pairs(self, first: int, end: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], float]]:
        """Yield rows first..end - 1 less `first`, the rows that occur at a distance of each event, and 1 / distance."""
        at_P = self.order[self.bounds_N[first] : self.bounds_N[end]].astype(np.int64)
        row_P, session_P = self.rows[at_P].astype(np.int64) - first, self.session[at_P]
        for distance in range(1, min(REACH, len(self.rows) - 1) + 1):
            for other_P in (at_P + distance, at_P - distance):
                inside_P = (other_P >= 0) & (other_P < len(self.rows))
                inside_P &= self.session[other_P.clip(0, len(self.rows) - 1)] == session_P
                yield row_P[inside_P], self.rows[other_P[inside_P]].astype(np.int64), 1 / distance
