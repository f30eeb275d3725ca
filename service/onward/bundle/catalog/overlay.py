"""The changes of a catalog since its export, so kept that one more change costs what it changes.

An `Overlay` is what one catalog sees, and never changes. A `Ledger` is what the catalogs of one line share: it grows at
its end, and each overlay knows how much of it is its own. Applying changes to the newest overlay of a ledger appends to
it; applying them to an older one begins another ledger. Proportional to the catalog are only copies of two booleans an
item. See decision 46.

Dimension key: N items of the files in rows 1..N, M rows of new items behind them, D embedding, T rows that changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.attribute_logs import NO_ROWS, AttributeLogs, ColumnLogs, GrowingArray, LoggedChange
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.files.attributes import Kind, Schema, kind_of, kind_of_values
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.items import ItemText, StoredItems
from onward.bundle.files.lru_cache import LRUCache
from onward.bundle.files.packed_map import PackedMap

STEP = 32
"""Records that are packed between two pauses."""
REMEMBERED_VERSIONS, REMEMBERED_ROWS = 256, 262_144
"""Versions, and changed rows in all, from which a mask of an earlier version can be brought up to date."""
LEAST_DEAD_ROWS = 1_024
"""Rows of new items that were changed again or deleted, below which they are never removed."""
PAUSE_AFTER = 32
"""Changes between two pauses."""
CACHED_TEXTS = 65_536
FILTER_BYTES = 256 * 2**20
"""Memory for the eligible rows of the filters that were used last."""
NO_ROW = 0
"""In place of the row of a deleted new item."""

Key = TypeVar("Key", str, int)
Pause = Callable[[], object]
"""Called after every few changes, so that a thread in the background can let others run."""


def no_pause() -> None:
    """Go on."""


class Record(NamedTuple):
    """A change as it is packed; the row is that of a new item."""

    sequence: int
    attributes: Mapping[str, Any]
    available: bool | None
    deleted: bool
    row: int = NO_ROW

    @classmethod
    def of(cls, change: ItemChange, row: int = NO_ROW) -> "Record":
        """Return the record of a change."""
        return cls(change.sequence, dict(change.attributes), change.available, change.deleted, row)

    def packed(self) -> tuple[Any, ...]:
        """Return the plain tuple, which is what `marshal` packs."""
        return tuple(self)

    def change(self, item_id: str, vector_D: NDArray[np.float32] | None = None) -> ItemChange:
        """Return the change of an item, which it does not name."""
        return ItemChange(item_id, self.sequence, self.attributes, self.available, self.deleted, vector_D)

    @property
    def patch(self) -> Mapping[str, Any]:
        """The attributes that differ; see `ItemChange.patch`."""
        return self.change("").patch


class NewItems(NamedTuple):
    """The rows of new items that an overlay sees. A row never changes: an item that changes gets another one."""

    rows: "NewRows"
    shown_M: NDArray[np.bool_]
    """Whether the item of each row may be shown."""
    alive_M: NDArray[np.bool_]
    """False for the rows of items that were deleted, or changed since and so have another row."""
    logs: ColumnLogs

    @property
    def size(self) -> int:
        """The number of rows, M."""
        return len(self.shown_M)

    def vectors_MD(self, dimension: int) -> NDArray[np.float32]:
        """Return the vectors of all rows, zeros for an item that has none yet."""
        vectors = self.rows.vectors
        return np.zeros((self.size, dimension), dtype=np.float32) if vectors is None else vectors.view[: self.size]


class NewRows:
    """What the new items of one line of catalogs share; grows at its end."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.has_vector: list[bool] = []
        self.vectors: GrowingArray | None = None
        self.logs = AttributeLogs()
        self.last = 0, ""
        """Sequence and id of the last row: rows are in this order."""

    def append(self, changes: Sequence[ItemChange]) -> None:
        """Append rows, in the order of their sequences."""
        vectors = [change.vector_D for change in changes]
        dimension = next((len(vector_D) for vector_D in vectors if vector_D is not None), None)
        if self.vectors is None and dimension is not None:
            self.vectors = GrowingArray(np.float32, dimension)
            self.vectors.extend(np.zeros((len(self.ids), dimension), dtype=np.float32))
        if self.vectors is not None:
            width = self.vectors.view.shape[1]
            zeros_D = np.zeros(width, dtype=np.float32)
            self.vectors.extend(np.array([zeros_D if vector_D is None else vector_D for vector_D in vectors]))
        self.ids += [change.item_id for change in changes]
        self.has_vector += [vector_D is not None for vector_D in vectors]
        self.last = changes[-1].sequence, changes[-1].item_id

    def vector(self, place: int) -> NDArray[np.float32] | None:
        """Return the vector of a row, None if it has none."""
        return self.vectors.view[place] if self.vectors is not None and self.has_vector[place] else None


