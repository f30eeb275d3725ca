"""A FAISS index, searched with as little overhead around FAISS's own code as possible.

Dimension key: K interests, D embedding, P padded dimension, k results.
"""

import threading
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from onward.bundle.files.manifest import BundleError, IndexInfo

CACHED_SHAPES = 128


class SearchParameters(NamedTuple):
    """How much of an index a search reads."""

    search_width: int | None = None
    """nprobe of an inverted file (lists read), efSearch of a graph (its beam width); None for a flat index."""
    candidates_per_k: int = 1
    """Candidates to find by the index's quantized scores for each of the k results that exact scores then choose."""


class FaissIndex:
    """The nearest vectors by inner product. Thread-safe; each search runs in the thread that calls it."""

    def __init__(self, index: faiss.Index) -> None:
        self.items, self.dimension = int(index.ntotal), int(index.d)
        self.lists = int(index.nlist) if isinstance(index, faiss.IndexIVF) else None
        """Number of lists of an inverted file, else None."""
        self.degree = int(index.hnsw.nb_neighbors(0)) if isinstance(index, faiss.IndexHNSW) else None
        """Neighbours of a node in a graph's bottom layer, else None."""
        self._index = index
        self._thread = _ThreadBuffers(index)

    @classmethod
    def load(cls, path: Path, info: IndexInfo, items: int) -> "FaissIndex":
        """Memory-map an index of `items` vectors, so that the processes of a machine share it.

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
        """The name of the FAISS class, for messages."""
        return type(self._index).__name__

    def search(
        self, interests_KD: NDArray[np.float32], k: int, *, search_width: int | None, selector: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the k nearest vectors to each interest that the selector lets through (None: all): ids_Kk, scores_Kk.

        An id of -1 fills the places after the last result. The arrays belong to the calling thread and are overwritten
        by its next search.
        """
        thread, count = self._thread, len(interests_KD)
        buffers = thread.buffers(count, k)
        buffers.queries_KP[:, : interests_KD.shape[1]] = interests_KD
        parameters = thread.parameters(search_width, selector)
        faiss.omp_set_num_threads(1)  # the setting is per thread, so every call makes it
        self._index.search_c(count, buffers.queries_pointer, k, buffers.scores_pointer, buffers.ids_pointer, parameters)
        return buffers.ids_Kk, buffers.scores_Kk

    def touch(self) -> None:
        """Read every list of an inverted file once, so that no later search waits for a page fault."""
        if self.lists is not None:
            zero_1P, all_ids = np.zeros((1, self.dimension), dtype=np.float32), faiss.IDSelectorRange(0, self.items)
            self.search(zero_1P, 1, search_width=self.lists, selector=all_ids)

    def expected_comparisons(self, search_width: int | None) -> int:
        """Estimate the number of vectors that a search compares."""
        if search_width is None:
            return self.items
        if self.lists is not None:
            return self.items * search_width // self.lists
        return min(self.items, search_width * (self.degree or 1))

    def clamp_width(self, search_width: int) -> int:
        """Limit a search width to the number of lists, or of vectors in a graph."""
        return min(search_width, self.items if self.lists is None else self.lists)


class _SearchBuffers(NamedTuple):
    """Input and output arrays of a search, and pointers to them."""

    queries_KP: NDArray[np.float32]
    scores_Kk: NDArray[np.float32]
    ids_Kk: NDArray[np.int64]
    queries_pointer: Any
    scores_pointer: Any
    ids_pointer: Any

    @classmethod
    def of(cls, interests: int, k: int, dimension: int) -> "_SearchBuffers":
        queries_KP = np.zeros((interests, dimension), dtype=np.float32)
        scores_Kk, ids_Kk = np.empty((interests, k), dtype=np.float32), np.empty((interests, k), dtype=np.int64)
        return cls(queries_KP, scores_Kk, ids_Kk, *map(faiss.swig_ptr, (queries_KP, scores_Kk, ids_Kk)))


class _ThreadBuffers(threading.local):
    """Buffers and search parameters that a thread reuses: creating them would take a third of a search of 40 us."""

    def __init__(self, index: faiss.Index) -> None:
        self._dimension = int(index.d)
        self._parameters_class, self._width_field = _parameters_of(index)
        self._buffers: dict[tuple[int, int], _SearchBuffers] = {}
        self._unmasked: dict[int | None, Any] = {}
        self._masked = self._parameters_class()
        self._masked_selector: Any = None
        self._masked_width: int | None = None

    def buffers(self, interests: int, k: int) -> _SearchBuffers:
        buffers = self._buffers.get((interests, k))
        if buffers is None:
            if len(self._buffers) >= CACHED_SHAPES:
                self._buffers.clear()
            self._buffers[interests, k] = buffers = _SearchBuffers.of(interests, k, self._dimension)
        return buffers

    def parameters(self, search_width: int | None, selector: Any) -> Any:
        if selector is None:
            unmasked = self._unmasked.get(search_width)
            if unmasked is None:
                self._unmasked[search_width] = unmasked = self._set_width(self._parameters_class(), search_width)
            return unmasked
        if selector is not self._masked_selector:  # assigning to a field of a FAISS class runs Python code of FAISS
            self._masked.sel = self._masked_selector = selector
        if search_width != self._masked_width:
            self._set_width(self._masked, search_width)
            self._masked_width = search_width
        return self._masked

    def _set_width(self, parameters: Any, search_width: int | None) -> Any:
        if self._width_field is not None:
            setattr(parameters, self._width_field, search_width)
        return parameters


def pad_dimension(vectors_ND: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Append zeros to each vector up to `dimension`, which leaves every inner product as it is."""
    padded_ND = np.zeros((len(vectors_ND), dimension), dtype=np.float32)
    padded_ND[:, : vectors_ND.shape[1]] = vectors_ND
    return padded_ND


def _parameters_of(index: faiss.Index) -> tuple[type[Any], str | None]:
    """Return the class of an index's search parameters and the name of its field for the search width."""
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF, "nprobe"
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW, "efSearch"
    return faiss.SearchParameters, None


def _check(name: str, index: faiss.Index, info: IndexInfo, items: int) -> None:
    if not isinstance(index, faiss.IndexFlat | faiss.IndexScalarQuantizer | faiss.IndexIVF | faiss.IndexHNSW):
        raise BundleError(f"{name}: {type(index).__name__} is not a flat index, an inverted file or an HNSW graph")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise BundleError(f"{name}: its metric is not the inner product")
    if (index.ntotal, index.d) != (items, info.padded_dimension):
        raise BundleError(f"{name}: {index.ntotal} vectors of {index.d}, expected {items} of {info.padded_dimension}")
    lists = index.nlist if isinstance(index, faiss.IndexIVF) else 0
    if (info.nprobe is None) != (lists == 0) or (info.nprobe or 0) > lists:
        raise BundleError(f"{name}: {lists} lists do not go with nprobe {info.nprobe}")
    if (info.ef_search is None) == isinstance(index, faiss.IndexHNSW):
        raise BundleError(f"{name}: {type(index).__name__} does not go with ef_search {info.ef_search}")
