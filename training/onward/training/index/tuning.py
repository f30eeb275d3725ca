"""Tune search parameters: the least effort that reaches the target recall against exact search.

The effort is counted in visits: the lists that a search reads (nprobe), or its beam width in a graph (efSearch).

Dimension key: N items, D embedding, Q queries, K interests.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from onward.bundle import FaissIndex, ItemIndex, SearchParameters
from onward.training.index.building import IndexVectors, use_all_cores

RECALL_AT = 20
TIMED_QUERIES, TIMED_AT_ONCE = 1_000, 20
SAFETY_ERRORS = 2
"""Standard errors by which the measured recall must exceed the target. Future sessions differ from the validation
sessions it is measured on: on Diginetica, the recall of later sessions is 0.0025 lower."""
MIN_GAIN = 0.0005
"""Recall that doubling the visits must gain for a further doubling to be tried."""
MIN_EF_SEARCH = 32
"""The least beam width (efSearch) of a search in a graph."""


class TunedIndex(NamedTuple):
    """An index with its search parameters, and the recall they give."""

    description: str
    index: faiss.Index
    parameters: SearchParameters
    recall: float
    error: float = 0.0
    """The standard error of the recall over other sessions like these."""

    def reaches(self, recall: float) -> bool:
        """Return whether other sessions are likely to get at least this recall too."""
        return self.recall - SAFETY_ERRORS * self.error >= recall

    def item_index(self, vectors: IndexVectors) -> ItemIndex:
        """Return the index as the service searches it."""
        return ItemIndex(FaissIndex(self.index), vectors_N1D=vectors.vectors_N1D, parameters=self.parameters)


@dataclass(frozen=True, slots=True)
class IndexTuner:
    """Tunes indexes on queries of real sessions, whose best items by exact search are known."""

    vectors: IndexVectors
    queries_QKD: NDArray[np.float32]
    best: Sequence[set[int]]
    target_recall: float

    @classmethod
    def of(cls, vectors: IndexVectors, queries_QKD: NDArray[np.float32], target_recall: float) -> "IndexTuner":
        """Find the best items of the queries by exact search."""
        return cls(vectors, queries_QKD, exact_rows(vectors, queries_QKD), target_recall)

    def tune(self, description: str, index: faiss.Index, candidates_per_k: int = 1) -> TunedIndex:
        """Return the index with the fewest visits that reach the target, else with the most that still gain recall."""
        searched = FaissIndex(index)

        def at(visits: int | None) -> TunedIndex:
            parameters = SearchParameters(visits, candidates_per_k)
            return TunedIndex(description, index, parameters, *self._recall(searched, parameters))

        if searched.lists is None and searched.degree is None:
            return at(None)
        # Double the visits until the target is reached or the recall saturates, then bisect.
        low, high = 0, at(1 if searched.lists else MIN_EF_SEARCH)
        while not high.reaches(self.target_recall):
            visits = _visits(high)
            wider = at(searched.clamp_width(2 * visits))
            gains = wider.reaches(self.target_recall) or wider.recall >= high.recall + MIN_GAIN
            if _visits(wider) == visits or not gains:
                return wider
            low, high = visits, wider
        while _visits(high) - low > max(1, low // 8):
            middle = at((low + _visits(high)) // 2)
            if middle.reaches(self.target_recall):
                high = middle
            else:
                low = _visits(middle)
        return high

    def search_us(self, all_tuned: Sequence[TunedIndex]) -> list[float]:
        """Measure the processor time of a search in each index, in us.

        The indexes take turns, `TIMED_AT_ONCE` queries each. The result is the lower quartile over the turns of the
        turn's median, because other work on the machine slows some turns down.
        """
        indexes = [tuned.item_index(self.vectors) for tuned in all_tuned]
        medians_us: list[list[float]] = [[] for _ in indexes]
        for start in range(0, min(TIMED_QUERIES, len(self.queries_QKD)), TIMED_AT_ONCE):
            for index, medians in zip(indexes, medians_us, strict=True):
                medians.append(_median_us(index, self.queries_QKD[start : start + TIMED_AT_ONCE]))
        return [float(np.quantile(medians, 0.25)) for medians in medians_us]

    def _recall(self, index: FaissIndex, parameters: SearchParameters) -> tuple[float, float]:
        """Return the mean recall over the queries, and its standard error."""
        searched = ItemIndex(index, vectors_N1D=self.vectors.vectors_N1D, parameters=parameters)
        recall_Q = [
            len(best.intersection(searched.search(query_KD, RECALL_AT).rows.tolist())) / len(best)
            for query_KD, best in zip(self.queries_QKD, self.best, strict=True)
        ]
        return float(np.mean(recall_Q)), float(np.std(recall_Q) / np.sqrt(len(recall_Q)))


def exact_rows(vectors: IndexVectors, queries_QKD: NDArray[np.float32]) -> list[set[int]]:
    """Return the best rows of each query by exact search: all queries at once, over one block of items at a time."""
    use_all_cores()
    queries, interests, dimension = queries_QKD.shape
    flat_queries = np.zeros((queries * interests, vectors.padded_dimension), dtype=np.float32)
    flat_queries[:, :dimension] = queries_QKD.reshape(-1, dimension)
    heap = faiss.ResultHeap(len(flat_queries), RECALL_AT, keep_max=True)
    for start, block in vectors.blocks():
        scores, ids = faiss.knn(flat_queries, block, min(RECALL_AT, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(scores, ids + start)
    heap.finalize()
    shape = (queries, interests * RECALL_AT)
    return [_best(ids, scores) for ids, scores in zip(heap.I.reshape(shape), heap.D.reshape(shape), strict=True)]


def _median_us(index: ItemIndex, queries_QKD: NDArray[np.float32]) -> float:
    durations_ns = []
    for query_KD in queries_QKD:
        started = time.thread_time_ns()
        index.search(query_KD, RECALL_AT)
        durations_ns.append(time.thread_time_ns() - started)
    return median(durations_ns) / 1000


def _best(ids: NDArray[np.int64], scores: NDArray[np.float32]) -> set[int]:
    """Return the rows of the best items over all interests of a query."""
    in_order = dict.fromkeys(ids[np.argsort(-scores, kind="stable")].tolist())
    return {item + 1 for item in list(in_order)[:RECALL_AT] if item >= 0}


def _visits(tuned: TunedIndex) -> int:
    return tuned.parameters.search_width or 0
