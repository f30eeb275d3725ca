"""Item id <-> row, what is known of each item, and which may be shown.

Row 0 pads, rows 1..N are the items of the bundle's files, rows N+1..R the cold ones: items that came since, which the
encoder does not know. Dimension key: N, R as said, M = R - N cold items, D embedding.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from onward.bundle.catalog.eligible import Eligible
from onward.bundle.catalog.filters import Filter
from onward.bundle.catalog.overlay_columns import OverlayColumns
from onward.bundle.files.attributes import Columns, Kind, Schema, infer_schema
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.items import FILTERS_KEPT, ItemText, StoredItems
from onward.bundle.files.lru_cache import LRUCache

SORTED_AT_ONCE = 4_096
LEAST_CHUNK = 256


class Catalog:
    """The items of a bundle with all that changed since. Ids are compared byte for byte, without normalisation.

    Immutable; several threads may use it at once.
    """

    def __init__(
        self,
        stored: StoredItems,
        *,
        available_N1: NDArray[np.bool_],
        changes: Mapping[str, ItemChange],
        cold: Sequence[ItemChange],
    ) -> None:
        """Take the stored items and, of the changes, what they mean.

        Args:
            stored: the items of the files.
            available_N1: which of these may be shown now.
            changes: the newest of each item.
            cold: the changes that brought the items of rows N+1..R, in that order.
        """
        self.cold = cold
        self.items = len(stored.ids)
        """N"""
        self._stored = stored
        self._available_N1 = available_N1
        self._changes = changes
        self._cold_rows = {change.item_id: row for row, change in enumerate(cold, start=len(stored.ids) + 1)}
        self._eligible = LRUCache[Eligible](FILTERS_KEPT)
        self._available = self._found_eligible(None)

    @classmethod
    def load(cls, folder: Path, items: int, schema: Schema | None = None) -> "Catalog":
        """Read the catalog of `items` items from a bundle's folder; a schema not given is inferred on demand.

        Raises BundleError.
        """
        stored = StoredItems.load(folder, items, schema or {})
        return cls(stored, available_N1=stored.available_N1, changes={}, cold=())

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
            folder: where to.
            ids: the id of each row from 1 on, N in all.
            popularity: (N + 1,), non-negative, by row; [0] is written as 0.
            attributes: one object for each row from 1 on, {} where nothing is known; plain JSON values.
            available: (N + 1,), by row; [0] is written as False.

        Raises BundleError where an id is unusable or repeated, or a length or value does not fit.
        """
        return StoredItems.write(folder, ids, popularity, attributes, available)

    def changed(self, changes: Iterable[ItemChange]) -> "Catalog":
        """Return the catalog after these changes, of which the newest of an item replaces all before.

        A deleted item of the bundle keeps its row, so that sessions with it are understood, and is never shown; a
        deleted cold one has none. Cold rows are in the order of their sequences. Costs what the changes do, and the
        copy of N booleans.
        """
        newer = self._newer(changes)
        available_N1 = self._available_N1.copy()
        for change in newer.values():
            if (row := self._stored.ids.row(change.item_id)) is not None:
                available_N1[row] = change.leaves_available(bool(self._stored.available_N1[row]))
        return Catalog(
            self._stored,
            available_N1=available_N1,
            changes={**self._changes, **newer},
            cold=self._cold_after(newer.values()),
        )

    def __len__(self) -> int:
        """R"""
        return len(self._stored.ids) + len(self.cold)

    def __contains__(self, item_id: str) -> bool:
        return self.row(item_id) is not None

    @property
    def popularity_N1(self) -> NDArray[np.float32]:
        """Of the items of the bundle; cold ones have none."""
        return self._stored.popularity_N1

    @property
    def available_N1(self) -> NDArray[np.bool_]:
        """Whether an item of the bundle may be shown."""
        return self._available_N1

    @property
    def most_popular_rows(self) -> NDArray[np.int64]:
        """Rows 1..N, shown or not, the most popular first, then the earlier one."""
        return self._stored.most_popular_rows

    def row(self, item_id: str) -> int | None:
        """Return the item's row, None where the catalog does not have it; a deleted item of the bundle has one."""
        return self._stored.ids.row(item_id) or self._cold_rows.get(item_id)

    def rows(self, item_ids: Sequence[str]) -> list[int | None]:
        """Return the rows of some items, as `row` does."""
        rows = self._stored.ids.rows(item_ids)
        if self._cold_rows and None in rows:
            return [row or self._cold_rows.get(item_id) for row, item_id in zip(rows, item_ids, strict=True)]
        return rows

    def item_id(self, row: int) -> str:
        """Return the id of a row from 1..R."""
        return self._stored.ids.id_of(row) if row <= self.items else self.cold[row - 1 - self.items].item_id

    def item_ids(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of some rows from 1..R."""
        if max(rows, default=0) <= self.items:
            return self._stored.ids.ids_of(rows)
        return [self.item_id(row) for row in rows]

    def is_deleted(self, item_id: str) -> bool:
        """Whether the item was deleted since the bundle was made, be it one of the bundle or not."""
        return item_id in self._changes and self._changes[item_id].deleted

    def attributes(self, row: int) -> Mapping[str, Any]:
        """Read the attributes that the item of a row from 1..R has now."""
        if row > self.items:
            return self.cold[row - 1 - self.items].applied_to({})
        attributes, change = self._stored.attributes(row), self._changes.get(self._stored.ids.id_of(row))
        return attributes if change is None else change.applied_to(attributes)

    def texts(self, item_ids: Sequence[str]) -> list[ItemText]:
        """Write some items, which the catalog must have, as answers show them now."""
        if not self._changes:
            return self._stored.texts(item_ids)
        return [self._text(item_id) for item_id in item_ids]

    def popularity(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The popularity of some rows from 1..R, 0 for cold ones."""
        return self.popularity_N1[np.where(rows > self.items, 0, rows)]

    def cold_vectors_MD(self, dimension: int) -> NDArray[np.float32]:
        """The vectors of rows N+1..R; zeros for an item that has none yet."""
        vectors_MD = np.zeros((len(self.cold), dimension), dtype=np.float32)
        for place, change in enumerate(self.cold):
            if change.vector_D is not None:
                vectors_MD[place] = change.vector_D
        return vectors_MD

    @property
    def columns(self) -> Columns:
        """The attributes of rows 1..N as the bundle's files have them, without what changed since."""
        return self._stored.columns

    @cached_property
    def schema(self) -> Schema:
        """The kind of every attribute; of one that the bundle knows it is the bundle's, whatever came since."""
        return infer_schema((change.patch for change in self._differing.values()), known=self._stored.schema)

    def make_columns(self) -> None:
        """Read all attributes now, in this thread, so that no request with a filter waits for it."""
        self.columns.make_all()

    def eligible(self, condition: Filter | None = None) -> Eligible:
        """Return the rows that may be shown and that the filter lets through; the last ones asked for are kept."""
        if condition is None:
            return self._available
        return self._eligible.get(condition.key, lambda: self._found_eligible(condition))

    def knows_eligible(self, condition: Filter | None) -> bool:
        """Whether `eligible` has only to look up what the filter lets through, not to find it out."""
        return condition is None or condition.key in self._eligible

    def most_popular(self, eligible: Eligible, k: int, *, hidden_rows: Collection[int] = ()) -> NDArray[np.int64]:
        """Return the k most popular rows that may be shown, and of equals the earlier one; cold items come last."""
        hidden = np.array(list(hidden_rows), dtype=np.int64)
        if eligible.count <= SORTED_AT_ONCE:
            rows = eligible.selected[~np.isin(eligible.selected, hidden)]
            return rows[np.argsort(-self.popularity(rows), kind="stable")][:k]
        best: list[NDArray[np.int64]] = []
        start, chunk = 0, max(LEAST_CHUNK, 2 * (k + len(hidden)))
        while start < self.items and sum(map(len, best)) < k:
            rows = self.most_popular_rows[start : start + chunk]
            best.append(rows[eligible.rows_R1[rows] & ~np.isin(rows, hidden)])
            start, chunk = start + chunk, 4 * chunk
        cold_rows = np.flatnonzero(eligible.rows_R1[self.items + 1 :]) + self.items + 1
        return np.concatenate([*best, cold_rows[~np.isin(cold_rows, hidden)]])[:k]

    def _newer(self, changes: Iterable[ItemChange]) -> dict[str, ItemChange]:
        """The last of each item that is no older than what is known of it."""
        newer: dict[str, ItemChange] = {}
        for change in changes:
            known = newer.get(change.item_id) or self._changes.get(change.item_id)
            if known is None or known.sequence <= change.sequence:
                newer[change.item_id] = change
        return newer

    def _cold_after(self, newer: Collection[ItemChange]) -> Sequence[ItemChange]:
        came = {change.item_id: change for change in newer if self._stored.ids.row(change.item_id) is None}
        if not came:
            return self.cold
        known = {change.item_id: change for change in self.cold} | came
        present = (change for change in known.values() if not change.deleted)
        return sorted(present, key=lambda change: (change.sequence, change.item_id))

    def _text(self, item_id: str) -> ItemText:
        if item_id not in self._changes:
            return self._stored.texts([item_id])[0]
        row = self._stored.ids.row(item_id) or self._cold_rows[item_id]
        return ItemText.of(item_id, to_json(self.attributes(row)))

    def _found_eligible(self, condition: Filter | None) -> Eligible:
        rows_R1 = np.concatenate([self._available_N1, [change.shown for change in self.cold]]).astype(np.bool_)
        if condition is not None:
            rows_R1 &= self._passing(condition)
        return Eligible(rows_R1, items=self.items)

    def _passing(self, condition: Filter) -> NDArray[np.bool_]:
        """passing_R1: by the files, but for the rows that differ from them."""
        passing_R1 = np.zeros(len(self) + 1, dtype=np.bool_)
        passing_R1[: self.items + 1] = self._stored.passing(condition)
        if self._differing:
            passing_R1[self._changed_columns.rows_C] = condition.mask(self._changed_columns)
        return passing_R1

    @cached_property
    def _differing(self) -> Mapping[int, ItemChange]:
        """The changes by the rows whose attributes are not, or not as they are now, in the bundle's files."""
        edited = {
            row: change
            for item_id, change in self._changes.items()
            if change.edits and (row := self._stored.ids.row(item_id)) is not None
        }
        return edited | dict(enumerate(self.cold, start=self.items + 1))

    @cached_property
    def _changed_columns(self) -> OverlayColumns:
        return OverlayColumns(self._stored.columns, self.schema, self._differing)
