"""The application tells load balancers that it drains, and ends connections in the second half of the delay."""

from datetime import timedelta

from onward.service.http.drain import Drain
from tests.service.clock import Clock


def test_connections_end_in_the_second_half_of_the_delay() -> None:
    clock = Clock()
    drain = Drain(timedelta(seconds=10), clock=clock)
    assert (drain.has_begun, drain.ends_connections) == (False, False)
    drain.begin()
    clock.advance(timedelta(seconds=4))
    drain.begin()  # again changes nothing
    assert (drain.has_begun, drain.ends_connections) == (True, False)
    clock.advance(timedelta(seconds=2))
    assert drain.ends_connections
