"""Requests go out when they are due; what the server, and what the generator does to them is told apart."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from onward.service.bench.arrivals import Arrivals
from onward.service.bench.generator import Generator, send
from onward.service.bench.load import ClosedLoad, OpenLoad
from onward.service.bench.open_loop import OpenLoop
from onward.service.bench.outcome import Outcome, Record
from tests.service.bench.slow_server import Plain, response, slow_server

SESSIONS = tuple(tuple(f"{number}.{place}" for place in range(1 + number % 7)) for number in range(50))


@dataclass(frozen=True)
class SlowToRead(Plain):
    """An interface whose answers keep the generator busy."""

    def fault(self, status: int, body: bytes) -> str | None:
        time.sleep(0.01)
        return None


def load(url: str, rate: float, seconds: float, **options: object) -> OpenLoad:
    return OpenLoad(url, Plain(), SESSIONS, Arrivals(rate, seconds), **options)  # type: ignore[arg-type]  # by name


def test_all_requests_are_sent_and_answered_over_connections_that_are_kept() -> None:
    with slow_server() as server, Generator() as generator:
        outcome = generator.ask(load(server.url, 300, 1.0, connections=20))
    assert outcome.errors == {}
    assert outcome.requests == outcome.answered == len(server.bodies) == len(Arrivals(300, 1.0).times(0))
    assert server.connections == 20
    assert outcome.p50_ms is not None
    assert outcome.max_ms is not None
    assert 0 < outcome.p50_ms <= outcome.max_ms


def test_a_session_has_one_request_in_flight_and_keeps_its_order() -> None:
    with slow_server(work_s=0.004) as server:
        send(load(server.url, 400, 0.6))
    assert server.overlaps == 0
    seen: dict[str, list[str]] = {}
    for session, item in map(str.split, server.bodies):
        seen.setdefault(session, []).append(item)
    assert all(
        tuple(items) == SESSIONS[int(session.split("-")[1]) % 50][: len(items)] for session, items in seen.items()
    )
    assert max(map(len, seen.values())) > 3


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_could_be_sent() -> None:
    with slow_server(work_s=0.01) as server:
        outcome = send(load(server.url, 300, 0.5, connections=1))
    assert outcome.max_ms is not None
    assert outcome.max_ms > 1000 * 0.5 * 300 * 0.01 / 3  # the last one waits for about a second
    assert outcome.rate_per_s == 300
    assert outcome.achieved_per_s < 110


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (lambda number: response(503 if number % 3 == 0 else 200), "status 503"),
        (lambda number: None if number % 3 == 0 else response(), "connection lost"),
        (lambda number: b"no http\r\n\r\n" if number % 3 == 0 else response(), "connection lost"),
        (lambda number: b"" if number % 3 == 0 else response(), "no answer in time"),
    ],
)
def test_errors_are_counted_by_their_kind_and_do_not_end_the_load(answer: object, fault: str) -> None:
    with slow_server(answer=answer) as server:  # type: ignore[arg-type]  # of the parameters
        outcome = send(load(server.url, 150, 0.5, connections=8, timeout_s=0.3))
    assert set(outcome.errors) == {fault}
    assert outcome.answered + outcome.errors[fault] == outcome.requests == len(Arrivals(150, 0.5).times(0))
    assert outcome.errors[fault] >= outcome.requests // 6


def test_a_connection_that_the_server_ends_after_an_answer_is_replaced() -> None:
    with slow_server(answer=lambda _number: response(200, "Connection: close")) as server:
        outcome = send(load(server.url, 100, 0.5, connections=4))
    assert outcome.errors == {}
    assert server.connections >= outcome.requests


def test_a_server_that_is_overloaded_is_not_waited_for_beyond_the_time_limit() -> None:
    with slow_server(work_s=0.05) as server:
        outcome = send(load(server.url, 400, 0.4, connections=2, timeout_s=0.3))
    assert outcome.errors["no answer in time"] > 50
    assert len(server.bodies) < outcome.requests / 2  # what waited for too long is not sent any more


def test_a_generator_that_falls_behind_says_that_it_was_the_limit() -> None:
    with slow_server() as server:
        outcome = send(OpenLoad(server.url, SlowToRead(), SESSIONS, Arrivals(300, 0.5), timeout_s=60))
    assert outcome.generator_limited
    assert outcome.limited_by is not None
    assert "busy" in outcome.limited_by


def test_a_generator_that_is_late_says_that_it_was_the_limit() -> None:
    outcome = Outcome.of(Record(latencies_s=[0.01], lateness_s=[0.006], answered=1, seconds=1.0))
    assert outcome.limited_by == "the generator was 6.00 ms late at p90, where the latency is 10.00 ms"


def test_a_generator_that_needs_all_of_a_core_says_that_it_was_the_limit() -> None:
    outcome = Outcome.of(Record(latencies_s=[0.01], answered=1, seconds=1.0, cpu_s=0.9))
    assert outcome.limited_by == "the generator used 90% of a core"


def test_a_ramp_tells_latencies_by_rate() -> None:
    with slow_server() as server:
        outcome = send(OpenLoad(server.url, Plain(), SESSIONS, Arrivals(50, 1.0, 450)))
    assert [part.rate_per_s for part in outcome.parts] == [70, 110, 150, 190, 230, 270, 310, 350, 390, 430]
    assert all(part.p50_ms is not None for part in outcome.parts)


def test_nothing_at_the_address_is_an_os_error_of_the_load() -> None:
    with slow_server() as server:
        pass
    with pytest.raises(OSError, match=r"refused|Connect"):
        asyncio.run(OpenLoop(load(server.url, 10, 0.2)).run())


def test_a_closed_loop_asks_over_so_many_connections_until_its_time_is_over() -> None:
    with slow_server(work_s=0.002) as server:
        outcome = send(ClosedLoad(server.url, Plain(), SESSIONS, connections=3, seconds=0.4))
    assert server.connections == 3
    assert outcome.rate_per_s is None
    assert outcome.errors == {}
    assert outcome.requests == len(server.bodies) > 10
    assert server.overlaps == 0


def test_a_closed_loop_counts_a_connection_that_is_lost() -> None:
    with slow_server(answer=lambda number: None if number == 5 else response()) as server:
        outcome = send(ClosedLoad(server.url, Plain(), SESSIONS, connections=2, seconds=0.3))
    assert Counter(outcome.errors) == {"connection lost": 1}
