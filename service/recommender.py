"""Recommender: what a caller asks -> ranked items."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Literal, NamedTuple

from service import telemetry
from service.answers import Answer, new_answer_ids
from service.bundle import Bundle, Options, Retrieval, Seen, UnknownItemError, Wanted
from service.errors import (
    InvalidRequest,
    ItemNotFound,
    ServiceError,
    SessionStoreUnavailable,
)
from service.recorder import Recorder
from service.reload import LiveBundle
from service.retrieval import is_short, retrieve_similar, retrieve_together
from service.scenarios import Scenario, Scenarios
from service.schemas.options import RecommendationOptions
from service.sessions import Append, AppliedEvent, Event, EventListener, EventRules, Session, SessionStore
from service.together import Ticket, Together

VIEW = "view"
DEFAULT_OPTIONS = RecommendationOptions()
MAX_TOGETHER = 16
"""Questions that are answered before anything else goes on."""

Missing = Literal["session_store"]
SESSION_STORE: Missing = "session_store"


class Asked(NamedTuple):
    """What a caller asks."""

    session_id: str | None = None
    items: Sequence[str] = ()
    """What the visitor just saw, oldest first."""
    user_id: str | None = None
    exclude: Sequence[str] = ()
    options: RecommendationOptions = DEFAULT_OPTIONS
    scenario: str | None = None
    """The name of options that count where the caller's own do not say otherwise."""
    position: str | None = None
    """How far the session must have come."""
    kept: bool = True
    """Whether anything is stored."""
    place: tuple[str | int, ...] = ("body",)
    """Where it stands in the request, for what is wrong with it."""


class Recommendation(NamedTuple):
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


class _Question(NamedTuple):
    """What is asked of the bundle that was live by then, whatever is meanwhile."""

    asked: Asked
    terms: _Terms
    bundle: Bundle


class _Found(NamedTuple):
    """What the store knows of a session."""

    seen: Seen
    position: str | None = None
    degraded: tuple[Missing, ...] = ()
    reserved: bool = False


class _Known(NamedTuple):
    """A question whose session is known."""

    ticket: Ticket[_Question, Recommendation]
    answer_id: str
    found: _Found
    wanted: Wanted
    store_s: float


