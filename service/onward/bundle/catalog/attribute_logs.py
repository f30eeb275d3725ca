"""Attribute logs: the attributes that changes set, as columns of numbers that grow at their end.

A view of a log stays as it is while the log grows, so that each catalog sees its own changes and shares their memory
with the next one. A value takes 13 bytes. Dimension key: E entries of a log, C rows that are asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.attributes import VALUE_TYPES, Kind, Schema, comparable, singles_of

FIRST, PATCHED, PRESENT, VALUE = 1, 2, 4, 8
"""Bits of a state: the first entry of a change, which replaces all earlier entries of its row; the change sets or
removes the attribute; sets it; to something that compares as a number. A first entry alone undoes an earlier change."""
LEAST_COMPACTED = 65_536
"""Entries below which a log is never compacted."""

NO_ROWS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


class ColumnLog(NamedTuple):
    """A view of the log of one attribute: for each entry its row, number and state, in the order of the changes."""

    kind: Kind
    rows_E: NDArray[np.int32]
    numbers_E: NDArray[Any]
    states_E: NDArray[np.uint8]
    era: object
    """Another one after entries were removed; within an era, a longer view continues a shorter one."""

    def since(self, earlier: "ColumnLog | None") -> "ColumnLog":
        """Return the entries that an earlier view lacks; all of them if that is of another era."""
        if earlier is None or earlier.era is not self.era:
            return self
        start = len(earlier.rows_E)
        return self._replace(
            rows_E=self.rows_E[start:], numbers_E=self.numbers_E[start:], states_E=self.states_E[start:]
        )


ColumnLogs = Mapping[str, ColumnLog]
"""By attribute."""


class LoggedChange(NamedTuple):
    """The attributes that a change sets at a row, and the names that the change before it set."""

    row: int
    patch: Mapping[str, Any]
    before: Iterable[str] = ()


class GrowingArray:
    """An array that grows at its end. Views that were taken stay valid; only one thread may extend it."""

    def __init__(self, dtype: type[np.generic], width: int | None = None) -> None:
        """Make an empty array, of rows of `width` numbers if given."""
        self._buffer: NDArray[Any] = np.empty((0,) if width is None else (0, width), dtype=dtype)
        self._length = 0

    @property
    def view(self) -> NDArray[Any]:
        """The present content."""
        return self._buffer[: self._length]

    def extend(self, values: NDArray[Any]) -> None:
        """Append values."""
        end = self._length + len(values)
        if end > len(self._buffer):
            grown = np.empty((max(64, end + end // 4), *self._buffer.shape[1:]), dtype=self._buffer.dtype)
            grown[: self._length] = self.view
            self._buffer = grown
        self._buffer[self._length : end] = values
        self._length = end


class AttributeLogs:
    """The logs of all attributes. Only one thread may append; the views are immutable."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}

    def append(self, changes: Iterable[LoggedChange], schema: Schema, pause: Callable[[], object]) -> ColumnLogs:
        """Append changes, each row at most once; return new views of the attributes that they concern."""
        entries: dict[str, _Entries] = {}
        for row, patch, before in changes:
            for name, value in patch.items():
                _entries(entries, name, schema).add(row, value)
            for name in before:
                if name not in patch:
                    _entries(entries, name, schema).undo(row)
            pause()
        return {name: self._extended(name, new) for name, new in entries.items()}

    def kind(self, name: str) -> Kind | None:
        """Return the kind as which an attribute was written, None if it has no log."""
        log = self._logs.get(name)
        return None if log is None else log.kind

    def forget(self, name: str) -> None:
        """Remove the log of an attribute, so that it can be written again with another kind."""
        self._logs.pop(name, None)

    def _extended(self, name: str, new: "_Entries") -> ColumnLog:
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = _Log(new.kind)
        log.extend(new)
        return log.view


class _Entries:
    """Entries of one attribute that are about to be appended."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.rows: list[int] = []
        self.numbers: list[float] = []
        self.states: list[int] = []

    def add(self, row: int, value: Any) -> None:
        if value is None:
            self._add(row, 0, FIRST | PATCHED)
            return
        state = FIRST | PATCHED | PRESENT
        for single in singles_of(self.kind, value):
            if (number := comparable(self.kind, single)) is not None:
                self._add(row, number, state | VALUE)
                state &= ~FIRST
        if state & FIRST:
            self._add(row, 0, state)

    def undo(self, row: int) -> None:
        self._add(row, 0, FIRST)

    def _add(self, row: int, number: float, state: int) -> None:
        self.rows.append(row)
        self.numbers.append(number)
        self.states.append(state)


class _Log:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._rows, self._states = GrowingArray(np.int32), GrowingArray(np.uint8)
        self._numbers = GrowingArray(VALUE_TYPES.get(kind, np.int64))
        self._era = object()
        self._compact_at = LEAST_COMPACTED

    @property
    def view(self) -> ColumnLog:
        return ColumnLog(self.kind, self._rows.view, self._numbers.view, self._states.view, self._era)

    def extend(self, new: _Entries) -> None:
        self._rows.extend(np.array(new.rows, dtype=np.int32))
        self._numbers.extend(np.array(new.numbers, dtype=VALUE_TYPES.get(self.kind, np.int64)))
        self._states.extend(np.array(new.states, dtype=np.uint8))
        if len(self._rows.view) > self._compact_at:
            self._compact()

    def _compact(self) -> None:
        """Keep the latest entries of each row that still patch it, in new arrays: views of the old ones stay."""
        rows_E, states_E = self._rows.view, self._states.view
        kept = latest_entries(rows_E, states_E)
        kept = kept[states_E[kept] & PATCHED != 0]
        for name in ("_rows", "_numbers", "_states"):
            old: GrowingArray = getattr(self, name)
            new = GrowingArray(old.view.dtype.type)
            new.extend(old.view[kept])
            setattr(self, name, new)
        self._era = object()
        self._compact_at = max(LEAST_COMPACTED, 2 * len(kept))


def latest_entries(rows_E: NDArray[np.integer[Any]], states_E: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the places of the entries of each row's last change, ascending."""
    if not len(rows_E):
        return NO_ROWS
    start_R = np.zeros(int(rows_E.max()) + 1, dtype=np.int64)
    firsts = np.flatnonzero(states_E & FIRST)
    start_R[rows_E[firsts]] = firsts  # of several firsts of a row the last one stays
    return np.flatnonzero(np.arange(len(rows_E)) >= start_R[rows_E])


def _entries(entries: dict[str, _Entries], name: str, schema: Schema) -> _Entries:
    found = entries.get(name)
    if found is None:
        found = entries[name] = _Entries(schema.get(name, "mixed"))
    return found
