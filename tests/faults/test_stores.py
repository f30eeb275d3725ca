"""Faults of the session store."""

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from tests.faults.conftest import Record
from tests.faults.row import Row
from tests.faults.slow_proxy import slow_proxy
from tests.faults.traffic import Traffic
from tests.redis_servers import RedisServer
from tests.service.process import ServiceProcess, wait_until
from tests.service.redis_client.test_topologies import sentinel_group, url_of
from tests.service.shop import ITEMS

QUIET_S, FAULT_S = 1.0, 3.0
STORE_TIMEOUT_MS, SLACK_MS = 100, 20
MAX_LOST = 50
"""Half a second of events: the most that the moment of a switch may cost."""


def service_at(bundles: Path, url: str, **environment: str) -> ServiceProcess:
    return ServiceProcess(bundles, environment={"REDIS_URL": url, **environment}).wait_until_ready()


@pytest.fixture
def store(tmp_path: Path) -> RedisServer:
    return RedisServer(tmp_path / "store")


def test_killed_and_started_again_empty(bundles: Path, store: RedisServer, record: Record) -> None:
    store.start()
    with ExitStack() as running:
        running.callback(store.kill)
        service = running.enter_context(service_at(bundles, store.url))
        client = running.enter_context(service.client())
        client.delete("/v1/items/item-1").raise_for_status()
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            store.kill()
            time.sleep(FAULT_S)
            store.start()
            ended_s = time.perf_counter()
            time.sleep(QUIET_S + 2)
        wait_until(lambda: client.get("/v1/items/item-1").status_code == 404, 5)
        row = traffic.row(
            Row(
                "Stores",
                f"the store is killed, and started again empty {FAULT_S:.0f} s later",
                "recommendations go on, degraded; events are refused, never lost in silence; a deleted item stays "
                "deleted; normal within 2 s of its return",
                observed="live changes were put back",
            ),
            ended_s=ended_s,
        )
        answered = all(outcome.status in (200, 503) for outcome in traffic.outcomes)
        record(replace(row, kept=answered and not row.crossed, in_time=(row.recovered_s or 0) <= 2))


def test_silent(bundles: Path, store: RedisServer, record: Record) -> None:
    store.start()
    with ExitStack() as running:
        running.callback(store.kill)
        pid = int(Redis.from_url(store.url).info("server")["process_id"])
        service = running.enter_context(service_at(bundles, store.url))
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(FAULT_S)
            os.kill(pid, signal.SIGCONT)
            ended_s = time.perf_counter()
            time.sleep(QUIET_S + 2)
        row = traffic.row(
            Row(
                "Stores",
                f"the store hangs for {FAULT_S:.0f} s (SIGSTOP)",
                "as when it is killed; acknowledged events are kept",
                observed="worst latency includes the 100 ms that an answer waits for the store",
            ),
            ended_s=ended_s,
        )
        with service.client() as client:
            row = replace(row, lost=traffic.lost(client))
        kept = not (row.failed or row.lost or row.crossed)
        record(replace(row, kept=kept, in_time=(row.recovered_s or 0) <= 2))


@pytest.mark.parametrize("delay_ms", [50, 200, 1000])
def test_slow(bundles: Path, store: RedisServer, record: Record, delay_ms: int) -> None:
    store.start()
    with ExitStack() as running:
        running.callback(store.kill)
        proxy = running.enter_context(slow_proxy(store.port))
        service = running.enter_context(service_at(bundles, f"redis://127.0.0.1:{proxy.port}"))
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            proxy.delay_s = delay_ms / 1000
            time.sleep(FAULT_S)
            proxy.delay_s = 0.0
            ended_s = time.perf_counter()
            time.sleep(QUIET_S + 2)
        row = traffic.row(
            Row(
                "Stores",
                f"each reply of the store takes {delay_ms} ms longer for {FAULT_S:.0f} s",
                "no answer waits longer than 100 ms for it; slower ones are degraded",
            ),
            ended_s=ended_s,
        )
        in_time = (row.p99_ms or 0) <= STORE_TIMEOUT_MS + SLACK_MS
        record(replace(row, kept=not (row.failed or row.crossed), in_time=in_time))


