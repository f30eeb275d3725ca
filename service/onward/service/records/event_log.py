"""EventLog: events and answers as files of JSON lines, which training reads."""

import asyncio
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
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


class EventLog:
    """Appends the events and answers of this process to files of a folder, `events-*.jsonl` and `answers-*.jsonl`.

    `flush` writes them in a thread. A file is rotated after 64 MiB, at each full hour and at `close`, and synced to
    disk then. Lines that cannot be written are lost and counted, as are the oldest of more than `MAX_WAITING` lines.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._events = _LineQueue(_LogFile(folder, "events", clock))
        self._answers = _LineQueue(_LogFile(folder, "answers", clock))
        self._clock = clock

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Queue events."""
        for event in events:
            self._events.add(_event_line(event))

    def served(self, answer: Answer, session_id: str | None) -> None:
        """Queue an answer, with the session that it was made for."""
        self._answers.add(_answer_line(answer, session_id))

    async def flush(self) -> None:
        """Write all queued lines."""
        for queue in (self._events, self._answers):
            await queue.flush()

    async def close(self) -> None:
        """Write all queued lines and sync the files to disk."""
        for queue in (self._events, self._answers):
            await queue.close()


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

    def __init__(self, folder: Path, kind: str, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._kind = kind
        self._clock = clock
        self._file: BinaryIO | None = None
        self._lock = RLock()  # the thread of a cancelled flush may still be writing
        self._hour = 0

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

    def rotate(self) -> None:
        """Sync the current file to disk and close it, if there is one. Raises OSError."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                with file:
                    os.fsync(file.fileno())

    def _append(self, content: bytes) -> None:
        file = self._file = self._file or self._open()
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

    def _open(self) -> BinaryIO:
        now = datetime.fromtimestamp(self._clock(), UTC)
        name = f"{self._kind}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.jsonl"
        return (self._folder / name).open("xb")


def _event_line(event: AppliedEvent) -> dict[str, Any]:
    line = {
        "session_id": event.session_id,
        "item_id": event.item_id,
        "timestamp_ms": event.timestamp_ms,
        "type": event.type,
        "weight": event.weight,
        "value": event.value,
        "event_id": event.event_id,
        "recommendation_id": event.recommendation_id,
    }
    return {name: value for name, value in line.items() if value is not None}


def _answer_line(answer: Answer, session_id: str | None) -> dict[str, Any]:
    line = {
        "recommendation_id": answer.id,
        "session_id": session_id,
        "user_id": answer.user_id,
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
    return {name: value for name, value in line.items() if value is not None}
