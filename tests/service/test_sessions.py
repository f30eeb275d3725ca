"""Every session store keeps the same promise."""

import asyncio
import itertools
import random
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from service.errors import SessionStoreUnavailable
from service.sessions import REMEMBERED_EVENT_IDS, Event, InMemorySessionStore, RedisSessionStore, SessionStore

LENGTH = 5
TTL = timedelta(seconds=1)
STORES = ["memory", "redis"]

numbers = itertools.count()


def open_store(kind: str, url: str, *, length: int = LENGTH, ttl: timedelta = timedelta(minutes=1)) -> SessionStore:
    if kind == "memory":
        return InMemorySessionStore(length=length, ttl=ttl)
    return RedisSessionStore.connect(url, length=length, ttl=ttl, timeout=timedelta(seconds=5))


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def store(kind: str, valkey: str) -> AsyncIterator[SessionStore]:
    store = open_store(kind, valkey)
    yield store
    await store.close()


@pytest.fixture
def session_id() -> str:
    return f"session-{next(numbers)}-{random.random()}"


def view(item_id: str, event_id: str | None = None) -> Event:
    return Event(item_id, "view", 1_700_000_000_000, event_id)


async def stored_items(store: SessionStore, session_id: str) -> list[str]:
    return [event.item_id for event in (await store.append(session_id, ())).events]


async def test_a_session_nobody_wrote_is_empty(store: SessionStore, session_id: str) -> None:
    assert await store.append(session_id, ()) == ([], 0)


async def test_append_returns_the_whole_session_oldest_first(store: SessionStore, session_id: str) -> None:
    await store.append(session_id, [view("a"), view("b")])
    session = await store.append(session_id, [view("c")])
    assert [event.item_id for event in session.events] == ["a", "b", "c"]
    assert session.applied == 1


async def test_an_event_comes_back_as_it_was(store: SessionStore, session_id: str) -> None:
    event = Event("ítem|{1}:*", "add-to_cart2", 1_795_320_187_673)
    await store.append(session_id, [event])
    assert (await store.append(session_id, ())).events == [event]


async def test_only_the_most_recent_events_are_kept(store: SessionStore, session_id: str) -> None:
    await store.append(session_id, [view(item) for item in "abc"])
    await store.append(session_id, [view(item) for item in "defg"])
    assert await stored_items(store, session_id) == list("cdefg")


async def test_an_event_id_is_applied_once(store: SessionStore, session_id: str) -> None:
    first = await store.append(session_id, [view("a", "1"), view("b", "1"), view("c", "2")])
    second = await store.append(session_id, [view("a", "1"), view("d", "3"), view("a")])
    assert (first.applied, second.applied) == (2, 2)
    assert await stored_items(store, session_id) == ["a", "c", "d", "a"]


async def test_an_event_id_counts_in_its_own_session_only(store: SessionStore, session_id: str) -> None:
    await store.append(session_id, [view("a", "1")])
    assert (await store.append(session_id + "'", [view("a", "1")])).applied == 1


async def test_the_last_1000_event_ids_are_remembered_though_their_events_are_gone(
    store: SessionStore, session_id: str
) -> None:
    await store.append(session_id, [view("x", f"id-{number}") for number in range(REMEMBERED_EVENT_IDS + 1)])
    again = await store.append(session_id, [view("y", f"id-{number}") for number in (1, 500, REMEMBERED_EVENT_IDS)])
    assert again.applied == 0
    assert (await store.append(session_id, [view("y", "id-0")])).applied == 1


async def test_a_session_ends_when_no_event_came_for_its_time_to_live(kind: str, valkey: str, session_id: str) -> None:
    store = open_store(kind, valkey, ttl=TTL)
    await store.append(session_id, [view("a", "1")])
    for _ in range(3):
        await asyncio.sleep(TTL.total_seconds() * 0.4)
        await store.append(session_id, [view("b")])
    assert await stored_items(store, session_id) == ["a", "b", "b", "b"]
    await asyncio.sleep(TTL.total_seconds() * 1.5)
    assert await stored_items(store, session_id) == []
    assert (await store.append(session_id, [view("a", "1")])).applied == 1
    await store.close()


