"""What needs no training: the floor that an encoder must beat, asked and answered as a bundle is."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset

REACH = 10
"""How many places apart two items of a session may stand to count as a pair."""
NEIGHBOURS = 100
"""Neighbours asked of each item."""
FADING = 0.5
"""Each step back in the session counts this much of the step after it."""


class Scored(NamedTuple):
    """An item and its score."""

    item_id: str
    score: float


class Popularity:
    """The items with the most events, whatever the session."""

    def __init__(self, dataset: Dataset) -> None:
        popularity_N = dataset.popularity()[1:]
        order = np.argsort(-popularity_N, kind="stable")
        ids = dataset.item_ids()
        self.share = dict(zip(ids, (popularity_N / (popularity_N.sum() + 1)).tolist(), strict=True))
        self._best = [Scored(ids[i], self.share[ids[i]]) for i in order[:1_000]]

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[Scored]:
        """The k most popular items; a score is a share of all events, below 1."""
        return self._best[:k]


class PopularityInSession:
    """The session's own items by how often it has them, then by popularity; after them the most popular."""

    def __init__(self, dataset: Dataset) -> None:
        self._popularity = Popularity(dataset)

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[Scored]:
        """The k best items."""
        share = self._popularity.share
        own = {item: count + share[item] for item, count in Counter(item_ids).items() if item in share}
        return _filled(own, self._popularity, k)


class ItemToItem:
    """What stands near the session's items in other sessions, the latest item counting most; then the most popular."""

    def __init__(self, dataset: Dataset) -> None:
        self._ids = dataset.item_ids()
        self._rows = {item: row for row, item in enumerate(self._ids, start=1)}
        self._popularity = Popularity(dataset)
        self._neighbours = _Neighbours.of(dataset)

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[Scored]:
        """The k best items."""
        recent = [self._rows[item] for item in reversed(item_ids) if item in self._rows][:REACH]
        weights: dict[int, float] = defaultdict(float)
        for steps_back, row in enumerate(recent):
            for neighbour, weight in self._neighbours.of_row(row):
                weights[neighbour] += weight * FADING**steps_back
        return _filled({self._ids[row - 1]: 1 + weight for row, weight in weights.items()}, self._popularity, k)


class _Neighbours(NamedTuple):
    """For each row, the rows that stand near it in sessions and their weights, the heaviest first."""

    offsets_N2: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, dataset: Dataset) -> "_Neighbours":
        """Count the pairs of items up to `REACH` places apart, both ways, each as 1 / distance."""
        size = len(dataset.item_ids()) + 1
        pairs, weights = [], []
        for part in (dataset.sessions("train"), dataset.sessions("validation")):
            session = np.repeat(np.arange(len(part.offsets) - 1), np.diff(part.offsets))
            for distance in range(1, min(REACH, len(part.rows) - 1) + 1):
                together = session[:-distance] == session[distance:]
                before, after = part.rows[:-distance][together], part.rows[distance:][together]
                pairs += [before * size + after, after * size + before]
                weights.append(np.full(2 * len(before), 1 / distance))
        keys, inverse = np.unique(np.concatenate(pairs), return_inverse=True)
        weight = np.zeros(len(keys))
        np.add.at(weight, inverse, np.concatenate(weights))
        order = np.lexsort((-weight, keys // size))
        return cls(np.searchsorted(keys // size, np.arange(size + 1)), keys[order] % size, weight[order])

    def of_row(self, row: int) -> Iterator[tuple[int, float]]:
        """The heaviest neighbours of a row with their weights, at most `NEIGHBOURS`."""
        start, end = self.offsets_N2[row : row + 2]
        end = min(end, start + NEIGHBOURS)
        return zip(self.rows[start:end].tolist(), self.weights[start:end].tolist(), strict=True)


def _filled(own: dict[str, float], popularity: Popularity, k: int) -> list[Scored]:
    """The items of `own` by score, filled up to k with popular ones; scores of `own` are 1 or more."""
    best = [Scored(item, score) for item, score in sorted(own.items(), key=lambda pair: -pair[1])[:k]]
    fill = (item for item in popularity.retrieve([], k + len(own)) if item.item_id not in own)
    return best + [item for item, _ in zip(fill, range(k - len(best)), strict=False)]


BASELINES: dict[str, Callable[[Dataset], Popularity | PopularityInSession | ItemToItem]] = {
    "popularity": Popularity,
    "popularity-in-session": PopularityInSession,
    "item-to-item": ItemToItem,
}
