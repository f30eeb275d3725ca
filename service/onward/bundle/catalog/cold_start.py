"""Cold start: compute a vector for an item without training data, from the vectors of related items.

The first of these kinds of evidence that exists is used:
1. items that the caller names as similar;
2. co-occurrence: items of the same live sessions, once their weights sum to `MIN_CO_OCCURRENCE`;
3. its attributes, by the bundle's content program if it has one;
4. items that share its attributes.

The vector of neighbours is the weighted mean of their vectors, scaled to the weighted mean of their lengths: the mean
of different vectors is shorter than each of them, and inner products would rank the new item too low.

The weight of a neighbour:
- named as similar: 1;
- co-occurrence: the sum of the events' weights;
- shared attributes, of trained items alone: ln(T / n) for each shared text, list entry or boolean, where n of T trained
  items have it; 0 if more than half of them do. Each number and date adds exp(-|difference| / s), with s the standard
  deviation over trained items, but numbers alone make no neighbour: that two items cost the same says little.

Dimension key: N items of the bundle, T trained ones, the first of them, C neighbours, D embedding, V values of an
attribute.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.catalog import Catalog
from onward.bundle.content.tower import ContentTower
from onward.bundle.files.attributes import Column, comparable

MIN_CO_OCCURRENCE = 5.0
MAX_NEIGHBOURS = 20

VectorSource = Literal["similar_to", "seen_with", "content", "attributes"]


@dataclass(frozen=True, slots=True)
class ColdItem:
    """What is known about an item that has no vector."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    similar_to: Sequence[str] = ()
    seen_with: Mapping[str, float] = field(default_factory=dict)
    """Item ids and the weight of each one's co-occurrence with this item."""


class ColdVector(NamedTuple):
    """A vector, the kind of evidence it was computed from, and the ids of its neighbours, largest weight first.

    A vector of the content program has none.
    """

    vector_D: NDArray[np.float32]
    source: VectorSource
    neighbours: tuple[str, ...]


class ColdStart:
    """Computes vectors of new items for one bundle; indexes the attributes it needs on first use. Not thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        vectors_N1D: NDArray[np.float32],
        *,
        trained_items: int | None = None,
        content: ContentTower | None = None,
    ) -> None:
        """Take the vectors of a catalog.

        Args:
            catalog: the catalog.
            vectors_N1D: the vectors of its rows.
            trained_items: number of first rows whose vectors were trained, None for all; the others were computed here.
            content: the bundle's content program, None if it has none.
        """
        self._catalog = catalog
        self._vectors_N1D = vectors_N1D
        self._trained = len(vectors_N1D) - 1 if trained_items is None else trained_items
        self._content = content
        self._sorted_values: dict[str, _SortedValues] = {}
        self._scaled_numbers: dict[str, _ScaledNumbers] = {}

    def vector(self, item: ColdItem) -> ColdVector | None:
        """Compute a vector from the first kind of evidence that gives one, None if none does."""
        return (
            self._mean("similar_to", dict.fromkeys(self._rows(item.similar_to), 1.0))
            or self._mean("seen_with", self._co_occurrence(item.seen_with))
            or self._by_content(item.attributes)
            or self._mean("attributes", self._sharing_attributes(item.attributes))
        )

    def _by_content(self, attributes: Mapping[str, Any]) -> ColdVector | None:
        vector_D = None if self._content is None else self._content.vector(attributes)
        return None if vector_D is None else ColdVector(vector_D, "content", ())

    def _mean(self, source: VectorSource, weights: Mapping[int, float]) -> ColdVector | None:
        rows = sorted(weights, key=lambda row: -weights[row])[:MAX_NEIGHBOURS]
        if not rows:
            return None
        vector_D = mean_vector(self._vectors_N1D[rows], np.array([weights[row] for row in rows], dtype=np.float32))
        return None if vector_D is None else ColdVector(vector_D, source, tuple(map(self._catalog.item_id, rows)))

    def _rows(self, item_ids: Iterable[str]) -> list[int]:
        """Return the rows of the items that have a vector."""
        rows = (self._catalog.row(item_id) for item_id in item_ids)
        return [row for row in rows if row is not None and row < len(self._vectors_N1D)]

    def _co_occurrence(self, seen_with: Mapping[str, float]) -> dict[int, float]:
        weights = {row: weight for item_id, weight in seen_with.items() for row in self._rows([item_id])}
        return weights if sum(weights.values()) >= MIN_CO_OCCURRENCE else {}

    def _sharing_attributes(self, attributes: Mapping[str, Any]) -> dict[int, float]:
        """Return the rows with the largest attribute weights; ties are broken by popularity."""
        weights_T1 = np.zeros(self._trained + 1, dtype=np.float32)
        for name, value in attributes.items():
            for single in _single_values(value):
                sharing_rows, weight = self._sharing(name, single)
                weights_T1[sharing_rows] += weight
        rows = np.flatnonzero(weights_T1)
        for name, value in attributes.items():
            weights_T1[rows] += self._closeness(name, value, rows)
        if len(rows) > MAX_NEIGHBOURS:
            rows = rows[weights_T1[rows] >= np.partition(weights_T1[rows], -MAX_NEIGHBOURS)[-MAX_NEIGHBOURS]]
        rows = rows[np.lexsort((rows, -self._catalog.popularity_N1[rows], -weights_T1[rows]))][:MAX_NEIGHBOURS]
        return dict(zip(rows.tolist(), weights_T1[rows].tolist(), strict=True))

    def _sharing(self, name: str, value: Any) -> tuple[NDArray[np.int32], float]:
        """Return the rows that have the value, and the weight of sharing it."""
        kind = self._catalog.schema.get(name)
        if kind not in ("string", "strings", "boolean") or (number := comparable(kind, value)) is None:
            return np.empty(0, dtype=np.int32), 0.0
        if name not in self._sorted_values:
            self._sorted_values[name] = _SortedValues.of(self._catalog.columns[name], self._trained)
        rows = self._sorted_values[name].rows(number)
        if not 0 < len(rows) <= self._trained / 2:
            return rows[:0], 0.0
        return rows, float(np.log(self._trained / len(rows)))

    def _closeness(self, name: str, value: Any, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return how close each row's number is to the value: 1 if equal, 0 if the row has no number."""
        kind = self._catalog.schema.get(name)
        if kind not in ("number", "date") or (number := comparable(kind, value)) is None:
            return np.zeros(len(rows), dtype=np.float32)
        if name not in self._scaled_numbers:
            self._scaled_numbers[name] = _ScaledNumbers.of(self._catalog.columns[name], self._trained)
        return self._scaled_numbers[name].closeness(float(number), rows)


