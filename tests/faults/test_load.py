"""More load than the service can bear, and deadlines."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from onward.bundle import Bundle
from onward.service.bench.load_generator.api import Onward
from onward.service.bench.load_generator.generator import LoadGenerator
from onward.service.bench.load_generator.loads import ClosedLoad
from onward.service.bench.load_generator.workload import draw_sessions
from tests.faults.conftest import Record
from tests.faults.processes import rss_mib
from tests.faults.row import Row
from tests.faults.slow_proxy import slow_proxy
from tests.faults.traffic import Traffic
from tests.redis_servers import RedisServer
from tests.service.process import ServiceProcess
from tests.service.shop import ITEMS

LIMIT, FACTOR, SECONDS = 64, 3, 4


def test_overload(bundles: Path, record: Record) -> None:
    environment = {"SERVICE_MAX_IN_FLIGHT": str(LIMIT)}
    sessions = draw_sessions(Bundle.load(bundles / "current"))
    with ServiceProcess(bundles, environment=environment).wait_until_ready() as service, LoadGenerator() as generator:

        def goodput(connections: int, seed: int) -> tuple[float, float, int]:
            result = generator.run(ClosedLoad(service.url, Onward(k=5), sessions, connections, SECONDS, seed))
            return result.achieved_per_s, result.p99_ms or 0, sum(result.errors.values())

        goodput(LIMIT, 1)
        before_mib = rss_mib(service.pid)
        peaks, overloads = [], []
        for number in range(3):
            peaks.append(goodput(LIMIT, 10 + number))
            overloads.append(goodput(FACTOR * LIMIT, 20 + number))
        grown = rss_mib(service.pid) - before_mib
        ratio = sorted(over[0] / peak[0] for peak, over in zip(peaks, overloads, strict=True))[1]
        record(
            Row(
                "Load",
                f"{FACTOR} times as many connections as the service may handle requests ({LIMIT}), each of which "
                "repeats a refused request at once",
                "goodput at least 80 % of the peak; the rest is refused; memory stays",
                refused=sum(over[2] for over in overloads),
                p99_ms=round(sorted(over[1] for over in overloads)[1], 1),
                observed=f"goodput {ratio:.0%} of the peak; memory grew by {grown:.0f} MiB",
                kept=ratio >= 0.5 and grown < 50,
                in_time=ratio >= 0.8,
            )
        )


@pytest.mark.parametrize("timeout_ms", [30])
def test_deadline(bundles: Path, tmp_path: Path, record: Record, timeout_ms: int) -> None:
    store = RedisServer(tmp_path / "store")
    store.start()
    with ExitStack() as running:
        running.callback(store.kill)
        proxy = running.enter_context(slow_proxy(store.port))
        environment = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}", "SERVICE_STORE_TIMEOUT": "1"}
        service = running.enter_context(ServiceProcess(bundles, environment=environment).wait_until_ready())
        proxy.delay_s = 0.3
        with Traffic(service.url, ITEMS, timeout_ms=timeout_ms) as traffic:
            time.sleep(5)
        row = traffic.row(
            Row(
                "Load",
                f"each reply of the store takes 300 ms longer; recommendations are asked for within {timeout_ms} ms",
                "answered within the time, and 20 ms",
            )
        )
        in_time = (row.p99_ms or 0) <= timeout_ms + 20
        record(replace(row, kept=row.degraded == row.requests and not row.crossed, in_time=in_time))
