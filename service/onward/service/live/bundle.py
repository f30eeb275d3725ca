"""LiveBundle: notice a newly published bundle, verify it, and swap it in atomically."""

import asyncio
import gc
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from onward.bundle import Bundle, BundleError, KernelUnavailable, PublishedBundles, read_manifest
from onward.bundle.files.manifest import check_files
from onward.bundle.mirror import mirror_state
from onward.bundle.published import CURRENT
from onward.service import telemetry
from onward.service.errors import NotReady
from onward.service.live.bundle_ids import BundleIds
from onward.service.live.catalog import LiveCatalog
from onward.service.live.private_copies import PrivateCopies
from onward.service.live.releases import Releases, gate_report, open_releases
from onward.service.live.versioned_store import Entry


@dataclass(frozen=True, slots=True)
class Refusal:
    """A bundle that was refused, and why."""

    digest: str
    reason: str


class ReleaseStatus(NamedTuple):
    """Since when the serving bundle is live, and what the gate said."""

    activated: datetime | None = None
    gate_passed: bool | None = None
    gate_time: datetime | None = None


class _Seen(NamedTuple):
    """What was found at a check: the current bundle, and the state of its files."""

    digest: str
    activated: datetime | None
    missing: str | None
    """A bundle that was made live, but is not in this folder."""
    files: frozenset[tuple[str, int, int, int, int]]
    """Name, inode, mode, size and time of change in ns of each file."""


