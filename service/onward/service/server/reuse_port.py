"""SharedAddress: an address at which each worker listens by itself, so that connections spread over them.

Of a socket that all workers share, whoever looks first accepts all connections that wait, and kept-alive ones stay
there: of 16 connections one of two workers had 9 to 14. With a socket each, Linux gives every new connection to one of
them by the hash of its addresses.
"""

import socket
import sys
from collections.abc import Callable
from typing import Any, Self

SPREADS = sys.platform == "linux"
"""Whether the system spreads connections over the sockets of an address."""


class SharedAddress(socket.socket):
    """A bound socket that nobody listens to; what a worker process gets of it is a socket of its own."""

    @classmethod
    def of(cls, bound: socket.socket) -> Self:
        """Take over a bound socket."""
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return cls(fileno=bound.detach())

    def __reduce__(self) -> tuple[Callable[..., socket.socket], tuple[Any, ...]]:
        """Say how the socket of another process is made."""
        return _another, (self.family, self.getsockname())


def _another(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(address)
    return sock
