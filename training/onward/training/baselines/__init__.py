"""What needs no training: the floor that an encoder must beat, asked and answered as a bundle is."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from onward.training.baselines.item_to_item import ItemToItem
from onward.training.baselines.popularity import PopularityBaseline, PopularityInSession, ScoredItem
from onward.training.baselines.session_knn import V_SKNN, VMIS_KNN, SessionKNN
from onward.training.data.dataset import Dataset, PartName

__all__ = ["BASELINES", "Baseline", "ScoredItem"]


class Baseline(Protocol):
    """Answers a session from what it counted beforehand; may be asked from several threads at once."""

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[ScoredItem]:
        """The k best items to follow a session, oldest first; the session's own may be among them."""
        ...


BASELINES: dict[str, Callable[[Dataset, PartName], Baseline]] = {
    "popularity": PopularityBaseline,
    "popularity-in-session": PopularityInSession,
    "item-to-item": ItemToItem,
    "v-sknn": partial(SessionKNN, method=V_SKNN),
    "vmis-knn": partial(SessionKNN, method=VMIS_KNN),
}
"""Each counts what comes before the part that it will be asked about."""
