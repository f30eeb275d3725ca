"""Requests of fast routes that arrive complete are answered without ASGI, with the same bytes as by ASGI."""

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel
from structlog.testing import capture_logs
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onward.service.errors import ItemNotFound
from onward.service.http.admission import Admission, AdmissionMiddleware
from onward.service.http.fast_protocol import ADMISSION, FAST_ROUTES, MAX_BODY_BYTES, FastProtocol, fast_routes
from onward.service.http.fast_route import FastRoute
from onward.service.http.middleware import RequestLimits, RequestTelemetry
from onward.service.http.problems import add_error_handlers
from onward.service.rate_limit import RateLimit
from onward.service.settings import Settings

KEY = "a-key"


class SayQuery(BaseModel):
    """Request body of the test endpoint."""

    word: str
    wait: bool = False


class SayReply(BaseModel):
    """Response body of the test endpoint."""

    word: str
    length: int


class ThreadedServer:
    """A server in a thread, which counts the requests that took the fast path."""

    def __init__(self, settings: Settings, protocol: type[asyncio.Protocol]) -> None:
        self.fast_count = 0
        self.may_continue = threading.Event()
        self.is_waiting = threading.Event()
        self._app = self._application(settings)
        config = uvicorn.Config(
            self._app,
            http=protocol,
            log_config=None,
            date_header=False,
            server_header=False,
            proxy_headers=settings.rate_limit is not None,
            lifespan="on",
            timeout_keep_alive=1,
        )
        self.server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = self._socket.getsockname()
        self._thread = threading.Thread(target=self.server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> "ThreadedServer":
        self._thread.start()
        while not self.server.started:
            self._thread.join(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.may_continue.set()
        self.server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _application(self, settings: Settings) -> Any:
        router = APIRouter(route_class=FastRoute)

        @router.post("/say")
        async def say(query: SayQuery, request: Request) -> SayReply:
            if query.word == "fault":
                raise ZeroDivisionError
            if query.word == "nothing":
                raise ItemNotFound("This item does not exist.")
            if query.wait:
                self.is_waiting.set()
                await asyncio.to_thread(self.may_continue.wait)
            caller = (request.client.host if request.client else "") if query.word == "who" else query.word
            return SayReply(word=caller, length=len(query.word))

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
            yield {FAST_ROUTES: fast_routes([router]), ADMISSION: self._with_count(admission)}

        app = FastAPI(lifespan=lifespan)
        app.include_router(router)
        add_error_handlers(app)
        admission = Admission(settings)
        limited = RequestLimits(app, max_body_bytes=2**16, max_body_bytes_of={}, body_timeout=settings.body_timeout)
        return RequestTelemetry(AdmissionMiddleware(limited, admission=admission))

    def _with_count(self, admission: Admission) -> Admission:
        """Return the same admission for the fast path, which counts its requests."""
        counting = copy(admission)

        def count_and_refuse(scope: Any) -> Any:
            self.fast_count += 1
            return admission.refusal(scope)

        counting.refusal = count_and_refuse  # type: ignore[method-assign]
        return counting

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection

    def send(self, *parts: bytes, answers: int = 1) -> list[bytes]:
        """Send the parts of requests over one connection, and return the given number of answers."""
        with self.connected() as connection:
            for part in parts:
                connection.sendall(part)
                threading.Event().wait(0.02 if len(parts) > 1 else 0)
            return read(connection, answers)


def read(connection: socket.socket, answers: int = 1) -> list[bytes]:
    """Read complete answers until the given number or the end of the connection."""
    received, complete = b"", list[bytes]()
    while len(complete) < answers:
        head, end, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if end and (head.startswith(b"HTTP/1.1 100") or length):
            size = int(length[1]) if length else 0
            if len(rest) >= size:
                if length:
                    complete.append(head + end + rest[:size])
                received = rest[size:]
                continue
        more = connection.recv(2**16)
        if not more:
            break
        received += more
    return complete


def post(body: bytes, *headers: bytes, path: bytes = b"/say", version: bytes = b"1.1") -> bytes:
    extra = b"".join(header + b"\r\n" for header in headers)
    length = b"Content-Length: %d\r\n" % len(body)
    kind = b"Content-Type: application/json\r\nX-Request-ID: the-same\r\n"
    return b"POST %b HTTP/%b\r\nHost: here\r\n%b%b%b\r\n%b" % (path, version, kind, extra, length, body)


def settings(folder: Path, **options: Any) -> Settings:
    return Settings(bundles=folder, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module", autouse=True)
def captured_logs() -> Iterator[None]:
    """Keep log lines unrendered: a traceback with the local variables of the framework takes seconds."""
    with capture_logs():
        yield


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[tuple[ThreadedServer, ThreadedServer]]:
    with (
        ThreadedServer(settings(folder), FastProtocol) as fast,
        ThreadedServer(settings(folder), HttpToolsProtocol) as plain,
    ):
        yield fast, plain


SAY = b'{"word": "hello"}'
CHUNKED = (
    b"POST /say HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nX-Request-ID: the-same\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + SAY[:5] + b"\r\n%x\r\n" % len(SAY[5:]) + SAY[5:] + b"\r\n0\r\n\r\n"
)
FAST = {
    "right": post(SAY),
    "other characters": post('{"word": "日本"}'.encode()),
    "an error of the endpoint": post(b'{"word": "nothing"}'),
    "a fault": post(b'{"word": "fault"}'),
    "not JSON": post(b"{"),
    "a repeated name": post(b'{"word": "a", "word": "b"}'),
    "a schema violation": post(b'{"word": 3}'),
    "no body": post(b""),
    "another content type": post(SAY).replace(b"application/json", b"text/plain"),
    "chunked": CHUNKED,
    "Connection: close": post(SAY, b"Connection: close"),
    "HTTP/1.0": post(SAY, version=b"1.0"),
    "HTTP/1.0, keep-alive": post(SAY, b"Connection: keep-alive", version=b"1.0"),
    "an error and Connection: close": post(b'{"word": "nothing"}', b"Connection: close"),
    "the largest body": post(b'{"word": "%b"}' % (b"x" * (MAX_BODY_BYTES - 12))),
}
BY_ASGI = {
    "too large for the fast path": post(b'{"word": "%b"}' % (b"x" * MAX_BODY_BYTES)),
    "a content length above the limit": post(b"").replace(b"Length: 0", b"Length: 70000"),
    "a query": post(SAY, path=b"/say?x=1"),
    "a broken query": post(SAY, path=b"/say?x=%FF"),
    "another path": post(SAY, path=b"/says"),
    "an encoded path": post(SAY, path=b"/s%61y"),
    "another method": post(SAY).replace(b"POST", b"PUT"),
    "Expect: 100-continue": post(SAY, b"Expect: 100-continue"),
    "an upgrade": post(SAY, b"Connection: Upgrade", b"Upgrade: h2c"),
}


@pytest.mark.parametrize(
    ("request_bytes", "fast_requests"),
    [*((request, 1) for request in FAST.values()), *((request, 0) for request in BY_ASGI.values())],
    ids=[*FAST, *BY_ASGI],
)
def test_only_complete_requests_of_fast_routes_take_the_fast_path_and_all_get_the_same_answers(
    servers: tuple[ThreadedServer, ThreadedServer], request_bytes: bytes, fast_requests: int
) -> None:
    fast, plain = servers
    before = fast.fast_count
    answers = fast.send(request_bytes)
    assert answers == plain.send(request_bytes)
    assert len(answers) == 1
    assert fast.fast_count == before + fast_requests


@pytest.mark.parametrize("cut", [1, 30, len(post(SAY)) - len(SAY), len(post(SAY)) - 3])
def test_a_request_that_arrives_in_pieces_gets_the_same_answer(
    servers: tuple[ThreadedServer, ThreadedServer], cut: int
) -> None:
    request = post(SAY)
    fast, plain = servers
    assert fast.send(request[:cut], request[cut:]) == plain.send(request)


def test_pipelined_requests_are_answered_in_order(servers: tuple[ThreadedServer, ThreadedServer]) -> None:
    words = [post(b'{"word": "%d"}' % number) for number in range(20)]
    others = [post(SAY, path=b"/none"), post(b"{"), CHUNKED, post(SAY, path=b"/say?x")]
    at_once = b"".join(words + others + words)
    fast, plain = servers
    answers = fast.send(at_once, answers=44)
    assert answers == plain.send(at_once, answers=44)
    assert [b'"word":"%d"' % number in answer for number, answer in enumerate(answers[:20])] == [True] * 20


@pytest.mark.parametrize("request_bytes", [FAST[name] for name in FAST if "close" in name or "1.0" in name])
def test_a_connection_that_is_not_kept_alive_is_closed_after_the_answer(
    servers: tuple[ThreadedServer, ThreadedServer], request_bytes: bytes
) -> None:
    for server in servers:
        with server.connected() as connection:
            connection.sendall(request_bytes + post(b'{"word": "not answered"}'))
            (answer,) = read(connection, answers=2)
            assert b"connection: close" in answer


def test_sequential_requests_of_a_connection_all_take_the_fast_path(
    servers: tuple[ThreadedServer, ThreadedServer],
) -> None:
    fast, _ = servers
    before = fast.fast_count
    with fast.connected() as connection:
        for number in range(5):
            connection.sendall(post(b'{"word": "%d"}' % number))
            assert b'"word":"%d"' % number in read(connection)[0]
    assert fast.fast_count == before + 5


@pytest.mark.parametrize(
    "sent", [post(SAY) + b"not HTTP at all\r\n\r\n", CHUNKED.replace(b"\r\n\r\n5\r\n", b"\r\n\r\nx\r\n")]
)
def test_invalid_http_is_refused_and_the_connection_closed(
    servers: tuple[ThreadedServer, ThreadedServer], sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for server in servers:
        with server.connected() as connection:
            connection.sendall(sent)
            received = b""
            while more := connection.recv(2**16):
                received += more
        assert received.count(b"HTTP/1.1 ") == 1
        assert b"400 Bad Request" in received
    assert {record.message for record in caplog.records} == {"Invalid HTTP request received."}


def test_an_idle_connection_is_closed(servers: tuple[ThreadedServer, ThreadedServer]) -> None:
    fast, _ = servers
    with fast.connected() as connection:
        connection.sendall(post(SAY))
        read(connection)
        assert connection.recv(1) == b""


def test_a_connection_in_use_is_not_closed(servers: tuple[ThreadedServer, ThreadedServer]) -> None:
    fast, _ = servers
    with fast.connected() as connection:
        for _ in range(4):
            connection.sendall(post(SAY))
            assert b'"word":"hello"' in read(connection)[0]
            threading.Event().wait(0.4)
        connection.sendall(post(SAY)[:20])
        threading.Event().wait(1.5)
        connection.sendall(post(SAY)[20:])
        assert b'"word":"hello"' in read(connection)[0]


def test_a_disconnected_caller_does_not_affect_other_requests(folder: Path) -> None:
    with ThreadedServer(settings(folder), FastProtocol) as server:
        with server.connected() as connection:
            connection.sendall(post(b'{"word": "slow", "wait": true}'))
            assert server.is_waiting.wait(10)
        server.may_continue.set()
        assert b'"word":"hello"' in server.send(post(SAY))[0]


def test_a_shutdown_waits_for_the_request_in_flight(folder: Path) -> None:
    with ThreadedServer(settings(folder), FastProtocol) as server, server.connected() as connection:
        connection.sendall(post(b'{"word": "slow", "wait": true}'))
        assert server.is_waiting.wait(10)
        server.server.should_exit = True
        threading.Event().wait(0.3)
        server.may_continue.set()
        (answer,) = read(connection)
        assert b'"word":"slow"' in answer
        assert b"connection: close" in answer
        assert connection.recv(1) == b""


@pytest.mark.parametrize(("protocol", "fast_requests"), [(FastProtocol, 5), (HttpToolsProtocol, 0)])
def test_keys_and_the_in_flight_limit_apply(folder: Path, protocol: type[asyncio.Protocol], fast_requests: int) -> None:
    digests = (sha256(KEY.encode()).hexdigest(),)
    with ThreadedServer(settings(folder, api_keys=digests, max_in_flight=1), protocol) as server:
        assert b" 401 " in server.send(post(SAY))[0]
        assert b" 403 " in server.send(post(SAY, b"X-API-Key: other"))[0]
        authorization = b"Authorization: Bearer " + KEY.encode()
        with server.connected() as connection:
            connection.sendall(post(b'{"word": "slow", "wait": true}', authorization))
            assert server.is_waiting.wait(10)
            assert b" 503 " in server.send(post(SAY, authorization))[0]
            server.may_continue.set()
            assert b'"word":"slow"' in read(connection)[0]
        assert b" 200 " in server.send(post(SAY, authorization))[0]
        assert server.fast_count == fast_requests


def test_behind_a_proxy_the_rate_limit_uses_the_forwarded_address(folder: Path) -> None:
    with ThreadedServer(settings(folder, rate_limit=RateLimit.parse("2/hour")), FastProtocol) as server:
        answers = [
            server.send(post(b'{"word": "who"}', b"X-Forwarded-For: " + address))[0]
            for address in (b"10.0.0.1", b"10.0.0.2", b"10.0.0.1", b"10.0.0.1")
        ]
        assert [b" 200 " in answer for answer in answers] == [True, True, True, False]
        assert b'"word":"10.0.0.2"' in answers[1]
        assert b" 429 " in answers[3]
        assert server.fast_count == 4
