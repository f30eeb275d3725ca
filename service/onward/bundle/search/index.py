"""Interests -> candidates, by FAISS, with an exact scan beside it.

A filter is applied inside the search in every case; how depends on the share of items that it leaves. The rule was
chosen by `python -m tests.benchmarks.filters BUNDLE`: SR-GNN on Diginetica, 43,097 vectors of 100 numbers,
IVF1024,SQfp16 at nprobe 7, which without a filter has a recall@20 of .991 in 22 us. In us of processor time (recall@20
against the scan), of items that are eligible by chance:

    share    masked, nprobe 7    wide, nprobe 7 / share    scan
    90 %     24 (.988)           23 (.991)                 602
    50 %     23 (.978)           28 (.994)                 727
    10 %     20 (.779)           45 (.979)                 120
     1 %     17 (.147)           164 (.998)                 20
    .1 %     16 (.015)           203 (1)                    11

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

import numpy as np
from numpy.typing import NDArray

from onward.bundle.catalog.eligible import Eligible
from onward.bundle.files.manifest import BundleError, IndexInfo
from onward.bundle.search.faiss_index import FaissIndex, SearchParameters

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
    """How to search: what to visit, where the index leaves a choice, and what that costs in comparisons of a vector."""

    strategy: Strategy
    visits: int | None
    comparisons: int


class ItemIndex:
    """Inner-product search over rows 1..R: N by the index, where a row's FAISS id is row - 1, and M cold ones exactly.

    Safe to use from several threads at once; each call runs in the thread that makes it.
    """

    def __init__(
        self,
        index: FaissIndex,
        *,
        vectors_N1D: NDArray[np.float32],
        effort: SearchParameters,
        cold_MD: NDArray[np.float32] | None = None,
    ) -> None:
        self._index = index
        self._vectors_N1D = vectors_N1D
        self._effort = effort
        self._cold_MD = np.empty((0, vectors_N1D.shape[1]), dtype=np.float32) if cold_MD is None else cold_MD
        self._items = len(vectors_N1D) - 1
        self._unmasked = self._visit("index", effort.visits, 1.0)

    @classmethod
    def load(cls, path: Path, info: IndexInfo, *, vectors_N1D: NDArray[np.float32]) -> "ItemIndex":
        """Map the index into memory, so that the processes of a machine share it. Raises BundleError."""
        index = FaissIndex.load(path, info, len(vectors_N1D) - 1)
        effort = SearchParameters(info.nprobe or info.ef_search, info.candidates_per_k)
        loaded = cls(index, vectors_N1D=vectors_N1D, effort=effort)
        try:
            loaded.search(vectors_N1D[1:2], 1, hidden_rows={1})
        except RuntimeError as error:
            raise BundleError(f"{path.name}: {index.kind} cannot exclude items inside a search") from error
        return loaded

    def touch(self) -> None:
        """Have the mapped file in memory, so that no request waits for it; takes as long as a scan."""
        self._index.touch()

    def with_cold(self, cold_MD: NDArray[np.float32]) -> "ItemIndex":
        """The same index with the vectors of rows N + 1..N + M behind it, in place of any it had there."""
        return ItemIndex(self._index, vectors_N1D=self._vectors_N1D, effort=self._effort, cold_MD=cold_MD)

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
        with eligible.selecting(hidden_rows) as selector:
            rows_KC, scores_KC = self._found(interests_KD, k, plan, selector)
        found = self._chosen(interests_KD, k, rows_KC, scores_KC, plan)
        return self._completed(found, interests_KD, k, eligible, hidden_rows)

    def search_all(self, interests_BKD: NDArray[np.float32], k: int, *, eligible: Eligible) -> list[Candidates]:
        """Find what `search` finds for each of B sessions, but for the rounding of scores, all by one call of FAISS.

        Of sixteen sessions that takes about half the time, since what all of them read stays in the caches.
        """
        plan = self.plan(eligible)
        if plan.strategy == "scan":
            return [self.search(interests_KD, k, eligible=eligible) for interests_KD in interests_BKD]
        sessions, interests, dimension = interests_BKD.shape
        with eligible.selecting(frozenset()) as selector:
            rows, scores = self._found(interests_BKD.reshape(-1, dimension), k, plan, selector)
        rows_BKC, scores_BKC = rows.reshape(sessions, interests, -1), scores.reshape(sessions, interests, -1)
        return [
            self._completed(self._chosen(interests_KD, k, rows_KC, scores_KC, plan), interests_KD, k, eligible)
            for interests_KD, rows_KC, scores_KC in zip(interests_BKD, rows_BKC, scores_BKC, strict=True)
        ]

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
        visits = self._effort.visits
        if visits is None:
            return self._by_scan(eligible) if self._is_sparse(eligible) else self._visit("masked", None, 1.0)
        share = eligible.indexed_count / self._items
        if share >= MASK_ALONE_FROM:
            return self._visit("masked", visits, share)
        tested = min(self._items, self._index.visited(visits) / max(share, 1 / self._items))
        compared = share if self._index.degree is None else 1  # a search in a graph compares what it passes by
        if SELECTED_COST * eligible.indexed_count <= tested * (1 + COMPARED_COST * compared):
            return self._by_scan(eligible)
        return self._visit("wide", self._index.at_most(ceil(visits / share)), share)

    def expected_products(self, interests: int, k: int, *, eligible: Eligible, hidden: int) -> int:
        """Estimate the multiplications of one search, its exact scan included where that is likely to be needed."""
        plan = self.plan(eligible)
        expected_finds = plan.comparisons - hidden
        enough = plan.strategy == "scan" or expected_finds > 4 * min(k, eligible.count)
        return interests * self._index.dimension * (plan.comparisons if enough else self._items)

    @cached_property
    def _every_row(self) -> Eligible:
        rows_R1 = np.ones(self._items + len(self._cold_MD) + 1, dtype=np.bool_)
        rows_R1[0] = False
        return Eligible(rows_R1, items=self._items)

    def _visit(self, strategy: Strategy, visits: int | None, share: float) -> Plan:
        return Plan(strategy, visits, int(self._index.visited(visits) * share))

    def _by_scan(self, eligible: Eligible) -> Plan:
        return Plan("scan", None, min(GATHERED_COST * eligible.count, self._items))

    def _is_sparse(self, eligible: Eligible) -> bool:
        """Whether to read each eligible vector by itself costs less than to compare all there are."""
        return GATHERED_COST * eligible.count <= self._items

    def _found(
        self, interests_KD: NDArray[np.float32], k: int, plan: Plan, selector: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """rows_KC and scores_KC by the index; of a place that it could not fill the row is 0."""
        candidates = self._effort.candidates_per_k * k
        ids_KC, scores_KC = self._index.search(interests_KD, candidates, visits=plan.visits, selector=selector)
        return ids_KC + 1, scores_KC.copy()

    def _chosen(
        self,
        interests_KD: NDArray[np.float32],
        k: int,
        rows_KC: NDArray[np.int64],
        scores_KC: NDArray[np.float32],
        plan: Plan,
    ) -> Candidates:
        """The k best of what the index found for a session."""
        if self._effort.candidates_per_k > 1:
            return self._refined(interests_KD, k, rows_KC, plan.strategy)
        return _merge(rows_KC, scores_KC, k, plan.strategy)

    def _completed(
        self,
        found: Candidates,
        interests_KD: NDArray[np.float32],
        k: int,
        eligible: Eligible,
        hidden_rows: Set[int] = frozenset(),
    ) -> Candidates:
        """What the index found with the cold items; by a scan where it found fewer than there are."""
        if len(self._cold_MD):
            found = self._with_cold_items(found, interests_KD, k, eligible, hidden_rows)
        if len(found.rows) < k and len(found.rows) < shown_count(eligible, hidden_rows):
            return self.scan(interests_KD, k, eligible=eligible, hidden_rows=hidden_rows)
        return found

    def _refined(
        self, interests_KD: NDArray[np.float32], k: int, rows_KC: NDArray[np.int64], strategy: Strategy
    ) -> Candidates:
        """The k best by the vectors themselves of what was found by coarse codes."""
        if len(rows_KC) == 1:
            rows = rows_KC[0, : np.count_nonzero(rows_KC[0])]
            scores_C = self._vectors_N1D[rows] @ interests_KD[0]
            best = np.argsort(-scores_C)[:k]
            return Candidates(rows[best], scores_C[best], np.zeros(len(best), dtype=np.int64), strategy)
        rows = np.unique(rows_KC[rows_KC > 0])
        scores_CK = self._vectors_N1D[rows] @ interests_KD.T
        best_C = scores_CK.max(axis=1)
        best = np.argsort(-best_C, kind="stable")[:k]
        return Candidates(rows[best], best_C[best], scores_CK[best].argmax(axis=1), strategy)

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


def _merge(rows_Kk: NDArray[np.int64], scores_Kk: NDArray[np.float32], k: int, strategy: Strategy) -> Candidates:
    """Merge the results of each interest; the k best of the union are among the k best of each."""
    if len(rows_Kk) == 1:  # FAISS fills the places from the first on
        filled = k if rows_Kk[0, -1] else int(np.count_nonzero(rows_Kk[0]))
        interests = np.zeros(filled, dtype=np.int64)
        return Candidates(rows_Kk[0, :filled], scores_Kk[0, :filled], interests, strategy)
    found = rows_Kk > 0
    rows, scores, interests = rows_Kk[found], scores_Kk[found], np.nonzero(found)[0]
    order = np.lexsort((rows, -scores))
    _, first = np.unique(rows[order], return_index=True)
    best = order[np.sort(first)[:k]]
    return Candidates(rows[best], scores[best], interests[best], strategy)
