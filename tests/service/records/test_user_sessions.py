"""Which sessions are those of a user: remembered for a while, in Redis and in memory alike."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import timedelta

import pytest

from onward.service.records.user_sessions import (
    InMemoryUserSessionStore,
    RedisUserSessionStore,
    UserSessions,
    UserSessionStore,
    user_digest,
)
from onward.service.redis_client import RedisClient

TTL = timedelta(seconds=2)


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, calls: RedisClient) -> UserSessionStore:
    prefix = f"onward:tenant:{request.node.name[:20]}:"
    return (
        InMemoryUserSessionStore(ttl=TTL)
        if request.param == "memory"
        else RedisUserSessionStore(calls, ttl=TTL, prefix=prefix)
    )


async def test_sessions_are_remembered_by_user_until_they_are_forgotten(store: UserSessionStore) -> None:
    await store.add({"u": {"s1", "s2"}, "v": {"s3"}})
    await store.add({"u": {"s2", "s4"}})
    assert (await store.of("u"), await store.of("v")) == ({"s1", "s2", "s4"}, {"s3"})
    await store.forget("u")
    assert (await store.of("u"), await store.of("v")) == (set(), {"s3"})


async def test_a_session_is_remembered_for_a_while_after_it_was_added_last(store: UserSessionStore) -> None:
    await store.add({"u": {"old", "kept"}})
    await asyncio.sleep(1.2)
    await store.add({"u": {"kept"}})
    await asyncio.sleep(1.2)
    await store.add({"u": {"new"}})
    assert await store.of("u") == {"kept", "new"}


async def test_what_is_not_flushed_yet_is_known_and_forgotten(store: UserSessionStore) -> None:
    users = UserSessions(store)
    users.served("u", "s1")
    assert await users.of("u") == {"s1"}
    await users.flush()
    users.served("u", "s2")
    assert (await store.of(user_digest("u")), await users.of("u")) == ({"s1"}, {"s1", "s2"})
    await users.forget("u")
    assert await users.of("u") == set()
    await users.flush()
    assert await store.of(user_digest("u")) == set()


async def test_a_session_that_is_being_written_is_one_of_the_users() -> None:
    may_write = asyncio.Event()

    class SlowStore(InMemoryUserSessionStore):
        async def add(self, sessions: Mapping[str, Collection[str]]) -> None:
            await may_write.wait()
            await super().add(sessions)

    users = UserSessions(SlowStore(ttl=TTL))
    users.served("u", "s1")
    flush = asyncio.create_task(users.flush())
    await asyncio.sleep(0)
    read = asyncio.create_task(users.of("u"))
    forget = asyncio.create_task(users.forget("u"))
    await asyncio.sleep(0)
    assert users.is_waiting
    may_write.set()
    await asyncio.gather(flush, forget)
    assert await read == {"s1"}
    assert await users.of("u") == set()
