"""The file of item attributes: line n is the JSON object of row n; a second file holds the offsets. N items."""

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

ROWS_PER_YIELD = 256
"""Rows that `read_all` parses before it lets other threads run."""
CACHED_ROWS = 32_768
MIN_LINE_BYTES = len("{}\n")


class AttributeLines:
    """The stored attributes of each item, parsed on access."""

    def __init__(self, content: mmap.mmap, offsets_N1: NDArray[np.int64]) -> None:
        self._content = content
        self._offsets = offsets_N1.data
        self._cache: dict[int, Mapping[str, Any]] = {}

    @classmethod
    def load(cls, folder: Path, items: int) -> "AttributeLines":
        """Map the attributes of `items` items. Raises BundleError."""
        offsets_N1 = open_array(folder / ATTRIBUTES_OFFSETS, np.int64, (items + 1,))
        return cls(_map_file(folder / ATTRIBUTES, offsets_N1), offsets_N1)

    @staticmethod
    def write(folder: Path, attributes: Iterable[Mapping[str, Any]], items: int) -> None:
        """Write one object for each of rows 1..N. Raises BundleError if they are not N, or not plain JSON."""
        np.save(folder / ATTRIBUTES_OFFSETS, _write_lines(folder / ATTRIBUTES, attributes, items))

    def schema(self) -> dict[str, Kind]:
        """Infer the kind of every attribute from all items."""
        return infer_schema(attributes for _, attributes in self.read_all())

    def read(self, row: int) -> Mapping[str, Any]:
        """Return the attributes of a row from 1..N; recent ones are cached, since answers repeat the same items."""
        cached = self._cache.get(row)
        if cached is not None:
            return cached
        attributes: dict[str, Any] = from_json(self.text(row))
        if len(self._cache) >= CACHED_ROWS:
            self._cache = {}
        self._cache[row] = attributes
        return attributes

    def text(self, row: int) -> bytes:
        """Return the attributes of a row from 1..N as the JSON text of the file."""
        return self._content[self._offsets[row - 1] : self._offsets[row] - 1]

    def read_all(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every row with its attributes; lets other threads run in between."""
        offsets = self._offsets.tolist()
        for row, (start, end) in enumerate(pairwise(offsets), start=1):
            if row % ROWS_PER_YIELD == 0:
                time.sleep(0)
            yield row, from_json(self._content[start:end])


def _write_lines(path: Path, attributes: Iterable[Mapping[str, Any]], items: int) -> NDArray[np.int64]:
    """Write the file and return the offset of each line, the last being the file's size."""
    offsets = [0]
    with path.open("wb") as file:
        for row, values in enumerate(attributes, start=1):
            try:
                line = json.dumps(dict(values), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
            except (TypeError, ValueError) as error:
                raise BundleError(f"{path.name}: attributes of row {row} are not plain JSON: {error}") from error
            offsets.append(offsets[-1] + file.write(line + b"\n"))
    if len(offsets) != items + 1:
        raise BundleError(f"{path.name}: attributes of {len(offsets) - 1} items, expected {items}")
    return np.array(offsets, dtype=np.int64)


def _map_file(path: Path, offsets_N1: NDArray[np.int64]) -> mmap.mmap:
    """Map the file; raise BundleError unless the bytes between two offsets are one line with one object."""
    if not path.stat().st_size:
        raise BundleError(f"{path.name}: empty")
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    characters = np.frombuffer(content, dtype=np.uint8)
    starts, ends = offsets_N1[:-1], offsets_N1[1:]
    is_valid = (
        offsets_N1[0] == 0
        and offsets_N1[-1] == len(content)
        and bool((ends - starts >= MIN_LINE_BYTES).all())
        and bool((characters[starts] == ord("{")).all())
        and bool((characters[ends - 2] == ord("}")).all())
        and bool((characters[ends - 1] == ord("\n")).all())
    )
    if not is_valid:
        raise BundleError(f"{path.name}: not one JSON object a line at the offsets of {ATTRIBUTES_OFFSETS}")
    return content
