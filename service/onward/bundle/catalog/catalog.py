"""The catalog: item ids and rows, attributes, popularity, and the items that may be shown.

Row 0 pads, rows 1..N are the items of the bundle's files, rows N+1..R are new items: added since the export and unknown
to the encoder, and rows that such an item has left. Dimension key: N, R as above, M = R - N, D embedding, T rows that
changed lately.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from onward.bundle.catalog.eligible import Eligible
from onward.bundle.catalog.filters import Filter
from onward.bundle.catalog.overlay import (
    FILTER_BYTES,
    Ledger,
    Overlay,
    Pause,
    Record,
    Version,
    VersionedEligible,
    no_pause,
)
from onward.bundle.catalog.overlay_columns import OverlayColumns
from onward.bundle.files.attributes import Columns, ItemColumns, Kind, Schema
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.items import ItemText, StoredItems
from onward.bundle.files.lru_cache import LRUCache

MAX_SORTED = 4_096
"""Up to this many eligible rows are sorted by popularity; if there are more, the popular rows are checked in chunks."""
MIN_CHUNK = 256


class Catalog:
    """The items of a bundle with all changes since the export. Ids are compared byte for byte, without normalization.

    Immutable and thread-safe.
    """

    def __init__(
        self,
        stored: StoredItems,
        *,
        overlay: Overlay | None = None,
        stored_masks: LRUCache[NDArray[np.uint8]] | None = None,
        available: Eligible | None = None,
    ) -> None:
        """Combine the stored items with the changes since the export.

        Args:
            stored: the items of the files.
            overlay: the changes; none by default.
            stored_masks: filter masks of the stored items, packed to bits, which all catalogs of these files share.
            available: the rows that may be shown, if they are known.
        """
        self.items = len(stored.ids)
        """N"""
        self._stored = stored
        self._overlay = Ledger(stored).begin() if overlay is None else overlay
        self._is_changed = self._overlay.number > 0
        self._stored_masks = LRUCache[NDArray[np.uint8]](FILTER_BYTES) if stored_masks is None else stored_masks
        self._eligible = LRUCache[Eligible](FILTER_BYTES)
        self._columns_since: dict[int, OverlayColumns] = {}
        """The columns of the rows that changed after a version, by its number."""
        self._available = available or Eligible(
            np.concatenate([self._overlay.available_N1, self._overlay.new.shown_M]), items=self.items
        )

    @classmethod
    def load(cls, folder: Path, items: int, schema: Schema | None = None) -> "Catalog":
        """Read the catalog of `items` items from a bundle's folder; without a schema it is inferred on first use.

        Raises BundleError.
        """
        stored = StoredItems.load(folder, items, schema or {})
        return cls(stored)

    @staticmethod
    def write(
        folder: Path,
        ids: Sequence[str],
        popularity: NDArray[Any],
        attributes: Iterable[Mapping[str, Any]],
        available: NDArray[np.bool_],
    ) -> dict[str, Kind]:
        """Write the catalog's files into a bundle's folder and return the kind of every attribute, for the manifest.

        Args:
            folder: the bundle's folder.
            ids: the ids of rows 1..N.
            popularity: (N + 1,), non-negative, by row; [0] is written as 0.
            attributes: an object of JSON values for each of rows 1..N, {} if nothing is known.
            available: (N + 1,), by row; [0] is written as False.

        Raises BundleError if an id is invalid or repeated, or if a length or value does not fit.
        """
        return StoredItems.write(folder, ids, popularity, attributes, available)

    def changed(self, changes: Iterable[ItemChange], *, pause: Pause = no_pause) -> "Catalog":
        """Return the catalog after these changes; the latest change of an item replaces all earlier ones.

        A deleted item of the bundle keeps its row, so that the encoder still reads it in sessions, and is never shown;
        a deleted new item has no row. New rows are ordered by the sequence of their change: a new item that changes
        again leaves its row, which is then nobody's, for one at the end.

        The cost is proportional to the number of these changes, plus copies of two booleans for each of N items, as
        long as each catalog is made from the newest one and changes of new items come in order. All changes are applied
        anew otherwise.

        Args:
            changes: the changes, in any order.
            pause: called after every few changes, so that a thread in the background can let others run.
        """
        edits, others, replaced = self._latest(changes)
        if not edits and not others:
            return self
        before = self._overlay
        if before.ledger.accepts(before, [change for change in others if not change.deleted]):
            overlay = before.ledger.extended(before, edits, others, replaced, pause)
            rows_T = np.fromiter(edits, np.int64, len(edits))
            available = self._available.patched(rows_T, overlay.available_N1[rows_T], overlay.new.shown_M)
            return Catalog(self._stored, overlay=overlay, stored_masks=self._stored_masks, available=available)
        exported = Catalog(self._stored, stored_masks=self._stored_masks)
        changed_ids = {self._stored.ids.read(row) for row in edits} | {change.item_id for change in others}
        kept = (change for change in before.changes(self._stored) if change.item_id not in changed_ids)
        return exported.changed([*kept, *edits.values(), *others], pause=pause)

    def __len__(self) -> int:
        """R"""
        return self.items + self._overlay.new.size

    def __contains__(self, item_id: str) -> bool:
        return self.row(item_id) is not None

    @property
    def popularity_N1(self) -> NDArray[np.float32]:
        """The popularity of the bundle's items; new items have none."""
        return self._stored.popularity_N1

    @property
    def popularity_sum(self) -> float:
        """The popularity of all items together."""
        return self._stored.popularity_sum

    @property
    def available_N1(self) -> NDArray[np.bool_]:
        """Whether each of the bundle's items may be shown."""
        return self._overlay.available_N1

    @property
    def most_popular_rows(self) -> NDArray[np.int64]:
        """Rows 1..N, available or not, most popular first; ties are broken by the smaller row."""
        return self._stored.most_popular_rows

    def row(self, item_id: str) -> int | None:
        """Return the item's row, None if the catalog does not have it; a deleted item of the bundle has one."""
        return self._stored.ids.row(item_id) or self._overlay.new_row(item_id)

    def stored_row(self, item_id: str) -> int | None:
        """Return the item's row in the bundle's files, None if they lack it; as nothing is cached, all may be read."""
        return self._stored.ids.find(item_id)

    def rows(self, item_ids: Sequence[str]) -> list[int | None]:
        """Return the row of each item, as `row` does."""
        rows = self._stored.ids.rows(item_ids)
        if self._is_changed and None in rows and self._overlay.others:
            return [row or self._overlay.new_row(item_id) for row, item_id in zip(rows, item_ids, strict=True)]
        return rows

    def item_id(self, row: int) -> str:
        """Return the id of a row from 1..R."""
        return self._stored.ids.id_of(row) if row <= self.items else self._overlay.new.rows.ids[row - 1 - self.items]

    def item_ids(self, rows: Sequence[int]) -> list[str]:
        """Return the id of each row from 1..R."""
        if max(rows, default=0) <= self.items:
            return self._stored.ids.ids_of(rows)
        return [self.item_id(row) for row in rows]

    @property
    def id_content(self) -> mmap:
        """The mapped file of the ids of rows 1..N, for `IdLines`."""
        return self._stored.ids.content

    @property
    def new_items(self) -> list[ItemChange]:
        """The changes that added new items, in the order of their rows."""
        return [self._overlay.new_change(place) for place in self._overlay.alive()]

    def new_item(self, row: int) -> ItemChange:
        """Return the change that added the item of a row from N+1..R."""
        return self._overlay.new_change(row - 1 - self.items)

    @property
    def added_since_export(self) -> int:
        """The number of new items."""
        return int(np.count_nonzero(self._overlay.new.alive_M))

    def is_changed(self, item_id: str) -> bool:
        """Return whether the item was changed, added or deleted since the export."""
        row = self._stored.ids.row(item_id)
        return item_id in self._overlay.others if row is None else bool(self._overlay.changed_N1[row])

    @property
    def changed_rows(self) -> NDArray[np.int64]:
        """The rows of items that were changed or added since the export, ascending; deleted items of the bundle too."""
        new_rows = np.flatnonzero(self._overlay.new.alive_M) + self.items + 1
        return np.concatenate([np.flatnonzero(self._overlay.changed_N1), new_rows])

    @property
    def version(self) -> Version:
        """Identifies the changes of this catalog, for `rows_since`."""
        return self._overlay.version

    def rows_since(self, version: Version) -> NDArray[np.int64] | None:
        """Return the rows of 1..N that changed after the version of an earlier catalog, None if that is unknown.

        Rows of new items are not among them: all of these may have changed, unless `version` has the same.
        """
        return self._overlay.rows_since(version)

    def is_deleted(self, item_id: str) -> bool:
        """Return whether the item was deleted since the export, whether or not the bundle contains it."""
        if not self._is_changed:
            return False
        row = self._stored.ids.row(item_id)
        record = self._overlay.other(item_id) if row is None else self._overlay.edit(row)
        return record is not None and record.deleted

    def lacks_vector(self, item_id: str) -> bool:
        """Return whether this is a new item that is available, but cannot be shown before it has a vector."""
        row = self._overlay.new_row(item_id)
        if row is None:
            return False
        change = self.new_item(row)
        return change.leaves_available(True) and not change.shown

    def attributes(self, row: int) -> Mapping[str, Any]:
        """Return the current attributes of a row from 1..R."""
        if row > self.items:
            return self.new_item(row).applied_to({})
        attributes, record = self._stored.attributes(row), self._overlay.edit(row)
        return attributes if record is None else record.change("").applied_to(attributes)

    def exported_items(self, rows: Iterable[int]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the id and the exported attributes of rows from 1..N; nothing is cached, so that all may be read."""
        return self._stored.read(rows)

    def texts(self, item_ids: Sequence[str]) -> list[ItemText]:
        """Return JSON texts of items, which the catalog must have, with their current attributes."""
        if self._is_changed:
            return self._changed_texts(item_ids)
        try:
            return list(map(self._stored.cached_texts.__getitem__, item_ids))
        except KeyError:
            return list(map(self._stored.text, item_ids))

    def popularity(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the popularity of each row from 1..R, 0 for new items."""
        if not self._overlay.new.size:
            return self.popularity_N1[rows]
        return self.popularity_N1[np.where(rows > self.items, 0, rows)]

    def new_vectors_MD(self, dimension: int) -> NDArray[np.float32]:
        """Return the vectors of rows N+1..R; zeros for an item that has none yet."""
        return self._overlay.new.vectors_MD(dimension)

    @property
    def columns(self) -> Columns:
        """The attributes of rows 1..N as exported, without later changes."""
        return self._stored.columns

    @cached_property
    def schema(self) -> Schema:
        """The kind of every attribute; changes add attributes but do not change the kinds of the bundle's."""
        return {**self._stored.schema, **self._overlay.added}

    def make_columns(self) -> None:
        """Read all attribute columns now, in this thread, so that no filtered request has to wait for it."""
        self.columns.build_all()

    def eligible(self, condition: Filter | None = None) -> Eligible:
        """Return the rows that are available and pass the filter; the most recently used ones are cached."""
        if condition is None:
            return self._available
        return self._eligible.get(condition.key, lambda: self._compute_eligible(condition))

    def cached_eligible(self, condition: Filter | None) -> Eligible | None:
        """Return what `eligible` returns if that is cached, else None."""
        if condition is None:
            return self._available
        return self.eligible(condition) if condition.key in self._eligible else None

    def eligible_among(self, condition: Filter, rows: Iterable[int]) -> Eligible:
        """Return which of some rows are available and pass a filter; all other rows count as ineligible.

        For a few rows this takes less time than `eligible`, which evaluates the filter for every item.
        """
        rows_C = np.array([row for row in rows if self._available.rows_R1[row]], dtype=np.int64)
        passes_C = condition.mask(ItemColumns(self.schema, [self.attributes(row) for row in rows_C.tolist()]))
        rows_R1 = np.zeros(len(self) + 1, dtype=np.bool_)
        rows_R1[rows_C[passes_C]] = True
        return Eligible(rows_R1, items=self.items)

    def most_popular(self, eligible: Eligible, k: int, *, hidden_rows: Collection[int] = ()) -> NDArray[np.int64]:
        """Return the k most popular eligible rows that are not hidden, new items last.

        Ties are broken by the smaller row.
        """
        hidden = np.array(list(hidden_rows), dtype=np.int64)
        if eligible.count <= MAX_SORTED:
            rows = eligible.selected[~np.isin(eligible.selected, hidden)]
            return rows[np.argsort(-self.popularity(rows), kind="stable")][:k]
        best: list[NDArray[np.int64]] = []
        start, chunk = 0, max(MIN_CHUNK, 2 * (k + len(hidden)))
        while start < self.items and sum(map(len, best)) < k:
            rows = self.most_popular_rows[start : start + chunk]
            best.append(rows[eligible.rows_R1[rows] & ~np.isin(rows, hidden)])
            start, chunk = start + chunk, 4 * chunk
        new_rows = np.flatnonzero(eligible.rows_R1[self.items + 1 :]) + self.items + 1
        return np.concatenate([*best, new_rows[~np.isin(new_rows, hidden)]])[:k]

    def _latest(
        self, changes: Iterable[ItemChange]
    ) -> tuple[dict[int, ItemChange], list[ItemChange], dict[int, Record]]:
        """Return the latest change of each item, without changes older than those this catalog has.

        Returns those of the bundle's items by row, those of others in the order of their sequences, and by row what the
        first ones replace.
        """
        edits: dict[int, ItemChange] = {}
        others: dict[str, ItemChange] = {}
        replaced: dict[int, Record] = {}
        for change in changes:
            row = self._stored.ids.find(change.item_id)
            latest: ItemChange | Record | None
            if row is None:
                latest = others.get(change.item_id) or self._overlay.other(change.item_id)
                if latest is None or latest.sequence <= change.sequence:
                    others[change.item_id] = change
                continue
            latest = edits.get(row)
            if latest is None and (known := self._overlay.edit(row)) is not None:
                latest = replaced[row] = known
            if latest is None or latest.sequence <= change.sequence:
                edits[row] = change
        in_order = sorted(others.values(), key=lambda change: (change.sequence, change.item_id))
        return edits, in_order, {row: replaced[row] for row in edits if row in replaced}

    def _changed_texts(self, item_ids: Sequence[str]) -> list[ItemText]:
        """Return texts from the cache that all catalogs of a line share.

        A cached text is of this catalog if its item has not changed since, and had not after this catalog.
        """
        overlay = self._overlay
        cached, version_N1, number = overlay.ledger.texts, overlay.ledger.version_N1, overlay.number
        texts = []
        for item_id in item_ids:
            found = cached.get(item_id)
            if found is not None and version_N1[found[0]] == found[1] <= number:
                texts.append(found[2])
            else:
                texts.append(self._changed_text(item_id))
        return texts

    def _changed_text(self, item_id: str) -> ItemText:
        overlay, row = self._overlay, self._stored.ids.row(item_id)
        if row is None:
            new_row = overlay.new_row(item_id)
            return ItemText.of(item_id, b"{}" if new_row is None else to_json(self.attributes(new_row)))
        version = overlay.ledger.version_N1[row]  # before the text is made, so that it is not taken for a later one
        if overlay.changed_N1[row]:
            text = ItemText.of(item_id, to_json(self.attributes(row)))
        else:
            text = self._stored.text(item_id)
        if version <= overlay.number:
            overlay.ledger.keep_text(item_id, row, version, text)
        return text

    def _compute_eligible(self, condition: Filter) -> Eligible:
        """Return the rows that pass a filter, from those of an earlier catalog if that is known."""
        overlay, earlier = self._overlay, self._overlay.ledger.eligible.peek(condition.key)
        rows_T = None if earlier is None else overlay.rows_since(earlier.version)
        if earlier is None or rows_T is None:
            eligible = self._evaluated(condition)
        else:
            eligible = self._brought_up_to_date(condition, earlier, rows_T)
        if earlier is None or earlier.version.number < overlay.number:
            overlay.ledger.eligible.put(condition.key, VersionedEligible(overlay.version, eligible))
        return eligible

    def _brought_up_to_date(self, condition: Filter, earlier: VersionedEligible, rows_T: NDArray[np.int64]) -> Eligible:
        overlay, version = self._overlay, earlier.version
        columns = self._columns_since.get(version.number)
        if columns is None:
            columns = self._columns_since[version.number] = OverlayColumns(
                rows_T, schema=self.schema, logs=overlay.logs, stored=self._stored.columns, since=version.logs
            )
        eligible_T = overlay.available_N1[rows_T]
        if len(rows_T):
            eligible_T &= condition.mask(columns)
        known = version.new if version.rows is overlay.new.rows else 0
        new_M = self._evaluated_new(condition, known)
        new_M[:known] &= earlier.eligible.rows_R1[self.items + 1 : self.items + 1 + known]
        return earlier.eligible.patched(rows_T, eligible_T, new_M)

    def _evaluated(self, condition: Filter) -> Eligible:
        """Evaluate a filter for all rows: the mask of the files, updated at the changed rows."""
        overlay = self._overlay
        passes_N1 = self._stored_mask(condition)
        if self._is_changed and len(overlay.edits):
            passes_N1[self._changed_columns.rows_C] = condition.mask(self._changed_columns)
        new_M = self._evaluated_new(condition, 0)
        return Eligible(np.concatenate([passes_N1 & overlay.available_N1, new_M]), items=self.items)

    def _evaluated_new(self, condition: Filter, start: int) -> NDArray[np.bool_]:
        """Return which rows of new items are shown and pass a filter; it is not evaluated for the first ones."""
        new = self._overlay.new
        eligible_M = new.shown_M.copy()
        if len(eligible_M) > start:
            rows = np.arange(start, len(eligible_M))
            eligible_M[start:] &= condition.mask(OverlayColumns(rows, schema=self.schema, logs=new.logs, stored=None))
        return eligible_M

    def _stored_mask(self, condition: Filter) -> NDArray[np.bool_]:
        """Return mask_N1 of the rows whose stored attributes pass the filter, available or not; row 0 may pass too."""
        bits = self._stored_masks.get(condition.key, lambda: np.packbits(condition.mask(self._stored.columns)))
        return np.unpackbits(bits, count=self.items + 1).view(np.bool_)

    @cached_property
    def _changed_columns(self) -> OverlayColumns:
        overlay = self._overlay
        rows_C = np.flatnonzero(overlay.changed_N1)
        return OverlayColumns(rows_C, schema=self.schema, logs=overlay.logs, stored=self._stored.columns)
