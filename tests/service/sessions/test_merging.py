"""A merge moves every event of a session exactly once, with concurrent writers and in a cluster."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from onward.service.server.embedded_store import find_servers
from onward.service.sessions import Position, RedisSessionStore, SessionStore
from tests.service.process import wait_until
from tests.service.sessions.stores import LENGTH, append_to_all, event, open_store, read, stored_items, view


async def test_a_merge_orders_events_by_time_and_keeps_the_latest(store: SessionStore, session_id: str) -> None:
    user = session_id + "-user"
    await store.append(session_id, [view(f"s{ms}", at_ms=ms) for ms in (1, 3, 5)])
    await store.append(user, [view(f"u{ms}", at_ms=ms) for ms in (2, 3, 4)])
    assert (await store.merge(session_id, user)).applied == 3
    assert await stored_items(store, user) == ["u2", "u3", "s3", "u4", "s5"]
    assert await stored_items(store, session_id) == []


async def test_a_merge_takes_over_purchases_and_dislikes(store: SessionStore, session_id: str) -> None:
    user = session_id + "-user"
    sent = [event("purchase", "p", at_ms=1), event("dislike", "d", at_ms=5), event("dislike", "late", at_ms=2)]
    await store.append(session_id, sent)
    await store.append(user, [event("purchase", "q"), view("d", at_ms=3), view("late", at_ms=4)])
    await store.merge(session_id, user)
    session = await read(store, user)
    assert (session.purchased, session.hidden) == (frozenset({"p", "q"}), frozenset({"d"}))
    assert session.item_ids == ["p", "late", "q"]


async def test_event_ids_are_known_in_both_sessions_after_a_merge(store: SessionStore, session_id: str) -> None:
    user = session_id + "-user"
    await store.append(session_id, [view("a", "1")])
    await store.merge(session_id, user)
    for session in (session_id, user):
        assert (await store.append(session, [view("a", "1")])).applied == 0


async def test_a_merge_advances_the_position_of_the_target(store: SessionStore, session_id: str) -> None:
    user = session_id + "-user"
    before = Position.parse((await store.append(user, [view("a")])).position)
    await store.append(session_id, [view("b"), event("impression", "c")])
    merged = await store.merge(session_id, user)
    after = Position.parse((await read(store, user)).position)
    assert merged.position == str(after)
    assert (after.generation, after.number) == (before.generation, before.number + 2)


async def test_events_appended_during_merges_are_in_one_of_the_sessions_once(
    kind: str, valkey: str, session_id: str
) -> None:
    store, user = open_store(kind, valkey, length=1_000), session_id + "-user"
    written = [f"{writer}:{number}" for writer in range(8) for number in range(20)]

    async def write(writer: int) -> None:
        for name in written[writer * 20 : writer * 20 + 20]:
            await store.append(session_id if writer % 2 else user, [view(name, name)])

    async def merge() -> None:
        for _ in range(10):
            await store.merge(session_id, user)

    await asyncio.gather(*map(write, range(8)), *(merge() for _ in range(3)))
    items = await stored_items(store, session_id) + await stored_items(store, user)
    assert sorted(items) == sorted(written)
    await store.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The URL of a cluster of one node, which refuses calls whose keys are not in one hash slot."""
    with closing(socket.socket()) as node_socket, closing(socket.socket()) as bus_socket:
        node_socket.bind(("127.0.0.1", 0))
        bus_socket.bind(("127.0.0.1", 0))
        port, bus = node_socket.getsockname()[1], bus_socket.getsockname()[1]
    options = ["--port", str(port), "--cluster-port", str(bus), "--bind", "127.0.0.1", "--cluster-enabled", "yes"]
    server = [str(find_servers()[0]), *options, "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(server, stdout=subprocess.DEVNULL)

    try:
        with SyncRedis(port=port, retry=Retry(ConstantBackoff(0.05), 200)) as node:
            node.cluster("addslotsrange", "0", "16383")
            wait_until(lambda: "ok" in str(node.cluster("info")["cluster_state"]))
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def test_each_call_uses_keys_of_one_hash_slot(cluster: str) -> None:
    store = RedisSessionStore.connect(cluster, length=LENGTH, ttl=timedelta(minutes=1), timeout=timedelta(seconds=5))
    await store.append("a", [view("x", "1"), event("dislike", "y")], keeps_answer=True)
    await append_to_all(store, {"b": [view("y", "1")], "c": [view("z")]})
    assert (await store.merge("a", "b")).applied == 1
    assert await stored_items(store, "b") == ["y", "x"]
    for session_id in "abc":
        await store.delete(session_id)
    async with Redis.from_url(cluster) as redis:
        assert await redis.keys() == []
    await store.close()
