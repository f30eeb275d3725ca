"""EventLog: events and answers as files of JSON lines, which training reads."""

import asyncio
import fcntl
import math
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b, sha256
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO

from pydantic_core import to_json

from onward.service.records.answers import Answer
from onward.service.records.outage_log import OutageLog
from onward.service.sessions import AppliedEvent

MAX_FILE_BYTES = 64 * 2**20
MAX_FILE_AGE = timedelta(hours=1)
MAX_WAITING = 50_000
FILE_MODE = 0o640
RETENTION_INTERVAL_S = 60.0
_NAME = re.compile(r"(events|answers)-(\d{8}T\d{6}Z)-[0-9a-f]+\.jsonl")


class EventLogError(Exception):
    """The event log cannot be written to: the message names the folder and the reason in one line."""


@dataclass(frozen=True, slots=True)
class EventLogOptions:
    """What a deployment may choose."""

    max_age: timedelta | None = None
    """Age at which files are deleted, counted from the end of the hour that they hold."""
    max_bytes: int | None = None
    """Size of the folder beyond which the oldest files are deleted."""
    key: str | None = None
    """Secret of the hashes by which sessions and users are named; None for their ids."""
    sync_interval: timedelta | None = None
    """Interval at which the files are synced to disk; None for only when they are closed."""


class EventLog:
    """Appends the events and answers of this process to files of a folder, `events-*.jsonl` and `answers-*.jsonl`.

    `flush` writes them in a thread. A file is rotated after 64 MiB, at each full hour and at `close`, and synced to
    disk then. Lines that cannot be written are lost and counted, as are the oldest of more than `MAX_WAITING` lines.
    """

    def __init__(
        self, folder: Path, options: EventLogOptions = EventLogOptions(), *, clock: Callable[[], float] = time.time
    ) -> None:
        self._events = _LineQueue(_LogFile(folder, "events", options.sync_interval, clock))
        self._answers = _LineQueue(_LogFile(folder, "answers", options.sync_interval, clock))
        self._folder, self._options, self._clock = folder, options, clock
        self._name = str if options.key is None else Pseudonyms(options.key)
        self._retained_s = -RETENTION_INTERVAL_S

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Queue events."""
        for event in events:
            self._events.add(_event_line(event, self._name))

    def served(self, answer: Answer, session_id: str | None) -> None:
        """Queue an answer, with the session that it was made for."""
        self._answers.add(_answer_line(answer, session_id, self._name))

    async def flush(self) -> None:
        """Write all queued lines, and delete files that are too old or too many."""
        for queue in (self._events, self._answers):
            await queue.flush()
        if self._clock() - self._retained_s >= RETENTION_INTERVAL_S:
            self._retained_s = self._clock()
            await asyncio.to_thread(delete_old_files, self._folder, self._options, self._clock())

    async def close(self) -> None:
        """Write all queued lines and sync the files to disk."""
        for queue in (self._events, self._answers):
            await queue.close()


class Pseudonyms:
    """Names sessions and users by keyed hashes: equal ids have equal names, which nobody without the key can make."""

    def __init__(self, key: str) -> None:
        self._hash = blake2b(key=sha256(key.encode()).digest(), digest_size=16)

    def __call__(self, value: str) -> str:
        """Return the name of an id."""
        named = self._hash.copy()
        named.update(value.encode(errors="surrogatepass"))
        return named.hexdigest()


def require_writable(folder: Path) -> None:
    """Raise EventLogError unless files can be made in a folder."""
    probe = folder / f".probe-{secrets.token_hex(4)}"
    try:
        probe.touch(FILE_MODE, exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise EventLogError(f"{error.strerror}: {folder}") from error


def log_folder(event_log: Path, tenant: str | None) -> Path:
    """Return the folder of a tenant's event log, which is made below that of the deployment. Raises EventLogError."""
    if tenant is None:
        return event_log
    folder = event_log / tenant
    try:
        folder.mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        raise EventLogError(f"{error.strerror}: {folder}") from error
    return folder


def last_moment(name: str) -> datetime | None:
    """Return the end of the hour whose lines a file may hold; None if this is not the name of a file of the log."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    made_s = datetime.strptime(match[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    hour_s = MAX_FILE_AGE.total_seconds()
    return datetime.fromtimestamp((made_s // hour_s + 1) * hour_s, UTC)


def delete_old_files(folder: Path, options: EventLogOptions, now_s: float) -> None:
    """Delete files that are too old, and the oldest while all are too large; those being written stay.

    Failures are tried again at the next call.
    """
    if options.max_age is None and options.max_bytes is None:
        return
    now = datetime.fromtimestamp(now_s, UTC)
    with suppress(OSError):
        # The time in the names orders them; the kinds are ordered together.
        names = sorted((path.name for path in folder.iterdir()), key=lambda name: name.partition("-")[2])
        sizes = {name: (folder / name).stat().st_size for name in names if _NAME.fullmatch(name)}
        excess = 0 if options.max_bytes is None else sum(sizes.values()) - options.max_bytes
        for name, size in sizes.items():
            end = last_moment(name)
            is_old = options.max_age is not None and end is not None and end + options.max_age <= now
            if (is_old or excess > 0) and _delete_closed(folder / name):
                excess -= size


def _delete_closed(path: Path) -> bool:
    """Delete a file unless a process is writing it, or that fails; return whether it is gone."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # on NFS only for a file that may be written
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