def test_flapping(bundles: Path, store: RedisServer, record: Record) -> None:
    store.start()
    with ExitStack() as running:
        running.callback(store.kill)
        proxy = running.enter_context(slow_proxy(store.port))
        service = running.enter_context(service_at(bundles, f"redis://127.0.0.1:{proxy.port}"))
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            before = proxy.accepted
            began_s = time.perf_counter()
            while time.perf_counter() - began_s < 2 * FAULT_S:
                proxy.refuse()
                time.sleep(0.3)
                proxy.accept()
                time.sleep(0.3)
            ended_s = time.perf_counter()
            connects_per_s = (proxy.accepted - before) / (ended_s - began_s)
            time.sleep(QUIET_S + 2)
        row = traffic.row(
            Row(
                "Stores",
                f"the store goes and comes every 300 ms, for {2 * FAULT_S:.0f} s",
                "no rush of new connections; normal within 2 s of the end",
                observed=f"{connects_per_s:.1f} connections opened a second",
            ),
            ended_s=ended_s,
        )
        kept = connects_per_s <= 10 and not (row.failed or row.crossed)
        record(replace(row, kept=kept, in_time=(row.recovered_s or 0) <= 2))


def test_planned_failover(bundles: Path, tmp_path: Path, record: Record) -> None:
    with ExitStack() as running:
        (_master, replica), watchers = running.enter_context(sentinel_group(tmp_path / "sentinel"))
        service = running.enter_context(service_at(bundles, url_of(watchers)))
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            watchers[0].execute("sentinel", "failover", "shop")
            wait_until(lambda: replica.execute("role")[0] in (b"master", "master"), 20)
            ended_s = time.perf_counter()
            time.sleep(QUIET_S + 3)
        row = traffic.row(
            Row(
                "Stores",
                "SENTINEL FAILOVER: a replica becomes master",
                "the new master is used within 1 s; only events of the moment of the switch may be lost",
            ),
            ended_s=ended_s,
        )
        with service.client() as client:
            row = replace(row, lost=traffic.lost(client))
        acknowledged = sum(map(len, traffic.acknowledged.values()))
        row = replace(row, observed=f"{acknowledged} events acknowledged")
        kept = not (row.failed or row.crossed) and (row.lost or 0) < MAX_LOST
        record(replace(row, kept=kept, in_time=(row.recovered_s or 0) <= 2))


def test_master_killed(bundles: Path, tmp_path: Path, record: Record) -> None:
    with ExitStack() as running:
        (master, replica), watchers = running.enter_context(sentinel_group(tmp_path / "sentinel"))
        service = running.enter_context(service_at(bundles, url_of(watchers)))
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            master.kill()
            wait_until(lambda: replica.execute("role")[0] in (b"master", "master"), 20)
            ended_s = time.perf_counter()
            time.sleep(QUIET_S + 3)
        row = traffic.row(
            Row(
                "Stores",
                "the master behind Sentinels is killed",
                "degraded until a replica is master; events that were not replicated yet may be lost",
                observed="recovery counts from the moment when the replica is master",
            ),
            ended_s=ended_s,
        )
        with service.client() as client:
            row = replace(row, lost=traffic.lost(client))
        kept = not (row.failed or row.crossed) and (row.lost or 0) < MAX_LOST
        record(replace(row, kept=kept, in_time=(row.recovered_s or 0) <= 3))


def test_embedded_store_killed(bundles: Path, record: Record) -> None:
    with ServiceProcess(bundles).wait_until_ready() as service:
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            url = service.events("embedded session store started")[0]["url"]
            os.kill(int(Redis.from_url(url).info("server")["process_id"]), signal.SIGKILL)
            ended_s = time.perf_counter()
            time.sleep(QUIET_S + 4)
        row = traffic.row(
            Row("Stores", "the embedded store is killed", "it is started again, and said in the log; its data is gone"),
            ended_s=ended_s,
        )
        restarts = len(service.events("embedded session store started")) - 1
        row = replace(row, observed=f"started again {restarts} time{'s' * (restarts != 1)}")
        kept = restarts == 1 and not (row.failed or row.crossed)
        record(replace(row, kept=kept, in_time=(row.recovered_s or 0) <= 4))


def test_flushed(bundles: Path, store: RedisServer, record: Record) -> None:
    store.start()
    with ExitStack() as running:
        running.callback(store.kill)
        service = running.enter_context(service_at(bundles, store.url))
        client = running.enter_context(service.client())
        client.delete("/v1/items/item-1").raise_for_status()
        client.put("/v1/scenarios/home", json={"k": 4}).raise_for_status()
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            store.execute("flushall")
            ended_s = time.perf_counter()
            time.sleep(QUIET_S + 2)
        wait_until(lambda: client.get("/v1/scenarios/home").is_success, 5)
        deleted = client.get("/v1/items/item-1").status_code
        row = traffic.row(
            Row(
                "Stores",
                "FLUSHALL",
                "live changes of items and scenarios are put back by the workers; sessions begin anew",
                observed="the deleted item and the scenario are as before",
            ),
            ended_s=ended_s,
        )
        record(replace(row, kept=deleted == 404 and not (row.failed or row.crossed)))
