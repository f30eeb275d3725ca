"""Requests are sent when they are due; delays of the server and of the generator are told apart."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from onward.service.bench.load_generator.arrivals import Arrivals
from onward.service.bench.load_generator.generator import LoadGenerator, run_load
from onward.service.bench.load_generator.load_result import LoadRecord, LoadResult
from onward.service.bench.load_generator.loads import ClosedLoad, OpenLoad
from onward.service.bench.load_generator.open_loop import OpenLoop
from tests.service.bench.load_generator.slow_server import PlainApi, response, slow_server

SESSIONS = tuple(tuple(f"{number}.{place}" for place in range(1 + number % 7)) for number in range(50))


@dataclass(frozen=True)
class SlowToRead(PlainApi):
    """An interface whose responses keep the generator busy."""

    def fault(self, status: int, body: bytes) -> str | None:
        time.sleep(0.01)
        return None


def load(url: str, rate: float, seconds: float, **options: object) -> OpenLoad:
    return OpenLoad(url, PlainApi(), SESSIONS, Arrivals(rate, seconds), **options)  # type: ignore[arg-type]  # by name


def test_all_requests_are_sent_and_answered_over_keep_alive_connections() -> None:
    with slow_server() as server, LoadGenerator() as generator:
        result = generator.run(load(server.url, 300, 1.0, connections=20))
    assert result.errors == {}
    assert result.requests == result.answered == len(server.bodies) == len(Arrivals(300, 1.0).times(0))
    assert server.connections == 20
    assert result.p50_ms is not None
    assert result.max_ms is not None
    assert 0 < result.p50_ms <= result.max_ms


def test_a_session_has_one_request_in_flight_and_keeps_its_order() -> None:
    with slow_server(work_s=0.004) as server:
        run_load(load(server.url, 400, 0.6))
    assert server.overlaps == 0
    seen: dict[str, list[str]] = {}
    for session, item in map(str.split, server.bodies):
        seen.setdefault(session, []).append(item)
    assert all(
        tuple(items) == SESSIONS[int(session.split("-")[1]) % 50][: len(items)] for session, items in seen.items()
    )
    assert max(map(len, seen.values())) > 3


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent() -> None:
    with slow_server(work_s=0.01) as server:
        result = run_load(load(server.url, 300, 0.5, connections=1))
    assert result.max_ms is not None
    assert result.max_ms > 1000 * 0.5 * 300 * 0.01 / 3  # the last one waits for about a second
    assert result.rate_per_s == 300
    assert result.achieved_per_s < 110


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (lambda number: response(503 if number % 3 == 0 else 200), "status 503"),
        (lambda number: None if number % 3 == 0 else response(), "connection lost"),
        (lambda number: b"not http\r\n\r\n" if number % 3 == 0 else response(), "connection lost"),
        (lambda number: b"" if number % 3 == 0 else response(), "no answer in time"),
    ],
)
def test_errors_are_counted_by_kind_and_do_not_end_the_load(answer: object, fault: str) -> None:
    with slow_server(answer=answer) as server:  # type: ignore[arg-type]  # of the parameters
        result = run_load(load(server.url, 150, 0.5, connections=8, timeout_s=0.3))
    assert set(result.errors) == {fault}
    assert result.answered + result.errors[fault] == result.requests == len(Arrivals(150, 0.5).times(0))
    assert result.errors[fault] >= result.requests // 6


def test_a_connection_that_the_server_closes_after_a_response_is_replaced() -> None:
    with slow_server(answer=lambda _number: response(200, "Connection: close")) as server:
        result = run_load(load(server.url, 100, 0.5, connections=4))
    assert result.errors == {}
    assert server.connections >= result.requests


def test_requests_to_an_overloaded_server_time_out() -> None:
    with slow_server(work_s=0.05) as server:
        result = run_load(load(server.url, 400, 0.4, connections=2, timeout_s=0.3))
    assert result.errors["no answer in time"] > 50
    assert len(server.bodies) < result.requests / 2  # a request that has timed out is not sent


def test_a_generator_that_is_always_busy_reports_itself_as_the_limit() -> None:
    with slow_server() as server:
        result = run_load(OpenLoad(server.url, SlowToRead(), SESSIONS, Arrivals(300, 0.5), timeout_s=60))
    assert result.generator_limited
    assert result.limited_by is not None
    assert "busy" in result.limited_by


def test_a_generator_that_is_late_reports_itself_as_the_limit() -> None:
    result = LoadResult.of(LoadRecord(latencies_s=[0.01], lateness_s=[0.006], answered=1, seconds=1.0))
    assert result.limited_by == "the generator was 6.00 ms late at p90, where the latency is 10.00 ms"


def test_a_generator_that_needs_all_of_a_core_reports_itself_as_the_limit() -> None:
    result = LoadResult.of(LoadRecord(latencies_s=[0.01], answered=1, seconds=1.0, cpu_s=0.9))
    assert result.limited_by == "the generator used 90% of a core"


def test_a_ramp_reports_latencies_by_rate() -> None:
    with slow_server() as server:
        result = run_load(OpenLoad(server.url, PlainApi(), SESSIONS, Arrivals(50, 1.0, 450)))
    assert [part.rate_per_s for part in result.parts] == [70, 110, 150, 190, 230, 270, 310, 350, 390, 430]
    assert all(part.p50_ms is not None for part in result.parts)


def test_a_load_raises_os_error_if_nothing_listens_at_its_url() -> None:
    with slow_server() as server:
        pass
    with pytest.raises(OSError, match=r"refused|Connect"):
        asyncio.run(OpenLoop(load(server.url, 10, 0.2)).run())


def test_a_closed_loop_keeps_its_connections_busy_until_its_time_is_over() -> None:
    with slow_server(work_s=0.002) as server:
        result = run_load(ClosedLoad(server.url, PlainApi(), SESSIONS, connections=3, seconds=0.4))
    assert server.connections == 3
    assert result.rate_per_s is None
    assert result.errors == {}
    assert result.requests == len(server.bodies) > 10
    assert server.overlaps == 0


def test_a_closed_loop_counts_a_lost_connection() -> None:
    with slow_server(answer=lambda number: None if number == 5 else response()) as server:
        result = run_load(ClosedLoad(server.url, PlainApi(), SESSIONS, connections=2, seconds=0.3))
    assert Counter(result.errors) == {"connection lost": 1}
