import pytest

from onward.service.bench.arrivals import Arrivals
from onward.service.bench.capacity import CLOSE_ENOUGH, HIGHEST_RATE, LOWEST_RATE, Capacity, Search
from onward.service.bench.generator import send
from onward.service.bench.load import OpenLoad
from onward.service.bench.measurement import Cost, Measurement
from onward.service.bench.outcome import Outcome, Record
from onward.service.bench.slo import Slo
from tests.service.bench.slow_server import Plain, slow_server

SLO = Slo.parse("p90=50ms")


def measurement(rate: float, *, latency_ms: float, lateness_ms: float = 0.0) -> Measurement:
    record = Record(latencies_s=[latency_ms / 1000], lateness_s=[lateness_ms / 1000], answered=1, seconds=1.0)
    return Measurement(Outcome.of(record, Arrivals(rate, 1.0)), Cost())


def search(capacity: float) -> Capacity:
    """Of a server that is fast up to a rate."""
    return Search(lambda rate, _seconds: measurement(rate, latency_ms=5 if rate <= capacity else 500), SLO, 1.0).run()


@pytest.mark.parametrize("capacity", [1.1, 7, 99, 100, 437, 5_000])
def test_the_search_ends_just_below_the_highest_rate(capacity: float) -> None:
    found = search(capacity)
    assert found.best is not None
    assert capacity / CLOSE_ENOUGH <= found.best.rate_per_s <= capacity
    assert found.best.seconds == 2.0
    assert len(found.trials) < 20


def test_a_server_that_is_never_fast_enough_has_no_highest_rate() -> None:
    found = search(LOWEST_RATE / 2)
    assert found.best is None
    assert found.replicas(10) is None


def test_the_search_ends_at_rates_that_no_generator_sends() -> None:
    found = search(1e9)
    assert found.best is not None
    assert found.best.rate_per_s <= HIGHEST_RATE


def test_a_rate_that_does_not_hold_up_for_longer_is_not_reported() -> None:
    def load(rate: float, seconds: float) -> Measurement:
        return measurement(rate, latency_ms=5 if rate <= (400 if seconds == 1.0 else 300) else 500)

    found = Search(load, SLO, 1.0).run()
    assert found.best is not None
    assert 270 <= found.best.rate_per_s <= 300


def test_replicas_are_counted_with_head_room() -> None:
    found = search(100)
    assert found.replicas(1) == 1
    assert found.replicas(69) == 1
    assert found.replicas(71) == 2
    assert found.replicas(1_000) == 15


def test_a_generator_that_was_the_limit_is_told_of() -> None:
    def load(rate: float, _seconds: float) -> Measurement:
        return measurement(rate, latency_ms=5) if rate <= 300 else measurement(rate, latency_ms=60, lateness_ms=55)

    found = Search(load, SLO, 1.0).run()
    assert found.limited_by is not None
    assert search(300).limited_by is None


def test_the_capacity_of_a_real_server_is_found() -> None:
    with slow_server(work_s=0.01) as server:

        def load(rate: float, seconds: float) -> Measurement:
            sessions = tuple((f"{number}",) for number in range(100))
            asked = OpenLoad(server.url, Plain(), sessions, Arrivals(rate, seconds), timeout_s=0.4)
            return Measurement(send(asked), Cost())

        found = Search(load, Slo.parse("p90=200ms"), 0.4).run(first_rate=40)
    assert found.best is not None
    assert 15 < found.best.rate_per_s < 150  # one at a time, 10 ms each, is 100/s at best; short trials scatter
