"""What most visitors want, and what this one wanted before."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onward.training.baselines.past import Past
from onward.training.data.dataset import Dataset, Part


class Scored(NamedTuple):
    """An item and its score."""

    item_id: str
    score: float


class Popularity:
    """The items with the most events, whatever the session."""

    def __init__(self, dataset: Dataset, part: Part) -> None:
        ids = dataset.item_ids()
        events_N = np.bincount(Past.before(dataset, part).rows, minlength=len(ids) + 1)[1:]
        self.share = dict(zip(ids, (events_N / (events_N.sum() + 1)).tolist(), strict=True))
        self._best = [Scored(ids[i], self.share[ids[i]]) for i in np.argsort(-events_N, kind="stable")]

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[Scored]:
        """The k most popular items; a score is a share of all events, below 1."""
        return self._best[:k]

    def fill(self, own: dict[str, float], k: int) -> list[Scored]:
        """The items of `own` by score, filled up to k with popular ones; scores of `own` are 1 or more."""
        best = [Scored(item, score) for item, score in sorted(own.items(), key=lambda pair: -pair[1])[:k]]
        others = (item for item in self._best[: k + len(own)] if item.item_id not in own)
        return best + [item for item, _ in zip(others, range(k - len(best)), strict=False)]


class PopularityInSession:
    """The session's own items by how often it has them, then by popularity; after them the most popular."""

    def __init__(self, dataset: Dataset, part: Part) -> None:
        self._popularity = Popularity(dataset, part)

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[Scored]:
        """The k best items."""
        share = self._popularity.share
        own = {item: count + share[item] for item, count in Counter(item_ids).items() if item in share}
        return self._popularity.fill(own, k)
