"""Mirror: keeps a folder of bundles on this machine like those of an address, for services that watch the folder.

A bundle is fetched beside the others and verified before `current` moves to it. Whatever fails, the folder stays as it
is. The file `.pull.json` says of which address the folder is a mirror and what is wrong, if anything; it is touched
after each look at the address that succeeded.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from onward.bundle.data_report import data_file
from onward.bundle.files.manifest import BundleError
from onward.bundle.gate_report import report_file
from onward.bundle.published import CURRENT, current_digest
from onward.bundle.publisher_lock import sync
from onward.bundle.release_record import record_file
from onward.bundle.release_state import ReleaseState, write_documents
from onward.bundle.releases import published, replace_current
from onward.bundle.remote_bundles import RemoteBundles
from onward.bundle.storage import Address, Missing, StorageError, Version

STATUS = ".pull.json"
LOCK = ".pull.lock"
PARTIAL_PREFIX = ".pulling-"
KEEP = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Time between two attempts to fetch one bundle, twice as long after each that failed."""


class MirrorError(Exception):
    """The folder cannot be a mirror; the message is one line."""


class PullProblem(BaseModel):
    """What keeps a mirror from being like its address."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bundle: str
    """Digest of the bundle that was refused, or `current` if the address cannot be read."""
    reason: str


class PullStatus(BaseModel):
    """The content of `.pull.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    address: str
    problem: PullProblem | None = None


class MirrorState(NamedTuple):
    """What is known of a mirror."""

    status: PullStatus
    read_at: datetime
    """When the address was read last."""


class Pulled(NamedTuple):
    """What one look at the address has led to."""

    bundle: str | None = None
    """Digest of a bundle that went live in the folder."""
    seconds: float = 0.0
    problem: PullProblem | None = None


class Mirror:
    """A folder that follows an address. It is held by a lock while `held`."""

    def __init__(self, address: Address, folder: Path, *, keep: int = KEEP) -> None:
        """Follow `address` in `folder`, where the last `keep` bundles stay that were live."""
        self.address, self.folder = address, folder
        self._keep = keep
        self._remote: RemoteBundles | None = None
        self._version: Version | None = None
        self._wanted: ReleaseState | None = None
        """What is still to be done: the state that was read last."""
        self._pause_s = FIRST_PAUSE_S
        self._not_before_s = 0.0
        self._status: PullStatus | None = None
        self._problem: PullProblem | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder. Raises MirrorError if another process does, or bundles are published there."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(self.folder / CURRENT) and not (self.folder / STATUS).exists():
                raise MirrorError(f"{self.folder}: bundles are published there; pull into another folder")
            lock = (self.folder / LOCK).open("w")
        except OSError as error:
            raise MirrorError(f"{self.folder}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise MirrorError(f"{self.folder}: another process pulls into it") from error
            self._write(PullStatus(address=str(self.address)), was_read=False)
            yield

    @property
    def live(self) -> str | None:
        """The bundle that is live in the folder."""
        with suppress(BundleError):
            return current_digest(self.folder)
        return None

    def pull(self) -> Pulled:
        """Look at the address once, and make the folder like it."""
        started_s, bundle, problem, was_read = time.monotonic(), None, None, False
        try:
            self._read()
        except (StorageError, BundleError) as error:
            problem = PullProblem(bundle=CURRENT, reason=f"{error}. The bundle serves on")
        else:
            was_read = True
            if self._wanted is None:
                self._problem = None
            elif time.monotonic() >= self._not_before_s:
                bundle, self._problem = self._follow(self._wanted)
            problem = self._problem
        with suppress(OSError):
            self._write(PullStatus(address=str(self.address), problem=problem), was_read=was_read)
        return Pulled(bundle, time.monotonic() - started_s, problem)

    def _read(self) -> None:
        """Read the state of the address, if it has changed."""
        if self._remote is None:
            self._remote = RemoteBundles(self.address)
        try:
            found = self._remote.read_if_changed(self._version)
        except Missing as error:
            if self._version is not None or "NoSuchBucket" in str(error):
                raise
            return  # nothing has been published yet
        if found is not None:
            self._wanted, self._version = found.state, found.version
            self._pause_s, self._not_before_s = FIRST_PAUSE_S, 0.0

    def _follow(self, state: ReleaseState) -> tuple[str | None, PullProblem | None]:
        """Make the folder like a state; return the bundle that went live by that, and what went wrong."""
        before, digest = self.live, state.live
        try:
            if digest is not None:
                self._fetch(digest, state)
            self._note(state)
            if digest is not None and digest != before:
                replace_current(self.folder, digest)
                sync(self.folder)
            self._prune(state)
        except (StorageError, BundleError, OSError) as error:
            self._not_before_s = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return None, PullProblem(bundle=digest or CURRENT, reason=reason)
        self._wanted = None
        return (digest if digest != before else None), None

    def _fetch(self, digest: str, state: ReleaseState) -> None:
        """Fetch a bundle that is not in the folder yet."""
        for partial in self.folder.glob(f"{PARTIAL_PREFIX}*"):
            if partial.name != f"{PARTIAL_PREFIX}{digest}":
                shutil.rmtree(partial, ignore_errors=True)
        if not (self.folder / digest).exists() and self._remote is not None:
            partial = self.folder / f"{PARTIAL_PREFIX}{digest}"
            self._remote.fetch(digest, partial)
            for file in partial.iterdir():
                file.chmod(0o444)  # see `publication`
                sync(file)
            sync(partial)
            partial.rename(self.folder / digest)
        touched_ns = state.bundles[digest].touched_ns if digest in state.bundles else time.time_ns()
        os.utime(self.folder / digest, ns=(touched_ns, touched_ns))

    def _note(self, state: ReleaseState) -> None:
        """Write what is known of the bundles that are in the folder."""
        for bundle in published(self.folder):
            if bundle.name in state.bundles:
                write_documents(self.folder, bundle.name, state.bundles[bundle.name])

    def _prune(self, state: ReleaseState) -> None:
        """Remove all but the newest bundles. Services that have mapped a removed one go on to use it."""
        others = [bundle for bundle in published(self.folder) if bundle.name != state.live]
        for bundle in others[self._keep - 1 :]:
            removed = bundle.rename(self.folder / f"{PARTIAL_PREFIX}{bundle.name}")
            shutil.rmtree(removed, ignore_errors=True)
            for document in (record_file, report_file, data_file):
                document(self.folder, bundle.name).unlink(missing_ok=True)

    def _write(self, status: PullStatus, *, was_read: bool) -> None:
        """Write the status if it has changed. The time of its file is when the address was read last."""
        file = self.folder / STATUS
        if status != self._status or not file.exists():
            read_ns = file.stat().st_mtime_ns if file.exists() else 0
            partial = self.folder / f"{STATUS}.partial"
            partial.write_text(status.model_dump_json(exclude_none=True) + "\n", encoding="utf-8")
            os.utime(partial, ns=(read_ns, read_ns))
            os.replace(partial, file)
            self._status = status
        if was_read:
            os.utime(file)


def mirror_state(folder: Path) -> MirrorState | None:
    """Return what is known of a mirror, None if the folder is none."""
    try:
        with (folder / STATUS).open("rb") as file:
            status = PullStatus.model_validate_json(file.read())
            return MirrorState(status, datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC))
    except (OSError, ValidationError):
        return None
