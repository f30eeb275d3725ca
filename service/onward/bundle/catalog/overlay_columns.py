"""Attribute columns of a few rows, or of all that changed: the files' values where no change sets the attribute.

Nothing is parsed: values come from the files' columns and from the logs of changes, by array operations alone.
Dimension key: N items of the files, C rows, E entries of a log, V values.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.attribute_logs import FIRST, PATCHED, PRESENT, VALUE, ColumnLog, ColumnLogs
from onward.bundle.files.attributes import VALUE_TYPES, Column, Columns, Schema

SEARCHED_SHARE = 16
"""Fewer rows than 1 / this of a column's values are found by bisection, more by one pass over the values."""


class OverlayColumns:
    """The attributes of C rows, numbered by their place in `rows_C`. Computed on first use; thread-safe."""

    def __init__(
        self,
        rows_C: NDArray[np.int64],
        *,
        schema: Schema,
        logs: ColumnLogs,
        stored: Columns | None,
        since: ColumnLogs | None = None,
    ) -> None:
        """Take the rows and where their attributes are.

        Args:
            rows_C: the rows, ascending.
            schema: the kind of every attribute after the changes.
            logs: what changes set.
            stored: the columns of the files; None for new items, which the files lack.
            since: earlier views of the logs, if all rows changed after these.
        """
        self.rows_C = rows_C
        self._schema = schema
        self._logs = logs
        self._stored = stored
        self._since = since
        self._columns: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        """Return the column of an attribute; two threads may both compute it."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self._column(name)
        return column

    def _column(self, name: str) -> Column:
        size = len(self.rows_C)
        kind = self._schema.get(name, "mixed")
        present_C, patched_C = np.zeros(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_)
        values: list[NDArray[Any]] = [np.empty(0, dtype=VALUE_TYPES.get(kind, np.int64))]
        places: list[NDArray[Any]] = [np.empty(0, dtype=np.int32)]
        log = self._logs.get(name)
        if log is not None and size:
            log = log if self._since is None else log.since(self._since.get(name))
            self._add_changes(log, present_C, patched_C, values, places)
        if self._stored is not None and name in self._stored.schema:
            self._add_stored(self._stored[name], present_C, patched_C, values, places)
        return Column(kind, present_C, np.concatenate(values), np.concatenate(places).astype(np.int32, copy=False))

    def _add_changes(
        self,
        log: ColumnLog,
        present_C: NDArray[np.bool_],
        patched_C: NDArray[np.bool_],
        values: list[NDArray[Any]],
        places: list[NDArray[Any]],
    ) -> None:
        """Mark what the last change of each row sets, and add its values."""
        place_E = np.minimum(np.searchsorted(self.rows_C, log.rows_E), len(self.rows_C) - 1)
        entries = np.flatnonzero(self.rows_C[place_E] == log.rows_E)
        place_E, states_E = place_E[entries], log.states_E[entries]
        start_C = np.zeros(len(self.rows_C), dtype=np.int64)
        firsts = np.flatnonzero(states_E & FIRST)
        start_C[place_E[firsts]] = firsts  # of several firsts of a row the last one stays
        latest = np.flatnonzero(np.arange(len(entries)) >= start_C[place_E])
        place_E, states_E, entries = place_E[latest], states_E[latest], entries[latest]
        patched_C[place_E] = states_E & PATCHED != 0
        present_C[place_E] = states_E & PRESENT != 0
        with_value = states_E & VALUE != 0
        values.append(log.numbers_E[entries[with_value]])
        places.append(place_E[with_value])

    def _add_stored(
        self,
        column: Column,
        present_C: NDArray[np.bool_],
        patched_C: NDArray[np.bool_],
        values: list[NDArray[Any]],
        places: list[NDArray[Any]],
    ) -> None:
        """Add the files' values of the rows where no change sets the attribute."""
        kept_C = np.flatnonzero(~patched_C)
        rows = self.rows_C[kept_C]
        present_C[kept_C] = column.present_R[rows]
        if column.is_ascending and SEARCHED_SHARE * len(rows) < len(column.rows_V):
            start_C, end_C = (np.searchsorted(column.rows_V, rows, side) for side in ("left", "right"))
            counts_C = end_C - start_C
            before_C = np.cumsum(counts_C) - counts_C
            found = np.repeat(start_C - before_C, counts_C) + np.arange(int(counts_C.sum()))
            values.append(column.values_V[found])
            places.append(np.repeat(kept_C, counts_C))
            return
        place_N1 = np.full(len(column.present_R), -1, dtype=np.int32)
        place_N1[rows] = kept_C
        place_V = place_N1[column.rows_V]
        found = np.flatnonzero(place_V >= 0)
        values.append(column.values_V[found])
        places.append(place_V[found])
