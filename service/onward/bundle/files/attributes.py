"""The kinds of item attributes, and their values as columns, which filters compare.

Dimension key: R items of a table, V values of an attribute.
"""

import re
import threading
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["number", "string", "strings", "boolean", "date", "mixed"]
Schema = Mapping[str, Kind]

VALUE_TYPES: Mapping[Kind, type[np.generic]] = {"number": np.float64, "boolean": np.int8}
"""NumPy types of a column's values; int64 for all other kinds."""
CACHED_DATES = 4_096

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)


def infer_schema(items: Iterable[Mapping[str, Any]], known: Schema = MappingProxyType({})) -> dict[str, Kind]:
    """Return the kind of every attribute of the items; attributes in `known` keep their kind.

    None counts as absent. Strings that are all RFC 3339 dates, with or without a time, are dates; a time without an
    offset is UTC. Attributes with values of more than one kind, or with objects, are mixed.
    """
    inferred: dict[str, Kind] = {}
    for attributes in items:
        for name, value in attributes.items():
            if value is not None and name not in known and (kind := inferred.get(name)) != "mixed":
                inferred[name] = kind_of(value) if kind is None else _common_kind(kind, value)
    return {**known, **inferred}


def kind_of_values(kinds: Iterable[Kind]) -> Kind:
    """Return the kind of an attribute whose values are of these kinds, of at least one."""
    distinct = set(kinds)
    if len(distinct) == 1:
        return distinct.pop()
    return "string" if distinct == {"date", "string"} else "mixed"


def fits(kind: Kind, value: Any) -> bool:
    """Return whether a value is of the kind; None fits every kind."""
    return value is None or _common_kind(kind, value) == kind


def comparable(kind: Kind, value: Any) -> float | int | None:
    """Return the number that stands for a value in comparisons; None if the value is of another kind.

    For the kind `strings` the value is one string of the list. A number is compared as a 64-bit float, a date as
    microseconds since 1970, a string by 64 bits of its BLAKE2 digest: the probability that a string collides with one
    of a million others is 10^-13.
    """
    return _COMPARABLE[kind](value)


