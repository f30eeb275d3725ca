"""BundleIds: the item ids of the live bundle, and of earlier ones for as long as answers name their rows."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

from onward.bundle import Bundle, PublishedBundles
from onward.bundle.files.ids import IdLines
from onward.bundle.files.manifest import IDS
from onward.service import telemetry

IN_FLIGHT = timedelta(minutes=1)
"""How long after its retirement a bundle may still give an answer."""


class KnownBundle(NamedTuple):
    """A bundle whose ids are at hand."""

    digest: str
    item_ids: Callable[[Sequence[int]], list[str]]
    """Returns the ids of rows of the bundle's files. Raises IndexError for a row that they do not have."""


class _RetiredBundle(NamedTuple):
    """A bundle that served before, or that another process served."""

    digest: str
    expires_s: float
    content: mmap
    """Its file of ids, which takes no memory until an answer names it."""


class BundleIds:
    """Finds the bundles of answers: the live one, retired ones, and those that lie in the folder of bundles.

    A retired bundle is held for `kept`, also if its folder is deleted meanwhile.
    """

    def __init__(self, bundles: Path, *, kept: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._published = PublishedBundles(bundles)
        self._kept_s = (kept + IN_FLIGHT).total_seconds()
        self._clock = clock
        self._live: Bundle | None = None
        self._retired: dict[str, _RetiredBundle] = {}
        self._lines: dict[str, IdLines] = {}
        """Of bundles that are not live, by digest."""
        self._gone: set[str] = set()

    def serve(self, bundle: Bundle) -> None:
        """Take the bundle that is live from now on; the one before is retired."""
        self._forget_expired()
        live, self._live = self._live, bundle
        if live is not None and live.digest != bundle.digest:
            self._hold(live.digest, live.catalog.id_content)

    async def find(self, digest: str) -> KnownBundle | None:
        """Return the bundle whose digest begins so; if it is gone, count that and log it once, and return None."""
        live = self._live
        if live is not None and live.digest.startswith(digest):
            return KnownBundle(live.digest, live.catalog.item_ids)
        self._forget_expired()
        retired = next((bundle for bundle in self._retired.values() if bundle.digest.startswith(digest)), None)
        if retired is None and (opened := await asyncio.to_thread(self._open, digest)) is not None:
            retired = self._hold(*opened)
        if retired is None:
            telemetry.answer_unreadable(digest, is_first=digest not in self._gone)
            self._gone.add(digest)
            return None
        lines = self._lines.get(retired.digest)
        if lines is None:
            lines = self._lines[retired.digest] = await asyncio.to_thread(IdLines, retired.content)
        return KnownBundle(retired.digest, lines.item_ids)

    def _open(self, digest: str) -> tuple[str, mmap] | None:
        """Return the digest and the ids of a published bundle; None if there is none."""
        for folder in self._published.folder(digest).parent.glob(f"{digest}*"):
            try:
                return folder.name, IdLines.read(folder / IDS)
            except (OSError, ValueError):
                continue
        return None

    def _hold(self, digest: str, content: mmap) -> _RetiredBundle:
        self._retired[digest] = retired = _RetiredBundle(digest, self._clock() + self._kept_s, content)
        return retired

    def _forget_expired(self) -> None:
        now_s = self._clock()
        for digest in [digest for digest, bundle in self._retired.items() if bundle.expires_s < now_s]:
            del self._retired[digest]
            self._lines.pop(digest, None)
