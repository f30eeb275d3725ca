"""Indexes over item vectors, built in blocks, so that vectors mapped from a file need not fit into memory.

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
"""FAISS falls back to scalar code, eight times slower, where a quantised dimension is no multiple of this."""
POINTS_PER_LIST, LEAST_POINTS_PER_LIST = 64, 39
"""FAISS wants 39 to 256 items of each list to place it by."""
BLOCK_ROWS = 65_536
NEIGHBOURS, THOROUGHNESS = 32, 100
"""Of a node of a graph; and how many nodes are kept in view as one is put in, FAISS's efConstruction."""
COARSE_VIEW, COARSE_THOROUGHNESS = 32, 200
"""Of a graph of lists: nodes kept in view by a search, if it is not to find more, and as one is put in."""


@dataclass(frozen=True, slots=True)
class IndexVectors:
    """The items' vectors, which may lie in a file."""

    vectors_N1D: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors_N1D) - 1

    @property
    def padded_dimension(self) -> int:
        """P"""
        return int(-(-self.vectors_N1D.shape[1] // DIMENSION_MULTIPLE) * DIMENSION_MULTIPLE)

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Item 0 of each block and the block, padded; an item's number is its row less 1."""
        for start in range(0, len(self), BLOCK_ROWS):
            yield start, pad_dimension(self.vectors_N1D[1 + start : 1 + start + BLOCK_ROWS], self.padded_dimension)

    def sample(self, size: int) -> NDArray[np.float32]:
        """Some items, evenly over the rows, padded."""
        chosen = np.linspace(1, len(self), min(size, len(self))).astype(np.int64)
        return pad_dimension(self.vectors_N1D[chosen], self.padded_dimension)


@dataclass(frozen=True, slots=True)
class InvertedLists:
    """Where the lists of an inverted file lie and which item is in which: made once for all codes."""

    centroids_CP: NDArray[np.float32]
    list_of_N: NDArray[np.int32]

    @classmethod
    def of(cls, vectors: IndexVectors, lists: int) -> "InvertedLists":
        """Place so many lists by k-means over a sample of the items."""
        centroids_CP = k_means(vectors.sample(POINTS_PER_LIST * lists), lists)
        list_of_N = np.concatenate([nearest(block, centroids_CP) for _, block in vectors.blocks()])
        return cls(centroids_CP, list_of_N.astype(np.int32))


def list_count(items: int) -> int:
    """About 4 sqrt(N) inverted lists, a power of two, with at least 39 items each, as FAISS wants for training."""
    wanted = 2 ** round(np.log2(4 * np.sqrt(items)))
    return int(max(1, min(wanted, 2 ** int(np.log2(max(items / LEAST_POINTS_PER_LIST, 1))))))


def flat_index(vectors: IndexVectors) -> faiss.IndexFlatIP:
    """The vectors themselves, all of which a search compares."""
    index = faiss.IndexFlatIP(vectors.padded_dimension)
    for _, block in vectors.blocks():
        index.add(block)
    return index


def inverted_file(vectors: IndexVectors, lists: InvertedLists, description: str) -> faiss.IndexIVF:
    """An inverted file by its factory string, over lists that are there already."""
    use_all_cores()
    index = faiss.index_factory(vectors.padded_dimension, description, faiss.METRIC_INNER_PRODUCT)
    coarse = faiss.downcast_index(index.quantizer)
    if isinstance(coarse, faiss.IndexHNSW):
        coarse.hnsw.efSearch, coarse.hnsw.efConstruction = COARSE_VIEW, COARSE_THOROUGHNESS
    coarse.add(lists.centroids_CP)
    index.train(vectors.sample(POINTS_PER_LIST * len(lists.centroids_CP)))
    for start, block in vectors.blocks():
        list_of_block = lists.list_of_N[start : start + len(block)].astype(np.int64)
        index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(list_of_block))
    return index


def graph_index(vectors: IndexVectors, description: str) -> faiss.IndexHNSW:
    """A navigable small-world graph by its factory string."""
    use_all_cores()
    index = faiss.index_factory(vectors.padded_dimension, description, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = THOROUGHNESS
    for _, block in vectors.blocks():
        index.add(block)
    return index


def use_all_cores() -> None:
    """Let FAISS build with all cores, or as many as OMP_NUM_THREADS says; searches set one for themselves."""
    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
