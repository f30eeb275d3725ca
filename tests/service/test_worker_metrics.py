"""Figures of workers are differences of two readings of the metrics that all of them write."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onward.service import telemetry, worker_metrics
from onward.service.worker_metrics import Figures, Samples, WorkerMetrics, read

WORKER = """
import sys, time
from onward.service import telemetry
telemetry.refused("overloaded")
telemetry.answered("POST", "/v1/recommendations", 200, 0.003)
telemetry.count_answers()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_metrics, "FIRST_WINDOW_S", 0.0)
    monkeypatch.setattr(worker_metrics, "MIN_AGE_S", 0.0)


async def test_counts_and_quantiles_are_those_between_two_readings() -> None:
    metrics = WorkerMetrics()
    await metrics.figures(10)
    for _ in range(99):
        telemetry.answered("GET", "/of-this-test", 200, 0.003)
    telemetry.answered("GET", "/of-this-test", 404, 0.1)
    telemetry.count_answers()
    total, workers = await metrics.figures(10)
    (own,) = workers.values()
    for figures in (total, own):
        assert figures.total("onward_requests_total", route="/of-this-test") == 100
        assert figures.total("onward_requests_total", route="/of-this-test", status="404") == 1
        assert figures.by("onward_requests_total", "route")["/of-this-test"] == 100
        median_s = figures.quantile_s("onward_request_seconds", 0.5, route="/of-this-test")
        assert median_s is not None
        assert 0.002 <= median_s <= 0.004
        assert figures.quantile_s("onward_request_seconds", 0.999, route="/of-this-test") == pytest.approx(0.1216)
        assert figures.quantile_s("onward_request_seconds", 0.5, without_routes=["/of-this-test"]) is None
        assert figures.rates("onward_requests_total", "status")["404"] == pytest.approx(1 / figures.seconds)
    total, _ = await metrics.figures(0)
    assert total.total("onward_requests_total", route="/of-this-test") == 0
    assert total.ever("onward_requests_total", route="/of-this-test") >= 100


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    buckets: Samples = {
        ("s_bucket", (("le", bound),)): count for bound, count in (("1.0", 1.0), ("2.0", 2.0), ("+Inf", 9.0))
    }
    assert Figures(1.0, buckets, {}).quantile_s("s", 0.9) == 2.0
    assert Figures(1.0, buckets, {}).quantile_s("t", 0.9) is None


def test_each_running_worker_is_read_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(telemetry.MULTIPROCESS_FOLDER, str(tmp_path))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, telemetry.MULTIPROCESS_FOLDER: str(tmp_path)},
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
        assert sorted(read().workers) == sorted(worker.pid for worker in workers)
        refused = ("onward_refused_requests_total", (("code", "overloaded"),))
        assert [samples[refused] for samples in read().workers.values()] == [1.0, 1.0]
        workers[0].communicate()
        assert list(read().workers) == [workers[1].pid]
    finally:
        for worker in workers:
            worker.communicate()
