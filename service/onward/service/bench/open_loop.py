"""Requests sent when they are due, whatever the server does."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from onward.service.bench.alarm import make_alarm
from onward.service.bench.connection import Connection
from onward.service.bench.load import OpenLoad
from onward.service.bench.outcome import Record
from onward.service.bench.workload import Sessions

THINKING_S = 1.0
"""Mean time between two clicks of a visitor, so how many visitors there are at once: as many as requests a second."""
FEWEST_VISITORS = 16
LEAD_S = 0.05
LOOK_AROUND_S = 0.05
"""Time between two looks for requests that had no answer in time, and two tries to connect."""

Click = tuple[int, str]
"""The number of a session, and an item's id."""


def interleaved(sessions: Sessions, visitors: int, seed: int) -> Iterator[Click]:
    """Clicks of that many visitors at once, each in its order; who is done is followed by the next session."""
    generator = np.random.default_rng(seed)
    numbers = count()

    def visit() -> tuple[int, Iterator[str]]:
        number = next(numbers)
        return number, iter(sessions[number % len(sessions)])

    present = [visit() for _ in range(visitors)]
    while True:
        for place in generator.integers(visitors, size=1_000).tolist():
            number, items = present[place]
            if (item := next(items, None)) is None:
                number, items = present[place] = visit()
                item = next(items)
            yield number, item


class OpenLoop:
    """Asks once, as a load says."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        self._due_s: list[float] = load.arrivals.times(load.seed).tolist()
        visitors = max(FEWEST_VISITORS, round(load.arrivals.mean_rate * THINKING_S))
        clicks = interleaved(load.sessions, visitors, load.seed)
        planned = [next(clicks) for _ in self._due_s]
        self._sessions = [session for session, _ in planned]
        self._requests = [load.api.request(f"{load.seed}-{session}", item) for session, item in planned]
        self._next = 0
        self._left = len(planned)
        self._free: list[Connection] = []
        self._asking: set[Connection] = set()
        self._waiting: deque[int] = deque()
        self._busy_sessions: dict[int, deque[int]] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._record = Record()

    async def run(self) -> Record:
        """Send everything and wait for the answers. Raises OSError where nothing answers at the URL."""
        self._done = asyncio.get_running_loop().create_future()
        for _ in range(self._load.connections):
            self._free.append(await self._connect())
        self._alarm = make_alarm(self._ring)
        looking_around = asyncio.create_task(self._look_around())
        cpu_s = time.process_time()
        self._start_s = time.perf_counter() + LEAD_S
        self._alarm.set(LEAD_S)
        await self._done
        self._record.seconds = max(self._load.arrivals.seconds, time.perf_counter() - self._start_s)
        self._record.cpu_s = time.process_time() - cpu_s
        self._alarm.close()
        looking_around.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking_around
        for task in self._opening:
            task.cancel()
        for connection in (*self._free, *self._asking):
            connection.close()
        return self._record

    def _ring(self) -> None:
        with self._busy():
            self._take_up_due()

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        with self._busy():
            self._take_answer(connection, status, body)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self._record.busy_s += time.perf_counter() - began_s

    def _take_up_due(self) -> None:
        """Send what is due, and set the alarm for what comes next."""
        while self._next < len(self._due_s):
            late_s = self._now() - self._due_s[self._next]
            if late_s < 0:
                self._alarm.set(-late_s)
                return
            self._record.lateness_s.append(late_s)
            self._take_up(self._next)
            self._next += 1
        if not self._left:
            self._finish()

    def _take_up(self, number: int) -> None:
        """Send a request, unless its session has one in flight: then after that."""
        session = self._sessions[number]
        if (behind := self._busy_sessions.get(session)) is not None:
            behind.append(number)
            return
        self._busy_sessions[session] = deque()
        self._waiting.append(number)
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send as many as there are free connections; none that would be too late by now."""
        while self._waiting and self._free:
            number = self._waiting.popleft()
            if self._waited_s(number) > self._load.timeout_s:
                self._time_out(number)
                continue
            connection = self._free.pop()
            self._asking.add(connection)
            connection.send(number, self._requests[number])

    def _take_answer(self, connection: Connection, status: int, body: bytes) -> None:
        number = self._release(connection)
        if (fault := self._load.api.fault(status, body)) is None:
            self._record.answered += 1
            self._note_latency(number)
        else:
            self._record.errors[fault] += 1
        if connection.is_kept:
            self._free.append(connection)
        else:
            self._replace(connection)
        self._settle(number)
        self._send_waiting()

    def _lost(self, connection: Connection) -> None:
        if connection in self._asking:
            number = self._release(connection)
            self._record.errors["connection lost"] += 1
            self._settle(number)
        elif connection in self._free:
            self._free.remove(connection)
        self._replace(connection)

    def _release(self, connection: Connection) -> int:
        self._asking.remove(connection)
        number, connection.asked = connection.asked, None
        assert number is not None  # noqa: S101  # it was asking
        return number

    def _settle(self, number: int) -> None:
        """Let the session of a request that is over go on."""
        self._left -= 1
        session = self._sessions[number]
        if behind := self._busy_sessions[session]:
            self._waiting.append(behind.popleft())
        else:
            del self._busy_sessions[session]
        if not self._left and self._next == len(self._due_s):
            self._finish()

    def _time_out(self, number: int) -> None:
        self._record.errors["no answer in time"] += 1
        self._note_latency(number)
        self._settle(number)

    def _note_latency(self, number: int) -> None:
        self._record.latencies_s.append(self._waited_s(number))
        self._record.due_s.append(self._due_s[number])

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AROUND_S)
            for connection in self._too_slow():
                number = self._release(connection)
                self._replace(connection)
                self._time_out(number)
            for number in [number for number in self._waiting if self._waited_s(number) > self._load.timeout_s]:
                self._waiting.remove(number)
                self._time_out(number)
            self._send_waiting()

    def _too_slow(self) -> Sequence[Connection]:
        return [
            connection
            for connection in self._asking
            if connection.asked is not None and self._waited_s(connection.asked) > self._load.timeout_s
        ]

    def _replace(self, connection: Connection) -> None:
        connection.close()
        task = asyncio.create_task(self._reconnect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _reconnect(self) -> None:
        while True:
            try:
                self._free.append(await self._connect())
            except OSError:
                await asyncio.sleep(LOOK_AROUND_S)
            else:
                self._send_waiting()
                return

    async def _connect(self) -> Connection:
        return await Connection.open(self._load.url, self._answered, self._lost)

    def _now(self) -> float:
        return time.perf_counter() - self._start_s

    def _waited_s(self, number: int) -> float:
        return self._now() - self._due_s[number]

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)
