"""Which rows of a catalog may be shown.

Dimension key: N items of the bundle, R rows with the cold ones behind them.
"""

from functools import cached_property

import faiss
import numpy as np
from numpy.typing import NDArray


class Eligible:
    """The rows that are available and pass a filter. Immutable; several threads may use it at once."""

    def __init__(self, rows_R1: NDArray[np.bool_], *, items: int) -> None:
        """Take the rows that may be shown, [0] being False; the first `items` of them are the index's."""
        self.rows_R1 = rows_R1
        self.items = items
        self.count = int(np.count_nonzero(rows_R1))
        self.indexed_count = int(np.count_nonzero(rows_R1[: items + 1]))

    @property
    def all_indexed(self) -> bool:
        """Whether every item of the index may be shown."""
        return self.indexed_count == self.items

    @cached_property
    def selector(self) -> faiss.IDSelectorBitmap:
        """Those of rows 1..N, for FAISS; a row's id there is row - 1."""
        return faiss.IDSelectorBitmap(np.packbits(self.rows_R1[1 : self.items + 1], bitorder="little"))

    @cached_property
    def selected(self) -> NDArray[np.int64]:
        """The rows that may be shown, in order."""
        return np.flatnonzero(self.rows_R1)
