"""A stop in two steps, by one worker and by several: requests are taken while the service drains."""

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from onward.service.server.draining import Stop
from tests.bundles import item_ids, publish_bundle
from tests.service.process import ServiceProcess, wait_until

ITEMS = item_ids("a", 20)
LONG = {"SERVICE_DRAIN_DELAY": "60"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, ITEMS)
    return folder


@pytest.fixture(params=["1", pytest.param("2", marks=pytest.mark.slow)])
def draining(request: pytest.FixtureRequest, bundles: Path) -> Iterator[ServiceProcess]:
    """A service with a long delay after SIGTERM, with one worker and with two."""
    with ServiceProcess(bundles, "--workers", request.param, environment=LONG).wait_until_ready() as service:
        wait_until(lambda: len(service.events("encoding")) == int(request.param))
        os.kill(service.pid, signal.SIGTERM)
        wait_until(lambda: service.events("draining"))
        yield service


def recommend(service: ServiceProcess) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/recommendations", json={"items": ["a1"]}, timeout=30)


def test_while_it_drains_the_service_takes_requests_and_is_not_ready(draining: ServiceProcess) -> None:
    assert draining.events("draining") == [{**draining.events("draining")[0], "delay_s": 60.0}]
    for _ in range(10):  # each on a new connection, so that all workers answer some
        response = httpx.get(f"{draining.url}/health/ready", timeout=30)
        assert (response.status_code, response.json()["code"]) == (503, "draining")
        assert httpx.get(f"{draining.url}/health/live", timeout=30).status_code == 200
        assert recommend(draining).status_code == 200
    assert draining.stop() == 0  # the second signal: else the test would run into its time limit


def test_a_second_signal_of_another_kind_skips_the_delay_too(draining: ServiceProcess) -> None:
    assert draining.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_service_stops_after_the_delay_and_ends_connections_before(bundles: Path, workers: str) -> None:
    environment = {"SERVICE_DRAIN_DELAY": "2"}
    with ServiceProcess(bundles, "--workers", workers, environment=environment).wait_until_ready() as service:
        wait_until(lambda: len(service.events("encoding")) == int(workers))
        with service.client() as client:
            kept = client.post("/v1/recommendations", json={"items": ["a1"]})
            assert "connection" not in kept.headers
            os.kill(service.pid, signal.SIGTERM)
            answers: list[httpx.Response] = []
            while not answers or "connection" not in answers[-1].headers:
                answers.append(client.post("/v1/recommendations", json={"items": ["a1"]}))
                time.sleep(0.02)
            assert {answer.status_code for answer in answers} == {200}
            assert len(answers) > 5
            assert answers[-1].headers["connection"] == "close"
        assert service.wait() == 0


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_ctrl_c_stops_without_a_delay(bundles: Path, workers: str) -> None:
    with ServiceProcess(bundles, "--workers", workers, environment=LONG).wait_until_ready() as service:
        wait_until(lambda: len(service.events("encoding")) == int(workers))
        assert service.stop(signal.SIGINT) == 0


@pytest.mark.slow
def test_sighup_replaces_several_workers_while_others_serve(bundles: Path) -> None:
    with ServiceProcess(bundles, "--workers", "2", environment=LONG).wait_until_ready() as service:
        wait_until(lambda: len(service.events("encoding")) == 2)
        os.kill(service.pid, signal.SIGHUP)
        with httpx.Client(base_url=service.url, timeout=30) as client:
            resets = 0
            while len(service.events("encoding")) < 4:
                try:
                    assert client.get("/health/live", headers={"connection": "close"}).status_code == 200
                except (
                    httpx.ReadError
                ):  # the kernel had given the connection to a worker that closed before it accepted
                    resets += 1
            assert resets <= 2, "at most one for each worker"
        assert service.stop(signal.SIGINT) == 0


def test_sighup_is_ignored_by_a_single_worker(bundles: Path) -> None:
    with ServiceProcess(bundles).wait_until_ready() as service:
        os.kill(service.pid, signal.SIGHUP)
        wait_until(lambda: any("SIGHUP ignored" in line["event"] for line in service.log))
        assert recommend(service).status_code == 200
        assert service.stop() == 0


def test_only_the_first_sigterm_waits() -> None:
    stop = Stop(timedelta(hours=1))
    assert not stop.is_asked
    stop.ask(signal.SIGTERM)
    assert (stop.is_asked, stop.is_set()) == (True, False)
    assert not stop.wait(0)
    stop.ask(signal.SIGTERM)
    assert stop.is_set()
    assert stop.wait(3600)


@pytest.mark.parametrize(("delay", "number"), [(timedelta(hours=1), signal.SIGINT), (timedelta(0), signal.SIGTERM)])
def test_sigint_and_no_delay_do_not_wait(delay: timedelta, number: signal.Signals) -> None:
    stop = Stop(delay)
    stop.ask(number)
    assert stop.is_set()
