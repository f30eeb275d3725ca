"""The cost of HTTP alone: a server that reads the body and sends a response of the same size as the service's.

`python -m tests.benchmarks.bare_server DESCRIPTOR BYTES` serves on an inherited listening socket.
"""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from onward.service.bench.server import Server

Message = dict[str, Any]


class BareApplication:
    """An ASGI application without a framework."""

    def __init__(self, size: int) -> None:
        self._body = b'{"degraded":[],"' + b"x" * size + b'":0}'
        self._headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self._body)).encode()),
        ]

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


@contextmanager
def bare_server(size: int) -> Iterator[Server]:
    """Run the server in a separate process on a free port, with responses of about `size` bytes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        listening.set_inheritable(True)
        command = [sys.executable, "-m", "tests.benchmarks.bare_server", str(listening.fileno()), str(size)]
        process = subprocess.Popen(command, close_fds=False)
        try:
            yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}", process.pid)
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    descriptor, size = map(int, sys.argv[1:])
    config = uvicorn.Config(
        BareApplication(size), access_log=False, log_config=None, lifespan="off", server_header=False
    )
    uvicorn.Server(config).run([socket.socket(fileno=descriptor)])