class Recommender:
    """Answers from the live bundle and the session store; without the store from what the caller sent along.

    Those who ask in one turn of the event loop are answered together: by one round trip to the store, one call of the
    encoder and one search.
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
        self._store = store
        self._scenarios = scenarios
        self._recorder = recorder
        self._listener = listener
        self._rules = rules
        self._clock = clock
        self._together = Together(self._answer_all, most=MAX_TOGETHER)

    async def recommend(self, asked: Asked) -> Recommendation:
        """Append the items to the session, if one is named, and rank what is likely to come next for its user.

        Raises InvalidRequest, UnknownScenario, SessionBehind.
        """
        return await self._recommend(asked, self._live.bundle)

    async def recommend_all(self, asked: Sequence[Asked]) -> list[Recommendation | ServiceError]:
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

    async def _recommend(self, asked: Asked, bundle: Bundle) -> Recommendation:
        question = _Question(asked, self._terms(asked, bundle), bundle)
        return await self._together.ask(question, by_itself=asked.position is not None)

    async def _recommend_or_refuse(self, asked: Asked, bundle: Bundle) -> Recommendation | ServiceError:
        try:
            return await self._recommend(asked, bundle)
        except ServiceError as error:
            return error

    async def _answer_all(self, tickets: Sequence[Ticket[_Question, Recommendation]]) -> None:
        """Answer all: those whose retrieval is short at once, the others each in a thread."""
        started_s = time.perf_counter()
        answer_ids = new_answer_ids([ticket.question.asked.session_id for ticket in tickets])
        sessions = await self._find_all([ticket.question.asked for ticket in tickets], answer_ids)
        store_s = time.perf_counter() - started_s
        short: list[_Known] = []
        long: list[_Known] = []
        for ticket, answer_id, found in zip(tickets, answer_ids, sessions, strict=True):
            if isinstance(found, ServiceError):
                ticket.give(found)
                continue
            asked, terms, bundle = ticket.question
            wanted = Wanted(found.seen, terms.options.as_options(exclude=asked.exclude), asked.user_id)
            known = _Known(ticket, answer_id, found, wanted, store_s)
            (short if is_short(bundle, wanted) else long).append(known)
        while short:  # once, unless another bundle became live just now
            bundle = short[0].ticket.question.bundle
            self._retrieve(bundle, [one for one in short if one.ticket.question.bundle is bundle])
            short = [one for one in short if one.ticket.question.bundle is not bundle]
        if long:
            await asyncio.gather(*map(self._retrieve_in_thread, long))

    async def _find_all(self, asked: Sequence[Asked], answer_ids: Sequence[str]) -> list[_Found | ServiceError]:
        """Append what is new to each session, where it is to be kept, and read it."""
        now_ms = int(self._clock() * 1000)
        keeps_answers = self._recorder.answers is not None
        new = [[self._rules.event_now(item_id, VIEW, now_ms) for item_id in one.items] for one in asked]
        appends = [
            Append(
                one.session_id,
                events if one.kept else (),
                one.position,
                answer_id if one.kept and keeps_answers else None,
            )
            for one, events, answer_id in zip(asked, new, answer_ids, strict=True)
            if one.session_id is not None
        ]
        sessions = iter(await self._store.append_all(appends) if appends else ())
        found: list[_Found | ServiceError] = []
        applied: list[AppliedEvent] = []
        for one, events in zip(asked, new, strict=True):
            if one.session_id is None:
                found.append(_Found(Seen(one.items)))
                continue
            session = next(sessions)
            if isinstance(session, SessionStoreUnavailable):
                telemetry.degraded(SESSION_STORE)
                found.append(_Found(Seen(one.items), degraded=(SESSION_STORE,)))
            elif isinstance(session, ServiceError):
                found.append(session)
            else:
                if one.kept:
                    applied += [_applied(one.session_id, event, session) for event in events]
                seen = session if one.kept else _as_if_kept(session, events)
                found.append(
                    _Found(
                        Seen(seen.item_ids, seen.purchased, seen.hidden),
                        session.position,
                        reserved=one.kept and keeps_answers,
                    )
                )
        if applied:
            self._listener.applied(applied)
        return found

    def _retrieve(self, bundle: Bundle, known: Sequence[_Known]) -> None:
        """Answer from one bundle now."""
        started_s = time.perf_counter()
        retrievals = retrieve_together(bundle, [one.wanted for one in known], self._popular_now())
        self._give_all(known, retrievals, time.perf_counter() - started_s)

    async def _retrieve_in_thread(self, known: _Known) -> None:
        started_s = time.perf_counter()
        bundle, popular_now = known.ticket.question.bundle, self._popular_now()
        retrievals = await asyncio.to_thread(retrieve_together, bundle, [known.wanted], popular_now)
        self._give_all([known], retrievals, time.perf_counter() - started_s)

    def _give_all(
        self, known: Sequence[_Known], retrievals: Sequence[Retrieval | Exception], retrieval_s: float
    ) -> None:
        found = [retrieval for retrieval in retrievals if isinstance(retrieval, Retrieval)]
        sources = chain.from_iterable([retrieval.items.sources for retrieval in found])
        unknown = sum([len(retrieval.unknown_item_ids) for retrieval in found])
        telemetry.retrieved(sources, unknown, retrieval_s)
        for one, retrieval in zip(known, retrievals, strict=True):
            self._give(one, retrieval, retrieval_s)

    def _give(self, known: _Known, retrieval: Retrieval | Exception, retrieval_s: float) -> None:
        """Give an answer to who asked, and have it recorded."""
        if isinstance(retrieval, Exception):
            known.ticket.give(retrieval)
            return
        asked, terms, bundle = known.ticket.question
        found, options = known.found, terms.options
        given = options.given()
        answer = Answer(
            id=known.answer_id,
            made_ms=int(self._clock() * 1000),
            bundle=bundle.digest,
            items=retrieval.items,
            session_items=tuple(found.seen.item_ids),
            purchased=tuple(found.seen.purchased),
            hidden=tuple(found.seen.hidden),
            user_id=asked.user_id,
            options={**given, "exclude": list(asked.exclude)} if asked.exclude else given,
            changes_version=bundle.changes_version,
            scenario=None if terms.scenario is None else terms.scenario.name,
            scenario_version=None if terms.scenario is None else terms.scenario.version,
            variant=options.variant,
        )
        if asked.kept:
            self._recorder.served(answer, session_id=asked.session_id, reserved=found.reserved)
        known.ticket.give(
            Recommendation(
                answer, asked.session_id, bundle, retrieval, found.position, found.degraded, known.store_s, retrieval_s
            )
        )

    def _popular_now(self) -> Mapping[str, float]:
        return self._recorder.popularity.scores()


def _as_if_kept(session: Session, new: Sequence[Event]) -> Session:
    """The session that an append would give, of which nothing is stored."""
    hidden = session.hidden.difference(event.item_id for event in new)
    return Session.of([*session.events, *new], purchased=session.purchased, hidden=hidden)


def _applied(session_id: str, event: Event, session: Session) -> AppliedEvent:
    return AppliedEvent(
        session_id, event.item_id, event.type, event.weight, event.timestamp_ms, None, None, None, session.item_ids
    )
