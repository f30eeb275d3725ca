"""LiveCatalog: what became of the items since their bundle was exported, and the items that it does not have."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

from onward.bundle import Bundle
from onward.bundle.catalog.cold_start import ColdStart, ColdVector
from onward.bundle.catalog.live_item import LiveItem, change_line
from onward.bundle.files.attributes import Kind, Schema, fits
from onward.bundle.files.changes import ItemChange
from onward.service.errors import InvalidRequest, ItemNotFound, LiveStoreUnavailable, ServiceError
from onward.service.live.replicated_map import Edit, Entry, Replica, open_replica
from onward.service.sessions import AppliedEvent

ITEMS = "items"
"""What the changes are kept under."""
MAX_CHANGED_ITEMS = 100_000
MAX_ATTRIBUTES = 64
MET_ITEMS = 10
"""Of a session: the last ones before an event's item, which that is taken to be seen with."""
MAX_SEEN_WITH = 50
"""Items that are remembered to be seen with one; those of the least weight give way."""
MAX_UNSENT_MEETINGS = 10_000


@dataclass(frozen=True, slots=True)
class ItemPatch:
    """What is to change about an item; None leaves it as it is."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    """None as a value removes an attribute."""
    available: bool | None = None
    similar_to: Sequence[str] | None = None

    def applied_to(self, item: LiveItem) -> LiveItem:
        """Return the item so changed; one that was deleted starts afresh, available. Raises InvalidRequest."""
        before = LiveItem(available=True) if item.deleted else item
        attributes = {**before.attributes, **self.attributes}
        if len(attributes) > MAX_ATTRIBUTES:
            raise InvalidRequest(f"At most {MAX_ATTRIBUTES} attributes of an item can be changed.")
        return LiveItem(
            attributes=attributes,
            available=before.available if self.available is None else self.available,
            similar_to=before.similar_to if self.similar_to is None else tuple(self.similar_to),
            seen_with=before.seen_with,
        )

    def misfits(self, schema: Schema) -> dict[str, Kind]:
        """The attributes whose value is not of the kind that the catalog's items have, and that kind."""
        known = {name: schema[name] for name in self.attributes if name in schema}
        return {name: kind for name, kind in known.items() if kind != "mixed" and not fits(kind, self.attributes[name])}


class _Followed(NamedTuple):
    """An item as one bundle sees it, made from the entry of this sequence."""

    sequence: int
    change: ItemChange
    cold: ColdVector | None
    is_new: bool
    """Whether the bundle does not have it."""
    learns: bool
    """Whether its vector may come from the items that it is seen with."""


