"""Interests -> candidates, by FAISS, with an exact scan beside it.

Dimension key: N items, D embedding, P padded dimension, K interests, k results.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import BundleError, IndexInfo


class Candidates(NamedTuple):
    """Items that match, best first: rows (int64), scores (float32) and the number of the interest that brought each."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    interests: NDArray[np.int64]


class ItemIndex:
    """Inner-product search over rows 1..N; a row's FAISS id is row - 1.

    Safe to use from several threads at once; each call runs in the thread that makes it.
    """

    def __init__(
        self,
        index: faiss.Index,
        *,
        vectors_N1D: NDArray[np.float32],
        available_N1: NDArray[np.bool_],
        nprobe: int | None,
    ) -> None:
        self._index = index
        self._vectors_N1D = vectors_N1D
        self._available_N1 = available_N1
        self._nprobe = nprobe
        self._available_items = int(np.count_nonzero(available_N1))
        all_available = self._available_items == len(available_N1) - 1
        self._available_selector = (
            None if all_available else faiss.IDSelectorBitmap(np.packbits(available_N1[1:], bitorder="little"))
        )

    @classmethod
    def load(
        cls, path: Path, info: IndexInfo, *, vectors_N1D: NDArray[np.float32], available_N1: NDArray[np.bool_]
    ) -> "ItemIndex":
        """Map the index into memory, so that the processes of a machine share it. Raises BundleError."""
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise BundleError(f"{path.name}: not readable by FAISS") from error
        _check_index(path.name, index, info, items=len(vectors_N1D) - 1)
        loaded = cls(index, vectors_N1D=vectors_N1D, available_N1=available_N1, nprobe=info.nprobe)
        try:
            loaded.search(vectors_N1D[1:2], 1, hidden_rows=(1,))
        except RuntimeError as error:
            raise BundleError(f"{path.name}: {type(index).__name__} cannot exclude items inside a search") from error
        return loaded

    def search(
        self,
        interests_KD: NDArray[np.float32],
        k: int,
        *,
        hidden_rows: Collection[int] = (),
        exact: bool = False,
    ) -> Candidates:
        """Find the k items with the largest inner product with any of the K interests.

        Unavailable items and `hidden_rows` never appear: they are excluded inside the search, so the answer holds
        min(k, eligible) items, by an exact scan where the index finds fewer. `exact` asks for that scan at once.
        """
        if exact:
            return self._scan(interests_KD, k, hidden_rows)
        candidates = self._approximate(interests_KD, k, hidden_rows)
        if len(candidates.rows) < k and len(candidates.rows) < self._eligible(hidden_rows):
            return self._scan(interests_KD, k, hidden_rows)
        return candidates

    def expected_products(self, interests: int, k: int, hidden: int) -> int:
        """Estimate the multiplications of one search, its exact scan included where that is likely to be needed."""
        items = len(self._vectors_N1D) - 1
        scanned = items if self._nprobe is None else items * self._nprobe // self._index.nlist
        expected_finds = scanned * self._available_items // items - hidden
        return interests * int(self._index.d) * (scanned if expected_finds > 4 * k else items)

    def _approximate(self, interests_KD: NDArray[np.float32], k: int, hidden_rows: Collection[int]) -> Candidates:
        faiss.omp_set_num_threads(1)  # the setting belongs to the calling thread, so each call makes it
        scores_Kk, ids_Kk = self._index.search(
            pad_dimension(interests_KD, self._index.d), k, params=self._parameters(hidden_rows)
        )
        return _merge(ids_Kk + 1, scores_Kk, k)

    def _parameters(self, hidden_rows: Collection[int]) -> Any:
        selector = self._available_selector
        if hidden_rows:
            visible = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.fromiter(hidden_rows, np.int64) - 1))
            selector = visible if selector is None else faiss.IDSelectorAnd(selector, visible)
        if self._nprobe is None:
            return faiss.SearchParameters(sel=selector)
        return faiss.SearchParametersIVF(sel=selector, nprobe=self._nprobe)

    def _scan(self, interests_KD: NDArray[np.float32], k: int, hidden_rows: Collection[int]) -> Candidates:
        scores_NK = self._vectors_N1D @ interests_KD.T
        best_N = scores_NK.max(axis=1)
        best_N[~self._available_N1] = -np.inf
        best_N[list(hidden_rows)] = -np.inf
        count = min(k, self._eligible(hidden_rows))
        rows = np.argpartition(-best_N, count - 1)[:count] if count else np.empty(0, dtype=np.int64)
        rows = rows[np.lexsort((rows, -best_N[rows]))]
        return Candidates(rows, best_N[rows], scores_NK[rows].argmax(axis=1))

    def _eligible(self, hidden_rows: Collection[int]) -> int:
        return self._available_items - int(np.count_nonzero(self._available_N1[list(set(hidden_rows))]))


def pad_dimension(vectors_ND: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Append zeros to each vector up to `dimension`, which leaves every inner product as it is."""
    padded_ND = np.zeros((len(vectors_ND), dimension), dtype=np.float32)
    padded_ND[:, : vectors_ND.shape[1]] = vectors_ND
    return padded_ND


def _merge(rows_Kk: NDArray[np.int64], scores_Kk: NDArray[np.float32], k: int) -> Candidates:
    """Merge the results of each interest; the k best of the union are among the k best of each.

    FAISS marks a place it could not fill with the id -1, which is row 0 here.
    """
    found = rows_Kk > 0
    rows, scores, interests = rows_Kk[found], scores_Kk[found], np.nonzero(found)[0]
    if len(rows_Kk) == 1:
        return Candidates(rows, scores, interests)
    order = np.lexsort((rows, -scores))
    _, first = np.unique(rows[order], return_index=True)
    best = order[np.sort(first)[:k]]
    return Candidates(rows[best], scores[best], interests[best])


def _check_index(name: str, index: faiss.Index, info: IndexInfo, *, items: int) -> None:
    if not isinstance(index, faiss.IndexFlat | faiss.IndexScalarQuantizer | faiss.IndexIVF):
        raise BundleError(f"{name}: {type(index).__name__} is neither a flat nor an inverted-file index")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise BundleError(f"{name}: its metric is not the inner product")
    if (index.ntotal, index.d) != (items, info.padded_dimension):
        raise BundleError(f"{name}: {index.ntotal} vectors of {index.d}, expected {items} of {info.padded_dimension}")
    lists = index.nlist if isinstance(index, faiss.IndexIVF) else 0
    if (info.nprobe is None) != (lists == 0) or (info.nprobe or 0) > lists:
        raise BundleError(f"{name}: {lists} lists do not go with nprobe {info.nprobe}")