async def test_reading_does_not_keep_a_session_alive(kind: str, valkey: str, session_id: str) -> None:
    store = open_store(kind, valkey, ttl=TTL)
    await store.append(session_id, [view("a")])
    for _ in range(4):
        await asyncio.sleep(TTL.total_seconds() / 3)
        await store.append(session_id, ())
    assert await stored_items(store, session_id) == []
    await store.close()


async def test_a_deleted_session_is_forgotten_with_its_event_ids(store: SessionStore, session_id: str) -> None:
    await store.append(session_id, [view("a", "1")])
    await store.delete(session_id)
    await store.delete(session_id)
    assert await store.append(session_id, [view("a", "1")]) == ([view("a")], 1)


async def test_events_of_many_sessions_are_applied_in_one_call(store: SessionStore, session_id: str) -> None:
    events = {f"{session_id}-{number}": [view("a", "1"), view("b", "2"), view("a", "1")] for number in range(250)}
    assert await store.append_all(events) == 500
    assert await store.append_all(events) == 0
    assert await stored_items(store, f"{session_id}-249") == ["a", "b"]


async def test_concurrent_appends_to_one_session_are_all_kept_in_the_order_of_each_caller(
    kind: str, valkey: str, session_id: str
) -> None:
    store = open_store(kind, valkey, length=1_000)

    async def visit(caller: int) -> None:
        for number in range(20):
            session = await store.append(session_id, [view(f"{caller}:{number}", f"{caller}:{number}")])
            assert session.events[-1].item_id == f"{caller}:{number}"
            await store.append(session_id, [view(f"{caller}:{number}", f"{caller}:{number}")])

    await asyncio.gather(*(visit(caller) for caller in range(16)))
    items = await stored_items(store, session_id)
    assert len(items) == 16 * 20
    for caller in range(16):
        mine = [item for item in items if item.startswith(f"{caller}:")]
        assert mine == [f"{caller}:{number}" for number in range(20)]
    await store.close()


@pytest.mark.parametrize("other", ["{x}:*", "a b", "a\n", "á", "a" * 500, "onward:session:{0}:events"])
async def test_no_two_session_ids_share_a_session(store: SessionStore, session_id: str, other: str) -> None:
    await store.append(session_id, [view("a")])
    assert await stored_items(store, session_id + other) == []


