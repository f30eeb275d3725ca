"""What kind each attribute of the items is of, and its values in columns, which filters compare.

Dimension key: R items of a table, V values of an attribute.
"""

import re
import threading
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["number", "string", "strings", "boolean", "date", "mixed"]
Schema = Mapping[str, Kind]

VALUE_TYPES: Mapping[Kind, type[np.generic]] = {"number": np.float64, "boolean": np.int8}
"""Of a column's values; int64 for all other kinds."""
DATES_KEPT = 4_096

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)


def infer_schema(items: Iterable[Mapping[str, Any]], known: Schema = MappingProxyType({})) -> dict[str, Kind]:
    """Tell the kind of every attribute that the items have; `known` ones stay of their kind.

    None counts as absent. Texts that are all dates by RFC 3339, with or without a time, are dates; a time without an
    offset is of UTC. Values of several kinds, and objects, are mixed.
    """
    found: dict[str, Kind] = {}
    for attributes in items:
        for name, value in attributes.items():
            if value is not None and name not in known and (kind := found.get(name)) != "mixed":
                found[name] = _kind_of(value) if kind is None else _joined(kind, value)
    return {**known, **found}


def fits(kind: Kind, value: Any) -> bool:
    """Tell whether a value, which may be None, is of the kind."""
    return value is None or _joined(kind, value) == kind


def comparable(kind: Kind, value: Any) -> float | int | None:
    """The number that a value compares by, of one text where the kind is strings; None where it is of another kind.

    A number compares as a 64-bit float, a date as the microseconds from 1970 of its instant, a text by 64 bits of its
    BLAKE2 digest: that a text is taken for one among a million others happens once in 10^13 times.
    """
    return _COMPARABLE[kind](value)


@dataclass(frozen=True, slots=True)
class Column:
    """What R items have of one attribute: value v, as `comparable` tells it, belongs to row rows_V[v].

    An item without the attribute, or with a value of another kind, has no value; a list has any number of them.
    """

    kind: Kind
    present_R: NDArray[np.bool_]
    values_V: NDArray[np.generic]
    rows_V: NDArray[np.int32]

    def rows_where(self, hit_V: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the rows of which a value is hit."""
        mask_R = np.zeros(len(self.present_R), dtype=np.bool_)
        mask_R[self.rows_V[hit_V]] = True
        return mask_R


class Table(Protocol):
    """Columns by the name of their attribute, all of the same rows."""

    def __getitem__(self, name: str, /) -> Column:
        """The column of an attribute, an empty one where the items have no such attribute."""
        ...


@dataclass(slots=True)
class Columns:
    """The attributes of R items as columns, each made when it is first asked for. Several threads may ask at once."""

    schema: Schema
    size: int
    """R"""
    items: Callable[[], Iterable[tuple[int, Mapping[str, Any]]]]
    """Reads the rows and attributes; rows that it leaves out have none."""
    _made: dict[str, Column] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def __getitem__(self, name: str) -> Column:
        """The column of an attribute, an empty one where the schema does not have it."""
        if name not in self._made:
            self._make([name])
        return self._made[name]

    def make_all(self) -> None:
        """Make every column of the schema in one pass over the items."""
        self._make(list(self.schema))

    def _make(self, names: Sequence[str]) -> None:
        with self._making:
            missing = {name: GrowingColumn(self.schema.get(name, "mixed")) for name in names if name not in self._made}
            asked = {name: column for name, column in missing.items() if name in self.schema}
            for row, attributes in self.items() if asked else ():
                for name, column in asked.items():
                    column.add(row, attributes.get(name))
            self._made.update({name: column.grown(self.size) for name, column in missing.items()})


class GrowingColumn:
    """A column in the making, to which values are added in any order of rows, at most one for each."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._comparable = _COMPARABLE[kind]
        self._present_rows, self._rows = array("i"), array("i")
        self._values: array[Any] = array({"number": "d", "boolean": "b"}.get(kind, "q"))

    def add(self, row: int, value: Any) -> None:
        """Add what a row has of the attribute; None is nothing."""
        if value is None:
            return
        self._present_rows.append(row)
        for single in _singles(value) if self._kind == "strings" else (value,):
            number = self._comparable(single)
            if number is not None:
                self._rows.append(row)
                self._values.append(number)

    def grown(self, size: int) -> Column:
        """Return the column of rows 0..size - 1."""
        present_R = np.zeros(size, dtype=np.bool_)
        present_R[np.array(self._present_rows, dtype=np.int32)] = True
        values_V = np.array(self._values, dtype=VALUE_TYPES.get(self._kind, np.int64))
        return Column(self._kind, present_R, values_V, np.array(self._rows, dtype=np.int32))


def _singles(value: Any) -> Sequence[Any]:
    """The texts of a list of texts; nothing of anything else."""
    return value if isinstance(value, list) and all(isinstance(single, str) for single in value) else ()


def _kind_of(value: Any) -> Kind:
    if isinstance(value, str):
        return "string" if _instant(value) is None else "date"
    if isinstance(value, list):
        return "strings" if all(isinstance(single, str) for single in value) else "mixed"
    if isinstance(value, bool):
        return "boolean"
    return "mixed" if _number(value) is None else "number"


def _joined(kind: Kind, value: Any) -> Kind:
    """The kind of values of `kind` and this one together."""
    if kind == "string" and isinstance(value, str):
        return kind
    other = _kind_of(value)
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
    """Microseconds from 1970; None for what is no date by RFC 3339."""
    return _instant_of_text(value) if isinstance(value, str) else None


@lru_cache(DATES_KEPT)
def _instant_of_text(text: str) -> int | None:
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
    except ValueError:
        return None


def _incomparable(value: Any) -> None:
    """Values of several kinds are only there or not."""


_COMPARABLE: Mapping[Kind, Callable[[Any], float | int | None]] = {
    "number": _number,
    "string": _text,
    "strings": _text,
    "boolean": _boolean,
    "date": _instant,
    "mixed": _incomparable,
}
