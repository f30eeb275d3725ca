"""Redis or Valkey servers for tests, each a process on a free local port."""

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
    """A server that can be killed and started again on its port."""

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
        """Start the server and wait until it answers."""
        options = ["--port", str(self.port), "--bind", HOST, "--dir", str(self._folder), "--save", ""]
        if "--cluster-enabled" in self._options:
            options += ["--cluster-port", str(self.bus_port)]
        self._process = subprocess.Popen(
            [str(find_servers()[0]), *self._config_file(), *options, *self._options], stdout=subprocess.DEVNULL
        )
        self.execute("ping")

    def execute(self, *command: str | int) -> Any:
        """Execute a command over a new connection, which is retried until the server answers."""
        with Redis(host=HOST, port=self.port, retry=Retry(ConstantBackoff(0.01), START_TRIES)) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """Kill the process, as in a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _config_file(self) -> list[str]:
        """Return the arguments that name a writable configuration file, which only Sentinel needs."""
        if "--sentinel" not in self._options:
            return []
        file = self._folder / "sentinel.conf"
        file.touch()
        return [str(file)]


@contextmanager
def redis_servers(folder: Path, count: int, *options: str) -> Iterator[list[RedisServer]]:
    """Run several servers with the same options until the block ends."""
    with ExitStack() as stack:
        servers = [RedisServer(folder, *options) for _ in range(count)]
        for server in servers:
            stack.callback(server.kill)
            server.start()
        yield servers


def free_ports(count: int) -> list[int]:
    """Return local ports that are not in use."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for sock in sockets:
            sock.bind((HOST, 0))
        return [sock.getsockname()[1] for sock in sockets]
