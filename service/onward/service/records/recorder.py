"""Recorder: all that is remembered of answers and events beside the requests."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

from onward.service.background import repeated
from onward.service.records.answer_stores import InMemoryAnswerStore, RedisAnswerStore
from onward.service.records.answers import FLUSH_INTERVAL, Answer, AnswerLog, AnswerStore
from onward.service.records.counters import Counters, InMemoryCounters, RedisCounters
from onward.service.records.event_log import EventLog
from onward.service.records.live_popularity import (
    InMemoryPopularityStore,
    LivePopularity,
    PopularityStore,
    RedisPopularityStore,
)
from onward.service.records.online_metrics import OnlineMetrics
from onward.service.redis_client import RedisCalls, connect
from onward.service.sessions import AppliedEvent
from onward.service.settings import IN_MEMORY, Settings

COUNT_INTERVAL = timedelta(seconds=1)
NOTHING_KEPT = timedelta(0)


class Recorder:
    """Is told of each answer that was sent and each event that was applied; both cost the request next to nothing."""

    def __init__(
        self,
        answers: AnswerLog | None,
        metrics: OnlineMetrics,
        popularity: LivePopularity,
        log: EventLog | None,
    ) -> None:
        """Take None for what the deployment does not keep."""
        self.answers = answers
        self.metrics = metrics
        self.popularity = popularity
        self._log = log
        self._at_work: set[asyncio.Task[None]] = set()

    def served(self, answer: Answer, *, session_id: str | None = None, reserved: bool = False) -> None:
        """Take note of an answer.

        Args:
            answer: what was sent.
            session_id: whose it is; only the event log keeps it.
            reserved: the append to this session was given the answer's id; only then is it kept for the session.
        """
        self._note(answer, session_id)
        if self.answers is not None and (reserved or session_id is None):
            self.answers.add(answer, reserved=reserved)

    def served_page(self, page: Answer) -> None:
        """Take note of a next page, which is kept already since `AnswerLog.claim_next`."""
        self._note(page, None)

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Take note of events."""
        self.metrics.applied(events)
        self.popularity.applied(events)
        if self._log is not None:
            self._log.applied(events)

    async def forget(self, session_id: str) -> None:
        """Drop what is kept of a session; what is written to the event log stays. Raises SessionStoreUnavailable."""
        if self.answers is not None:
            await self.answers.forget(session_id)

    async def flush_answers(self) -> None:
        """Write the answers that wait."""
        if self.answers is not None:
            await self._to_its_end(self.answers.flush())

    async def flush_counts(self) -> None:
        """Write all that waits, the answers first, since events are counted for answers that are kept."""
        await self.flush_answers()
        await self._to_its_end(self.metrics.flush())
        await self._to_its_end(self.popularity.flush())
        if self._log is not None:
            await self._to_its_end(self._log.flush())

    async def close(self) -> None:
        """Write all that waits."""
        await asyncio.gather(*self._at_work)
        await self.flush_counts()
        if self._log is not None:
            await self._log.close()

    async def _to_its_end(self, flush: Coroutine[Any, Any, None]) -> None:
        """Wait for a flush, which goes on when the waiting is given up: what it has taken would be lost."""
        task = asyncio.create_task(flush)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        await asyncio.shield(task)

    def _note(self, answer: Answer, session_id: str | None) -> None:
        self.metrics.served(answer)
        if self._log is not None:
            self._log.served(answer, session_id)


@asynccontextmanager
async def open_recorder(settings: Settings) -> AsyncIterator[Recorder]:
    """Record where the settings say, beside the requests, until the block ends."""
    url = settings.redis_url.get_secret_value() if settings.redis_url else IN_MEMORY
    async with AsyncExitStack() as running:
        redis = None if url == IN_MEMORY else connect(url)
        if redis is not None:
            running.push_async_callback(redis.aclose)
        recorder = _recorder(settings, redis)
        running.push_async_callback(recorder.close)
        await running.enter_async_context(repeated(recorder.flush_counts, COUNT_INTERVAL))
        if recorder.answers is not None:
            await running.enter_async_context(repeated(recorder.flush_answers, FLUSH_INTERVAL))
        yield recorder


def _recorder(settings: Settings, redis: RedisCalls | None) -> Recorder:
    half_life = settings.popularity_half_life
    weights: PopularityStore
    counters: Counters
    if redis is None:
        counters, weights = InMemoryCounters(), InMemoryPopularityStore(half_life=half_life)
    else:
        counters = RedisCounters(redis, name="metrics")
        weights = RedisPopularityStore(redis, half_life=half_life)
    answers = None if settings.answer_ttl == NOTHING_KEPT else AnswerLog(_answer_store(settings.answer_ttl, redis))
    return Recorder(
        answers,
        OnlineMetrics(answers, counters),
        LivePopularity(weights, half_life=half_life),
        None if settings.event_log is None else EventLog(settings.event_log),
    )


def _answer_store(ttl: timedelta, redis: RedisCalls | None) -> AnswerStore:
    return InMemoryAnswerStore(ttl=ttl) if redis is None else RedisAnswerStore(redis, ttl=ttl)
