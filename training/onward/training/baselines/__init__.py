"""Baselines without training, which an encoder must beat; they are evaluated like bundles.

To add one, write a module with a class that meets `Baseline`, and add it to `BASELINES`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from onward.training.baselines.item_to_item import ItemToItem
from onward.training.baselines.popularity import BaselineItem, PopularityBaseline, PopularityInSession
from onward.training.baselines.session_knn import SERENADE, V_SKNN, VMIS_KNN, SessionKNN
from onward.training.data.dataset import Dataset, PartName

__all__ = ["BASELINES", "Baseline", "BaselineItem"]


class Baseline(Protocol):
    """Ranks items for a session by statistics of past sessions. Thread-safe."""

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[BaselineItem]:
        """Return the k best items to follow the session `item_ids`, oldest first; they may include its own items."""
        ...


BASELINES: dict[str, Callable[[Dataset, PartName], Baseline]] = {
    "popularity": PopularityBaseline,
    "popularity-in-session": PopularityInSession,
    "item-to-item": ItemToItem,
    "v-sknn": partial(SessionKNN, options=V_SKNN),
    "vmis-knn": partial(SessionKNN, options=VMIS_KNN),
    "serenade": partial(SessionKNN, options=SERENADE),
}
"""Each is created from the dataset and the part to be evaluated on, and counts only events before that part."""
