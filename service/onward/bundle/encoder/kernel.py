"""An encoder that runs as machine code of its own: the interests of the encoder program in a fraction of its time.

Dimension key: B sessions, A items of all of them, N rows (row 0 pads), D embedding of a part, T numbers of a table's
row.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.bundle.encoder.kernel_arrays import ROW, SRGNNArrays
from onward.bundle.files.arrays import open_array
from onward.bundle.files.manifest import TABLE, WEIGHTS, KernelInfo, KernelPart


class _Part(NamedTuple):
    start: int
    """The first of its columns in the table."""
    size: int
    weights: NDArray[np.float32]
    """All that a session is encoded with once there are whole rows, as `srgnn_kernel.encode` takes it."""
    scale: np.float32
    """The length of an interest, 0 to leave it as it comes."""
    node: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    """A matrix and a bias that make the rest of a row of a vector; None where the table has whole rows."""


class Kernel:
    """Encodes sessions by machine code; several threads may use it at once, and none holds up the others."""

    def __init__(self, table_NT: NDArray[np.float32], parts: Sequence[_Part]) -> None:
        """Compile the kernel, or find it compiled. Raises ImportError where numba is not installed."""
        from onward.bundle.encoder import srgnn_kernel  # it takes the optional numba, and a while

        self._run = srgnn_kernel.encode
        self._table_NT = table_NT
        self._last_item = len(table_NT) - 1
        self._parts = parts
        self._dimension = sum(part.size for part in parts)

    @classmethod
    def load(cls, folder: Path, info: KernelInfo, *, items: int, max_length: int) -> "Kernel":
        """Map a bundle's table, which processes share, and its weights.

        Raises BundleError where they are not of their shapes, ImportError where numba is not installed.
        """
        width = sum((ROW if part.tabled else 1) * part.dimension for part in info.parts)
        table_NT = open_array(folder / TABLE, np.float32, (items + 1, width))
        shapes = [SRGNNArrays.shapes(part.dimension, max_length, tabled=part.tabled) for part in info.parts]
        count = sum(prod(shape) for part in shapes for shape in part if shape is not None)
        weights = open_array(folder / WEIGHTS, np.float32, (count,))
        return cls(table_NT, list(_parts(info.parts, shapes, weights)))

    def encode(self, sessions: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return interests_B1D of sessions of 1..max_length items. Raises IndexError for a row of no item."""
        items_A = np.fromiter(chain.from_iterable(sessions), np.int64)
        lengths_B = np.fromiter(map(len, sessions), np.int64, len(sessions))
        interests = np.empty((len(sessions), self._dimension), dtype=np.float32)
        try:
            self.write(items_A, lengths_B, interests)
        except IndexError as error:
            raise IndexError(f"rows of items are 1 to {self._last_item}") from error
        return interests[:, np.newaxis]

    def write(self, items_A: NDArray[np.int64], lengths_B: NDArray[np.int64], interests: NDArray[np.float32]) -> None:
        """Write the interests of B sessions, whose items follow each other, into (B, D). Raises IndexError."""
        first_column = 0
        for part in self._parts:
            table, places_A, start = self._table_NT, items_A, part.start
            if part.node is not None:
                table, places_A, start = self._whole_rows(part, *part.node, items_A), np.arange(len(items_A)), 0
            of_part = part.weights, part.size, part.scale
            self._run(items_A, lengths_B, places_A, table, start, *of_part, self._last_item, interests, first_column)
            first_column += part.size

    def _whole_rows(
        self, part: _Part, matrix: NDArray[np.float32], bias: NDArray[np.float32], items_A: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """What a larger table would hold of these items, (A, 10 D)."""
        rows = np.empty((len(items_A), ROW * part.size), dtype=np.float32)
        rows[:, : part.size] = self._table_NT[items_A, part.start : part.start + part.size]
        np.matmul(rows[:, : part.size], matrix, out=rows[:, part.size :])
        rows[:, part.size :] += bias
        rows.flags.writeable = False
        return rows


def _parts(infos: Sequence[KernelPart], shapes: Sequence[SRGNNArrays], weights: NDArray[np.float32]) -> Iterator[_Part]:
    start = done = 0
    for info, of_part in zip(infos, shapes, strict=True):
        arrays = []
        for shape in of_part:
            size = 0 if shape is None else prod(shape)
            arrays.append(None if shape is None else weights[done : done + size].reshape(shape))
            done += size
        read = SRGNNArrays(*arrays)
        attended_places = read.places @ read.each
        ready = np.concatenate([array.ravel() for array in (*read.of_sessions, attended_places)])
        ready.flags.writeable = False
        node = None if read.node is None else (read.node, read.node_bias)
        yield _Part(start, info.dimension, ready, np.float32(info.scale or 0), node)
        start += (ROW if info.tabled else 1) * info.dimension