def _single_values(value: Any) -> Iterable[Any]:
    return dict.fromkeys(text for text in value if isinstance(text, str)) if isinstance(value, list) else [value]


def mean_vector(vectors_CD: NDArray[np.float32], weights_C: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the weighted mean of vectors, scaled to the weighted mean of their lengths; None if they cancel out."""
    shares_C = weights_C / weights_C.sum()
    mean_D = shares_C @ vectors_CD
    length, target_length = np.linalg.norm(mean_D), shares_C @ np.linalg.norm(vectors_CD, axis=1)
    if not length > 1e-6 * target_length:
        return None
    scaled_D: NDArray[np.float32] = (mean_D * (target_length / length)).astype(np.float32)
    return scaled_D


class _SortedValues(NamedTuple):
    """The values of an attribute of trained items in ascending order, and the row of each."""

    values_V: NDArray[Any]
    rows_V: NDArray[np.int32]

    @classmethod
    def of(cls, column: Column, trained: int) -> "_SortedValues":
        is_trained_V = column.rows_V <= trained
        values_V, rows_V = column.values_V[is_trained_V], column.rows_V[is_trained_V]
        order_V = np.argsort(values_V, kind="stable")
        return cls(values_V[order_V], rows_V[order_V])

    def rows(self, value: float) -> NDArray[np.int32]:
        """Return the rows that have the value."""
        typed = np.array(value, dtype=self.values_V.dtype)
        return self.rows_V[
            np.searchsorted(self.values_V, typed, "left") : np.searchsorted(self.values_V, typed, "right")
        ]


class _ScaledNumbers(NamedTuple):
    """The number that an attribute is for each trained row, NaN if it has none, and their standard deviation."""

    numbers_T1: NDArray[np.float64]
    scale: float

    @classmethod
    def of(cls, column: Column, trained: int) -> "_ScaledNumbers":
        is_trained_V = column.rows_V <= trained
        numbers_T1 = np.full(trained + 1, np.nan)
        numbers_T1[column.rows_V[is_trained_V]] = column.values_V[is_trained_V]
        return cls(numbers_T1, float(np.nanstd(numbers_T1)) if is_trained_V.any() else 0.0)

    def closeness(self, number: float, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        distance_C = np.abs(self.numbers_T1[rows] - number) / (self.scale or np.finfo(np.float64).tiny)
        return np.nan_to_num(np.exp(-distance_C), nan=0.0).astype(np.float32)
