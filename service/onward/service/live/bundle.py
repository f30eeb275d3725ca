"""LiveBundle: notice a new bundle, check it, swap it whole."""

import asyncio
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onward.bundle import Bundle, BundleError, KernelUnavailable, current_digest
from onward.bundle.publish import CURRENT
from onward.service import telemetry
from onward.service.errors import NotReady
from onward.service.live.catalog import LiveCatalog
from onward.service.live.replicated_map import Entry


@dataclass(frozen=True, slots=True)
class Refusal:
    """A bundle that must not serve, and why."""

    digest: str
    reason: str


class LiveBundle:
    """The bundle that serves, replaced as `current` moves and as the live catalog changes.

    Whoever answers a request takes `bundle` once, so that no answer mixes two. A bundle is loaded and verified in a
    thread; if it is refused, the one before serves on, and it is not tried again until `current` has moved.
    """

    def __init__(self, bundles: Path, catalog: LiveCatalog | None = None) -> None:
        """Serve from a folder of bundles, with the changes of a live catalog."""
        self._bundles = bundles
        self._catalog = catalog
        self._exported: Bundle | None = None
        self._bundle: Bundle | None = None
        self._former: Bundle | None = None
        self._changes: Mapping[str, Entry] | None = None
        self._in_turn = asyncio.Lock()
        self._seen: str | None = None
        self.refusal: Refusal | None = None

    @property
    def bundle(self) -> Bundle:
        """The bundle that serves now, with the live catalog's changes. Raises NotReady."""
        if self._bundle is None:
            raise NotReady(self._why_not_ready())
        return self._bundle

    async def of(self, digest: str) -> Bundle | None:
        """The published bundle of a digest, with the live catalog's changes; None where it is there no longer.

        The last one that is not live is kept, as it was exported, for those who ask about its answers.
        """
        if self.bundle.digest == digest:
            return self.bundle
        if self._former is None or self._former.digest != digest:
            try:
                self._former = await asyncio.to_thread(Bundle.load, self._bundles / Path(digest).name, verify=False)
            except BundleError:
                return None
        if self._former.digest != digest or not (self._bundles / digest).exists():
            return None
        if self._catalog is None:
            return self._former
        return await asyncio.to_thread(self._catalog.applied_once, self._former)

    async def refresh(self) -> None:
        """Look at `current` once and, where it has moved, load what it names."""
        try:
            digest = await asyncio.to_thread(current_digest, self._bundles)
            if digest is not None and digest != self._seen:
                await self._load(digest)
                self._seen = digest
        except BundleError as error:
            self._refuse(CURRENT, str(error))
        telemetry.bundle_checked()

    async def follow_catalog(self) -> None:
        """Look at the live catalog once and, where it has changed, let the bundle serve with it."""
        if self._catalog is not None:
            await self._catalog.flush()
            await self._catalog.follow()
            await self.take_changes()

    async def take_changes(self) -> None:
        """Let the bundle serve with all that this process knows of the live catalog; it does once this returns."""
        async with self._in_turn:
            if self._catalog is not None and self._exported is not None and self._changes is not self._catalog.entries:
                await self._serve(self._exported)

    async def _serve(self, exported: Bundle) -> None:
        """Serve a bundle with the live catalog's changes, which are made in a thread."""
        if self._catalog is None:
            self._exported = self._bundle = exported
            return
        changes = self._catalog.entries
        bundle = await asyncio.to_thread(self._catalog.applied_to, exported)
        self._exported, self._bundle, self._changes = exported, bundle, changes

    async def _load(self, digest: str) -> None:
        if self._bundle is not None and self._bundle.digest == digest:  # back from one that was refused
            self.refusal = None
            return
        started = time.perf_counter()
        try:
            bundle = await asyncio.to_thread(Bundle.load, self._bundles / digest)
        except BundleError as error:
            self._refuse(digest, str(error))
            return
        if self._catalog is not None:
            await self._catalog.follow()  # so that no deleted item is shown between the start and the first look
        async with self._in_turn:
            await self._serve(bundle)
        self.refusal = None
        _freeze()
        telemetry.bundle_live(digest, bundle.manifest.model, bundle.manifest.items, time.perf_counter() - started)
        await asyncio.to_thread(bundle.index.touch)
        await asyncio.to_thread(bundle.catalog.make_columns)  # before the first filter, or new item, needs them
        await asyncio.to_thread(self._accelerate, bundle)
        _freeze()

    def _accelerate(self, bundle: Bundle) -> None:
        """Have the compiled kernel encode where there is one; the bundle serves meanwhile."""
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

    def _why_not_ready(self) -> str:
        if self.refusal is not None:
            return f"The current bundle was refused: {self.refusal.reason}"
        return "No bundle has been published and loaded yet."


def _freeze() -> None:
    """What is here now stays: walking it again would hold up requests for tens of ms."""
    gc.collect()
    gc.freeze()