class _LineQueue:
    """Lines that wait to be written to a file."""

    def __init__(self, file: "_LogFile") -> None:
        self._file = file
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MAX_WAITING)
        self._outages = OutageLog("event log")

    def add(self, line: dict[str, Any]) -> None:
        self._outages.count_lost(int(len(self._waiting) == MAX_WAITING))
        self._waiting.append(line)

    async def flush(self) -> None:
        if not self._waiting and self._outages.is_failing:
            return  # writing nothing would not show that the disk works again
        lines, self._waiting = self._waiting, deque(maxlen=MAX_WAITING)
        with self._outages.writing(len(lines)):
            await asyncio.to_thread(self._file.write, lines)

    async def close(self) -> None:
        await self.flush()
        with self._outages.writing(0):
            await asyncio.to_thread(self._file.rotate)


class _LogFile:
    """The file being written; each has a random part in its name, so that no two processes write to the same one."""

    def __init__(self, folder: Path, kind: str, sync_interval: timedelta | None, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._kind = kind
        self._sync_s = math.inf if sync_interval is None else sync_interval.total_seconds()
        self._clock = clock
        self._file: BinaryIO | None = None
        self._lock = RLock()  # the thread of a cancelled flush may still be writing
        self._hour = 0
        self._synced_s = clock()
        self._is_synced = True

    def write(self, lines: Iterable[dict[str, Any]]) -> None:
        """Append lines, to a new file if the hour has changed. After an OSError the next write starts a new file."""
        content = b"".join(to_json(line) + b"\n" for line in lines)
        hour = int(self._clock() // MAX_FILE_AGE.total_seconds())
        with self._lock:
            if hour != self._hour:
                self.rotate()
            if content:
                self._hour = hour
                self._append(content)
            if not self._is_synced and self._file is not None and self._clock() - self._synced_s >= self._sync_s:
                self._sync(self._file)

    def rotate(self) -> None:
        """Sync the current file to disk and close it, if there is one. Raises OSError."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                with file:
                    self._sync(file)

    def _append(self, content: bytes) -> None:
        file = self._file = self._file or self._open()
        self._is_synced = False
        try:
            file.write(content)
            file.flush()
        except OSError:
            self._file = None  # its last line may be incomplete
            with suppress(OSError):
                file.close()
            raise
        if file.tell() >= MAX_FILE_BYTES:
            self.rotate()

    def _sync(self, file: BinaryIO) -> None:
        os.fsync(file.fileno())
        self._synced_s, self._is_synced = self._clock(), True

    def _open(self) -> BinaryIO:
        now = datetime.fromtimestamp(self._clock(), UTC)
        name = f"{self._kind}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.jsonl"
        file = os.fdopen(os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb")
        with suppress(OSError):  # where no file can be locked, none is deleted
            fcntl.flock(file, fcntl.LOCK_SH)  # until it is closed: see _delete_closed; on NFS only for one to be read
        return file


def _event_line(event: AppliedEvent, name: Callable[[str], str]) -> dict[str, Any]:
    line = {
        "session_id": name(event.session_id),
        "item_id": event.item_id,
        "timestamp_ms": event.timestamp_ms,
        "type": event.type,
        "weight": event.weight,
        "value": event.value,
        "event_id": event.event_id,
        "recommendation_id": event.recommendation_id,
    }
    return {field: value for field, value in line.items() if value is not None}


def _answer_line(answer: Answer, session_id: str | None, name: Callable[[str], str]) -> dict[str, Any]:
    line = {
        "recommendation_id": answer.id,
        "session_id": None if session_id is None else name(session_id),
        "user_id": None if answer.user_id is None else name(answer.user_id),
        "timestamp_ms": answer.made_ms,
        "bundle": answer.bundle,
        "scenario": answer.scenario,
        "scenario_version": answer.scenario_version,
        "variant": answer.variant,
        "page_of": answer.root_id,
        "item_ids": answer.items.item_ids,
        "scores": answer.items.scores,
        "sources": answer.items.sources,
    }
    return {field: value for field, value in line.items() if value is not None}
