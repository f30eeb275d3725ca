"""Bundles that are pulled from a real S3 server while the service runs: swaps, and outages of the server."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import quantiles

import pytest

from onward.bundle.remote_bundles import working_copy
from onward.bundle.storage import Address
from tests.bundles import item_ids, publish_bundle
from tests.faults.conftest import Record
from tests.faults.row import Row
from tests.faults.traffic import UNHURRIED, Traffic
from tests.s3_server import BUCKET, S3Server, s3_server
from tests.service.process import ServiceProcess, wait_until
from tests.service.server.test_serve import under_load
from tests.service.shop import ATTRIBUTES, ITEMS, publish_shop

SWAPS, OUTAGES = 50, 5
ADDRESS = Address("s3", BUCKET, "bundles")
SHOPS = {"a": item_ids("a", 40), "b": item_ids("b", 40)}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch) as server:
        yield server


def published(prefix: str, seed: int) -> str:
    with working_copy(ADDRESS) as folder:
        return publish_bundle(folder, SHOPS[prefix], seed=seed)


def serves(service: ServiceProcess, digest: str) -> bool:
    return any(line["bundle"] == digest for line in service.events("bundle live"))


def test_swaps(s3: S3Server, record: Record) -> None:
    digests = {published("a", 0): "a"}
    with ServiceProcess(str(ADDRESS), environment=UNHURRIED).wait_until_ready() as service:

        async def swap() -> None:
            for seed in range(1, SWAPS + 1):
                prefix = "ab"[seed % 2]
                digest = await asyncio.to_thread(published, prefix, seed)
                digests[digest] = prefix
                await asyncio.to_thread(wait_until, lambda digest=digest: serves(service, digest))

        answers = under_load(service.url, {"items": ["a1", "b1"], "k": 10}, swap)
    bodies = [answer.json() for answer in answers if answer.status_code == 200]
    mixed = [body for body in bodies if {item["id"][0] for item in body["items"]} != {digests[body["bundle"]]}]
    latencies_ms = [1000 * answer.elapsed.total_seconds() for answer in answers]
    row = Row(
        "Bundles",
        f"{SWAPS} bundles are published one after another at an S3 server, which the service pulls from",
        "no request fails, and each answer has items of the bundle that it names",
        requests=len(answers),
        failed=len(answers) - len(bodies),
        crossed=len(mixed),
        p99_ms=round(quantiles(latencies_ms, n=100)[-1], 1),
        worst_ms=round(max(latencies_ms), 1),
        observed=f"answers of {len({body['bundle'] for body in bodies})} bundles",
    )
    record(replace(row, kept=not (row.failed or row.crossed)))


def test_outages(s3: S3Server, record: Record) -> None:
    with ServiceProcess(published_shop(0), environment=UNHURRIED).wait_until_ready() as service:
        with Traffic(service.url, ITEMS) as traffic:
            for number in range(1, OUTAGES + 1):
                s3.stop()
                wait_until(lambda number=number: len(service.events("bundle not pulled")) == number)
                time.sleep(0.5)
                s3.start()
                wait_until(lambda number=number: len(service.events("bundles are pulled again")) == number)
                published_shop(number)
                wait_until(lambda number=number: len(service.events("bundle live")) == number + 1)
            ended_s = time.perf_counter()
        row = traffic.row(
            Row(
                "Bundles",
                f"the S3 server that the service pulls from is gone {OUTAGES} times; a bundle is published after each",
                "no request fails; each outage is logged once, and the bundle after it is served",
                observed=f"answers of {len(traffic.bundles)} bundles",
            ),
            ended_s=ended_s,
        )
        record(replace(row, kept=not (row.refused or row.failed or row.crossed or row.degraded)))


def published_shop(number: int) -> str:
    """Publish a shop with other prices; return the address."""
    with working_copy(ADDRESS) as folder:
        publish_shop(folder, attributes=[{**item, "price": float(number)} for item in ATTRIBUTES])
    return str(ADDRESS)
