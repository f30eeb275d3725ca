"""Every session store fulfils the contract of SessionStore."""

import asyncio
import random
import string
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4  # hypothesis seeds the module random

import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from onward.service.errors import SessionBehind, SessionStoreUnavailable
from onward.service.redis_client.circuit import FIRST_PAUSE_S
from onward.service.sessions import (
    REMEMBERED_EVENT_IDS,
    REMEMBERED_MARKS,
    Event,
    InMemorySessionStore,
    Position,
    RedisSessionStore,
    Session,
    SessionAppend,
    SessionStore,
    session_digest,
)
from tests.service.sessions.stores import (
    LENGTH,
    NOON_MS,
    append_to_all,
    event,
    known,
    listed,
    open_store,
    read,
    stored_items,
    view,
)

TTL = timedelta(seconds=1)

events_of_types = st.lists(
    st.builds(event, st.sampled_from(["view", "cart", "purchase", "dislike", "impression"]), st.sampled_from("abcdef")),
    max_size=2 * LENGTH,
)

UNUSUAL_IDS = [
    "SKU 123",
    " leading",
    "trailing ",
    "a  b   c",
    "p:SKU 1",
    "h:p:",
    "-",
    "a-1",
    "1 view a",
    "a\u2028b",
    "a\u2029b",
    "a\u0085b",
    "a\u00a0b\u3000",
    "\N{WOMAN}\u200d\N{MICROSCOPE}",
]
printable_ids = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=128)


async def test_a_new_session_is_empty(store: SessionStore, session_id: str) -> None:
    session = await read(store, session_id)
    assert (session.events, session.item_ids, session.applied, session.position) == ([], [], 0, "0-0")


async def test_append_returns_the_session_oldest_event_first(store: SessionStore, session_id: str) -> None:
    await store.append(session_id, [view("a"), view("b")])
    session = await store.append(session_id, [view("c")])
    assert [event.item_id for event in session.events] == ["a", "b", "c"]
    assert session.applied == 1


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=events_of_types, sent=events_of_types)
def test_a_session_with_events_not_stored_is_as_if_they_were(
    kind: str, valkey: str, before: list[Event], sent: list[Event]
) -> None:
    async def compare() -> None:
        store, session_id = open_store(kind, valkey), f"session-{random.random()}"
        session = await store.append(session_id, before)
        not_stored = session.with_events(sent, length=store.length)
        stored = await store.append(session_id, sent)
        assert not_stored == stored._replace(position=session.position, outcomes=session.outcomes)
        await store.close()

    asyncio.run(compare())


@pytest.mark.parametrize("sent", [[], ["impression"], ["dislike"], ["view"]])
async def test_a_session_longer_than_a_lowered_limit_is_shortened_when_an_item_enters_stored_or_not(
    valkey: str, session_id: str, sent: list[str]
) -> None:
    longer, shorter = (open_store("redis", valkey, length=length) for length in (LENGTH, 2))
    session = await longer.append(session_id, [view(item_id) for item_id in "abcd"])
    not_stored = session.with_events([event(kind, "e") for kind in sent], length=shorter.length)
    stored = await shorter.append(session_id, [event(kind, "e") for kind in sent])
    assert (
        list(not_stored.item_ids) == list(stored.item_ids) == (["d", "e"] if sent == ["view"] else ["a", "b", "c", "d"])
    )
    for store in (longer, shorter):
        await store.close()


async def test_an_event_is_read_as_it_was_stored(store: SessionStore, session_id: str) -> None:
    event = Event("ítem|{1}:*", "add-to_cart2", 1_795_320_187_673)
    await store.append(session_id, [event])
    assert (await store.append(session_id, ())).events == [event]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(items=st.lists(st.sampled_from(UNUSUAL_IDS) | printable_ids, min_size=1, max_size=LENGTH, unique=True))
