"""Lose parts of deploy/cluster under load, and print what it cost: `python -m tests.faults.lose_parts`.

Sends sessions of clicks through the proxy from threads that wait for each answer, and kills a replica, a master of the
store, and the object store, one after another, each followed by a quiet time. Prints a line of JSON: requests, failures
by status, degraded answers and the longest answer of each phase. Needs Docker Compose and the running cluster.
"""

import http.client
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

FILE = Path(__file__).parents[2] / "deploy" / "cluster" / "docker-compose.yml"
CALLERS = 8
STEADY_S, AFTER_LOSS_S = 5.0, 15.0


class Phase:
    """What callers saw while one part was lost."""

    def __init__(self, lost: str) -> None:
        self.lost = lost
        self.statuses: Counter[str] = Counter()
        self.degraded = 0
        self.longest_ms = 0.0
        self.last_failure_s = 0.0
        self.started = time.monotonic()

    def add(self, status: str, degraded: bool, seconds: float) -> None:
        self.statuses[status] += 1
        self.degraded += degraded
        self.longest_ms = max(self.longest_ms, 1000 * seconds)
        if status != "200":
            self.last_failure_s = time.monotonic() - self.started

    def figures(self) -> dict[str, Any]:
        failed = {status: count for status, count in self.statuses.items() if status != "200"}
        return {
            "lost": self.lost,
            "requests": self.statuses.total(),
            "failed": failed,
            "degraded": self.degraded,
            "longest_ms": round(self.longest_ms),
            "last_failure_after_s": round(self.last_failure_s, 1) if failed else None,
        }


class Callers:
    """Threads that send clicks for as long as the cluster is tried."""

    def __init__(self, port: int, items: list[str]) -> None:
        self.phase = Phase("nothing")
        self._port, self._items = port, items
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        choose, session, connection = random.Random(number), 0, None
        while not self._ended.is_set():
            session += choose.random() < 0.2
            query = {"session_id": f"caller-{number}-{session}", "items": [choose.choice(self._items)], "k": 10}
            started, degraded = time.monotonic(), False
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request(
                    "POST", "/v1/recommendations", json.dumps(query), {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                body, status = response.read(), str(response.status)
                degraded = status == "200" and bool(json.loads(body)["degraded"])
            except (OSError, http.client.HTTPException) as error:
                connection, status = None, type(error).__name__
            self.phase.add(status, degraded, time.monotonic() - started)


def compose(*arguments: str) -> str:
    """Run Docker Compose on the cluster and return what it prints."""
    command = ["docker", "compose", "--file", str(FILE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def container_of(service: str) -> str:
    """Return the first container of a service."""
    return compose("ps", "--quiet", service).split()[0]


def master() -> str:
    """Return the service of a master of the store."""
    for number in range(1, 7):
        if "role:master" in compose("exec", "-T", f"store-{number}", "redis-cli", "info", "replication"):
            return f"store-{number}"
    raise SystemExit("no master answers")


def kill(container: str) -> None:
    """End the processes of a container at once; it stays down."""
    subprocess.run(["docker", "update", "--restart", "no", container], check=True, capture_output=True)
    subprocess.run(["docker", "kill", container], check=True, capture_output=True)


def main(port: Annotated[int, typer.Option(help="Port of the proxy.")] = 8080) -> None:
    """Lose one part after another and print the figures."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/v1/items:popular?k=100")
    items = [item["id"] for item in json.loads(connection.getresponse().read())["items"]]
    losses: dict[str, Callable[[], None]] = {
        "nothing": lambda: None,
        "one replica of three": lambda: kill(container_of("service")),
        "one master of three": lambda: kill(container_of(master())),
        "the object store": lambda: kill(container_of("objects")),
    }
    phases = []
    with Callers(port, items) as callers:
        for lost, lose in losses.items():
            callers.phase = Phase(lost)
            phases.append(callers.phase)
            lose()
            time.sleep(STEADY_S if lost == "nothing" else AFTER_LOSS_S)
    typer.echo(json.dumps({"callers": CALLERS, "phases": [phase.figures() for phase in phases]}))


if __name__ == "__main__":
    typer.run(main)
