"""A TCP proxy in a thread of its own: delays replies, or refuses connections and cuts those that are open."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class SlowProxy:
    """Forwards to a port of this machine. Its attributes and methods are for the thread of the test."""

    def __init__(self, server_port: int) -> None:
        self.delay_s = 0.0
        """Added to every reply."""
        self.accepted = 0
        self.port = 0
        self._server_port = server_port
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def refuse(self) -> None:
        """Cut all connections, and each new one at once."""
        self._refuses = True
        self._loop.call_soon_threadsafe(self._cut)

    def accept(self) -> None:
        """Forward again."""
        self._refuses = False

    def run(self, is_listening: threading.Event) -> None:
        """Run until `stop`."""
        server = self._loop.run_until_complete(asyncio.start_server(self._handle, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        is_listening.set()
        self._loop.run_forever()
        server.close()
        self._cut()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refuses:
            writer.transport.abort()
            return
        with suppress(OSError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._writers |= {writer, to_server}
            replies = self._loop.create_task(self._reply(from_server, writer))
            self._tasks.add(replies)
            with suppress(OSError):
                while data := await reader.read(2**16):
                    to_server.write(data)
            to_server.transport.abort()
            await replies
            self._tasks.discard(replies)
            self._writers -= {writer, to_server}
        writer.transport.abort()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                self._loop.call_later(self.delay_s, writer.write, data)


@contextmanager
def slow_proxy(server_port: int) -> Iterator[SlowProxy]:
    """Run a proxy until the block ends."""
    proxy, is_listening = SlowProxy(server_port), threading.Event()
    thread = threading.Thread(target=proxy.run, args=[is_listening])
    thread.start()
    try:
        assert is_listening.wait(10)
        yield proxy
    finally:
        proxy.stop()
        thread.join()
