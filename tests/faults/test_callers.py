"""Callers that misbehave, proxies in between, and clients of other languages."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import Record
from tests.faults.processes import rss_mib
from tests.faults.row import Row
from tests.faults.traffic import UNHURRIED, Traffic
from tests.redis_servers import free_ports
from tests.service.process import ServiceProcess, wait_until
from tests.service.shop import ITEMS

CALLERS = 300
QUERY = json.dumps({"items": ["item-1"], "k": 3}).encode()
HEAD = (
    b"POST /v1/recommendations HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
SLOW = {
    "nothing at all": b"",
    "half a head": HEAD[:40],
    "a head and one byte of the body": HEAD % 1_000 + b"{",
}
LIMITS = {"SERVICE_HEAD_TIMEOUT": "2", "SERVICE_BODY_TIMEOUT": "2", "SERVICE_WRITE_TIMEOUT": "2"}
HIDDEN = b"DELETE /v1/items/item-7 HTTP/1.1\r\nHost: shop\r\n\r\n"


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def closed(connection: socket.socket) -> bool:
    """Return whether the service has ended the connection; what it sent is discarded."""
    connection.setblocking(False)
    try:
        while connection.recv(2**16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("sent", list(SLOW))
def test_slow_callers(bundles: Path, record: Record, sent: str) -> None:
    with ServiceProcess(bundles, environment=UNHURRIED | LIMITS).wait_until_ready() as service, ExitStack() as stack:
        before_mib = rss_mib(service.pid)
        with Traffic(service.url, ITEMS) as traffic:
            slow = [stack.enter_context(connect(service.url)) for _ in range(CALLERS)]
            for connection in slow:
                connection.sendall(SLOW[sent])
            began_s = time.perf_counter()
            wait_until(lambda: all(map(closed, slow)), 10)
            took_s = time.perf_counter() - began_s
            time.sleep(0.5)
        grown = rss_mib(service.pid) - before_mib
        row = traffic.row(
            Row(
                "Callers",
                f"{CALLERS} connections send {sent}, and wait",
                "ended within the time limit (2 s here); others are answered as ever",
                observed=f"all ended after {took_s:.1f} s; memory grew by {grown:.0f} MiB",
            )
        )
        record(replace(row, kept=not (row.refused or row.failed or row.crossed), in_time=took_s < 4))


def test_more_connections_than_descriptors(bundles: Path, record: Record) -> None:
    with (
        ServiceProcess(bundles, environment=UNHURRIED, descriptors=200).wait_until_ready() as service,
        ExitStack() as stack,
    ):
        with Traffic(service.url, ITEMS) as traffic:
            for _ in range(CALLERS):
                connection = stack.enter_context(connect(service.url))
                connection.sendall(HEAD[:40])
            time.sleep(1)
            live = httpx.get(f"{service.url}/health/live").status_code
        row = traffic.row(
            Row(
                "Callers",
                f"{CALLERS} connections send half a head to a service that may open 200 files",
                "those that wait longest are closed to make room; others are answered as ever",
                observed=f"/health/live answers {live}",
            )
        )
        record(replace(row, kept=live == 200 and not (row.refused or row.failed or row.crossed)))


def test_callers_that_do_not_read(bundles: Path, record: Record) -> None:
    with ServiceProcess(bundles, environment=UNHURRIED | LIMITS).wait_until_ready() as service, ExitStack() as stack:
        large = json.dumps({"items": ["item-1"], "k": 60}).encode()
        with Traffic(service.url, ITEMS) as traffic:
            greedy = []
            for _ in range(20):
                connection = socket.socket()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                host, port = service.url.removeprefix("http://").split(":")
                connection.connect((host, int(port)))
                stack.callback(connection.close)
                connection.setblocking(False)
                greedy.append(connection)
            began_s = time.perf_counter()
            while time.perf_counter() - began_s < 6:
                for connection in greedy:
                    with suppress(OSError):
                        connection.send((HEAD % len(large) + large) * 20)
                time.sleep(0.01)
        row = traffic.row(
            Row(
                "Callers",
                "20 connections send requests without a pause and read no answer, for 6 s",
                "cut after the time limit (2 s here); no other caller waits for them",
            )
        )
        record(replace(row, kept=not (row.refused or row.failed or row.crossed), in_time=(row.p99_ms or 0) < 250))


def test_floods_of_head(bundles: Path, record: Record) -> None:
    with ServiceProcess(bundles, environment=UNHURRIED).wait_until_ready() as service:
        before_mib = rss_mib(service.pid)
        answers: set[bytes] = set()
        with Traffic(service.url, ITEMS) as traffic:
            for start in (b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: "):
                for _ in range(10):
                    with connect(service.url) as connection:
                        with suppress(OSError):
                            connection.sendall(start)
                            for _ in range(100):
                                connection.sendall(b"x" * 2**18)
                        with suppress(OSError):
                            answers.add(connection.recv(2**16)[9:12])
        grown = rss_mib(service.pid) - before_mib
        row = traffic.row(
            Row(
                "Callers",
                "20 connections stream a URL or a header of 25 MB each",
                "414 or 431 at the limit, and the end of the connection; memory stays",
                observed=f"memory grew by {grown:.0f} MiB",
            )
        )
        right = answers <= {b"414", b"431"} and grown < 30
        record(replace(row, kept=right and not (row.refused or row.failed or row.crossed)))


NGINX = """
daemon off; error_log stderr; pid {folder}/nginx.pid; events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://{server}; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 20s
  timeout server 20s
