"""A server that answers as its script says, and keeps what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """An answer of the script; without a status the connection is closed instead."""

    status: int | None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def problem(status: int, code: str, **headers: str) -> Reply:
    document = {"type": f"/problems/{code}", "title": code, "status": status, "detail": code, "code": code}
    return Reply(status, document, {name.replace("_", "-"): value for name, value in headers.items()})


CLOSED = Reply(None)


@dataclass
class ScriptedServer:
    """Where the server is, and the bodies of the requests so far."""

    url: str
    asked: list[Any] = field(default_factory=list)


@contextmanager
def scripted(*replies: Reply | Callable[[Any], Reply]) -> Iterator[ScriptedServer]:
    """Answer each request with the next reply, or what it makes of the body; the last one for all that follow."""
    remaining: Sequence[Reply | Callable[[Any], Reply]] = replies

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal remaining
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.asked.append(body)
            step, remaining = remaining[0], remaining[1:] or remaining
            reply = step(body) if callable(step) else step
            if reply.status is None:
                self.close_connection = True
                return
            content = json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the name of the base class
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = ScriptedServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
