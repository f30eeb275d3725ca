"""ReusePortSocket: give each worker a listening socket of its own, so that the kernel balances connections over them.

If all workers shared one socket, the worker that polls first would accept all pending connections, and keep-alive
connections stay with their worker: of 16 connections one of two workers had 9 to 14. With one socket each
(SO_REUSEPORT), Linux assigns every new connection to one of them by the hash of its addresses.
"""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

KERNEL_BALANCES = sys.platform == "linux"
"""Whether the kernel balances connections over the sockets that share an address."""


class ReusePortSocket(socket.socket):
    """A bound socket that never listens; unpickling it in a worker process makes another socket at the same address."""

    @classmethod
    def of(cls, bound: socket.socket) -> Self:
        """Take over a bound socket."""
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return cls(fileno=bound.detach())

    def __reduce__(self) -> tuple[Callable[..., socket.socket], tuple[Any, ...]]:
        """Pickle as the call that binds another socket to the same address."""
        return _bind_another, (self.family, self.getsockname())


def _bind_another(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(address)
    return sock


@contextmanager
def claimed(address: object) -> Iterator[bool]:
    """Claim an address in this block, and yield whether no other process has.

    Without it two services that start at the same time could both listen: sockets that share an address only refuse
    those that do not share it. The claim is an abstract unix socket, of which each network has only one of a name.
    """
    with socket.socket(socket.AF_UNIX) as claim:
        try:
            claim.bind(f"\0onward-service {address}")
        except OSError:
            yield False
        else:
            yield True
