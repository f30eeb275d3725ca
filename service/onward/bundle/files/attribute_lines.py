"""The file of attributes: line n is the JSON object of row n, found by its offset. N items."""

import json
import mmap
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from onward.bundle.files.arrays import open_array
from onward.bundle.files.attributes import Kind, infer_schema
from onward.bundle.files.manifest import ATTRIBUTES, ATTRIBUTES_OFFSETS, BundleError

ROWS_AT_ONCE = 256
ROWS_KEPT = 32_768
BLANK_BYTES = len("{}\n")


class AttributeLines:
    """What the files of a bundle say about each item, read when it is asked for."""

    def __init__(self, content: mmap.mmap, offsets_N1: NDArray[np.int64]) -> None:
        self._content = content
        self._offsets = offsets_N1.data
        self._kept: dict[int, Mapping[str, Any]] = {}

    @classmethod
    def load(cls, folder: Path, items: int) -> "AttributeLines":
        """Map the attributes of `items` items. Raises BundleError."""
        offsets_N1 = open_array(folder / ATTRIBUTES_OFFSETS, np.int64, (items + 1,))
        return cls(_mapped(folder / ATTRIBUTES, offsets_N1), offsets_N1)

    @staticmethod
    def write(folder: Path, attributes: Iterable[Mapping[str, Any]], items: int) -> None:
        """Write one object for each of rows 1..N. Raises BundleError where they are not N, or no plain JSON."""
        np.save(folder / ATTRIBUTES_OFFSETS, _written(folder / ATTRIBUTES, attributes, items))

    def schema(self) -> dict[str, Kind]:
        """Find out the kind of every attribute from all items."""
        return infer_schema(attributes for _, attributes in self.read_all())

    def read(self, row: int) -> Mapping[str, Any]:
        """Read the attributes of a row from 1..N; those that were read lately are kept, as most answers are alike."""
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        attributes: dict[str, Any] = from_json(self.text(row))
        if len(self._kept) >= ROWS_KEPT:
            self._kept = {}
        self._kept[row] = attributes
        return attributes

    def text(self, row: int) -> bytes:
        """Return the attributes of a row from 1..N as the JSON object that they are in the file."""
        return self._content[self._offsets[row - 1] : self._offsets[row] - 1]

    def read_all(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Read every row in turn, letting other threads go on in between."""
        offsets = self._offsets.tolist()
        for row, (start, end) in enumerate(pairwise(offsets), start=1):
            if row % ROWS_AT_ONCE == 0:
                time.sleep(0)
            yield row, from_json(self._content[start:end])


def _written(path: Path, attributes: Iterable[Mapping[str, Any]], items: int) -> NDArray[np.int64]:
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


def _mapped(path: Path, offsets_N1: NDArray[np.int64]) -> mmap.mmap:
    """Map the attributes; each stretch between two offsets must be one line that holds an object."""
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    characters = np.frombuffer(content, dtype=np.uint8)
    starts, ends = offsets_N1[:-1], offsets_N1[1:]
    whole = (
        offsets_N1[0] == 0
        and offsets_N1[-1] == len(content)
        and bool((ends - starts >= BLANK_BYTES).all())
        and bool((characters[starts] == ord("{")).all())
        and bool((characters[ends - 2] == ord("}")).all())
        and bool((characters[ends - 1] == ord("\n")).all())
    )
    if not whole:
        raise BundleError(f"{path.name}: not one JSON object a line at the offsets of {ATTRIBUTES_OFFSETS}")
    return content
