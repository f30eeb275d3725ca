"""Cost of changes of the live catalog: `python -m tests.benchmarks.live_changes BUNDLE`.

How long a worker takes to read one change from a server, and 1,000 changes, and to apply them, when 1,000 to 1,000,000
items have changed already, how much processor time a change takes, how much memory a changed item, and how long the
first request with a filter and with boosts takes after it. Prints one line of JSON. `live_load` measures the same
beside requests.
"""

import asyncio
import gc
import json
import random
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from onward.bundle import Boost, Bundle, Options, SessionView
from onward.bundle.catalog.filters import Filter
from onward.service.live.catalog import ITEMS, LiveCatalog
from onward.service.live.replica import Replica
from onward.service.live.versioned_store import Put, RedisVersionedStore
from onward.training.hardware import machine
from tests.redis_servers import redis_servers

PAGE_BYTES = 4096
LOADED_AT_ONCE, STORED_AT_ONCE = 10_000, 500
CHEAP = Filter.model_validate({"attribute": "price", "range": {"max": 25}})
CATEGORY = Filter.model_validate({"attribute": "category", "equals": "category-1"})


def resident_bytes() -> int:
    """Return the memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


class Worker:
    """A live catalog over a bundle, and its store on a server."""

    def __init__(self, bundle: Bundle, url: str) -> None:
        self._store = RedisVersionedStore.connect(url, ITEMS, max_names=10**7)
        self._replica = Replica(self._store, "items")
        self._live = LiveCatalog(self._replica)
        self._exported = bundle
        self._random = random.Random(1)
        self.bundle = bundle

    async def put(self, item_ids: list[str]) -> None:
        """Change the price and the availability of items, as another worker does."""
        entries = {item_id: self._replica.entries.get(item_id) for item_id in item_ids}
        puts = [
            Put(
                item_id,
                1 if entry is None else entry.revision + 1,
                {
                    "attributes": {"price": round(self._random.uniform(0, 100), 2)},
                    "available": self._random.random() > 0.05,
                },
                0 if entry is None else entry.sequence,
            )
            for item_id, entry in entries.items()
        ]
        for start in range(0, len(puts), STORED_AT_ONCE):
            await self._store.put(self._replica._generation, puts[start : start + STORED_AT_ONCE])

    async def follow(self) -> tuple[float, float]:
        """Read and apply what was put; return the milliseconds of processor time of both."""
        started = time.process_time()
        await self._replica.read()
        read = time.process_time()
        self.bundle = self._live.applied_to(self._exported)
        return 1e3 * (read - started), 1e3 * (time.process_time() - read)


def _answer_ms(bundle: Bundle, session: SessionView, options: Options) -> float:
    """Return the processor time of an answer."""
    started = time.process_time()
    bundle.retrieve(session, options)
    return 1e3 * (time.process_time() - started)


def _requests(session: SessionView) -> dict[str, Options]:
    boosts = (Boost(CHEAP, 1.5), Boost(CATEGORY, 2.0))
    return {"plain": Options(20), "filter": Options(20, filter=CHEAP), "boosts": Options(20, boosts=boosts)}


async def measure(bundle: Bundle, url: str, sizes: list[int], repeats: int) -> dict[str, Any]:
    """Return the figures for each number of changed items."""
    ids = bundle.catalog.item_ids(range(1, bundle.manifest.items + 1))
    random.Random(2).shuffle(ids)
    session = SessionView(ids[:3])
    worker = Worker(bundle, url)
    figures: dict[str, Any] = {}
    for options in _requests(session).values():
        bundle.retrieve(session, options)
    before, changed = resident_bytes(), 0
    for size in sizes:
        started = time.process_time()
        waiting = iter(ids[changed:size])
        while some := list(islice(waiting, LOADED_AT_ONCE)):
            await worker.put(some)
            await worker.follow()
        loaded_s, added = time.process_time() - started, size - changed
        changed = size
        gc.collect()
        figures[f"{size}"] = {
            "load_us_per_item": round(1e6 * loaded_s / added, 1),
            "bytes_per_item": round((resident_bytes() - before) / size),
            **{f"{count}_changes": await _cost(worker, ids[:size], count, repeats, session) for count in (1, 1_000)},
        }
    return figures


async def _cost(worker: Worker, ids: list[str], count: int, repeats: int, session: SessionView) -> dict[str, float]:
    rows = []
    for _ in range(repeats):
        await worker.put(random.sample(ids, min(count, len(ids))))
        read_ms, applied_ms = await worker.follow()
        answers = {
            f"{turn}_{name}_ms": _answer_ms(worker.bundle, session, options)
            for turn in ("first", "next")
            for name, options in _requests(session).items()
        }
        us_per_change = 1e3 * (read_ms + applied_ms) / count
        rows.append({"read_ms": read_ms, "applied_ms": applied_ms, "us_per_change": us_per_change, **answers})
    return {name: round(median(row[name] for row in rows), 3) for name in rows[0]}


def main(
    folder: Annotated[Path, typer.Argument(exists=True, help="A bundle; `catalogs` makes large ones.")],
    changed: Annotated[list[int] | None, typer.Option(help="Items that have changed already; may be repeated.")] = None,
    repeats: Annotated[int, typer.Option(help="Medians of so many measurements.")] = 9,
) -> None:
    """Print the cost of changes at several numbers of changed items."""
    bundle = Bundle.load(folder, verify=False)
    bundle.catalog.make_columns()
    sizes = [size for size in changed or [1_000, 10_000, 100_000, 1_000_000] if size <= bundle.manifest.items]
    with tempfile.TemporaryDirectory() as data, redis_servers(Path(data), 1) as (server,):
        changed_items = asyncio.run(measure(bundle, server.url, sizes, repeats))
    result = {
        "benchmark": "live_changes",
        **machine("numpy", "faiss-cpu"),
        "items": bundle.manifest.items,
        "changed": changed_items,
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
