"""Changes of the live catalog beside requests: `python -m tests.benchmarks.live_load BUNDLES`.

Starts the service on a server of its own, measures its peak in a closed loop, and then sends requests at half of it in
an open loop, in turns without and with changes of prices and stock, which a sender makes by `POST /v1/items:batch` at a
constant rate. Prints one line of JSON: latencies, failed requests and changes, how long it takes until every worker
shows a change, and the processor time that a change takes in all workers and in the store. Everything runs on the
machine that it is started on: the sender and the load generator take their share of it.
"""

import asyncio
import http.client
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import typer

from onward.bundle import Bundle
from onward.service.bench.load_generator.api import Onward
from onward.service.bench.load_generator.arrivals import Arrivals
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.loads import ClosedLoad, OpenLoad
from onward.service.bench.load_generator.workload import draw_sessions
from onward.service.bench.measurement import Measurement, measure
from onward.service.bench.processes import cpu_seconds
from onward.service.bench.server import Server, started
from onward.service.live.catalog import ITEMS
from onward.service.live.versioned_store import Put, RedisVersionedStore
from onward.training.hardware import machine
from tests.redis_servers import RedisServer, redis_servers

CONNECTIONS = 16
WATCHERS = 8
"""Connections that ask for a changed item; the system spreads them over the workers."""
WATCHED = 100
"""Items that only watched changes concern."""
PROBE_S = 2.0
"""Time from one change that is watched to the next."""
POLL_S = 0.01
STORED_AT_ONCE = 500


