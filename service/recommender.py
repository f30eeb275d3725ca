"""Recommender: what a caller asks -> ranked items."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from service import telemetry
from service.answers import Answer, new_answer_id, new_page_id, shown_by
from service.bundle import Bundle, Options, Retrieval, Seen, UnknownItemError, Wanted
from service.bundle.filters import FilterFault
from service.errors import (
    Fault,
    InvalidRequest,
    ItemNotFound,
    LimitReached,
    RecommendationGone,
    RecommendationNotFound,
    ServiceError,
    SessionStoreUnavailable,
)
from service.recorder import Recorder
from service.reload import LiveBundle
from service.scenarios import Scenario, Scenarios
from service.schemas.options import RecommendationOptions
from service.sessions import AppliedEvent, Event, EventListener, EventRules, Session, SessionStore

INLINE_PRODUCTS = 2_000_000
"""Multiplications of a search, about half a millisecond: a longer one goes to a thread, so that other requests go on.

A thread costs about a third more of processor time, so the short searches of an index with lists stay inline."""

INLINE_ITEMS = 50_000
"""Items of a catalog over which a filter may be looked at for the first time without a thread."""

MAX_PAGES = 100
"""Of one answer."""
PAGE_ATTEMPTS = 2 * MAX_PAGES
"""Of several callers who ask for one page at once one gets it, and the others try for the next."""

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
        retrieval = await self._retrieve(bundle, wanted)
        answer = self._answer(answer_id, asked, terms, bundle, found.seen, retrieval)
        return self._served(asked, answer, bundle, found, retrieval, stored - started, time.perf_counter() - stored)

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

    async def next_page(self, recommendation_id: str, k: int | None) -> Recommendation:
        """Go on with an answer: items that no page of it has shown, in the order of its session and options.

        Raises RecommendationNotFound, RecommendationGone where the live bundle has not the attributes that the options
        ask for, LimitReached, SessionStoreUnavailable.
        """
        for _ in range(PAGE_ATTEMPTS):
            page = await self._page(recommendation_id, k)
            if page is not None:
                return page
        raise SessionStoreUnavailable("Others asked for the same pages all the time.")

    async def similar(self, item_id: str, options: Options) -> tuple[Bundle, Retrieval]:
        """Return the items nearest to an item. Raises ItemNotFound."""
        bundle = self._live.bundle
        try:
            if _is_short(bundle, options, hidden=len(options.exclude) + 1):
                return bundle, bundle.similar(item_id, options, popular_now=self._popular_now())
            return bundle, await asyncio.to_thread(bundle.similar, item_id, options, popular_now=self._popular_now())
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
            if own := [_fault(fault, asked.place) for fault in asked.options.faults(schema)]:
                raise InvalidRequest.of(own)
            for fault in options.faults(schema):
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
        now = datetime.fromtimestamp(self._clock(), UTC)
        new = [self._rules.event(item_id, VIEW, None, None, now) for item_id in asked.items]
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

    async def _retrieve(self, bundle: Bundle, wanted: Wanted) -> Retrieval:
        if _is_short(bundle, wanted.options, hidden=len(wanted.options.exclude) + len(wanted.seen.item_ids)):
            return self._retrieved(bundle, wanted)
        return await asyncio.to_thread(self._retrieved, bundle, wanted)

    def _retrieved(self, bundle: Bundle, wanted: Wanted) -> Retrieval:
        seen, options, user_id = wanted
        return bundle.retrieve(seen, options, user_id=user_id, popular_now=self._popular_now())

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
        if any(_options_of(root).faults(bundle.catalog.schema)):
            raise RecommendationGone("The live bundle has not the attributes that the options of this answer ask for.")
        wanted = wanted_of(root)
        options = replace(wanted.options, k=k or wanted.options.k, pins=(), exclude=(*wanted.options.exclude, *shown))
        retrieval = await self._retrieve(bundle, wanted._replace(options=options))
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
        telemetry.retrieved([item.source for item in retrieval.items], len(retrieval.unknown_item_ids), retrieval_s)
        if asked.kept:
            self._recorder.served(answer, session_id=asked.session_id, reserved=found.reserved)
        return Recommendation(
            answer, asked.session_id, bundle, retrieval, found.position, found.degraded, store_s, retrieval_s
        )

    def _popular_now(self) -> Any:
        return self._recorder.popularity.scores()


def wanted_of(answer: Answer) -> Wanted:
    """Return what an answer was given to, so that it can be given again."""
    options = _options_of(answer).as_options(exclude=answer.options.get("exclude", ()))
    return Wanted(Seen(answer.session_items, answer.purchased, answer.hidden), options, answer.user_id)


def _options_of(answer: Answer) -> RecommendationOptions:
    given = {name: value for name, value in answer.options.items() if name != "exclude"}
    return RecommendationOptions.model_validate(given)


def _without_store(asked: Asked) -> _Found:
    telemetry.degraded(SESSION_STORE)
    return _Found(Seen(asked.items), degraded=(SESSION_STORE,))


def _as_if_kept(session: Session, new: Sequence[Event]) -> Session:
    """The session that an append would give, of which nothing is stored."""
    hidden = session.hidden.difference(event.item_id for event in new)
    return Session.of([*session.events, *new], purchased=session.purchased, hidden=hidden)


def _fault(fault: FilterFault, place: tuple[str | int, ...]) -> Fault:
    return Fault(at=".".join(map(str, (*place, *fault.path))), message=fault.message)


def _applied(session_id: str, event: Any, session: Session) -> AppliedEvent:
    return AppliedEvent(
        session_id, event.item_id, event.type, event.weight, event.timestamp_ms, None, None, None, session.item_ids
    )


def _is_short(bundle: Bundle, options: Options, *, hidden: int) -> bool:
    if (options.filter is not None or options.rearranges) and bundle.manifest.items > INLINE_ITEMS:
        return False
    return bundle.expected_products(options, hidden=hidden) <= INLINE_PRODUCTS
