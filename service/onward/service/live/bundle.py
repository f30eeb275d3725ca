"""LiveBundle: notice a newly published bundle, verify it, and swap it in atomically."""

import asyncio
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onward.bundle import Bundle, BundleError, KernelUnavailable, current_digest
from onward.bundle.published import CURRENT
from onward.service import telemetry
from onward.service.errors import NotReady
from onward.service.live.bundle_ids import BundleIds
from onward.service.live.catalog import LiveCatalog
from onward.service.live.versioned_store import Entry


@dataclass(frozen=True, slots=True)
class Refusal:
    """A bundle that was refused, and why."""

    digest: str
    reason: str


class LiveBundle:
    """The bundle that serves, replaced when the `current` link moves and when the live catalog changes.

    A request reads `bundle` once, so that no answer mixes two bundles. A new bundle is loaded and verified in a thread.
    If it is refused, the previous one continues to serve, and loading is not tried again until `current` moves.
    """

    def __init__(self, bundles: Path, catalog: LiveCatalog | None = None, ids: BundleIds | None = None) -> None:
        """Serve the current bundle of a folder, with the changes of a live catalog; tell `ids` each bundle."""
        self._bundles = bundles
        self._catalog = catalog
        self._ids = ids
        self._exported: Bundle | None = None
        self._bundle: Bundle | None = None
        self._previous: Bundle | None = None
        self._changes: Mapping[str, Entry] | None = None
        self._lock = asyncio.Lock()
        self._last_digest: str | None = None
        self.refusal: Refusal | None = None

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
                self._previous = await asyncio.to_thread(Bundle.load, self._bundles / Path(digest).name, verify=False)
            except BundleError:
                return None
        if self._previous.digest != digest or not (self._bundles / digest).exists():
            return None
        if self._catalog is None:
            return self._previous
        return await asyncio.to_thread(self._catalog.applied_once, self._previous)

    async def refresh(self) -> None:
        """Check `current` once and load the bundle that it names, if it has moved."""
        try:
            digest = await asyncio.to_thread(current_digest, self._bundles)
            if digest is not None and digest != self._last_digest:
                await self._load(digest)
                self._last_digest = digest
        except BundleError as error:
            self._refuse(CURRENT, str(error))
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
        if self._ids is not None:
            self._ids.serve(bundle)

    async def _load(self, digest: str) -> None:
        if self._bundle is not None and self._bundle.digest == digest:  # moved back from a refused bundle
            self.refusal = None
            return
        started = time.perf_counter()
        try:
            bundle = await asyncio.to_thread(Bundle.load, self._bundles / digest)
        except BundleError as error:
            self._refuse(digest, str(error))
            return
        if self._catalog is not None:
            await self._catalog.follow()  # so that no deleted item is shown before the first periodic read
        async with self._lock:
            await self._serve(bundle)
        self.refusal = None
        _freeze()
        telemetry.bundle_live(digest, bundle.manifest.model, bundle.manifest.items, time.perf_counter() - started)
        await asyncio.to_thread(bundle.index.touch)
        await asyncio.to_thread(bundle.catalog.make_columns)  # before the first filter or new item needs them
        await asyncio.to_thread(self._accelerate, bundle)
        _freeze()

    def _accelerate(self, bundle: Bundle) -> None:
        """Switch to the compiled kernel of the encoder, if there is one; the bundle serves while it compiles."""
        reason = None
        try:
            bundle.accelerate(self._bundles / bundle.digest)
        except KernelUnavailable as error:
            reason = str(error)
        telemetry.encoding(bundle.digest, bundle.encoder.engine, reason)

    def _refuse(self, digest: str, reason: str) -> None:
        refusal = Refusal(digest, reason)
        if refusal != self.refusal:
            self.refusal = refusal
            telemetry.bundle_refused(digest, reason)

    def _not_ready_reason(self) -> str:
        if self.refusal is not None:
            return f"The current bundle was refused: {self.refusal.reason}"
        return "No bundle has been published and loaded yet."


def _freeze() -> None:
    """Exclude all objects that live now from garbage collection, which would block requests for tens of ms."""
    gc.collect()
    gc.freeze()
