"""Columns of the few items that differ from a bundle's files. N items of the files, C of those that differ, V values.

What a change leaves as it was is taken from the columns of the files, so that no item is read again.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.attributes import Column, Columns, GrowingColumn, Schema
from onward.bundle.files.changes import ItemChange


class OverlayColumns:
    """The attributes of the items that differ, by their place among these. Several threads may use it at once."""

    def __init__(self, stored: Columns, schema: Schema, changes: Mapping[int, ItemChange]) -> None:
        """Take the files' columns, the schema with the changes and, by row, the change of each item that differs.

        A row behind those of the files is one of which they say nothing.
        """
        self.rows_C: NDArray[np.int64] = np.fromiter(changes, np.int64, len(changes))
        self._stored = stored
        self._schema = schema
        self._patches = [change.patch for change in changes.values()]
        self._made: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        """The column of an attribute; two threads may both make it."""
        if name not in self._made:
            patched_C = np.array([name in patch for patch in self._patches], dtype=np.bool_)
            self._made[name] = self._joined(name, patched_C)
        return self._made[name]

    def _joined(self, name: str, patched_C: NDArray[np.bool_]) -> Column:
        """The files' values of the items where they count still, and behind them those of the changes."""
        new = self._new(name, np.flatnonzero(patched_C))
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

    def _new(self, name: str, patched: NDArray[np.int64]) -> Column:
        column = GrowingColumn(self._schema.get(name, "mixed"))
        for place in patched.tolist():
            column.add(place, self._patches[place][name])
        return column.grown(len(self._patches))
