"""ItemLists: lists of items independent of a session: similar and popular items."""

import asyncio
from datetime import timedelta

from onward.bundle import Bundle, Options, UnknownItemError
from onward.service.errors import ItemNotFound
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.retrieval import Retrieved, retrieve_similar
from onward.service.records.recorder import Recorder


class ItemLists:
    """Lists items of the live bundle, with the popularity of recent events."""

    def __init__(self, live: LiveBundle, recorder: Recorder, timeout: timedelta) -> None:
        """Take also the longest time for a list whose request sets none."""
        self._live = live
        self._recorder = recorder
        self._timeout_s = timeout.total_seconds()

    async def similar(
        self, item_id: str, options: Options, *, timeout_s: float | None = None, age_s: float = 0.0
    ) -> tuple[Bundle, Retrieved]:
        """Return the items nearest to an item; past the deadline popular ones. Raises ItemNotFound, NotReady.

        Args:
            item_id: the item.
            options: how many items, and which to leave out.
            timeout_s: seconds from the arrival of the request within which to answer; None means the deployment's.
            age_s: seconds since the arrival of the request.
        """
        bundle = self._live.bundle
        if item_id not in bundle.catalog:
            raise _not_found()
        deadline_s = asyncio.get_running_loop().time() + (timeout_s or self._timeout_s) - age_s
        try:
            popular_now = self._recorder.popularity.scores
            return bundle, await retrieve_similar(bundle, item_id, options, popular_now, deadline_s)
        except UnknownItemError as error:
            raise _not_found() from error

    def popular(self, options: Options) -> tuple[Bundle, Retrieved]:
        """Return the most popular items. Raises NotReady.

        It is what other answers fall back to at their deadlines: nothing is waited for or searched.
        """
        bundle = self._live.bundle
        return bundle, Retrieved(bundle.popular(options, popular_now=self._recorder.popularity.scores))


def _not_found() -> ItemNotFound:
    return ItemNotFound("The live bundle's catalog does not have this item.")
