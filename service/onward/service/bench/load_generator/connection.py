"""A keep-alive HTTP/1.1 connection that carries one request at a time."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Self, cast
from urllib.parse import urlsplit

import httptools

OnResponse = Callable[["Connection", int, bytes], None]
"""Takes the connection, the status and the body."""
OnLost = Callable[["Connection"], None]


class Connection(asyncio.Protocol):
    """Sends requests as bytes and calls back with each response."""

    def __init__(self, on_response: OnResponse, on_lost: OnLost) -> None:
        self._on_response, self._on_lost = on_response, on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.in_flight: int | None = None
        """The number of the request in flight."""
        self.is_kept = True
        """Whether the server keeps the connection open for another request."""

    @classmethod
    async def open(cls, url: str, on_response: OnResponse, on_lost: OnLost) -> Self:
        """Connect to the host of a URL. Raises OSError."""
        parts = urlsplit(url)
        context = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if context else 80)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(on_response, on_lost), parts.hostname or "", port, ssl=context
        )
        return connection

    def send(self, number: int, request: bytes) -> None:
        """Send a request; no other may be in flight."""
        self.in_flight = number
        self._transport.write(request)

    def close(self) -> None:
        """Close the connection at once and ignore a response that is still due."""
        self._on_lost = _ignore
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        """Feed the parser; close the connection if the data is not HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report that the connection has ended, unless `close` ended it."""
        self._on_lost(self)

    def on_body(self, body: bytes) -> None:
        """Collect a part of the response body, called by the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """Report a complete response, called by the parser."""
        body, self._body = self._body, b""
        self.is_kept = self._parser.should_keep_alive()
        self._on_response(self, self._parser.get_status_code(), body)


def _ignore(_connection: Connection) -> None:
    pass
