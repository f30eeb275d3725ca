"""Errors in a user's input, which a command prints in one line."""

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """An error in a user's input: one line that names the file, row or field and says what to do.

    A command prints it and exits with code 2.
    """


class Diverged(InputError):
    """The loss or the weights of a fit are no longer finite numbers."""


class RankError(InputError):
    """What keeps one of several ranks from going on; the message begins with its number."""


class DiskFull(InputError):
    """What a command writes has no space."""


FULL_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "a file would exceed the largest size that is allowed (ulimit -f)",
}
"""What a failed write means, by error number."""
FEWEST_FREE_BYTES = 2**20
"""A disk with less than this is full, whatever a library says about a failed write."""


@contextmanager
def disk_faults(folder: Path) -> Iterator[None]:
    """Raise any error of the block that a full disk causes as DiskFull, which names `folder`."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        reason = _disk_fault(error, folder)
        if reason is None:
            raise
        raise DiskFull(f"{folder}: {reason}; free some space, then give the command again") from error


def _disk_fault(error: Exception, folder: Path) -> str | None:
    """Return what a full disk has to do with an error; libraries may keep its number to themselves."""
    link: BaseException | None = error
    while link is not None:
        for number, reason in FULL_DISK.items():
            if (isinstance(link, OSError) and link.errno == number) or os.strerror(number) in str(link):
                return reason
        link = link.__cause__ or link.__context__
    ended_early = isinstance(error, OSError) and error.errno is None  # as NumPy says it
    may_be_write = ended_early or isinstance(error, RuntimeError)
    if "disk is full" in str(error) or (may_be_write and _free_bytes(folder) < FEWEST_FREE_BYTES):
        return FULL_DISK[errno.ENOSPC]
    return f"a write ended early ({error})" if ended_early else None


def _free_bytes(folder: Path) -> int:
    existing = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    disk = os.statvfs(existing)
    return disk.f_bavail * disk.f_frsize


def described(error: BaseException, file: str = "") -> str:
    """Describe an error of foreign code in one line, with the place in `file` where it came from, or else any file."""
    text = (str(error).strip() or "no message").splitlines()[0]
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1] if frames else None)
    place = f" ({Path(frame.filename).name}, line {frame.lineno})" if frame else ""
    return f"{type(error).__name__}: {text}{'' if isinstance(error, SyntaxError) else place}"


@contextmanager
def bundle_faults(where: object) -> Iterator[None]:
    """Raise a BundleError of the block as an InputError that names the folder or address `where`."""
    from onward.bundle import BundleError

    try:
        yield
    except BundleError as error:
        raise InputError(f"{where}: {error}") from error
