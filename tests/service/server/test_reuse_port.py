"""What a worker gets of a shared address is a socket of its own, and connections spread over these."""

import pickle
import socket

import pytest

from onward.service.server.reuse_port import SPREADS, SharedAddress

CONNECTIONS = 64
pytestmark = pytest.mark.skipif(not SPREADS, reason="this system does not spread connections")


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def test_connections_spread_over_the_workers() -> None:
    with SharedAddress.of(bound()) as address:
        workers = [pickle.loads(pickle.dumps(address)) for _ in range(2)]  # noqa: S301  # our own
        for worker in workers:
            worker.listen(CONNECTIONS)
            worker.setblocking(False)
        connections = [socket.create_connection(address.getsockname()) for _ in range(CONNECTIONS)]
        accepted = [count_of_waiting(worker) for worker in workers]
        for sock in (*connections, *workers):
            sock.close()
    assert sum(accepted) == CONNECTIONS
    assert min(accepted) > CONNECTIONS // 8


def count_of_waiting(listening: socket.socket) -> int:
    count = 0
    while True:
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_nobody_else_takes_the_address() -> None:
    with SharedAddress.of(bound()) as address, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(address.getsockname())
