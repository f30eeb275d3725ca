"""Which rows of a catalog may be shown.

Dimension key: N items of the bundle, R rows with the cold ones behind them.
"""

from collections.abc import Iterator, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
        self._spare: list[_Mask] = []

    @property
    def all_indexed(self) -> bool:
        """Whether every item of the index may be shown."""
        return self.indexed_count == self.items

    @cached_property
    def selector(self) -> faiss.IDSelectorBitmap:
        """Those of rows 1..N, for FAISS; a row's id there is row - 1."""
        return faiss.IDSelectorBitmap(self._bits())

    def selecting(self, hidden_rows: Set[int]) -> AbstractContextManager[faiss.IDSelectorBitmap | None]:
        """Give the selector of the rows that are not hidden, None for all, to be used inside the block alone."""
        return self._lent(hidden_rows) if hidden_rows else self._unlent

    @cached_property
    def _unlent(self) -> nullcontext[faiss.IDSelectorBitmap | None]:
        return nullcontext(None if self.all_indexed else self.selector)

    @contextmanager
    def _lent(self, hidden_rows: Set[int]) -> Iterator[faiss.IDSelectorBitmap]:
        """Lend a selector, of which the bits of hidden rows are put out and then lit again.

        That costs nothing beside the test of a second selector for every vector of a search.
        """
        try:
            mask = self._spare.pop()
        except IndexError:
            mask = _Mask(self._bits())
        changed = mask.put_out(hidden_rows, self.items)
        yield mask.selector
        mask.restore(changed)
        self._spare.append(mask)

    @cached_property
    def selected(self) -> NDArray[np.int64]:
        """The rows that may be shown, in order."""
        return np.flatnonzero(self.rows_R1)

    def _bits(self) -> NDArray[np.uint8]:
        return np.packbits(self.rows_R1[1 : self.items + 1], bitorder="little")


class _Mask:
    """A selector whose bits one search at a time may change."""

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self._bits = bits.data
        self.selector = faiss.IDSelectorBitmap(bits)

    def put_out(self, rows: Set[int], items: int) -> list[tuple[int, int]]:
        """Put out the bits of rows up to `items` and return what `restore` needs: places and the bytes there."""
        bits, changed = self._bits, []
        for row in rows:
            if row <= items:
                place = (row - 1) >> 3
                changed.append((place, bits[place]))
                bits[place] &= ~(1 << ((row - 1) & 7))
        return changed

    def restore(self, changed: list[tuple[int, int]]) -> None:
        """Undo the last `put_out`."""
        for place, byte in reversed(changed):
            self._bits[place] = byte
