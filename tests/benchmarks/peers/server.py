"""Servers as processes of their own, each with those it starts."""

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

from onward.service.bench.api import Api, Onward
from onward.service.bench.server import MeasurementError, started
from onward.service.bench.server import Server as Process
from tests.benchmarks.peers.answers import ask
from tests.benchmarks.peers.apps.model import BATCH, BUNDLE, HOME, REDIS_URL, WEIGHTS
from tests.benchmarks.peers.peer import REPOSITORY, Peer, PeerApi

START_TIMEOUT_S, STOP_TIMEOUT_S = 180.0, 20.0
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class NotStarted(Exception):
    """A server that gave no answer; one line that says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs."""

    name: str
    api: Api
    process: Process

    @property
    def url(self) -> str:
        return self.process.url


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs."""

    store: str
    """URL of the session store: a database of the server's own in the one that all share."""
    item_id: str
    """One that every server knows."""
    cores: set[int] | None
    """Those that servers may use; None for all."""
    weights: Path
    """Of the encoder that the plain peer runs, in a file that is there where that is wanted."""


@contextmanager
def onward(name: str, bundles: Path, place: Place) -> Iterator[Server]:
    """Our own service with one worker, as soon as it encodes as it is going to. Raises NotStarted."""
    with ExitStack() as running:
        try:
            with _on(place.cores):
                server = running.enter_context(started(bundles, redis_url=place.store))
        except MeasurementError as error:
            raise NotStarted(str(error)) from error
        yield Server(name, Onward(), server)


@contextmanager
def _on(cores: set[int] | None) -> Iterator[None]:
    """Start processes on some cores."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, own if cores is None else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@contextmanager
def serving(peer: Peer, python: str, bundle: Path, place: Place) -> Iterator[Server]:
    """A peer. Raises NotStarted."""
    port = _free_port()
    environment = {
        **peer.environment,
        BUNDLE: str(bundle.resolve()),
        REDIS_URL: place.store,
        BATCH: str(peer.batch),
        WEIGHTS: str(place.weights),
    }
    with _running([python, *peer.command(peer.module, port)], environment, place.cores) as (process, log):
        runs = Process(f"http://127.0.0.1:{port}", process.pid)
        yield _ready(Server(peer.name, PeerApi(), runs), place.item_id, process, log)


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
            env={**os.environ, **ONE_THREAD, **_places(home), **environment},
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


def _places(folder: str) -> dict[str, str]:
    """Where peers keep and offer what would else be in the user's home, or at a path or port that all of them share."""
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
            ask(server.url, server.api.request("ready", item_id))
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise NotStarted(f"no answer after {START_TIMEOUT_S:.0f} s ({error}): {_last_line(log)}") from error
            time.sleep(0.2)
        else:
            return server


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _kill_all(home: str) -> None:
    """End the processes that remain of a server: some leave its group and its tree, none its environment."""
    mark = f"{HOME}={home}".encode()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
