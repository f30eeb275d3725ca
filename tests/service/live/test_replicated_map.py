"""Every versioned map keeps the same promise, and its mirrors follow it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import structlog.testing
from redis.asyncio import Redis

from onward.service.errors import LimitReached, LiveStoreUnavailable, ServiceError
from onward.service.live.replicated_map import (
    PAGE,
    REMEMBERED_REMOVALS,
    Edit,
    Entry,
    InMemoryVersionedStore,
    RedisVersionedStore,
    Replica,
    VersionedStore,
)

MAX_NAMES = 2_500

numbers = itertools.count()


def redis_map(url: str, name: str | None = None, *, max_names: int = MAX_NAMES) -> RedisVersionedStore:
    timeout = timedelta(seconds=5)
    return RedisVersionedStore.connect(url, name or f"map-{next(numbers)}", max_names=max_names, timeout=timeout)


@pytest.fixture(params=["memory", "redis"])
async def source(request: pytest.FixtureRequest, valkey: str) -> AsyncIterator[VersionedStore]:
    memory = request.param == "memory"
    source = InMemoryVersionedStore(max_names=MAX_NAMES) if memory else redis_map(valkey)
    yield source
    await source.close()


@pytest.fixture
def mirror(source: VersionedStore) -> Replica:
    return Replica(source, "things")


async def put(mirror: Replica, values: dict[str, Any]) -> dict[str, Entry | ServiceError]:
    def edit(value: Any) -> Edit:
        return lambda held: value

    return await mirror.update({name: edit(value) for name, value in values.items()})


def values(mirror: Replica) -> dict[str, Any]:
    return {name: entry.value for name, entry in mirror.entries.items()}


async def test_a_map_nobody_wrote_is_empty(mirror: Replica) -> None:
    assert not await mirror.follow()
    assert mirror.entries == {}


async def test_a_writer_sees_what_it_wrote_at_once_and_others_as_they_follow(source: VersionedStore) -> None:
    writer, reader = Replica(source, "things"), Replica(source, "things")
    await reader.follow()
    await put(writer, {"a": {"price": 1.5}, "ä/b": [1, None, "x"]})
    assert values(writer) == {"a": {"price": 1.5}, "ä/b": [1, None, "x"]}
    assert reader.entries == {}
    assert await reader.follow()
    assert reader.entries == writer.entries
    assert not await reader.follow()
    assert not await writer.follow()


async def test_sequences_grow_and_revisions_count(mirror: Replica) -> None:
    await put(mirror, {"a": 1, "b": 1})
    await put(mirror, {"a": 2})
    a, b = mirror.entries["a"], mirror.entries["b"]
    assert a.sequence > b.sequence
    assert (a.revision, b.revision) == (2, 1)


async def test_an_edit_is_made_on_top_of_what_another_wrote_meanwhile(source: VersionedStore) -> None:
    async def add(mirror: Replica, number: int) -> None:
        await mirror.update({"sum": lambda held: (held.value if held else 0) + number})

    mirrors = [Replica(source, "things") for _ in range(6)]
    await asyncio.gather(*(add(mirror, number) for mirror in mirrors for number in range(5)))
    await mirrors[0].follow()
    entry = mirrors[0].entries["sum"]
    assert (entry.value, entry.revision) == (6 * sum(range(5)), 30)


async def test_a_refused_edit_does_not_stop_the_others(mirror: Replica) -> None:
    def refuse(held: Entry | None) -> Any:
        raise LimitReached

    outcomes = await mirror.update({"a": lambda held: 1, "b": refuse, "c": lambda held: 3})
    assert isinstance(outcomes["b"], LimitReached)
    assert values(mirror) == {"a": 1, "c": 3}


async def test_a_removed_name_is_told_and_its_revisions_go_on(source: VersionedStore) -> None:
    writer, reader = Replica(source, "things"), Replica(source, "things")
    await put(writer, {"a": 1})
    await reader.follow()
    await put(writer, {"a": None})
    await reader.follow()
    assert values(reader) == {"a": None}
    await put(writer, {"a": 1})
    assert writer.entries["a"].revision == 3


async def test_more_than_a_page_is_read_whole_and_a_full_map_takes_no_new_name(source: VersionedStore) -> None:
    writer, reader = Replica(source, "things"), Replica(source, "things")
    for start in range(0, MAX_NAMES, PAGE):
        await put(writer, {str(number): number for number in range(start, min(start + PAGE, MAX_NAMES))})
    outcomes = await put(writer, {"one more": 1, "7": "again"})
    assert isinstance(outcomes["one more"], LimitReached)
    await reader.follow()
    assert values(reader) == {str(number): number for number in range(MAX_NAMES)} | {"7": "again"}


async def test_old_removals_are_forgotten_and_make_room(source: VersionedStore) -> None:
    writer, reader = Replica(source, "things"), Replica(source, "things")
    await put(writer, {"kept": 1})
    for value in (1, None):
        await put(writer, {str(number): value for number in range(REMEMBERED_REMOVALS)})
    await reader.follow()
    assert len(reader.entries) == REMEMBERED_REMOVALS + 1
    for value in (1, None):
        await put(writer, {"last": value})
    await reader.follow()
    assert len(reader.entries) == REMEMBERED_REMOVALS // 2 + 1
    assert values(reader).keys() >= {"kept", "last"}
    assert "0" not in reader.entries


async def test_a_map_lives_on_without_its_writer(valkey: str) -> None:
    writer, reader = (Replica(redis_map(valkey, "lasting"), "things") for _ in range(2))
    await put(writer, {"a": 1})
    await writer.close()
    await reader.follow()
    assert values(reader) == {"a": 1}
    await reader.close()


async def test_a_flushed_map_is_read_anew_and_its_sequences_grow_on(valkey: str) -> None:
    mirror, other = (Replica(redis_map(valkey, "flushed"), "things") for _ in range(2))
    await put(mirror, {"a": 1, "b": 1})
    before = mirror.entries["b"].sequence
    async with Redis.from_url(valkey) as redis:
        keys = [key async for key in redis.scan_iter("onward:{flushed}:*")]
        assert len(keys) == 3
        await redis.delete(*keys)
    await put(other, {"c": 1})
    assert await mirror.follow()
    assert values(mirror) == {"c": 1}
    assert mirror.entries["c"].sequence > before
    await asyncio.gather(mirror.close(), other.close())


async def test_what_a_failover_lost_is_lost_for_every_reader(valkey: str) -> None:
    mirror = Replica(redis_map(valkey, "failover"), "things")
    await put(mirror, {"a": 1})
    async with Redis.from_url(valkey) as redis:
        kept = {key: await redis.dump(key) async for key in redis.scan_iter("onward:{failover}:*")}
        await put(mirror, {"b": 1})
        for key, dump in kept.items():
            await redis.restore(key, 0, dump or b"", replace=True)
    assert await mirror.follow()
    assert values(mirror) == {"a": 1}
    await put(mirror, {"b": 2})
    assert values(mirror) == {"a": 1, "b": 2}
    await mirror.close()


async def test_what_is_not_ours_counts_as_removed(valkey: str) -> None:
    mirror = Replica(redis_map(valkey, "foreign"), "things")
    await put(mirror, {"a": 1})
    async with Redis.from_url(valkey) as redis:
        await redis.hset("onward:{foreign}:values", "x", "{")
        await redis.zadd("onward:{foreign}:changed", {"x": mirror.entries["a"].sequence + 1})
    await mirror.follow()
    assert values(mirror) == {"a": 1, "x": None}
    await put(mirror, {"x": 2})
    assert values(mirror) == {"a": 1, "x": 2}
    await mirror.close()


class Failing(InMemoryVersionedStore):
    """A map whose store can be away."""

    is_away = False

    async def changes_since(self, birth: str | None, sequence: int) -> Any:
        if self.is_away:
            raise LiveStoreUnavailable
        return await super().changes_since(birth, sequence)


async def test_an_outage_leaves_the_last_known_state_and_is_logged_once() -> None:
    source = Failing(max_names=9)
    mirror = Replica(source, "things")
    await put(mirror, {"a": 1})
    with structlog.testing.capture_logs() as lines:
        source.is_away = True
        assert [await mirror.follow() for _ in range(3)] == [False] * 3
        assert values(mirror) == {"a": 1}
        with pytest.raises(LiveStoreUnavailable):
            await put(mirror, {"a": 2})
        source.is_away = False
        await mirror.follow()
    assert [line["event"] for line in lines] == ["live store failed", "live store back"]


async def test_a_server_that_is_not_there_is_an_outage() -> None:
    mirror = Replica(redis_map("unix:///nowhere/socket"), "things")
    with structlog.testing.capture_logs() as lines:
        assert not await mirror.follow()
    assert "/nowhere/socket" in lines[0]["detail"]
    await mirror.close()
