"""Take turns at a folder of bundles: the lock that publishers hold while they change what is published there."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onward.bundle.files.manifest import BundleError

LOCK = ".lock"
LOCK_TIMEOUT_S = 30.0


@contextmanager
def publisher_lock(bundles: Path) -> Iterator[None]:
    """Hold the lock of `bundles`. Raises BundleError after `LOCK_TIMEOUT_S` of waiting, or if it cannot be written."""
    try:
        descriptor = os.open(bundles / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise BundleError(f"{LOCK}: {error.strerror} in {bundles}") from error
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    try:
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise BundleError(f"{LOCK}: another publisher has held it for {LOCK_TIMEOUT_S:.0f} s in {bundles}")
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def try_lock(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed or the process ends; return None if it is locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    if _lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def sync(path: Path) -> None:
    """Write what the system holds of a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
