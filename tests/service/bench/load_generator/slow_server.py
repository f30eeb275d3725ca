"""A small real HTTP server of known capacity: it processes one request at a time, for a fixed duration."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from onward.service.bench.load_generator.api import post


def response(status: int = 200, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status} Any\r\nContent-Length: 2\r\n{lines}\r\n{{}}".encode()


Answer = Callable[[int], bytes | None]
"""Takes the number of the request; None closes the connection, empty bytes leave the request unanswered."""


@dataclass(frozen=True)
class PlainApi:
    """An interface whose request body is a session id and an item id."""

    def request(self, session_id: str, item_id: str) -> bytes:
        return post("/", "localhost", f"{session_id} {item_id}".encode())

    def fault(self, status: int, body: bytes) -> str | None:
        return None if status == 200 and body == b"{}" else f"status {status}"


@dataclass
class SlowServer:
    """Its behaviour, and what it has received."""

    work_s: float
    answer: Answer
    url: str = ""
    bodies: list[str] = field(default_factory=list)
    connections: int = 0
    overlaps: int = 0
    """Requests that arrived while another of the same session was in progress."""
    _in_progress: set[str] = field(default_factory=set)
    _open: dict[asyncio.StreamWriter, "asyncio.Task[None] | None"] = field(default_factory=dict)

    async def run(self, is_up: threading.Event, done: asyncio.Event) -> None:
        self._lock = asyncio.Lock()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        is_up.set()
        await done.wait()
        for _ in range(5):
            await asyncio.sleep(0.01)  # the server never closes a connection it accepts while it shuts down
        server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*(task for task in self._open.values() if task is not None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open[writer] = asyncio.current_task()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                answer = await self._work((await reader.readexactly(length)).decode())
                if answer is None:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            del self._open[writer]

    async def _work(self, body: str) -> bytes | None:
        session = body.split()[0]
        self.overlaps += session in self._in_progress
        self._in_progress.add(session)
        self.bodies.append(body)
        number = len(self.bodies)
        async with self._lock:
            await asyncio.sleep(self.work_s)
        self._in_progress.discard(session)
        return self.answer(number)


@contextmanager
def slow_server(work_s: float = 0.0, answer: Answer = lambda _number: response()) -> Iterator[SlowServer]:
    """Run the server in a thread."""
    server = SlowServer(work_s, answer)
    is_up, done = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.run(is_up, done),))
    thread.start()
    try:
        assert is_up.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()
