"""Real servers of Redis or Valkey, each as a process on a free port of this machine."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from onward.service.server.embedded_store import find_servers

HOST = "127.0.0.1"
START_TRIES = 400
SLOTS = 16_384


class RedisServer:
    """A server that can be killed, told things and started again on its port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port, self.bus_port = free_ports(2)
        self._folder = folder / str(self.port)
        self._folder.mkdir(parents=True)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        own = ["--port", str(self.port), "--bind", HOST, "--dir", str(self._folder), "--save", ""]
        if "--cluster-enabled" in self._options:
            own += ["--cluster-port", str(self.bus_port)]
        self._process = subprocess.Popen(
            [str(find_servers()[0]), *self._own_file(), *own, *self._options], stdout=subprocess.DEVNULL
        )
        self.tell("ping")

    def tell(self, *command: str | int) -> Any:
        """Run one command by a connection of its own."""
        with Redis(host=HOST, port=self.port, retry=Retry(ConstantBackoff(0.01), START_TRIES)) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _own_file(self) -> list[str]:
        """Sentinel alone needs a file that it can write to."""
        if "--sentinel" not in self._options:
            return []
        file = self._folder / "sentinel.conf"
        file.touch()
        return [str(file)]


@contextmanager
def redis_servers(folder: Path, count: int, *options: str) -> Iterator[list[RedisServer]]:
    """Run several alike, until the block ends."""
    with ExitStack() as running:
        servers = [RedisServer(folder, *options) for _ in range(count)]
        for server in servers:
            running.callback(server.kill)
            server.start()
        yield servers


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
