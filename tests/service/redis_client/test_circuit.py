"""A circuit breaker tries a server that is down rarely, one attempt at a time, and soon notices that it is back."""

from itertools import pairwise

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from onward.service.redis_client.circuit import FIRST_PAUSE_S, MAX_PAUSE_S, STABLE_S, CircuitBreaker
from tests.service.clock import Clock

TICK_S = 0.001


def attempts(circuit: CircuitBreaker, clock: Clock, seconds: float) -> list[float]:
    """Fail every attempt that the breaker admits; return their times."""
    times, end_s = [], clock() + seconds
    while clock() < end_s:
        try:
            era = circuit.begin()
        except RedisConnectionError:
            clock.now_s += TICK_S
        else:
            times.append(clock())
            circuit.failed(era)
    return times


@pytest.fixture
def circuit(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock)


def test_the_first_retry_is_quick(circuit: CircuitBreaker, clock: Clock) -> None:
    first, second, *_ = attempts(circuit, clock, 1)
    assert second - first <= FIRST_PAUSE_S + TICK_S


@pytest.mark.slow
def test_a_lasting_outage_has_fewer_than_two_attempts_a_second_at_random_times(
    circuit: CircuitBreaker, clock: Clock
) -> None:
    attempts(circuit, clock, 10)
    times = attempts(circuit, clock, 3_600)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert min(pauses) >= MAX_PAUSE_S / 2
    assert max(pauses) <= MAX_PAUSE_S + 2 * TICK_S
    assert len({round(pause, 2) for pause in pauses}) > 20
    assert len(times) < 2 * 3_600


def test_a_half_open_breaker_admits_one_attempt_and_its_success_admits_all(
    circuit: CircuitBreaker, clock: Clock
) -> None:
    circuit.failed(circuit.begin())
    clock.now_s += FIRST_PAUSE_S
    circuit.begin()
    with pytest.raises(RedisConnectionError, match="a moment ago"):
        circuit.begin()
    circuit.succeeded()
    circuit.begin()
    circuit.begin()


def test_attempts_that_fail_together_count_once(circuit: CircuitBreaker, clock: Clock) -> None:
    eras = [circuit.begin() for _ in range(8)]
    for era in eras:
        circuit.failed(era)
    clock.now_s += FIRST_PAUSE_S
    probe = circuit.begin()
    circuit.failed(eras[0])
    with pytest.raises(RedisConnectionError):
        circuit.begin()
    circuit.failed(probe)


def test_a_server_that_closes_new_connections_is_tried_as_rarely_as_one_that_is_down(
    circuit: CircuitBreaker, clock: Clock
) -> None:
    opened = 0
    end_s = clock() + 100
    while clock() < end_s:
        try:
            era = circuit.begin()
        except RedisConnectionError:
            clock.now_s += TICK_S
        else:
            opened += 1
            circuit.succeeded()
            circuit.lost(era, 0.3)
    assert opened < 200


def test_a_long_lived_connection_is_reopened_at_once(circuit: CircuitBreaker, clock: Clock) -> None:
    attempts(circuit, clock, 10)
    clock.now_s += MAX_PAUSE_S
    era = circuit.begin()
    circuit.succeeded()
    circuit.lost(era, STABLE_S)
    first, second, *_ = attempts(circuit, clock, 1)
    assert second - first <= FIRST_PAUSE_S + TICK_S
