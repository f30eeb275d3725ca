"""Requests of fast routes that came whole are answered without ASGI, with the same bytes as by ASGI."""

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onward.service.errors import ItemNotFound
from onward.service.http.admission import Admission, AdmissionMiddleware
from onward.service.http.fast_protocol import FAST_PATH, MAX_BODY_BYTES, FastPath, FastProtocol
from onward.service.http.fast_route import FastRoute, FastRoutes
from onward.service.http.middleware import RequestLimits, RequestTelemetry
from onward.service.http.problems import add_error_handlers
from onward.service.rate_limit import RateLimit
from onward.service.settings import Settings

KEY = "a-key"


class Query(BaseModel):
    """What is asked for."""

    word: str
    wait: bool = False


class Said(BaseModel):
    """What was understood."""

    word: str
    length: int


class Place:
    """A server in a thread of its own, and how many of its requests took the fast path."""

    def __init__(self, settings: Settings, protocol: type[asyncio.Protocol]) -> None:
        self.taken = 0
        self.may_go_on = threading.Event()
        self.waiting = threading.Event()
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

    def __enter__(self) -> "Place":
        self._thread.start()
        while not self.server.started:
            self._thread.join(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.may_go_on.set()
        self.server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _application(self, settings: Settings) -> Any:
        router = APIRouter(route_class=FastRoute)

        @router.post("/say")
        async def say(asked: Query, request: Request) -> Said:
            if asked.word == "fault":
                raise ZeroDivisionError
            if asked.word == "nothing":
                raise ItemNotFound("There is nothing.")
            if asked.wait:
                self.waiting.set()
                await asyncio.to_thread(self.may_go_on.wait)
            caller = (request.client.host if request.client else "") if asked.word == "who" else asked.word
            return Said(word=caller, length=len(asked.word))

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
            yield {FAST_PATH: self._counting(FastPath(fast_routes, admission))}

        app = FastAPI(lifespan=lifespan)
        app.include_router(router)
        add_error_handlers(app)
        fast_routes, admission = FastRoutes(app, routers=[router]), Admission(settings)
        limited = RequestLimits(
            fast_routes, max_body_bytes=2**16, max_body_bytes_of={}, body_timeout=settings.body_timeout
        )
        return RequestTelemetry(AdmissionMiddleware(limited, admission=admission))

    def _counting(self, fast_path: FastPath) -> FastPath:
        respond = fast_path.respond

        async def counted(*arguments: Any) -> Any:
            self.taken += 1
            return await respond(*arguments)

        fast_path.respond = counted  # type: ignore[method-assign, assignment]
        return fast_path

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection

    def ask(self, *parts: bytes, answers: int = 1) -> list[bytes]:
        """Send parts one after another over one connection, and return so many answers."""
        with self.connected() as connection:
            for part in parts:
                connection.sendall(part)
                threading.Event().wait(0.02 if len(parts) > 1 else 0)
            return read(connection, answers)


def read(connection: socket.socket, answers: int = 1) -> list[bytes]:
    """Read whole answers."""
    received, found = b"", list[bytes]()
    while len(found) < answers:
        head, end, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if end and (head.startswith(b"HTTP/1.1 100") or length):
            size = int(length[1]) if length else 0
            if len(rest) >= size:
                if length:
                    found.append(head + end + rest[:size])
                received = rest[size:]
                continue
        more = connection.recv(2**16)
        if not more:
            break
        received += more
    return found


def post(body: bytes, *headers: bytes, path: bytes = b"/say", version: bytes = b"1.1") -> bytes:
    given = b"".join(header + b"\r\n" for header in headers)
    length = b"Content-Length: %d\r\n" % len(body)
    kind = b"Content-Type: application/json\r\nX-Request-ID: the-same\r\n"
    return b"POST %b HTTP/%b\r\nHost: here\r\n%b%b%b\r\n%b" % (path, version, kind, given, length, body)


def settings(folder: Path, **given: Any) -> Settings:
    return Settings(bundles=folder, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[tuple[Place, Place]]:
    with Place(settings(folder), FastProtocol) as short, Place(settings(folder), HttpToolsProtocol) as plain:
        yield short, plain


SAY = b'{"word": "hello"}'
CHUNKED = (
    b"POST /say HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nX-Request-ID: the-same\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + SAY[:5] + b"\r\n%x\r\n" % len(SAY[5:]) + SAY[5:] + b"\r\n0\r\n\r\n"
)
WHOLE = {
    "right": post(SAY),
    "other characters": post('{"word": "日本"}'.encode()),
    "refused by the endpoint": post(b'{"word": "nothing"}'),
    "a fault": post(b'{"word": "fault"}'),
    "no JSON": post(b"{"),
    "a name twice": post(b'{"word": "a", "word": "b"}'),
    "not the schema": post(b'{"word": 3}'),
    "nothing": post(b""),
    "of another type": post(SAY).replace(b"application/json", b"text/plain"),
    "chunked": CHUNKED,
    "the largest body": post(b'{"word": "%b"}' % (b"x" * (MAX_BODY_BYTES - 12))),
}
OTHER = {
    "too large for it": post(b'{"word": "%b"}' % (b"x" * MAX_BODY_BYTES)),
    "too large by its length": post(b"").replace(b"Length: 0", b"Length: 70000"),
    "a query": post(SAY, path=b"/say?x=1"),
    "a broken query": post(SAY, path=b"/say?x=%FF"),
    "another path": post(SAY, path=b"/says"),
    "an encoded path": post(SAY, path=b"/s%61y"),
    "another method": post(SAY).replace(b"POST", b"PUT"),
    "the last one": post(SAY, b"Connection: close"),
    "old": post(SAY, version=b"1.0"),
    "expecting": post(SAY, b"Expect: 100-continue"),
    "an upgrade": post(SAY, b"Connection: Upgrade", b"Upgrade: h2c"),
}


@pytest.mark.parametrize(
    ("request_bytes", "taken"),
    [*((whole, 1) for whole in WHOLE.values()), *((other, 0) for other in OTHER.values())],
    ids=[*WHOLE, *OTHER],
)
def test_a_whole_request_takes_it_no_other_does_and_both_are_answered_as_ever(
    both: tuple[Place, Place], request_bytes: bytes, taken: int
) -> None:
    short, plain = both
    before = short.taken
    found = short.ask(request_bytes)
    assert found == plain.ask(request_bytes)
    assert len(found) == 1
    assert short.taken == before + taken


@pytest.mark.parametrize("cut", [1, 30, len(post(SAY)) - len(SAY), len(post(SAY)) - 3])
def test_one_that_comes_in_pieces_is_answered_as_ever(both: tuple[Place, Place], cut: int) -> None:
    whole = post(SAY)
    short, plain = both
    assert short.ask(whole[:cut], whole[cut:]) == plain.ask(whole)


def test_all_that_come_at_once_on_a_connection_are_answered_in_their_order(both: tuple[Place, Place]) -> None:
    words = [post(b'{"word": "%d"}' % number) for number in range(20)]
    others = [post(SAY, path=b"/none"), post(b"{"), CHUNKED, post(SAY, path=b"/say?x")]
    at_once = b"".join(words + others + words)
    short, plain = both
    found = short.ask(at_once, answers=44)
    assert found == plain.ask(at_once, answers=44)
    assert [b'"word":"%d"' % number in answer for number, answer in enumerate(found[:20])] == [True] * 20


def test_one_after_another_on_a_connection_all_take_it(both: tuple[Place, Place]) -> None:
    short, _ = both
    before = short.taken
    with short.connected() as connection:
        for number in range(5):
            connection.sendall(post(b'{"word": "%d"}' % number))
            assert b'"word":"%d"' % number in read(connection)[0]
    assert short.taken == before + 5


def test_what_is_no_http_is_refused_and_the_connection_closed(both: tuple[Place, Place]) -> None:
    short, _ = both
    with short.connected() as connection:
        connection.sendall(post(SAY) + b"no HTTP at all\r\n\r\n")
        received = b""
        while more := connection.recv(2**16):
            received += more
    assert b"400 Bad Request" in received


def test_an_idle_connection_is_closed(both: tuple[Place, Place]) -> None:
    short, _ = both
    with short.connected() as connection:
        connection.sendall(post(SAY))
        read(connection)
        assert connection.recv(1) == b""


def test_a_connection_in_use_is_not_closed(both: tuple[Place, Place]) -> None:
    short, _ = both
    with short.connected() as connection:
        for _ in range(4):
            connection.sendall(post(SAY))
            assert b'"word":"hello"' in read(connection)[0]
            threading.Event().wait(0.4)
        connection.sendall(post(SAY)[:20])
        threading.Event().wait(1.5)
        connection.sendall(post(SAY)[20:])
        assert b'"word":"hello"' in read(connection)[0]


def test_a_caller_who_leaves_spoils_nothing(folder: Path) -> None:
    with Place(settings(folder), FastProtocol) as place:
        with place.connected() as connection:
            connection.sendall(post(b'{"word": "slow", "wait": true}'))
            assert place.waiting.wait(10)
        place.may_go_on.set()
        assert b'"word":"hello"' in place.ask(post(SAY))[0]


def test_one_in_flight_is_answered_before_the_end_and_those_behind_it_too(folder: Path) -> None:
    with Place(settings(folder), FastProtocol) as place, place.connected() as connection:
        connection.sendall(post(b'{"word": "slow", "wait": true}'))
        assert place.waiting.wait(10)
        place.server.should_exit = True
        threading.Event().wait(0.3)
        place.may_go_on.set()
        (answer,) = read(connection)
        assert b'"word":"slow"' in answer
        assert b"connection: close" in answer
        assert connection.recv(1) == b""


def test_keys_and_the_number_in_flight_count(folder: Path) -> None:
    digests = (sha256(KEY.encode()).hexdigest(),)
    with Place(settings(folder, api_keys=digests, max_in_flight=1), FastProtocol) as place:
        assert b" 401 " in place.ask(post(SAY))[0]
        assert b" 403 " in place.ask(post(SAY, b"X-API-Key: other"))[0]
        opened = b"Authorization: Bearer " + KEY.encode()
        with place.connected() as connection:
            connection.sendall(post(b'{"word": "slow", "wait": true}', opened))
            assert place.waiting.wait(10)
            assert b" 503 " in place.ask(post(SAY, opened))[0]
            place.may_go_on.set()
            assert b'"word":"slow"' in read(connection)[0]
        assert b" 200 " in place.ask(post(SAY, opened))[0]
        assert place.taken == 5


def test_behind_a_proxy_a_caller_is_who_the_proxy_says(folder: Path) -> None:
    with Place(settings(folder, rate_limit=RateLimit.parse("2/hour")), FastProtocol) as place:
        who = [
            place.ask(post(b'{"word": "who"}', b"X-Forwarded-For: " + address))[0]
            for address in (b"10.0.0.1", b"10.0.0.2", b"10.0.0.1", b"10.0.0.1")
        ]
        assert [b" 200 " in answer for answer in who] == [True, True, True, False]
        assert b'"word":"10.0.0.2"' in who[1]
        assert b" 429 " in who[3]
        assert place.taken == 4
