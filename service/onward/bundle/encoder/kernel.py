"""A compiled encoder: computes the interests of the ONNX program in a fraction of its time.

Dimension key: B sessions, A items of all of them, N rows (row 0 pads), D embedding of one encoder, T numbers of a table
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
from onward.bundle.files.arrays import check_finite, open_array
from onward.bundle.files.manifest import TABLE, WEIGHTS, KernelInfo, KernelPart

EMPTY_SESSION = "an empty session of an unknown user has no interests"


class KernelUnavailable(Exception):
    """No compiled kernel can be used, so the slower way goes on; the message says why."""


class _EncoderPart(NamedTuple):
    """One encoder of an ensemble."""

    start: int
    """Its first column in the table."""
    size: int
    """D"""
    weights: NDArray[np.float32]
    """The `weights` argument of `srgnn_kernel.encode`."""
    scale: np.float32
    """The length that an interest is scaled to, 0 to leave it as it is."""
    node: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    """Matrix and bias from an item's vector to the rest of its row; None if the table has full rows."""


class Kernel:
    """Encodes sessions by machine code. Thread-safe, and parallel: it releases the global interpreter lock."""

    def __init__(self, table_NT: NDArray[np.float32], parts: Sequence[_EncoderPart], *, max_length: int) -> None:
        """Compile the kernel, or load it from the cache. Raises ImportError if numba is not installed."""
        from onward.bundle.encoder import srgnn_kernel  # slow to import, and numba is optional

        self._run = srgnn_kernel.encode
        self._table_NT = table_NT
        self._max_length = max_length
        self._last_item = len(table_NT) - 1
        self._parts = parts
        self._dimension = sum(part.size for part in parts)

    @classmethod
    def load(cls, folder: Path, info: KernelInfo, *, items: int, max_length: int) -> "Kernel":
        """Memory-map a bundle's table and weights, which the processes of a machine share.

        Raises BundleError if their shapes are wrong, ImportError if numba is not installed.
        """
        table_NT, weights = _open_arrays(folder, info, items, max_length)
        return cls(table_NT, list(_parts(info.parts, _shapes(info, max_length), weights)), max_length=max_length)

    def encode_all(self, sessions: Sequence[Sequence[int]], _user_rows: Sequence[int]) -> NDArray[np.float32]:
        """Return interests_B1D of sessions, from the last `max_length` rows of each; a kernel knows no users.

        Raises ValueError for an empty session, IndexError for a row without an item.
        """
        if not all(sessions):
            raise ValueError(EMPTY_SESSION)
        recent = [rows[-self._max_length :] for rows in sessions]
        items_A = np.fromiter(chain.from_iterable(recent), np.int64)
        lengths_B = np.fromiter(map(len, recent), np.int64, len(recent))
        interests = np.empty((len(sessions), self._dimension), dtype=np.float32)
        try:
            self.write(items_A, lengths_B, interests)
        except IndexError as error:
            raise IndexError(f"rows of items are 1 to {self._last_item}") from error
        return interests[:, np.newaxis]

    def write(self, items_A: NDArray[np.int64], lengths_B: NDArray[np.int64], interests: NDArray[np.float32]) -> None:
        """Write the interests of B sessions, whose items are concatenated, into an array (B, D).

        Raises IndexError for a row without an item, ValueError for lengths that do not go with the other arrays.
        """
        first_column = 0
        for part in self._parts:
            table, table_rows_A, start = self._table_NT, items_A, part.start
            if part.node is not None:
                table, table_rows_A, start = self._full_rows(part, *part.node, items_A), np.arange(len(items_A)), 0
            of_part = part.weights, part.size, part.scale
            self._run(
                items_A, lengths_B, table_rows_A, table, start, *of_part, self._last_item, interests, first_column
            )
            first_column += part.size

    def _full_rows(
        self, part: _EncoderPart, matrix: NDArray[np.float32], bias: NDArray[np.float32], items_A: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Compute the full table rows of items from their vectors, (A, 10 D)."""
        rows = np.empty((len(items_A), ROW * part.size), dtype=np.float32)
        rows[:, : part.size] = self._table_NT[items_A, part.start : part.start + part.size]
        np.matmul(rows[:, : part.size], matrix, out=rows[:, part.size :])
        rows[:, part.size :] += bias
        rows.flags.writeable = False
        return rows


def check_kernel_files(folder: Path, info: KernelInfo, *, items: int, max_length: int) -> None:
    """Raise BundleError unless the table and the weights have the shapes of the kernel and are finite.

    The encoder program reads the same table.
    """
    for name, array in zip((TABLE, WEIGHTS), _open_arrays(folder, info, items, max_length), strict=True):
        check_finite(name, array)


def _open_arrays(
    folder: Path, info: KernelInfo, items: int, max_length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Map the table and the weights."""
    width = sum((ROW if part.tabled else 1) * part.dimension for part in info.parts)
    count = sum(prod(shape) for part in _shapes(info, max_length) for shape in part if shape is not None)
    return (
        open_array(folder / TABLE, np.float32, (items + 1, width)),
        open_array(folder / WEIGHTS, np.float32, (count,)),
    )


def _shapes(info: KernelInfo, max_length: int) -> list[SRGNNArrays]:
    return [SRGNNArrays.shapes(part.dimension, max_length, tabled=part.tabled) for part in info.parts]


def _parts(
    infos: Sequence[KernelPart], shapes: Sequence[SRGNNArrays], weights: NDArray[np.float32]
) -> Iterator[_EncoderPart]:
    """Split the weights file by encoder and array, and prepare the weights that the kernel takes."""
    start = offset = 0
    for info, part_shapes in zip(infos, shapes, strict=True):
        arrays = []
        for shape in part_shapes:
            size = 0 if shape is None else prod(shape)
            arrays.append(None if shape is None else weights[offset : offset + size].reshape(shape))
            offset += size
        stored = SRGNNArrays(*arrays)
        attended_positions = stored.positions @ stored.each
        flat = np.concatenate([array.ravel() for array in (*stored.of_sessions, attended_positions)])
        flat.flags.writeable = False
        node = None if stored.node is None else (stored.node, stored.node_bias)
        yield _EncoderPart(start, info.dimension, flat, np.float32(info.scale or 0), node)
        start += (ROW if info.tabled else 1) * info.dimension
