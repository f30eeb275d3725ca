"""The loads that a generator can run: open loop and closed loop."""

from dataclasses import dataclass

from onward.service.bench.load_generator.api import Api
from onward.service.bench.load_generator.arrivals import Arrivals
from onward.service.bench.load_generator.workload import Sessions


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """An open loop: requests are due at times that do not depend on the responses.

    Latency counts from when a request was due, which avoids coordinated omission. A session has at most one request in
    flight, so its requests arrive in order.
    """

    url: str
    api: Api
    sessions: Sessions
    arrivals: Arrivals
    connections: int = 64
    timeout_s: float = 5.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ClosedLoad:
    """A closed loop: each connection sends its next request as soon as it has the response to the last one."""

    url: str
    api: Api
    sessions: Sessions
    connections: int
    seconds: float
    seed: int = 0


Load = OpenLoad | ClosedLoad
