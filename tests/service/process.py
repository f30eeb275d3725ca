"""The service as a real process on a free port."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

READY_TIMEOUT_S = 60
COMMAND = (sys.executable, "-m", "onward.service", "serve")


class ServiceProcess:
    """`python -m onward.service serve` in a process, which is killed at the end of the context."""

    def __init__(
        self,
        bundles: Path | str,
        *options: str,
        environment: dict[str, str] | None = None,
        descriptors: int | None = None,
    ) -> None:
        """Start it, with a limit of open files if one is given."""
        limit = [] if descriptors is None else ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"]
        inherited = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        self._process = subprocess.Popen(
            [
                *limit,
                sys.executable,
                "-m",
                "onward.service",
                "serve",
                "--bundles",
                str(bundles),
                "--port",
                "0",
                *options,
            ],
            env=inherited | {"SERVICE_RELOAD_INTERVAL": "0.05"} | (environment or {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self._listening = threading.Event()
        self._url = ""
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """The URL of the service; waits until it listens."""
        assert self._listening.wait(READY_TIMEOUT_S), self.log
        return self._url

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def wait_until_ready(self) -> Self:
        with self.client() as client:
            wait_until(lambda: self._is_ready(client))
        return self

    def _is_ready(self, client: httpx.Client) -> bool:
        try:
            return client.get("/health/ready").status_code == 200
        except httpx.ConnectError:  # the supervisor logs its address before a worker listens
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait until the process ends and return its exit code."""
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until the process ends and return its exit code."""
        return self._process.wait(60)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event so far."""
        return [line for line in self.log if line["event"] == name]

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            record = json.loads(line)
            self.log.append(record)
            if record["event"].startswith("Uvicorn running on "):
                self._url = record["event"].split()[3]
                self._listening.set()


def wait_until(condition: Any, timeout_s: float = READY_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)
