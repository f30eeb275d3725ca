"""The catalog: item ids and rows, attributes, popularity, and the items that may be shown.

Row 0 pads, rows 1..N are the items of the bundle's files, rows N+1..R are new items: added since the export and unknown
to the encoder. Dimension key: N, R as above, M = R - N new items, D embedding.
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
from onward.bundle.catalog.overlay_columns import OverlayColumns
from onward.bundle.files.attributes import Columns, ItemColumns, Kind, Schema, infer_schema
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.items import ItemText, StoredItems
from onward.bundle.files.lru_cache import LRUCache

CACHED_FILTERS = 64
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
        available_N1: NDArray[np.bool_],
        changes: Mapping[str, ItemChange],
        new_items: Sequence[ItemChange],
        stored_masks: LRUCache[NDArray[np.bool_]] | None = None,
    ) -> None:
        """Combine the stored items with the changes since the export.

        Args:
            stored: the items of the files.
            available_N1: which of these may be shown now.
            changes: the latest change of each changed item.
            new_items: the changes that added the items of rows N+1..R, in that order.
            stored_masks: filter masks of the stored items, which all catalogs of these files share.
        """
        self.new_items = new_items
        self.items = len(stored.ids)
        """N"""
        self._stored = stored
        self._available_N1 = available_N1
        self._changes = changes
        self._new_rows = {change.item_id: row for row, change in enumerate(new_items, start=len(stored.ids) + 1)}
        self._stored_masks = LRUCache[NDArray[np.bool_]](CACHED_FILTERS) if stored_masks is None else stored_masks
        self._eligible = LRUCache[Eligible](CACHED_FILTERS)
        self._available = self._compute_eligible(None)

    @classmethod
    def load(cls, folder: Path, items: int, schema: Schema | None = None) -> "Catalog":
        """Read the catalog of `items` items from a bundle's folder; without a schema it is inferred on first use.

        Raises BundleError.
        """
        stored = StoredItems.load(folder, items, schema or {})
        return cls(stored, available_N1=stored.available_N1, changes={}, new_items=())

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

    def changed(self, changes: Iterable[ItemChange]) -> "Catalog":
        """Return the catalog after these changes; the latest change of an item replaces all earlier ones.

        A deleted item of the bundle keeps its row, so that the encoder still reads it in sessions, and is never shown;
        a deleted new item has no row. New rows are ordered by the sequence of their change. The cost is proportional
        to the number of changes, plus a copy of N booleans.
        """
        latest = self._latest(changes)
        available_N1 = self._available_N1.copy()
        for change in latest.values():
            if (row := self._stored.ids.row(change.item_id)) is not None:
                available_N1[row] = change.leaves_available(bool(self._stored.available_N1[row]))
        return Catalog(
            self._stored,
            available_N1=available_N1,
            changes={**self._changes, **latest},
            new_items=self._new_items_after(latest.values()),
            stored_masks=self._stored_masks,
        )

    def __len__(self) -> int:
        """R"""
        return len(self._stored.ids) + len(self.new_items)

    def __contains__(self, item_id: str) -> bool:
        return self.row(item_id) is not None

    @property
    def popularity_N1(self) -> NDArray[np.float32]:
        """The popularity of the bundle's items; new items have none."""
        return self._stored.popularity_N1

    @property
    def available_N1(self) -> NDArray[np.bool_]:
        """Whether each of the bundle's items may be shown."""
        return self._available_N1

    @property
    def most_popular_rows(self) -> NDArray[np.int64]:
        """Rows 1..N, available or not, most popular first; ties are broken by the smaller row."""
        return self._stored.most_popular_rows

    def row(self, item_id: str) -> int | None:
        """Return the item's row, None if the catalog does not have it; a deleted item of the bundle has one."""
        return self._stored.ids.row(item_id) or self._new_rows.get(item_id)

    def rows(self, item_ids: Sequence[str]) -> list[int | None]:
        """Return the row of each item, as `row` does."""
        rows = self._stored.ids.rows(item_ids)
        if self._new_rows and None in rows:
            return [row or self._new_rows.get(item_id) for row, item_id in zip(rows, item_ids, strict=True)]
        return rows

    def item_id(self, row: int) -> str:
        """Return the id of a row from 1..R."""
        return self._stored.ids.id_of(row) if row <= self.items else self.new_items[row - 1 - self.items].item_id

    def item_ids(self, rows: Sequence[int]) -> list[str]:
        """Return the id of each row from 1..R."""
        if max(rows, default=0) <= self.items:
            return self._stored.ids.ids_of(rows)
        return [self.item_id(row) for row in rows]

    @property
    def id_content(self) -> mmap:
        """The mapped file of the ids of rows 1..N, for `IdLines`."""
        return self._stored.ids.content

    def is_deleted(self, item_id: str) -> bool:
        """Return whether the item was deleted since the export, whether or not the bundle contains it."""
        return item_id in self._changes and self._changes[item_id].deleted

    def lacks_vector(self, item_id: str) -> bool:
        """Return whether this is a new item that is available, but cannot be shown before it has a vector."""
        row = self._new_rows.get(item_id)
        if row is None:
            return False
        change = self.new_items[row - 1 - self.items]
        return change.leaves_available(True) and not change.shown

    def attributes(self, row: int) -> Mapping[str, Any]:
        """Return the current attributes of a row from 1..R."""
        if row > self.items:
            return self.new_items[row - 1 - self.items].applied_to({})
        attributes, change = self._stored.attributes(row), self._changes.get(self._stored.ids.id_of(row))
        return attributes if change is None else change.applied_to(attributes)

    @property
    def changes(self) -> Mapping[str, ItemChange]:
        """The latest change of each item that was changed since the export, by id."""
        return self._changes

    def exported_items(self, rows: Iterable[int]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the id and the exported attributes of rows from 1..N; nothing is cached, so that all may be read."""
        return self._stored.read(rows)

    def texts(self, item_ids: Sequence[str]) -> list[ItemText]:
        """Return JSON texts of items, which the catalog must have, with their current attributes."""
        if self._changes:
            return [self._text(item_id) for item_id in item_ids]
        try:
            return list(map(self._stored.cached_texts.__getitem__, item_ids))
        except KeyError:
            return list(map(self._stored.text, item_ids))

    def popularity(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the popularity of each row from 1..R, 0 for new items."""
        return self.popularity_N1[np.where(rows > self.items, 0, rows)]

    def new_vectors_MD(self, dimension: int) -> NDArray[np.float32]:
        """Return the vectors of rows N+1..R; zeros for an item that has none yet."""
        vectors_MD = np.zeros((len(self.new_items), dimension), dtype=np.float32)
        for place, change in enumerate(self.new_items):
            if change.vector_D is not None:
                vectors_MD[place] = change.vector_D
        return vectors_MD

    @property
    def columns(self) -> Columns:
        """The attributes of rows 1..N as exported, without later changes."""
        return self._stored.columns

    @cached_property
    def schema(self) -> Schema:
        """The kind of every attribute; changes add attributes but do not change the kinds of the bundle's."""
        return infer_schema((change.patch for change in self._changed_rows.values()), known=self._stored.schema)

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

    def _latest(self, changes: Iterable[ItemChange]) -> dict[str, ItemChange]:
        """Return the latest change of each item, without changes older than those this catalog has."""
        latest: dict[str, ItemChange] = {}
        for change in changes:
            known = latest.get(change.item_id) or self._changes.get(change.item_id)
            if known is None or known.sequence <= change.sequence:
                latest[change.item_id] = change
        return latest

    def _new_items_after(self, latest: Collection[ItemChange]) -> Sequence[ItemChange]:
        added = {change.item_id: change for change in latest if self._stored.ids.row(change.item_id) is None}
        if not added:
            return self.new_items
        known = {change.item_id: change for change in self.new_items} | added
        present = (change for change in known.values() if not change.deleted)
        return sorted(present, key=lambda change: (change.sequence, change.item_id))

    def _text(self, item_id: str) -> ItemText:
        if item_id not in self._changes:
            return self._stored.text(item_id)
        row = self._stored.ids.row(item_id) or self._new_rows[item_id]
        return ItemText.of(item_id, to_json(self.attributes(row)))

    def _compute_eligible(self, condition: Filter | None) -> Eligible:
        rows_R1 = np.concatenate([self._available_N1, [change.shown for change in self.new_items]]).astype(np.bool_)
        if condition is not None:
            rows_R1 &= self._mask(condition)
        return Eligible(rows_R1, items=self.items)

    def _mask(self, condition: Filter) -> NDArray[np.bool_]:
        """Return mask_R1 of the rows that pass the filter: the mask of the files, updated at the changed rows."""
        mask_R1 = np.zeros(len(self) + 1, dtype=np.bool_)
        mask_R1[: self.items + 1] = self._stored_mask(condition)
        if self._changed_rows:
            mask_R1[self._changed_columns.rows_C] = condition.mask(self._changed_columns)
        return mask_R1

    def _stored_mask(self, condition: Filter) -> NDArray[np.bool_]:
        """Return mask_N1 of the rows whose stored attributes pass the filter, available or not; row 0 may pass too."""
        return self._stored_masks.get(condition.key, lambda: condition.mask(self._stored.columns))

    @cached_property
    def _changed_rows(self) -> Mapping[int, ItemChange]:
        """The changes by row, for the rows whose attributes differ from the bundle's files."""
        edited = {
            row: change
            for item_id, change in self._changes.items()
            if change.edits and (row := self._stored.ids.row(item_id)) is not None
        }
        return edited | dict(enumerate(self.new_items, start=self.items + 1))

    @cached_property
    def _changed_columns(self) -> OverlayColumns:
        return OverlayColumns(self._stored.columns, self.schema, self._changed_rows)
