"""A session that cannot be read is set aside and starts empty; no call on it fails, and its other data is untouched."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import structlog.testing
from redis.asyncio import Redis

from onward.service.sessions import RedisSessionStore, session_digest
from tests.service.sessions.stores import LENGTH, event, read, stored_items, view

TTL = timedelta(minutes=1)
Breaks = Callable[[Redis, RedisSessionStore, str], Awaitable[Any]]


def key_of(store: RedisSessionStore, session_id: str, suffix: str) -> str:
    return store._keys(session_digest(session_id), suffix)[0]


async def retype(redis: Redis, key: str) -> None:
    await redis.delete(key)
    await redis.set(key, "text")


def retyped(suffix: str) -> Breaks:
    return lambda redis, store, session_id: retype(redis, key_of(store, session_id, suffix))


def state(**fields: Any) -> Breaks:
    mapping: Any = fields
    return lambda redis, store, session_id: redis.hset(key_of(store, session_id, "state"), mapping=mapping)


BREAKS: dict[str, Breaks] = {
    "events of another type": retyped("events"),
    "ids of another type": retyped("ids"),
    "state of another type": retyped("state"),
    "count nan": state(count="nan"),
    "count inf": state(count="inf"),
    "count text": state(count="many"),
    "count below 0": state(count="-1"),
    "mark nan": state(**{"p:a": "nan"}),
    "mark hexadecimal": state(**{"h:a": "0x10"}),
    "generation foreign": state(birth="\u00e9\n"),
}


@pytest.fixture
async def store(valkey: str, redis: Redis) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore.connect(valkey, length=LENGTH, ttl=TTL, timeout=timedelta(seconds=5))
    yield store
    await store.close()


@pytest.fixture(params=list(BREAKS))
async def broken(request: pytest.FixtureRequest, store: RedisSessionStore, redis: Redis) -> str:
    """The id of a session that was broken after it had events."""
    await store.append("broken", [view("a", "1"), event("purchase", "b", "2")])
    await BREAKS[request.param](redis, store, "broken")
    return "broken"


async def test_it_is_empty_and_begins_anew(store: RedisSessionStore, broken: str) -> None:
    with structlog.testing.capture_logs() as log:
        session = await store.append(broken, [view("c", "1")])
        assert (session.item_ids, session.outcomes, session.purchased) == (["c"], [True], frozenset())
        assert session.positions() == [session.position]
        assert await stored_items(store, broken) == ["c"]
    assert [line["event"] for line in log] == ["broken session set aside"]
    assert log[0]["session"] == session_digest(broken)


async def test_reading_it_is_enough_to_set_it_aside(
    store: RedisSessionStore, redis: Redis, broken: str, request: pytest.FixtureRequest
) -> None:
    if "ids of another type" in request.node.name:
        pytest.skip("reading does not need the ids")
    assert (await read(store, broken)).is_new
    keys: list[Any] = await redis.keys(key_of(store, broken, "*"))
    assert keys
    for key in keys:
        assert key.endswith(b"-broken")
        assert 0 < await redis.pttl(key) <= TTL / timedelta(milliseconds=1)


async def test_it_can_be_merged_from_and_into(store: RedisSessionStore, broken: str) -> None:
    await store.append("whole", [view("w", "9")])
    await store.merge("whole", broken)
    assert "w" in await stored_items(store, broken)
    await store.merge(broken, "whole")
    assert "w" in await stored_items(store, "whole")
    assert (await store.append("whole", [event("dislike", "w", "10")])).applied == 1


async def test_deleting_it_leaves_nothing(store: RedisSessionStore, redis: Redis, broken: str) -> None:
    await store.append(broken, [view("c", "3")])
    await store.delete(broken)
    assert await redis.keys(key_of(store, broken, "*")) == []


async def test_answers_of_another_type_are_set_aside_and_the_session_is_kept(
    store: RedisSessionStore, redis: Redis
) -> None:
    await store.append("s", [view("a")], keeps_answer=True)
    await retype(redis, key_of(store, "s", "served"))
    session = await store.append("s", [view("b")], keeps_answer=True)
    assert session.item_ids == ["a", "b"]
    assert session.answer_generation
    assert await redis.get(key_of(store, "s", "served-broken")) == b"text"


async def test_a_time_that_no_date_can_have_is_read_as_the_last_one(store: RedisSessionStore, redis: Redis) -> None:
    await redis.rpush(key_of(store, "s", "events"), "9" * 5_000 + " view a", "12 view b")
    assert [event.timestamp_ms for event in (await read(store, "s")).events] == [253_402_300_799_999, 12]