@example(items=UNUSUAL_IDS)
def test_an_item_of_any_id_is_read_marked_and_merged(kind: str, valkey: str, items: list[str]) -> None:
    async def compare() -> None:
        store, source = open_store(kind, valkey, length=100), str(uuid4())
        target = f"{source}-user"
        entered = [view(item, at_ms=at_ms) for at_ms, item in enumerate(items, start=NOON_MS)]
        views = [event._replace(event_id=f"id of {event.item_id}") for event in entered]
        bought, disliked = event("purchase", items[0]), [event("dislike", items[-1]), event("dislike", "SKU 0")]
        session = await store.append(source, [*views, *disliked, bought])
        hidden = frozenset({items[-1], "SKU 0"} - {items[0]})
        assert session.events == [*entered, bought._replace(weight=1.0)]
        assert (session.purchased, session.hidden) == (frozenset({items[0]}), hidden)

        own = [view("SKU 0", at_ms=NOON_MS + 1), view(items[-1], at_ms=NOON_MS - 1)]
        await store.append(target, own)
        assert (await store.merge(source, target)).applied == len(session.events)
        merged = await read(store, target)
        assert Counter(merged.events) == Counter([*session.events, *own])
        assert (merged.purchased, merged.hidden) == (session.purchased, hidden - {"SKU 0"})
        for session_id in (source, target):
            assert (await store.append(session_id, views)).applied == 0
        assert (await store.append(target, [view(items[-1])])).hidden == frozenset()
        await store.close()

    asyncio.run(compare())


async def test_only_the_latest_events_are_kept(store: SessionStore, session_id: str) -> None:
    await store.append(session_id, [view(item) for item in "abc"])
    await store.append(session_id, [view(item) for item in "defg"])
    assert await stored_items(store, session_id) == list("cdefg")


async def test_duplicates_of_an_event_id_are_not_applied(store: SessionStore, session_id: str) -> None:
    first = await store.append(session_id, [view("a", "1"), view("b", "1"), view("c", "2")])
    second = await store.append(session_id, [view("a", "1"), view("d", "3"), view("a")])
    assert (first.applied, second.applied) == (2, 2)
    assert await stored_items(store, session_id) == ["a", "c", "d", "a"]


async def test_event_ids_are_deduplicated_within_one_session_only(store: SessionStore, session_id: str) -> None:
    await store.append(session_id, [view("a", "1")])
    assert (await store.append(session_id + "'", [view("a", "1")])).applied == 1


async def test_the_latest_1000_event_ids_are_remembered_longer_than_their_events(
    store: SessionStore, session_id: str
) -> None:
    await store.append(session_id, [view("x", f"id-{number}") for number in range(REMEMBERED_EVENT_IDS + 1)])
    again = await store.append(session_id, [view("y", f"id-{number}") for number in (1, 500, REMEMBERED_EVENT_IDS)])
    assert again.applied == 0
    assert (await store.append(session_id, [view("y", "id-0")])).applied == 1


async def test_all_event_ids_of_one_call_are_known_until_its_end(store: SessionStore, session_id: str) -> None:
    numbers = [*range(REMEMBERED_EVENT_IDS + 1), 0]
    session = await store.append(session_id, [view("x", f"id-{number}") for number in numbers])
    assert (session.outcomes[-2:], session.applied) == ([True, False], REMEMBERED_EVENT_IDS + 1)


async def test_a_session_expires_when_no_event_came_for_its_time_to_live(
    kind: str, valkey: str, session_id: str
) -> None:
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


async def test_reading_does_not_extend_the_time_to_live(kind: str, valkey: str, session_id: str) -> None:
    store = open_store(kind, valkey, ttl=TTL)
    await store.append(session_id, [view("a")])
    for _ in range(4):
        await asyncio.sleep(TTL.total_seconds() / 3)
        await store.append(session_id, ())
    assert await stored_items(store, session_id) == []
    await store.close()


async def test_deleting_a_session_deletes_its_event_ids(store: SessionStore, session_id: str) -> None:
    await store.append(session_id, [view("a", "1")])
    await store.delete(session_id)
    await store.delete(session_id)
    session = await store.append(session_id, [view("a", "1")])
    assert (session.events, session.applied) == ([view("a")], 1)


