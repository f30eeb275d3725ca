"""Replica: a worker's copy of a versioned store."""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import islice
from typing import Any, NamedTuple

from onward.service import telemetry
from onward.service.errors import LimitReached, LiveStoreUnavailable, ServiceError
from onward.service.live.versioned_store import (
    Entries,
    Entry,
    InMemoryVersionedStore,
    Put,
    RedisVersionedStore,
    VersionedStore,
    parse_entry,
)
from onward.service.redis_client import RedisClient
from onward.service.tenants import PREFIX

FOLLOW_INTERVAL = timedelta(seconds=0.25)
"""Interval at which a worker reads the changes of other workers."""
MAX_TRIES = 20
"""Attempts of one update. An attempt fails only if another writer's succeeded, so only many writers exhaust them."""
MAX_READS = 10
"""Attempts to read all changes of a store whose connections are lost meanwhile."""
PUTS_AT_ONCE = 100
"""Names that are written at once: the server and the worker take about a millisecond for them."""
JITTER_STEP_MS = 4
"""Increase of the longest random wait from one attempt to the next."""

Edit = Callable[[Entry | None], Any]
"""Returns a new value for the current entry, None to remove it. May be called several times.

Raises ServiceError to refuse the edit.
"""


class Edited(NamedTuple):
    """The values of an entry before and after an edit, None for no entry."""

    before: Any
    after: Any


class Replica:
    """A copy of a versioned store, updated by `follow` and at once by this worker's own writes.

    While the store is unavailable the copy stays as it was; each outage is logged once. A store that was emptied is
    restored from the copy of the first worker that notices. What a store has lost otherwise is removed from the copy,
    logged and counted, unless it was cleared on purpose.
    """

    def __init__(self, store: VersionedStore, name: str) -> None:
        """Replicate a store, under a name for the log."""
        self._store = store
        self._name = name
        self._epoch = 0
        self._generation = ""
        self._sequence = 0
        self._failures = 0
        self._failing_since_s = 0.0
        self._lock = asyncio.Lock()
        self.entries = Entries()
        """The entries by name, tombstones included; replaced by a new mapping on each change, never modified."""

    async def read(self) -> Entries:
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
            if not self._failures:
                self._failing_since_s = time.monotonic()
                telemetry.live_store_failed(self._name, error.__cause__ or error)
            self._failures += 1
            return False
        if self._failures:
            telemetry.live_store_recovered(self._name, self._failures, time.monotonic() - self._failing_since_s)
            self._failures = 0
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
                names = iter([name for name in edits if name not in results])
                while part := {name: edits[name] for name in islice(names, PUTS_AT_ONCE)}:
                    results |= await self._try(part, uncounted)
                if len(results) == len(edits):
                    await self._catch_up()
                    return results
        raise LiveStoreUnavailable("Too many concurrent writes to the same names; try again.")

    async def _try(self, edits: Mapping[str, Edit], uncounted: int) -> dict[str, Entry | ServiceError]:
        """Edit entries in one call; return the outcome of those that another writer does not make wait."""
        results: dict[str, Entry | ServiceError] = {}
        puts: list[Put] = []
        for name, edit in edits.items():
            try:
                puts.append(self._edited(name, edit))
            except ServiceError as refusal:
                results[name] = refusal
        outcomes = await self._store.put(self._generation, puts, uncounted=uncounted) if puts else ()
        stored: dict[str, Entry] = {}
        for put, outcome in zip(puts, outcomes, strict=True):
            if isinstance(outcome, Entry):
                stored[put.name] = outcome
            elif outcome == "full":
                results[put.name] = LimitReached("The maximum number of names is stored already.")
        self.entries = self.entries.updated(stored)  # so that they are known if the store loses them now
        return results | stored

    def _edited(self, name: str, edit: Edit) -> Put:
        current = self.entries.get(name)
        revision, expected = (current.revision + 1, current.sequence) if current else (1, 0)
        return Put(name, revision, edit(current), expected)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _catch_up(self) -> None:
        """Read the changes, or the whole store where it may have lost entries; restore a store that was emptied."""
        changes = await self._changes()
        if self._generation and not changes.generation:
            if await self._store.restore(self.entries):
                telemetry.live_store_restored(self._name, len(self.entries))
            changes = await self._changes()
            if not changes.generation:
                raise LiveStoreUnavailable("The store was emptied, and is not restored yet.")
        if changes.is_first:
            await self._replace_entries(changes)
            self._sequence = 0
        else:
            self.entries = changes.entries
        self._sequence = max(self._sequence, changes.sequence)
        self._epoch, self._generation = changes.epoch, changes.generation

    async def _changes(self) -> "_Changes":
        """Read all pages of changes; of the whole store if it may have lost entries that were read before."""
        generation = self._generation if self._store.epoch == self._epoch else ""
        for _ in range(MAX_READS):
            epoch = self._store.epoch
            changes = await self._changes_of_epoch(epoch, generation)
            if changes is not None:
                return changes
            generation = ""
        raise LiveStoreUnavailable("The connection to the store was lost again and again while its changes were read.")

    async def _changes_of_epoch(self, epoch: int, generation: str) -> "_Changes | None":
        """Read all pages of changes since a generation; None if another epoch begins meanwhile."""
        sequence, entries, is_first = self._sequence, self.entries, False
        while True:
            page = await self._store.changes_since(generation, sequence)
            if self._store.epoch != epoch:
                return None
            if page.is_first:
                is_first, entries, sequence = True, Entries(), 0
            read = Entries.of(page.entries)
            entries = entries.updated(read)
            generation = page.generation
            sequence = max((entry_sequence for _, (entry_sequence, _) in read.texts()), default=sequence)
            if page.is_last:
                return _Changes(epoch, generation, entries, sequence, is_first=is_first, cleared=page.cleared)

    async def _replace_entries(self, changes: "_Changes") -> None:
        """Take over the whole store; compared in a thread, as there may be many entries."""
        before = self.entries
        differing = await asyncio.to_thread(lambda: list(before.differences(changes.entries)))
        if not differing:
            return
        known = ((name, parse_entry(*text)) for name, text, _ in differing if text is not None)
        lost = [(entry.sequence, name) for name, entry in known if changes.lack(name, entry)]
        if lost:
            telemetry.live_entries_lost(self._name, [name for _, name in sorted(lost)])
        self.entries = changes.entries


