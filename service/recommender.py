"""Recommender: what a caller asks -> ranked items."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from service import telemetry
from service.answers import Answer, new_answer_id
from service.bundle import Bundle, Options, Retrieval, Seen, UnknownItemError, Wanted
from service.errors import (
    InvalidRequest,
    ItemNotFound,
    ServiceError,
    SessionStoreUnavailable,
)
from service.recorder import Recorder
from service.reload import LiveBundle
from service.retrieval import Retriever, retrieve_similar
from service.scenarios import Scenario, Scenarios
from service.schemas.options import RecommendationOptions
from service.sessions import AppliedEvent, Event, EventListener, EventRules, Session, SessionStore

VIEW = "view"

Missing = Literal["session_store"]
SESSION_STORE: Missing = "session_store"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks."""

    session_id: str | None = None
    items: Sequence[str] = ()
    """What the visitor just saw, oldest first."""
    user_id: str | None = None
    exclude: Sequence[str] = ()
    options: RecommendationOptions = field(default_factory=RecommendationOptions)
    scenario: str | None = None
    """The name of options that count where the caller's own do not say otherwise."""
    position: str | None = None
    """How far the session must have come."""
    kept: bool = True
    """Whether anything is stored."""
    place: tuple[str | int, ...] = ("body",)
    """Where it stands in the request, for what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An answer, the bundle that gave it, what it had to go without, and the seconds that its two stages took."""

    answer: Answer
    session_id: str | None
    bundle: Bundle
    retrieval: Retrieval
    position: str | None
    degraded: tuple[Missing, ...]
    store_s: float
    retrieval_s: float


class _Terms(NamedTuple):
    """The options that count for an answer, and the scenario that they come from where the caller gave none."""

    options: RecommendationOptions
    scenario: Scenario | None = None


class _Found(NamedTuple):
    """What the store knows of a session."""

    seen: Seen
    position: str | None = None
    degraded: tuple[Missing, ...] = ()
    reserved: bool = False


