"""LiveCatalog: changes of items since the bundle was exported, and items that the bundle does not have."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from onward.bundle import Bundle, BundleError, read_manifest
from onward.bundle.catalog.live_item import LiveItem, change_line
from onward.bundle.files.attributes import Kind, Schema, fits
from onward.bundle.releases import published
from onward.service.errors import InvalidRequest, ItemNotFound, LimitReached, LiveStoreUnavailable, ServiceError
from onward.service.live.applied_changes import AppliedChanges, VectorOrigin
from onward.service.live.replica import Edit, Edited, Replica, open_replica
from onward.service.live.versioned_store import (
    ALL_NAMES,
    CALL_TIMEOUT,
    Dropped,
    Entries,
    Entry,
    RedisVersionedStore,
)
from onward.service.redis_client import RedisClient, connect
from onward.service.sessions import AppliedEvent

ITEMS = "items"
"""Name of the versioned store that keeps the changes."""
DELETED = '"deleted":true'
"""What the stored text of a deleted item has."""
MAX_CHANGED_ITEMS = 2_000_000
MAX_ATTRIBUTES = 64
COOCCURRENCE_WINDOW = 10
"""An event's item co-occurs with at most this many items before it in the session."""
MAX_SEEN_WITH = 50
"""Number of co-occurring items that are kept for an item: those with the largest weights."""
MAX_PENDING_COOCCURRENCES = 10_000


