"""AppliedChanges: the changes of the live catalog on one bundle, applied as they come."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from onward.bundle import Bundle
from onward.bundle.catalog.cold_start import VectorSource
from onward.bundle.catalog.live_item import LiveItem
from onward.bundle.files.changes import ItemChange
from onward.service.live.versioned_store import Difference, Entries, is_tombstone, parse_entry

SequenceAndText = tuple[int, bytes]
PAUSE_AFTER = 32
"""Changes that are read between two pauses."""
SLICE = 4_096
"""Changes that are applied at once; more would only take more memory meanwhile."""
PAUSE_S = 5e-5
"""How long the thread that applies changes sleeps after every few of them: requests run between."""


@dataclass(frozen=True, slots=True)
class VectorOrigin:
    """The kind of evidence that a cold-start vector was computed from, and the ids of its neighbours."""

    source: VectorSource
    neighbours: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item that the bundle lacks."""

    origin: VectorOrigin | None
    """None if it has no vector."""
    learns: bool
    """Whether its vector may be computed from co-occurring items."""


class AppliedChanges:
    """A bundle with the changes of a store. A new item gets a cold-start vector, again when the item changes.

    One thread may call `follow` at a time; the attributes may be read meanwhile.
    """

    def __init__(self, exported: Bundle) -> None:
        self.exported = exported
        self._begin()

    def _begin(self) -> None:
        self.folded = 0
        """Number of stored changes that the bundle includes: those up to the one that its manifest names."""
        self.new_items: dict[str, NewItem] = {}
        self._entries = Entries()
        self._bundle = self.exported
        self._cold_start = self.exported.cold_start()

    def follow(self, entries: Entries) -> Bundle:
        """Return the bundle with all changes of these entries; the cost is that of those which differ from before."""
        differences = self._entries.differences(entries)
        if self._entries:
            known = list(differences)
            if any(map(self._is_taken_back, known)):
                self._begin()
                known = list(self._entries.differences(entries))
            differences = iter(known)
        self._entries, new = entries, []
        while some := list(islice(differences, SLICE)):
            changes = []
            for number, (item_id, before, now) in enumerate(some, start=1):
                self.folded += self._is_folded(now) - self._is_folded(before)
                if now is None or not self._is_applied(now):
                    continue
                if self.exported.catalog.stored_row(item_id) is None:
                    new.append((now[0], item_id, now[1]))
                else:
                    changes.append(_item(now).change(item_id, now[0], None))
                if number % PAUSE_AFTER == 0:
                    _pause()
            self._apply(changes)
        in_order = iter(sorted(new))  # so that the rows of new items are in the order of their changes
        while added := list(islice(in_order, SLICE)):
            self._apply([self._added(item_id, (sequence, text)) for sequence, item_id, text in added])
        return self._bundle

    def _apply(self, changes: Sequence[ItemChange]) -> None:
        if changes:
            self._bundle = self._bundle.with_further_changes(changes, pause=_pause)

    def _added(self, item_id: str, text: SequenceAndText) -> ItemChange:
        """Return the change of an item that the bundle lacks, with its vector."""
        item = _item(text)
        if item.deleted:
            self.new_items.pop(item_id, None)
            return item.change(item_id, text[0], None)
        cold = self._cold_start.vector(item.as_cold())
        origin = None if cold is None else VectorOrigin(cold.source, cold.neighbours)
        self.new_items[item_id] = NewItem(origin, learns=not item.similar_to)
        _pause()
        return item.change(item_id, text[0], None if cold is None else cold.vector_D)

    def _is_taken_back(self, difference: Difference) -> bool:
        """Return whether a change that was applied is gone, or an earlier one takes its place, as after a failover."""
        _, before, now = difference
        if before is None or not self._is_applied(before):
            return False
        return now is None or now[0] <= before[0] or is_tombstone(now[1])

    def _is_applied(self, text: SequenceAndText) -> bool:
        return text[0] > self.exported.manifest.folded_changes and not is_tombstone(text[1])

    def _is_folded(self, text: SequenceAndText | None) -> bool:
        if text is None or text[0] > self.exported.manifest.folded_changes:
            return False
        return not is_tombstone(text[1])


def _item(text: SequenceAndText) -> LiveItem:
    return LiveItem.of(parse_entry(*text).value)


def _pause() -> None:
    time.sleep(PAUSE_S)
