"""Temporary folders of a running service, which a later service removes if this one was killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Create a private folder, which is removed in the end; remove those of the same prefix that nobody holds any more.

    A process holds its folder by a lock, which the system releases when the process ends, however that happens.
    `parent`: TMPDIR by default. Raises OSError.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_abandoned(prefix, parent)
    folder, lock = _locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Create a folder and lock it. Another service may take it for abandoned before it is locked; then try again."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if folder.exists():
                    return folder, lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)


def remove_abandoned(prefix: str, parent: Path | None = None) -> None:
    """Remove the folders of a prefix that nobody holds any more."""
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{prefix}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