@dataclass(frozen=True, slots=True)
class ItemPatch:
    """A partial update of an item; None leaves a field as it is."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    """A value of None removes the attribute."""
    available: bool | None = None
    similar_to: Sequence[str] | None = None

    def applied_to(self, item: LiveItem) -> LiveItem:
        """Return the item with this patch; a deleted item starts empty and available."""
        current = LiveItem(available=True) if item.deleted else item
        return LiveItem(
            attributes={**current.attributes, **self.attributes},
            available=current.available if self.available is None else self.available,
            similar_to=current.similar_to if self.similar_to is None else tuple(self.similar_to),
            seen_with=current.seen_with,
        )

    def misfits(self, schema: Schema) -> dict[str, Kind]:
        """Return the attributes whose value is not of the kind that the catalog has for them, with that kind."""
        known = {name: schema[name] for name in self.attributes if name in schema}
        return {name: kind for name, kind in known.items() if kind != "mixed" and not fits(kind, self.attributes[name])}


class LiveCatalog:
    """A worker's replica of the changes that all workers share, and the methods to make changes.

    `applied_to` applies them to a bundle: those that it does not know yet.
    """

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._applied: AppliedChanges | None = None
        self._prepared: AppliedChanges | None = None
        """To the bundle that goes live next."""
        self._applied_beside: AppliedChanges | None = None
        """To the bundle that was last asked for, other than the live one."""
        self._beside = threading.Lock()
        self._cooccurrences: dict[tuple[str, str], float] = {}

    @property
    def entries(self) -> Entries:
        """The stored entries by item id: the same object until something changes."""
        return self._replica.entries

    async def follow(self) -> None:
        """Read the changes of other workers. A failure is logged, not raised."""
        await self._replica.follow()

    async def patch(self, patches: Mapping[str, Sequence[ItemPatch]]) -> dict[str, Edited | ServiceError]:
        """Upsert each item independently; return for each item how its entry changed, or the error that refused it.

        Changes that the live bundle includes do not count towards the maximum. Raises LiveStoreUnavailable, even if
        some of the patches were applied.
        """

        before: dict[str, Any] = {}

        def edit(item_id: str, item_patches: Sequence[ItemPatch]) -> Edit:
            def patched(item: LiveItem, patch: ItemPatch) -> LiveItem:
                return self._within_limit(item_id, patch.applied_to(item))

            def edited(entry: Entry | None) -> Any:
                before[item_id] = None if entry is None else entry.value  # the last call is the one that is stored
                return reduce(patched, item_patches, _item(entry)).stored()

            return edited

        edits = {item_id: edit(item_id, changes) for item_id, changes in patches.items()}
        folded = 0 if self._applied is None else self._applied.folded
        results = await self._replica.update(edits, uncounted=folded)
        return {
            item_id: _described(result) if isinstance(result, ServiceError) else Edited(before[item_id], result.value)
            for item_id, result in results.items()
        }

    async def delete(self, item_id: str, bundle: Bundle) -> Edited:
        """Mark an item as deleted, so that it is not recommended until a patch restores it; the limit does not apply.

        Raises ItemNotFound and LiveStoreUnavailable.
        """

        before: Any = None

        def deleted(entry: Entry | None) -> Any:
            nonlocal before
            before = None if entry is None else entry.value
            if (entry is None or entry.value is None) and bundle.catalog.row(item_id) is None:
                raise ItemNotFound("Neither the live bundle nor the live catalog has this item.")
            return LiveItem(deleted=True).stored()

        result = (await self._replica.update({item_id: deleted}, uncounted=ALL_NAMES))[item_id]
        if isinstance(result, ServiceError):
            raise result
        return Edited(before, result.value)

    def prepare(self, bundle: Bundle) -> None:
        """Apply the current changes to a bundle that goes live next, so that `applied_to` has little left to do.

        It takes small steps, so that requests are answered meanwhile. `applied_to` may run in another thread.
        """
        prepared = AppliedChanges(bundle)
        prepared.follow(self.entries)
        self._prepared = prepared

    def applied_to(self, bundle: Bundle) -> Bundle:
        """Return an exported bundle with the current changes. Not thread-safe: call it from one thread at a time."""
        entries, applied = self.entries, self._applied
        if applied is None or applied.exported.digest != bundle.digest:
            prepared, self._prepared = self._prepared, None
            is_prepared = prepared is not None and prepared.exported is bundle
            applied = prepared if prepared is not None and is_prepared else AppliedChanges(bundle)
        changed = applied.follow(entries)
        self._applied = applied
        return changed

    def applied_once(self, bundle: Bundle) -> Bundle:
        """Return a bundle that is not the live one with the current changes. Thread-safe."""
        with self._beside:
            if self._applied_beside is None or self._applied_beside.exported.digest != bundle.digest:
                self._applied_beside = AppliedChanges(bundle)
            return self._applied_beside.follow(self.entries)

    async def close(self) -> None:
        """Close the store."""
        await self._replica.close()

    def cold_vector(self, item_id: str) -> VectorOrigin | None:
        """Return where the vector of a new item comes from; None if it has none."""
        new = None if self._applied is None else self._applied.new_items.get(item_id)
        return None if new is None else new.origin

    def is_deleted(self, item_id: str) -> bool:
        """Return whether an item is marked as deleted."""
        return _item(self.entries.get(item_id)).deleted

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Count the co-occurrences of new items, to be stored by `flush`; pairs beyond the limit are dropped."""
        for event in events:
            for pair in self._cooccurring_pairs(event):
                if pair in self._cooccurrences or len(self._cooccurrences) < MAX_PENDING_COOCCURRENCES:
                    self._cooccurrences[pair] = self._cooccurrences.get(pair, 0) + event.weight

    async def forget(self, session_id: str) -> None:
        """Do nothing: co-occurrences do not name their session."""

    async def flush(self) -> None:
        """Store the counted co-occurrences; if the store is unavailable, keep them for the next flush."""
        cooccurrences, self._cooccurrences = self._cooccurrences, {}
        weights_by_item: dict[str, dict[str, float]] = {}
        for (item_id, other_id), weight in cooccurrences.items():
            weights_by_item.setdefault(item_id, {})[other_id] = weight

        def edit(weights: Mapping[str, float]) -> Edit:
            return lambda entry: _with_cooccurrences(_item(entry), weights).stored()

        try:
            if weights_by_item:
                await self._replica.update({item_id: edit(weights) for item_id, weights in weights_by_item.items()})
        except LiveStoreUnavailable:
            for pair, weight in cooccurrences.items():
                self._cooccurrences[pair] = self._cooccurrences.get(pair, 0) + weight

    def _within_limit(self, item_id: str, item: LiveItem) -> LiveItem:
        """Return the item, of too many attributes only those that differ from the bundle's. Raises InvalidRequest."""
        if len(item.attributes) <= MAX_ATTRIBUTES:
            return item
        catalog = None if self._applied is None else self._applied.exported.catalog
        row = None if catalog is None else catalog.row(item_id)
        exported = {} if catalog is None or row is None else catalog.attributes(row)
        differing = {name: value for name, value in item.attributes.items() if exported.get(name) != value}
        if len(differing) > MAX_ATTRIBUTES:
            raise InvalidRequest(f"At most {MAX_ATTRIBUTES} attributes of an item can be changed.")
        return item.model_copy(update={"attributes": differing})

    def _cooccurring_pairs(self, event: AppliedEvent) -> Iterator[tuple[str, str]]:
        """Pair the event's item with the items shortly before it: yield a new item that learns and a known item."""
        new_items = {} if self._applied is None else self._applied.new_items
        if event.weight <= 0 or not new_items or event.item_id not in event.session_items:
            return
        position = len(event.session_items) - 1 - event.session_items[::-1].index(event.item_id)
        preceding = event.session_items[max(0, position - COOCCURRENCE_WINDOW) : position]
        for other_id in set(preceding) - {event.item_id}:
            for new_id, known_id in ((event.item_id, other_id), (other_id, event.item_id)):
                if (new := new_items.get(new_id)) and new.learns and known_id not in new_items:
                    yield new_id, known_id


