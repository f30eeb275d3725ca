"""Start and stop servers, with all processes that they start."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from onward.service.bench.load_generator.api import Api, Onward
from onward.service.bench.server import MeasurementError, started
from onward.service.bench.server import Server as Process
from tests.benchmarks.peers.answers import request_items
from tests.benchmarks.peers.apps.model import BATCH, BUNDLE, HOME, REDIS_URL, WEIGHTS
from tests.benchmarks.peers.peer import REPOSITORY, Peer, PeerApi

START_TIMEOUT_S, STOP_TIMEOUT_S = 180.0, 20.0
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class NotStarted(Exception):
    """A server did not start; the message is one line."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    api: Api
    process: Process

    @property
    def url(self) -> str:
        return self.process.url


@dataclass(frozen=True, slots=True)
class Placement:
    """What a server is started with."""

    store: str
    """URL of the session store: the server's own database in the shared store."""
    item_id: str
    """An item that every server knows."""
    cores: set[int] | None
    """The cores to run on; None for all."""
    weights: Path
    """File with the weights of the plain peer's encoder; exists if that peer is selected."""


@contextmanager
def onward(name: str, bundles: Path, place: Placement) -> Iterator[Server]:
    """Start Onward with one worker and wait for its compiled encoder. Raises NotStarted."""
    with ExitStack() as running:
        try:
            with _pinned(place.cores):
                server = running.enter_context(started(bundles, redis_url=place.store))
        except MeasurementError as error:
            raise NotStarted(str(error)) from error
        yield Server(name, Onward(), server)


@contextmanager
def _pinned(cores: set[int] | None) -> Iterator[None]:
    """Restrict this process, and the processes it starts meanwhile, to some cores."""
    previous = os.sched_getaffinity(0)
    os.sched_setaffinity(0, previous if cores is None else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, previous)


@contextmanager
def serving(peer: Peer, python: str, bundle: Path, place: Placement) -> Iterator[Server]:
    """Start a peer. Raises NotStarted."""
    port = _free_port()
    environment = {
        **peer.environment,
        BUNDLE: str(bundle.resolve()),
        REDIS_URL: place.store,
        BATCH: str(peer.batch),
        WEIGHTS: str(place.weights),
    }
    with _running([python, *peer.command(peer.module, port)], environment, place.cores) as (process, log):
        address = Process(f"http://127.0.0.1:{port}", process.pid)
        yield _ready(Server(peer.name, PeerApi(), address), place.item_id, process, log)


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], cores: set[int] | None
) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    with (
        tempfile.TemporaryFile() as log,
        tempfile.TemporaryDirectory(prefix="onward-peer-", ignore_cleanup_errors=True) as home,
    ):
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **ONE_THREAD, **_isolated_paths(home), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
        )
        try:
            yield process, log
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            _kill_all(home)
            process.wait()


def _isolated_paths(folder: str) -> dict[str, str]:
    """Return settings that keep a peer's files, sockets and ports apart from the user's and other peers'."""
    return {
        HOME: folder,
        "BENTOML_HOME": f"{folder}/bentoml",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
    }


def _ready(server: Server, item_id: str, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> Server:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if process.poll() is not None:
            raise NotStarted(f"ended with code {process.returncode}: {_last_line(log)}")
        try:
            request_items(server.url, server.api.request("ready", item_id))
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise NotStarted(f"no answer after {START_TIMEOUT_S:.0f} s ({error}): {_last_line(log)}") from error
            time.sleep(0.2)
        else:
            return server


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it logged nothing"


def _kill_all(home: str) -> None:
    """Kill a server's remaining processes, found by their environment: some leave its process group and tree."""
    marker = f"{HOME}={home}".encode()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and marker in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
