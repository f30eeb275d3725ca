"""Worker: takes jobs from the store, one at a time, and does each in a process of its own."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO

from redis.exceptions import RedisError

from onward.bundle import BundleError
from onward.bundle.jobs import Job
from onward.training.errors import InputError
from onward.training.jobs.commands_of_jobs import Workplace, change_release, command_of, is_release_change
from onward.training.jobs.queue import JobQueue

POLL_S = 2.0
REPORT_S = 1.0
STOP_S = 60.0
"""How long a cancelled job may take to end by itself."""
PAUSE_S = 5.0
"""After the store did not answer."""
MAX_LINE = 500
LAST_LINES = 2
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class _Cancelled(Exception):
    """The job is to end, or is another worker's by now."""


class Worker:
    """Does jobs until it is stopped.

    Several workers share a store. A job whose worker is killed is taken again once its lease has ended.
    """

    def __init__(
        self, queue: JobQueue, place: Workplace, *, poll_s: float = POLL_S, on_line: Callable[[str], object] = print
    ) -> None:
        self._queue = queue
        self._place = place
        self._poll_s = poll_s
        self._on_line = on_line
        self.name = f"{socket.gethostname()}-{os.getpid()}"

    def run(self) -> None:
        """Do jobs for ever; while the store does not answer, wait for it."""
        while True:
            try:
                is_idle = not self.run_one()
            except RedisError as error:
                self._on_line(f"the store does not answer ({type(error).__name__}); trying again")
                time.sleep(PAUSE_S)
            else:
                time.sleep(self._poll_s if is_idle else 0)

    def run_one(self) -> bool:
        """Do the next job; False if there is none."""
        job = self._queue.claim(self.name)
        if job is None:
            return False
        self._on_line(f"{job.id}: {job.kind} begins{'' if job.tries < 2 else ' again, its worker was lost'}")
        try:
            result = change_release(job, self._place) if is_release_change(job) else self._run_command(job)
        except _Cancelled:
            self._finish(job, "cancelled", "")
        except (InputError, BundleError, OSError) as error:
            self._finish(job, "failed", str(error))
        except BaseException:  # this worker is stopped: another one goes on
            self._queue.finish(job, "waiting")
            raise
        else:
            self._queue.finish(job, "done", result=result)
            self._on_line(f"{job.id}: done: {result}")
        return True

    def _finish(self, job: Job, state: str, error: str) -> None:
        self._queue.finish(job, "failed" if state == "failed" else "cancelled", error=error)
        self._on_line(f"{job.id}: {state}{f': {error}' if error else ''}")

    def _run_command(self, job: Job) -> str:
        """Run the command of a job, and report its lines; return the last line of its output. Raises InputError."""
        command = command_of(job, self._place, self._queue.redis)
        out, log = deque[str](maxlen=20), deque[str]()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent,  # it calls one function of the system
        ) as process:
            readers = [_reading(process.stdout, out), _reading(process.stderr, log)]
            try:
                last = self._followed(job, process, log)
            finally:
                _end(process)
                for reader in readers:
                    reader.join()
        self._queue.report(job, "", list(log))
        if process.returncode:
            raise InputError(_reason([*last, *log]) or f"exit code {process.returncode}")
        return out[-1] if out else ""

    def _followed(self, job: Job, process: "subprocess.Popen[str]", log: deque[str]) -> list[str]:
        """Report until the process ends; return the last lines that were reported. Raises _Cancelled."""
        step, last = "", deque[str](maxlen=LAST_LINES)
        while True:
            try:
                process.wait(REPORT_S)
            except subprocess.TimeoutExpired:
                lines = [log.popleft() for _ in range(len(log))]
                step = lines[-1] if lines else step
                last.extend(lines)
                if self._answer(job, step, lines) != "go on":
                    raise _Cancelled from None
            else:
                return list(last)

    def _answer(self, job: Job, step: str, lines: list[str]) -> str:
        try:
            return self._queue.report(job, step, lines)
        except RedisError:  # the job goes on; if the outage outlasts the lease, another worker may take it
            return "go on"


def _reason(lines: list[str]) -> str:
    """Return why a command failed: its error, else its last lines."""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else "; ".join(lines[-LAST_LINES:])


def _reading(stream: IO[str] | None, lines: deque[str]) -> threading.Thread:
    """Read lines in a thread, so that the process never waits for it."""

    def read() -> None:
        for line in stream or ():
            if text := line.rstrip()[:MAX_LINE]:
                lines.append(text)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _end(process: "subprocess.Popen[str]") -> None:
    """End the process if it still runs: by SIGTERM, and if that does not help by SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
