"""Recommender: what a caller asks -> ranked items."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from onward.bundle import Bundle, Options, Retrieval, UnknownItemError
from onward.service.errors import InvalidRequest, ItemNotFound, ServiceError
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.batcher import Batcher
from onward.service.recommend.pipeline import Answering, Question
from onward.service.recommend.query import Query, Recommendation
from onward.service.recommend.retrieval import retrieve_similar
from onward.service.recommend.scenarios import Scenarios
from onward.service.records.recorder import Recorder
from onward.service.sessions import EventListener, EventRules, SessionStore

MAX_TOGETHER = 16
"""Questions that are answered before anything else goes on."""


class Recommender:
    """Answers from the live bundle and the session store; without the store from what the caller sent along.

    Those who ask in one turn of the event loop are answered together.
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
        answering = Answering(store, recorder, listener, rules, clock)
        self._together = Batcher(answering.answer, most=MAX_TOGETHER)

    async def recommend(self, asked: Query) -> Recommendation:
        """Append the items to the session, if one is named, and rank what is likely to come next for its user.

        Raises InvalidRequest, UnknownScenario, SessionBehind.
        """
        return await self._recommend(asked, self._live.bundle)

    async def recommend_all(self, asked: Sequence[Query]) -> list[Recommendation | ServiceError]:
        """Answer several, each by itself, those of one session in order; what one raises stands in its place."""
        bundle = self._live.bundle
        return await asyncio.gather(*(self._recommend_or_refuse(one, bundle) for one in asked))

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

    async def _recommend(self, asked: Query, bundle: Bundle) -> Recommendation:
        question = self._question(asked, bundle)
        return await self._together.ask(question, by_itself=asked.position is not None)

    async def _recommend_or_refuse(self, asked: Query, bundle: Bundle) -> Recommendation | ServiceError:
        try:
            return await self._recommend(asked, bundle)
        except ServiceError as error:
            return error

    def _question(self, asked: Query, bundle: Bundle) -> Question:
        """Find what counts for an answer, once the catalog can answer it. Raises InvalidRequest, UnknownScenario."""
        scenario = None if asked.scenario is None else self._scenarios.get(asked.scenario)
        options = asked.options if scenario is None else asked.options.over(scenario.options)
        if options.asks_of_attributes:
            schema = bundle.catalog.schema
            if refusal := asked.options.refusal(schema, *asked.place):
                raise refusal
            fault = None if scenario is None else next(options.faults(schema), None)
            if fault is not None:
                place = ".".join(map(str, fault.path))
                raise InvalidRequest(f"The scenario does not fit the live bundle: {place}: {fault.message}.")
        return Question(asked, options, scenario, options.as_options(exclude=asked.exclude), bundle)

    def _popular_now(self) -> Mapping[str, float]:
        return self._recorder.popularity.scores()
