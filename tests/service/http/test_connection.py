"""Connections: every request is answered in order, and whatever arrives, nothing else is executed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from onward.service.http import connection_pool
from onward.service.http.connection import (
    HTTP_SERVER,
    LAST_HEAD_S,
    LINGER_BYTES,
    LINGER_S,
    Connection,
    HTTPServer,
)
from onward.service.http.connection_pool import (
    MAX_PAUSE_S,
    MIN_PAUSE_S,
    REFUSED_READS_PER_S,
    ConnectionLimits,
    ConnectionPool,
)
from onward.service.http.request_reader import SLICE_BYTES

LIMITS = ConnectionLimits(
    connections=100,
    line_bytes=2_000,
    head_bytes=4_000,
    body_bytes=50_000,
    head_s=10,
    body_s=20,
    write_s=30,
    idle_s=60,
)
HIDDEN = b"DELETE /hidden HTTP/1.1\r\nHost: here\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Keeps what is written; the test decides when the caller reads."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 5000), "sockname": ("10.0.0.2", 8000)})
        self.written = b""
        self.is_reading_now = True
        self.has_eof = False
        self.is_closed = False
        self.on_write: Callable[[], None] = lambda: None
        """Called with each write, as by a transport whose buffer is full."""
        self.unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: Any) -> None:
        assert not self.has_eof, "written after the end"
        assert not self.is_closed, "written after the connection was closed"
        self.written += data
        self.on_write()

    def write_eof(self) -> None:
        self.has_eof = True

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        assert self.is_reading_now
        self.is_reading_now = False

    def resume_reading(self) -> None:
        assert not self.is_reading_now
        self.is_reading_now = True

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed, self.unsent = True, 0


Respond = Callable[[Scope, bytes], Awaitable[Response]]
Admit = Callable[[Scope], Response | None]


def admit_all(_scope: Scope) -> None:
    """Refuse nothing."""


def admit_no_busy(scope: Scope) -> Response | None:
    """Refuse requests to a path that begins with /busy."""
    return Response("busy", 503, {"Retry-After": "1"}) if scope["path"].startswith("/busy") else None


class Caller:
    """One connection with a caller behind a fake transport, and a clock that the test moves."""

    def __init__(
        self,
        pool: ConnectionPool | None = None,
        respond: Respond | None = None,
        limits: ConnectionLimits = LIMITS,
        admit: Admit = admit_all,
    ) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.now_s = 0.0
        self.pool = pool or ConnectionPool(limits, lambda: self.now_s)
        responder = SimpleNamespace(admit=admit, respond=respond or self._echo)
        state = {HTTP_SERVER: HTTPServer(responder, self.pool)}
        self.server_state = ServerState()
        loop = asyncio.get_running_loop()
        self.connection = Connection(Config(app=None, lifespan="off"), self.server_state, state, loop)  # type: ignore[arg-type]
        self.transport = FakeTransport()
        self.connection._loop = _Clock(loop, lambda: self.now_s)  # type: ignore[assignment]
        self.connection.connection_made(self.transport)

    async def _echo(self, scope: Scope, body: bytes) -> Response:
        self.requests.append((scope["method"], scope["path"], body))
        await asyncio.sleep(0)
        return Response(f"{scope['method']} {scope['path']} {len(body)}")

    async def send(self, *parts: bytes) -> None:
        """Send parts, each when the service reads and has done what it can."""
        for part in parts:
            for _ in range(100_000):
                if self.transport.is_reading_now or self.transport.is_closed:
                    break
                await asyncio.sleep(0)
            if self.transport.is_closed:
                return
            self.connection.data_received(part)
            await asyncio.sleep(0)
        await self.settle()

    async def settle(self) -> None:
        """Wait until nothing is being answered."""
        while self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks)

    async def settled_or_waiting(self) -> None:
        """Let the service do what it can without the caller."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def later(self, seconds: float) -> None:
        self.now_s += seconds
        await self.pool.sweep()

    def answers(self) -> list[tuple[int, bytes]]:
        """Return the status and the body of each answer; fails unless all is well-formed."""
        rest, answers = self.transport.written, []
        while rest:
            head, end, rest = rest.partition(b"\r\n\r\n")
            assert end
            status = int(head.split(b" ")[1])
            if status == 100:
                continue
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            assert len(rest) >= length
            answers.append((status, rest[:length]))
            rest = rest[length:]
        return answers

    @property
    def statuses(self) -> list[int]:
        return [status for status, _ in self.answers()]

    @property
    def ends(self) -> bool:
        return self.transport.is_closed or self.transport.has_eof


