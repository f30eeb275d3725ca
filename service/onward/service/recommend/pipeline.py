"""Answering: the questions of one turn of the event loop -> their answers, stage by stage for all of them."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from typing import NamedTuple

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery, SessionView
from onward.service import telemetry
from onward.service.errors import ServiceError, SessionStoreUnavailable
from onward.service.recommend.batcher import PendingQuery
from onward.service.recommend.options import RecommendationOptions
from onward.service.recommend.query import Missing, Query, Recommendation
from onward.service.recommend.retrieval import is_short, retrieve_together
from onward.service.recommend.scenarios import Scenario
from onward.service.records.answers import Answer, new_answer_ids
from onward.service.records.recorder import Recorder
from onward.service.sessions import AppliedEvent, Event, EventListener, EventRules, Session, SessionAppend, SessionStore

VIEW = "view"
SESSION_STORE: Missing = "session_store"


class Question(NamedTuple):
    """What is asked of the bundle that was live by then, whatever is meanwhile."""

    asked: Query
    given: RecommendationOptions
    """The options that count, as a request writes them: the caller's own, over those of a scenario."""
    scenario: Scenario | None
    options: Options
    """The same as the bundle takes them."""
    bundle: Bundle


class _Found(NamedTuple):
    """What the store knows of a session."""

    seen: SessionView
    position: str | None = None
    degraded: tuple[Missing, ...] = ()
    reserved: bool = False


class _Known(NamedTuple):
    """A question whose session is known."""

    ticket: PendingQuery[Question, Recommendation]
    answer_id: str
    found: _Found
    wanted: RetrievalQuery
    store_s: float


class Answering:
    """One round trip to the store for all questions, one call of the encoder and one search; then the records."""

    def __init__(
        self,
        store: SessionStore,
        recorder: Recorder,
        listener: EventListener,
        rules: EventRules,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._listener = listener
        self._rules = rules
        self._clock = clock

    async def answer(self, tickets: Sequence[PendingQuery[Question, Recommendation]]) -> None:
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
            asked, _, _, options, bundle = ticket.question
            wanted = RetrievalQuery(found.seen, options, asked.user_id)
            known = _Known(ticket, answer_id, found, wanted, store_s)
            (short if is_short(bundle, wanted) else long).append(known)
        for _, together in groupby(short, key=lambda one: id(one.ticket.question.bundle)):
            self._retrieve([*together])
        if long:
            await asyncio.gather(*map(self._retrieve_in_thread, long))

    async def _find_all(self, asked: Sequence[Query], answer_ids: Sequence[str]) -> list[_Found | ServiceError]:
        """Append what is new to each session, where it is to be kept, and read it."""
        now_ms = int(self._clock() * 1000)
        reserves = self._recorder.answers is not None
        new = [[self._rules.event_now(item_id, VIEW, now_ms) for item_id in one.items] for one in asked]
        appends = [
            SessionAppend(one.session_id, events, one.position, answer_id if reserves else None)
            if one.kept
            else SessionAppend(one.session_id, at_least=one.position)
            for one, events, answer_id in zip(asked, new, answer_ids, strict=True)
            if one.session_id is not None
        ]
        sessions = iter(await self._store.append_all(appends) if appends else ())
        found: list[_Found | ServiceError] = []
        applied: list[AppliedEvent] = []
        for one, events in zip(asked, new, strict=True):
            session = None if one.session_id is None else next(sessions)
            found.append(_found(one, events, session, reserves=reserves))
            if one.kept and isinstance(session, Session):
                applied += [_applied(one.session_id or "", event, session) for event in events]
        if applied:
            self._listener.applied(applied)
        return found

    def _retrieve(self, known: Sequence[_Known]) -> None:
        """Answer now, from the bundle that all ask."""
        started_s = time.perf_counter()
        bundle, wanted = known[0].ticket.question.bundle, [one.wanted for one in known]
        retrievals = retrieve_together(bundle, wanted, self._popular_now())
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
            if isinstance(retrieval, Exception):
                one.ticket.give(retrieval)
                continue
            try:
                one.ticket.give(self._recorded(one, retrieval, retrieval_s))
            except Exception as error:  # of this one alone
                one.ticket.give(error)

    def _recorded(self, known: _Known, retrieval: Retrieval, retrieval_s: float) -> Recommendation:
        """Put an answer together and have it recorded."""
        asked, given, scenario, _, bundle = known.ticket.question
        found, options = known.found, given.given()
        answer = Answer(
            id=known.answer_id,
            made_ms=int(self._clock() * 1000),
            bundle=bundle.digest,
            items=retrieval.items,
            session_items=tuple(found.seen.item_ids),
            purchased=tuple(found.seen.purchased),
            hidden=tuple(found.seen.hidden),
            user_id=asked.user_id,
            options={**options, "exclude": list(asked.exclude)} if asked.exclude else options,
            changes_version=bundle.changes_version,
            scenario=None if scenario is None else scenario.name,
            scenario_version=None if scenario is None else scenario.version,
            variant=given.variant,
        )
        if asked.kept:
            self._recorder.served(answer, session_id=asked.session_id, reserved=found.reserved)
        return Recommendation(
            answer, asked.session_id, bundle, retrieval, found.position, found.degraded, known.store_s, retrieval_s
        )

    def _popular_now(self) -> Mapping[str, float]:
        return self._recorder.popularity.scores()


def _found(
    asked: Query, new: Sequence[Event], session: Session | ServiceError | None, *, reserves: bool
) -> _Found | ServiceError:
    """What is known of a session, None where none is named, or why there is no answer."""
    if session is None:
        return _Found(SessionView(asked.items))
    if isinstance(session, SessionStoreUnavailable):
        telemetry.degraded(SESSION_STORE)
        return _Found(SessionView(asked.items), degraded=(SESSION_STORE,))
    if isinstance(session, ServiceError):
        return session
    seen = session if asked.kept else _as_if_kept(session, new)
    return _Found(
        SessionView(seen.item_ids, seen.purchased, seen.hidden), session.position, reserved=asked.kept and reserves
    )


def _as_if_kept(session: Session, new: Sequence[Event]) -> Session:
    """The session that an append would give, of which nothing is stored."""
    hidden = session.hidden.difference(event.item_id for event in new)
    return Session.of([*session.events, *new], purchased=session.purchased, hidden=hidden)


def _applied(session_id: str, event: Event, session: Session) -> AppliedEvent:
    return AppliedEvent(
        session_id, event.item_id, event.type, event.weight, event.timestamp_ms, None, None, None, session.item_ids
    )
