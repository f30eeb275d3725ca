"""Releases: which bundle is live, by the folder of bundles and by what the store says to all replicas.

A replica may have the folder read-only, so that making a bundle live by REST is a record in the store, under one name
of a versioned store. It applies over the bundle that the folder had live when it was written: as soon as somebody moves
`current`, which a holder of the folder does to carry the record out, the folder says again what is live.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from onward.bundle import Author, Bundle, BundleError, GateReport, PublishedBundles, activate, gate_fault
from onward.bundle.files.manifest import MANIFEST
from onward.bundle.jobs import JobKind, new_job
from onward.bundle.mirror import mirror_state
from onward.bundle.release_record import ReleaseRecord
from onward.bundle.releases import (
    DEFAULT_RETENTION,
    Conflict,
    Release,
    list_releases,
    protect,
    releases_version,
    removal_fault,
    remove,
    rollback_target,
)
from onward.service.errors import BundleNotFound, GateNotPassed, PreconditionFailed, ReleaseRefused, ServiceError
from onward.service.live.jobs import Jobs
from onward.service.live.replica import Edited, Replica, open_replica
from onward.service.live.versioned_store import Entry
from onward.service.redis_client import RedisClient

STORE, LIVE = "releases", "live"
"""Name of the versioned store, and the only name in it."""

Precondition = Callable[[str], bool]
"""Whether the version of the releases is one that the caller has seen."""


class Activation(BaseModel):
    """A bundle that was made live by REST, as it is stored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bundle: str
    time: AwareDatetime
    by: str | None = None
    reason: str | None = None
    overridden: str | None = None
    before: str | None
    """The bundle that was live in effect."""
    over: str | None
    """The bundle that `current` linked to."""
    over_activated: AwareDatetime | None
    """When that one had gone live by its record: it applies no more when the same bundle is made live again."""

    @classmethod
    def of(cls, entry: Entry | None) -> Self | None:
        """Return the activation of an entry, None if there is none or another version of the service wrote it."""
        if entry is None or entry.value is None:
            return None
        with suppress(ValidationError):
            return cls.model_validate(entry.value)
        return None


class LiveRelease(NamedTuple):
    """The bundle that is to serve, and since when."""

    digest: str
    activated: datetime | None
    """None if there is no record."""


class ReleaseList(NamedTuple):
    """All releases of the folder, which of them is live in effect, and their version."""

    releases: list[Release]
    live: str | None
    version: str

    def state(self, release: Release) -> Literal["staged", "live", "retired", "removed"]:
        """Return the state of a release in effect."""
        if release.digest == self.live:
            return "live"
        return "retired" if release.state == "live" else release.state


