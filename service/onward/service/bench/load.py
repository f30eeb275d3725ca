"""What a generator is to send."""

from dataclasses import dataclass

from onward.service.bench.api import Api
from onward.service.bench.arrivals import Arrivals
from onward.service.bench.workload import Sessions


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """Requests that are due at times of their own, whether the server keeps up or not.

    Latency counts from when a request was due. A session's next request is never sent before its last is answered.
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
    """Connections that each send their next request when they have their answer."""

    url: str
    api: Api
    sessions: Sessions
    connections: int
    seconds: float
    seed: int = 0


Load = OpenLoad | ClosedLoad
