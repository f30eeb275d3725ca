"""Pages: an answer that was given -> the items that come after it."""

import time
from collections.abc import Callable
from dataclasses import replace

from onward.service.errors import LimitReached, RecommendationGone, RecommendationNotFound, SessionStoreUnavailable
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.query import Recommendation
from onward.service.recommend.replay import options_of, wanted_of
from onward.service.recommend.retrieval import retrieve
from onward.service.records.answers import new_page_id, shown_by
from onward.service.records.recorder import Recorder

MAX_PAGES = 100
"""Of one answer."""
PAGE_ATTEMPTS = 2 * MAX_PAGES
"""Of several callers who ask for one page at once one gets it, and the others try for the next."""


class Pages:
    """Goes on with answers, page by page, whoever asks and however many at once."""

    def __init__(self, live: LiveBundle, recorder: Recorder, clock: Callable[[], float] = time.time) -> None:
        self._live = live
        self._recorder = recorder
        self._clock = clock

    async def next(self, recommendation_id: str, k: int | None) -> Recommendation:
        """Go on with an answer: items that no page of it has shown, in the order of its session and options.

        Raises RecommendationNotFound, RecommendationGone where the live bundle has not the attributes that the options
        ask for, LimitReached, SessionStoreUnavailable.
        """
        for _ in range(PAGE_ATTEMPTS):
            page = await self._page(recommendation_id, k)
            if page is not None:
                return page
        raise SessionStoreUnavailable("Others asked for the same pages all the time.")

    async def _page(self, recommendation_id: str, k: int | None) -> Recommendation | None:
        """Make the next page of an answer; None where somebody else made it meanwhile."""
        answers = self._recorder.answers
        pages = [] if answers is None else await answers.pages(recommendation_id)
        if answers is None or not pages:
            raise RecommendationNotFound("No such answer is kept, or it is kept no longer.")
        if len(pages) >= MAX_PAGES:
            raise LimitReached(f"An answer has at most {MAX_PAGES} pages.")
        started = time.perf_counter()
        bundle, root, shown = self._live.bundle, pages[0], shown_by(pages)
        if any(options_of(root).faults(bundle.catalog.schema)):
            raise RecommendationGone("The live bundle has not the attributes that the options of this answer ask for.")
        wanted = wanted_of(root)
        options = replace(wanted.options, k=k or wanted.options.k, pins=(), exclude=(*wanted.options.exclude, *shown))
        retrieval = await retrieve(bundle, wanted._replace(options=options), self._recorder.popularity.scores())
        page = replace(
            root,
            id=new_page_id(root.id),
            made_ms=int(self._clock() * 1000),
            bundle=bundle.digest,
            changes_version=bundle.changes_version,
            items=retrieval.items,
            options={**root.options, "k": options.k, "pin": []},
            root_id=root.id,
        )
        if not await answers.claim_next(root.id, len(pages), page):
            return None
        self._recorder.served_page(page)
        return Recommendation(page, None, bundle, retrieval, None, (), 0.0, time.perf_counter() - started)