class Version(NamedTuple):
    """Which changes a mask was computed from."""

    line: object
    """Identifies the ledger."""
    number: int
    rows: NewRows
    new: int
    """Rows of new items, M."""
    logs: ColumnLogs


class VersionedEligible(NamedTuple):
    """The rows that pass a filter, and the version that they are of."""

    version: Version
    eligible: Eligible

    @property
    def nbytes(self) -> int:
        """What the rows take in memory."""
        return self.eligible.nbytes


class Overlay(NamedTuple):
    """The changes that one catalog sees. Immutable and thread-safe."""

    ledger: "Ledger"
    number: int
    """Grows with each overlay of a ledger."""
    edits: PackedMap[int, tuple[Any, ...]]
    """The packed record of each changed item of the files, by row."""
    others: PackedMap[str, tuple[Any, ...]]
    """The packed record of each item that the files lack, by id; deleted ones included."""
    available_N1: NDArray[np.bool_]
    changed_N1: NDArray[np.bool_]
    logs: ColumnLogs
    new: NewItems
    added: Mapping[str, Kind]
    """The kinds of the attributes that only changes have."""

    @property
    def version(self) -> Version:
        """What identifies these changes, without holding them."""
        return Version(self.ledger.line, self.number, self.new.rows, self.new.size, self.logs)

    def edit(self, row: int) -> Record | None:
        """Return the change of an item of the files, None if it has not changed."""
        packed = self.edits.get(row) if self.changed_N1[row] else None
        return None if packed is None else Record(*packed)

    def other(self, item_id: str) -> Record | None:
        """Return the change of an item that the files lack."""
        packed = self.others.get(item_id)
        return None if packed is None else Record(*packed)

    def new_row(self, item_id: str) -> int | None:
        """Return the row of a new item, None if there is none or if it was deleted."""
        packed = self.others.get(item_id)
        return None if packed is None else packed[-1] or None

    def new_change(self, place: int) -> ItemChange:
        """Return the change at a place among the rows of new items; that of the item's row if it has another one."""
        item_id = self.new.rows.ids[place]
        record = self.other(item_id)
        assert record is not None  # noqa: S101  # no id is ever removed from an overlay
        return record.change(item_id, self.new.rows.vector(place))

    def alive(self) -> Iterator[int]:
        """Yield the places of new items, in the order of their changes."""
        yield from np.flatnonzero(self.new.alive_M).tolist()

    def changes(self, stored: StoredItems) -> Iterator[ItemChange]:
        """Yield all changes: those of the files' items first, then those of others in the order of their sequences."""
        for row, packed in self.edits.records():
            yield Record(*packed).change(stored.ids.read(row))
        others = [(item_id, Record(*packed)) for item_id, packed in self.others.records()]
        for item_id, record in sorted(others, key=lambda item: (item[1].sequence, item[0])):
            place = record.row - len(stored.ids) - 1
            yield record.change(item_id, None if record.deleted else self.new.rows.vector(place))

    def rows_since(self, version: Version) -> NDArray[np.int64] | None:
        """Return the rows of the files that changed after an earlier version, ascending; None if that is unknown."""
        if version.line is not self.ledger.line or version.number > self.number:
            return None
        return self.ledger.rows_between(version.number, self.number)