class Recommender:
    """Answers from the live bundle and the session store; without the store from what the caller sent along."""

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
        self._store = store
        self._scenarios = scenarios
        self._recorder = recorder
        self._listener = listener
        self._rules = rules
        self._clock = clock
        self._retriever = Retriever()

    async def recommend(self, asked: Asked) -> Recommendation:
        """Append the items to the session, if one is named, and rank what is likely to come next for its user.

        Raises InvalidRequest, UnknownScenario, SessionBehind.
        """
        bundle = self._live.bundle
        terms = self._terms(asked, bundle)
        answer_id = new_answer_id(asked.session_id)
        started = time.perf_counter()
        found = await self._find(asked, answer_id)
        stored = time.perf_counter()
        wanted = Wanted(found.seen, terms.options.as_options(exclude=asked.exclude), asked.user_id)
        retrieval = await self._retriever.retrieve(bundle, wanted, self._popular_now())
        retrieved = time.perf_counter()
        answer = self._answer(answer_id, asked, terms, bundle, found.seen, retrieval)
        return self._served(asked, answer, bundle, found, retrieval, stored - started, retrieved - stored)

    async def recommend_all(self, asked: Sequence[Asked]) -> list[Recommendation | ServiceError]:
        """Answer several, each by itself, those of one session in order; what one raises stands in its place."""
        bundle = self._live.bundle
        started = time.perf_counter()
        checked = [self._terms_or_refusal(one, bundle) for one in asked]
        answer_ids = [new_answer_id(one.session_id) for one in asked]
        found = await self._find_all(asked, checked, answer_ids)
        stored = time.perf_counter()
        wanted = [
            Wanted(known.seen, terms.options.as_options(exclude=one.exclude), one.user_id)
            for one, terms, known in zip(asked, checked, found, strict=True)
            if not isinstance(terms, ServiceError) and not isinstance(known, ServiceError)
        ]
        retrievals = iter(await asyncio.to_thread(bundle.retrieve_all, wanted, popular_now=self._popular_now()))
        store_s, retrieval_s = stored - started, time.perf_counter() - stored
        answers: list[Recommendation | ServiceError] = []
        for one, terms, known, answer_id in zip(asked, checked, found, answer_ids, strict=True):
            if isinstance(terms, ServiceError):
                answers.append(terms)
            elif isinstance(known, ServiceError):
                answers.append(known)
            else:
                retrieval = next(retrievals)
                answer = self._answer(answer_id, one, terms, bundle, known.seen, retrieval)
                answers.append(self._served(one, answer, bundle, known, retrieval, store_s, retrieval_s))
        return answers

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

    def _terms(self, asked: Asked, bundle: Bundle) -> _Terms:
        """Return what counts for an answer, once the catalog can answer it. Raises InvalidRequest, UnknownScenario."""
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
        return _Terms(options, scenario)

    def _terms_or_refusal(self, asked: Asked, bundle: Bundle) -> _Terms | ServiceError:
        try:
            return self._terms(asked, bundle)
        except ServiceError as error:
            return error

    async def _find(self, asked: Asked, answer_id: str) -> _Found:
        """Append what is new to the session, where it is to be kept, and read it."""
        if asked.session_id is None:
            return _Found(Seen(asked.items))
        now_ms = int(self._clock() * 1000)
        new = [self._rules.event_now(item_id, VIEW, now_ms) for item_id in asked.items]
        reserves = asked.kept and self._recorder.answers is not None
        try:
            session = await self._store.append(
                asked.session_id,
                new if asked.kept else (),
                at_least=asked.position,
                answer_id=answer_id if reserves else None,
            )
        except SessionStoreUnavailable:
            return _without_store(asked)
        if asked.kept and new:
            self._listener.applied([_applied(asked.session_id, event, session) for event in new])
        seen = session if asked.kept else _as_if_kept(session, new)
        return _Found(Seen(seen.item_ids, seen.purchased, seen.hidden), session.position, reserved=reserves)

    async def _find_all(
        self, asked: Sequence[Asked], checked: Sequence[_Terms | ServiceError], answer_ids: Sequence[str]
    ) -> list[_Found | ServiceError]:
        """Find the sessions of several at once, and one after another those of one session.

        Once the store fails for a session, what follows in it goes without the store: it would wait as long again.
        """
        found: dict[int, _Found | ServiceError] = {
            number: fault for number, fault in enumerate(checked) if isinstance(fault, ServiceError)
        }
        of_session: dict[str | int, list[int]] = {}
        for number, one in enumerate(asked):
            if number not in found:
                of_session.setdefault(number if one.session_id is None else one.session_id, []).append(number)

        async def find(numbers: Iterable[int]) -> None:
            works = True
            for number in numbers:
                try:
                    one = (
                        await self._find(asked[number], answer_ids[number]) if works else _without_store(asked[number])
                    )
                    works, found[number] = SESSION_STORE not in one.degraded, one
                except ServiceError as error:
                    found[number] = error

        await asyncio.gather(*map(find, of_session.values()))
        return [found[number] for number in range(len(asked))]

    def _answer(
        self,
        answer_id: str,
        asked: Asked,
        terms: _Terms,
        bundle: Bundle,
        seen: Seen,
        retrieval: Retrieval,
    ) -> Answer:
        given = terms.options.given()
        return Answer(
            id=answer_id,
            made_ms=int(self._clock() * 1000),
            bundle=bundle.digest,
            items=retrieval.items,
            session_items=tuple(seen.item_ids),
            purchased=tuple(seen.purchased),
            hidden=tuple(seen.hidden),
            user_id=asked.user_id,
            options={**given, "exclude": list(asked.exclude)} if asked.exclude else given,
            changes_version=bundle.changes_version,
            scenario=None if terms.scenario is None else terms.scenario.name,
            scenario_version=None if terms.scenario is None else terms.scenario.version,
            variant=terms.options.variant,
        )

    def _served(
        self,
        asked: Asked,
        answer: Answer,
        bundle: Bundle,
        found: _Found,
        retrieval: Retrieval,
        store_s: float,
        retrieval_s: float,
    ) -> Recommendation:
        telemetry.retrieved(retrieval.items.sources, len(retrieval.unknown_item_ids), retrieval_s)
        if asked.kept:
            self._recorder.served(answer, session_id=asked.session_id, reserved=found.reserved)
        return Recommendation(
            answer, asked.session_id, bundle, retrieval, found.position, found.degraded, store_s, retrieval_s
        )

    def _popular_now(self) -> Mapping[str, float]:
        return self._recorder.popularity.scores()


def _without_store(asked: Asked) -> _Found:
    telemetry.degraded(SESSION_STORE)
    return _Found(Seen(asked.items), degraded=(SESSION_STORE,))


def _as_if_kept(session: Session, new: Sequence[Event]) -> Session:
    """The session that an append would give, of which nothing is stored."""
    hidden = session.hidden.difference(event.item_id for event in new)
    return Session.of([*session.events, *new], purchased=session.purchased, hidden=hidden)


def _applied(session_id: str, event: Any, session: Session) -> AppliedEvent:
    return AppliedEvent(
        session_id, event.item_id, event.type, event.weight, event.timestamp_ms, None, None, None, session.item_ids
    )
