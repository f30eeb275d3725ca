"""AuditLog: who changed what, as JSON lines in a file."""

import asyncio
import errno
import fcntl
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from onward.service import telemetry
from onward.service.errors import AuditLogUnavailable

FILE_MODE = 0o640
MAX_PAGE_BYTES = 2**20


class AuditLogError(Exception):
    """The audit log cannot be written to: the message names the file and the reason in one line."""


class Actor(NamedTuple):
    """Who makes a change: a caller of the service, or a person who gives a command."""

    key: str | None = None
    """Name of the caller's key."""
    tenant: str | None = None
    address: str | None = None
    """The client's address."""
    request_id: str | None = None
    command: str | None = None
    user: str | None = None
    """Name of the account that gives the command."""


class Change(NamedTuple):
    """One change: what kind, of what, and the values before and after it, None for nothing."""

    what: str
    id: str | None = None
    before: Any = None
    after: Any = None


class AuditLog:
    """Appends lines to a file, which several processes can share.

    The file is opened for each record: one that was moved away is made anew.
    """

    def __init__(self, file: Path | None) -> None:
        """Write to a file; with None nothing is written. Raises AuditLogError if it cannot be written to."""
        self._file = file
        if file is not None:
            try:
                _append(file, b"")
            except OSError as error:
                raise AuditLogError(f"{error.strerror}: {file}") from error

    @property
    def is_on(self) -> bool:
        """Whether anything is written."""
        return self._file is not None

    async def record(self, actor: Actor, changes: Sequence[Change]) -> None:
        """Write changes; when this returns, the system has them, and the end of this process loses none.

        Raises AuditLogUnavailable if they cannot be written; the log of the service has them then.
        """
        if self._file is None or not changes:
            return
        lines = _lines(actor, changes)
        try:
            await asyncio.to_thread(_append, self._file, lines)
        except OSError as error:
            telemetry.audit_failed(error, lines.decode())
            raise AuditLogUnavailable("This was done, but could not be written to the audit log.") from error

    def record_command(self, actor: Actor, changes: Sequence[Change]) -> None:
        """Write the changes of a command. Raises AuditLogError."""
        try:
            if self._file is not None:
                _append(self._file, _lines(actor, changes))
        except OSError as error:
            raise AuditLogError(f"{error.strerror}: {self._file}") from error


class LogPage(NamedTuple):
    """Changes of the log, the newest first."""

    changes: list[dict[str, Any]]
    cursor: str | None
    """For the next page, None on the last."""


def read_page(file: Path, limit: int, cursor: str | None) -> LogPage | None:
    """Return the changes before a cursor, by default the newest; None if the file was replaced since the cursor.

    At most `MAX_PAGE_BYTES` are read, so that a page may hold fewer than `limit`. Raises OSError.
    """
    with file.open("rb") as log:
        status = os.fstat(log.fileno())
        inode, end = (status.st_ino, status.st_size) if cursor is None else map(int, cursor.split("-"))
        if inode != status.st_ino or end > status.st_size:
            return None
        start = max(0, end - MAX_PAGE_BYTES)
        log.seek(start)
        lines = log.read(end - start).splitlines(keepends=True)
    if start and lines:
        lines.pop(0)  # of which only a part was read
    changes: list[dict[str, Any]] = []
    while lines and len(changes) < limit:
        line = lines.pop()
        end -= len(line)
        if (change := _change(line)) is not None:
            changes.append(change)
    is_last = not end or (not changes and not lines)
    return LogPage(changes, None if is_last else f"{inode}-{end}")


def _change(line: bytes) -> dict[str, Any] | None:
    """Return what a line says, None for one that is being written or is damaged."""
    try:
        change = from_json(line)
    except ValueError:
        return None
    return change if isinstance(change, dict) and {"time", "what"} <= change.keys() else None


def _lines(actor: Actor, changes: Sequence[Change]) -> bytes:
    who = {name: value for name, value in actor._asdict().items() if value is not None}
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return b"".join(to_json({"time": time, **who, **change._asdict()}) + b"\n" for change in changes)


def _append(file: Path, lines: bytes) -> None:
    """Append lines. Raises OSError, also if only a part could be written; the next lines then begin a new line."""
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # a line that is being written would look like a part of one
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if lines and end and os.pread(descriptor, 1, end - 1) != b"\n":
            lines = b"\n" + lines
        if os.write(descriptor, lines) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)