class Sender:
    """Changes items at a constant rate, and watches how long some changes take to be seen."""

    def __init__(self, url: str, ids: Sequence[str], rate: float, batch: int, connections: int) -> None:
        self._address = urlsplit(url).netloc
        self._ids, self._watched, self._rate, self._batch = ids[WATCHED:], ids[:WATCHED], rate, batch
        self._connections = connections
        self._random = random.Random(1)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.changes = 0
        self.failed = 0
        self.behind_s = 0.0
        """How far the sender was behind its plan at the end."""
        self.batch_ms: list[float] = []
        self.seen_ms: list[float] = []
        """For each watched change the time from its response until every connection showed it."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send in this block."""
        threads = [threading.Thread(target=self._send) for _ in range(self._connections)]
        threads.append(threading.Thread(target=self._watch))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            self._stop.clear()

    def _send(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        started = due = time.perf_counter()
        sent = 0
        while not self._stop.wait(max(0.0, due - time.perf_counter())):
            began = time.perf_counter()
            self._change(connection, self._random.sample(range(len(self._ids)), self._batch))
            self.batch_ms.append(1e3 * (time.perf_counter() - began))
            sent += self._batch
            due = started + sent * self._connections / self._rate
        self.behind_s = max(self.behind_s, time.perf_counter() - due)
        connection.close()

    def _change(self, connection: http.client.HTTPConnection, places: Sequence[int]) -> None:
        items = [
            {
                "id": self._ids[place],
                "attributes": {"price": round(self._random.uniform(0, 100), 2)},
                "available": self._random.random() > 0.05,
            }
            for place in places
        ]
        status = _ask(connection, "POST", "/v1/items:batch", {"items": items})[0]
        with self._lock:
            self.changes += len(items)
            self.failed += 0 if status == 200 else len(items)

    def _watch(self) -> None:
        """Change one item now and then, and ask on all connections until each shows it."""
        connections = [http.client.HTTPConnection(self._address, timeout=30) for _ in range(WATCHERS)]
        while not self._stop.wait(PROBE_S):
            path, price = f"/v1/items/{random.choice(self._watched)}", 1_000 + random.random()
            _ask(connections[0], "PATCH", path, {"attributes": {"price": price}})
            began = time.perf_counter()
            waiting = connections
            while waiting and time.perf_counter() - began < 30:
                waiting = [one for one in waiting if not _shows(one, path, price)]
                time.sleep(POLL_S)
            self.seen_ms.append(1e3 * (time.perf_counter() - began))
        for connection in connections:
            connection.close()


def _shows(connection: http.client.HTTPConnection, path: str, price: float) -> bool:
    status, item = _ask(connection, "GET", path)
    return status == 200 and bool(item["attributes"].get("price") == price)


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, dict[str, Any]]:
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {} if content is None else {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


async def _store_changes(url: str, ids: Sequence[str]) -> float:
    """Change items in the store, before the service starts; return the seconds."""
    store = RedisVersionedStore.connect(url, ITEMS, max_names=10**7)
    started, generation = time.perf_counter(), ""
    for start in range(0, len(ids), STORED_AT_ONCE):
        some = ids[start : start + STORED_AT_ONCE]
        values = ({"attributes": {"price": float(place % 100)}} for place in range(start, start + len(some)))
        await store.put(generation, [Put(item_id, 1, value, 0) for item_id, value in zip(some, values, strict=True)])
        generation = generation or (await store.changes_since("", 0)).generation
    await store.close()
    return time.perf_counter() - started


def _segments(
    server: Server,
    store: RedisServer,
    bundle: Bundle,
    sender: Sender,
    rate: float,
    seconds: dict[str, float],
    rounds: int,
) -> dict[str, Any]:
    """Run the load in turns without and with changes; return the figures of both, and what a change takes."""
    api, sessions = Onward(), draw_sessions(bundle)
    of_turn: dict[str, list[Measurement]] = {"without": [], "with": []}
    busy: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    with LoadGenerator() as generator:
        for number in range(2 * rounds):
            turn = ("without", "with")[number % 2]
            load = OpenLoad(server.url, api, sessions, Arrivals(rate, seconds[turn]), seed=number + 1)
            before = _cpu_s(server, store)
            if turn == "with":
                with sender.running():
                    of_turn[turn].append(measure(generator, server, load))
            else:
                of_turn[turn].append(measure(generator, server, load))
            after = _cpu_s(server, store)
            busy[turn].append((after[0] - before[0], after[1] - before[1]))
    share = seconds["with"] / seconds["without"]
    more_s = [
        sum(cost[place] for cost in busy["with"]) - share * sum(cost[place] for cost in busy["without"])
        for place in (0, 1)
    ]
    figures = {turn: [measurement.figures() for measurement in of_turn[turn]] for turn in of_turn}
    p99 = {turn: median(some["p99_ms"] for some in figures[turn]) for turn in figures}
    return {
        "requests_per_s": round(rate, 1),
        "p50_ms": {turn: median(some["p50_ms"] for some in figures[turn]) for turn in figures},
        "p99_ms": p99,
        "p99_with_over_without": round(p99["with"] / p99["without"], 3),
        "requests": {turn: sum(some["requests"] for some in figures[turn]) for turn in figures},
        "failed": {turn: sum(some["requests"] - some["answered"] for some in figures[turn]) for turn in figures},
        "worker_us_per_change": round(1e6 * more_s[0] / max(1, sender.changes), 1),
        "store_us_per_change": round(1e6 * more_s[1] / max(1, sender.changes), 1),
        "turns": figures,
    }


def _cpu_s(server: Server, store: RedisServer) -> tuple[float, float]:
    workers = None if server.pid is None else cpu_seconds(server.pid)
    assert workers is not None
    used = store.execute("info", "cpu")
    return workers.workers_s, used["used_cpu_user"] + used["used_cpu_sys"]


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles; `catalogs` makes large ones.")],
    changes: Annotated[float, typer.Option(min=1, help="Changes/s.")] = 2_000,
    batch: Annotated[int, typer.Option(min=1, max=1_000, help="Items of a call.")] = 100,
    changed: Annotated[int, typer.Option(min=0, help="Items that have changed before the start.")] = 0,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each turn with changes.")] = 20,
    quiet_seconds: Annotated[
        float | None, typer.Option(min=1, help="Length of each turn without changes.  [default: the same]")
    ] = None,
    connections: Annotated[int, typer.Option(min=1, help="Connections that send changes.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Turns without changes, and with them.")] = 3,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    share: Annotated[float, typer.Option(help="Rate of the requests, as a share of the peak.")] = 0.5,
) -> None:
    """Print latencies with and without changes, and what changes take."""
    bundle = Bundle.load(bundles / "current", verify=False)
    ids = bundle.catalog.item_ids(range(1, bundle.manifest.items + 1))
    random.Random(3).shuffle(ids)
    with tempfile.TemporaryDirectory() as folder, redis_servers(Path(folder), 1) as (store,):
        stored_s = asyncio.run(_store_changes(store.url, ids[:changed]))
        began = time.perf_counter()
        with started(bundles, workers=workers, redis_url=store.url) as server:
            start_s = time.perf_counter() - began
            with LoadGenerator() as generator:
                load = ClosedLoad(server.url, Onward(), draw_sessions(bundle), CONNECTIONS, 5.0, 9)
                generator.run(load)
                peak = generator.run(load).achieved_per_s
            sender = Sender(server.url, ids, changes, batch, connections)
            turns = {"without": quiet_seconds or seconds, "with": seconds}
            figures = _segments(server, store, bundle, sender, share * peak, turns, rounds)
    seen = np.array(sender.seen_ms or [np.nan])
    result = {
        "benchmark": "live_load",
        **machine("numpy", "faiss-cpu"),
        "items": bundle.manifest.items,
        "workers": workers,
        "changed_before": changed,
        "stored_s": round(stored_s, 1),
        "start_s": round(start_s, 1),
        "peak_per_s": round(peak, 1),
        "changes_per_s": round(sender.changes / (rounds * seconds), 1),
        "behind_s": round(sender.behind_s, 2),
        "failed_changes": sender.failed,
        "batch": batch,
        "batch_ms": {f"p{p}": round(float(np.percentile(sender.batch_ms, p)), 1) for p in (50, 99)},
        "seen_by_all_workers_ms": {
            "watched": len(sender.seen_ms),
            **{f"p{p}": round(float(np.percentile(seen, p)), 1) for p in (50, 99, 100)},
        },
        **figures,
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
