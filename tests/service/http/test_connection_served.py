"""The limits of connections hold in the real server: callers that misbehave do not harm the others."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.bundles import item_ids, publish_bundle
from tests.service.process import ServiceProcess, wait_until
from tests.service.server.test_serve import metric

QUERY = json.dumps({"items": ["item-1"], "k": 3}).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    publish_bundle(folder, item_ids("item-", 20))
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[ServiceProcess]:
    environment = {"SERVICE_HEAD_TIMEOUT": "1", "SERVICE_MAX_CONNECTIONS": "50"}
    with ServiceProcess(folder, environment=environment).wait_until_ready() as process:
        yield process


def connect(process: ServiceProcess) -> socket.socket:
    host, port = process.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def post(*headers: str, body: bytes = QUERY) -> bytes:
    head = ["POST /v1/recommendations HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def received(connection: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    data = b""
    while more := connection.recv(2**16):
        data += more
    return data


def test_a_body_after_an_upgrade_is_never_a_request(service: ServiceProcess) -> None:
    hidden = b"DELETE /v1/items/item-7 HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(service) as connection:
        connection.sendall(post("Connection: Upgrade", "Upgrade: anything", body=b" " * 18_000 + b"\r\n" + hidden))
        connection.sendall(post("Connection: close"))
        answers = received(connection)
    assert answers.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 400 " in answers
    assert b"HTTP/1.1 200 " in answers
    assert httpx.get(f"{service.url}/v1/items/item-7").status_code == 200


def test_callers_that_send_half_a_head_are_refused_in_time_and_others_are_answered(service: ServiceProcess) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(service)) for _ in range(40)]
        for connection in slow:
            connection.sendall(post()[:30])
        assert httpx.post(f"{service.url}/v1/recommendations", json=json.loads(QUERY)).status_code == 200
        assert all(b" 408 " in received(connection) for connection in slow)


def test_more_connections_than_the_limit_close_those_that_wait_longest(service: ServiceProcess) -> None:
    with ExitStack() as stack:
        idle = []
        for _ in range(120):
            idle.append(stack.enter_context(connect(service)))
            idle[-1].sendall(post())
            assert b" 200 " in idle[-1].recv(2**16)
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        assert idle[0].recv(1) == b""
        idle[-1].sendall(post())
        assert b" 200 " in idle[-1].recv(2**16)
    assert metric(service.url, 'onward_ended_connections_total{reason="evicted"}') >= 70


def test_a_caller_that_sends_all_of_a_long_body_first_reads_the_refusal(service: ServiceProcess) -> None:
    with connect(service) as connection:
        connection.sendall(post(body=b" " * 5_000_000))
        assert b" 413 " in received(connection)


def test_a_caller_that_reads_nothing_does_not_delay_others(service: ServiceProcess) -> None:
    with connect(service) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000)
        assert httpx.get(f"{service.url}/health/live", timeout=5).status_code == 200


def test_a_connection_may_be_a_unix_socket(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with ServiceProcess(folder, environment={"SERVICE_UDS": str(path), "SERVICE_ROOT_PATH": "/reco"}) as process:
        wait_until(path.exists)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://here") as client:
            wait_until(lambda: client.get("/health/ready").status_code == 200)
            assert client.post("/v1/recommendations", json=json.loads(QUERY)).status_code == 200
            assert '"/reco/openapi.json"' in client.get("/docs").text.replace("'", '"')
        assert process.stop() == 0


def test_head_is_answered_wherever_get_is(service: ServiceProcess) -> None:
    for path in ("/health/live", "/v1/items/item-1", "/nowhere"):
        head, get = httpx.head(f"{service.url}{path}"), httpx.get(f"{service.url}{path}")
        assert head.status_code == get.status_code
        assert head.content == b""
        assert abs(int(head.headers["content-length"]) - len(get.content)) < 3  # `took_ms` may differ
    with connect(service) as connection:  # nothing follows the head of the answer
        connection.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert received(connection).endswith(b"\r\n\r\n")


def test_the_service_stops_although_connections_are_open(folder: Path) -> None:
    with ServiceProcess(folder).wait_until_ready() as process, connect(process), connect(process) as used:
        used.sendall(post())
        used.recv(2**16)
        assert process.stop() == 0
