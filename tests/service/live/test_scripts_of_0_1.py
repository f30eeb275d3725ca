"""Workers of version 0.1 and this one share a versioned store during a rolling update.

`scripts_0_1` holds the server-side scripts of 0.1, whose names and arguments differ.
"""

import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from onward.service.live.replica import Replica
from onward.service.live.versioned_store import (
    PAGE_SIZE,
    REJECTIONS,
    REMEMBERED_TOMBSTONES,
    ChangesPage,
    Entry,
    Put,
    RedisVersionedStore,
    Rejection,
    _text,
    parse_entry,
)
from onward.service.redis_client import Argument, RedisClient, Script, connect
from tests.service.live.replicas import put, values
from tests.service.live.servers import MAX_NAMES, TIMEOUT, RedisServerOfStore

SCRIPTS = Path(__file__).parent / "scripts_0_1"

numbers = itertools.count()


class StoreOf01(RedisVersionedStore):
    """The store as 0.1 accessed it: without generations of writers, restoring and clearing."""

    def __init__(self, redis: RedisClient, name: str, *, max_names: int) -> None:
        super().__init__(redis, name, max_names=max_names)
        self._old_put = Script(redis, (SCRIPTS / "put.lua").read_text())
        self._old_read = Script(redis, (SCRIPTS / "read.lua").read_text())

    async def put(self, generation: str, puts: Sequence[Put], *, uncounted: int = 0) -> list[Entry | Rejection]:
        arguments: list[Argument] = [self._max_names, REMEMBERED_TOMBSTONES]
        for name, revision, value, expected in puts:
            arguments += (name, expected, _text(revision, value), int(value is None))
        outcomes = await self._old_put(self._keys, arguments)
        return [
            REJECTIONS.get(outcome) or Entry(outcome, revision, value)
            for (_, revision, value, _), outcome in zip(puts, outcomes, strict=True)
        ]

    async def changes_since(self, generation: str, sequence: int) -> ChangesPage:
        reply = await self._old_read(self._keys[:3], [generation or "none", sequence, PAGE_SIZE])
        current, is_first, *fields = reply
        entries = {
            name.decode(): parse_entry(int(version), text)
            for name, version, text in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
        }
        is_last = len(fields) < 3 * PAGE_SIZE
        return ChangesPage(current.decode(), entries, is_first=bool(is_first), is_last=is_last, cleared=0)


@pytest.fixture
def server(valkey: str) -> RedisServerOfStore:
    return RedisServerOfStore(valkey, f"mixed-{next(numbers)}")


@pytest.fixture
async def old(server: RedisServerOfStore, valkey: str) -> AsyncIterator[Replica]:
    replica = Replica(StoreOf01(connect(valkey, TIMEOUT), server.name, max_names=MAX_NAMES), "things")
    yield replica
    await replica.close()


@pytest.fixture
async def new(server: RedisServerOfStore) -> AsyncIterator[Replica]:
    replica = Replica(server.open(), "things")
    yield replica
    await replica.close()


@pytest.mark.parametrize("is_begun_by_old", [False, True])
async def test_each_reads_and_edits_what_the_other_wrote(old: Replica, new: Replica, *, is_begun_by_old: bool) -> None:
    first, second = (old, new) if is_begun_by_old else (new, old)
    await put(first, {"a": 1, "b": {"x": ["ä"]}, "c": 1})
    await put(second, {"a": 2, "d": 1})
    await put(first, {"c": None, "d": None})
    await put(second, {"d": 3})
    assert await first.read() == await second.read()
    assert values(first) == {"a": 2, "b": {"x": ["ä"]}, "c": None, "d": 3}
    assert first.entries["d"].revision == 3


@pytest.mark.parametrize("is_forgotten_by_old", [False, True])
async def test_each_forgets_the_tombstones_that_the_other_has_dropped(
    old: Replica, new: Replica, *, is_forgotten_by_old: bool
) -> None:
    writer, reader = (old, new) if is_forgotten_by_old else (new, old)
    await put(writer, {"kept": 1})
    for value in (1, None):
        await put(writer, {str(number): value for number in range(REMEMBERED_TOMBSTONES)})
    await reader.read()
    for value in (1, None):
        await put(writer, {"last": value})
    assert await reader.read() == await writer.read()
    assert len(reader.entries) == REMEMBERED_TOMBSTONES // 2 + 1
    await put(reader, {"0": 1})
    assert reader.entries["0"].revision == 1


async def test_an_old_worker_takes_a_restored_store_and_can_edit_it(
    server: RedisServerOfStore, old: Replica, new: Replica
) -> None:
    await put(new, {"a": 1, "b": 1})
    await put(old, {"b": None})
    await new.read()
    before = new.entries
    await server.flush()
    await new.read()
    assert await old.read() == before
    await put(old, {"a": 2, "b": 2})
    assert await new.read() == old.entries
    assert values(new) == {"a": 2, "b": 2}


async def test_an_old_worker_takes_a_store_from_which_names_were_dropped(
    server: RedisServerOfStore, old: Replica, new: Replica
) -> None:
    await put(old, {"a": 1, "b": 1})
    through = (await new.read())["a"].sequence
    store = server.open()
    assert await store.drop(through, mark="nothing") == (1, 1)
    await store.close()
    assert await old.read() == await new.read()
    await put(old, {"a": 2})
    assert await new.read() == old.entries
    assert values(new) == {"a": 2, "b": 1}


async def test_an_old_worker_takes_a_cleared_store(server: RedisServerOfStore, old: Replica, new: Replica) -> None:
    await put(old, {"a": 1})
    store = server.open()
    assert await store.clear() == 1
    await store.close()
    assert await old.read() == await new.read() == {}
    await put(old, {"a": 2})
    assert await new.read() == old.entries
