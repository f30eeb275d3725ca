"""All stores work behind Sentinels and in a cluster, and survive a failover."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from secrets import token_bytes

import pytest
import structlog.testing
from redis.asyncio import Redis
from redis.exceptions import DataError, RedisError

from onward.service.errors import ServiceError, SessionStoreUnavailable
from onward.service.http.admission.shared_buckets import RedisBuckets
from onward.service.live.versioned_store import Put, RedisVersionedStore
from onward.service.rate_limit import RateLimit
from onward.service.records.answer_ids import RedisSecrets
from onward.service.records.answer_stores import AnswerKey, AnswerWrite, RedisAnswerStore, StoredPages
from onward.service.records.counters import RedisCounters
from onward.service.records.live_popularity import RedisPopularityStore
from onward.service.redis_client import Script, connect
from onward.service.redis_client.connection import GRACE_S, HANDSHAKE_TIMEOUT_S
from onward.service.redis_client.sentinel import CHECK_INTERVAL_S
from onward.service.sessions import RedisSessionStore, session_digest
from tests.redis_servers import HOST, SLOTS, RedisServer, redis_servers
from tests.service.process import wait_until
from tests.service.sessions.stores import LENGTH, append_to_all, known, listed, read, stored_items, view

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # each failover can happen only once

MINUTE = timedelta(minutes=1)
TIMEOUT = timedelta(milliseconds=500)
RECOVERY_TIMEOUT_S = 10.0
NODE_TIMEOUT_MS = 500


def is_synchronized(replica: RedisServer) -> bool:
    return bool(replica.execute("info", "replication").get("master_link_status") == "up")


@contextmanager
def sentinel_group(folder: Path, *options: str) -> Iterator[tuple[list[RedisServer], list[RedisServer]]]:
    """Run a master with a replica, and three Sentinels that monitor it."""
    with ExitStack() as running:
        servers = running.enter_context(redis_servers(folder, 2, "--repl-diskless-sync-delay", "0", *options))
        master, replica = servers
        replica.execute("replicaof", HOST, master.port)
        wait_until(lambda: is_synchronized(replica))
        watchers = running.enter_context(redis_servers(folder, 3, "--sentinel"))
        for watcher in watchers:
            watcher.execute("sentinel", "monitor", "shop", HOST, master.port, 2)
            for option, value in (("down-after-milliseconds", 300), ("failover-timeout", 2_000)):
                watcher.execute("sentinel", "set", "shop", option, value)
        for watcher in watchers:
            wait_until(lambda watcher=watcher: len(watcher.execute("sentinel", "sentinels", "shop")) == 2)
            wait_until(lambda watcher=watcher: len(watcher.execute("sentinel", "replicas", "shop")) == 1)
        yield servers, watchers


def url_of(watchers: list[RedisServer]) -> str:
    return f"redis+sentinel://{','.join(watcher.address for watcher in watchers)}/shop/0"


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, RedisServer]]:
    """The URL of three Sentinels, and the master that they monitor, which has a replica."""
    with sentinel_group(tmp_path_factory.mktemp("sentinel")) as ((master, _), watchers):
        yield url_of(watchers), master


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """A cluster of three masters; the fourth server is a replica of the first."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS))
    folder = tmp_path_factory.mktemp("cluster")
    with redis_servers(folder, 4, *options, "--repl-diskless-sync-delay", "0") as servers:
        first, *others = servers
        for number, server in enumerate(servers[:3]):
            server.execute("cluster", "addslotsrange", SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1)
        for other in others:
            first.execute("cluster", "meet", HOST, other.port, other.bus_port)
        for server in servers:
            wait_until(lambda server=server: len(server.execute("cluster nodes")) == 4)
        wait_until(lambda: first.execute("cluster myid").decode() in str(servers[3].execute("cluster nodes")))
        servers[3].execute("cluster", "replicate", first.execute("cluster myid"))
        wait_until(lambda: is_synchronized(servers[3]))
        for server in servers:
            wait_until(lambda server=server: server.execute("cluster info")["cluster_state"] == "ok")
        yield servers