class LiveCatalog:
    """A worker's view of the changes that all workers share, and the way to make some.

    A bundle gets them by `applied_to`. A new item gets a vector for each bundle, made again when the item changes.
    """

    def __init__(self, mirror: Replica) -> None:
        self._mirror = mirror
        self._digest: str | None = None
        self._cold_items: ColdStart | None = None
        self._followed: Mapping[str, _Followed] = {}
        self._meetings: dict[tuple[str, str], float] = {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What is stored, by item: the same object until something changes."""
        return self._mirror.entries

    async def follow(self) -> None:
        """Read what other workers changed. A failure is logged, not raised."""
        await self._mirror.follow()

    async def patch(self, patches: Mapping[str, Sequence[ItemPatch]]) -> dict[str, ServiceError | None]:
        """Change items, or make them known, each by itself; return for each why it was refused, or None.

        Raises LiveStoreUnavailable; then any of it may have been done all the same.
        """

        def edit(of_item: Sequence[ItemPatch]) -> Edit:
            return lambda held: reduce(lambda item, patch: patch.applied_to(item), of_item, _item(held)).stored()

        outcomes = await self._mirror.update({item_id: edit(of_item) for item_id, of_item in patches.items()})
        return {item_id: out if isinstance(out, ServiceError) else None for item_id, out in outcomes.items()}

    async def delete(self, item_id: str, bundle: Bundle) -> None:
        """Let an item never be shown again unless it is put back. Raises ItemNotFound and LiveStoreUnavailable."""

        def deleted(held: Entry | None) -> Any:
            if held is None and bundle.catalog.row(item_id) is None:
                raise ItemNotFound("Neither the live bundle nor the live catalog has this item.")
            return LiveItem(deleted=True).stored()

        outcome = (await self._mirror.update({item_id: deleted}))[item_id]
        if isinstance(outcome, ServiceError):
            raise outcome

    def applied_to(self, bundle: Bundle) -> Bundle:
        """Return a bundle, which is as it was exported, with what is known now. Only one thread may do it at a time."""
        entries = self.entries
        if self._cold_items is None or bundle.digest != self._digest:
            self._digest, self._followed = bundle.digest, {}
            self._cold_items = ColdStart(bundle.catalog, bundle.vectors_N1D)
        self._followed = {
            item_id: self._seen_by(bundle, self._cold_items, item_id, entry)
            for item_id, entry in entries.items()
            if entry.value is not None
        }
        if not self._followed:
            return bundle
        changes = (item.change for item in self._followed.values())
        return bundle.with_changes(sorted(changes, key=lambda change: change.sequence))

    def applied_once(self, bundle: Bundle) -> Bundle:
        """Return a bundle, other than the one that serves, with what is known now; for any thread."""
        return LiveCatalog(self._mirror).applied_to(bundle)

    async def close(self) -> None:
        """Let go of the store."""
        await self._mirror.close()

    def cold_vector(self, item_id: str) -> ColdVector | None:
        """Tell what the vector of a new item was made from; None where it has none."""
        item = self._followed.get(item_id)
        return None if item is None else item.cold

    def is_deleted(self, item_id: str) -> bool:
        """Tell whether an item was deleted and not put back."""
        item = self._followed.get(item_id)
        return item is not None and item.change.deleted

    def applied(self, events: Sequence[AppliedEvent]) -> None:
        """Count which items new ones are seen with, until `flush`; what no longer fits is left out."""
        for event in events:
            for meeting in self._meetings_of(event):
                if meeting in self._meetings or len(self._meetings) < MAX_UNSENT_MEETINGS:
                    self._meetings[meeting] = self._meetings.get(meeting, 0) + event.weight

    async def forget(self, session_id: str) -> None:
        """Do nothing: what is counted is of no session."""

    async def flush(self) -> None:
        """Store what was counted; where the store does not take it, it is kept for the next time."""
        meetings, self._meetings = self._meetings, {}
        met: dict[str, dict[str, float]] = {}
        for (item_id, other_id), weight in meetings.items():
            met.setdefault(item_id, {})[other_id] = weight

        def edit(counts: Mapping[str, float]) -> Edit:
            return lambda held: _having_met(_item(held), counts).stored()

        try:
            if met:
                await self._mirror.update({item_id: edit(counts) for item_id, counts in met.items()})
        except LiveStoreUnavailable:
            self._meetings = meetings | self._meetings

    def _meetings_of(self, event: AppliedEvent) -> Iterator[tuple[str, str]]:
        """Pairs of a new item that learns and a known one, of which the event is about one and came upon the other."""
        followed = self._followed
        if event.weight <= 0 or not followed or event.item_id not in event.session_items:
            return
        place = len(event.session_items) - 1 - event.session_items[::-1].index(event.item_id)
        for other_id in set(event.session_items[max(0, place - MET_ITEMS) : place]) - {event.item_id}:
            for new_id, known_id in ((event.item_id, other_id), (other_id, event.item_id)):
                if (new := followed.get(new_id)) and new.learns and not _is_new(followed.get(known_id)):
                    yield new_id, known_id

    def _seen_by(self, bundle: Bundle, cold_items: ColdStart, item_id: str, entry: Entry) -> _Followed:
        """Return an item as the bundle sees it, as before where nothing of it has changed."""
        before = self._followed.get(item_id)
        if before is not None and before.sequence == entry.sequence:
            return before
        item = LiveItem.of(entry.value)
        is_new = bundle.catalog.row(item_id) is None and not item.deleted
        cold = cold_items.vector(item.as_cold()) if is_new else None
        change = item.change(item_id, entry.sequence, None if cold is None else cold.vector_D)
        return _Followed(entry.sequence, change, cold, is_new=is_new, learns=is_new and not item.similar_to)


def open_live_catalog(url: str | None) -> LiveCatalog:
    """Open the live catalog that is kept at a server, or one of this process alone where there is none."""
    return LiveCatalog(open_replica(url, ITEMS, max_names=MAX_CHANGED_ITEMS))


async def change_lines(url: str) -> list[str]:
    """Read all changes that are kept at a server, as lines of a file of changes. Raises LiveStoreUnavailable."""
    mirror = open_replica(url, ITEMS, max_names=MAX_CHANGED_ITEMS)
    try:
        entries = await mirror.read()
    finally:
        await mirror.close()
    in_order = sorted(entries.items(), key=lambda named: named[1].sequence)
    return [
        change_line(item_id, entry.sequence, _item(entry)) for item_id, entry in in_order if entry.value is not None
    ]


def _item(held: Entry | None) -> LiveItem:
    return LiveItem() if held is None else LiveItem.of(held.value)


def _is_new(item: _Followed | None) -> bool:
    return item is not None and item.is_new


def _having_met(item: LiveItem, counts: Mapping[str, float]) -> LiveItem:
    if item.deleted:
        raise ItemNotFound("The item was deleted since.")
    weights = {other: item.seen_with.get(other, 0) + counts.get(other, 0) for other in {**item.seen_with, **counts}}
    heaviest = sorted(weights, key=lambda other: -weights[other])[:MAX_SEEN_WITH]
    return item.model_copy(update={"seen_with": {other: weights[other] for other in heaviest}})
