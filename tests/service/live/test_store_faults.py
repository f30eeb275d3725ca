"""Replicas and store agree again after every fault, and what was stored is not lost without a word."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import structlog.testing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from onward.service import telemetry
from onward.service.errors import LiveStoreUnavailable
from onward.service.live import replica as replica_module
from onward.service.live import versioned_store
from onward.service.live.replica import Replica
from onward.service.live.versioned_store import MAX_PART_BYTES, PAGE_SIZE, ChangesPage, Entry, InMemoryVersionedStore
from tests.redis_servers import redis_servers
from tests.service.live.replicas import put, reconnected, values
from tests.service.live.servers import MemoryServer, RedisServerOfStore, StoreServer

WORKERS = 2
LONG_S = 10
NAMES = st.sampled_from("abcd")
numbers = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def server(request: pytest.FixtureRequest, valkey: str) -> StoreServer:
    in_memory = request.param == "memory"
    return MemoryServer() if in_memory else RedisServerOfStore(valkey, f"faults-{next(numbers)}")


@pytest.fixture
async def workers(server: StoreServer) -> AsyncIterator[list[Replica]]:
    replicas = [Replica(server.open(), "things") for _ in range(WORKERS)]
    yield replicas
    for replica in replicas:
        await replica.close()


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


class FlappingStore(InMemoryVersionedStore):
    """Each call opens another connection."""

    is_flapping = True

    async def changes_since(self, generation: str, sequence: int) -> ChangesPage:
        await asyncio.sleep(0)
        self.epoch += self.is_flapping
        return await super().changes_since(generation, sequence)


async def stored_entries(server: StoreServer) -> Mapping[str, Entry]:
    """Return the entries that a worker reads which has just started."""
    reader = Replica(server.open(), "things")
    try:
        return await reader.read()
    finally:
        await reader.close()


def lines_of(log: list[Any], event: str) -> list[Any]:
    return [line for line in log if line["event"] == event]


async def test_a_worker_that_knows_a_lost_tail_takes_the_stores_entries_and_can_edit_them(
    server: StoreServer, workers: list[Replica], log: list[Any]
) -> None:
    worker, other = workers
    await put(worker, {"a": 1})
    snapshot = await server.snapshot()
    await put(worker, {"a": 2, "b": 1})
    await server.fail_over(snapshot)
    await reconnected(other.read)
    for value in (3, 2, 1):  # so that the store is beyond the version that the worker knows
        await put(other, {"c": value})
    assert await reconnected(worker.read) == other.entries
    assert values(worker) == {"a": 1, "c": 1}
    (line,) = lines_of(log, "live entries lost")
    assert (line["what"], line["count"], line["names"]) == ("things", 2, ["a", "b"])
    await put(worker, {"a": 3})
    await other.follow()
    assert values(worker) == values(other) == {"a": 3, "c": 1}


async def test_a_lost_tail_is_noticed_on_the_same_connection_until_others_have_written(
    server: StoreServer, workers: list[Replica]
) -> None:
    await put(workers[0], {"a": 1})
    snapshot = await server.snapshot()
    await put(workers[0], {"b": 1})
    await server.flush()
    await server.load(snapshot)
    await workers[0].follow()
    assert values(workers[0]) == {"a": 1}


async def test_a_store_that_another_worker_began_anew_replaces_the_entries(
    server: StoreServer, workers: list[Replica], log: list[Any]
) -> None:
    worker, started_later = workers
    await put(worker, {"a": 1, "b": 1})
    sequence = worker.entries["b"].sequence
    await server.flush()
    await put(started_later, {"c": 1})
    assert await worker.read() == started_later.entries
    assert values(worker) == {"c": 1}
    assert worker.entries["c"].sequence > sequence
    assert [line["names"] for line in lines_of(log, "live entries lost")] == [["a", "b"]]


async def test_a_lost_removal_counts_as_lost(server: StoreServer, workers: list[Replica], log: list[Any]) -> None:
    await put(workers[0], {"a": 1})
    snapshot = await server.snapshot()
    await put(workers[0], {"a": None})
    await server.fail_over(snapshot)
    await reconnected(workers[0].read)
    assert values(workers[0]) == {"a": 1}
    assert [line["names"] for line in lines_of(log, "live entries lost")] == [["a"]]


async def test_a_new_connection_to_an_unchanged_store_changes_and_loses_nothing(
    server: StoreServer, workers: list[Replica], log: list[Any]
) -> None:
    await put(workers[0], {"a": 1, "b": 1})
    await put(workers[0], {"b": None})
    before = workers[0].entries
    await server.fail_over(await server.snapshot())
    assert await reconnected(workers[0].read) is before
    assert not lines_of(log, "live entries lost")


async def test_a_store_whose_connections_are_lost_again_and_again_is_unavailable(log: list[Any]) -> None:
    store = FlappingStore(max_names=10)
    worker = Replica(store, "things")
    async with asyncio.timeout(LONG_S):
        with pytest.raises(LiveStoreUnavailable, match="again and again"):
            await put(worker, {"a": 1})
        assert not await worker.follow()
        store.is_flapping = False
        await put(worker, {"a": 1})
    assert values(worker) == {"a": 1}


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_an_emptied_store_is_restored_by_the_first_worker(
    server: StoreServer, workers: list[Replica], log: list[Any], *, is_restarted: bool
) -> None:
    worker, other = workers
    await put(worker, {"a": 1, "b": [1], "c": 1})
    await put(worker, {"a": {"x": "ä"}, "c": None})
    await other.follow()
    before = worker.entries
    await (server.fail_over({}) if is_restarted else server.flush())
    assert await reconnected(worker.read) is before
    assert await stored_entries(server) == before
    assert await reconnected(other.read) == before
    assert [line["count"] for line in lines_of(log, "live store restored")] == [3]
    assert not lines_of(log, "live entries lost")
    await put(other, {"c": 2})
    assert other.entries["c"].revision == before["c"].revision + 1
    assert other.entries["c"].sequence > before["c"].sequence


async def test_an_edit_restores_an_emptied_store_first(server: StoreServer, workers: list[Replica]) -> None:
    await put(workers[0], {"a": 1, "b": 1})
    await server.flush()
    await put(workers[0], {"b": 2, "c": 1})
    assert {name: entry.value for name, entry in (await stored_entries(server)).items()} == {"a": 1, "b": 2, "c": 1}


async def test_a_worker_that_knew_more_than_the_restored_store_counts_the_rest_as_lost(
    server: StoreServer, workers: list[Replica], log: list[Any]
) -> None:
    behind, ahead = workers
    await put(behind, {"a": 1})
    await put(ahead, {"b": 1})
    await server.flush()
    await behind.follow()
    await put(behind, {"c": 1})
    assert await ahead.read() == behind.entries
    assert values(behind) == {"a": 1, "c": 1}
    assert [line["names"] for line in lines_of(log, "live entries lost")] == [["b"]]


async def test_a_worker_that_never_read_the_store_restores_nothing(
    server: StoreServer, workers: list[Replica], log: list[Any]
) -> None:
    await put(workers[0], {"a": 1})
    await server.flush()
    await workers[1].follow()
    assert await stored_entries(server) == {}
    await workers[0].follow()
    assert await workers[1].read() == workers[0].entries
    assert values(workers[1]) == {"a": 1}


async def test_a_store_that_is_cleared_on_purpose_empties_all_workers_and_loses_nothing(
    server: StoreServer, workers: list[Replica], log: list[Any]
) -> None:
    worker, other = workers
    await put(worker, {"a": 1, "b": 1, "c": 1})
    await put(worker, {"c": None})
    await other.follow()
    store = server.open()
    assert await store.clear() == 2
    await store.close()
    for replica in workers:
        assert await replica.follow()
        assert replica.entries == {}
    await server.flush()
    assert await worker.read() == {}
    await put(other, {"a": 1})
    assert await worker.read() == other.entries
    assert not lines_of(log, "live entries lost")


async def test_dropped_names_leave_every_worker_and_are_not_lost(
    server: StoreServer, workers: list[Replica], log: list[Any]
) -> None:
    worker, other = workers
    await put(worker, {"a": 1, "b": 1, "kept": "marked", "c": 1})
    through = worker.entries["c"].sequence
    await put(other, {"b": 2, "d": None})
    store = server.open()
    assert await store.drop(through, mark='"marked"') == (2, 3)
    assert await store.drop(through, mark='"marked"') == (0, 3)
    for replica in workers:
        await replica.follow()
        assert values(replica) == {"b": 2, "kept": "marked", "d": None}
    await put(worker, {"a": 3, "d": 4})
    await other.follow()
    assert values(other) == {"a": 3, "b": 2, "d": 4, "kept": "marked"}
    assert other.entries["a"].revision == 1
    await server.flush()
    assert await worker.read() == other.entries
    await store.close()
    assert not lines_of(log, "live entries lost")


async def test_many_names_are_dropped_in_parts_while_others_write(valkey: str, log: list[Any]) -> None:
    server = RedisServerOfStore(valkey, "dropped")
    writer, store = Replica(server.open(), "things"), server.open()
    names = [f"{number}" for number in range(3 * PAGE_SIZE)]
    await put(writer, dict.fromkeys(names, 1))
    through = writer.entries[names[2 * PAGE_SIZE]].sequence
    run_script = store._drop
    calls = itertools.count()

    async def while_others_write(*arguments: Any) -> Any:
        outcome = await run_script(*arguments)
        number = next(calls)
        if number < PAGE_SIZE:
            await put(writer, {names[number]: 2, f"new {number}": 1})
        return outcome

    store._drop = while_others_write  # type: ignore[assignment]
    dropped = await store.drop(through, mark="nothing")
    await writer.follow()
    assert dropped.kept <= len(writer.entries) == PAGE_SIZE - 1 + 2 * next(calls)
    assert writer.entries[names[0]].value == 2
    assert names[2 * PAGE_SIZE - 1] not in writer.entries
    assert await stored_entries(server) == writer.entries
    await writer.close()
    await store.close()
    assert not lines_of(log, "live entries lost")


async def test_a_put_into_another_generation_than_the_writer_read_is_a_conflict(server: StoreServer) -> None:
    store = server.open()
    name = versioned_store.Put("a", 1, 1, 0)
    assert await store.put("another", [name, name]) == ["conflict", "conflict"]
    assert isinstance((await store.put("", [name]))[0], Entry)
    assert await store.put("", [versioned_store.Put("b", 1, 1, 0)]) == ["conflict"]
    await store.close()


async def test_one_of_many_offers_is_taken_whole(server: StoreServer) -> None:
    stores = [server.open() for _ in range(4)]
    offers = [
        {f"{name}": Entry(name + 1, worker, worker) for name in range(2 * PAGE_SIZE)} for worker in range(len(stores))
    ]
    taken = await asyncio.gather(
        *(store.restore(offer) for store, offer in zip(stores, offers, strict=True)),
    )
    assert sum(taken) == 1
    assert await stored_entries(server) == offers[taken.index(True)]
    for store in stores:
        await store.close()


async def test_staged_parts_that_are_gone_restore_nothing_and_taken_ones_stay(valkey: str, redis: Redis) -> None:
    async def staged() -> list[bytes]:
        return [key async for key in redis.scan_iter("onward:{evicted}:*:*")]

    store = RedisServerOfStore(valkey, "evicted").open()
    entries = {str(name): Entry(name, 1, "x" * (MAX_PART_BYTES // 2)) for name in range(1, 6)}
    run = store._restore

    async def run_and_evict(keys: Any, arguments: Any) -> Any:
        reply = await run(keys, arguments)
        for key in await staged():
            assert 0 < await redis.ttl(key) <= versioned_store.STAGED_SECONDS
            await redis.delete(key)
        return reply

    with patch.object(store, "_restore", run_and_evict):
        assert not await store.restore(entries)
    assert await store.restore(entries)
    assert await staged() == []
    assert [await redis.ttl(key) async for key in redis.scan_iter("onward:{evicted}:*")] == [-1, -1, -1]
    assert not await store.restore({})
    assert await staged() == []
    await store.close()


async def test_a_server_that_restarts_empty_is_restored(tmp_path: Path, log: list[Any]) -> None:
    with redis_servers(tmp_path, 1) as (server,):
        workers = [Replica(RedisServerOfStore(server.url, "things").open(), "things") for _ in range(WORKERS)]
        await put(workers[0], {"a": 1, "b": 1})
        await put(workers[1], {"b": None})
        before = workers[1].entries
        server.kill()
        assert not await workers[0].follow()
        server.start()
        assert int(server.execute("dbsize")) == 0
        assert await reconnected(workers[1].read) == before
        assert await reconnected(workers[0].read) == before
        assert [line["event"] for line in log] == ["live store failed", "live store restored"]
        for worker in workers:
            await worker.close()


class TwoWorkers(RuleBasedStateMachine):
    """Two workers edit, remove and follow while the store loses its tail, is emptied, and is cleared on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.server = self.new_server()
        self.store = self.server.open()
        self.replicas = [Replica(self.server.open(), "things") for _ in range(WORKERS)]
        self.snapshots: list[Mapping[Any, Any]] = []
        self.reported: list[str] = []
        self.cleared = 0
        self.values = itertools.count()
        self.patched = ExitStack()
        for changed in (
            patch.object(telemetry, "live_entries_lost", lambda what, names: self.reported.extend(names)),
            patch.object(versioned_store, "REMEMBERED_TOMBSTONES", 2),
            patch.object(replica_module, "MAX_TRIES", 4),
        ):
            self.patched.enter_context(changed)

    def teardown(self) -> None:
        self.both_follow()
        self.patched.close()
        for replica in (*self.replicas, Replica(self.store, "things")):
            self.runner.run(replica.close())
        self.runner.close()

    def new_server(self) -> StoreServer:
        return MemoryServer()

    def stored(self) -> Mapping[str, Entry]:
        reader = Replica(self.store, "things")
        return self.runner.run(reconnected(reader.read))

    def generation(self) -> str:
        page = self.runner.run(reconnected(lambda: self.store.changes_since("", 0)))
        return page.generation

    def checked(self, worker: int, edits: Mapping[str, Any]) -> None:
        """Let a worker edit or, without edits, follow; check what disappeared from its entries."""
        replica = self.replicas[worker]
        before, restores = replica.entries, bool(replica._generation) and not self.generation()
        self.reported.clear()
        if edits:
            outcomes = self.runner.run(reconnected(lambda: put(replica, dict(edits))))
            assert all(isinstance(outcome, Entry) for outcome in outcomes.values()), outcomes
        else:
            self.runner.run(reconnected(replica.read))
        after = replica.entries
        for name in before.keys() - edits.keys():
            known, now = before[name], after.get(name)
            if restores and known.value is not None:  # tombstones may be forgotten by the edit
                assert now == known
            is_gone = known.value is not None if now is None else now.sequence < known.sequence
            assert not is_gone or known.sequence <= self.cleared or name in self.reported, name

    @rule(worker=st.integers(0, WORKERS - 1), names=st.sets(NAMES, min_size=1), removes=st.booleans())
    def edit(self, worker: int, names: set[str], *, removes: bool) -> None:
        self.checked(worker, {name: None if removes else next(self.values) for name in names})

    @rule(worker=st.integers(0, WORKERS - 1))
    def follow(self, worker: int) -> None:
        self.checked(worker, {})

    @rule()
    def both_follow(self) -> None:
        for worker in (*range(WORKERS), 0):
            self.checked(worker, {})
        assert [replica.entries for replica in self.replicas] == [self.stored()] * WORKERS

    @rule()
    def replicate(self) -> None:
        self.snapshots.append(self.runner.run(self.server.snapshot()))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def fail_over(self, data: st.DataObject) -> None:
        self.runner.run(self.server.fail_over(data.draw(st.sampled_from(self.snapshots))))

    @rule()
    def flush(self) -> None:
        self.runner.run(self.server.flush())

    @rule()
    def restart_empty(self) -> None:
        self.runner.run(self.server.fail_over({}))

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        known = [entry.sequence for entry in self.stored().values()]
        if known:
            through = data.draw(st.sampled_from(known))
            self.cleared = max(self.cleared, through)
            self.runner.run(reconnected(lambda: self.store.drop(through, mark="nothing")))

    @rule()
    def clear(self) -> None:
        known = [*self.stored().values(), *(entry for replica in self.replicas for entry in replica.entries.values())]
        self.cleared = max((self.cleared, *(entry.sequence for entry in known)))
        self.runner.run(reconnected(self.store.clear))


def test_two_workers_agree_with_a_store_in_memory_after_any_faults() -> None:
    options = settings(max_examples=40, stateful_step_count=25, deadline=None, derandomize=True)
    run_state_machine_as_test(TwoWorkers, settings=options)


def test_two_workers_agree_with_a_store_on_a_server_after_any_faults(valkey: str) -> None:
    class TwoWorkersOfAServer(TwoWorkers):
        """The same with a real server."""

        def new_server(self) -> StoreServer:
            return RedisServerOfStore(valkey, f"machine-{next(numbers)}")

    options = settings(
        max_examples=8,
        stateful_step_count=15,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(TwoWorkersOfAServer, settings=options)
