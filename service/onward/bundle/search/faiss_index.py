"""A FAISS index, asked with as little around its own search as can be.

Dimension key: K interests, D embedding, P padded dimension, k results.
"""

import threading
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.manifest import BundleError, IndexInfo

SHAPES_KEPT = 128


class SearchParameters(NamedTuple):
    """How thoroughly to search."""

    visits: int | None = None
    """Lists of an inverted file, or nodes that a search in a graph keeps in view; None where there is no choice."""
    candidates_per_k: int = 1
    """How many to find by the index's own, coarse scores for each of the k that the true scores choose."""


class FaissIndex:
    """The nearest vectors by inner product. Safe to use from several threads; each call runs in that which makes it."""

    def __init__(self, index: faiss.Index) -> None:
        self.items, self.dimension = int(index.ntotal), int(index.d)
        self.lists = int(index.nlist) if isinstance(index, faiss.IndexIVF) else None
        self.degree = int(index.hnsw.nb_neighbors(0)) if isinstance(index, faiss.IndexHNSW) else None
        self._index = index
        self._desk = _ThreadBuffers(index)

    @classmethod
    def load(cls, path: Path, info: IndexInfo, items: int) -> "FaissIndex":
        """Map an index of `items` vectors into memory, so that the processes of a machine share it.

        Raises BundleError.
        """
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise BundleError(f"{path.name}: not readable by FAISS") from error
        _check(path.name, index, info, items)
        return cls(index)

    @property
    def kind(self) -> str:
        """The name of its class, for messages."""
        return type(self._index).__name__

    def search(
        self, interests_KD: NDArray[np.float32], k: int, *, visits: int | None, selector: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find ids_Kk, and scores_Kk, of the k nearest to each interest that the selector, None for any, lets through.

        An id of -1 marks a place that could not be filled. The arrays are the thread's own and hold until it searches
        again.
        """
        desk, count = self._desk, len(interests_KD)
        sheet = desk.sheet(count, k)
        sheet.queries_KP[:, : interests_KD.shape[1]] = interests_KD
        parameters = desk.parameters(visits, selector)
        faiss.omp_set_num_threads(1)  # the setting belongs to the calling thread, so each call makes it
        self._index.search_c(count, sheet.queries_at, k, sheet.scores_at, sheet.ids_at, parameters)
        return sheet.ids_Kk, sheet.scores_Kk

    def touch(self) -> None:
        """Read every list of an inverted file once, so that no later search waits for a page of it."""
        if self.lists is not None:
            nowhere_1P, every = np.zeros((1, self.dimension), dtype=np.float32), faiss.IDSelectorRange(0, self.items)
            self.search(nowhere_1P, 1, visits=self.lists, selector=every)

    def visited(self, visits: int | None) -> int:
        """How many vectors a search is likely to look at."""
        if visits is None:
            return self.items
        if self.lists is not None:
            return self.items * visits // self.lists
        return min(self.items, visits * (self.degree or 1))

    def at_most(self, visits: int) -> int:
        """As many visits, or all there are."""
        return min(visits, self.items if self.lists is None else self.lists)


class _SearchBuffers(NamedTuple):
    """Arrays for a question and its answer, and where they are."""

    queries_KP: NDArray[np.float32]
    scores_Kk: NDArray[np.float32]
    ids_Kk: NDArray[np.int64]
    queries_at: Any
    scores_at: Any
    ids_at: Any

    @classmethod
    def of(cls, interests: int, k: int, dimension: int) -> "_SearchBuffers":
        queries_KP = np.zeros((interests, dimension), dtype=np.float32)
        scores_Kk, ids_Kk = np.empty((interests, k), dtype=np.float32), np.empty((interests, k), dtype=np.int64)
        return cls(queries_KP, scores_Kk, ids_Kk, *map(faiss.swig_ptr, (queries_KP, scores_Kk, ids_Kk)))


class _ThreadBuffers(threading.local):
    """What one thread asks with, made once: building it anew would cost a third of a search of 40 us."""

    def __init__(self, index: faiss.Index) -> None:
        self._dimension = int(index.d)
        self._kind, self._visits = _parameters_of(index)
        self._sheets: dict[tuple[int, int], _SearchBuffers] = {}
        self._selecting = self._kind()
        self._selector: Any = None
        self._selecting_visits: int | None = None
        self._plain: dict[int | None, Any] = {}

    def sheet(self, interests: int, k: int) -> _SearchBuffers:
        sheet = self._sheets.get((interests, k))
        if sheet is None:
            if len(self._sheets) >= SHAPES_KEPT:
                self._sheets.clear()
            self._sheets[interests, k] = sheet = _SearchBuffers.of(interests, k, self._dimension)
        return sheet

    def parameters(self, visits: int | None, selector: Any) -> Any:
        if selector is None:
            plain = self._plain.get(visits)
            if plain is None:
                self._plain[visits] = plain = self._set(self._kind(), visits)
            return plain
        if selector is not self._selector:  # what FAISS's classes are set to passes through Python of theirs
            self._selecting.sel = self._selector = selector
        if visits != self._selecting_visits:
            self._set(self._selecting, visits)
            self._selecting_visits = visits
        return self._selecting

    def _set(self, parameters: Any, visits: int | None) -> Any:
        if self._visits is not None:
            setattr(parameters, self._visits, visits)
        return parameters


def pad_dimension(vectors_ND: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Append zeros to each vector up to `dimension`, which leaves every inner product as it is."""
    padded_ND = np.zeros((len(vectors_ND), dimension), dtype=np.float32)
    padded_ND[:, : vectors_ND.shape[1]] = vectors_ND
    return padded_ND


def _parameters_of(index: faiss.Index) -> tuple[type[Any], str | None]:
    """The class of an index's search parameters, and which of them says how much to visit."""
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF, "nprobe"
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW, "efSearch"
    return faiss.SearchParameters, None


def _check(name: str, index: faiss.Index, info: IndexInfo, items: int) -> None:
    if not isinstance(index, faiss.IndexFlat | faiss.IndexScalarQuantizer | faiss.IndexIVF | faiss.IndexHNSW):
        raise BundleError(f"{name}: {type(index).__name__} is no flat index, inverted file or graph")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise BundleError(f"{name}: its metric is not the inner product")
    if (index.ntotal, index.d) != (items, info.padded_dimension):
        raise BundleError(f"{name}: {index.ntotal} vectors of {index.d}, expected {items} of {info.padded_dimension}")
    lists = index.nlist if isinstance(index, faiss.IndexIVF) else 0
    if (info.nprobe is None) != (lists == 0) or (info.nprobe or 0) > lists:
        raise BundleError(f"{name}: {lists} lists do not go with nprobe {info.nprobe}")
    if (info.ef_search is None) == isinstance(index, faiss.IndexHNSW):
        raise BundleError(f"{name}: {type(index).__name__} does not go with ef_search {info.ef_search}")