class Ledger:
    """What a line of overlays shares. One thread may extend it, while others read its overlays."""

    def __init__(self, stored: StoredItems) -> None:
        self._stored = stored
        self.line = object()
        """Identifies this ledger without holding it."""
        self._head: int | None = 0
        """The number of the newest overlay; None while it is extended, and for good if that fails."""
        self.version_N1: memoryview = np.zeros(len(stored.ids) + 1, dtype=np.uint32).data
        """The number of the overlay in which each row changed last. Written before that overlay can be seen."""
        self.texts: dict[str, tuple[int, int, ItemText]] = {}
        """By id: the row, the number of the overlay in which it had changed last, and the text since then."""
        self.eligible = LRUCache[VersionedEligible](FILTER_BYTES)
        """The newest known rows of each filter."""
        self._logs = AttributeLogs()
        self._kinds: dict[str, Counter[Kind]] = {}
        """How many values of each kind changes give to each attribute that the files lack."""
        self._touched: tuple[tuple[int, NDArray[np.int64]], ...] = ()
        """The rows that changed in each of the latest versions, oldest first."""
        self._forgotten = 0
        """The last version whose rows are not in `_touched`."""

    def begin(self) -> Overlay:
        """Return the overlay without changes."""
        stored = self._stored
        no_rows = np.empty(0, dtype=np.bool_)
        return Overlay(
            self,
            0,
            PackedMap(),
            PackedMap(),
            stored.available_N1,
            np.zeros(len(stored.ids) + 1, dtype=np.bool_),
            {},
            NewItems(NewRows(), no_rows, no_rows, {}),
            {},
        )

    def accepts(self, overlay: Overlay, new: Sequence[ItemChange]) -> bool:
        """Return whether changes of new items, in order, come after all that this overlay has, and it is the newest."""
        last = overlay.new.rows.last
        return overlay.number == self._head and (not new or (new[0].sequence, new[0].item_id) > last)

    def rows_between(self, earlier: int, later: int) -> NDArray[np.int64] | None:
        """Return the rows of the files that changed after one version and until another, None if that is unknown."""
        touched = self._touched
        if earlier < self._forgotten:
            return None
        rows = [rows for number, rows in touched if earlier < number <= later]
        return np.unique(np.concatenate(rows)) if rows else NO_ROWS

    def extended(
        self,
        overlay: Overlay,
        edits: Mapping[int, ItemChange],
        others: Sequence[ItemChange],
        before: Mapping[int, Record],
        pause: Pause = no_pause,
    ) -> Overlay:
        """Return the newest overlay with more changes, which replace earlier ones of the same items.

        Args:
            overlay: the newest overlay.
            edits: changes of items of the files, by row.
            others: changes of other items, in the order of their sequences; see `accepts`.
            before: what `edits` replace, by row.
            pause: called after every few changes.
        """
        self._head, number = None, overlay.number + 1
        rarely = _rarely(pause)
        records = {row: Record.of(change) for row, change in edits.items()}
        dead = [record for change in others if (record := overlay.other(change.item_id)) is not None and record.row]
        present = [change for change in others if not change.deleted]
        added = self._added(
            overlay.added,
            [record.patch for record in (*before.values(), *dead)],
            [change.patch for change in (*edits.values(), *present)],
        )
        schema = {**self._stored.schema, **added}
        rekinded = [name for name, kind in added.items() if self._is_of_another_kind(name, kind, overlay.new.rows)]
        logged = self._logs.append(
            (
                LoggedChange(row, change.patch, before[row].patch if row in before else ())
                for row, change in edits.items()
            ),
            schema,
            rarely,
        )
        packed = {row: record.packed() for row, record in records.items()}
        rows_T = np.fromiter(records, np.int64, len(records))
        rows_T.sort()
        available_N1, changed_N1 = self._flags(overlay, edits, rows_T)
        for row in records:
            self.version_N1[row] = number
        new = self._new_items(overlay.new, present, [record.row for record in dead], schema, rarely)
        first = len(self._stored.ids) + 1 + overlay.new.size
        row_of = {change.item_id: first + place for place, change in enumerate(present)}
        other_records = {
            change.item_id: Record.of(change, row_of.get(change.item_id, NO_ROW)).packed() for change in others
        }
        extended = Overlay(
            self,
            number,
            _in_steps(overlay.edits, packed, pause),
            _in_steps(overlay.others, other_records, pause),
            available_N1,
            changed_N1,
            {**overlay.logs, **logged},
            new,
            added,
        )
        self._remember(number, rows_T)
        if rekinded:
            extended = self._with_logs_again(extended, rekinded, schema)
        alive = int(np.count_nonzero(new.alive_M))
        if new.size - alive > max(LEAST_DEAD_ROWS, alive):
            extended = self._without_dead_rows(extended, schema)
        self._head = number
        return extended

    def keep_text(self, item_id: str, row: int, version: int, text: ItemText) -> None:
        """Cache a text."""
        if len(self.texts) >= CACHED_TEXTS:
            self.texts = {}
        self.texts[item_id] = row, version, text

    def _flags(
        self, overlay: Overlay, edits: Mapping[int, ItemChange], rows_T: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which items of the files are available, and which have changed, after more changes."""
        if not edits:
            return overlay.available_N1, overlay.changed_N1
        available_N1 = overlay.available_N1.copy()
        for row, change in edits.items():
            available_N1[row] = change.leaves_available(bool(self._stored.available_N1[row]))
        changed_N1 = overlay.changed_N1
        if not changed_N1[rows_T].all():
            changed_N1 = changed_N1.copy()
            changed_N1[rows_T] = True
        return available_N1, changed_N1

    def _new_items(
        self,
        before: NewItems,
        present: Sequence[ItemChange],
        dead_rows: Sequence[int],
        schema: Schema,
        pause: Pause,
    ) -> NewItems:
        """Return the new items with a row for each of some changes, and without some rows."""
        if not present and not dead_rows:
            return before
        added = np.ones(len(present), dtype=np.bool_)
        alive_M = np.concatenate([before.alive_M, added])
        shown_M = np.concatenate([before.shown_M, np.array([change.shown for change in present], dtype=np.bool_)])
        dead = np.array(dead_rows, dtype=np.int64) - len(self._stored.ids) - 1
        alive_M[dead] = shown_M[dead] = False
        logs = before.logs
        if present:
            before.rows.append(present)
            changes = (LoggedChange(place, change.patch) for place, change in enumerate(present, start=before.size))
            logs = {**logs, **before.rows.logs.append(changes, schema, pause)}
        return NewItems(before.rows, shown_M, alive_M, logs)

    def _added(
        self, added: Mapping[str, Kind], before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]
    ) -> Mapping[str, Kind]:
        """Return the kinds of the attributes that the files lack, after some patches take the place of others."""
        known, counts = self._stored.schema, self._kinds
        concerned: set[str] = set()
        for patches, difference in ((before, -1), (after, 1)):
            for name, value in ((name, value) for patch in patches for name, value in patch.items()):
                if value is not None and name not in known:
                    if name not in counts:
                        counts[name] = Counter()
                    counts[name][kind_of(value)] += difference
                    concerned.add(name)
        if not concerned:
            return added
        kinds = dict(added)
        for name in concerned:
            kinds.pop(name, None)
            counts[name] = +counts[name]
            if counts[name]:
                kinds[name] = kind_of_values(counts[name])
            else:
                del counts[name]
        return kinds

    def _is_of_another_kind(self, name: str, kind: Kind, rows: NewRows) -> bool:
        """Return whether an attribute was written as of another kind; its logs are then removed."""
        kinds = {logs.kind(name) or kind for logs in (self._logs, rows.logs)}
        if kinds == {kind}:
            return False
        self._logs.forget(name)
        rows.logs.forget(name)
        return True

    def _remember(self, number: int, rows_T: NDArray[np.int64]) -> None:
        touched = (*self._touched, (number, rows_T))
        total = sum(len(rows) for _, rows in touched)
        first = 0
        while first < len(touched) and (total > REMEMBERED_ROWS or len(touched) - first > REMEMBERED_VERSIONS):
            total -= len(touched[first][1])
            first += 1
        if first:
            self._forgotten = touched[first - 1][0]
        self._touched = touched[first:]

    def _with_logs_again(self, overlay: Overlay, names: Sequence[str], schema: Schema) -> Overlay:
        """Return an overlay with new logs of attributes whose kind has changed; no earlier mask can be used any more.

        Only attributes that the files lack change their kind, as when the first value that is no date joins dates.
        """
        edited = ((row, Record(*packed)) for row, packed in overlay.edits.records())
        alive = ((place, overlay.other(overlay.new.rows.ids[place])) for place in overlay.alive())
        new = ((place, record) for place, record in alive if record is not None)
        logs = {**overlay.logs, **_logged_again(self._logs, names, edited, schema)}
        new_logs = {**overlay.new.logs, **_logged_again(overlay.new.rows.logs, names, new, schema)}
        self._forgotten, self._touched = overlay.number, ()
        self.eligible.clear()
        return overlay._replace(logs=logs, new=overlay.new._replace(logs=new_logs))

    def _without_dead_rows(self, overlay: Overlay, schema: Schema) -> Overlay:
        """Return an overlay whose new items have consecutive rows, in the same order."""
        changes = [overlay.new_change(place) for place in overlay.alive()]
        no_rows = np.empty(0, dtype=np.bool_)
        new = self._new_items(NewItems(NewRows(), no_rows, no_rows, {}), changes, (), schema, no_pause)
        records = {
            change.item_id: Record.of(change, row).packed()
            for row, change in enumerate(changes, start=len(self._stored.ids) + 1)
        }
        return overlay._replace(new=new, others=overlay.others.updated(records))


def _logged_again(
    logs: AttributeLogs, names: Sequence[str], records: Iterable[tuple[int, Record]], schema: Schema
) -> ColumnLogs:
    for name in names:
        logs.forget(name)
    patches = ((row, record.patch) for row, record in records)
    chosen = ((row, {name: patch[name] for name in names if name in patch}) for row, patch in patches)
    return logs.append((LoggedChange(row, patch) for row, patch in chosen if patch), schema, no_pause)


def _in_steps(
    records: PackedMap[Key, tuple[Any, ...]], changed: Mapping[Key, tuple[Any, ...]], pause: Pause
) -> PackedMap[Key, tuple[Any, ...]]:
    """Update a map in small steps, each followed by a pause."""
    items = iter(changed.items())
    while step := dict(islice(items, STEP)):
        records = records.updated(step)
        pause()
    return records


def _rarely(pause: Pause) -> Pause:
    """Return a function of which every `PAUSE_AFTER`-th call pauses."""
    calls = 0

    def called() -> None:
        nonlocal calls
        calls += 1
        if calls % PAUSE_AFTER == 0:
            pause()

    return called
