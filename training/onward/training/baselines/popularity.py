"""Popularity baselines: the most popular items of all sessions, and of the session itself."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onward.training.baselines.past_sessions import PastSessions
from onward.training.data.dataset import Dataset, PartName


class BaselineItem(NamedTuple):
    """An item and its score."""

    item_id: str
    score: float


class PopularityBaseline:
    """Ranks items by their number of events, whatever the session."""

    def __init__(self, dataset: Dataset, part: PartName) -> None:
        ids = dataset.item_ids()
        events_N = np.bincount(PastSessions.before(dataset, part).rows, minlength=len(ids) + 1)[1:]
        self.share = dict(zip(ids, (events_N / (events_N.sum() + 1)).tolist(), strict=True))
        self._best = [BaselineItem(ids[i], self.share[ids[i]]) for i in np.argsort(-events_N, kind="stable")]

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[BaselineItem]:
        """Return the k most popular items; a score is the item's share of all events, below 1."""
        return self._best[:k]

    def fill(self, scores: dict[str, float], k: int) -> list[BaselineItem]:
        """Return the items of `scores` by score, filled up to k with popular ones; `scores` must be 1 or more."""
        best = [BaselineItem(item, score) for item, score in sorted(scores.items(), key=lambda pair: -pair[1])[:k]]
        others = (item for item in self._best[: k + len(scores)] if item.item_id not in scores)
        return best + [item for item, _ in zip(others, range(k - len(best)), strict=False)]


class PopularityInSession:
    """Ranks the session's own items by their count in it, ties by popularity; then the most popular items."""

    def __init__(self, dataset: Dataset, part: PartName) -> None:
        self._popularity = PopularityBaseline(dataset, part)

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[BaselineItem]:
        """Return the k best items."""
        share = self._popularity.share
        scores = {item: count + share[item] for item, count in Counter(item_ids).items() if item in share}
        return self._popularity.fill(scores, k)
