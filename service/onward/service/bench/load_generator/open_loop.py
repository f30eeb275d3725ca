"""The open loop: each request is sent when it is due, whether or not the server keeps up."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from onward.service.bench.load_generator.connection import Connection
from onward.service.bench.load_generator.load_result import LoadRecord
from onward.service.bench.load_generator.loads import OpenLoad
from onward.service.bench.load_generator.timer import make_timer
from onward.service.bench.load_generator.workload import Sessions

THINK_TIME_S = 1.0
"""Mean time between two clicks of a session; times the rate, it is the number of concurrent sessions."""
MIN_CONCURRENT_SESSIONS = 16
START_DELAY_S = 0.05
CHECK_INTERVAL_S = 0.05
"""Time between two checks for timeouts, and between two attempts to connect."""

Click = tuple[int, str]
"""The number of a session, and an item id."""


def interleave(sessions: Sessions, concurrent: int, seed: int) -> Iterator[Click]:
    """Yield clicks of concurrent sessions in random turns, each session in order; a new one replaces each that ends."""
    generator = np.random.default_rng(seed)
    numbers = count()

    def new_session() -> tuple[int, Iterator[str]]:
        number = next(numbers)
        return number, iter(sessions[number % len(sessions)])

    active = [new_session() for _ in range(concurrent)]
    while True:
        for slot in generator.integers(concurrent, size=1_000).tolist():
            number, items = active[slot]
            if (item := next(items, None)) is None:
                number, items = active[slot] = new_session()
                item = next(items)
            yield number, item


class OpenLoop:
    """Runs an open load once."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        self._due_s: list[float] = load.arrivals.times(load.seed).tolist()
        concurrent = max(MIN_CONCURRENT_SESSIONS, round(load.arrivals.mean_rate * THINK_TIME_S))
        clicks = interleave(load.sessions, concurrent, load.seed)
        planned = [next(clicks) for _ in self._due_s]
        self._sessions = [session for session, _ in planned]
        self._requests = [load.api.request(f"{load.seed}-{session}", item) for session, item in planned]
        self._next = 0
        """The number of the next request that becomes due."""
        self._unfinished = len(planned)
        self._idle: list[Connection] = []
        self._active: set[Connection] = set()
        self._ready: deque[int] = deque()
        """Due requests that wait for an idle connection."""
        self._blocked: dict[int, deque[int]] = {}
        """For each session with a request that is ready or in flight: its later requests that are already due."""
        self._reconnects: set[asyncio.Task[None]] = set()
        self._record = LoadRecord()

    async def run(self) -> LoadRecord:
        """Send all requests and wait for the responses. Raises OSError if nothing listens at the URL."""
        self._done = asyncio.get_running_loop().create_future()
        for _ in range(self._load.connections):
            self._idle.append(await self._connect())
        self._timer = make_timer(self._on_timer)
        checking = asyncio.create_task(self._check_timeouts())
        cpu_s = time.process_time()
        self._start_s = time.perf_counter() + START_DELAY_S
        self._timer.set(START_DELAY_S)
        await self._done
        self._record.seconds = max(self._load.arrivals.seconds, time.perf_counter() - self._start_s)
        self._record.cpu_s = time.process_time() - cpu_s
        self._timer.close()
        checking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await checking
        for task in self._reconnects:
            task.cancel()
        for connection in (*self._idle, *self._active):
            connection.close()
        return self._record

    def _on_timer(self) -> None:
        with self._time_busy():
            self._dispatch_due()

    def _on_response(self, connection: Connection, status: int, body: bytes) -> None:
        with self._time_busy():
            self._handle_response(connection, status, body)

    @contextlib.contextmanager
    def _time_busy(self) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self._record.busy_s += time.perf_counter() - started_s

    def _dispatch_due(self) -> None:
        """Dispatch all requests that are due, and set the timer for the next one."""
        while self._next < len(self._due_s):
            late_s = self._now() - self._due_s[self._next]
            if late_s < 0:
                self._timer.set(-late_s)
                return
            self._record.lateness_s.append(late_s)
            self._dispatch(self._next)
            self._next += 1
        if not self._unfinished:
            self._finish()

    def _dispatch(self, number: int) -> None:
        """Send a request as soon as possible: after its session's previous one, on an idle connection."""
        session = self._sessions[number]
        if (blocked := self._blocked.get(session)) is not None:
            blocked.append(number)
            return
        self._blocked[session] = deque()
        self._ready.append(number)
        self._send_ready()

    def _send_ready(self) -> None:
        """Send ready requests while connections are idle; those whose timeout has passed are not sent."""
        while self._ready and self._idle:
            number = self._ready.popleft()
            if self._waited_s(number) > self._load.timeout_s:
                self._time_out(number)
                continue
            connection = self._idle.pop()
            self._active.add(connection)
            connection.send(number, self._requests[number])

    def _handle_response(self, connection: Connection, status: int, body: bytes) -> None:
        number = self._release(connection)
        if (fault := self._load.api.fault(status, body)) is None:
            self._record.answered += 1
            self._record_latency(number)
        else:
            self._record.errors[fault] += 1
        if connection.is_kept:
            self._idle.append(connection)
        else:
            self._replace(connection)
        self._complete(number)
        self._send_ready()

    def _on_lost(self, connection: Connection) -> None:
        if connection in self._active:
            number = self._release(connection)
            self._record.errors["connection lost"] += 1
            self._complete(number)
        elif connection in self._idle:
            self._idle.remove(connection)
        self._replace(connection)

    def _release(self, connection: Connection) -> int:
        self._active.remove(connection)
        number, connection.in_flight = connection.in_flight, None
        assert number is not None  # noqa: S101  # it was active
        return number

    def _complete(self, number: int) -> None:
        """Count a request as finished and release the next one of its session."""
        self._unfinished -= 1
        session = self._sessions[number]
        if blocked := self._blocked[session]:
            self._ready.append(blocked.popleft())
        else:
            del self._blocked[session]
        if not self._unfinished and self._next == len(self._due_s):
            self._finish()

    def _time_out(self, number: int) -> None:
        self._record.errors["no answer in time"] += 1
        self._record_latency(number)
        self._complete(number)

    def _record_latency(self, number: int) -> None:
        self._record.latencies_s.append(self._waited_s(number))
        self._record.due_s.append(self._due_s[number])

    async def _check_timeouts(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            for connection in self._timed_out():
                number = self._release(connection)
                self._replace(connection)
                self._time_out(number)
            for number in [number for number in self._ready if self._waited_s(number) > self._load.timeout_s]:
                self._ready.remove(number)
                self._time_out(number)
            self._send_ready()

    def _timed_out(self) -> Sequence[Connection]:
        return [
            connection
            for connection in self._active
            if connection.in_flight is not None and self._waited_s(connection.in_flight) > self._load.timeout_s
        ]

    def _replace(self, connection: Connection) -> None:
        connection.close()
        task = asyncio.create_task(self._reconnect())
        self._reconnects.add(task)
        task.add_done_callback(self._reconnects.discard)

    async def _reconnect(self) -> None:
        while True:
            try:
                self._idle.append(await self._connect())
            except OSError:
                await asyncio.sleep(CHECK_INTERVAL_S)
            else:
                self._send_ready()
                return

    async def _connect(self) -> Connection:
        return await Connection.open(self._load.url, self._on_response, self._on_lost)

    def _now(self) -> float:
        return time.perf_counter() - self._start_s

    def _waited_s(self, number: int) -> float:
        return self._now() - self._due_s[number]

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)
