"""Build FAISS indexes over item vectors block by block, so that memory-mapped vectors need not fit into memory.

Dimension key: N items, D embedding, P padded dimension, C lists of an inverted file.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from onward.bundle import pad_dimension
from onward.training.index.k_means import k_means, nearest

DIMENSION_MULTIPLE = 16
"""FAISS falls back to scalar code, eight times slower, if a quantized dimension is not a multiple of this."""
POINTS_PER_LIST, MIN_POINTS_PER_LIST = 64, 39
"""Training points per inverted list; FAISS asks for 39 to 256."""
BLOCK_ROWS = 65_536
GRAPH_DEGREE, EF_CONSTRUCTION = 32, 100
"""Neighbours of a node of an HNSW graph, and its beam width (efConstruction) while it is built."""
COARSE_EF_SEARCH, COARSE_EF_CONSTRUCTION = 32, 200
"""Beam widths of the HNSW graph over the centroids of an inverted file: least efSearch, and efConstruction."""


@dataclass(frozen=True, slots=True)
class IndexVectors:
    """The item vectors that an index is built over; they may be memory-mapped."""

    vectors_N1D: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors_N1D) - 1

    @property
    def padded_dimension(self) -> int:
        """P, the dimension rounded up to a multiple of DIMENSION_MULTIPLE."""
        return int(-(-self.vectors_N1D.shape[1] // DIMENSION_MULTIPLE) * DIMENSION_MULTIPLE)

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the number of the first item of each block, and the padded block; an item's number is its row - 1."""
        for start in range(0, len(self), BLOCK_ROWS):
            yield start, pad_dimension(self.vectors_N1D[1 + start : 1 + start + BLOCK_ROWS], self.padded_dimension)

    def sample(self, size: int) -> NDArray[np.float32]:
        """Return the padded vectors of `size` items, evenly spread over the rows."""
        chosen = np.linspace(1, len(self), min(size, len(self))).astype(np.int64)
        return pad_dimension(self.vectors_N1D[chosen], self.padded_dimension)


@dataclass(frozen=True, slots=True)
class InvertedLists:
    """The centroids of an inverted file and the list of each item: computed once for all quantizers."""

    centroids_CP: NDArray[np.float32]
    list_of_N: NDArray[np.int32]

    @classmethod
    def of(cls, vectors: IndexVectors, lists: int) -> "InvertedLists":
        """Cluster the items into `lists` lists by k-means over a sample of them."""
        centroids_CP = k_means(vectors.sample(POINTS_PER_LIST * lists), lists)
        list_of_N = np.concatenate([nearest(block, centroids_CP) for _, block in vectors.blocks()])
        return cls(centroids_CP, list_of_N.astype(np.int32))


def list_count(items: int) -> int:
    """Return the number of inverted lists: about 4 sqrt(N), a power of two, with at least 39 items per list."""
    preferred = 2 ** round(np.log2(4 * np.sqrt(items)))
    return int(max(1, min(preferred, 2 ** int(np.log2(max(items / MIN_POINTS_PER_LIST, 1))))))


def flat_index(vectors: IndexVectors) -> faiss.IndexFlatIP:
    """Build a flat index: a search compares with all vectors."""
    index = faiss.IndexFlatIP(vectors.padded_dimension)
    for _, block in vectors.blocks():
        index.add(block)
    return index


def inverted_file(vectors: IndexVectors, lists: InvertedLists, description: str) -> faiss.IndexIVF:
    """Build an inverted file by its factory string, with given lists."""
    use_all_cores()
    index = faiss.index_factory(vectors.padded_dimension, description, faiss.METRIC_INNER_PRODUCT)
    coarse = faiss.downcast_index(index.quantizer)
    if isinstance(coarse, faiss.IndexHNSW):
        coarse.hnsw.efSearch, coarse.hnsw.efConstruction = COARSE_EF_SEARCH, COARSE_EF_CONSTRUCTION
    coarse.add(lists.centroids_CP)
    index.train(vectors.sample(POINTS_PER_LIST * len(lists.centroids_CP)))
    for start, block in vectors.blocks():
        list_of_block = lists.list_of_N[start : start + len(block)].astype(np.int64)
        index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(list_of_block))
    return index


def graph_index(vectors: IndexVectors, description: str) -> faiss.IndexHNSW:
    """Build a hierarchical navigable small-world graph (HNSW) by its factory string."""
    use_all_cores()
    index = faiss.index_factory(vectors.padded_dimension, description, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    for _, block in vectors.blocks():
        index.add(block)
    return index


def use_all_cores() -> None:
    """Let FAISS build with all cores, or OMP_NUM_THREADS of them; searches set one thread themselves."""
    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
