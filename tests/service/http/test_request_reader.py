"""RequestReader: complete requests, and what is left of the bytes; `test_connection` has what it refuses."""

from onward.service.errors import MalformedRequest
from onward.service.http.connection_pool import ConnectionLimits
from onward.service.http.request_reader import SLICE_BYTES, RequestReader

LIMITS = ConnectionLimits(
    connections=1, line_bytes=100, head_bytes=200, body_bytes=50_000, head_s=1, body_s=1, write_s=1, idle_s=1
)


def reader() -> RequestReader:
    return RequestReader(LIMITS, {"type": "http"}, {"part": 1}, "/prefix")


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /say?a=b HTTP/1.1", b"Host: here", b"Content-Length: %d" % len(body), *headers, b"", body]
    return b"\r\n".join(lines)


def test_a_request_has_the_scope_of_asgi() -> None:
    reading = reader()
    assert reading.feed(post(b"hello")) == b""
    (request,) = reading.requests
    assert request.body == b"hello"
    assert request.keep_alive
    assert request.scope == {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/prefix/say",
        "raw_path": b"/prefix/say",
        "query_string": b"a=b",
        "headers": [(b"host", b"here"), (b"content-length", b"5")],
        "state": {"part": 1},
    }


def test_a_request_may_come_byte_by_byte() -> None:
    reading = reader()
    content = post(b"hello", b"Expect: 100-continue")
    states = []
    for place in range(len(content)):
        reading.feed(content[place : place + 1])
        states.append((reading.has_begun, reading.awaits_body, reading.owes_continue))
    assert len(reading.requests) == 1
    head = len(content) - len(b"hello")
    assert set(states[: head - 1]) == {(True, False, False)}
    assert set(states[head - 1 : -1]) == {(True, True, True)}
    assert states[-1][:2] == (False, False)


def test_what_follows_a_slice_with_a_complete_request_is_returned() -> None:
    reading = reader()
    content = post(b"x") * 1_000
    rest = reading.feed(content)
    assert len(content) - len(rest) == SLICE_BYTES
    assert all(request.body == b"x" for request in reading.requests)


def test_what_follows_a_refusal_or_the_last_request_is_ignored() -> None:
    for content, expected in ((b"nonsense\r\n\r\n", MalformedRequest), (post(b"", b"Connection: close"), type(None))):
        reading = reader()
        reading.feed(content)
        complete = len(reading.requests)
        assert isinstance(reading.refusal, expected)
        reading.feed(post(b"hidden"))
        assert reading.is_over
        assert len(reading.requests) == complete
