"""Stamps: which bundles a worker has hashed already, so that the other workers of the service need not.

A stamp lies in a folder of the service's own. It names the digest, and for each file what the system changes when
somebody replaces or writes to it. See decision 53.
"""

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from onward.bundle.files.manifest import MANIFEST, BundleError, Manifest, check_files

STAMP_PREFIX, LOCK_PREFIX = ".verified-", ".verifying-"
LOCAL_FILE_SYSTEMS = frozenset({"btrfs", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
"""File systems whose files nobody changes without the times and inodes of this machine."""
TICK_NS = 20_000_000
"""More than the kernel's clock of file times lags behind: a file changed later than that has another time."""
SECOND_NS = 10**9
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Stamps:
    """The stamps of one service."""

    def __init__(self, root: Path) -> None:
        """`root`: a folder of mode 0700 that belongs to the user of this process; else no stamp is read or written."""
        self._root = root

    def verify(self, folder: Path, digest: str, manifest: Manifest) -> None:
        """Compare the hashes of all files of a bundle with its manifest, unless a stamp says that they were compared.

        A worker waits for another one that hashes the same bundle. Raises BundleError.
        """
        names = (MANIFEST, *manifest.files)
        try:
            if not self._is_private() or _state(folder, digest, names) is None:
                check_files(folder, manifest, hashes=True)
                return
            with ExitStack() as locked:
                with suppress(OSError):  # as without space: then each worker hashes
                    lock = locked.enter_context((self._root / f"{LOCK_PREFIX}{digest}").open("w"))
                    fcntl.flock(lock, fcntl.LOCK_EX)
                stamp = self._read(digest)
                if stamp is None or stamp != _state(folder, digest, names):
                    self._hash(folder, digest, manifest)
        except OSError as error:
            raise BundleError(f"{Path(str(error.filename or folder)).name}: {error.strerror}") from error

    def remove(self, digest: str) -> None:
        """Remove the stamp of a bundle, if there is one."""
        (self._root / f"{STAMP_PREFIX}{digest}").unlink(missing_ok=True)

    def _hash(self, folder: Path, digest: str, manifest: Manifest) -> None:
        """Compare hashes, and leave a stamp if nothing has changed meanwhile. Raises BundleError, OSError."""
        names = (MANIFEST, *manifest.files)
        is_settled = _wait_for_a_later_time(folder, names)
        before = _state(folder, digest, names)
        check_files(folder, manifest, hashes=True)
        if is_settled and before is not None and before == _state(folder, digest, names):
            with suppress(OSError):
                self._write(digest, before)

    def _is_private(self) -> bool:
        """Return whether nobody else can write to the folder of stamps."""
        try:
            status = self._root.lstat()
        except OSError:
            return False
        is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        return is_own and stat.S_IMODE(status.st_mode) == stat.S_IRWXU

    def _read(self, digest: str) -> bytes | None:
        """Return the stamp of a bundle, unless somebody else may have written it."""
        try:
            descriptor = os.open(self._root / f"{STAMP_PREFIX}{digest}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                is_own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
                return file.read() if is_own and not status.st_mode & WRITABLE_BY_OTHERS else None
        except OSError:
            return None

    def _write(self, digest: str, state: bytes) -> None:
        """Replace the stamp of a bundle. Raises OSError."""
        partial = self._root / f"{STAMP_PREFIX}{digest}.{os.getpid()}"
        try:
            partial.unlink(missing_ok=True)  # of a process that was killed
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
                file.write(state)
            partial.rename(self._root / f"{STAMP_PREFIX}{digest}")
        finally:
            partial.unlink(missing_ok=True)


def file_system(folder: Path) -> str | None:
    """Return the type of the file system that holds a folder, such as `ext4`; None if the system does not say."""
    mounts = []
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            place, _, kind = line.partition(" - ")
            mounts.append((Path(place.split()[4].replace("\\040", " ")), kind.split()[0]))
    real = folder.resolve()
    inside = [(len(place.parts), number) for number, (place, _) in enumerate(mounts) if real.is_relative_to(place)]
    return mounts[max(inside)[1]][1] if inside else None


def _state(folder: Path, digest: str, names: Iterable[str]) -> bytes | None:
    """Return the content of a stamp for files as they are now; None if they could change without another state.

    That is so for files that other users may write to, on file systems of other machines, and with times in seconds.
    """
    if file_system(folder) not in LOCAL_FILE_SYSTEMS:
        return None
    files = {}
    for name in names:
        try:
            status = (folder / name).lstat()
        except OSError:
            return None
        is_own = stat.S_ISREG(status.st_mode) and status.st_uid in (os.geteuid(), 0)
        if not is_own or status.st_mode & WRITABLE_BY_OTHERS or status.st_ctime_ns % SECOND_NS == 0:
            return None
        files[name] = (status.st_size, status.st_ino, status.st_dev, status.st_mtime_ns, status.st_ctime_ns)
    return json.dumps({"digest": digest, "files": files}, sort_keys=True).encode()


def _wait_for_a_later_time(folder: Path, names: Iterable[str]) -> bool:
    """Wait until a change of a file gives it another time; return whether it would, which a wrong clock prevents."""
    try:
        changed_ns = max((folder / name).lstat().st_ctime_ns for name in names)
    except OSError:
        return False
    if 0 <= (early_ns := changed_ns + TICK_NS - time.time_ns()) <= 2 * TICK_NS:
        time.sleep((early_ns + 1) / SECOND_NS)
    return time.time_ns() > changed_ns + TICK_NS
