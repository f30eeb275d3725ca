"""The closed loop: each connection sends its next request as soon as it has the response to the last one."""

import asyncio
import time
from collections.abc import Iterator
from itertools import count

from onward.service.bench.load_generator.connection import Connection
from onward.service.bench.load_generator.load_result import LoadRecord
from onward.service.bench.load_generator.loads import ClosedLoad


class ClosedLoop:
    """Runs a closed load once."""

    def __init__(self, load: ClosedLoad) -> None:
        self._load = load
        self._session_numbers = count()
        self._requests: dict[Connection, Iterator[bytes]] = {}
        self._sent_s: dict[Connection, float] = {}
        self._record = LoadRecord()

    async def run(self) -> LoadRecord:
        """Send requests for the load's duration, then wait for the last responses.

        Raises OSError if nothing listens at the URL.
        """
        self._done = asyncio.get_running_loop().create_future()
        connections = [
            await Connection.open(self._load.url, self._on_response, self._on_lost)
            for _ in range(self._load.connections)
        ]
        cpu_s, started_s = time.process_time(), time.perf_counter()
        self._end_s = started_s + self._load.seconds
        for connection in connections:
            self._requests[connection] = self._session_requests()
            self._send(connection)
        await self._done
        self._record.seconds = time.perf_counter() - started_s
        self._record.cpu_s = time.process_time() - cpu_s
        return self._record

    def _session_requests(self) -> Iterator[bytes]:
        """Yield the requests of one session after another; the connections share the numbering."""
        sessions, request, seed = self._load.sessions, self._load.api.request, self._load.seed
        for number in self._session_numbers:
            for item in sessions[number % len(sessions)]:
                yield request(f"{seed}-{number}", item)

    def _send(self, connection: Connection) -> None:
        if time.perf_counter() >= self._end_s:
            self._finish(connection)
            return
        request = next(self._requests[connection])
        self._sent_s[connection] = time.perf_counter()
        connection.send(0, request)

    def _on_response(self, connection: Connection, status: int, body: bytes) -> None:
        latency_s = time.perf_counter() - self._sent_s[connection]
        if (fault := self._load.api.fault(status, body)) is None:
            self._record.answered += 1
            self._record.latencies_s.append(latency_s)
        else:
            self._record.errors[fault] += 1
        self._send(connection)

    def _on_lost(self, connection: Connection) -> None:
        self._record.errors["connection lost"] += 1
        self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        connection.close()
        self._requests.pop(connection, None)
        if not self._requests and not self._done.done():
            self._done.set_result(None)
