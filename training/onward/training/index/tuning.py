"""How thoroughly an index is to be searched: as little as finds what it shall of an exact search.

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
TIMED_QUERIES, IN_A_ROW = 1_000, 20
ERRORS_TO_SPARE = 2
"""Standard errors by which a recall lies above the target, which is for sessions to come; they differ from those of
validation: of Diginetica's, later ones find 0.0025 less."""
SATURATED = 0.0005
"""Recall that twice the visits must gain for more of them to be tried."""
FIRST_VIEW = 32
"""The fewest nodes that a search in a graph keeps in view."""


class TunedIndex(NamedTuple):
    """An index with an effort, and the share of the best items that it finds so."""

    description: str
    index: faiss.Index
    effort: SearchParameters
    recall: float
    error: float = 0.0
    """The standard error of the recall: what it would differ by for other sessions like these."""

    def reaches(self, recall: float) -> bool:
        """Whether other sessions are likely to see such a recall."""
        return self.recall - ERRORS_TO_SPARE * self.error >= recall

    def item_index(self, vectors: IndexVectors) -> ItemIndex:
        """As the service searches it."""
        return ItemIndex(FaissIndex(self.index), vectors_N1D=vectors.vectors_N1D, effort=self.effort)


@dataclass(frozen=True, slots=True)
class IndexTuner:
    """Queries of real sessions and the items that an exact search finds for them."""

    vectors: IndexVectors
    queries_QKD: NDArray[np.float32]
    best: Sequence[set[int]]
    target_recall: float

    @classmethod
    def of(cls, vectors: IndexVectors, queries_QKD: NDArray[np.float32], target_recall: float) -> "IndexTuner":
        """Search exactly for the queries."""
        return cls(vectors, queries_QKD, exact_rows(vectors, queries_QKD), target_recall)

    def tuned(self, description: str, index: faiss.Index, candidates_per_k: int = 1) -> TunedIndex:
        """The index with the least effort that reaches the target, or with the most that gains anything."""
        searched = FaissIndex(index)

        def at(visits: int | None) -> TunedIndex:
            effort = SearchParameters(visits, candidates_per_k)
            return TunedIndex(description, index, effort, *self._recall(searched, effort))

        if searched.lists is None and searched.degree is None:
            return at(None)
        low, high = 0, at(1 if searched.lists else FIRST_VIEW)
        while not high.reaches(self.target_recall):
            visits = _visits(high)
            wider = at(searched.at_most(2 * visits))
            gains = wider.reaches(self.target_recall) or wider.recall >= high.recall + SATURATED
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
        """Processor time of a search in each; a few different queries are asked of one, then of the next, and so on.

        The median of the few, in the quiet quarter of them: what else the machine does slows all down by turns.
        """
        indexes = [tuned.item_index(self.vectors) for tuned in all_tuned]
        medians_us: list[list[float]] = [[] for _ in indexes]
        for start in range(0, min(TIMED_QUERIES, len(self.queries_QKD)), IN_A_ROW):
            for index, medians in zip(indexes, medians_us, strict=True):
                medians.append(_median_us(index, self.queries_QKD[start : start + IN_A_ROW]))
        return [float(np.quantile(medians, 0.25)) for medians in medians_us]

    def _recall(self, index: FaissIndex, effort: SearchParameters) -> tuple[float, float]:
        """The mean over the queries, and its standard error."""
        searched = ItemIndex(index, vectors_N1D=self.vectors.vectors_N1D, effort=effort)
        found_Q = [
            len(best.intersection(searched.search(query_KD, RECALL_AT).rows.tolist())) / len(best)
            for query_KD, best in zip(self.queries_QKD, self.best, strict=True)
        ]
        return float(np.mean(found_Q)), float(np.std(found_Q) / np.sqrt(len(found_Q)))


def exact_rows(vectors: IndexVectors, queries_QKD: NDArray[np.float32]) -> list[set[int]]:
    """The rows that an exact search finds for each query: of all queries at once, block by block of the items."""
    use_all_cores()
    queries, interests, dimension = queries_QKD.shape
    asked = np.zeros((queries * interests, vectors.padded_dimension), dtype=np.float32)
    asked[:, :dimension] = queries_QKD.reshape(-1, dimension)
    heap = faiss.ResultHeap(len(asked), RECALL_AT, keep_max=True)
    for start, block in vectors.blocks():
        scores, ids = faiss.knn(asked, block, min(RECALL_AT, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
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
    """The rows of the best items of several interests together."""
    in_order = dict.fromkeys(ids[np.argsort(-scores, kind="stable")].tolist())
    return {item + 1 for item in list(in_order)[:RECALL_AT] if item >= 0}


def _visits(tuned: TunedIndex) -> int:
    return tuned.effort.visits or 0
