"""SessionStore: what each visitor did last, in Redis or in memory."""

import asyncio
import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.resources import files
from typing import Any, NamedTuple, Protocol, Self

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service import telemetry
from service.errors import SessionStoreUnavailable

REMEMBERED_EVENT_IDS = 1_000
SESSIONS_PER_BUDGET = 100  # a call about more sessions than this may take as many times the store's time


class Event(NamedTuple):
    """An item that a visitor met, what they did with it, and when, in milliseconds since 1970."""

    item_id: str
    type: str
    timestamp_ms: int
    event_id: str | None = None


class Session(NamedTuple):
    """A session's events, oldest first and without their ids, and how many of those just sent were applied."""

    events: list[Event]
    applied: int = 0


class SessionStore(Protocol):
    """Remembers a session's last events until its time to live passes without a new one.

    Appends to one session are applied one after another, in the order the store takes them. An event with an id is
    applied once: the last 1,000 ids of a session are remembered. What a call returned is stored; a call that raises
    SessionStoreUnavailable may have been applied all the same.
    """

    async def append(self, session_id: str, events: Sequence[Event]) -> Session:
        """Apply events, none to read alone, and return the whole session. Raises SessionStoreUnavailable."""
        ...

    async def append_all(self, events: Mapping[str, Sequence[Event]]) -> int:
        """Apply the events of several sessions and return how many were applied. Raises SessionStoreUnavailable."""
        ...

    async def delete(self, session_id: str) -> None:
        """Forget all about a session. Raises SessionStoreUnavailable."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class RedisSessionStore:
    """Shared by every worker and replica: a pair of keys in one slot, one server-side script, so one round trip."""

    def __init__(
        self, redis: "Redis", *, length: int, ttl: timedelta, timeout: timedelta, prefix: str = "onward:session:"
    ) -> None:
        self._redis = redis
        self._length = length
        self._ttl_ms = int(ttl / timedelta(milliseconds=1))
        self._timeout_s = timeout.total_seconds()
        self._prefix = prefix
        self._script = redis.register_script(files("service").joinpath("session.lua").read_text(encoding="utf-8"))

    @classmethod
    def connect(cls, url: str, *, length: int, ttl: timedelta, timeout: timedelta) -> Self:
        """Name the server; nothing is sent before the first call. No call is retried and none waits past `timeout`."""
        timeout_s = timeout.total_seconds()
        pool = BlockingConnectionPool.from_url(
            url,
            protocol=2,
            max_connections=64,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        return cls(Redis.from_pool(pool), length=length, ttl=ttl, timeout=timeout)

    async def append(self, session_id: str, events: Sequence[Event]) -> Session:
        """One run of the script."""
        async with self._within_budget(sessions=1):
            return _session(await self._script(self._keys(session_id), self._arguments(events)))

    async def append_all(self, events: Mapping[str, Sequence[Event]]) -> int:
        """One pipeline of scripts, so one round trip for all sessions; not one transaction."""
        async with self._within_budget(sessions=len(events)), self._redis.pipeline(transaction=False) as pipeline:
            for session_id, session_events in events.items():
                await self._script(self._keys(session_id), self._arguments(session_events), client=pipeline)
            return sum(_session(answer).applied for answer in await pipeline.execute())

    async def delete(self, session_id: str) -> None:
        """Delete both keys."""
        async with self._within_budget(sessions=1):
            await self._redis.delete(*self._keys(session_id))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _keys(self, session_id: str) -> tuple[str, str]:
        digest = hashlib.blake2b(session_id.encode(), digest_size=16).hexdigest()
        return f"{self._prefix}{{{digest}}}:events", f"{self._prefix}{{{digest}}}:ids"

    def _arguments(self, events: Iterable[Event]) -> list[str | int]:
        arguments: list[str | int] = [self._length, self._ttl_ms, REMEMBERED_EVENT_IDS]
        for event in events:
            arguments += (f"{event.timestamp_ms} {event.type} {event.item_id}", event.event_id or "")
        return arguments

    @asynccontextmanager
    async def _within_budget(self, sessions: int) -> AsyncIterator[None]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s * (1 + sessions // SESSIONS_PER_BUDGET)):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            telemetry.store_failed(error)
            raise SessionStoreUnavailable("The session store did not answer as it should in time.") from error
        telemetry.store_answered(time.perf_counter() - started)


def _session(answer: Any) -> Session:
    """Read the script's answer; entries that are no events of ours are left out and counted."""
    applied, foreign, entries = answer
    events = [event for entry in entries if (event := _event(entry)) is not None]
    if foreign := foreign + len(entries) - len(events):
        telemetry.foreign_data_met(foreign)
    return Session(events, applied)


def _event(entry: bytes) -> Event | None:
    try:
        timestamp_ms, kind, item_id = entry.decode().split(" ")
        return Event(item_id, kind, int(timestamp_ms))
    except ValueError:
        return None


class InMemorySessionStore:
    """For tests and a service of one process: the same promise, in a dict."""

    def __init__(self, *, length: int, ttl: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._length = length
        self._ttl_s = ttl.total_seconds()
        self._clock = clock
        self._sessions: OrderedDict[str, _RememberedSession] = OrderedDict()

    async def append(self, session_id: str, events: Sequence[Event]) -> Session:
        """Apply events in this process."""
        self._forget_expired()
        if not events:
            remembered = self._sessions.get(session_id)
            return Session(list(remembered.events) if remembered else [])
        remembered = self._sessions.pop(session_id, None) or _RememberedSession(self._length)
        self._sessions[session_id] = remembered  # at the end: the order of the dict is the order of expiry
        remembered.expires_s = self._clock() + self._ttl_s
        applied = sum(remembered.apply(event) for event in events)
        return Session(list(remembered.events), applied)

    async def append_all(self, events: Mapping[str, Sequence[Event]]) -> int:
        """Apply the events of one session after another."""
        sessions = [await self.append(session_id, session_events) for session_id, session_events in events.items()]
        return sum(session.applied for session in sessions)

    async def delete(self, session_id: str) -> None:
        """Drop the session."""
        self._sessions.pop(session_id, None)

    async def close(self) -> None:
        """Drop every session."""
        self._sessions.clear()

    def _forget_expired(self) -> None:
        now_s = self._clock()
        while self._sessions and next(iter(self._sessions.values())).expires_s <= now_s:
            self._sessions.popitem(last=False)


class _RememberedSession:
    """One session of InMemorySessionStore."""

    def __init__(self, length: int) -> None:
        self.events: deque[Event] = deque(maxlen=length)
        self.event_ids: dict[str, None] = {}
        self.expires_s = 0.0

    def apply(self, event: Event) -> bool:
        if event.event_id is not None:
            if event.event_id in self.event_ids:
                return False
            self.event_ids[event.event_id] = None
            if len(self.event_ids) > REMEMBERED_EVENT_IDS:
                del self.event_ids[next(iter(self.event_ids))]
        self.events.append(event._replace(event_id=None))
        return True
