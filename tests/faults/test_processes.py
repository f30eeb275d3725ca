"""Faults and signals of the service's own processes."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import httpx

from tests.faults.conftest import Record
from tests.faults.processes import children, is_running, workers
from tests.faults.row import Row
from tests.faults.traffic import UNHURRIED, Traffic
from tests.service.process import ServiceProcess, wait_until
from tests.service.shop import ITEMS

QUIET_S = 1.0
MAX_CUT = 32
"""Requests that a killed process may take along: those on its connections."""


def test_worker_killed(bundles: Path, record: Record) -> None:
    with ServiceProcess(bundles, "--workers", "2", environment=UNHURRIED).wait_until_ready() as service:
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            os.kill(workers(service.pid)[0], signal.SIGKILL)
            ended_s = time.perf_counter()
            time.sleep(QUIET_S + 4)
        row = traffic.row(
            Row(
                "Processes",
                "one of two workers is killed",
                "only the requests on its connections are cut; its successor takes none before it can answer",
            ),
            ended_s=ended_s,
        )
        with service.client() as client:
            row = replace(row, lost=traffic.lost(client))
        record(replace(row, kept=(row.failed or 0) <= MAX_CUT and not (row.refused or row.lost or row.crossed)))


def test_supervisor_killed(bundles: Path, record: Record) -> None:
    with ServiceProcess(bundles, "--workers", "2", environment=UNHURRIED).wait_until_ready() as service:
        processes = children(service.pid)
        os.kill(service.pid, signal.SIGKILL)
        killed_s = time.perf_counter()
        wait_until(lambda: not any(map(is_running, processes)), 20)
        took_s = time.perf_counter() - killed_s
        try:
            httpx.get(f"{service.url}/health/live", timeout=2)
            is_free = False
        except httpx.TransportError:
            is_free = True
    record(
        Row(
            "Processes",
            "kill -9 of the supervisor of two workers",
            "workers and embedded store end with it, and the port is free",
            observed=f"{len(processes)} processes ended within {took_s:.1f} s",
            kept=is_free,
        )
    )


def test_stopped_while_it_drains(bundles: Path, record: Record) -> None:
    environment = UNHURRIED | {"SERVICE_DRAIN_DELAY": "3"}
    with ServiceProcess(bundles, environment=environment).wait_until_ready() as service:
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            os.kill(service.pid, signal.SIGTERM)
            sent_s = time.perf_counter()
            time.sleep(0.3)
            readiness = httpx.get(f"{service.url}/health/ready").status_code
            time.sleep(2.2)
        row = traffic.row(
            Row(
                "Processes",
                "SIGTERM with SERVICE_DRAIN_DELAY=3 and callers who leave within that time",
                "not ready at once, every request answered, exit code 0",
            )
        )
        code = service.wait()
        observed = f"ready {readiness}, exit code {code} after {time.perf_counter() - sent_s:.1f} s"
    kept = readiness == 503 and code == 0 and not (row.refused or row.failed or row.crossed)
    record(replace(row, observed=observed, kept=kept))


def test_replaced_workers(bundles: Path, record: Record) -> None:
    with ServiceProcess(bundles, "--workers", "2", environment=UNHURRIED).wait_until_ready() as service:
        with Traffic(service.url, ITEMS) as traffic:
            time.sleep(QUIET_S)
            os.kill(service.pid, signal.SIGHUP)
            ended_s = time.perf_counter()
            time.sleep(QUIET_S + 6)
        row = traffic.row(
            Row("Processes", "SIGHUP with two workers", "both are replaced, one after the other; no request notices"),
            ended_s=ended_s,
        )
        with service.client() as client:
            row = replace(row, lost=traffic.lost(client))
        # A kept-alive connection that the old worker closes just as a request is sent cannot be told from a lost one.
        record(replace(row, kept=(row.failed or 0) <= 2 and not (row.refused or row.lost or row.crossed)))
