"""RequestReader: from the bytes that a connection receives to complete requests, over httptools' parser.

What it refuses, since it is too long or since the parser cannot vouch for it, ends the connection: nothing that follows
is a request. See decision 27.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import httptools
from starlette.types import Scope

from onward.service.errors import BodyTooLarge, HeadersTooLarge, MalformedRequest, ServiceError, URLTooLong
from onward.service.http.connection_pool import ConnectionLimits

SLICE_BYTES = 16 * 2**10
"""Bytes given to the parser at once: they bound what it holds beyond a limit, and the requests parsed ahead."""
CHUNK_OVERHEAD = 8
"""Received bytes for each byte of a body: the smallest chunks take 6."""
UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


class Request(NamedTuple):
    """A complete request."""

    scope: Scope
    body: bytes
    keep_alive: bool
    """Whether the caller leaves the connection open after the answer."""


class _Stopped(Exception):
    """Stops the parser: nothing that follows is a request."""


class RequestReader:
    """Parses the requests of one connection. The methods `on_...` are called by the parser."""

    def __init__(
        self, limits: ConnectionLimits, shared_scope: Mapping[str, Any], app_state: dict[str, Any], root_path: str
    ) -> None:
        """Take what the scopes of all requests have in common, and the state of which each gets a copy."""
        self._limits = limits
        self._shared_scope = shared_scope
        self._app_state = app_state
        self._root_path, self._raw_root_path = root_path, root_path.encode()
        self._parser = httptools.HttpRequestParser(self)

        self.requests: deque[Request] = deque()
        """Complete requests, which the connection takes from the left."""
        self.refusal: ServiceError | None = None
        """What to answer after them, before the connection is closed."""
        self.is_over = False
        """Whether everything that follows is to be ignored."""
        self.has_begun = False
        """Whether a part of a request has been parsed that is not complete."""
        self.owes_continue = False
        """Whether the caller waits for "100 Continue" before it sends the body."""

        self._in_head = True
        self._head_bytes = 0
        """Received bytes of the head, or, since the last byte of the body, of trailers; without the present slice."""
        self._body_bytes = 0
        """Received bytes after the head, framing included; without the present slice."""
        self._slice_bytes = 0
        """Length of the slice that is being parsed."""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._keep_alive = True
        self._asks_for_upgrade = False
        self._scope: dict[str, Any] = {}
        self._body = bytearray()

    @property
    def awaits_body(self) -> bool:
        """Whether the head of a request is complete and its body is not."""
        return self.has_begun and not (self._in_head or self.is_over)

    def feed(self, data: bytes) -> bytes:
        """Parse one slice after another, but none that follows a complete request; return what was not parsed."""
        if len(data) <= SLICE_BYTES:
            if not self.is_over:
                self._parse(data)
            return b""
        for first in range(0, len(data), SLICE_BYTES):
            if self.requests or self.is_over:
                return data[first:]
            self._parse(data[first : first + SLICE_BYTES])
        return b""

    def give_up(self, refusal: ServiceError | None = None) -> None:
        """Ignore everything that follows; `refusal`: what to answer after the complete requests."""
        if not self.is_over:
            self.refusal, self.is_over, self._body = refusal, True, bytearray()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.has_begun = self._in_head = True
        self.owes_continue = False
        self._head_bytes = self._body_bytes = 0
        self._url, self._headers, self._body = b"", [], bytearray()

    def on_url(self, url: bytes) -> None:
        """Collect a part of the URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers, which follow the body, are ignored."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the head, and begin to collect the body."""
        parser = self._parser
        if parser.should_upgrade():
            self._asks_for_upgrade = True
            return
        version, headers = parser.get_http_version(), self._headers
        named = dict(headers)
        if (refusal := self._refusal_of_head(version, named)) is not None:
            self._stop(refusal)
        self._in_head, self._head_bytes = False, 0
        self.owes_continue = version == "1.1" and named.get(b"expect", b"").lower() == b"100-continue"
        self._keep_alive = version == "1.1" and parser.should_keep_alive()
        path, query = self._target()
        self._scope = {
            **self._shared_scope,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "path": self._root_path + path.decode("ascii"),
            "raw_path": self._raw_root_path + path,
            "query_string": query,
            "headers": headers,
            "state": self._app_state.copy(),
        }

    def on_body(self, body: bytes) -> None:
        """Collect a part of the body."""
        self._body += body
        self._head_bytes = 0

    def on_message_complete(self) -> None:
        """Queue the request."""
        if self._asks_for_upgrade:
            return
        if len(self._body) > self._limits.body_bytes:
            self._stop(_body_too_large(self._limits.body_bytes))
        self.requests.append(Request(self._scope, bytes(self._body), self._keep_alive))
        self.has_begun = False
        if not self._keep_alive:
            self.is_over = True
            raise _Stopped

    def _parse(self, data: bytes) -> None:
        self._slice_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.give_up(MalformedRequest("This is not a valid HTTP/1.1 request."))
        else:
            if self.has_begun:
                self._check_unfinished()

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse the head again, as if it did not ask for an upgrade, and then what follows it.

        The parser would skip the declared body, as the first bytes of another protocol, and take it for a request.
        """
        self._asks_for_upgrade = False
        head = _head_without_upgrade(self._parser, self._url, self._headers)
        self._parser = httptools.HttpRequestParser(self)
        self._parse(head)
        if rest and not self.is_over:
            self._parse(rest)

    def _check_unfinished(self) -> None:
        """Refuse a request whose unfinished head or body is too long already."""
        limits = self._limits
        self._head_bytes += self._slice_bytes
        if len(self._url) > limits.line_bytes:
            self.give_up(_url_too_long(limits.line_bytes))
        elif self._head_bytes > limits.head_bytes + SLICE_BYTES:
            self.give_up(_headers_too_large(limits.head_bytes))
        elif not self._in_head:
            self._body_bytes += self._slice_bytes
            if len(self._body) > limits.body_bytes or self._body_bytes > CHUNK_OVERHEAD * limits.body_bytes:
                self.give_up(_body_too_large(limits.body_bytes))

    def _refusal_of_head(self, version: str, named: Mapping[bytes, bytes]) -> ServiceError | None:
        limits, headers = self._limits, self._headers
        if len(self._url) > limits.line_bytes:
            return _url_too_long(limits.line_bytes)
        if self._head_bytes + self._slice_bytes > limits.head_bytes:  # otherwise the head is shorter in any case
            headers_bytes = sum([len(name) + len(value) + 4 for name, value in headers])
            if len(self._url) + headers_bytes > limits.head_bytes:
                return _headers_too_large(limits.head_bytes)
        if version not in ("1.1", "1.0"):
            return MalformedRequest("The service speaks HTTP/1.1.")
        is_repeated = len(named) < len(headers) and [name for name, _ in headers].count(b"host") > 1
        if is_repeated or (version == "1.1" and b"host" not in named):
            return MalformedRequest("A request has exactly one Host header.")
        if version == "1.0" and b"transfer-encoding" in named:
            return MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
        if int(named.get(b"content-length", 0)) > limits.body_bytes:
            return _body_too_large(limits.body_bytes)
        return None

    def _target(self) -> tuple[bytes, bytes]:
        """Return the path and the query of the URL."""
        url = self._url
        if url[:1] == b"/" and b"#" not in url and url.isascii():
            path, _, query = url.partition(b"?")
            return path, query
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            self._stop(MalformedRequest("The URL is not valid."))
        if not url.isascii():
            self._stop(MalformedRequest("The URL is not ASCII: percent-encode it."))
        return parsed.path or b"/", parsed.query or b""

    def _stop(self, refusal: ServiceError) -> NoReturn:
        """Refuse the request that is being parsed; called by the parser's callbacks."""
        self.give_up(refusal)
        raise _Stopped


def _head_without_upgrade(parser: Any, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a request's head without its wish to upgrade; for CONNECT, which is one itself, what no parser accepts."""
    if parser.get_method() == b"CONNECT":
        return b"\0"
    parts = [parser.get_method(), b" ", url, b" HTTP/", parser.get_http_version().encode(), b"\r\n"]
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            value = b", ".join(token for token in tokens if token.lower() not in UPGRADE_HEADERS)
        if name not in UPGRADE_HEADERS:
            parts += (name, b": ", value, b"\r\n")
    return b"".join([*parts, b"\r\n"])


def _url_too_long(limit: int) -> URLTooLong:
    return URLTooLong(f"The URL is longer than {limit} bytes.")


def _headers_too_large(limit: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"The URL and the headers take more than {limit} bytes.")


def _body_too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is longer than {limit} bytes.")
