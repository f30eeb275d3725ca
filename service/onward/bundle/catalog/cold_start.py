"""A vector for an item that no training saw, from those of items that are like it.

What it goes by, the first that there is: items that it is said to be similar to; items that it is seen with in live
sessions, once those meetings weigh `SEEN_ENOUGH`; items that share its attributes. The vector is the weighted mean of
its neighbours' vectors, stretched to the weighted mean of their lengths, since a mean of vectors that differ is shorter
than each of them and an inner product would bury it.

The weight of a neighbour:
- said to be similar: 1;
- seen together: the sum of the events' weights;
- sharing attributes: for each shared text, list entry or truth value ln(N / n), where n of N items have it; nothing
  where that is more than half of them. For each number and date exp(-|difference| / s) is added, with s the standard
  deviation over all items; numbers alone make no neighbour, for that two things cost the same says little.

Dimension key: N items of the bundle, C neighbours, D embedding, V values of an attribute.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.files.attributes import Column, comparable

SEEN_ENOUGH = 5.0
NEAREST = 20

VectorSource = Literal["similar_to", "seen_with", "attributes"]


@dataclass(frozen=True, slots=True)
class ColdItem:
    """What is known of an item that has no vector."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    similar_to: Sequence[str] = ()
    seen_with: Mapping[str, float] = field(default_factory=dict)
    """Item ids and how much each was seen with it."""


class ColdVector(NamedTuple):
    """A vector, what it was made by, and the ids of the items that it was made from, the weightiest first."""

    vector_D: NDArray[np.float32]
    source: VectorSource
    neighbours: tuple[str, ...]


class ColdStart:
    """Makes vectors from those of one bundle's items; what it looks up in the catalog it indexes on first use.

    To be used by one thread at a time.
    """

    def __init__(self, catalog: Catalog, vectors_N1D: NDArray[np.float32]) -> None:
        self._catalog = catalog
        self._vectors_N1D = vectors_N1D
        self._shared: dict[str, _SharedValues] = {}
        self._scaled: dict[str, _ScaledNumbers] = {}

    def vector(self, item: ColdItem) -> ColdVector | None:
        """Make a vector by the first evidence that there is; None where there is none."""
        return (
            self._mean("similar_to", dict.fromkeys(self._rows(item.similar_to), 1.0))
            or self._mean("seen_with", self._seen_with(item.seen_with))
            or self._mean("attributes", self._alike(item.attributes))
        )

    def _mean(self, source: VectorSource, weights: Mapping[int, float]) -> ColdVector | None:
        rows = sorted(weights, key=lambda row: -weights[row])[:NEAREST]
        if not rows:
            return None
        vector_D = mean_vector(self._vectors_N1D[rows], np.array([weights[row] for row in rows], dtype=np.float32))
        return None if vector_D is None else ColdVector(vector_D, source, tuple(map(self._catalog.item_id, rows)))

    def _rows(self, item_ids: Iterable[str]) -> list[int]:
        """The rows of those of the items that have a vector."""
        rows = (self._catalog.row(item_id) for item_id in item_ids)
        return [row for row in rows if row is not None and row < len(self._vectors_N1D)]

    def _seen_with(self, seen_with: Mapping[str, float]) -> dict[int, float]:
        met = {row: weight for item_id, weight in seen_with.items() for row in self._rows([item_id])}
        return met if sum(met.values()) >= SEEN_ENOUGH else {}

    def _alike(self, attributes: Mapping[str, Any]) -> dict[int, float]:
        """The items nearest by their attributes, of equals the most popular."""
        weights_N1 = np.zeros(len(self._vectors_N1D), dtype=np.float32)
        for name, value in attributes.items():
            for single in _singles(value):
                sharing_rows, weight = self._sharing(name, single)
                weights_N1[sharing_rows] += weight
        rows = np.flatnonzero(weights_N1)
        for name, value in attributes.items():
            weights_N1[rows] += self._closeness(name, value, rows)
        if len(rows) > NEAREST:
            rows = rows[weights_N1[rows] >= np.partition(weights_N1[rows], -NEAREST)[-NEAREST]]
        rows = rows[np.lexsort((rows, -self._catalog.popularity_N1[rows], -weights_N1[rows]))][:NEAREST]
        return dict(zip(rows.tolist(), weights_N1[rows].tolist(), strict=True))

    def _sharing(self, name: str, value: Any) -> tuple[NDArray[np.int32], float]:
        """The rows that have the value, and what it weighs to share it."""
        kind = self._catalog.schema.get(name)
        if kind not in ("string", "strings", "boolean") or (number := comparable(kind, value)) is None:
            return np.empty(0, dtype=np.int32), 0.0
        if name not in self._shared:
            self._shared[name] = _SharedValues.of(self._catalog.columns[name])
        rows = self._shared[name].rows(number)
        items = len(self._vectors_N1D) - 1
        if not 0 < len(rows) <= items / 2:
            return rows[:0], 0.0
        return rows, float(np.log(items / len(rows)))

    def _closeness(self, name: str, value: Any, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """How close each row's number is to the value: 1 for the same, 0 where there is none."""
        kind = self._catalog.schema.get(name)
        if kind not in ("number", "date") or (number := comparable(kind, value)) is None:
            return np.zeros(len(rows), dtype=np.float32)
        if name not in self._scaled:
            self._scaled[name] = _ScaledNumbers.of(self._catalog.columns[name], len(self._vectors_N1D))
        return self._scaled[name].closeness(float(number), rows)


def _singles(value: Any) -> Iterable[Any]:
    return dict.fromkeys(text for text in value if isinstance(text, str)) if isinstance(value, list) else [value]


def mean_vector(vectors_CD: NDArray[np.float32], weights_C: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The weighted mean of vectors, stretched to the weighted mean of their lengths; None where they cancel out."""
    shares_C = weights_C / weights_C.sum()
    mean_D = shares_C @ vectors_CD
    length, wanted = np.linalg.norm(mean_D), shares_C @ np.linalg.norm(vectors_CD, axis=1)
    if not length > 1e-6 * wanted:
        return None
    stretched_D: NDArray[np.float32] = (mean_D * (wanted / length)).astype(np.float32)
    return stretched_D


class _SharedValues(NamedTuple):
    """An attribute's values in order, each beside the row that has it."""

    values_V: NDArray[Any]
    rows_V: NDArray[np.int32]

    @classmethod
    def of(cls, column: Column) -> "_SharedValues":
        order_V = np.argsort(column.values_V, kind="stable")
        return cls(column.values_V[order_V], column.rows_V[order_V])

    def rows(self, value: float) -> NDArray[np.int32]:
        wanted = np.array(value, dtype=self.values_V.dtype)
        return self.rows_V[
            np.searchsorted(self.values_V, wanted, "left") : np.searchsorted(self.values_V, wanted, "right")
        ]


class _ScaledNumbers(NamedTuple):
    """An attribute's number for each row, NaN where there is none, and their standard deviation."""

    numbers_N1: NDArray[np.float64]
    scale: float

    @classmethod
    def of(cls, column: Column, size: int) -> "_ScaledNumbers":
        numbers_N1 = np.full(size, np.nan)
        numbers_N1[column.rows_V] = column.values_V
        return cls(numbers_N1, float(np.nanstd(numbers_N1)) if len(column.values_V) else 0.0)

    def closeness(self, number: float, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        distance_C = np.abs(self.numbers_N1[rows] - number) / (self.scale or np.finfo(np.float64).tiny)
        return np.nan_to_num(np.exp(-distance_C), nan=0.0).astype(np.float32)