async def test_one_call_appends_to_many_sessions(store: SessionStore, session_id: str) -> None:
    events = {f"{session_id}-{number}": [view("a", "1"), view("b", "2"), view("a", "1")] for number in range(250)}
    first, second = await append_to_all(store, events), await append_to_all(store, events)
    assert {tuple(known(session).outcomes) for session in first.values()} == {(True, True, False)}
    assert {known(session).applied for session in second.values()} == {0}
    assert await stored_items(store, f"{session_id}-249") == ["a", "b"]


async def test_concurrent_appends_to_one_session_keep_the_order_of_each_caller(
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


async def test_events_of_16_writers_are_kept_in_the_order_of_their_positions(
    kind: str, valkey: str, session_id: str
) -> None:
    stores = [open_store(kind, valkey, length=50) for _ in range(2 if kind == "redis" else 1)]
    acknowledged: dict[int, str] = {}

    async def write(writer: int) -> None:
        for number in range(25):
            name = f"{writer}:{number}"
            for attempt in range(2):
                session = await stores[(writer + attempt) % len(stores)].append(session_id, [view(name, name)])
                if session.applied:
                    acknowledged[Position.parse(session.position).number] = name

    await asyncio.gather(*map(write, range(16)))
    assert sorted(acknowledged) == list(range(1, 16 * 25 + 1))
    assert await stored_items(stores[0], session_id) == [acknowledged[number] for number in range(351, 401)]
    for store in stores:
        await store.close()


class TestPositions:
    """Position tokens."""

    async def test_each_applied_event_advances_the_position_by_one_and_a_duplicate_does_not(
        self, store: SessionStore, session_id: str
    ) -> None:
        sent = [view("a", "1"), view("a", "1"), event("impression", "b"), event("dislike", "c")]
        session = await store.append(session_id, sent)
        generation = session.position.partition("-")[0]
        assert session.positions() == [f"{generation}-{number}" for number in (1, 1, 2, 3)]
        assert session.position == (await read(store, session_id)).position == f"{generation}-3"

    async def test_a_session_reaches_all_of_its_earlier_positions(self, store: SessionStore, session_id: str) -> None:
        positions = [(await store.append(session_id, [view("a")])).position for _ in range(3)]
        for position in ["0-0", *positions]:
            assert len((await store.append(session_id, (), at_least=position)).events) == 3

    async def test_an_append_to_a_session_behind_its_position_fails_and_applies_nothing(
        self, store: SessionStore, session_id: str
    ) -> None:
        position = (await store.append(session_id, [view("a")])).position
        unreached = {
            position + "0": True,
            **dict.fromkeys(["abc-1", "0-1", "no position", "", "-", "1-", "a-²"], False),
        }
        for token, may_catch_up in unreached.items():
            with pytest.raises(SessionBehind) as error:
                await store.append(session_id, [view("b")], at_least=token, keeps_answer=True)
            assert error.value.may_catch_up == may_catch_up
        assert await stored_items(store, session_id) == ["a"]

    async def test_an_append_behind_its_position_holds_up_no_other(self, store: SessionStore, session_id: str) -> None:
        position = (await store.append(session_id, [view("a")])).position
        sessions = await store.append_all(
            [
                SessionAppend(session_id, [view("b")], at_least=position + "0"),
                SessionAppend(session_id, [view("c")], at_least=position),
                SessionAppend(f"{session_id}-other", [view("d")]),
            ]
        )
        assert isinstance(sessions[0], SessionBehind)
        assert [known(session).item_ids for session in sessions[1:]] == [["a", "c"], ["d"]]

    async def test_a_new_generation_does_not_reach_positions_of_an_old_one(
        self, store: SessionStore, session_id: str
    ) -> None:
        old = (await store.append(session_id, [view("a")])).position
        await store.delete(session_id)
        await store.append(session_id, [view(item) for item in "bcd"])
        with pytest.raises(SessionBehind):
            await store.append(session_id, (), at_least=old)


class TestWeights:
    """Effects of event weights."""

    async def test_an_event_of_weight_0_is_applied_but_adds_no_item(self, store: SessionStore, session_id: str) -> None:
        session = await store.append(session_id, [view("a"), event("impression", "b", "1")])
        again = await store.append(session_id, [event("impression", "b", "1")])
        assert (session.item_ids, session.applied, again.applied) == (["a"], 2, 0)

    async def test_a_dislike_hides_an_item_until_a_later_positive_event(
        self, store: SessionStore, session_id: str
    ) -> None:
        await store.append(session_id, [view("a"), view("b"), view("a")])
        disliked = await store.append(session_id, [event("dislike", "a")])
        assert (disliked.item_ids, disliked.hidden) == (["b"], frozenset({"a"}))
        seen = await store.append(session_id, [event("impression", "a")])
        assert (seen.item_ids, seen.hidden) == (["b"], frozenset({"a"}))
        back = await store.append(session_id, [event("like", "a")])
        assert (back.item_ids, back.hidden) == (["a", "b", "a", "a"], frozenset())

    async def test_the_last_event_of_an_item_decides_within_one_call(
        self, store: SessionStore, session_id: str
    ) -> None:
        sent = [event("dislike", "a"), view("a"), view("b"), event("dislike", "b")]
        session = await store.append(session_id, sent)
        assert (session.item_ids, session.hidden) == (["a"], frozenset({"b"}))
        assert (await read(store, session_id)).hidden == {"b"}

    async def test_purchases_and_dislikes_are_remembered_longer_than_their_events(
        self, store: SessionStore, session_id: str
    ) -> None:
        await store.append(session_id, [event("purchase", "p"), event("dislike", "h")])
        session = await store.append(session_id, [view(item) for item in "abcdefg"])
        assert session.item_ids == list("cdefg")
        assert (session.purchased, session.hidden) == (frozenset({"p"}), frozenset({"h"}))

    async def test_the_latest_1000_marks_are_remembered(self, store: SessionStore, session_id: str) -> None:
        for half in range(2):
            numbers = range(half * 600, half * 600 + 600)
            kinds = ("purchase", "dislike")
            await store.append(session_id, [event(kinds[n % 2], f"i{n}", at_ms=NOON_MS + n) for n in numbers])
        session = await read(store, session_id)
        assert session.purchased | session.hidden == {f"i{n}" for n in range(1200 - REMEMBERED_MARKS, 1200)}
        assert not session.purchased & session.hidden


@pytest.mark.parametrize("other", ["{x}:*", "a b", "a\n", "á", "a" * 500, "onward:session:{0}:events"])
async def test_no_two_session_ids_share_a_session(store: SessionStore, session_id: str, other: str) -> None:
    await store.append(session_id, [view("a")])
    assert await stored_items(store, session_id + other) == []


class TestInRedis:
    """Properties of the Redis store only."""

    @pytest.fixture
    async def store(self, valkey: str) -> AsyncIterator[RedisSessionStore]:
        store = RedisSessionStore.connect(
            valkey,
            length=LENGTH,
            ttl=timedelta(minutes=1),
            timeout=timedelta(seconds=5),
            answer_ttl=timedelta(minutes=1),
        )
        yield store
        await store.close()

    async def test_an_append_is_one_round_trip(self, store: RedisSessionStore, redis: "Redis") -> None:
        await store.append("s", [view("a", "1")])
        before = (await redis.info("stats"))["total_reads_processed"]
        for number in range(10):
            await store.append("s", [view("a", str(number))])
        after = (await redis.info("stats"))["total_reads_processed"]
        assert after - before == 10 + 1  # 1 is the INFO command itself

    async def test_an_append_that_cannot_be_sent_fails_by_itself(self, store: RedisSessionStore) -> None:
        appends = [SessionAppend(f"s-{number}", [view("\ud800" if number == 3 else "a")]) for number in range(16)]
        sessions = await store.append_all(appends)
        assert [number for number, session in enumerate(sessions) if isinstance(session, SessionStoreUnavailable)] == [
            3
        ]
        assert all(session.item_ids == ["a"] for session in sessions if isinstance(session, Session))

    async def test_keys_hide_the_session_id_and_share_a_hash_slot_and_expire(
        self, store: RedisSessionStore, redis: "Redis"
    ) -> None:
        await store.append("secret{visitor}", [view("a", "1"), event("dislike", "b")], keeps_answer=True)
        keys = await redis.keys()
        texts = list(map(str, keys))
        assert len(keys) == 4
        assert len({text[text.index("{") : text.index("}")] for text in texts}) == 1
        assert not any("secret" in text or "visitor" in text for text in texts)
        for key in keys:
            assert 0 < await redis.pttl(key) <= 60_000

    async def test_a_deleted_session_leaves_no_key(self, store: RedisSessionStore, redis: "Redis") -> None:
        for target in ("s", "t"):
            sent = [event("purchase", "a", "1"), event("dislike", "b"), event("impression", "c")]
            await store.append(target, sent, keeps_answer=True)
        await store.merge("t", "s")
        await store.append("t", [view("d")], keeps_answer=True)
        await store._merge_take(
            store._keys(session_digest("s"), "events", "ids", "state", "events-aside", "state-aside"),
            [60_000, "move", session_digest("t")],
        )
        assert sum(session_digest("s").encode() in key for key in await redis.keys()) == 5
        await store.delete("s")
        await store.delete("t")
        assert await redis.keys() == []

    async def test_answers_have_a_generation_until_the_session_is_deleted(
        self, store: RedisSessionStore, redis: "Redis"
    ) -> None:
        (key,) = store._keys(session_digest("s"), "served")
        generation = (await store.append("s", (), keeps_answer=True)).answer_generation
        assert await redis.hget(key, "order") == str(generation).encode()
        assert (await store.append("s", [view("a")], keeps_answer=True)).answer_generation == generation
        assert (await store.append("s", [view("a")])).answer_generation is None
        await store.delete("s")
        assert (await store.append("s", (), keeps_answer=True)).answer_generation not in {None, generation}

    async def test_scripts_are_sent_again_after_the_server_lost_them(
        self, store: RedisSessionStore, redis: "Redis"
    ) -> None:
        await store.append("s", [view("a")])
        await redis.script_flush()
        await store.append("s", [view("b")])
        await redis.script_flush()
        await append_to_all(store, {"s": [view("c")], "t": [view("d")]})
        assert await stored_items(store, "s") == ["a", "b", "c"]

    @pytest.mark.parametrize("part", ["events", "ids", "state", "served"])
    @pytest.mark.parametrize("foreign", ["string", "hash", "list"])
    async def test_foreign_data_under_keys_of_a_session_is_ignored(
        self, store: RedisSessionStore, redis: "Redis", part: str, foreign: str
    ) -> None:
        (key,) = store._keys(session_digest("s"), part)
        write: dict[str, Callable[[], Awaitable[Any]]] = {
            "string": lambda: redis.set(key, "x"),
            "hash": lambda: redis.hset(key, "x", "y"),
            "list": lambda: redis.rpush(key, "x", b"\xff y z", "one two three"),
        }
        await write[foreign]()
        for _ in range(2):
            assert (await store.append("s", (), keeps_answer=True)).events == []
        session = await store.append("s", [view("a", "1"), event("dislike", "b")], keeps_answer=True)
        assert (session.outcomes, session.item_ids, session.hidden) == ([True, True], ["a"], frozenset({"b"}))
        assert await stored_items(store, "s") == ["a"]

    async def test_broken_connections_are_replaced(self, store: RedisSessionStore, redis: "Redis") -> None:
        await asyncio.gather(*(store.append("s", ()) for _ in range(5)))
        await redis.client_kill_filter(_type="normal", skipme=True)
        for _ in range(5):
            with suppress(SessionStoreUnavailable):  # each broken connection fails one call, since no call is retried
                await store.append("s", ())
            await asyncio.sleep(FIRST_PAUSE_S)
        await store.append("s", [view("a")])
        assert await stored_items(store, "s") == ["a"]

    async def test_an_append_to_a_server_out_of_memory_fails(self, store: RedisSessionStore, redis: "Redis") -> None:
        await store.append("s", [view("a")])
        await redis.config_set("maxmemory", 1)
        try:
            with structlog.testing.capture_logs() as lines, pytest.raises(SessionStoreUnavailable):
                await store.append("s", [view("b")])
        finally:
            await redis.config_set("maxmemory", 0)
        assert await stored_items(store, "s") == ["a"]
        assert "maxmemory" in lines[0]["detail"]

    async def test_a_server_out_of_memory_can_still_be_read(self, store: RedisSessionStore, redis: "Redis") -> None:
        await store.append("s", [view("a")])
        await redis.config_set("maxmemory", 1)
        try:
            assert (await store.append("s", (), keeps_answer=True)).item_ids == ["a"]
        finally:
            await redis.config_set("maxmemory", 0)

    async def test_one_call_returns_the_error_of_each_session_that_failed(self, redis: "Redis", valkey: str) -> None:
        class PartlyFailingStore(RedisSessionStore):
            def _keys(self, digest: str, *parts: str) -> list[str]:
                keys = super()._keys(digest, *parts)
                return keys if digest == session_digest("s") else keys[:1]  # the script fails without all of them

        store = PartlyFailingStore.connect(valkey, length=LENGTH, ttl=TTL, timeout=timedelta(seconds=5))
        sessions = await append_to_all(store, {"s": [view("a")], "t": [view("b")]})
        assert known(sessions["s"]).item_ids == ["a"]
        assert isinstance(sessions["t"], SessionStoreUnavailable)
        await store.close()

    async def test_replies_reach_their_own_callers_when_calls_are_cancelled_at_random(
        self, store: RedisSessionStore, redis: "Redis"
    ) -> None:
        random_numbers = random.Random(7)
        names = ["".join(random_numbers.choices(string.ascii_lowercase, k=8)) for _ in range(200)]
        await append_to_all(store, {name: [view(name)] for name in names})

        async def read_or_time_out(name: str) -> None:
            try:
                async with asyncio.timeout(random_numbers.random() * 0.01):
                    session = await store.append(name, ())
            except TimeoutError:
                return
            except SessionStoreUnavailable:
                return
            assert [event.item_id for event in session.events] == [name]

        for _ in range(5):
            await asyncio.gather(*map(read_or_time_out, names))
        for name in names:
            assert await stored_items(store, name) == [name]


@pytest.mark.parametrize("call", ["append", "merge", "delete"])
async def test_calls_to_a_silent_server_time_out(tmp_path: Path, call: str) -> None:
    async def accept_and_never_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    path = tmp_path / "silent"
    async with await asyncio.start_unix_server(accept_and_never_reply, path):
        store = RedisSessionStore.connect(f"unix://{path}", length=LENGTH, ttl=TTL, timeout=timedelta(milliseconds=100))
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "append": lambda: store.append("s", [view("a")]),
            "merge": lambda: store.merge("s", "t"),
            "delete": lambda: store.delete("s"),
        }
        async with asyncio.timeout(2):  # far above the timeout of 0.1 s, as the machine may be busy
            with pytest.raises(SessionStoreUnavailable):
                await calls[call]()
        await store.close()


async def test_the_in_memory_store_evicts_expired_sessions() -> None:
    now_s = 0.0
    store = InMemorySessionStore(length=LENGTH, ttl=timedelta(seconds=10), clock=lambda: now_s)
    for number in range(100):
        now_s = float(number)
        await store.append(f"s{number}", [view("a")])
    assert len(store._sessions) == 10


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_every_session_is_listed_and_read_by_its_digest(store: SessionStore, session_id: str, limit: int) -> None:
    ids = [f"{session_id}-{number}" for number in range(20)]
    for number, name in enumerate(ids):
        await store.append(name, [view(f"item {number}"), event("dislike", "x")])
    await store.append(f"{session_id}-empty", [])
    found = {session.digest: session for session in await listed(store, limit)}
    for number, name in enumerate(ids):
        session = found.pop(session_digest(name))
        assert (session.applied, session.last_event) == (2, view(f"item {number}")._replace(weight=1.0))
        assert 0 < session.expires_in_ms <= 60_000
        assert await store.read(session.digest) == await read(store, name)
    assert session_digest(f"{session_id}-empty") not in found
    assert (await store.read("0" * 32)).is_new
