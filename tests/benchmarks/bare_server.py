"""What HTTP alone costs: a server that reads a body and answers with as many bytes as the service, and does no more.

`python -m tests.benchmarks.bare_server PORT BYTES`
"""

import sys
from typing import Any

import uvicorn

Message = dict[str, Any]


class Bare:
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


if __name__ == "__main__":
    port, size = map(int, sys.argv[1:])
    uvicorn.run(Bare(size), port=port, access_log=False, log_config=None, lifespan="off", server_header=False)
