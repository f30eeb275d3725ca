"""UserSessions: which sessions were asked for with a user's id, so that all that is stored of a user can be erased."""

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from importlib.resources import files
from typing import Protocol

from onward.service.records.outage_log import OutageLog
from onward.service.redis_client import Argument, RedisClient, Script, execute_or_raise, store_call
from onward.service.tenants import PREFIX

DIGEST_BYTES = 16
MAX_WAITING = 10_000


class UserSessionStore(Protocol):
    """Remembers digests of sessions by the digest of their user, for a while after each was added last."""

    async def add(self, sessions: Mapping[str, Collection[str]]) -> None:
        """Add sessions to users. Raises SessionStoreUnavailable."""
        ...

    async def of(self, user: str) -> set[str]:
        """Return the sessions of a user. Raises SessionStoreUnavailable."""
        ...

    async def forget(self, user: str) -> None:
        """Forget a user. Raises SessionStoreUnavailable."""
        ...


class UserSessions:
    """The sessions of users; `flush` adds those of this process. Beyond `MAX_WAITING` users they are lost."""

    def __init__(self, store: UserSessionStore) -> None:
        self._store = store
        self._waiting: defaultdict[str, set[str]] = defaultdict(set)
        self._outages = OutageLog("sessions of users")
        self._flushing = asyncio.Lock()

    def served(self, user_id: str, session: str) -> None:
        """Remember the digest of a session that a user's answer was made for, or of the answer if it has no session."""
        user = user_digest(user_id)
        if user in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[user].add(session)
        else:
            self._outages.count_lost(1)

    @property
    def is_waiting(self) -> bool:
        """Whether sessions wait to be written, or are being written."""
        return bool(self._waiting) or self._flushing.locked()

    async def flush(self) -> None:
        """Write the waiting sessions; waits for a flush in progress."""
        async with self._flushing:
            if self._waiting:
                waiting, self._waiting = self._waiting, defaultdict(set)
                with self._outages.writing(len(waiting)):
                    await self._store.add(waiting)

    async def of(self, user_id: str) -> set[str]:
        """Return the digests of the sessions of a user, after a flush in progress. Raises SessionStoreUnavailable."""
        user = user_digest(user_id)
        async with self._flushing:
            return await self._store.of(user) | self._waiting.get(user, set())

    async def forget(self, user_id: str) -> None:
        """Forget a user, after a flush in progress. Raises SessionStoreUnavailable."""
        user = user_digest(user_id)
        async with self._flushing:
            self._waiting.pop(user, None)
            await self._store.forget(user)


class RedisUserSessionStore:
    """Shared by all workers and replicas: a sorted set for each user."""

    def __init__(self, redis: RedisClient, *, ttl: timedelta, prefix: str = PREFIX) -> None:
        self._redis = redis
        self._ttl_ms = int(ttl / timedelta(milliseconds=1))
        self._prefix = prefix
        script = files("onward.service.records").joinpath("user_sessions.lua").read_text(encoding="utf-8")
        self._add = Script(redis, script)

    async def add(self, sessions: Mapping[str, Collection[str]]) -> None:
        """Run a script for each user, in one round trip; see `UserSessionStore`."""
        calls: list[tuple[list[str], list[Argument]]] = [
            ([self._key(user)], [self._ttl_ms, *added]) for user, added in sessions.items()
        ]
        async with store_call(self._redis):
            for reply in await self._add.run_all(calls):
                if isinstance(reply, Exception):
                    raise reply

    async def of(self, user: str) -> set[str]:
        """Read the set; see `UserSessionStore`."""
        async with store_call(self._redis):
            (sessions,) = await execute_or_raise(self._redis, ("ZRANGE", self._key(user), 0, -1))
        return {session.decode(errors="replace") for session in sessions}

    async def forget(self, user: str) -> None:
        """Delete the set; see `UserSessionStore`."""
        async with store_call(self._redis):
            await execute_or_raise(self._redis, ("DEL", self._key(user)))

    def _key(self, user: str) -> str:
        return f"{self._prefix}user:{{{user}}}:sessions"


class InMemoryUserSessionStore:
    """The store of tests and of a service with one process, in a dict."""

    def __init__(self, *, ttl: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl.total_seconds()
        self._clock = clock
        self._added_s: dict[tuple[str, str], float] = {}
        """By user and session, oldest first."""

    async def add(self, sessions: Mapping[str, Collection[str]]) -> None:
        """Add sessions to users; see `UserSessionStore`."""
        now_s = self._clock()
        for entry in [(user, session) for user, added in sessions.items() for session in added]:
            self._added_s.pop(entry, None)
            self._added_s[entry] = now_s
        while self._added_s and next(iter(self._added_s.values())) <= now_s - self._ttl_s:
            del self._added_s[next(iter(self._added_s))]

    async def of(self, user: str) -> set[str]:
        """Return the sessions of a user; see `UserSessionStore`."""
        earliest_s = self._clock() - self._ttl_s
        return {
            session for (known, session), added_s in self._added_s.items() if known == user and added_s > earliest_s
        }

    async def forget(self, user: str) -> None:
        """Forget a user; see `UserSessionStore`."""
        for entry in [entry for entry in self._added_s if entry[0] == user]:
            del self._added_s[entry]


def user_digest(user_id: str) -> str:
    """Return the 32 hexadecimal digits that stand for a user in the store, so that the id cannot be read there."""
    return hashlib.blake2b(user_id.encode(), digest_size=DIGEST_BYTES, person=b"user").hexdigest()
