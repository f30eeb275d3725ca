"""Locks of run and study folders: one process works on what a lock stands for.

A lock is an advisory lock (flock) of a file that names its holder. The system releases it when the process ends,
however it ends, so that the file of a killed process hinders nobody.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from onward.training.errors import InputError

LOCK = ".lock"


@contextmanager
def locked(folder: Path, advice: str) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises InputError, with what the caller may do (`advice`), if another process holds it, which is named.
    """
    lock = try_lock(folder / LOCK)
    if lock is None:
        raise InputError(f"{folder}: is in use by {holder(folder / LOCK)}; {advice}")
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def wait_for_lock(file: Path) -> Iterator[None]:
    """Hold the lock of a file, once the others have released it."""
    descriptor = _open(file)
    try:
        _flock(file, descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(file: Path) -> int | None:
    """Lock a file until the returned descriptor is closed or the process ends; return None if it is locked."""
    descriptor = _open(file)
    try:
        _flock(file, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(file: Path) -> bool:
    """Return whether a process holds the lock of a file."""
    if not file.exists():
        return False
    lock = try_lock(file)
    if lock is not None:
        os.close(lock)
    return lock is None


def holder(file: Path) -> str:
    """Return the name of the process that holds the lock of a file."""
    return file.read_text(encoding="utf-8", errors="replace").strip() or "another process"


def _open(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT, 0o644)


def _flock(file: Path, descriptor: int, operation: int) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        raise InputError(
            f"{file}: cannot be locked ({error.strerror}); name a folder of another file system"
        ) from error