def open_live_catalog(redis: RedisClient | None) -> LiveCatalog:
    """Return the live catalog at a server; without a client, one in this process's memory."""
    return LiveCatalog(open_replica(redis, ITEMS, max_names=MAX_CHANGED_ITEMS))


async def change_lines(url: str) -> list[str]:
    """Return all changes at a server as lines of a change file, in order. Raises LiveStoreUnavailable."""
    replica = open_replica(connect(url, CALL_TIMEOUT), ITEMS, max_names=MAX_CHANGED_ITEMS)
    try:
        entries = await replica.read()
    finally:
        await replica.close()
    in_order = sorted((sequence, item_id) for item_id, (sequence, _) in entries.texts())
    stored = ((item_id, entries[item_id]) for _, item_id in in_order)
    return [change_line(item_id, entry.sequence, _item(entry)) for item_id, entry in stored if entry.value is not None]


class FoldedChanges(NamedTuple):
    """Up to which change every bundle of a folder includes the live catalog's, and a bundle that includes no more."""

    through: int
    digest: str


def folded_by_all(bundles: Path) -> FoldedChanges:
    """Return which changes no bundle of a folder needs any more. Raises BundleError if the folder has none."""
    folders = published(bundles)
    if not folders:
        raise BundleError("no bundle has been published there")
    return min(FoldedChanges(read_manifest(folder)[0].folded_changes, folder.name) for folder in folders)


async def drop_changes(url: str, through: int) -> Dropped:
    """Remove changes up to a sequence from a server and from every worker. Raises LiveStoreUnavailable.

    Deleted items stay, since no bundle says whether an item that it does not show was deleted.
    """
    store = RedisVersionedStore.connect(url, ITEMS, max_names=MAX_CHANGED_ITEMS)
    try:
        return await store.drop(through, mark=DELETED)
    finally:
        await store.close()


def _item(entry: Entry | None) -> LiveItem:
    return LiveItem() if entry is None else LiveItem.of(entry.value)


def _described(error: ServiceError) -> ServiceError:
    if not isinstance(error, LimitReached):
        return error
    return LimitReached(
        f"{MAX_CHANGED_ITEMS:,} items differ from the live bundle, which is the most; rebuild it with their changes."
    )


def _with_cooccurrences(item: LiveItem, weights: Mapping[str, float]) -> LiveItem:
    """Return an item with further co-occurrences; only the heaviest are kept. Raises ItemNotFound if it is deleted."""
    if item.deleted:
        raise ItemNotFound("The item was deleted since.")
    seen_with = item.seen_with
    sums = {other: seen_with.get(other, 0) + weights.get(other, 0) for other in {**seen_with, **weights}}
    heaviest = sorted(sums, key=lambda other: -sums[other])[:MAX_SEEN_WITH]
    return item.model_copy(update={"seen_with": {other: sums[other] for other in heaviest}})