class LiveBundle:
    """The bundle that serves, replaced when the `current` link moves and when the live catalog changes.

    A request reads `bundle` once, so that no answer mixes two bundles. A new bundle is loaded and verified in a thread.
    If it is refused, the previous one continues to serve, and loading is not tried again until `current` moves or the
    files of the refused one change. Files of the serving bundle that change are reported; it continues to serve.
    """

    def __init__(
        self,
        bundles: Path,
        catalog: LiveCatalog | None = None,
        ids: BundleIds | None = None,
        copies: PrivateCopies | None = None,
        releases: Releases | None = None,
    ) -> None:
        """Serve the current bundle of a folder.

        Args:
            bundles: the folder of bundles, or that of a single bundle.
            catalog: the live catalog whose changes apply.
            ids: is told each bundle.
            copies: makes the files to load; None to hash and load the published ones, which must then never change.
            releases: say which bundle is live; by default the folder alone does, and the store has no say.
        """
        self._releases = releases or open_releases(bundles, None)
        self._published = PublishedBundles(bundles)
        self._copies = copies
        self._catalog = catalog
        self._ids = ids
        self._exported: Bundle | None = None
        self._bundle: Bundle | None = None
        self._previous: Bundle | None = None
        self._changes: Mapping[str, Entry] | None = None
        self._lock = asyncio.Lock()
        self._last_seen: _Seen | None = None
        self._is_missing = False
        """Whether the last check has found no published bundle."""
        self._pull_refusal: Refusal | None = None
        self._refreshing = asyncio.Lock()
        self.refusal: Refusal | None = None
        self.status = ReleaseStatus()
        self.is_known = asyncio.Event()
        """Set once a bundle serves, or it is known why none does."""

    @property
    def bundle(self) -> Bundle:
        """The serving bundle, with the live catalog's changes. Raises NotReady."""
        if self._bundle is None:
            raise NotReady(self._not_ready_reason())
        return self._bundle

    async def of(self, digest: str) -> Bundle | None:
        """Return the published bundle of a digest, with the live catalog's changes; None if it is gone.

        An answer of an earlier bundle is explained by that bundle. The one that was loaded last is cached, as exported.
        """
        if self.bundle.digest == digest:
            return self.bundle
        if self._previous is None or self._previous.digest != digest:
            try:
                self._previous = await asyncio.to_thread(self._open, digest, verify=False)
            except BundleError:
                return None
            if self._copies is not None:
                await asyncio.to_thread(self._copies.prune, self.bundle.digest, digest)
        if self._previous.digest != digest or not self._published.folder(digest).exists():
            return None
        if self._catalog is None:
            return self._previous
        return await asyncio.to_thread(self._catalog.applied_once, self._previous)

    async def refresh(self) -> None:
        """Check the current bundle once; load it if it is another one, and report it if its files have changed."""
        async with self._refreshing:
            try:
                await self._releases.follow()
                await self._report_pull()
                seen = await asyncio.to_thread(self._look)
                self._report_missing(is_missing=seen is None)
                if seen is not None and seen != self._last_seen:
                    await self._load(seen.digest)
                    await self._report_status(seen)
                self._last_seen = seen
            except BundleError as error:
                self._refuse(CURRENT, str(error))
                self._last_seen = None
            telemetry.bundle_checked()

    async def follow_catalog(self) -> None:
        """Send and read changes of the live catalog once, and apply them to the serving bundle."""
        if self._catalog is not None:
            await self._catalog.flush()
            await self._catalog.follow()
            await self.take_changes()

    async def take_changes(self) -> None:
        """Apply the changes of the live catalog that this process knows; they are served when this returns."""
        async with self._lock:
            if self._catalog is not None and self._exported is not None and self._changes is not self._catalog.entries:
                await self._serve(self._exported)

    async def _serve(self, exported: Bundle) -> None:
        """Swap in a bundle with the live catalog's changes, which are applied in a thread."""
        bundle = exported
        if self._catalog is not None:
            changes = self._catalog.entries
            bundle = await asyncio.to_thread(self._catalog.applied_to, exported)
            self._changes = changes
        self._exported, self._bundle = exported, bundle
        self.is_known.set()
        if self._ids is not None:
            self._ids.serve(bundle)

    async def _load(self, digest: str) -> None:
        if self._bundle is not None and self._bundle.digest == digest:  # moved back from another one, or changed
            await self._check_again(digest)
            return
        started = time.perf_counter()
        try:
            bundle = await asyncio.to_thread(self._open, digest)
        except BundleError as error:
            self._refuse(digest, str(error))
            return
        if self._catalog is not None:
            await self._catalog.follow()  # so that no deleted item is shown before the first periodic read
            await asyncio.to_thread(self._catalog.prepare, bundle)  # meanwhile changes of the serving bundle apply
        async with self._lock:
            await self._serve(bundle)
        self.refusal = None
        _freeze()
        telemetry.bundle_live(digest, bundle.manifest.model, bundle.manifest.items, time.perf_counter() - started)
        await asyncio.to_thread(bundle.index.touch)
        await asyncio.to_thread(bundle.catalog.make_columns)  # before the first filter or new item needs them
        await asyncio.to_thread(self._accelerate, bundle)
        if self._copies is not None:
            await asyncio.to_thread(self._copies.prune, digest)
        _freeze()

    async def _check_again(self, digest: str) -> None:
        """Compare the published files of the serving bundle with its manifest."""
        folder = self._published.folder(digest)
        try:
            await asyncio.to_thread(lambda: check_files(folder, read_manifest(folder)[0], hashes=True))
        except BundleError as error:
            self._refuse(digest, f"{error}. The bundle serves on as it was loaded")
        else:
            self.refusal = None

    async def _report_pull(self) -> None:
        """Report what keeps the folder from being like its address, if it is pulled from one."""
        pulled = await asyncio.to_thread(mirror_state, self._published.path)
        if pulled is None:
            return
        telemetry.bundles_read(pulled.read_at)
        if (problem := pulled.status.problem) is not None:
            self._refuse(problem.bundle, problem.reason)
            self._pull_refusal = self.refusal
        elif self.refusal is not None and self.refusal == self._pull_refusal:
            self.refusal = self._pull_refusal = None

    def _look(self) -> _Seen | None:
        current = self._releases.current()
        if current is None:
            return None
        return _Seen(*current, self._releases.missing(), _state(self._published.folder(current.digest)))

    async def _report_status(self, seen: _Seen) -> None:
        """Report since when the serving bundle is live, unless what was seen was refused."""
        if seen.missing is not None:
            self._refuse(seen.missing, "it was made live, but is not in this folder of bundles")
        if self._bundle is None or self._bundle.digest != seen.digest:
            return
        report = await asyncio.to_thread(gate_report, self._releases.bundles, seen.digest)
        self.status = ReleaseStatus(
            seen.activated, None if report is None else report.passed, None if report is None else report.created
        )
        manifest = self._bundle.manifest
        telemetry.bundle_serves(seen.digest, manifest.model, manifest.created, seen.activated, self.status.gate_time)

    def _open(self, digest: str, *, verify: bool = True) -> Bundle:
        with self._files(digest, verify=verify) as folder:
            return Bundle.load(folder, verify=verify, hashed=self._copies is not None)

    @contextmanager
    def _files(self, digest: str, *, verify: bool) -> Iterator[Path]:
        """Yield the folder to load a bundle from, in this block; if there are copies, verified. Raises BundleError."""
        folder = self._published.folder(digest)
        if self._copies is None:
            yield folder
        else:
            with self._copies.of(folder, verify=verify) as copy:
                yield copy

    def _accelerate(self, bundle: Bundle) -> None:
        """Switch to the compiled kernel of the encoder, if there is one; the bundle serves while it compiles."""
        reason = None
        try:
            with self._files(bundle.digest, verify=False) as folder:
                bundle.accelerate(folder)
        except (KernelUnavailable, BundleError) as error:
            reason = str(error)
        telemetry.encoding(bundle.digest, bundle.encoder.engine, reason)

    def _report_missing(self, *, is_missing: bool) -> None:
        was_missing, self._is_missing = self._is_missing, is_missing
        if is_missing and not was_missing:
            telemetry.bundle_missing(str(self._published.path))
            self.is_known.set()

    def _refuse(self, digest: str, reason: str) -> None:
        refusal = Refusal(digest, reason)
        if refusal != self.refusal:
            self.refusal = refusal
            telemetry.bundle_refused(digest, reason)
            self.is_known.set()

    def _not_ready_reason(self) -> str:
        if self.refusal is not None:
            return f"The current bundle was refused: {self.refusal.reason}"
        if self._is_missing:
            return f"No bundle has been published: {self._published.path} has no link {CURRENT}."
        return "The bundle has not been loaded yet."


def _state(folder: Path) -> frozenset[tuple[str, int, int, int, int]]:
    """Return the state of the files of a folder; if it is not readable, nothing."""
    try:
        entries = [(entry.name, entry.stat(follow_symlinks=False)) for entry in os.scandir(folder)]
    except OSError:
        return frozenset()
    return frozenset((name, stat.st_ino, stat.st_mode, stat.st_size, stat.st_mtime_ns) for name, stat in entries)


def _freeze() -> None:
    """Exclude all objects that live now from garbage collection, which would block requests for tens of ms."""
    gc.collect()
    gc.freeze()
