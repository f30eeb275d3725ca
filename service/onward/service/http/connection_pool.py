"""ConnectionPool: all connections of a worker, with a limit on their number, their deadlines and their bodies."""

import math
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from onward.service import telemetry
from onward.service.errors import BodyTooSlow, ServiceError
from onward.service.http.drain import Drain
from onward.service.settings import Settings

NEVER_S = math.inf
RESERVED_DESCRIPTORS = 64
"""File descriptors that a worker needs besides its connections: libraries, bundles, stores, the log."""
SWEEP_S = 0.25
"""Interval at which deadlines are checked."""
MAX_HELD_BYTES = 64 * 2**20
"""Received bytes of the incomplete bodies of all connections, framing included."""

MIN_PAUSE_S, MAX_PAUSE_S = 0.02, 1.0
"""Bounds of the time for which nothing is read from a caller that was refused because of load or rate."""
REFUSED_READS_PER_S = 1_000
"""How often all these callers together are read again: what refusals cost at most, if the longest pause allows it."""

Phase = Literal["head", "body", "answering", "paused", "idle", "lingering"]
WAITING: tuple[Phase, ...] = ("idle", "head", "paused", "lingering")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may hold, and for how long."""

    connections: int
    line_bytes: int
    """Longest URL."""
    head_bytes: int
    """Longest URL and headers together."""
    body_bytes: int
    head_s: float
    """Longest time from the first byte of a head, or from the opening of the connection, to its end."""
    body_s: float
    write_s: float
    """Longest time for which a caller may leave answers unread."""
    idle_s: float
    """Longest time between an answer and the next request."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits of a deployment; fewer connections than it allows if the process has few descriptors."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(
            connections=max(1, min(settings.max_connections, descriptors - RESERVED_DESCRIPTORS)),
            line_bytes=settings.max_url,
            head_bytes=settings.max_headers,
            body_bytes=settings.max_body,
            head_s=settings.head_timeout.total_seconds(),
            body_s=settings.body_timeout.total_seconds(),
            write_s=settings.write_timeout.total_seconds(),
            idle_s=settings.keep_alive.total_seconds(),
        )


class PooledConnection(Protocol):
    """What the pool knows of a connection."""

    phase: Phase
    phase_began_s: float
    deadline_s: float
    body_bytes: int

    def expire(self) -> None:
        """End the phase, whose deadline has passed."""
        ...

    def evict(self) -> None:
        """Close at once."""
        ...

    def refuse(self, refusal: ServiceError) -> None:
        """Answer with an error and end the connection."""
        ...


class ConnectionPool:
    """Keeps account of the connections of a worker, and ends those that wait longest if there are too many."""

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float], drain: Drain | None = None) -> None:
        """`clock`: that of the event loop."""
        self.limits = limits
        self.is_closing = False
        """Whether a connection is to end with its next answer, because the service stops."""
        self._drain = drain
        self._clock = clock
        self._connections: set[PooledConnection] = set()
        self._held_bytes = 0
        self._next_read_s = 0.0

    def admit(self, connection: PooledConnection) -> bool:
        """Add a connection. If there are too many, the one that waits longest is closed instead.

        One waits if it has no complete head, or its last answer is written. Returns False if none of the others can be
        closed, because all have a request in progress.
        """
        self._connections.add(connection)
        while len(self._connections) > self.limits.connections:
            waiting = [other for other in self._connections if other.phase in WAITING and other is not connection]
            if not waiting:
                return False
            telemetry.connection_ended("evicted")
            evicted = _oldest(waiting)
            self.remove(evicted)  # at once: it is closed only later, and more may come before
            evicted.evict()
        return True

    def remove(self, connection: PooledConnection) -> None:
        """Forget a connection that is closed."""
        self.release(connection)
        self._connections.discard(connection)

    def hold(self, connection: PooledConnection, received: int) -> None:
        """Count received bytes of an incomplete body; if all hold too many, the body that takes longest is refused."""
        connection.body_bytes += received
        self._held_bytes += received
        if self._held_bytes > MAX_HELD_BYTES:
            telemetry.connection_ended("evicted")
            bodies = [other for other in self._connections if other.body_bytes]
            _oldest(bodies).refuse(BodyTooSlow("Too many bodies arrive at once; this one took longest."))

    def release(self, connection: PooledConnection) -> None:
        """Forget the bytes of a body that is complete or given up."""
        self._held_bytes -= connection.body_bytes
        connection.body_bytes = 0

    def refusal_pause_s(self) -> float:
        """Return how long to read nothing from a caller that has just been refused."""
        now_s = self._clock()
        self._next_read_s = max(self._next_read_s + 1 / REFUSED_READS_PER_S, now_s + MIN_PAUSE_S)
        self._next_read_s = min(self._next_read_s, now_s + MAX_PAUSE_S)
        return self._next_read_s - now_s

    async def sweep(self) -> None:
        """End the phases whose deadline has passed."""
        if self._drain is not None and self._drain.ends_connections:
            self.is_closing = True
        now_s = self._clock()
        for connection in [connection for connection in self._connections if connection.deadline_s < now_s]:
            telemetry.connection_ended(f"{connection.phase}_timeout")
            connection.expire()


def _oldest(connections: Iterable[PooledConnection]) -> PooledConnection:
    return min(connections, key=lambda connection: connection.phase_began_s)
