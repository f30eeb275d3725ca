"""Replica: a worker's copy of a versioned store."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from onward.service import telemetry
from onward.service.errors import LimitReached, LiveStoreUnavailable, ServiceError
from onward.service.live.versioned_store import (
    Entry,
    InMemoryVersionedStore,
    Put,
    RedisVersionedStore,
    VersionedStore,
)

FOLLOW_INTERVAL = timedelta(seconds=0.25)
"""Interval at which a worker reads the changes of other workers."""
MAX_TRIES = 20
"""Attempts of one update. An attempt fails only if another writer's succeeded, so only many writers exhaust them."""
JITTER_STEP_MS = 4
"""Increase of the longest random wait from one attempt to the next."""

Edit = Callable[[Entry | None], Any]
"""Returns a new value for the current entry, None to remove it. May be called several times.

Raises ServiceError to refuse the edit.
"""


class Replica:
    """A copy of a versioned store, updated by `follow` and at once by this worker's own writes.

    While the store is unavailable the copy stays as it was; each outage is logged once.
    """

    def __init__(self, store: VersionedStore, name: str) -> None:
        """Replicate a store, under a name for the log."""
        self._store = store
        self._name = name
        self._generation: str | None = None
        self._sequence = 0
        self._is_failing = False
        self._lock = asyncio.Lock()
        self.entries: Mapping[str, Entry] = {}
        """The entries by name, tombstones included; replaced by a new mapping on each change, never modified."""

    async def read(self) -> Mapping[str, Entry]:
        """Read the latest changes and return all entries. Raises LiveStoreUnavailable."""
        async with self._lock:
            await self._catch_up()
            return self.entries

    async def follow(self) -> bool:
        """Read the latest changes and return whether there were any; False if the store is unavailable."""
        before = self.entries
        try:
            after = await self.read()
        except LiveStoreUnavailable as error:
            if not self._is_failing:
                telemetry.live_store_failed(self._name, error.__cause__ or error)
            self._is_failing = True
            return False
        if self._is_failing:
            telemetry.live_store_recovered(self._name)
        self._is_failing = False
        return after is not before

    async def update(self, edits: Mapping[str, Edit], *, uncounted: int = 0) -> dict[str, Entry | ServiceError]:
        """Edit each entry independently; return the new entry of each, or the error that refused the edit.

        So many of the stored names as `uncounted` do not count towards the maximum.

        By optimistic concurrency no update is lost: if another worker wrote first, the edit is applied again to what it
        wrote. Raises LiveStoreUnavailable, even if some of the edits were stored.
        """
        results: dict[str, Entry | ServiceError] = {}
        async with self._lock:
            for failed_tries in range(MAX_TRIES):
                # Random jitter keeps two writers from conflicting again and again.
                await asyncio.sleep(secrets.randbelow(JITTER_STEP_MS * failed_tries + 1) / 1000)
                await self._catch_up()
                puts: list[Put] = []
                for name in (name for name in edits if name not in results):
                    try:
                        puts.append(self._edited(name, edits[name]))
                    except ServiceError as refusal:
                        results[name] = refusal
                outcomes = await self._store.put(puts, uncounted=uncounted) if puts else ()
                for put, outcome in zip(puts, outcomes, strict=True):
                    if isinstance(outcome, Entry):
                        results[put.name] = outcome
                    elif outcome == "full":
                        results[put.name] = LimitReached("The maximum number of names is stored already.")
                if len(results) == len(edits):
                    await self._catch_up()
                    return results
        raise LiveStoreUnavailable("Too many concurrent writes to the same names; try again.")

    def _edited(self, name: str, edit: Edit) -> Put:
        current = self.entries.get(name)
        revision, expected = (current.revision + 1, current.sequence) if current else (1, 0)
        return Put(name, revision, edit(current), expected)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _catch_up(self) -> None:
        """Read all pages of changes; those of another generation replace the copy once all were read."""
        generation, sequence = self._generation, self._sequence
        entries: dict[str, Entry] = {}
        replaces_all, is_last = False, False
        while not is_last:
            page = await self._store.changes_since(generation, sequence)
            if page.is_first:
                replaces_all, sequence, entries = True, 0, {}
            entries |= page.entries
            sequence = max((entry.sequence for entry in page.entries.values()), default=sequence)
            generation, is_last = page.generation, page.is_last
        if replaces_all and entries != self.entries:
            self.entries = entries
        elif entries and not replaces_all:
            self.entries = {**self.entries, **entries}
        self._generation, self._sequence = generation, sequence


def open_replica(url: str | None, name: str, *, max_names: int) -> Replica:
    """Return a replica of the named store at a server; without a URL, of one in this process's memory."""
    if url is None:
        return Replica(InMemoryVersionedStore(max_names=max_names), name)
    return Replica(RedisVersionedStore.connect(url, name, max_names=max_names), name)
