"""Attribute columns of the few items that changed since the export, computed from the files' columns and the changes.

Values that a change leaves alone are copied from the files' columns, so that no item is read again.
Dimension key: N items of the files, C changed items, V values.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.attributes import Column, ColumnBuilder, Columns, Schema
from onward.bundle.files.changes import ItemChange


class OverlayColumns:
    """The attributes of C changed items, numbered by their place in `rows_C`. Thread-safe; computed on first use."""

    def __init__(self, stored: Columns, schema: Schema, changes: Mapping[int, ItemChange]) -> None:
        """Take the files' columns, the schema after the changes, and the change of each changed row.

        A row after the last one of the files is a new item.
        """
        self.rows_C: NDArray[np.int64] = np.fromiter(changes, np.int64, len(changes))
        self._stored = stored
        self._schema = schema
        self._patches = [change.patch for change in changes.values()]
        self._columns: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        """Return the column of an attribute; two threads may both compute it."""
        if name not in self._columns:
            patched_C = np.array([name in patch for patch in self._patches], dtype=np.bool_)
            self._columns[name] = self._merged(name, patched_C)
        return self._columns[name]

    def _merged(self, name: str, patched_C: NDArray[np.bool_]) -> Column:
        """Join the files' values, for items whose change does not set the attribute, with those that changes set."""
        new = self._changed(name, np.flatnonzero(patched_C))
        if name not in self._stored.schema:
            return new
        old = self._stored[name]
        kept_C = np.flatnonzero(~patched_C & (self.rows_C < self._stored.size))
        place_N1 = np.full(self._stored.size, -1, dtype=np.int32)
        place_N1[self.rows_C[kept_C]] = kept_C
        places_V = place_N1[old.rows_V]
        kept_V = places_V >= 0
        present_C = new.present_R.copy()
        present_C[kept_C] = old.present_R[self.rows_C[kept_C]]
        return Column(
            new.kind,
            present_C,
            np.concatenate([old.values_V[kept_V], new.values_V]),
            np.concatenate([places_V[kept_V], new.rows_V]),
        )

    def _changed(self, name: str, patched: NDArray[np.int64]) -> Column:
        builder = ColumnBuilder(self._schema.get(name, "mixed"))
        for place in patched.tolist():
            builder.add(place, self._patches[place][name])
        return builder.build(len(self._patches))
