import pytest

from onward.service.bench.capacity import HIGHEST_RATE, LOWEST_RATE, RATE_TOLERANCE, Capacity, CapacitySearch
from onward.service.bench.load_generator.arrivals import Arrivals
from onward.service.bench.load_generator.generator import run_load
from onward.service.bench.load_generator.load_result import LoadRecord, LoadResult
from onward.service.bench.load_generator.loads import OpenLoad
from onward.service.bench.measurement import Cost, Measurement
from onward.service.bench.slo import Slo
from tests.service.bench.load_generator.slow_server import PlainApi, slow_server

SLO = Slo.parse("p90=50ms")


def measurement(rate: float, *, latency_ms: float, lateness_ms: float = 0.0) -> Measurement:
    record = LoadRecord(latencies_s=[latency_ms / 1000], lateness_s=[lateness_ms / 1000], answered=1, seconds=1.0)
    return Measurement(LoadResult.of(record, Arrivals(rate, 1.0)), Cost())


def search(true_capacity: float) -> Capacity:
    """Search a simulated server that is fast up to a rate."""

    def run_step(rate: float, _seconds: float) -> Measurement:
        return measurement(rate, latency_ms=5 if rate <= true_capacity else 500)

    return CapacitySearch(run_step, SLO, 1.0).run()


@pytest.mark.parametrize("true_capacity", [1.1, 7, 99, 100, 437, 5_000])
def test_the_search_ends_just_below_the_highest_rate(true_capacity: float) -> None:
    capacity = search(true_capacity)
    assert capacity.best is not None
    assert true_capacity / RATE_TOLERANCE <= capacity.best.rate_per_s <= true_capacity
    assert capacity.best.seconds == 2.0
    assert len(capacity.steps) < 20


def test_a_server_that_is_never_fast_enough_has_no_highest_rate() -> None:
    capacity = search(LOWEST_RATE / 2)
    assert capacity.best is None
    assert capacity.replicas(10) is None


def test_the_search_stops_at_the_highest_rate_of_the_generator() -> None:
    capacity = search(1e9)
    assert capacity.best is not None
    assert capacity.best.rate_per_s <= HIGHEST_RATE


def test_a_rate_that_fails_its_longer_confirmation_is_not_reported() -> None:
    def run_step(rate: float, seconds: float) -> Measurement:
        return measurement(rate, latency_ms=5 if rate <= (400 if seconds == 1.0 else 300) else 500)

    capacity = CapacitySearch(run_step, SLO, 1.0).run()
    assert capacity.best is not None
    assert 270 <= capacity.best.rate_per_s <= 300


def test_replicas_are_counted_with_headroom() -> None:
    capacity = search(100)
    assert capacity.replicas(1) == 1
    assert capacity.replicas(69) == 1
    assert capacity.replicas(71) == 2
    assert capacity.replicas(1_000) == 15


def test_a_limit_of_the_generator_is_reported() -> None:
    def run_step(rate: float, _seconds: float) -> Measurement:
        return measurement(rate, latency_ms=5) if rate <= 300 else measurement(rate, latency_ms=60, lateness_ms=55)

    capacity = CapacitySearch(run_step, SLO, 1.0).run()
    assert capacity.limited_by is not None
    assert search(300).limited_by is None


@pytest.mark.slow
def test_the_capacity_of_a_real_server_is_found() -> None:
    with slow_server(work_s=0.01) as server:

        def run_step(rate: float, seconds: float) -> Measurement:
            sessions = tuple((f"{number}",) for number in range(100))
            load = OpenLoad(server.url, PlainApi(), sessions, Arrivals(rate, seconds), timeout_s=0.4)
            return Measurement(run_load(load), Cost())

        capacity = CapacitySearch(run_step, Slo.parse("p90=200ms"), 0.4).run(first_rate=40)
    assert capacity.best is not None
    assert 15 < capacity.best.rate_per_s < 150  # one at a time, 10 ms each, is 100/s at best; short steps scatter
