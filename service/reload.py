"""LiveBundle: notice a new bundle, check it, swap it whole."""

import asyncio
import gc
import time
from dataclasses import dataclass
from pathlib import Path

from service import telemetry
from service.bundle import Bundle, BundleError, current_digest
from service.bundle.publish import CURRENT
from service.errors import NotReady


@dataclass(frozen=True, slots=True)
class Refusal:
    """A bundle that must not serve, and why."""

    digest: str
    reason: str


class LiveBundle:
    """The bundle that serves, replaced as `current` moves.

    Whoever answers a request takes `bundle` once, so that no answer mixes two. A bundle is loaded and verified in a
    thread; if it is refused, the one before serves on, and it is not tried again until `current` has moved.
    """

    def __init__(self, bundles: Path) -> None:
        self._bundles = bundles
        self._bundle: Bundle | None = None
        self._seen: str | None = None
        self.refusal: Refusal | None = None

    @property
    def bundle(self) -> Bundle:
        """The bundle that serves now. Raises NotReady."""
        if self._bundle is None:
            raise NotReady(self._why_not_ready())
        return self._bundle

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
        self._bundle, self.refusal = bundle, None
        gc.collect()
        gc.freeze()  # what is here now stays: walking it again would hold up requests for tens of ms
        telemetry.bundle_live(digest, bundle.manifest.model, bundle.manifest.items, time.perf_counter() - started)

    def _refuse(self, digest: str, reason: str) -> None:
        refusal = Refusal(digest, reason)
        if refusal != self.refusal:
            self.refusal = refusal
            telemetry.bundle_refused(digest, reason)

    def _why_not_ready(self) -> str:
        if self.refusal is not None:
            return f"The current bundle was refused: {self.refusal.reason}"
        return "No bundle has been published and loaded yet."