class _Changes(NamedTuple):
    """All pages of changes, read in one epoch."""

    epoch: int
    generation: str
    entries: Entries
    """All entries: those known before, with the changes."""
    sequence: int
    """The largest that was read, or known before."""
    is_first: bool
    """Whether the whole store was read."""
    cleared: int

    def lack(self, name: str, known: Entry) -> bool:
        """Return whether the store has lost an entry that was stored, other than by being cleared on purpose."""
        stored = self.entries.get(name)
        if stored is None:
            return known.value is not None and known.sequence > self.cleared
        return stored.sequence < known.sequence or (stored.sequence == known.sequence and stored != known)


def open_replica(redis: RedisClient | None, name: str, *, max_names: int, prefix: str = PREFIX) -> Replica:
    """Return a replica of the named store at a server; without a client, of one in this process's memory.

    `prefix` is that of the tenant.
    """
    if redis is None:
        return Replica(InMemoryVersionedStore(max_names=max_names), name)
    return Replica(RedisVersionedStore(redis, name, max_names=max_names, prefix=prefix), name)


async def clear_store(url: str, name: str, *, prefix: str = PREFIX) -> int:
    """Clear the named store at a server; return how many names had a value. Raises LiveStoreUnavailable."""
    store = RedisVersionedStore.connect(url, name, max_names=0, prefix=prefix)
    try:
        return await store.clear()
    finally:
        await store.close()
