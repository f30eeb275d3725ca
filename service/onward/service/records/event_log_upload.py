"""Upload closed files of an event log to an address, and erase users there."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from onward.bundle.storage import Address, ObjectStore, StorageError
from onward.service import telemetry
from onward.service.records.event_log import last_moment
from onward.service.records.event_log_erasure import Erasure, remove_lines, sessions_of, users_of
from onward.service.records.outage_log import OutageLog

UPLOAD_INTERVAL_S = 10.0


class EventLogUpload:
    """Moves the closed files of a folder, and of the folders of tenants in it, to an address.

    A file is deleted once it is uploaded, and not before, so that an outage or a restart loses nothing: the next upload
    of any process that works on the folder goes on. Files that are being written stay; see `EventLog`.
    """

    def __init__(self, spool: Path, address: Address) -> None:
        self._spool, self._address = spool, address
        self._outages = OutageLog("event log upload")

    async def run(self) -> None:
        """Upload all closed files, up to the first that fails."""
        with self._outages.writing(0):
            await asyncio.to_thread(self._upload_all)

    def _upload_all(self) -> None:
        files = sorted(_files_of(self._spool))
        telemetry.event_log_waits(sum(_size(file) for file in files))
        try:
            for file in files:
                self._upload(file)
        except StorageError as error:
            raise OSError(str(error)) from error
        finally:
            telemetry.event_log_waits(sum(_size(file) for file in files))

    def _upload(self, path: Path) -> None:
        """Upload a file and delete it, unless it is being written, or uploaded by another process."""
        try:
            file = path.open("r+b")
        except FileNotFoundError:
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if not _is_at(path, file.fileno()):
                return
            if os.fstat(file.fileno()).st_size:
                name = path.relative_to(self._spool).as_posix()
                ObjectStore(self._address).upload(path, name)
                telemetry.event_log_uploaded()
            if _is_at(path, file.fileno()):  # else a user was erased from it meanwhile: it is uploaded again
                path.unlink()


def erase_user_at(address: Address, user_id: str, *, key: str | None = None) -> Erasure:
    """Erase a user from the files at an address, one after another; see `erase_user`. Raises StorageError, OSError."""
    store, users = ObjectStore(address), users_of(user_id, key)
    names = sorted(found.name for found in store.list() if last_moment(found.name) is not None)
    sessions: set[object] = set()
    for name in names:
        if name.startswith("answers"):
            with _copy(store, name) as file:
                sessions |= sessions_of(users, [file])
    removed = 0
    for name in names:
        with _copy(store, name) as file:
            lines = remove_lines(file, users, sessions)
            if lines:
                store.upload(file, name)
            removed += lines
    return Erasure(removed, [])


def _files_of(spool: Path) -> Iterator[Path]:
    for folder in (spool, *(entry for entry in spool.iterdir() if entry.is_dir())):
        yield from (path for path in folder.iterdir() if last_moment(path.name) is not None)


def _size(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is still that of a path: another process may have deleted or replaced it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


@contextmanager
def _copy(store: ObjectStore, name: str) -> Iterator[Path]:
    with TemporaryDirectory(prefix="onward-log-") as folder:
        file = Path(folder) / name
        store.download(name, file)
        yield file
