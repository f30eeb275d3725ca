"""The rows of a catalog that may be shown, and their FAISS selectors.

Dimension key: N items of the bundle, R rows: N items and then the new ones.
"""

from collections.abc import Iterator, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property

import faiss
import numpy as np
from numpy.typing import NDArray


class Eligible:
    """The rows that are available and pass a filter. Immutable and thread-safe."""

    def __init__(self, rows_R1: NDArray[np.bool_], *, items: int) -> None:
        """Take a mask of the eligible rows, where [0] is False; the index covers the first `items` rows."""
        self._set(rows_R1, items, int(np.count_nonzero(rows_R1[: items + 1])))

    def _set(self, rows_R1: NDArray[np.bool_], items: int, indexed_count: int) -> None:
        self.rows_R1 = rows_R1
        self.items = items
        self.indexed_count = indexed_count
        self.count = indexed_count + int(np.count_nonzero(rows_R1[items + 1 :]))
        self.all_indexed = indexed_count == items
        """Whether every item of the index is eligible."""
        self._idle_masks: list[_Mask] = []

    @property
    def nbytes(self) -> int:
        """What the rows, their bits and one mask take in memory."""
        return len(self.rows_R1) + self.items // 4

    def patched(self, rows_T: NDArray[np.int64], eligible_T: NDArray[np.bool_], new_M: NDArray[np.bool_]) -> "Eligible":
        """Return the rows after a change: some rows of 1..N, each once, and all rows of new items.

        It is this object if nothing differs. Counting and packing anew is left out: the cost is a copy of the rows.
        """
        differs = np.flatnonzero(self.rows_R1[rows_T] != eligible_T)
        if not len(differs) and np.array_equal(self.rows_R1[self.items + 1 :], new_M):
            return self
        rows_T, eligible_T = rows_T[differs], eligible_T[differs]
        rows_R1 = np.concatenate([self.rows_R1[: self.items + 1], new_M])
        rows_R1[rows_T] = eligible_T
        patched = Eligible.__new__(Eligible)
        difference = 2 * int(np.count_nonzero(eligible_T)) - len(rows_T)
        patched._set(rows_R1, self.items, self.indexed_count + difference)
        if "_bits" in self.__dict__:
            patched.__dict__["_bits"] = self._patched_bits(rows_T, rows_R1)
        return patched

    def _patched_bits(self, rows_T: NDArray[np.int64], rows_R1: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return the bits of other rows, which differ from these at rows_T alone."""
        bits = self._bits.copy()
        bytes_B = np.unique((rows_T - 1) >> 3)
        rows_B8 = 8 * bytes_B[:, np.newaxis] + np.arange(1, 9)
        is_item_B8 = rows_B8 <= self.items
        eligible_B8 = rows_R1[np.where(is_item_B8, rows_B8, 0)] & is_item_B8
        bits[bytes_B] = np.packbits(eligible_B8, axis=1, bitorder="little")[:, 0]
        return bits

    @cached_property
    def selector(self) -> faiss.IDSelectorBitmap:
        """The eligible rows of 1..N for FAISS, where a row's id is row - 1."""
        return faiss.IDSelectorBitmap(self._bits)

    def selecting(self, hidden_rows: Set[int]) -> AbstractContextManager[faiss.IDSelectorBitmap | None]:
        """Provide a selector of the eligible rows that are not hidden, valid inside the block; None selects all."""
        return self._masking(hidden_rows) if hidden_rows else self._shared_selector

    @cached_property
    def _shared_selector(self) -> nullcontext[faiss.IDSelectorBitmap | None]:
        return nullcontext(None if self.all_indexed else self.selector)

    @contextmanager
    def _masking(self, hidden_rows: Set[int]) -> Iterator[faiss.IDSelectorBitmap]:
        """Provide a selector from the pool of idle ones, with the bits of the hidden rows cleared inside the block.

        That costs next to nothing, whereas a second selector would be tested for every vector of a search.
        """
        try:
            mask = self._idle_masks.pop()
        except IndexError:
            mask = _Mask(self._bits.copy())
        cleared = mask.clear(hidden_rows, self.items)
        yield mask.selector
        mask.restore(cleared)
        self._idle_masks.append(mask)

    @cached_property
    def selected(self) -> NDArray[np.int64]:
        """The eligible rows, ascending."""
        return np.flatnonzero(self.rows_R1)

    def selected_from(self, row: int) -> NDArray[np.int64]:
        """Return the eligible rows from a row on, ascending."""
        return row + np.flatnonzero(self.rows_R1[row:])

    @cached_property
    def _bits(self) -> NDArray[np.uint8]:
        return np.packbits(self.rows_R1[1 : self.items + 1], bitorder="little")


class _Mask:
    """A selector whose bits a search may clear; only one search at a time may use it."""

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self._bits = bits.data
        self.selector = faiss.IDSelectorBitmap(bits)

    def clear(self, rows: Set[int], items: int) -> list[tuple[int, int]]:
        """Clear the bits of rows up to `items`; return the index and old value of each changed byte, for `restore`."""
        bits, changed = self._bits, []
        for row in rows:
            if row <= items:
                place = (row - 1) >> 3
                changed.append((place, bits[place]))
                bits[place] &= ~(1 << ((row - 1) & 7))
        return changed

    def restore(self, changed: list[tuple[int, int]]) -> None:
        """Undo the last `clear`."""
        for place, byte in reversed(changed):
            self._bits[place] = byte
