"""Every versioned store fulfils the contract of VersionedStore, and replicas follow it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog.testing
from redis.asyncio import Redis

from onward.service.errors import LimitReached, LiveStoreUnavailable
from onward.service.live.replica import Replica
from onward.service.live.versioned_store import (
    PAGE_SIZE,
    REMEMBERED_TOMBSTONES,
    Entry,
    InMemoryVersionedStore,
    RedisVersionedStore,
    VersionedStore,
)
from tests.service.live.replicas import put, values
from tests.service.live.servers import MAX_NAMES, RedisServerOfStore

numbers = itertools.count()


def redis_store(url: str, name: str | None = None) -> RedisVersionedStore:
    return RedisServerOfStore(url, name or f"store-{next(numbers)}").open()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, valkey: str) -> AsyncIterator[VersionedStore]:
    in_memory = request.param == "memory"
    store = InMemoryVersionedStore(max_names=MAX_NAMES) if in_memory else redis_store(valkey)
    yield store
    await store.close()


@pytest.fixture
def replica(store: VersionedStore) -> Replica:
    return Replica(store, "things")


async def test_a_new_store_is_empty(replica: Replica) -> None:
    assert not await replica.follow()
    assert replica.entries == {}


async def test_a_writer_sees_its_writes_at_once_and_other_replicas_when_they_follow(store: VersionedStore) -> None:
    writer, reader = Replica(store, "things"), Replica(store, "things")
    await reader.follow()
    await put(writer, {"a": {"price": 1.5}, "ä/b": [1, None, "x"]})
    assert values(writer) == {"a": {"price": 1.5}, "ä/b": [1, None, "x"]}
    assert reader.entries == {}
    assert await reader.follow()
    assert reader.entries == writer.entries
    assert not await reader.follow()
    assert not await writer.follow()


async def test_sequences_increase_and_revisions_count_puts(replica: Replica) -> None:
    await put(replica, {"a": 1, "b": 1})
    await put(replica, {"a": 2})
    a, b = replica.entries["a"], replica.entries["b"]
    assert a.sequence > b.sequence
    assert (a.revision, b.revision) == (2, 1)


async def test_no_concurrent_update_is_lost(store: VersionedStore) -> None:
    async def add(replica: Replica, number: int) -> None:
        await replica.update({"sum": lambda current: (current.value if current else 0) + number})

    replicas = [Replica(store, "things") for _ in range(6)]
    await asyncio.gather(*(add(replica, number) for replica in replicas for number in range(5)))
    await replicas[0].follow()
    entry = replicas[0].entries["sum"]
    assert (entry.value, entry.revision) == (6 * sum(range(5)), 30)


async def test_a_refused_edit_does_not_affect_other_edits(replica: Replica) -> None:
    def refuse(current: Entry | None) -> Any:
        raise LimitReached

    outcomes = await replica.update({"a": lambda current: 1, "b": refuse, "c": lambda current: 3})
    assert isinstance(outcomes["b"], LimitReached)
    assert values(replica) == {"a": 1, "c": 3}


async def test_a_removed_name_is_a_tombstone_that_keeps_its_revision(store: VersionedStore) -> None:
    writer, reader = Replica(store, "things"), Replica(store, "things")
    await put(writer, {"a": 1})
    await reader.follow()
    await put(writer, {"a": None})
    await reader.follow()
    assert values(reader) == {"a": None}
    await put(writer, {"a": 1})
    assert writer.entries["a"].revision == 3


async def test_several_pages_are_read_and_a_full_store_accepts_no_new_name(store: VersionedStore) -> None:
    writer, reader = Replica(store, "things"), Replica(store, "things")
    for start in range(0, MAX_NAMES, PAGE_SIZE):
        await put(writer, {str(number): number for number in range(start, min(start + PAGE_SIZE, MAX_NAMES))})
    outcomes = await put(writer, {"one more": 1, "7": "again"})
    assert isinstance(outcomes["one more"], LimitReached)
    await reader.follow()
    assert values(reader) == {str(number): number for number in range(MAX_NAMES)} | {"7": "again"}


async def test_old_tombstones_are_forgotten_by_store_and_replica(store: VersionedStore) -> None:
    writer, reader = Replica(store, "things"), Replica(store, "things")
    await put(writer, {"kept": 1})
    for value in (1, None):
        await put(writer, {str(number): value for number in range(REMEMBERED_TOMBSTONES)})
    await reader.follow()
    assert len(reader.entries) == REMEMBERED_TOMBSTONES + 1
    for value in (1, None):
        await put(writer, {"last": value})
    await reader.follow()
    assert len(reader.entries) == REMEMBERED_TOMBSTONES // 2 + 1
    assert values(reader).keys() >= {"kept", "last"}
    assert "0" not in reader.entries


async def test_a_removed_name_that_is_put_again_counts_once(store: VersionedStore) -> None:
    replica = Replica(store, "things")
    for start in range(0, MAX_NAMES, PAGE_SIZE):
        await put(replica, {str(number): 1 for number in range(start, min(start + PAGE_SIZE, MAX_NAMES))})
    await put(replica, {"0": None, "1": None})
    await put(replica, {"0": 1})
    outcomes = await put(replica, {"new": 1}) | await put(replica, {"1": 1})
    assert isinstance(outcomes["new"], Entry)
    assert isinstance(outcomes["1"], LimitReached)
    outcomes = await replica.update({"newer": lambda _: 1}, uncounted=1)
    assert isinstance(outcomes["newer"], Entry)
    assert replica.entries["1"].value is None


async def test_a_store_outlives_its_writer(valkey: str) -> None:
    writer, reader = (Replica(redis_store(valkey, "lasting"), "things") for _ in range(2))
    await put(writer, {"a": 1})
    await writer.close()
    await reader.follow()
    assert values(reader) == {"a": 1}
    await reader.close()


async def test_a_malformed_entry_counts_as_removed(valkey: str) -> None:
    replica = Replica(redis_store(valkey, "foreign"), "things")
    await put(replica, {"a": 1})
    async with Redis.from_url(valkey) as redis:
        await redis.hset("onward:{foreign}:values", "x", "{")
        await redis.zadd("onward:{foreign}:changed", {"x": replica.entries["a"].sequence + 1})
    await replica.follow()
    assert values(replica) == {"a": 1, "x": None}
    await put(replica, {"x": 2})
    assert values(replica) == {"a": 1, "x": 2}
    await replica.close()


class FailingStore(InMemoryVersionedStore):
    """A store that can be unavailable."""

    is_available = True

    async def changes_since(self, generation: str, sequence: int) -> Any:
        if not self.is_available:
            raise LiveStoreUnavailable
        return await super().changes_since(generation, sequence)


async def test_an_outage_keeps_the_last_known_entries_and_is_logged_once() -> None:
    store = FailingStore(max_names=9)
    replica = Replica(store, "things")
    await put(replica, {"a": 1})
    with structlog.testing.capture_logs() as lines:
        store.is_available = False
        assert [await replica.follow() for _ in range(3)] == [False] * 3
        assert values(replica) == {"a": 1}
        with pytest.raises(LiveStoreUnavailable):
            await put(replica, {"a": 2})
        store.is_available = True
        await replica.follow()
    assert [line["event"] for line in lines] == ["live store failed", "live store recovered"]


async def test_an_unreachable_server_is_an_outage() -> None:
    replica = Replica(redis_store("unix:///nowhere/socket"), "things")
    with structlog.testing.capture_logs() as lines:
        assert not await replica.follow()
    assert "/nowhere/socket" in lines[0]["detail"]
    await replica.close()
