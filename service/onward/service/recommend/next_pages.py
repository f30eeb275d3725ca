"""NextPages: continue an answer with the items that rank after it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from onward.service.errors import LimitReached, RecommendationGone, RecommendationNotFound, SessionStoreUnavailable
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.query import Recommendation
from onward.service.recommend.replay import options_of, retrieval_query_of
from onward.service.recommend.retrieval import retrieve
from onward.service.records.answers import MAX_PAGES, shown_by
from onward.service.records.recorder import Recorder

MAX_ATTEMPTS = 2 * MAX_PAGES
"""Of concurrent requests for the same page, one gets it and the others try for the next."""
STORE_SHARE = 0.25
"""Part of the time left at the start of a retrieval that is kept for storing the page after it."""


class NextPages:
    """Makes the pages of an answer one after another, even under concurrent requests."""

    def __init__(
        self, live: LiveBundle, recorder: Recorder, timeout: timedelta, clock: Callable[[], float] = time.time
    ) -> None:
        """Take also the longest time for a page whose request sets none."""
        self._live = live
        self._recorder = recorder
        self._timeout_s = timeout.total_seconds()
        self._clock = clock

    async def next(
        self, recommendation_id: str, k: int | None, *, timeout_s: float | None = None, age_s: float = 0.0
    ) -> Recommendation:
        """Return items that no page of an answer has shown, ranked for its session and options.

        Without the time for that they are popular or similar ones.

        Args:
            recommendation_id: the id of any page of the answer.
            k: number of items; None means as many as the answer asked for.
            timeout_s: seconds from the arrival of the request within which to answer; None means the deployment's.
            age_s: seconds since the arrival of the request.

        Raises RecommendationNotFound, RecommendationGone if the live bundle lacks an attribute that the options use,
        LimitReached, SessionStoreUnavailable, also if the store takes all the time.
        """
        deadline_s = asyncio.get_running_loop().time() + (timeout_s or self._timeout_s) - age_s
        try:
            async with asyncio.timeout_at(deadline_s):
                for _ in range(MAX_ATTEMPTS):
                    page = await self._make_page(recommendation_id, k, deadline_s)
                    if page is not None:
                        return page
        except TimeoutError as error:
            raise SessionStoreUnavailable("The store did not answer in the time of the request.") from error
        raise SessionStoreUnavailable("Concurrent requests took every page that this one tried for.")

    async def _make_page(self, recommendation_id: str, k: int | None, deadline_s: float) -> Recommendation | None:
        """Make the next page of an answer; None if another caller made it meanwhile."""
        answers = self._recorder.answers
        pages = [] if answers is None else await answers.pages(recommendation_id)
        if answers is None or not pages:
            raise RecommendationNotFound("No answer with this id is stored, or it has expired.")
        if len(pages) >= MAX_PAGES:
            raise LimitReached(f"An answer has at most {MAX_PAGES} pages.")
        started_s = time.perf_counter()
        bundle, root, shown = self._live.bundle, pages[0], shown_by(pages)
        if any(options_of(root).faults(bundle.catalog.schema)):
            raise RecommendationGone("The live bundle lacks attributes that the options of this answer use.")
        query = retrieval_query_of(root)
        options = replace(query.options, k=k or query.options.k, pins=(), exclude=(*query.options.exclude, *shown))
        left_s = deadline_s - asyncio.get_running_loop().time()
        retrieval, degraded = await retrieve(
            bundle,
            query._replace(options=options),
            self._recorder.popularity.scores,
            deadline_s - STORE_SHARE * left_s,
        )
        page = replace(
            root,
            id=answers.next_page_id(pages),
            made_ms=int(self._clock() * 1000),
            bundle=bundle.digest,
            changes_version=bundle.changes_version,
            items=retrieval.items,
            options={**root.options, "k": options.k, "pin": []},
            root_id=root.id,
        )
        if not await answers.claim_next(root.id, len(pages), page, bundle.catalog):
            return None
        self._recorder.served_page(page, bundle.catalog)
        return Recommendation(page, None, bundle, retrieval, None, degraded, 0.0, time.perf_counter() - started_s)
