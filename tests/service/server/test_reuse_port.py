"""Each worker gets a socket of its own, and the kernel balances connections over them."""

import pickle
import socket

import pytest

from onward.service.server.reuse_port import KERNEL_BALANCES, ReusePortSocket, claimed

CONNECTIONS = 64
pytestmark = pytest.mark.skipif(not KERNEL_BALANCES, reason="this system does not balance connections")


def bound_socket() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def test_connections_are_balanced_over_the_workers() -> None:
    with ReusePortSocket.of(bound_socket()) as address:
        workers = [pickle.loads(pickle.dumps(address)) for _ in range(2)]  # noqa: S301  # pickled in the same expression
        for worker in workers:
            worker.listen(CONNECTIONS)
            worker.setblocking(False)
        connections = [socket.create_connection(address.getsockname()) for _ in range(CONNECTIONS)]
        accepted = [count_pending(worker) for worker in workers]
        for sock in (*connections, *workers):
            sock.close()
    assert sum(accepted) == CONNECTIONS
    assert min(accepted) > CONNECTIONS // 8


def count_pending(listening: socket.socket) -> int:
    count = 0
    while True:
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_the_address_stays_reserved() -> None:
    with ReusePortSocket.of(bound_socket()) as address, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(address.getsockname())


def test_an_address_is_claimed_once_at_a_time() -> None:
    address, another = ("127.0.0.1", 1), ("127.0.0.1", 2)
    with claimed(address) as first, claimed(address) as second, claimed(another) as third:
        assert (first, second, third) == (True, False, True)
    with claimed(address) as again:
        assert again
