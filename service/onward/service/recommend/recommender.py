"""Recommender: from a caller's query to ranked items."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from onward.bundle import Bundle, Options, Retrieval, UnknownItemError
from onward.service.errors import InvalidRequest, ItemNotFound, ServiceError
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.batcher import Batcher
from onward.service.recommend.pipeline import PendingQuery, Pipeline
from onward.service.recommend.query import Query, Recommendation
from onward.service.recommend.retrieval import retrieve_similar
from onward.service.recommend.scenarios import Scenarios
from onward.service.records.recorder import Recorder
from onward.service.sessions import EventListener, EventRules, SessionStore

MAX_BATCH = 16


class Recommender:
    """Answers from the live bundle and the session store; without the store, from what the caller sent.

    Queries that arrive in the same iteration of the event loop are answered as one batch.
    """

    def __init__(
        self,
        live: LiveBundle,
        store: SessionStore,
        scenarios: Scenarios,
        recorder: Recorder,
        listener: EventListener,
        rules: EventRules,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._scenarios = scenarios
        self._recorder = recorder
        self._batcher = Batcher(Pipeline(store, recorder, listener, rules, clock).answer, max_batch=MAX_BATCH)

    async def recommend(self, query: Query) -> Recommendation:
        """Append the items to the session, if one is named, and rank what is likely to come next.

        Raises InvalidRequest, UnknownScenario, SessionBehind, NotReady.
        """
        return await self._recommend(query, self._live.bundle)

    async def recommend_all(self, queries: Sequence[Query]) -> list[Recommendation | ServiceError]:
        """Answer several queries, those of one session in order; an error takes the place of its query's answer."""
        bundle = self._live.bundle
        return await asyncio.gather(*(self._recommendation_or_error(query, bundle) for query in queries))

    async def similar(self, item_id: str, options: Options) -> tuple[Bundle, Retrieval]:
        """Return the items nearest to an item. Raises ItemNotFound."""
        bundle = self._live.bundle
        try:
            return bundle, await retrieve_similar(bundle, item_id, options, self._popular_now())
        except UnknownItemError as error:
            raise ItemNotFound("The live bundle's catalog does not have this item.") from error

    def popular(self, options: Options) -> tuple[Bundle, Retrieval]:
        """Return the most popular items."""
        bundle = self._live.bundle
        return bundle, bundle.popular(options, popular_now=self._popular_now())

    async def _recommend(self, query: Query, bundle: Bundle) -> Recommendation:
        pending = self._pending(query, bundle)
        self._batcher.submit(pending, alone=query.position is not None)
        return await pending.result

    async def _recommendation_or_error(self, query: Query, bundle: Bundle) -> Recommendation | ServiceError:
        try:
            return await self._recommend(query, bundle)
        except ServiceError as error:
            return error

    def _pending(self, query: Query, bundle: Bundle) -> PendingQuery:
        """Resolve the options that apply and check them against the catalog. Raises InvalidRequest, UnknownScenario."""
        scenario = None if query.scenario is None else self._scenarios.get(query.scenario)
        options = query.options if scenario is None else query.options.over(scenario.options)
        if options.uses_attributes:
            schema = bundle.catalog.schema
            if refusal := query.options.refusal(schema, *query.location):
                raise refusal
            fault = None if scenario is None else next(options.faults(schema), None)
            if fault is not None:
                place = ".".join(map(str, fault.path))
                raise InvalidRequest(f"The scenario does not fit the live bundle: {place}: {fault.message}.")
        return PendingQuery(query, options, scenario, options.as_options(exclude=query.exclude), bundle)

    def _popular_now(self) -> Mapping[str, float]:
        return self._recorder.popularity.scores