class TestInRedis:
    """What only a shared server can get wrong."""

    @pytest.fixture
    async def redis(self, valkey: str) -> AsyncIterator["Redis"]:
        async with Redis.from_url(valkey) as redis:
            await redis.flushall()
            yield redis

    @pytest.fixture
    async def store(self, valkey: str) -> AsyncIterator[RedisSessionStore]:
        store = RedisSessionStore.connect(valkey, length=LENGTH, ttl=timedelta(minutes=1), timeout=timedelta(seconds=5))
        yield store
        await store.close()

    async def test_a_request_is_one_round_trip(self, store: RedisSessionStore, redis: "Redis") -> None:
        await store.append("s", [view("a", "1")])
        before = (await redis.info("stats"))["total_reads_processed"]
        for number in range(10):
            await store.append("s", [view("a", str(number))])
        after = (await redis.info("stats"))["total_reads_processed"]
        assert after - before == 10 + 1  # and the reading of the statistics itself

    async def test_keys_show_no_session_id_and_share_a_slot_and_expire(
        self, store: RedisSessionStore, redis: "Redis"
    ) -> None:
        await store.append("secret{visitor}", [view("a", "1")])
        keys = await redis.keys()
        texts = list(map(str, keys))
        assert len(keys) == 2
        assert len({text[text.index("{") : text.index("}")] for text in texts}) == 1
        assert not any("secret" in text or "visitor" in text for text in texts)
        for key in keys:
            assert 0 < await redis.pttl(key) <= 60_000

    async def test_the_script_is_loaded_again_after_the_server_forgot_it(
        self, store: RedisSessionStore, redis: "Redis"
    ) -> None:
        await store.append("s", [view("a")])
        await redis.script_flush()
        await store.append("s", [view("b")])
        await redis.script_flush()
        await store.append_all({"s": [view("c")], "t": [view("d")]})
        assert await stored_items(store, "s") == ["a", "b", "c"]

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize("foreign", ["string", "hash", "list"])
    async def test_foreign_data_under_a_sessions_keys_counts_as_nothing(
        self, store: RedisSessionStore, redis: "Redis", place: int, foreign: str
    ) -> None:
        key = store._keys("s")[place]
        write: dict[str, Callable[[], Awaitable[Any]]] = {
            "string": lambda: redis.set(key, "x"),
            "hash": lambda: redis.hset(key, "x", "y"),
            "list": lambda: redis.rpush(key, "x", b"\xff y z", "one two three"),
        }
        await write[foreign]()
        assert await stored_items(store, "s") == []
        assert (await store.append("s", [view("a", "1")])).applied == 1
        assert await stored_items(store, "s") == ["a"]

    async def test_connections_that_break_are_replaced(self, store: RedisSessionStore, redis: "Redis") -> None:
        await asyncio.gather(*(store.append("s", ()) for _ in range(5)))
        await redis.client_kill_filter(_type="normal", skipme=True)
        for _ in range(5):
            with suppress(SessionStoreUnavailable):  # each broken connection costs one call, since none is repeated
                await store.append("s", ())
        await store.append("s", [view("a")])
        assert await stored_items(store, "s") == ["a"]

    async def test_a_server_out_of_memory_stores_nothing_and_says_so(
        self, store: RedisSessionStore, redis: "Redis"
    ) -> None:
        await store.append("s", [view("a")])
        await redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(SessionStoreUnavailable):
                await store.append("s", [view("b")])
        finally:
            await redis.config_set("maxmemory", 0)
        assert await stored_items(store, "s") == ["a"]

    async def test_answers_are_never_crossed_when_callers_give_up_at_any_moment(
        self, store: RedisSessionStore, redis: "Redis"
    ) -> None:
        random_numbers = random.Random(7)
        names = ["".join(random_numbers.choices(string.ascii_lowercase, k=8)) for _ in range(200)]
        await store.append_all({name: [view(name)] for name in names})

        async def read_or_give_up(name: str) -> None:
            try:
                async with asyncio.timeout(random_numbers.random() * 0.01):
                    session = await store.append(name, ())
            except TimeoutError:
                return
            except SessionStoreUnavailable:
                return
            assert [event.item_id for event in session.events] == [name]

        for _ in range(5):
            await asyncio.gather(*map(read_or_give_up, names))
        for name in names:
            assert await stored_items(store, name) == [name]


@pytest.mark.parametrize("call", ["append", "append_all", "delete"])
async def test_a_silent_server_is_given_up_within_the_budget(tmp_path: Path, call: str) -> None:
    async def accept_and_say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    path = tmp_path / "silent"
    async with await asyncio.start_unix_server(accept_and_say_nothing, path):
        store = RedisSessionStore.connect(f"unix://{path}", length=LENGTH, ttl=TTL, timeout=timedelta(milliseconds=100))
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "append": lambda: store.append("s", [view("a")]),
            "append_all": lambda: store.append_all({"s": [view("a")], "t": [view("b")]}),
            "delete": lambda: store.delete("s"),
        }
        async with asyncio.timeout(2):  # ten times the budget and more: a busy machine is no failure
            with pytest.raises(SessionStoreUnavailable):
                await calls[call]()
        await store.close()


async def test_a_store_in_memory_holds_nothing_of_ended_sessions() -> None:
    now_s = 0.0
    store = InMemorySessionStore(length=LENGTH, ttl=timedelta(seconds=10), clock=lambda: now_s)
    for number in range(100):
        now_s = float(number)
        await store.append(f"s{number}", [view("a")])
    assert len(store._sessions) == 10
