"""Interests -> candidates, by FAISS, with an exact scan beside it.

A filter is applied inside the search in every case; how depends on the share of items that it leaves. The rule was
chosen by `python -m tests.benchmarks.filters`: 100,000 clustered vectors of 64 numbers, IVF1024,SQfp16 at nprobe 64,
which without a filter has a recall@20 of .974 in 137 us. On two busy cores, in us (recall@20 against the scan):

    share    masked, nprobe 64    wide, nprobe 64 / share    scan
    90 %     116 (.973)           121 (.977)                 1470
    50 %     120 (.949)           227 (.976)                 1976
    10 %     108 (.790)           956 (.997)                  939
     1 %      58 (.540)           511 (1)                      32
    .1 %      39 (.243)           307 (1)                      12

So a mask alone finds ever less of what is best. The search visits as many more lists as keep the number of eligible
vectors that it compares, until to read every eligible vector by itself costs no more.

Dimension key: N items of the index, M cold items, R = N + M rows, D embedding, P padded dimension, K interests, C
candidates, k results.
"""

from collections.abc import Callable, Sequence, Set
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from service.bundle.eligible import Eligible
from service.bundle.manifest import BundleError, IndexInfo

Strategy = Literal["index", "masked", "wide", "scan"]
"""All items of the index; those of a mask; those of a mask, in more lists; every eligible item, compared exactly."""
THOROUGHNESS: tuple[Strategy | None, ...] = (None, *get_args(Strategy))

MASK_ALONE_FROM = 0.9
"""Share of eligible items from which the lists that are visited without a mask do."""
SELECTED_COST, COMPARED_COST = 8, 5
"""Of reading and comparing a row by itself, and of comparing one inside a list; 1 is testing a row of a list."""
GATHERED_COST = 5
"""Of reading and comparing a row by itself, where 1 is a row of the product of all."""


class Candidates(NamedTuple):
    """Items that match, best first: rows (int64), scores and the number of the interest that brought each."""

    rows: NDArray[np.int64]
    scores: NDArray[np.floating[Any]]
    interests: NDArray[np.int64]
    strategy: Strategy | None
    """None where no vector was compared."""


class Plan(NamedTuple):
    """How to search: for an index with lists how many to visit, and what that costs in comparisons of a vector."""

    strategy: Strategy
    nprobe: int | None
    comparisons: int