class _Clock:
    """An event loop with a clock of its own; its timers run at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self.time = clock

    def call_later(self, _seconds: float, callback: Callable[..., None]) -> asyncio.Handle:
        return self._loop.call_soon(callback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def post(body: bytes, *headers: bytes, path: bytes = b"/say", version: bytes = b"1.1") -> bytes:
    extra = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/%b\r\nHost: here\r\n%bContent-Length: %d\r\n\r\n%b" % (
        path,
        version,
        extra,
        len(body),
        body,
    )


def chunked(body: bytes, *headers: bytes, size: int = 7) -> bytes:
    extra = b"".join(header + b"\r\n" for header in headers)
    parts = [body[first : first + size] for first in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"POST /say HTTP/1.1\r\nHost: here\r\n%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (extra, chunks)


UPGRADES = [
    (b"Connection: Upgrade", b"Upgrade: anything"),
    (b"Connection: Upgrade", b"Upgrade: websocket"),
    (b"Upgrade: h2c", b"Connection: keep-alive, Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
    (b"connection: upgrade", b"upgrade: h2c"),
]


@pytest.mark.parametrize("cut", [None, 1, 40, 90, 150])
@pytest.mark.parametrize("write", [post, chunked])
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_an_upgrade_is_ignored_and_its_body_is_a_body(
    upgrade: Sequence[bytes], write: Callable[..., bytes], cut: int | None
) -> None:
    caller = Caller()
    request = write(HIDDEN, *upgrade)
    await caller.send(*([request] if cut is None else [request[:cut], request[cut:]]))
    assert caller.requests == [("POST", "/say", HIDDEN)]
    await caller.send(post(b"next"))
    assert caller.requests[1:] == [("POST", "/say", b"next")]
    assert caller.statuses == [200, 200]
    assert not caller.ends


async def test_an_upgrade_without_a_body_is_ignored_among_pipelined_requests() -> None:
    caller = Caller()
    upgrade = b"GET /chat HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    await caller.send(post(b"1") + upgrade + post(b"2"))
    assert [path for _, path, _ in caller.requests] == ["/say", "/chat", "/say"]


async def test_a_large_body_after_an_upgrade_through_a_proxy_is_one_body() -> None:
    caller = Caller()
    body = b"x" * 18_000 + b"\r\n" + HIDDEN
    request = post(body, *UPGRADES[0])
    await caller.send(*[request[first : first + 4096] for first in range(0, len(request), 4096)])
    assert caller.requests == [("POST", "/say", body)]


REFUSED = {
    "garbage": (b"not HTTP at all\r\n\r\n", 400),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: here\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "CONNECT": (b"CONNECT there:443 HTTP/1.1\r\nHost: there\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two lengths": (post(b"abc", b"Content-Length: 5"), 400),
    "length and chunks": (chunked(b"abc", b"Content-Length: 3"), 400),
    "chunks twice": (chunked(b"abc", b"Transfer-Encoding: chunked"), 400),
    "chunks before another coding": (chunked(b"abc").replace(b"chunked", b"chunked, gzip"), 400),
    "chunks in HTTP/1.0": (chunked(b"abc").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "a negative length": (post(b"").replace(b"Length: 0", b"Length: -1"), 400),
    "a length with a plus": (post(b"").replace(b"Length: 0", b"Length: +3"), 400),
    "a space before the colon": (post(b"", b"X-Header : 1"), 400),
    "a folded header": (post(b"", b"X-Header: 1\r\n 2"), 400),
    "a bare line feed": (post(b"", b"X-Header: 1\nX-Other: 2"), 400),
    "a NUL": (post(b"", b"X-Header: a\0b"), 400),
    "a fragment of bytes in the URL": (post(b"", path=b"/\xff"), 400),
    "a long URL": (post(b"", path=b"/" + b"x" * 2_000), 414),
    "an endless URL": (b"GET /" + b"x" * 40_000, 414),
    "many headers": (post(b"", *[b"X-%d: 1" % number for number in range(600)]), 431),
    "an endless header": (b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 40_000, 431),
    "an endless name": (b"GET / HTTP/1.1\r\nHost: here\r\n" + b"x" * 40_000, 431),
    "a long body, declared": (post(b"").replace(b"Length: 0", b"Length: 50001"), 413),
    "a long body, chunked": (chunked(b"x" * 50_001, size=5_000), 413),
    "a body in tiny chunks with long extensions": (
        chunked(b"").replace(b"0\r\n\r\n", (b"1;" + b"x" * 10_000 + b"\r\nx\r\n") * 60),
        413,
    ),
    "a chunk of no size": (chunked(b"abc", size=3).replace(b"\r\n3\r\n", b"\r\nzz\r\n"), 400),
}


@pytest.mark.parametrize("size", [None, 1_000])
@pytest.mark.parametrize(("received", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_vouched_for_is_refused_with_a_problem_document_and_ends_the_connection(
    received: bytes, status: int, size: int | None
) -> None:
    caller = Caller()
    step = size or len(received)
    await caller.send(post(b"first"), *[received[first : first + step] for first in range(0, len(received), step)])
    await caller.send(HIDDEN, post(b"last"))
    assert caller.statuses == [200, status]
    assert b"application/problem+json" in caller.transport.written
    assert b"connection: close" in caller.transport.written
    assert b"x-request-id: " in caller.transport.written
    assert [body for _, _, body in caller.requests] == [b"first"]
    assert caller.ends


async def test_a_refusal_waits_for_the_answers_of_earlier_requests() -> None:
    caller = Caller()
    await caller.send(post(b"1") + post(b"2") + b"garbage\r\n\r\n")
    assert caller.statuses == [200, 200, 400]


async def test_limits_can_be_reached() -> None:
    caller = Caller()
    await caller.send(post(b"", path=b"/" + b"x" * 1_999), post(b"x" * 50_000), chunked(b"x" * 50_000, size=1))
    assert caller.statuses == [200, 200, 200]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_after_a_request_that_closes_nothing_is_parsed(version: bytes) -> None:
    caller = Caller()
    await caller.send(post(b"1", b"Connection: close", version=version) + HIDDEN)
    await caller.send(HIDDEN)
    assert caller.statuses == [200]
    assert caller.ends
    assert len(caller.requests) == 1


async def test_absolute_and_query_targets() -> None:
    scopes: list[Scope] = []

    async def respond(scope: Scope, body: bytes) -> Response:
        scopes.append(scope)
        return Response()

    caller = Caller(respond=respond)
    await caller.send(post(b"", path=b"http://here/a%20b?x=1"), post(b"", path=b"/a?x=%2F?y"))
    assert [(scope["path"], scope["raw_path"], scope["query_string"]) for scope in scopes] == [
        ("/a%20b", b"/a%20b", b"x=1"),
        ("/a", b"/a", b"x=%2F?y"),
    ]
    assert scopes[0]["client"] == ("10.0.0.1", 5000)


async def test_100_continue_is_sent_when_the_body_is_awaited() -> None:
    caller = Caller()
    request = post(b"body", b"Expect: 100-continue")
    await caller.send(request[:-4])
    assert caller.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    await caller.send(b"body")
    assert caller.statuses == [200]


async def test_100_continue_is_not_sent_to_a_caller_of_http_1_0() -> None:
    caller = Caller()
    request = post(b"body", b"Expect: 100-continue", version=b"1.0")
    await caller.send(request[:-4])
    assert caller.transport.written == b""
    await caller.send(b"body")
    assert caller.statuses == [200]


@pytest.mark.parametrize("trailer", [b"X: " + b"x" * 40_000, b"X: 1\r\n" * 8_000])
async def test_trailers_are_limited_as_headers_are(trailer: bytes) -> None:
    caller = Caller()
    request = chunked(b"x" * 20_000, size=5_000)[:-2] + trailer
    await caller.send(*[request[first : first + 100] for first in range(0, len(request), 100)])
    assert caller.statuses == [431]
    assert caller.ends


async def test_the_work_for_a_body_does_not_grow_with_its_pieces() -> None:
    """The pieces of a body are joined as they come: a list of them would be gone through at each arrival."""
    caller = Caller()
    await caller.send(chunked(b"x" * 40_000, size=1)[:-5])
    assert caller.connection._reader._body == b"x" * 40_000


async def test_100_continue_does_not_overtake_an_answer() -> None:
    caller = Caller()
    await caller.send(post(b"1") + post(b"body", b"Expect: 100-continue")[:-4])
    assert caller.transport.written.endswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    await caller.send(b"body")
    assert caller.statuses == [200, 200]


async def test_pipelined_requests_are_answered_in_order_and_reading_stops_meanwhile() -> None:
    caller = Caller()
    requests = b"".join(post(b"x" * number) for number in range(2_000))
    assert len(requests) > 10 * SLICE_BYTES
    caller.connection.data_received(requests)
    assert len(caller.connection._reader.requests) < 500  # only one slice was parsed ahead
    caller.connection.data_received(post(b""))
    assert not caller.transport.is_reading_now
    await caller.settle()
    assert [body for _, body in caller.answers()] == [b"POST /say %d" % number for number in range(2_000)] + [
        b"POST /say 0"
    ]
    assert caller.transport.is_reading_now


class TestDeadlines:
    """Each phase has a deadline."""

    async def test_a_new_connection_that_sends_nothing_is_closed(self) -> None:
        caller = Caller()
        await caller.later(LIMITS.head_s + 1)
        assert caller.transport.is_closed
        assert caller.transport.written == b""

    async def test_half_a_head_is_refused_however_slowly_it_goes_on(self) -> None:
        caller = Caller()
        for byte in post(b"x")[:20]:
            await caller.send(bytes([byte]))
            await caller.later(1)
        assert caller.statuses == [408]
        assert caller.ends

    async def test_half_a_body_is_refused_however_slowly_it_goes_on(self) -> None:
        caller = Caller()
        await caller.send(post(b"x" * 30)[:-30])
        for _ in range(25):
            await caller.later(1)
            await caller.send(b"x")
        assert caller.statuses == [408]

    async def test_the_time_of_a_body_begins_with_it(self) -> None:
        caller = Caller()
        await caller.send(post(b"x")[:20])
        await caller.later(LIMITS.head_s - 1)
        await caller.send(post(b"x")[20:-1])
        await caller.later(LIMITS.body_s - 1)
        await caller.send(b"x")
        assert caller.statuses == [200]

    async def test_an_idle_connection_is_closed(self) -> None:
        caller = Caller()
        await caller.send(post(b"1"))
        await caller.later(LIMITS.idle_s - 1)
        assert not caller.ends
        await caller.send(post(b"2"))
        await caller.later(LIMITS.idle_s + 1)
        assert caller.transport.is_closed
        assert caller.statuses == [200, 200]

    async def test_a_caller_that_does_not_read_is_cut(self) -> None:
        release = asyncio.Event()

        async def respond(_scope: Scope, _body: bytes) -> Response:
            await release.wait()
            return Response("long")

        caller = Caller(respond=respond)
        caller.connection.data_received(post(b"1") + post(b"2"))
        await caller.later(1_000)
        assert not caller.ends  # as long as the service takes is not the caller's fault
        caller.connection.pause_writing()
        release.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert caller.statuses == [200]  # the second waits
        await caller.later(LIMITS.write_s + 1)
        assert caller.transport.is_closed

    async def test_a_caller_that_reads_in_time_is_not_cut(self) -> None:
        caller = Caller()
        caller.connection.data_received(post(b"1") + post(b"2"))
        caller.connection.pause_writing()
        for _ in range(10):
            await asyncio.sleep(0)
        await caller.later(LIMITS.write_s - 1)
        caller.connection.resume_writing()
        await caller.settle()
        assert caller.statuses == [200, 200]

    async def test_a_refused_caller_may_read_the_answer_but_not_for_ever(self) -> None:
        caller = Caller()
        await caller.send(post(b"").replace(b"Length: 0", b"Length: 5000000"))
        await caller.send(b"x" * 4_000_000)
        assert caller.statuses == [413]
        assert not caller.transport.is_closed
        await caller.later(LINGER_S + 1)
        assert caller.transport.is_closed

    async def test_a_refused_caller_may_send_a_bounded_amount(self) -> None:
        caller = Caller()
        await caller.send(post(b"").replace(b"Length: 0", b"Length: 99999999"), b"x" * (LINGER_BYTES + 1))
        assert caller.transport.is_closed

    async def test_a_last_answer_may_be_read_as_slowly_as_another(self) -> None:
        caller = Caller()
        caller.transport.unsent = 50_000
        await caller.send(post(b"1", b"Connection: close"))
        await caller.later(LIMITS.write_s - 1)
        assert not caller.transport.is_closed
        await caller.later(2)
        assert caller.transport.is_closed

    @pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
    async def test_a_caller_that_ends_its_side_and_does_not_read_is_cut(self, close: bytes) -> None:
        caller = Caller()
        caller.transport.unsent = 50_000
        caller.connection.data_received(b"GET /1 HTTP/1.1\r\nHost: here\r\n%b\r\n" % close)
        caller.connection.eof_received()
        await caller.settle()
        assert caller.transport.is_closed
        await caller.later(LIMITS.write_s + LIMITS.idle_s)
        assert caller.transport.unsent == 0

    async def test_half_a_body_of_a_caller_that_ended_its_side_is_refused_once(self) -> None:
        caller = Caller()
        await caller.send(post(b"1"), post(b"x" * 30)[:-10])
        caller.transport.unsent = 50_000
        if not caller.connection.eof_received():
            caller.transport.close()
        for _ in range(10):
            await caller.later(LIMITS.body_s + 1)
        assert caller.statuses == [200]
        assert caller.transport.unsent == 0

    async def test_an_idle_caller_that_does_not_read_is_cut(self) -> None:
        caller = Caller()
        await caller.send(post(b"1"))
        caller.transport.unsent = 50_000
        await caller.later(LIMITS.idle_s + 1)
        assert caller.transport.unsent == 0

    async def test_a_cancelled_answer_does_not_fail_when_the_connection_is_lost(self) -> None:
        caller = Caller()
        caller.connection.data_received(post(b"1"))
        caller.connection.pause_writing()
        await caller.settled_or_waiting()
        for task in list(caller.server_state.tasks):
            task.cancel()
        await caller.settle()
        caller.connection.connection_lost(None)
        assert caller.connection not in caller.pool._connections


class TestLoad:
    """Requests that are refused because of load."""

    async def test_one_is_refused_at_once_and_nothing_is_read_for_a_while(self) -> None:
        caller = Caller(admit=admit_no_busy)
        caller.connection.data_received(post(b"1", path=b"/busy"))
        assert caller.answers() == [(503, b"busy")]
        assert (caller.connection.phase, caller.transport.is_reading_now) == ("paused", False)
        await asyncio.sleep(0)
        assert (caller.connection.phase, caller.transport.is_reading_now) == ("idle", True)
        await caller.send(post(b"2"))
        assert caller.statuses == [503, 200]

    async def test_each_of_a_pipeline_is_admitted_or_refused_in_order(self) -> None:
        caller = Caller(admit=admit_no_busy)
        paths = [b"/a", b"/busy-1", b"/b", b"/busy-2", b"/busy-3", b"/c"]
        caller.connection.data_received(b"".join(post(b"", path=path) for path in paths))
        for _ in range(50):
            await asyncio.sleep(0)
        assert caller.statuses == [200, 503, 200, 503, 503, 200]
        assert [path for _, path, _ in caller.requests] == ["/a", "/b", "/c"]
        assert caller.connection.phase == "idle"

    async def test_a_refused_caller_that_closes_is_closed(self) -> None:
        closing, ended, stopped = (Caller(admit=admit_no_busy) for _ in range(3))
        closing.connection.data_received(post(b"", b"Connection: close", path=b"/busy"))
        assert closing.connection.phase == "lingering"
        ended.connection.data_received(post(b"", path=b"/busy"))
        assert ended.connection.eof_received()
        stopped.connection.data_received(post(b"", path=b"/busy"))
        stopped.connection.shutdown()
        await asyncio.sleep(0)
        assert closing.transport.has_eof
        assert ended.transport.is_closed
        assert stopped.transport.is_closed

    async def test_a_refused_caller_that_does_not_read_is_cut(self) -> None:
        caller = Caller(admit=admit_no_busy)
        caller.connection.data_received(post(b"", path=b"/busy") + post(b"", path=b"/a"))
        caller.connection.pause_writing()
        for _ in range(10):
            await asyncio.sleep(0)
        assert caller.statuses == [503]
        await caller.later(LIMITS.write_s + 1)
        assert caller.transport.is_closed

    async def test_a_refused_caller_whose_refusal_does_not_fit_into_the_buffer_is_cut(self) -> None:
        caller = Caller(admit=admit_no_busy)
        caller.transport.on_write = caller.connection.pause_writing
        caller.connection.data_received(post(b"", path=b"/busy"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert caller.statuses == [503]
        await caller.later(LIMITS.write_s + 1)
        assert caller.transport.is_closed

    async def test_a_refused_caller_that_reads_late_is_answered(self) -> None:
        caller = Caller(admit=admit_no_busy)
        caller.connection.data_received(post(b"", path=b"/busy") + post(b"", path=b"/a"))
        caller.connection.pause_writing()
        for _ in range(10):
            await asyncio.sleep(0)
        caller.connection.resume_writing()
        for _ in range(10):
            await asyncio.sleep(0)
        assert caller.statuses == [503, 200]

    async def test_one_whose_connection_is_lost_meanwhile_is_forgotten(self) -> None:
        caller = Caller(admit=admit_no_busy)
        caller.connection.data_received(post(b"", path=b"/busy") + post(b"", path=b"/a"))
        caller.connection.connection_lost(None)
        await asyncio.sleep(0)
        assert caller.requests == []

    async def test_an_admitted_request_is_executed_even_if_its_connection_is_lost_before_it_starts(self) -> None:
        caller = Caller()
        caller.connection.data_received(post(b"1") + post(b"2"))
        caller.connection.connection_lost(None)
        await caller.settle()
        assert caller.requests == [("POST", "/say", b"1")]

    async def test_refused_callers_are_read_again_at_a_bounded_rate(self) -> None:
        now_s = 100.0
        pool = ConnectionPool(LIMITS, lambda: now_s)
        assert pool.refusal_pause_s() == pytest.approx(MIN_PAUSE_S)
        reads_s = sorted(now_s + pool.refusal_pause_s() for _ in range(900))
        assert reads_s[-1] - reads_s[0] == pytest.approx(899 / REFUSED_READS_PER_S)
        assert max(pool.refusal_pause_s() for _ in range(5_000)) == MAX_PAUSE_S
        now_s += 10
        assert pool.refusal_pause_s() == pytest.approx(MIN_PAUSE_S)


class TestPool:
    """The number of connections and the bytes of their bodies are limited."""

    @staticmethod
    def callers(count: int, **limits: Any) -> list[Caller]:
        first = Caller(limits=replace(LIMITS, **limits))
        others = []
        for _ in range(count - 1):
            first.now_s += 1
            others.append(Caller(first.pool))
            others[-1].now_s = first.now_s
            others[-1].connection.phase_began_s = first.now_s
        return [first, *others]

    async def test_the_one_that_waits_longest_is_closed(self) -> None:
        first, second, third = self.callers(3, connections=2)
        assert first.transport.is_closed
        assert not second.ends
        assert not third.ends

    async def test_a_request_in_progress_is_not_given_up_for_a_new_connection(self) -> None:
        (first,) = self.callers(1, connections=1)
        first.connection.data_received(post(b"1"))
        second = Caller(first.pool)
        assert second.statuses == [503]
        assert second.ends
        await first.settle()
        assert first.statuses == [200]

    async def test_a_closed_connection_makes_room(self) -> None:
        (first,) = self.callers(1, connections=1)
        first.connection.data_received(post(b"1"))
        await first.settle()
        first.connection.connection_lost(None)
        second = Caller(first.pool)
        await second.send(post(b"2"))
        assert second.statuses == [200]

    async def test_the_body_that_takes_longest_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection_pool, "MAX_HELD_BYTES", 60_000)
        first, second, third = self.callers(3)
        for caller in (first, second):
            await caller.send(post(b"x" * 30_000)[:-10_000])
        first.connection.phase_began_s, second.connection.phase_began_s = 5.0, 1.0
        await third.send(post(b"x" * 25_000)[:-1])
        assert second.statuses == [408]
        await first.send(b"x" * 10_000)
        await third.send(b"x")
        assert first.statuses == third.statuses == [200]
        first.connection.connection_lost(None)
        assert first.pool._held_bytes == 0

    async def test_a_body_behind_a_request_is_refused_after_its_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection_pool, "MAX_HELD_BYTES", 5_000)
        caller = Caller()
        await caller.send(post(b"1") + post(b"x" * 30_000)[:10_000])
        assert caller.statuses == [200, 408]
        assert caller.pool._held_bytes == 0

    async def test_a_body_that_is_given_up_behind_an_answer_counts_no_longer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_pool, "MAX_HELD_BYTES", 15_000)
        first, second, third = self.callers(3)
        first.connection.data_received(post(b"1") + post(b"x" * 30_000)[:10_000])
        first.connection.phase_began_s = 0.0
        second.connection.data_received(post(b"x" * 30_000)[:10_000])
        assert first.pool._held_bytes == 10_000
        third.connection.data_received(post(b"x" * 30_000)[:2_000])
        await first.settle()
        assert first.statuses == [200, 408]
        assert second.statuses == third.statuses == []

    async def test_connections_that_come_at_once_close_one_each(self) -> None:
        callers = self.callers(5, connections=2)
        assert [caller.transport.is_closed for caller in callers] == [True, True, True, False, False]

    async def test_half_a_head_and_a_last_answer_are_given_up_for_a_new_connection(self) -> None:
        first, second = self.callers(2, connections=2)
        await first.send(post(b"1")[:20])
        await second.send(b"garbage\r\n\r\n")
        first.connection.phase_began_s = second.connection.phase_began_s = -1.0
        others = [Caller(first.pool), Caller(first.pool)]
        assert first.transport.is_closed
        assert second.transport.is_closed
        assert not any(caller.ends for caller in others)
        assert len(first.pool._connections) == 2


async def test_a_caller_that_ends_its_side_gets_its_answer() -> None:
    caller = Caller()
    caller.connection.data_received(post(b"1"))
    assert caller.connection.eof_received()
    await caller.settle()
    assert caller.statuses == [200]
    assert caller.transport.is_closed


async def test_a_lost_connection_gets_no_answer_but_its_request_is_executed() -> None:
    caller = Caller()
    caller.connection.data_received(post(b"1") + post(b"2"))
    await asyncio.sleep(0)
    caller.connection.connection_lost(ConnectionResetError())
    await caller.settle()
    assert caller.requests == [("POST", "/say", b"1")]
    assert caller.transport.written == b""


async def test_a_connection_is_cut_if_its_answer_fails_or_is_cancelled() -> None:
    async def fail(_scope: Scope, _body: bytes) -> Response:
        raise ZeroDivisionError

    async def hang(_scope: Scope, _body: bytes) -> Response:
        await asyncio.Event().wait()
        return Response()

    failing, hanging = Caller(respond=fail), Caller(respond=hang)
    for caller in (failing, hanging):
        caller.connection.data_received(post(b"1"))
    for task in hanging.server_state.tasks:
        task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    for caller in (failing, hanging):
        assert caller.transport.is_closed
        assert not caller.server_state.tasks


async def test_a_shutdown_ends_idle_connections_and_waits_for_answers() -> None:
    idle, busy = Caller(), Caller()
    await idle.send(post(b"1"))
    busy.connection.data_received(post(b"1"))
    for caller in (idle, busy):
        caller.connection.shutdown()
    assert idle.transport.is_closed
    assert not busy.transport.is_closed
    await busy.settle()
    assert busy.statuses == [200]
    assert b"connection: close" in busy.transport.written
    assert busy.ends


async def test_a_shutdown_waits_a_moment_for_the_request_of_a_new_connection() -> None:
    prompt, silent = Caller(), Caller()
    for caller in (prompt, silent):
        caller.connection.shutdown()
    await prompt.send(post(b"1"))
    assert (prompt.statuses, prompt.ends) == ([200], True)
    assert not silent.transport.is_closed
    await silent.later(LAST_HEAD_S + 1)
    assert silent.transport.is_closed


marker = st.integers(0, 10**6)
good_requests = st.one_of(
    st.builds(lambda number: b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % number, marker),
    st.builds(lambda number, body: post(HIDDEN + body, path=b"/%d" % number), marker, st.binary(max_size=200)),
    st.builds(
        lambda number, body, size: chunked(body + HIDDEN, size=size).replace(b"/say", b"/%d" % number),
        marker,
        st.binary(max_size=100),
        st.integers(1, 50),
    ),
    st.builds(lambda number, upgrade: post(HIDDEN, *upgrade, path=b"/%d" % number), marker, st.sampled_from(UPGRADES)),
    st.builds(
        lambda number, upgrade: chunked(HIDDEN, *upgrade).replace(b"/say", b"/%d" % number),
        marker,
        st.sampled_from(UPGRADES),
    ),
    st.builds(lambda number: post(HIDDEN, b"Expect: 100-continue", path=b"/%d" % number), marker),
)
damage = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([received for received, _ in REFUSED.values() if len(received) < 1_000]),
)


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Split bytes at random places."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    bounds = [0, *places, len(data)]
    return [data[first:last] for first, last in pairwise(bounds) if first < last]


def path_of(request: bytes) -> str:
    return request.split(b" ")[1].decode()


@contextmanager
def running() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@settings(max_examples=300, deadline=None)
@given(st.lists(good_requests, max_size=6), st.sets(st.integers(0, 5)), st.data())
def test_any_split_of_good_requests_is_answered_in_order(
    requests: list[bytes], refused: set[int], data: st.DataObject
) -> None:
    parts = data.draw(split(b"".join(requests)))
    arrivals = count()

    def admit(_scope: Scope) -> Response | None:
        return Response(status_code=503, headers={"Retry-After": "1"}) if next(arrivals) in refused else None

    async def run() -> None:
        caller = Caller(admit=admit)
        await caller.send(*parts)
        for _ in range(50):
            await asyncio.sleep(0)
        executed = [path_of(request) for number, request in enumerate(requests) if number not in refused]
        assert [path for _, path, _ in caller.requests] == executed
        assert caller.statuses == [503 if number in refused else 200 for number in range(len(requests))]
        assert not caller.ends
        assert caller.pool._held_bytes == 0

    with running() as runner:
        runner.run(run())


@settings(max_examples=400, deadline=None)
@given(st.lists(good_requests, max_size=3), damage, st.lists(good_requests, max_size=3), st.data())
def test_whatever_arrives_only_requests_are_executed_and_every_answer_belongs_to_one(
    before: list[bytes], noise: bytes, after: list[bytes], data: st.DataObject
) -> None:
    parts = data.draw(split(b"".join([*before, noise, *after])))

    async def run() -> None:
        caller = Caller()
        await caller.send(*parts)
        await caller.later(10_000)
        await caller.later(10_000)
        paths = [path for _, path, _ in caller.requests]
        assert paths[: len(before)] == list(map(path_of, before))
        if paths[len(before) :] != list(map(path_of, after)):  # the noise was a request, a part of one, or refused
            assert "/hidden" not in paths[: len(before)]
        answered = [status for status in caller.statuses if status == 200]
        assert len(answered) == len(paths)
        assert caller.statuses == answered + caller.statuses[len(answered) :]
        assert len(caller.statuses) - len(answered) <= 1
        assert caller.ends

    with running() as runner:
        runner.run(run())
