"""Item id <-> row, and what is known of each item. Row 0 pads; items are rows 1..N."""

import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from service.bundle.arrays import open_array
from service.bundle.eligible import Eligible
from service.bundle.ids import read_ids, write_ids
from service.bundle.manifest import (
    ATTRIBUTES,
    ATTRIBUTES_OFFSETS,
    AVAILABLE,
    IDS,
    POPULARITY,
    BundleError,
)


class Catalog:
    """The items of a bundle. Ids are compared byte for byte, without normalisation."""

    def __init__(
        self,
        ids: Sequence[str],
        *,
        popularity_N1: NDArray[np.float32],
        available_N1: NDArray[np.bool_],
        attributes: mmap.mmap,
        attribute_offsets_N1: NDArray[np.int64],
    ) -> None:
        self._ids = ids
        self._rows = {item_id: row for row, item_id in enumerate(ids, start=1)}
        self.popularity_N1 = popularity_N1
        self.available_N1 = available_N1
        self._attributes = attributes
        self._attribute_offsets_N1 = attribute_offsets_N1
        available_rows = np.flatnonzero(available_N1)
        self.most_popular_rows: NDArray[np.int64] = available_rows[
            np.argsort(-popularity_N1[available_rows], kind="stable")
        ]
        self._eligible = Eligible(available_N1, items=len(ids))

    @classmethod
    def load(cls, folder: Path, items: int) -> Self:
        """Read the catalog of `items` items from a bundle's folder. Raises BundleError."""
        offsets_N1 = open_array(folder / ATTRIBUTES_OFFSETS, np.int64, (items + 1,))
        return cls(
            read_ids(folder / IDS, items),
            popularity_N1=_checked_popularity(open_array(folder / POPULARITY, np.float32, (items + 1,))),
            available_N1=_checked_availability(open_array(folder / AVAILABLE, np.bool_, (items + 1,))),
            attributes=_map_attributes(folder / ATTRIBUTES, offsets_N1),
            attribute_offsets_N1=offsets_N1,
        )

    @staticmethod
    def write(
        folder: Path,
        ids: Sequence[str],
        popularity: NDArray[Any],
        attributes: Iterable[Mapping[str, Any]],
        available: NDArray[np.bool_],
    ) -> None:
        """Write the catalog's files into a bundle's folder.

        Args:
            folder: where to.
            ids: the id of each row from 1 on, N in all.
            popularity: (N + 1,), non-negative, by row; [0] is written as 0.
            attributes: one object for each row from 1 on, {} where nothing is known; plain JSON values.
            available: (N + 1,), by row; [0] is written as False.

        Raises BundleError where an id is unusable or repeated, or a length or value does not fit.
        """
        for name, array in ((POPULARITY, popularity), (AVAILABLE, available)):
            if array.shape != (len(ids) + 1,):
                raise BundleError(f"{name}: shape {array.shape} for {len(ids)} items, expected {(len(ids) + 1,)}")
        popularity_N1, available_N1 = popularity.astype(np.float32), available.astype(np.bool_)
        popularity_N1[0], available_N1[0] = 0, False
        np.save(folder / POPULARITY, _checked_popularity(popularity_N1))
        np.save(folder / AVAILABLE, available_N1)
        write_ids(folder / IDS, ids)
        np.save(folder / ATTRIBUTES_OFFSETS, _write_attributes(folder / ATTRIBUTES, attributes, len(ids)))

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._rows

    def row(self, item_id: str) -> int | None:
        """Return the item's row, None where the catalog does not have it."""
        return self._rows.get(item_id)

    def item_id(self, row: int) -> str:
        """Return the id of a row from 1..N."""
        return self._ids[row - 1]

    def eligible(self, passing: None = None) -> Eligible:
        """Return the rows that may be shown."""
        return self._eligible

    def attributes(self, row: int) -> dict[str, Any]:
        """Read the attributes of a row from 1..N."""
        start, end = self._attribute_offsets_N1[row - 1 : row + 1]
        attributes: dict[str, Any] = from_json(self._attributes[start:end])
        return attributes


def _checked_popularity(popularity_N1: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(popularity_N1).all() or (popularity_N1 < 0).any():
        raise BundleError(f"{POPULARITY}: holds a negative number, NaN or infinity")
    return popularity_N1


def _checked_availability(available_N1: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if available_N1[0]:
        raise BundleError(f"{AVAILABLE}: row 0, the padding, is marked available")
    return available_N1


def _write_attributes(path: Path, attributes: Iterable[Mapping[str, Any]], items: int) -> NDArray[np.int64]:
    offsets = [0]
    with path.open("wb") as file:
        for row, values in enumerate(attributes, start=1):
            try:
                line = json.dumps(dict(values), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
            except (TypeError, ValueError) as error:
                raise BundleError(f"{path.name}: attributes of row {row} are no plain JSON: {error}") from error
            offsets.append(offsets[-1] + file.write(line + b"\n"))
    if len(offsets) != items + 1:
        raise BundleError(f"{path.name}: attributes of {len(offsets) - 1} items, expected {items}")
    return np.array(offsets, dtype=np.int64)


def _map_attributes(path: Path, offsets_N1: NDArray[np.int64]) -> mmap.mmap:
    """Map the attributes; each stretch between two offsets must be one line that holds an object."""
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    characters = np.frombuffer(content, dtype=np.uint8)
    starts, ends = offsets_N1[:-1], offsets_N1[1:]
    whole = (
        offsets_N1[0] == 0
        and offsets_N1[-1] == len(content)
        and bool((ends - starts >= len("{}\n")).all())
        and bool((characters[starts] == ord("{")).all())
        and bool((characters[ends - 2] == ord("}")).all())
        and bool((characters[ends - 1] == ord("\n")).all())
    )
    if not whole:
        raise BundleError(f"{path.name}: not one JSON object a line at the offsets of {ATTRIBUTES_OFFSETS}")
    return content