@pytest.fixture
def cluster(nodes: list[RedisServer]) -> str:
    return f"redis+cluster://{','.join(node.address for node in nodes[1:3])}"


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore.connect(url, length=LENGTH, ttl=MINUTE, timeout=TIMEOUT)
    try:
        yield store
    finally:
        await store.close()


async def wait_until_it_stores(store: RedisSessionStore, session_id: str) -> None:
    deadline_s = time.monotonic() + RECOVERY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with suppress(SessionStoreUnavailable):
            await store.append(session_id, [view("later", "later")])
            return
        await asyncio.sleep(0.02)
    pytest.fail("the store did not recover in time")


async def time_of_switch(watcher: RedisServer) -> float:
    """Return when a Sentinel announces that another server is the master."""
    async with Redis(host=HOST, port=watcher.port) as client, client.pubsub() as announcements:
        await announcements.subscribe("+switch-master")
        async for announcement in announcements.listen():
            if announcement["type"] == "message":
                return time.monotonic()
    raise AssertionError


async def use_all_stores(url: str) -> None:
    """Use every store of the service that is kept in Redis."""
    client = connect(url, TIMEOUT)
    versioned = RedisVersionedStore.connect(url, "topologies", max_names=10, timeout=TIMEOUT)
    async with open_store(url) as store, aclosing(client):
        names = [f"visitor-{number}" for number in range(150)]
        for _ in range(2):
            sessions = await append_to_all(store, {name: [view(name, "1")] for name in names})
            assert {tuple(known(session).item_ids) for session in sessions.values()} == {(name,) for name in names}
        assert (await store.merge(names[0], names[1])).applied == 1
        assert sorted(await stored_items(store, names[1])) == names[:2]
        await store.delete(names[1])
        assert await stored_items(store, names[1]) == []

        answers = RedisAnswerStore(client, ttl=MINUTE)
        keys = [AnswerKey(session_digest(name), token_bytes(8)) for name in names[:20]]
        await answers.write([AnswerWrite(key, "", b"page") for key in keys])
        assert await answers.read(keys) == [StoredPages(1, b"page")] * 20
        assert await answers.add_page(keys[0], 1, b"+")
        assert await answers.claim([(key, "0 0 view") for key in keys]) == [True] * 20
        await answers.forget(session_digest(names[0]))
        secrets = RedisSecrets(client, answer_ttl=MINUTE, prefix="onward:topologies:")
        secret = await secrets.offer(20_000, token_bytes(32))
        assert await secrets.offer(20_000, token_bytes(32)) == await secrets.get(20_000) == secret

        counters = RedisCounters(client, name="topologies")
        await counters.add({"served": 2})
        assert (await counters.sums(MINUTE)).sums == {"served": 2}
        assert await RedisPopularityStore(client, half_life=MINUTE, name="topologies").add({"a": 1.5}) == {"a": 1.5}

        limit = RedisBuckets(client, RateLimit(3, "day"))
        assert [await limit.take(name, 2) for name in names[:20]] == [(2, 0)] * 20
        assert [(await limit.take(name, 2)).tokens for name in names[:20]] == [1] * 20

        (entry,) = await versioned.put("", [Put("x", 1, {"a": 1}, 0)])
        assert list((await versioned.changes_since("", 0)).entries.values()) == [entry]
        await versioned.close()


