"""The pipeline from a query to its recommendation: options, session, retrieval, record.

Queries that arrive in the same iteration of the event loop are one batch, which takes one round trip to the store, one
call of the encoder and one search.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import chain, groupby
from typing import Any

from onward.bundle import Bundle, Options, Retrieval, RetrievalQuery, SessionView
from onward.service import telemetry
from onward.service.errors import InvalidRequest, ServiceError, SessionBehind
from onward.service.live.bundle import LiveBundle
from onward.service.recommend.batcher import Batcher, Pending
from onward.service.recommend.deadlines import Deadlines
from onward.service.recommend.query import Missing, Query, Recommendation
from onward.service.recommend.scenarios import Scenario, Scenarios
from onward.service.records.answers import Answer
from onward.service.records.recorder import Recorder
from onward.service.sessions import AppliedEvent, Event, EventListener, EventRules, Session, SessionAppend, SessionStore

MAX_BATCH = 16
INLINE_PRODUCTS = 2_000_000
"""Multiplications of a search that runs in the event loop, about half a millisecond; a longer one runs in a thread.

A thread costs about a third more processor time, so the short searches of an inverted file stay in the event loop."""
SESSION_STORE: Missing = "session_store"
DEADLINE: Missing = "deadline"

POSITION_INTERVAL_S = 0.005
"""Time between two attempts to append to a session that is behind the position of a query."""
MAX_ORDER_WAIT_S = 1.0
"""Time for which queries of one request wait for earlier ones of their session, beyond the wait for one position."""


class PendingQuery(Pending[Recommendation]):
    """A query on its way through the pipeline, with what each stage adds to it."""

    __slots__ = (
        "answer_generation",
        "answer_id",
        "appended",
        "bundle",
        "deadline_s",
        "degraded",
        "position",
        "query",
        "read_since_s",
        "retrieval_options",
        "scenario",
        "session",
        "store_s",
        "stored_options",
        "variant",
    )

    def __init__(
        self,
        query: Query,
        *,
        retrieval_options: Options,
        stored_options: Mapping[str, Any],
        variant: str | None,
        scenario: Scenario | None,
        bundle: Bundle,
        deadline_s: float,
    ) -> None:
        """Create the state of a query that just arrived.

        Args:
            query: the caller's query.
            retrieval_options: the caller's options over the scenario's, in the form that the bundle takes.
            stored_options: the same options as stored answers hold them.
            variant: the arm of an experiment that the answer belongs to.
            scenario: the scenario that the query names.
            bundle: the live bundle when the query arrived; a bundle that goes live later does not change the answer.
            deadline_s: when to answer at the latest, on the clock of the event loop.
        """
        super().__init__()
        self.query = query
        self.retrieval_options = retrieval_options
        self.stored_options = stored_options
        self.variant = variant
        self.scenario = scenario
        self.bundle = bundle
        self.deadline_s = deadline_s
        self.answer_id = ""
        self.appended: asyncio.Future[None] | None = None
        """Done when the items are stored or refused; None if nothing waits for that."""
        self.session = SessionView(query.items)
        """What the caller sent, until the session is known."""
        self.position: str | None = None
        self.degraded: tuple[Missing, ...] = ()
        self.answer_generation: str | None = ""
        """Generation of the session's answers, empty without a session; None if the answer cannot be kept."""
        self.read_since_s: float | None = None
        """When the first attempt to read the session began."""
        self.store_s = 0.0
        """Seconds until the session was known."""

    @property
    def retrieval_query(self) -> RetrievalQuery:
        """The query to the bundle, once the session is known."""
        return RetrievalQuery(self.session, self.retrieval_options, self.query.user_id)