class Releases:
    """A worker's view of the releases, and the changes of them that callers ask for."""

    def __init__(self, bundles: Path, replica: Replica, jobs: Jobs) -> None:
        """Look at a folder of bundles, and at the activation in a store.

        What this process may not do in the folder is put into `jobs`, for a worker.
        """
        self._jobs = jobs
        self.bundles = bundles
        self._published = PublishedBundles(bundles)
        self._replica = replica

    async def follow(self) -> None:
        """Read what other workers changed. A failure is logged, not raised."""
        await self._replica.follow()

    def current(self) -> LiveRelease | None:
        """Return the bundle that is to serve, None if none was published; reads files. Raises BundleError.

        A bundle of the store that this folder does not have is passed over; see `missing`.
        """
        linked = self._linked()
        activation = self._activation_over(linked)
        if activation is None or not self._has(activation.bundle):
            return linked
        return LiveRelease(activation.bundle, activation.time)

    def missing(self) -> str | None:
        """Return the bundle that the store makes live and this folder does not have, None if there is none."""
        activation = self._activation_over(self._linked())
        return None if activation is None or self._has(activation.bundle) else activation.bundle

    async def read(self) -> ReleaseList:
        """Return all releases as they are now. Raises ReleaseRefused if the folder cannot be read."""
        await self._replica.follow()
        return await asyncio.to_thread(self._list)

    async def find(self, digest: str) -> tuple[Release, ReleaseList]:
        """Return a release by its digest or the beginning of it. Raises BundleNotFound, ReleaseRefused."""
        found = await self.read()
        return _only(digest, found), found

    async def activate(self, digest: str, author: Author, *, force: bool, precondition: Precondition) -> Edited:
        """Make a bundle live for all replicas; return the digests that were live before and are now.

        Raises BundleNotFound, GateNotPassed, ReleaseRefused, PreconditionFailed, LiveStoreUnavailable.
        """
        release, found = await self.find(digest)
        fault = None
        if found.state(release) == "staged":
            with _refusals():
                fault = await asyncio.to_thread(gate_fault, self.bundles, release.digest, live=found.live)
        if fault is not None and not force:
            raise GateNotPassed(f"It may not go live: {fault}.")
        return await self._go_live(release.digest, author, precondition, overridden=fault)

    async def roll_back(self, author: Author, *, precondition: Precondition) -> Edited:
        """Make the bundle live again that was live before; see `activate`."""
        found = await self.read()
        activation = Activation.of(self._replica.entries.get(LIVE))
        if activation is not None and activation.bundle == found.live and activation.before is not None:
            target = activation.before
        else:
            with _refusals():
                target = rollback_target(found.releases).digest
        return await self._go_live(target, author, precondition, is_rollback=True)

    async def protect(self, digest: str, author: Author, *, protected: bool, precondition: Precondition) -> Release:
        """Protect a bundle from being removed, or end that. Raises as `activate`."""
        release, found = await self.find(digest)
        _require(precondition, found.version)
        version = releases_version(found.releases)

        def change() -> None:
            protect(self.bundles, release.digest, protected=protected, author=author, version=version)

        await self._changed(change, "protect" if protected else "unprotect", release.digest, author)
        return (await self.find(release.digest))[0]

    async def remove(self, digest: str, author: Author, *, precondition: Precondition) -> Release:
        """Remove a bundle for good. Raises as `activate`."""
        release, found = await self.find(digest)
        _require(precondition, found.version)
        fault = removal_fault(release, DEFAULT_RETENTION.recent)
        if fault is not None or found.state(release) == "live":
            raise ReleaseRefused(f"It {fault or 'is live: make another one live first'}.")
        version = releases_version(found.releases)
        change = partial(remove, self.bundles, release.digest, author=author, version=version)
        await self._changed(change, "remove", release.digest, author)
        return (await self.find(release.digest))[0]

    async def close(self) -> None:
        """Close the connection to the store."""
        await self._replica.close()

    @property
    def is_writable(self) -> bool:
        """Whether this process may change the folder itself."""
        if (self.bundles / MANIFEST).exists() or mirror_state(self.bundles) is not None:
            return False
        return os.access(self.bundles, os.W_OK)

    async def _go_live(
        self,
        digest: str,
        author: Author,
        precondition: Precondition,
        *,
        overridden: str | None = None,
        is_rollback: bool = False,
    ) -> Edited:
        """Store which bundle is live, then make it live in the folder too if this process may write there."""
        if (self.bundles / MANIFEST).exists():
            raise ReleaseRefused("The service serves a single bundle, by its own folder.")
        with _refusals():
            await asyncio.to_thread(Bundle.load, self.bundles / digest)
        before: str | None = None

        def edit(_stored: Entry | None) -> Any:
            nonlocal before
            found = self._list()  # by what the store holds now
            _require(precondition, found.version)
            before = found.live
            over = self._published.current()
            return Activation(
                bundle=digest,
                time=datetime.now(UTC),
                by=author.by,
                reason=author.reason,
                overridden=overridden,
                before=before,
                over=over,
                over_activated=None if over is None else self._activated(over),
            ).model_dump(mode="json", exclude_none=False)

        result = (await self._replica.update({LIVE: edit}))[LIVE]
        if isinstance(result, ServiceError):
            raise result
        if self.is_writable or self._jobs.is_on:
            change = partial(
                activate,
                self.bundles,
                digest,
                author=author,
                overridden=overridden,
                is_rollback=is_rollback,
                retention=None,
            )
            await self._changed(change, "activate", digest, author, overridden=overridden, rollback=is_rollback)
        return Edited(before, digest)

    async def _changed(
        self, change: Callable[[], None], kind: JobKind, digest: str, author: Author, **options: bool | str | None
    ) -> None:
        """Change the folder, or have a worker do it if this process may not write there."""
        if not self.is_writable:
            if not self._jobs.is_on:
                raise ReleaseRefused("The service may not write to the folder of bundles; use the commands.")
            await self._jobs.enqueue(new_job(kind, {"bundle": digest, **options}, by=author.by, reason=author.reason))
            return
        with _refusals():
            await asyncio.to_thread(change)

    def _list(self) -> ReleaseList:
        with _refusals():
            releases, current = list_releases(self.bundles), self.current()
            live = None if current is None else current.digest
            entry = self._replica.entries.get(LIVE)
            facts = f"{releases_version(releases)} {live} {0 if entry is None else entry.sequence}"
            return ReleaseList(releases, live, hashlib.sha256(facts.encode()).hexdigest()[:16])

    def _linked(self) -> LiveRelease | None:
        """Return the bundle that the folder has live. Raises BundleError."""
        digest = self._published.current()
        return None if digest is None else LiveRelease(digest, self._activated(digest))

    def _activation_over(self, linked: LiveRelease | None) -> Activation | None:
        """Return what the store makes live, None if the folder has changed since it did."""
        activation = Activation.of(self._replica.entries.get(LIVE))
        if activation is None or linked != (activation.over, activation.over_activated):
            return None
        return activation

    def _has(self, digest: str) -> bool:
        return (self._published.folder(digest) / MANIFEST).exists()

    def _activated(self, digest: str) -> datetime | None:
        """Return when a bundle went live by its record, None without one; a damaged one counts as none."""
        with suppress(BundleError):
            record = ReleaseRecord.read(self.bundles, digest)
            event = None if record is None else record.last("activated")
            return None if event is None else event.time
        return None


def gate_report(bundles: Path, digest: str) -> GateReport | None:
    """Return the report of the gate on a bundle, None if there is none that can be read."""
    with suppress(BundleError):
        return GateReport.read(bundles, digest)
    return None


def open_releases(bundles: Path, redis: RedisClient | None, jobs: Jobs | None = None) -> Releases:
    """Open the releases of a folder and of a server, or of the folder and this process alone if there is none."""
    return Releases(bundles, open_replica(redis, STORE, max_names=1), jobs or Jobs(None))


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise what the folder refuses as an error of the service."""
    try:
        yield
    except Conflict as error:
        raise PreconditionFailed(f"{error}.") from error
    except BundleError as error:
        raise ReleaseRefused(f"{error}.") from error
    except OSError as error:
        raise ReleaseRefused(f"The folder of bundles cannot be read or changed: {error.strerror}.") from error


def _only(digest: str, found: ReleaseList) -> Release:
    matching = [release for release in found.releases if release.digest.startswith(digest)]
    if len(matching) != 1:
        raise BundleNotFound("Several bundles begin so." if matching else "No bundle has this digest.")
    return matching[0]


def _require(precondition: Precondition, version: str) -> None:
    if not precondition(version):
        raise PreconditionFailed("The releases have changed since they were read; look again.")
