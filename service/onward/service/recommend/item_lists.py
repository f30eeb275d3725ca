"""ItemLists: lists of items independent of a session: similar and popular items."""

from onward.bundle import Bundle, Options, Retrieval, UnknownItemError
from onward.service.errors import ItemNotFound
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.retrieval import retrieve_similar
from onward.service.records.recorder import Recorder


class ItemLists:
    """Lists items of the live bundle, with the popularity of recent events."""

    def __init__(self, live: LiveBundle, recorder: Recorder) -> None:
        self._live = live
        self._recorder = recorder

    async def similar(self, item_id: str, options: Options) -> tuple[Bundle, Retrieval]:
        """Return the items nearest to an item. Raises ItemNotFound, NotReady."""
        bundle = self._live.bundle
        try:
            return bundle, await retrieve_similar(bundle, item_id, options, self._recorder.popularity.scores)
        except UnknownItemError as error:
            raise ItemNotFound("The live bundle's catalog does not have this item.") from error

    def popular(self, options: Options) -> tuple[Bundle, Retrieval]:
        """Return the most popular items. Raises NotReady."""
        bundle = self._live.bundle
        return bundle, bundle.popular(options, popular_now=self._recorder.popularity.scores)
