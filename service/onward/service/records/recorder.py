"""Recorder: the records of answers and events, queued by requests and processed in the background."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from onward.service.background import on_demand, repeated
from onward.service.records.answer_ids import FOLLOW_INTERVAL, AnswerIds, RedisSecrets
from onward.service.records.answer_lists import AnswerLists
from onward.service.records.answer_log import FLUSH_INTERVAL, AnswerLog, Bundles
from onward.service.records.answer_stores import InMemoryAnswerStore, RedisAnswerStore
from onward.service.records.answers import Answer
from onward.service.records.counters import Counters, InMemoryCounters, RedisCounters
from onward.service.records.event_log import EventLog, EventLogOptions, log_folder
from onward.service.records.exposure import (
    ExposureLog,
    ExposureStore,
    InMemoryExposureStore,
    PopularRows,
    RedisExposureStore,
)
from onward.service.records.live_popularity import (
    InMemoryPopularityStore,
    LivePopularity,
    PopularityStore,
    RedisPopularityStore,
)
from onward.service.records.online_metrics import OnlineMetrics
from onward.service.records.user_sessions import (
    InMemoryUserSessionStore,
    RedisUserSessionStore,
    UserSessions,
    UserSessionStore,
)
from onward.service.redis_client import RedisClient
from onward.service.sessions import AppliedEvent, session_digest
from onward.service.settings import Settings
from onward.service.tenants import key_prefix

COUNT_INTERVAL = timedelta(seconds=1)
POPULARITY_INTERVAL, POPULARITY_SPREAD = timedelta(seconds=5), timedelta(seconds=5)
"""Popularity changes slowly and is one key of the store, which all workers write to."""
MAX_QUEUED = 8
"""Size of the queue at which its answers are recorded without waiting for the next flush: recording many at once
would delay the requests that come meanwhile."""
NO_TTL = timedelta(0)
"""The setting by which a deployment keeps no answers."""


class _ServedAnswer(NamedTuple):
    """An answer that was sent, and the other arguments of `Recorder.served`."""

    answer: Answer
    catalog: PopularRows
    session_id: str | None
    generation: str | None


class Recorder:
    """Records each answer that was sent and each event that was applied.

    A request only appends its answer to a queue; every flush processes what is queued.
    """

    def __init__(
        self,
        answers: AnswerLog | None,
        metrics: OnlineMetrics,
        popularity: LivePopularity,
        users: UserSessions,
        exposure: ExposureLog,
        log: EventLog | None,
        answer_ids: AnswerIds,
    ) -> None:
        """Take the destinations of records, None for those that the deployment does not use, and the ids of answers."""
        self.answers = answers
        self.answer_ids = answer_ids
        self.metrics = metrics
        self.popularity = popularity
        self.exposure = exposure
        self.on_answers: Callable[[int, Answer], None] | None = None
        """Told how many answers were sent, and the last of them."""
        self._users = users
        self._log = log
        self._queue: list[_ServedAnswer] = []
        self.has_served = asyncio.Event()
        """Set when there are answers to write, for a task that calls `flush_answers`."""
        self._flushes: set[asyncio.Task[None]] = set()

    def served(
        self, answer: Answer, catalog: PopularRows, *, session_id: str | None = None, generation: str | None = ""
    ) -> None:
        """Queue an answer to be counted, logged and kept.

        Args:
            answer: the answer that was sent.
            catalog: the catalog of the bundle that answered.
            session_id: its session, which only the event log records.
            generation: that of the session's answers, see `AnswerLog.add`; with None the answer is counted and logged
                but not kept.
        """
        self._queue.append(_ServedAnswer(answer, catalog, session_id, generation))
        self.has_served.set()
        if len(self._queue) >= MAX_QUEUED:
            self._process_queue()

    def served_page(self, page: Answer, catalog: PopularRows) -> None:
        """Record a next page, which `AnswerLog.claim_next` has stored already."""
        self._count_and_log(page, None)
        self.exposure.served(page.bundle, catalog, page.items.item_ids)

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Record events, but for popularity, which learns from them as far as `SessionShares` lets it."""
        self.metrics.applied(events)
        if self._log is not None:
            self._log.applied(events)

    async def forget(self, session_id: str) -> None:
        """Delete the answers of a session; lines in the event log remain. Raises SessionStoreUnavailable."""
        self._process_queue()
        if self.answers is not None:
            await self.answers.forget(session_id)

    async def sessions_of(self, user_id: str) -> set[str]:
        """Return the digests of the sessions, or of answers without one, that were asked for with a user's id.

        Raises SessionStoreUnavailable.
        """
        self._process_queue()
        return await self._users.of(user_id)

    async def forget_digest(self, session: str) -> None:
        """Delete the answers of the session of a digest; see `forget`."""
        self._process_queue()
        if self.answers is not None:
            await self.answers.forget_digest(session)

    async def forget_user(self, user_id: str) -> None:
        """Forget which sessions are those of a user. Raises SessionStoreUnavailable."""
        await self._users.forget(user_id)

    async def flush_answers(self) -> None:
        """Write the queued answers, and before them whose they are."""
        self._process_queue()
        if self._users.is_waiting:
            await self._shielded(self._users.flush())
        if self.answers is not None and self.answers.is_waiting:
            await self._shielded(self.answers.flush())

    async def flush_popularity(self) -> None:
        """Write the weights of events to the popularity of items, and read which are the most popular."""
        await self._shielded(self.popularity.flush())

    async def flush_counts(self) -> None:
        """Write everything else that is queued: answers first, since events are attributed to stored answers."""
        await self.flush_answers()
        await self._shielded(self.metrics.flush())
        await self._shielded(self.exposure.flush())
        if self._log is not None:
            await self._shielded(self._log.flush())

    async def close(self) -> None:
        """Finish running flushes and write everything that is queued."""
        await asyncio.gather(*self._flushes)
        await self.flush_counts()
        await self.flush_popularity()
        if self._log is not None:
            await self._log.close()

    async def _shielded(self, flush: Coroutine[Any, Any, None]) -> None:
        """Await a flush; it continues if the caller is cancelled, or the records that it dequeued would be lost."""
        task = asyncio.create_task(flush)
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)
        await asyncio.shield(task)

    def _process_queue(self) -> None:
        served, self._queue = self._queue, []
        if served and self.on_answers is not None:
            self.on_answers(len(served), served[-1].answer)
        for answer, catalog, session_id, generation in served:
            self._count_and_log(answer, session_id)
            self.exposure.served(answer.bundle, catalog, answer.items.item_ids)
            if answer.user_id is not None:
                self._users.served(answer.user_id, self._owner(answer, session_id))
            if self.answers is not None and generation is not None:
                self.answers.add(answer, catalog, session_id=session_id, generation=generation)

    def _owner(self, answer: Answer, session_id: str | None) -> str:
        """Return the digest of an answer's session; without a session, what stands in its place."""
        return self.answer_ids.own_key_of(answer.id).owner if session_id is None else session_digest(session_id)

    def _count_and_log(self, answer: Answer, session_id: str | None) -> None:
        self.metrics.served(answer)
        if self._log is not None:
            self._log.served(answer, session_id)


