"""PrivateCopies: copies of bundles that no other program changes, which the workers of a service share.

Bundles are mapped, so that workers share their memory. But the system kills a process (SIGBUS) that reads a mapped file
which somebody has truncated, as `cp`, `rsync --inplace` or a file server may do. See decision 30.
"""

import errno
import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from onward.bundle.files.manifest import MANIFEST, BundleError, FileEntry, check_files, read_manifest
from onward.bundle.memory import available_memory
from onward.service import telemetry
from onward.service.live.stamps import Stamps, file_system
from onward.service.temporary_folder import temporary_folder

COPIES_FOLDER = "ONWARD_BUNDLE_COPIES"
"""Environment variable that tells workers the folder of `copies_folder`."""
PREFIX = "onward-bundles-"
LOCK_PREFIX, PARTIAL_PREFIX = ".lock-", ".partial-"
FICLONE = 0x40049409
"""Request to the file system to let two files share their blocks until one of them is written to."""
RESERVED_BYTES = 256 * 2**20
"""Space that a copy leaves free."""
MEMORY_SHARE = 0.5
"""Part of the available memory that a copy may take if the temporary folder is in memory."""


class _LockedCopy(NamedTuple):
    """A copy, and the descriptor of the lock that keeps it."""

    folder: Path
    lock: int


class PrivateCopies:
    """The copies of one service, made by the worker that needs one first, hashed by the first that serves it."""

    def __init__(self, root: Path, *, copying: bool = True) -> None:
        """`root`: that of `copies_folder`. Without `copying`, the published folders are yielded, verified as copies."""
        self._root = root
        self._copying = copying
        self._stamps = Stamps(root)

    @contextmanager
    def of(self, folder: Path, *, verify: bool) -> Iterator[Path]:
        """Yield a copy of a published bundle, to be loaded in this block; it is removed if that fails.

        If no copy can be made, as without space, the published folder is yielded, with a warning in the log. With
        `verify`, what is yielded has the hashes of its manifest; a stamp may say so. Raises BundleError.
        """
        manifest, digest = read_manifest(folder)
        check_files(folder, manifest, hashes=False)
        with ExitStack() as locked:
            copy = self._copy_of(folder, digest, manifest.files, locked) if self._copying else None
            served = folder.resolve() if copy is None else copy.folder
            try:
                if verify:
                    self._stamps.verify(served, digest, manifest)
                yield served
            except BundleError:
                if copy is not None:
                    fcntl.flock(copy.lock, fcntl.LOCK_EX)  # others that wait to hash it find the fault by themselves
                    shutil.rmtree(copy.folder, ignore_errors=True)
                raise

    def prune(self, *kept: str) -> None:
        """Remove all copies but those of some digests; those that another worker is loading stay.

        Workers that have mapped a removed copy go on to use it.
        """
        for lock_file in self._root.glob(f"{LOCK_PREFIX}*"):
            digest = lock_file.name.removeprefix(LOCK_PREFIX)
            if digest not in kept:
                with lock_file.open("w") as lock, suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(self._root / digest, ignore_errors=True)
                    self._stamps.remove(digest)

    def _copy_of(
        self, folder: Path, digest: str, files: Mapping[str, FileEntry], locked: ExitStack
    ) -> _LockedCopy | None:
        """Return a copy that is held until `locked` is closed; None, with a warning, if there can be none."""
        try:
            lock = locked.enter_context((self._root / f"{LOCK_PREFIX}{digest}").open("w"))
            self._provide(self._root / digest, folder, files, lock.fileno())
        except OSError as error:
            telemetry.bundle_not_copied(digest, error.strerror or str(error))
            return None
        return _LockedCopy(self._root / digest, lock.fileno())

    def _provide(self, copy: Path, folder: Path, files: Mapping[str, FileEntry], lock: int) -> None:
        """Make the copy, unless another worker has, and hold a shared lock on it. Raises OSError."""
        fcntl.flock(lock, fcntl.LOCK_SH)
        while not copy.exists():  # another worker may remove it before the lock is a shared one again
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                self._make(copy, folder, files)
            fcntl.flock(lock, fcntl.LOCK_SH)

    def _make(self, copy: Path, folder: Path, files: Mapping[str, FileEntry]) -> None:
        """Copy the files of a bundle, all or none. Raises OSError."""
        _require_space(self._root, sum(entry.size for entry in files.values()))
        partial = self._root / f"{PARTIAL_PREFIX}{copy.name}"
        shutil.rmtree(partial, ignore_errors=True)  # of a worker that was killed
        try:
            partial.mkdir(mode=0o700)
            for name in (MANIFEST, *files):
                _copy(folder / name, partial / name)
            partial.rename(copy)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def copies_folder(*, copying: bool) -> Iterator[Path | None]:
    """Create a private folder for copies and stamps, removed in the end; None if that is impossible.

    With `copying`, that is told by a warning. Folders of services that were killed are removed.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(PREFIX))
        except OSError as error:
            if copying:
                telemetry.bundle_not_copied(None, error.strerror or str(error))
            yield None
        else:
            yield folder


def _copy(source: Path, target: Path) -> None:
    """Copy a file, by sharing its blocks where the file system can."""
    with source.open("rb") as original, target.open("xb") as copy:
        try:
            fcntl.ioctl(copy, FICLONE, original.fileno())
        except OSError:
            shutil.copyfile(source, target)
    target.chmod(0o400)


def _require_space(root: Path, size: int) -> None:
    """Raise OSError if a copy of this size would leave too little space on the disk or in memory."""
    available = shutil.disk_usage(root).free - RESERVED_BYTES
    if _is_in_memory(root):
        available = min(available, int(MEMORY_SHARE * available_memory()))
    if size > available:
        raise OSError(errno.ENOSPC, f"a copy of {size} bytes does not fit into {root}, where {available} may be used")


def _is_in_memory(folder: Path) -> bool:
    """Return whether a folder lies on a tmpfs."""
    return file_system(folder) in ("tmpfs", "ramfs")
