"""Connections that each send their next request when they have their answer."""

import asyncio
import time
from collections.abc import Iterator
from itertools import count

from onward.service.bench.connection import Connection
from onward.service.bench.load import ClosedLoad
from onward.service.bench.outcome import Record


class ClosedLoop:
    """Asks for some seconds, as a load says."""

    def __init__(self, load: ClosedLoad) -> None:
        self._load = load
        self._numbers = count()
        self._requests: dict[Connection, Iterator[bytes]] = {}
        self._sent_s: dict[Connection, float] = {}
        self._record = Record()

    async def run(self) -> Record:
        """Ask, and wait for the last answers. Raises OSError where nothing answers at the URL."""
        self._done = asyncio.get_running_loop().create_future()
        connections = [
            await Connection.open(self._load.url, self._answered, self._lost) for _ in range(self._load.connections)
        ]
        cpu_s, started_s = time.process_time(), time.perf_counter()
        self._until_s = started_s + self._load.seconds
        for connection in connections:
            self._requests[connection] = self._visits()
            self._send(connection)
        await self._done
        self._record.seconds = time.perf_counter() - started_s
        self._record.cpu_s = time.process_time() - cpu_s
        return self._record

    def _visits(self) -> Iterator[bytes]:
        """Requests of one visitor after the other."""
        sessions, request, seed = self._load.sessions, self._load.api.request, self._load.seed
        for number in self._numbers:
            for item in sessions[number % len(sessions)]:
                yield request(f"{seed}-{number}", item)

    def _send(self, connection: Connection) -> None:
        if time.perf_counter() >= self._until_s:
            self._end(connection)
            return
        request = next(self._requests[connection])
        self._sent_s[connection] = time.perf_counter()
        connection.send(0, request)

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        latency_s = time.perf_counter() - self._sent_s[connection]
        if (fault := self._load.api.fault(status, body)) is None:
            self._record.answered += 1
            self._record.latencies_s.append(latency_s)
        else:
            self._record.errors[fault] += 1
        self._send(connection)

    def _lost(self, connection: Connection) -> None:
        self._record.errors["connection lost"] += 1
        self._end(connection)

    def _end(self, connection: Connection) -> None:
        connection.close()
        self._requests.pop(connection, None)
        if not self._requests and not self._done.done():
            self._done.set_result(None)