class ItemIndex:
    """Inner-product search over rows 1..R: N by the index, where a row's FAISS id is row - 1, and M cold ones exactly.

    Safe to use from several threads at once; each call runs in the thread that makes it.
    """

    def __init__(
        self,
        index: faiss.Index,
        *,
        vectors_N1D: NDArray[np.float32],
        nprobe: int | None,
        cold_MD: NDArray[np.float32] | None = None,
    ) -> None:
        self._index = index
        self._vectors_N1D = vectors_N1D
        self._nprobe = nprobe
        self._cold_MD = np.empty((0, vectors_N1D.shape[1]), dtype=np.float32) if cold_MD is None else cold_MD
        self._items = len(vectors_N1D) - 1
        self._unmasked = self._visit("index", nprobe, 1.0)

    @classmethod
    def load(cls, path: Path, info: IndexInfo, *, vectors_N1D: NDArray[np.float32]) -> "ItemIndex":
        """Map the index into memory, so that the processes of a machine share it. Raises BundleError."""
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise BundleError(f"{path.name}: not readable by FAISS") from error
        _check_index(path.name, index, info, items=len(vectors_N1D) - 1)
        loaded = cls(index, vectors_N1D=vectors_N1D, nprobe=info.nprobe)
        try:
            loaded.search(vectors_N1D[1:2], 1, hidden_rows={1})
        except RuntimeError as error:
            raise BundleError(f"{path.name}: {type(index).__name__} cannot exclude items inside a search") from error
        return loaded

    def with_cold(self, cold_MD: NDArray[np.float32]) -> "ItemIndex":
        """The same index with the vectors of rows N + 1..N + M behind it, in place of any it had there."""
        return ItemIndex(self._index, vectors_N1D=self._vectors_N1D, nprobe=self._nprobe, cold_MD=cold_MD)

    def search(
        self,
        interests_KD: NDArray[np.float32],
        k: int,
        *,
        eligible: Eligible | None = None,
        hidden_rows: Set[int] = frozenset(),
        exact: bool = False,
    ) -> Candidates:
        """Find the k items with the largest inner product with any of the K interests.

        Only eligible rows, None for all, that are not hidden appear: the others are excluded inside the search, so
        the answer holds the k best of them or all, by a scan where the index finds fewer. `exact` asks for that scan
        at once: it returns the best in order, of equals the smaller row first.
        """
        eligible = eligible or self._every_row
        plan = self.plan(eligible)
        if exact or plan.strategy == "scan":
            return self.scan(interests_KD, k, eligible=eligible, hidden_rows=hidden_rows)
        found = self._by_index(interests_KD, k, eligible, hidden_rows, plan)
        if len(self._cold_MD):
            found = self._with_cold_items(found, interests_KD, k, eligible, hidden_rows)
        if len(found.rows) < k and len(found.rows) < shown_count(eligible, hidden_rows):
            return self.scan(interests_KD, k, eligible=eligible, hidden_rows=hidden_rows)
        return found

    def scan(
        self,
        interests_KD: NDArray[np.float32],
        k: int,
        *,
        eligible: Eligible,
        hidden_rows: Set[int] = frozenset(),
        added: Callable[[NDArray[np.int64]], NDArray[np.float64]] | None = None,
    ) -> Candidates:
        """Compare every eligible row; what `added` gives for rows_C is added before they are put in order."""
        if self._is_sparse(eligible):
            rows = eligible.selected
            scores_CK = self.vectors(rows) @ interests_KD.T
        else:
            rows = np.arange(len(eligible.rows_R1))
            scores_CK = self._vectors_N1D @ interests_KD.T
            if len(self._cold_MD):
                scores_CK = np.concatenate([scores_CK, self._cold_MD @ interests_KD.T])
        best_C: NDArray[np.floating[Any]] = scores_CK.max(axis=1)
        if added is not None:
            best_C = best_C + added(rows)
        visible_C = eligible.rows_R1[rows]
        if hidden_rows:
            visible_C &= ~np.isin(rows, np.fromiter(hidden_rows, np.int64))
        places = best_places(np.where(visible_C, best_C, -np.inf), min(k, int(np.count_nonzero(visible_C))))
        return Candidates(rows[places], best_C[places], scores_CK[places].argmax(axis=1), "scan")

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read the vectors of some rows from 1..R: vectors_CD."""
        if not len(self._cold_MD):
            return self._vectors_N1D[rows]
        is_cold_C = rows > self._items
        vectors_CD = self._vectors_N1D[np.where(is_cold_C, 0, rows)]
        vectors_CD[is_cold_C] = self._cold_MD[rows[is_cold_C] - self._items - 1]
        return vectors_CD

    def plan(self, eligible: Eligible) -> Plan:
        """Choose how to search, by how many items are eligible."""
        if eligible.all_indexed:
            return self._unmasked
        by_scan = Plan("scan", None, min(GATHERED_COST * eligible.count, self._items))
        if self._nprobe is None:
            return by_scan if self._is_sparse(eligible) else self._visit("masked", None, 1.0)
        share = eligible.indexed_count / self._items
        if share >= MASK_ALONE_FROM:
            return self._visit("masked", self._nprobe, share)
        tested = min(self._items, self._visited(self._nprobe) / max(share, 1 / self._items))
        if SELECTED_COST * eligible.indexed_count <= tested * (1 + COMPARED_COST * share):
            return by_scan
        return self._visit("wide", min(self._index.nlist, ceil(self._nprobe / share)), share)

    def expected_products(self, interests: int, k: int, *, eligible: Eligible, hidden: int) -> int:
        """Estimate the multiplications of one search, its exact scan included where that is likely to be needed."""
        plan = self.plan(eligible)
        expected_finds = plan.comparisons - hidden
        enough = plan.strategy == "scan" or expected_finds > 4 * min(k, eligible.count)
        return interests * int(self._index.d) * (plan.comparisons if enough else self._items)

    @cached_property
    def _every_row(self) -> Eligible:
        rows_R1 = np.ones(self._items + len(self._cold_MD) + 1, dtype=np.bool_)
        rows_R1[0] = False
        return Eligible(rows_R1, items=self._items)

    def _visit(self, strategy: Strategy, nprobe: int | None, share: float) -> Plan:
        return Plan(strategy, nprobe, int(self._visited(nprobe) * share))

    def _visited(self, nprobe: int | None) -> int:
        """How many items the lists of a search are likely to hold."""
        return self._items if nprobe is None else self._items * nprobe // int(self._index.nlist)

    def _is_sparse(self, eligible: Eligible) -> bool:
        """Whether to read each eligible vector by itself costs less than to compare all there are."""
        return GATHERED_COST * eligible.count <= self._items

    def _by_index(
        self,
        interests_KD: NDArray[np.float32],
        k: int,
        eligible: Eligible,
        hidden_rows: Set[int],
        plan: Plan,
    ) -> Candidates:
        faiss.omp_set_num_threads(1)  # the setting belongs to the calling thread, so each call makes it
        scores_Kk, ids_Kk = self._index.search(
            pad_dimension(interests_KD, self._index.d), k, params=_parameters(eligible, hidden_rows, plan.nprobe)
        )
        return _merge(ids_Kk + 1, scores_Kk, k, plan.strategy)

    def _with_cold_items(
        self,
        found: Candidates,
        interests_KD: NDArray[np.float32],
        k: int,
        eligible: Eligible,
        hidden_rows: Set[int],
    ) -> Candidates:
        """Merge the k best with the eligible cold items."""
        rows = self._items + 1 + np.flatnonzero(eligible.rows_R1[self._items + 1 :])
        rows = rows[~np.isin(rows, np.fromiter(hidden_rows, np.int64))]
        scores_CK = self.vectors(rows) @ interests_KD.T
        cold = Candidates(rows, scores_CK.max(axis=1), scores_CK.argmax(axis=1), found.strategy)
        return merged((found, cold), k)


def shown_count(eligible: Eligible, hidden_rows: Set[int]) -> int:
    """Count the eligible rows that are not hidden."""
    if eligible.count == len(eligible.rows_R1) - 1:
        return eligible.count - len(hidden_rows)
    return eligible.count - sum(map(eligible.rows_R1.item, hidden_rows))


def merged(lists: Sequence[Candidates], k: int) -> Candidates:
    """The k best of several lists that share no row; of equals the smaller row first."""
    rows, scores, interests = (np.concatenate(column) for column in list(zip(*lists, strict=True))[:3])
    best = np.lexsort((rows, -scores))[:k]
    strategy = max((found.strategy for found in lists), key=THOROUGHNESS.index)
    return Candidates(rows[best], scores[best], interests[best], strategy)


def best_places(scores_C: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Places of the `count` largest of at least so many scores, the largest first, of equals the first."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    lowest = np.partition(scores_C, len(scores_C) - count)[len(scores_C) - count]
    places = np.flatnonzero(scores_C >= lowest)
    return places[np.argsort(-scores_C[places], kind="stable")[:count]]


def pad_dimension(vectors_ND: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Append zeros to each vector up to `dimension`, which leaves every inner product as it is."""
    padded_ND = np.zeros((len(vectors_ND), dimension), dtype=np.float32)
    padded_ND[:, : vectors_ND.shape[1]] = vectors_ND
    return padded_ND


def _parameters(eligible: Eligible, hidden_rows: Set[int], nprobe: int | None) -> Any:
    selector = None if eligible.all_indexed else eligible.selector
    if hidden_rows:
        visible = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.fromiter(hidden_rows, np.int64) - 1))
        selector = visible if selector is None else faiss.IDSelectorAnd(selector, visible)
    if nprobe is None:
        return faiss.SearchParameters(sel=selector)
    return faiss.SearchParametersIVF(sel=selector, nprobe=nprobe)


def _merge(rows_Kk: NDArray[np.int64], scores_Kk: NDArray[np.float32], k: int, strategy: Strategy) -> Candidates:
    """Merge the results of each interest; the k best of the union are among the k best of each.

    FAISS marks a place it could not fill with the id -1, which is row 0 here.
    """
    found = rows_Kk > 0
    rows, scores, interests = rows_Kk[found], scores_Kk[found], np.nonzero(found)[0]
    if len(rows_Kk) == 1:
        return Candidates(rows, scores, interests, strategy)
    order = np.lexsort((rows, -scores))
    _, first = np.unique(rows[order], return_index=True)
    best = order[np.sort(first)[:k]]
    return Candidates(rows[best], scores[best], interests[best], strategy)


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
