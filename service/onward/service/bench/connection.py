"""A connection that is kept and carries one request at a time."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Self, cast
from urllib.parse import urlsplit

import httptools

Answered = Callable[["Connection", int, bytes], None]
"""With the status and the body."""
Lost = Callable[["Connection"], None]


class Connection(asyncio.Protocol):
    """Sends bytes and tells of the answer."""

    def __init__(self, answered: Answered, lost: Lost) -> None:
        self._answered, self._lost = answered, lost
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.asked: int | None = None
        """The number of the request in flight."""
        self.is_kept = True
        """Whether another request may be sent."""

    @classmethod
    async def open(cls, url: str, answered: Answered, lost: Lost) -> Self:
        """Connect to the host of a URL. Raises OSError."""
        parts = urlsplit(url)
        context = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if context else 80)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: cls(answered, lost), parts.hostname or "", port, ssl=context
        )
        return connection

    def send(self, number: int, request: bytes) -> None:
        """Send a request; nothing else may be in flight."""
        self.asked = number
        self._transport.write(request)

    def close(self) -> None:
        """Drop the connection, and an answer that may still come."""
        self._lost = _ignore
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """By asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        """By asyncio."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """By asyncio."""
        self._lost(self)

    def on_body(self, body: bytes) -> None:
        """By the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """By the parser."""
        body, self._body = self._body, b""
        self.is_kept = self._parser.should_keep_alive()
        self._answered(self, self._parser.get_status_code(), body)


def _ignore(_connection: Connection) -> None:
    pass
