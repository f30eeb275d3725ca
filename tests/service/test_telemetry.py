import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from prometheus_client import REGISTRY, Histogram
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from onward.service import telemetry
from onward.service.episodes import MAX_RUNNING, QUIET_S, Episodes
from tests.service.clock import Clock
from tests.service.http.dispatching import dispatching


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a secret")


def test_an_unexpected_exception_is_answered_as_a_problem_without_its_message() -> None:
    client = TestClient(dispatching(failing), raise_server_exceptions=False)
    response = client.get("/anything", headers={"X-Request-ID": "trace-3"})
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"] == response.headers["x-request-id"] == "trace-3"
    assert "secret" not in response.text


def test_every_answer_is_counted_once() -> None:
    labels = {"method": "GET", "route": "/counted"}

    def counted() -> tuple[float | None, float | None, float | None]:
        return (
            REGISTRY.get_sample_value("onward_requests_total", labels | {"status": "200"}),
            REGISTRY.get_sample_value("onward_requests_total", labels | {"status": "404"}),
            REGISTRY.get_sample_value("onward_request_seconds_bucket", labels | {"le": "0.004"}),
        )

    for number in range(2 * telemetry.BATCH_SIZE + 5):
        telemetry.answered("GET", "/counted", 200 if number % 2 else 404, 0.003 if number % 2 else 0.5)
    telemetry.count_answers()
    assert counted() == (66, 67, 66)
    telemetry.count_answers()
    assert counted() == (66, 67, 66)


def test_durations_are_counted_in_the_buckets_that_the_library_would_choose() -> None:
    durations_s = (0.0, 0.0004, 0.0005, 0.00051, 0.002, 1.0, 2.048, 2.049, 60.0)
    ours, expected = (Histogram(name, "", buckets=(0.0005, 0.002, 2.048), registry=None) for name in ("a", "a"))
    telemetry._observe_all(ours, durations_s)
    for duration_s in durations_s:
        expected.observe(duration_s)

    def samples(histogram: Histogram) -> list[tuple[str, str | None, float]]:
        (metric,) = histogram.collect()
        return [(sample.name, sample.labels.get("le"), sample.value) for sample in metric.samples]

    assert samples(ours) == samples(expected)


def test_of_all_workers_one_logs_that_the_store_refuses_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(telemetry.MULTIPROCESS_FOLDER, str(tmp_path))
    workers = [telemetry.Speaker() for _ in range(3)]
    with structlog.testing.capture_logs() as lines:
        for reason in ("wrong password", None):
            for worker in workers:
                monkeypatch.setattr(telemetry, "_speaker", worker)
                telemetry.store_misconfigured(reason, "")
    assert [line["event"] for line in lines] == ["store misconfigured", "store accepts the service"]
    assert [worker.is_here() for worker in workers] == [True, False, False]
    assert workers[0]._lock is not None
    os.close(workers[0]._lock)  # as when its process ends
    assert [worker.is_here() for worker in workers[1:]] == [True, False]
    assert workers[1]._lock is not None
    os.close(workers[1]._lock)


LOGGED = """
import logging
from onward.service import telemetry
telemetry.configure_logging("info")
telemetry.begin({}, "trace-4")
telemetry.bundle_refused("digest", 'line\\nbreak "quoted" \\x1b[31m')
telemetry.answered("GET", "/", 200, 0.1)
logging.getLogger("uvicorn.error").warning("from a library")
try:
    secret = "a caller's"
    1 / 0
except ZeroDivisionError as error:
    telemetry.failed(error)
"""


def test_every_log_line_is_one_json_object_with_the_request_id() -> None:
    logged = subprocess.run([sys.executable, "-c", LOGGED], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in logged.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["bundle refused", "from a library", "request failed"]
    assert {line["request_id"] for line in lines} == {"trace-4"}
    assert lines[0]["reason"] == 'line\nbreak "quoted" \x1b[31m'
    assert lines[2]["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert "\x1b" not in logged.stderr
    assert "a caller's" not in logged.stderr


def test_onnxruntime_sends_no_telemetry_and_leaves_no_file_of_it(tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    program = [sys.executable, "-c", "import onward.bundle"]
    subprocess.run(program, env=inherited | {"TMPDIR": str(tmp_path)}, check=True)
    assert not list(tmp_path.iterdir())


def test_a_fault_of_every_request_is_logged_when_it_begins_and_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(telemetry, "_faults", Episodes(clock=clock))
    with structlog.testing.capture_logs() as lines:
        for number in range(300):
            telemetry.store_failed(TimeoutError() if number % 3 else ConnectionError("refused"))
            telemetry.degraded("session_store")
            telemetry.overloaded(256)
            telemetry.foreign_data_found("session", 1)
            clock.advance(timedelta(seconds=0.1))
            telemetry.end_faults()
        assert [line["event"] for line in lines] == [
            "session store failed",
            "overloaded",
            "foreign data in the store",
        ]
        clock.advance(timedelta(seconds=QUIET_S))
        telemetry.end_faults()
        telemetry.end_faults()
    store, *others = lines[3:]
    assert store == {
        "event": "fault ended",
        "log_level": "info",
        "fault": "session store failed",
        "times": 300,
        "seconds": 29.9,
        "TimeoutError": 200,
        "ConnectionError": 100,
        "degraded_answers": 300,
    }
    assert [(line["fault"], line["times"]) for line in others] == [
        ("overloaded", 300),
        ("foreign data in the store", 300),
    ]


def test_each_kind_of_exception_is_logged_once(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(telemetry, "_faults", Episodes(clock=clock))

    def fail(kind: type[Exception]) -> None:
        try:
            raise kind("x")
        except Exception as error:  # whatever it is
            telemetry.failed(error)

    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            fail(ValueError)
            fail(KeyError)
        telemetry.end_faults(quiet_s=0)
    assert [line["event"] for line in lines] == ["request failed"] * 2 + ["fault ended"] * 2
    assert [line["times"] for line in lines[2:]] == [5, 5]
    assert "test_telemetry.py" in lines[2]["origin"]


def test_the_number_of_faults_that_are_told_apart_is_limited() -> None:
    episodes = Episodes()
    assert [episodes.occurred(number) for number in range(MAX_RUNNING + 2)] == [True] * MAX_RUNNING + [False] * 2