class TestSentinel:
    """A master behind Sentinels."""

    async def test_all_stores_use_the_master_and_follow_a_failover(self, sentinels: tuple[str, RedisServer]) -> None:
        url, master = sentinels
        await use_all_stores(url)
        client = connect(url, TIMEOUT)
        async with open_store(url) as store, aclosing(client):
            await client.execute([("PING",)])
            epoch = client.epoch
            await store.append("visitor", [view("a", "1")])
            master.execute("wait", 1, 1_000)
            master.kill()
            await wait_until_it_stores(store, "visitor")
            assert await stored_items(store, "visitor") == ["a", "later"]
            with suppress(RedisError, OSError):
                await client.execute([("PING",)])
            assert client.epoch > epoch

    async def test_a_planned_failover_is_followed_when_a_sentinel_announces_it(self, tmp_path: Path) -> None:
        acknowledged: dict[str, float] = {}
        with sentinel_group(tmp_path) as ((old, new), watchers):
            async with open_store(url_of(watchers)) as store:
                await wait_until_it_stores(store, "first")
                switched_s = asyncio.create_task(time_of_switch(watchers[0]))
                await asyncio.sleep(0.1)
                watchers[0].execute("sentinel", "failover", "shop")
                number = 0
                while not switched_s.done() or time.monotonic() < switched_s.result() + 2:
                    with suppress(SessionStoreUnavailable):
                        await store.append(f"visitor-{number}", [view("a")])
                        acknowledged[f"visitor-{number}"] = time.monotonic()
                    number += 1
                    await asyncio.sleep(0.01)
                lost = [name for name in acknowledged if not await stored_items(store, name)]
                assert old.execute("info", "replication")["role"] == "master", "Sentinel makes it a replica much later"
                assert new.execute("info", "replication")["role"] == "master"
        assert max(acknowledged.values()) > switched_s.result() + 1
        assert all(acknowledged[name] < switched_s.result() for name in lost)
        assert len(lost) < 10, "only what the old master had not sent to the new one yet"

    async def test_the_documented_rights_at_the_sentinels_suffice(self, tmp_path: Path) -> None:
        page = (Path(__file__).parents[3] / "docs" / "deployment.md").read_text()
        line = next(line for line in page.splitlines() if line.startswith("ACL SETUSER") and "+sentinel|" in line)
        with sentinel_group(tmp_path) as (_, watchers):
            for watcher in watchers:
                watcher.execute(*line.split())
            account = "?sentinel_username=onward&sentinel_password=PASSWORD"
            async with open_store(url_of(watchers) + account) as store:
                await wait_until_it_stores(store, "first")
                await asyncio.sleep(0.1)
                with structlog.testing.capture_logs() as log:
                    watchers[0].execute("sentinel", "failover", "shop")
                    await asyncio.to_thread(
                        wait_until, lambda: log and log[0]["event"] == "master of the store changed"
                    )
                    await wait_until_it_stores(store, "second")

    async def test_sentinels_that_do_not_answer_are_skipped(self, sentinels: tuple[str, RedisServer]) -> None:
        async def never_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        url, _ = sentinels
        async with await asyncio.start_server(never_reply, HOST, 0) as silent:
            port = silent.sockets[0].getsockname()[1]
            async with open_store(url.replace("://", f"://{HOST}:{port},{HOST}:1,")) as store:
                await wait_until_it_stores(store, "another")

    async def test_calls_are_overdue_in_time_while_a_server_that_hangs_is_asked_for_its_role(
        self, tmp_path: Path
    ) -> None:
        timeout_s, waited_s = 0.1, [0.0]
        with sentinel_group(tmp_path) as ((master, _), watchers):
            for watcher in watchers:
                watcher.execute("sentinel", "set", "shop", "down-after-milliseconds", 60_000)
            client = connect(url_of(watchers), timedelta(seconds=timeout_s))
            async with aclosing(client):
                while not await client.execute([("PING",)]):
                    pass
                await asyncio.sleep(CHECK_INTERVAL_S - GRACE_S / 2)
                master.execute("client", "pause", 30_000, "all")
                end_s = time.monotonic() + 2 * CHECK_INTERVAL_S
                while time.monotonic() < end_s:
                    began_s = time.monotonic()
                    with suppress(RedisError, OSError):
                        await client.execute([("PING",)])
                    waited_s.append(time.monotonic() - began_s)
                    await asyncio.sleep(0.01)
        assert max(waited_s) < HANDSHAKE_TIMEOUT_S / 2

    async def test_a_master_name_unknown_to_the_sentinels_is_unavailable(
        self, sentinels: tuple[str, RedisServer]
    ) -> None:
        async with open_store(sentinels[0].replace("/shop/", "/nobody/")) as store:
            with pytest.raises(SessionStoreUnavailable):
                await read(store, "visitor")


