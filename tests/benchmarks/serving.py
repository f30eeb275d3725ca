"""Latency and throughput of the service on loopback: `python -m tests.benchmarks.serving BUNDLES`.

Starts the real service with a real session store and asks it over kept-alive connections, each of which sends its next
request when it has its answer. Every request appends one item to a session and asks for 20. Prints one line of JSON.
"""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import typer

from service.bundle import Bundle
from training.machine import machine

CLICKS_PER_SESSION = 5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Asker(asyncio.Protocol):
    """One connection: sends the next request when an answer has come."""

    def __init__(self, requests: Iterator[bytes], until: float) -> None:
        self._requests, self._until = requests, until
        self._received = b""
        self._sent = 0.0
        self.durations_s: list[float] = []
        self.failures = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank or len(body) < _content_length(head):
            return
        self.durations_s.append(time.perf_counter() - self._sent)
        self.failures += not (head.startswith(b"HTTP/1.1 200") and b'"degraded":[]' in body)
        self._received = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        if time.perf_counter() >= self._until:
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))


def _content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


def requests(items: list[str], weights: list[float], seed: int) -> Iterator[bytes]:
    """Sessions of five clicks on items by their popularity, one request a click."""
    generator = random.Random(seed)
    session = 0
    while True:
        session += 1
        for item in generator.choices(items, weights, k=CLICKS_PER_SESSION):
            body = json.dumps({"session_id": f"{seed}-{session}", "items": [item], "k": 20}).encode()
            head = "POST /v1/recommendations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def service(bundles: Path, workers: int, source: Path | None = None) -> Iterator[tuple[int, int]]:
    """Run the service on a free port, that of a `source` folder where one is named; gives the port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", "--bundles", str(bundles.resolve()), "--port", str(port)]
    environment = {**os.environ, "SERVICE_LOG_LEVEL": "warning"}
    process = subprocess.Popen(
        [*command, "--workers", str(workers)], env=environment, cwd=source, stdout=subprocess.DEVNULL
    )
    try:
        _wait_until_ready(port)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _wait_until_ready(port: int) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the service was not ready after a minute")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of its worker processes, without the session store's."""
    seconds = 0.0
    for process in (pid, *_children(pid)):
        name, fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)
        if "valkey" not in name and "redis" not in name:
            user, system = fields.split()[11:13]
            seconds += (int(user) + int(system)) / TICKS_PER_S
    return seconds


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def load(port: int, connections: int, seconds: float, items: list[str], weights: list[float]) -> list[Asker]:
    """Ask over `connections` connections for some seconds."""
    until = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    askers = []
    for number in range(connections):
        seed = number + int(until * 1000) % 10**9
        askers.append(Asker(requests(items, weights, seed), until))
        await loop.create_connection(lambda asker=askers[-1]: asker, "127.0.0.1", port)  # type: ignore[misc]  # bound now
    await asyncio.gather(*(asker.done for asker in askers))
    return askers


def measure(port: int, pid: int, connections: int, seconds: float, bundle: Bundle) -> dict[str, float]:
    """Figures of one load."""
    rows = bundle.catalog.most_popular_rows.tolist()
    items = [bundle.catalog.item_id(row) for row in rows]
    weights = [float(bundle.catalog.popularity_N1[row]) + 0.1 for row in rows]
    cpu_before = cpu_seconds(pid)
    askers = asyncio.run(load(port, connections, seconds, items, weights))
    durations_ms = sorted(1000 * duration for asker in askers for duration in asker.durations_s)
    cuts = quantiles(durations_ms, n=1000)
    return {
        "requests_per_s": len(durations_ms) / seconds,
        "p50_ms": cuts[499],
        "p90_ms": cuts[899],
        "p99_ms": cuts[989],
        "cpu_us_per_request": 1e6 * (cpu_seconds(pid) - cpu_before) / len(durations_ms),
        "failures": sum(asker.failures for asker in askers),
    }


def main(
    bundles: Annotated[Path, typer.Argument(exists=True, help="A folder of bundles.")],
    seconds: Annotated[float, typer.Option(min=1)] = 4,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Print latency, throughput and processor time of the service, by number of connections, taken in turn."""
    bundle = Bundle.load(bundles / "current")
    figures: dict[int, list[dict[str, Any]]] = {1: [], 16: []}
    with service(bundles, workers) as (port, pid):
        for connections in figures:
            measure(port, pid, connections, 1, bundle)
        for _ in range(rounds):
            for connections, measured in figures.items():
                measured.append(measure(port, pid, connections, seconds, bundle))
    result = {
        "benchmark": "serving",
        **machine("faiss-cpu", "onnxruntime", "fastapi", "uvicorn"),
        "workers": workers,
        "model": bundle.manifest.model,
        "items": bundle.manifest.items,
        "index": bundle.manifest.index.model_dump(),
        "connections": {
            connections: {name: round(median(one[name] for one in measured), 3) for name in measured[0]}
            for connections, measured in figures.items()
        },
    }
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