@dataclass(frozen=True)
class Column:
    """One attribute of R items: values_V[v], a number of `comparable`, belongs to row rows_V[v].

    An item without the attribute, or with a value of another kind, has no value; a list has any number of values.
    """

    kind: Kind
    present_R: NDArray[np.bool_]
    """Whether each item has the attribute, whatever the kind of its value."""
    values_V: NDArray[np.generic]
    rows_V: NDArray[np.int32]

    def rows_where(self, matches_V: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return mask_R of the rows with at least one matching value."""
        mask_R = np.zeros(len(self.present_R), dtype=np.bool_)
        mask_R[self.rows_V[matches_V]] = True
        return mask_R

    @cached_property
    def is_ascending(self) -> bool:
        """Whether the rows are in ascending order, so that those of a value can be found by bisection."""
        return bool((self.rows_V[1:] >= self.rows_V[:-1]).all())


class Table(Protocol):
    """Columns of the same rows, by attribute name."""

    def __getitem__(self, name: str, /) -> Column:
        """Return the column of an attribute, an empty one if no item has it."""
        ...


@dataclass(slots=True)
class Columns:
    """The attributes of R items as columns, each built on first use. Thread-safe."""

    schema: Schema
    size: int
    """R"""
    items: Callable[[], Iterable[tuple[int, Mapping[str, Any]]]]
    """Iterates over rows and their attributes; rows that it skips have none."""
    _columns: dict[str, Column] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __getitem__(self, name: str) -> Column:
        """Return the column of an attribute, an empty one if the schema does not have it."""
        if name not in self._columns:
            self._build([name])
        return self._columns[name]

    def build_all(self) -> None:
        """Build every column of the schema in one pass over the items."""
        self._build(list(self.schema))

    def _build(self, names: Sequence[str]) -> None:
        with self._lock:
            missing = [name for name in names if name not in self._columns]
            builders = {name: ColumnBuilder(self.schema.get(name, "mixed")) for name in missing}
            in_schema = {name: builder for name, builder in builders.items() if name in self.schema}
            for row, attributes in self.items() if in_schema else ():
                for name, builder in in_schema.items():
                    builder.add(row, attributes.get(name))
            self._columns.update({name: builder.build(self.size) for name, builder in builders.items()})


class ColumnBuilder:
    """Builds a column; rows are added in any order, each at most once."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._comparable = _COMPARABLE[kind]
        self._present_rows, self._rows = array("i"), array("i")
        self._values: array[Any] = array({"number": "d", "boolean": "b"}.get(kind, "q"))

    def add(self, row: int, value: Any) -> None:
        """Add the attribute's value of a row; None means that the row has none."""
        if value is None:
            return
        self._present_rows.append(row)
        for single in singles_of(self._kind, value):
            number = self._comparable(single)
            if number is not None:
                self._rows.append(row)
                self._values.append(number)

    def build(self, size: int) -> Column:
        """Return the column of rows 0..size - 1."""
        present_R = np.zeros(size, dtype=np.bool_)
        present_R[np.array(self._present_rows, dtype=np.int32)] = True
        values_V = np.array(self._values, dtype=VALUE_TYPES.get(self._kind, np.int64))
        return Column(self._kind, present_R, values_V, np.array(self._rows, dtype=np.int32))


class ItemColumns:
    """The attributes of a few items, as columns that are built when they are read."""

    def __init__(self, schema: Schema, items: Sequence[Mapping[str, Any]]) -> None:
        self._schema = schema
        self._items = items

    def __getitem__(self, name: str) -> Column:
        """Return the column of an attribute."""
        builder = ColumnBuilder(self._schema.get(name, "mixed"))
        for place, attributes in enumerate(self._items):
            builder.add(place, attributes.get(name))
        return builder.build(len(self._items))


def singles_of(kind: Kind, value: Any) -> Sequence[Any]:
    """Return the values of an attribute that may be comparable: the strings of a list of strings, else the value."""
    if kind != "strings":
        return (value,)
    return value if isinstance(value, list) and all(isinstance(single, str) for single in value) else ()


def kind_of(value: Any) -> Kind:
    """Return the kind of an attribute that has this value alone, which is not None."""
    if isinstance(value, str):
        return "string" if _instant(value) is None else "date"
    if isinstance(value, list):
        return "strings" if all(isinstance(single, str) for single in value) else "mixed"
    if isinstance(value, bool):
        return "boolean"
    return "mixed" if _number(value) is None else "number"


def _common_kind(kind: Kind, value: Any) -> Kind:
    """Return the kind of an attribute that has values of `kind` and this one."""
    if kind == "string" and isinstance(value, str):
        return kind
    other = kind_of(value)
    if kind == other:
        return kind
    return "string" if {kind, other} == {"date", "string"} else "mixed"


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _boolean(value: Any) -> int | None:
    return int(value) if isinstance(value, bool) else None


def _text(value: Any) -> int | None:
    if not isinstance(value, str):
        return None
    return int.from_bytes(blake2b(value.encode(errors="surrogatepass"), digest_size=8).digest(), signed=True)


def _instant(value: Any) -> int | None:
    """Return microseconds since 1970; None if the value is not an RFC 3339 date."""
    return _parse_date(value) if isinstance(value, str) else None


@lru_cache(CACHED_DATES)
def _parse_date(text: str) -> int | None:
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
    except ValueError:
        return None


def _incomparable(value: Any) -> None:
    """Values of a mixed attribute compare with nothing; only their presence counts."""


_COMPARABLE: Mapping[Kind, Callable[[Any], float | int | None]] = {
    "number": _number,
    "string": _text,
    "strings": _text,
    "boolean": _boolean,
    "date": _instant,
    "mixed": _incomparable,
}