frontend shop
  bind 127.0.0.1:{port}
  default_backend service
backend service
  http-reuse always
  server one {server}
"""


@contextmanager
def proxy(name: str, service: ServiceProcess, folder: Path) -> Iterator[str]:
    """Run nginx or haproxy in front of the service; yield its URL."""
    if (program := shutil.which(name)) is None:
        pytest.skip(f"{name} is not installed")
    (port,) = free_ports(1)
    configuration = folder / f"{name}.conf"
    template = NGINX if name == "nginx" else HAPROXY
    configuration.write_text(template.format(folder=folder, port=port, server=service.url.removeprefix("http://")))
    options = ["-c", str(configuration)] if name == "nginx" else ["-f", str(configuration)]
    process = subprocess.Popen([program, *options], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}/health/live"), 10)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_smuggling_through_a_proxy(bundles: Path, tmp_path: Path, record: Record, name: str) -> None:
    with (
        ServiceProcess(bundles, environment=UNHURRIED).wait_until_ready() as service,
        proxy(name, service, tmp_path) as url,
    ):
        attempts = [
            (
                b"Connection: Upgrade\r\nUpgrade: anything\r\nContent-Length: %d" % (18_000 + len(HIDDEN)),
                b"\r\n" * 9_000,
            ),
            (b"Connection: Upgrade\r\nUpgrade: anything\r\nContent-Length: %d" % len(HIDDEN), b""),
            (b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n"),
            (b"Transfer-Encoding : chunked\r\nContent-Length: 5", b"0\r\n\r\n"),
            (b"Content-Length: 5\r\nContent-Length: 0", b""),
            (b"Transfer-Encoding: chunked", b"5;\n\r\nhello\r\n0\r\n\r\n"),
            (b"Transfer-Encoding: xchunked\r\nContent-Length: 0", b""),
        ]
        for headers, before in attempts:
            for target in (url, service.url):
                with connect(target) as connection:
                    connection.settimeout(1)
                    head = b"POST /v1/recommendations HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
                    connection.sendall(head + headers + b"\r\n\r\n" + before + HIDDEN)
                    with suppress(OSError):
                        while connection.recv(2**16):
                            pass
        # A pipelined DELETE behind a complete chunked body is a request of its own and rightly executed, so each
        # attempt above hides its DELETE where one of the two could read it as a body.
        kept = httpx.get(f"{service.url}/v1/items/item-7").status_code == 200
        with Traffic(url, ITEMS) as traffic:
            time.sleep(2)
        row = traffic.row(
            Row(
                "Callers",
                f"{2 * len(attempts)} requests that hide another in their body, directly and through {name}; then "
                f"200 requests through {name}",
                "no hidden request is executed; ordinary ones are answered",
            )
        )
        record(replace(row, kept=kept and not (row.refused or row.failed or row.crossed)))


JAVA = """
import java.net.*; import java.net.http.*;
public class Call {
  public static void main(String[] a) throws Exception {
    var client = HttpClient.newHttpClient();
    for (int n = 0; n < 20; n++) {
      var request = HttpRequest.newBuilder(URI.create(a[0] + "/v1/recommendations"))
        .header("Content-Type", "application/json")
        .POST(HttpRequest.BodyPublishers.ofString("{\\"items\\": [\\"item-1\\"], \\"k\\": 3}")).build();
      System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
    }
  }
}
"""
NODE = """
const url = process.argv[1] + "/v1/recommendations", headers = {"Content-Type": "application/json"};
for (let n = 0; n < 20; n++) {
  const body = n % 2 ? JSON.stringify({items: ["item-1"], k: 3}) : "x".repeat(5e6);
  const answer = await fetch(url, {method: "POST", headers, body});
  await answer.text();
  console.log(answer.status);
}
"""


CURL = ("curl", "-s", "--http2", "-o", "/dev/null", "-w", "%{http_code}\n")


def test_other_clients(bundles: Path, tmp_path: Path, record: Record) -> None:
    (tmp_path / "Call.java").write_text(JAVA)
    programs = {
        "java": (["java", str(tmp_path / "Call.java"), "{url}"], {"200"}),
        "node": (["node", "--input-type=module", "-e", NODE, "{url}"], {"200", "413"}),
        "curl": (
            [*CURL, "-H", "Content-Type: application/json", "-d", QUERY.decode(), "{url}/v1/recommendations"],
            {"200"},
        ),
    }
    seen: dict[str, str] = {}
    with ServiceProcess(bundles, environment=UNHURRIED).wait_until_ready() as service:
        for name, (command, _expected) in programs.items():
            if shutil.which(name) is None:
                continue
            command = [part.replace("{url}", service.url) for part in command]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            statuses = done.stdout.split()
            seen[name] = (
                f"{len(statuses)} answers: {', '.join(sorted(set(statuses)))}" if statuses else done.stderr[-200:]
            )
    if not seen:
        pytest.skip("none of java, node and curl is installed")
    kept = all(set(text.partition(": ")[2].split(", ")) == programs[name][1] for name, text in seen.items())
    record(
        Row(
            "Callers",
            "JDK's HttpClient and curl --http2 (both ask for an upgrade), Node's fetch with bodies of 5 MB in between",
            "every body is read, every refusal reaches its caller",
            observed="; ".join(f"{name} {text}" for name, text in seen.items()),
            kept=kept,
        )
    )