@asynccontextmanager
async def open_recorder(
    settings: Settings,
    redis: RedisClient | None,
    bundles: Bundles,
    in_memory: InMemoryAnswerStore,
    tenant: str | None = None,
) -> AsyncIterator[Recorder]:
    """Run a recorder for the destinations in the settings, with its periodic flushes, until the block ends.

    Args:
        settings: name the destinations.
        redis: a client of the server that keeps records, which is closed at the end; None to keep them in memory.
        bundles: those that give answers.
        in_memory: keeps the answers if there is no server.
        tenant: whose records they are; None for those of the deployment itself.
    """
    async with AsyncExitStack() as stack:
        if redis is not None:
            stack.push_async_callback(redis.aclose)
        ids = _answer_ids(settings, redis, tenant)
        await ids.follow()
        answers = None
        if settings.answer_ttl != NO_TTL:
            answers = _answer_log(settings, redis, bundles, ids, in_memory, tenant)
        recorder = _recorder(settings, redis, answers, ids, tenant)
        stack.push_async_callback(recorder.close)
        await stack.enter_async_context(repeated(ids.follow, FOLLOW_INTERVAL))
        await stack.enter_async_context(repeated(recorder.flush_counts, COUNT_INTERVAL))
        await stack.enter_async_context(
            repeated(recorder.flush_popularity, POPULARITY_INTERVAL, spread=POPULARITY_SPREAD)
        )
        if recorder.answers is not None:
            await stack.enter_async_context(on_demand(recorder.has_served, recorder.flush_answers, FLUSH_INTERVAL))
        yield recorder


def _recorder(
    settings: Settings, redis: RedisClient | None, answers: AnswerLog | None, ids: AnswerIds, tenant: str | None
) -> Recorder:
    prefix = key_prefix(tenant)
    half_life = settings.popularity_half_life
    weights: PopularityStore
    counters: Counters
    users: UserSessionStore
    exposure: ExposureStore
    users_ttl = max(settings.session_ttl, 2 * settings.answer_ttl)  # a last page may be kept so long after its answer
    if redis is None:
        users = InMemoryUserSessionStore(ttl=users_ttl)
        counters, weights = InMemoryCounters(), InMemoryPopularityStore(half_life=half_life)
        exposure = InMemoryExposureStore()
    else:
        counters = RedisCounters(redis, name="metrics", prefix=prefix)
        users = RedisUserSessionStore(redis, ttl=users_ttl, prefix=prefix)
        weights = RedisPopularityStore(redis, half_life=half_life, prefix=prefix)
        exposure = RedisExposureStore(redis, prefix=prefix)
    return Recorder(
        answers,
        OnlineMetrics(answers, counters),
        LivePopularity(weights, half_life=half_life),
        UserSessions(users),
        ExposureLog(exposure),
        _event_log(settings, tenant),
        ids,
    )


def _answer_ids(settings: Settings, redis: RedisClient | None, tenant: str | None) -> AnswerIds:
    ttl = settings.answer_ttl
    shared = None if redis is None else RedisSecrets(redis, answer_ttl=ttl, prefix=key_prefix(tenant))
    return AnswerIds(shared, answer_ttl=ttl)


def _event_log(settings: Settings, tenant: str | None) -> EventLog | None:
    if settings.event_log_folder is None:
        return None
    options = EventLogOptions(
        max_age=settings.event_log_max_age,
        max_bytes=settings.event_log_max_bytes,
        key=None if settings.event_log_key is None else settings.event_log_key.get_secret_value(),
        sync_interval=settings.event_log_sync,
    )
    return EventLog(log_folder(settings.event_log_folder, tenant), options)


def _answer_log(
    settings: Settings,
    redis: RedisClient | None,
    bundles: Bundles,
    ids: AnswerIds,
    in_memory: InMemoryAnswerStore,
    tenant: str | None,
) -> AnswerLog:
    ttl, prefix = settings.answer_ttl, f"{key_prefix(tenant)}session:"
    if redis is None:
        return AnswerLog(in_memory, bundles, ids, ttl=ttl)
    store, lists = RedisAnswerStore(redis, ttl=ttl, prefix=prefix), AnswerLists(redis, ttl=ttl, prefix=prefix)
    return AnswerLog(store, bundles, ids, ttl=ttl, lists=lists)
