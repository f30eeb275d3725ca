"""FaultProxy: a proxy that simulates network faults between client and server."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal

Fault = Literal["none", "slices", "silence", "garbage", "reset", "lost", "repeated", "flips"]


class FaultProxy:
    """Forwards requests to the server, and replies to the client with the current fault."""

    def __init__(self, server: Path) -> None:
        self.fault: Fault = "none"
        self.flip_rate = 1.0
        """Share of the pieces of data in which one byte changes, while the fault is "flips"."""
        self.accepted = 0
        self.connected = asyncio.Event()
        self._server = server
        self.random = random.Random(3)
        self._handlers: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.connected.set()
        self._handlers.add(asyncio.create_task(self._handle(reader, writer)))

    async def aclose(self) -> None:
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await asyncio.sleep(0.01)  # aborted transports close in the next event-loop iteration

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self._server)
        tasks = [
            asyncio.create_task(copy) for copy in (self._forward(reader, to_server), self._reply(from_server, writer))
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for stream in (writer, to_server):
                stream.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            if self.fault == "reset":
                writer.write(data[: self.random.randrange(len(data))])
                return
            if self.fault == "garbage":
                data = b"\x00" + data
            if self.fault in ("lost", "repeated"):
                data = self._with_a_reply_lost_or_repeated(data)
            if self.fault == "flips" and self.random.random() < self.flip_rate:
                data = self._flipped(data)
            if self.fault == "slices":
                for part in self._slices(data):
                    writer.write(part)
                    await asyncio.sleep(0)
            elif self.fault != "silence":
                writer.write(data)

    def _with_a_reply_lost_or_repeated(self, data: bytes) -> bytes:
        """Drop or repeat one of the replies, each a text without line breaks."""
        lines = data.split(b"\r\n")[:-1]
        replies = [b"\r\n".join([*reply, b""]) for reply in zip(lines[::2], lines[1::2], strict=True)]
        place = self.random.randrange(len(replies))
        replies[place] *= 0 if self.fault == "lost" else 2
        return b"".join(replies)

    def _flipped(self, data: bytes) -> bytes:
        place = self.random.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << self.random.randrange(8)]) + data[place + 1 :]

    def _slices(self, data: bytes) -> list[bytes]:
        cuts = sorted({0, len(data), *(self.random.randrange(len(data)) for _ in range(20))})
        return [data[first:last] for first, last in pairwise(cuts)]


@asynccontextmanager
async def fault_proxy(server: Path, path: Path) -> AsyncIterator[FaultProxy]:
    """Listen on a unix socket, as a proxy for the server at another one."""
    proxy = FaultProxy(server)
    listener = await asyncio.start_unix_server(proxy.accept, path)
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.aclose()