class TestCluster:
    """A cluster of three masters, each with a third of the hash slots."""

    async def test_all_stores_use_the_node_of_each_key(self, cluster: str, nodes: list[RedisServer]) -> None:
        await use_all_stores(cluster)
        assert all(int(node.execute("dbsize")) > 50 for node in nodes[:3])

    async def test_sessions_of_all_nodes_are_listed(self, cluster: str) -> None:
        names = {f"listed-{number}" for number in range(60)}
        async with open_store(cluster) as store:
            await append_to_all(store, {name: [view("item")] for name in names})
            found = {session.digest: session.applied for session in await listed(store, 10)}
            assert {found.pop(session_digest(name)) for name in names} == {1}
            assert (await store.page("9-0", 10)).cursor is None

    async def test_commands_follow_a_slot_that_moves(self, cluster: str, nodes: list[RedisServer]) -> None:
        client = connect(cluster, TIMEOUT)
        script = Script(client, "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")
        by_slot = {int(nodes[1].execute("cluster", "keyslot", f"{{{number}}}")): number for number in range(60)}
        third = range(SLOTS // 3, SLOTS * 2 // 3)
        slot, number = next((slot, number) for slot, number in by_slot.items() if slot in third)
        key, absent = f"{{{number}}}:there", f"{{{number}}}:absent"
        source, target = nodes[1], nodes[2]
        assert await script([key], ["before"]) == b"before"
        epoch = client.epoch
        assert await script([key], ["before"]) == b"before"
        assert client.epoch == epoch

        target.execute("cluster", "setslot", slot, "importing", source.execute("cluster myid"))
        source.execute("cluster", "setslot", slot, "migrating", target.execute("cluster myid"))
        replies = await client.execute([("GET", key), ("SET", absent, "new"), ("GET", absent)])
        assert replies == [b"before", b"OK", b"new"]
        assert source.execute("get", key) == b"before"

        source.execute("migrate", HOST, target.port, key, 0, 1_000)
        for node in nodes[:3]:
            node.execute("cluster", "setslot", slot, "node", target.execute("cluster myid"))
        for _ in range(2):
            assert await script([key], ["after"]) == b"after"
            assert client.epoch > epoch
        assert target.execute("get", key) == b"after"
        await client.aclose()

    async def test_commands_of_a_key_that_cannot_be_encoded_fail_by_themselves(self, cluster: str) -> None:
        async with aclosing(connect(cluster, TIMEOUT)) as client:
            replies = await client.execute(
                [command for number in range(8) for command in [("SET", f"k{number}", number), ("GET", "\ud800")]]
            )
            assert replies[::2] == [b"OK"] * 8
            assert all(isinstance(reply, DataError) for reply in replies[1::2])
            (reply,) = await client.execute([("GET", "\ud800")])
            assert isinstance(reply, DataError)

    async def test_a_failover_keeps_what_was_stored(self, cluster: str, nodes: list[RedisServer]) -> None:
        names = [f"shopper-{number}" for number in range(100)]
        async with open_store(cluster) as store:
            await append_to_all(store, {name: [view("a", "1")] for name in names})
            nodes[0].execute("wait", 1, 1_000)
            nodes[0].kill()
            sessions = await append_to_all(store, {name: [view("b", "2")] for name in names})
            assert 0 < sum(isinstance(session, ServiceError) for session in sessions.values()) < len(names)
            for name in names:
                await wait_until_it_stores(store, name)
            items = [await stored_items(store, name) for name in names]
            assert all(session_items[0] == "a" and session_items[-1] == "later" for session_items in items)