class Pipeline:
    """Answers queries from the live bundle and the session store; without the store, from what the caller sent.

    A query whose deadline passes is answered from what is known by then, with `Bundle.fallback`.
    """

    def __init__(
        self,
        live: LiveBundle,
        store: SessionStore,
        scenarios: Scenarios,
        recorder: Recorder,
        listener: EventListener,
        rules: EventRules,
        max_position_wait: timedelta,
        timeout: timedelta,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._store = store
        self._scenarios = scenarios
        self._recorder = recorder
        self._listener = listener
        self._rules = rules
        self._max_position_wait_s = max_position_wait.total_seconds()
        self._timeout_s = timeout.total_seconds()
        self._clock = clock
        self._batcher = Batcher(self._answer, max_batch=MAX_BATCH)
        self._deadlines = Deadlines(self._answer_late)
        self._submitting: set[asyncio.Task[None]] = set()

    async def recommend(self, query: Query, bundle: Bundle | None = None) -> Recommendation:
        """Append the items to the session, if one is named, and rank the items likely to come next.

        By another bundle than the live one, if one is given. Raises InvalidRequest, UnknownScenario, SessionBehind,
        NotReady.
        """
        pending = self._pending(query, bundle or self._live.bundle)
        self._deadlines.watch(pending)
        self._batcher.submit(pending)
        try:
            return await pending.result
        finally:
            self._deadlines.forget(pending)

    async def recommend_all(self, queries: Sequence[Query]) -> list[Recommendation | ServiceError]:
        """Answer several queries, those of one session in order; an error takes the place of its query's answer."""
        bundle = self._live.bundle
        answers = [self._pending_or_error(query, bundle) for query in queries]
        by_session: defaultdict[str | None, list[PendingQuery]] = defaultdict(list)
        for answer in answers:
            if isinstance(answer, PendingQuery):
                by_session[answer.query.session_id].append(answer)
        try:
            for session_queries in by_session.values():
                self._submit_in_order(session_queries)
            return await asyncio.gather(*map(_recommendation_or_error, answers))
        finally:
            for pending in chain.from_iterable(by_session.values()):
                self._deadlines.forget(pending)

    def _submit_in_order(self, session_queries: Sequence[PendingQuery]) -> None:
        """Submit the queries of one session, those after a query with a position once its items are stored."""
        for pending in session_queries:
            self._deadlines.watch(pending)
            if pending.query.position is not None:
                pending.appended = asyncio.get_running_loop().create_future()
        with_position = (place for place, pending in enumerate(session_queries) if pending.query.position is not None)
        first = next(with_position, len(session_queries))
        for pending in session_queries[: first + 1]:
            self._batcher.submit(pending)
        if later := session_queries[first + 1 :]:
            submitting = asyncio.create_task(self._submit_later(session_queries[first], later))
            self._submitting.add(submitting)
            submitting.add_done_callback(self._submitting.discard)

    async def _submit_later(self, earlier: PendingQuery, later: Sequence[PendingQuery]) -> None:
        """Submit each query once the items of the one before it are stored, or refused, if that has a position.

        A query that was answered at its deadline is submitted too, so that its items are stored. None waits longer than
        a limit, which is reached only if many positions do not come, or if the session store hangs.
        """
        deadline_s = time.monotonic() + self._max_position_wait_s + MAX_ORDER_WAIT_S
        for pending in later:
            if earlier.appended is not None:
                await asyncio.wait([earlier.result], timeout=max(0.0, deadline_s - time.monotonic()))
                if DEADLINE in earlier.degraded:
                    await asyncio.wait([earlier.appended], timeout=max(0.0, deadline_s - time.monotonic()))
            self._batcher.submit(pending)
            earlier = pending

    def _pending_or_error(self, query: Query, bundle: Bundle) -> PendingQuery | ServiceError:
        try:
            return self._pending(query, bundle)
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
        return PendingQuery(
            query,
            retrieval_options=options.as_options(exclude=query.exclude),
            stored_options=options.as_json(),
            variant=options.variant,
            scenario=scenario,
            bundle=bundle,
            deadline_s=asyncio.get_running_loop().time() + (query.timeout_s or self._timeout_s) - query.age_s,
        )

    async def _answer(self, batch: Sequence[PendingQuery]) -> None:
        """Resolve the queries of a batch: those with a short retrieval at once, each other one in a thread.

        A query whose session is behind its position is left to a later batch.
        """
        short: list[PendingQuery] = []
        long: list[PendingQuery] = []
        for pending in await self._read_sessions(batch):
            if pending.result.done():  # its deadline passed
                continue
            hidden = len(pending.query.exclude) + len(pending.session.item_ids)
            runs_inline = is_short(pending.bundle, pending.retrieval_options, hidden=hidden)
            (short if runs_inline else long).append(pending)
        for _, same_bundle in groupby(short, key=_bundle_identity):
            self._retrieve([*same_bundle])
        if long:
            await asyncio.gather(*map(self._retrieve_in_thread, long))

    async def _read_sessions(self, batch: Sequence[PendingQuery]) -> list[PendingQuery]:
        """Append new events that are to be stored to their sessions; return the queries whose session is known."""
        started_s = time.perf_counter()
        answer_ids = self._recorder.answer_ids.new([pending.query.session_id for pending in batch])
        now_ms = int(self._clock() * 1000)
        events = [self._rules.views(pending.query.items, now_ms) for pending in batch]
        appends = list(self._appends(batch, answer_ids, events))
        sessions = iter(await self._store.append_all(appends) if appends else ())
        ended_s = time.perf_counter()
        known: list[PendingQuery] = []
        applied: list[AppliedEvent] = []
        for pending, new_events in zip(batch, events, strict=True):
            session = None if pending.query.session_id is None else next(sessions)
            if pending.read_since_s is None:
                pending.read_since_s = started_s
            pending.store_s = ended_s - pending.read_since_s
            if isinstance(session, SessionBehind):
                self._retry_or_fail(pending, session)
                continue
            if pending.appended is not None:
                _end_append(pending)
            _take_session(pending, session, new_events, self._store.length)
            known.append(pending)
            if pending.query.store and isinstance(session, Session):
                applied += [_applied(pending.query.session_id or "", event, session) for event in new_events]
        if applied:
            self._listener.applied(applied)
        return known

    def _retry_or_fail(self, pending: PendingQuery, error: SessionBehind) -> None:
        """Submit a query again whose session is behind its position; fail it if it has waited as long as it may.

        One that was answered at its deadline is submitted too, so that its items are stored.
        """
        has_left = pending.result.cancelled()
        if not has_left and error.may_catch_up and pending.store_s < self._max_position_wait_s:
            asyncio.get_running_loop().call_later(POSITION_INTERVAL_S, self._batcher.submit, pending)
        else:
            _end_append(pending)
            pending.resolve(error)

    def _appends(
        self, batch: Sequence[PendingQuery], answer_ids: Sequence[str], events: Sequence[Sequence[Event]]
    ) -> Iterator[SessionAppend]:
        """Yield what to apply to each named session."""
        keeps_answers = self._recorder.answers is not None
        for pending, answer_id, new_events in zip(batch, answer_ids, events, strict=True):
            pending.answer_id = answer_id
            query = pending.query
            if query.session_id is None:
                continue
            if query.store:
                yield SessionAppend(query.session_id, new_events, query.position, keeps_answers)
            else:
                yield SessionAppend(query.session_id, at_least=query.position)

    def _retrieve(self, batch: Sequence[PendingQuery]) -> None:
        """Retrieve in this thread for queries of one bundle."""
        started_s = time.perf_counter()
        queries = [pending.retrieval_query for pending in batch]
        retrievals = retrieve_batch(batch[0].bundle, queries, self._recorder.popularity.scores)
        self._resolve(batch, retrievals, time.perf_counter() - started_s)

    async def _retrieve_in_thread(self, pending: PendingQuery) -> None:
        started_s = time.perf_counter()
        queries, popular_now = [pending.retrieval_query], self._recorder.popularity.scores
        retrievals = await asyncio.to_thread(_retrieve_unless_answered, pending, queries, popular_now)
        self._resolve([pending], retrievals, time.perf_counter() - started_s)

    def _answer_late(self, pending: PendingQuery) -> None:
        """Answer a query whose deadline has passed from what is known."""
        telemetry.degraded(DEADLINE)
        pending.degraded, pending.answer_generation = (*pending.degraded, DEADLINE), None
        if not pending.answer_id:
            (pending.answer_id,) = self._recorder.answer_ids.new([pending.query.session_id])
        started_s = time.perf_counter()
        retrieval: Retrieval | Exception
        try:
            retrieval = pending.bundle.fallback(
                pending.retrieval_query, max_products=INLINE_PRODUCTS, popular_now=self._recorder.popularity.scores
            )
        except Exception as error:  # fails this query alone
            retrieval = error
        self._resolve([pending], [retrieval], time.perf_counter() - started_s)

    def _resolve(
        self, batch: Sequence[PendingQuery], retrievals: Sequence[Retrieval | Exception], retrieval_s: float
    ) -> None:
        """Resolve each query with its recommendation, or with what its retrieval or recording raised.

        One whose deadline has passed meanwhile keeps the answer that it was given then.
        """
        successful = [retrieval for retrieval in retrievals if isinstance(retrieval, Retrieval)]
        sources = chain.from_iterable([retrieval.items.sources for retrieval in successful])
        unknown = sum([len(retrieval.unknown_item_ids) for retrieval in successful])
        telemetry.retrieved(sources, unknown, retrieval_s)
        for pending, retrieval in zip(batch, retrievals, strict=False):
            if pending.result.done():
                continue
            if isinstance(retrieval, Exception):
                pending.resolve(retrieval)
                continue
            try:
                pending.resolve(self._recorded(pending, retrieval, retrieval_s))
            except Exception as error:  # fails this query alone
                pending.resolve(error)

    def _recorded(self, pending: PendingQuery, retrieval: Retrieval, retrieval_s: float) -> Recommendation:
        """Compose the recommendation and hand the answer to the recorder."""
        query, bundle, session, scenario = pending.query, pending.bundle, pending.session, pending.scenario
        options = pending.stored_options
        answer = Answer(
            id=pending.answer_id,
            made_ms=int(self._clock() * 1000),
            bundle=bundle.digest,
            items=retrieval.items,
            session_items=tuple(session.item_ids),
            purchased=tuple(session.purchased),
            hidden=tuple(session.hidden),
            user_id=query.user_id,
            options={**options, "exclude": list(query.exclude)} if query.exclude else options,
            changes_version=bundle.changes_version,
            scenario=None if scenario is None else scenario.name,
            scenario_version=None if scenario is None else scenario.version,
            variant=pending.variant,
        )
        if query.store:
            self._recorder.served(
                answer, bundle.catalog, session_id=query.session_id, generation=pending.answer_generation
            )
        return Recommendation(
            answer,
            query.session_id,
            bundle,
            retrieval,
            pending.position,
            pending.degraded,
            pending.store_s,
            retrieval_s,
        )


def is_short(bundle: Bundle, options: Options, *, hidden: int) -> bool:
    """Return whether a retrieval that leaves out `hidden` items takes less time than moving it to a thread is worth."""
    return bundle.expected_products(options, hidden=hidden) <= INLINE_PRODUCTS


def retrieve_batch(
    bundle: Bundle, queries: Sequence[RetrievalQuery], popular_now: Mapping[str, float]
) -> Sequence[Retrieval | Exception]:
    """Retrieve for all queries at once; if that fails, one by one, so that only the failing ones fail."""
    try:
        return bundle.retrieve_all(queries, popular_now=popular_now)
    except Exception as error:  # any query may be the cause
        if len(queries) == 1:
            return [error]
        telemetry.background_failed(bundle.retrieve_all.__qualname__, error)
    return [retrieve_batch(bundle, [query], popular_now)[0] for query in queries]


def _retrieve_unless_answered(
    pending: PendingQuery, queries: Sequence[RetrievalQuery], popular_now: Mapping[str, float]
) -> Sequence[Retrieval | Exception]:
    """Retrieve for a query, unless its deadline passed while it waited for a thread."""
    return [] if pending.result.done() else retrieve_batch(pending.bundle, queries, popular_now)


async def _recommendation_or_error(answer: PendingQuery | ServiceError) -> Recommendation | ServiceError:
    if isinstance(answer, ServiceError):
        return answer
    try:
        return await answer.result
    except ServiceError as error:
        return error


def _end_append(pending: PendingQuery) -> None:
    """Let the queries go on that wait until the items of a query are stored or refused."""
    if pending.appended is not None and not pending.appended.done():
        pending.appended.set_result(None)


def _bundle_identity(pending: PendingQuery) -> int:
    return id(pending.bundle)


def _take_session(
    pending: PendingQuery, session: Session | ServiceError | None, new_events: Sequence[Event], length: int
) -> None:
    """Set the session's view and position; without the store, the query's items stand in for the session."""
    if session is None:
        pending.session = SessionView(pending.query.items)
    elif isinstance(session, ServiceError):
        telemetry.degraded(SESSION_STORE)
        pending.session, pending.degraded = SessionView(pending.query.items), (SESSION_STORE,)
        pending.answer_generation = None
    else:
        view = session if pending.query.store else session.with_events(new_events, length=length)
        pending.session = SessionView(view.item_ids, view.purchased, view.hidden)
        pending.position, pending.answer_generation = session.position, session.answer_generation


def _applied(session_id: str, event: Event, session: Session) -> AppliedEvent:
    return AppliedEvent(
        session_id, event.item_id, event.type, event.weight, event.timestamp_ms, None, None, None, session.item_ids
    )
