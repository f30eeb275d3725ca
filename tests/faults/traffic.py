"""Traffic: visitors of a shop who call the service at a constant rate, and remember what it acknowledged."""

import asyncio
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import quantiles
from types import TracebackType
from typing import Any, Self

import httpx

from onward.service.bench.load_generator.connection import Connection
from tests.faults.row import Row

UNHURRIED = {"SERVICE_STORE_TIMEOUT": "2", "SERVICE_TIMEOUT": "10"}
"""Settings for faults that do not concern the store: on a busy machine it may take longer than 0.1 s to reply."""
TIMEOUT_S = 10.0
EVENTS_OF_A_SESSION = 20
LOST_CONNECTION = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller saw of one request."""

    due_s: float
    latency_s: float
    status: int
    """LOST_CONNECTION without an answer."""
    code: str = ""
    """Of a problem document."""
    is_degraded: bool = False
    is_crossed: bool = False


class Traffic:
    """Sends events and asks for recommendations in turn, each at its time, whether or not earlier ones are answered.

    A context manager: the traffic ends with the block.
    """

    def __init__(
        self, url: str, items: Sequence[str], *, rate_per_s: float = 100, connections: int = 64, timeout_ms: int = 0
    ) -> None:
        """Take the items to view; with a `timeout_ms`, only recommendations are asked for, within that time."""
        self._url = url
        self._items = items
        self._interval_s = 1 / rate_per_s
        self._connections = connections
        self._timeout_ms = timeout_ms
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None
        self.outcomes: list[Outcome] = []
        self.acknowledged: defaultdict[str, list[str]] = defaultdict(list)
        """The ids of the events of each session that were acknowledged, in the order of their requests."""
        self.bundles: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def row(self, row: Row, *, ended_s: float | None = None) -> Row:
        """Add the figures of the traffic to a row; `ended_s` is when the fault ended, by `time.perf_counter`."""
        latencies_s = [outcome.latency_s for outcome in self.outcomes]
        statuses = Counter(outcome.status for outcome in self.outcomes)
        codes = Counter(outcome.code for outcome in self.outcomes if outcome.code)
        observed = [row.observed, ", ".join(f"{number} {code}" for code, number in sorted(codes.items()))]
        hit_s = [outcome.due_s + outcome.latency_s for outcome in self.outcomes if _is_hit(outcome)]
        return replace(
            row,
            observed="; ".join(filter(None, observed)),
            requests=len(self.outcomes),
            degraded=sum(outcome.is_degraded for outcome in self.outcomes),
            refused=statuses[503] + statuses[429],
            failed=len(self.outcomes) - statuses[200] - statuses[503] - statuses[429],
            crossed=sum(outcome.is_crossed for outcome in self.outcomes),
            p99_ms=round(1000 * quantiles(latencies_s, n=100)[-1], 1),
            worst_ms=round(1000 * max(latencies_s), 1),
            recovered_s=None if ended_s is None else round(max(0.0, max(hit_s, default=0.0) - ended_s), 2),
        )

    def lost(self, client: httpx.Client) -> int:
        """Return how many acknowledged events are not in their sessions."""
        lost = 0
        for session_id, acknowledged in self.acknowledged.items():
            response = client.get(f"/v1/sessions/{session_id}")
            stored = Counter(event["item_id"] for event in response.json()["events"]) if response.is_success else {}
            lost += sum(max(0, number - stored.get(item, 0)) for item, number in Counter(acknowledged).items())
        return lost

    def _run(self) -> None:
        try:
            asyncio.run(self._send_all())
        except BaseException as error:  # raised again by the thread that runs the test
            self._error = error

    async def _send_all(self) -> None:
        idle: list[_Caller] = []
        running: set[asyncio.Task[None]] = set()
        started_s = time.perf_counter()
        for number in count():
            if self._ends.is_set():
                break
            due_s = started_s + number * self._interval_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            if len(running) >= self._connections:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            caller = idle.pop() if idle else _Caller(self._url)
            task = asyncio.create_task(self._send(caller, number, due_s, idle))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        for caller in idle:
            caller.close()
        await asyncio.sleep(0.01)  # aborted transports close in the next event-loop iteration

    async def _send(self, caller: "_Caller", number: int, due_s: float, idle: "list[_Caller]") -> None:
        session_id = f"visitor-{number // (2 * EVENTS_OF_A_SESSION)}"
        item = self._items[number % len(self._items)]
        path: str
        body: dict[str, Any]
        is_event = number % 2 == 1 and not self._timeout_ms
        if is_event:
            path, body = "/v1/events", {"session_id": session_id, "item_id": item}
        else:
            path, body = "/v1/recommendations", {"session_id": session_id, "k": 5}
            body |= {"timeout_ms": self._timeout_ms} if self._timeout_ms else {}
        status, answer = await caller.post(path, body)
        latency_s = time.perf_counter() - due_s
        if status == 200 and is_event:
            self.acknowledged[session_id].append(item)
        elif status == 200:
            self.bundles.add(answer["bundle"])
        self.outcomes.append(
            Outcome(
                due_s,
                latency_s,
                status,
                answer.get("code", ""),
                is_degraded=bool(answer.get("degraded")),
                is_crossed=status == 200 and not is_event and answer["session_id"] != session_id,
            )
        )
        if caller.is_open:
            idle.append(caller)


class _Caller:
    """One connection, opened again when it was lost between two requests."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send a request once; the status is LOST_CONNECTION without an answer."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        answer = self._answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._connection is None:
                    self._connection = await Connection.open(self._url, self._on_answer, self._on_lost)
                self._connection.send(0, f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
                status, received = await answer
        except (OSError, TimeoutError):
            self.close()
            return LOST_CONNECTION, {}
        return status, json.loads(received) if received else {}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _on_answer(self, connection: Connection, status: int, body: bytes) -> None:
        if not connection.is_kept:
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))

    def _on_lost(self, _connection: Connection) -> None:
        self._connection = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())


def _is_hit(outcome: Outcome) -> bool:
    return outcome.is_degraded or outcome.status != 200
