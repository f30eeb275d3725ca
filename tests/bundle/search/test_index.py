"""ItemIndex with filters against brute force. Small integers make inner products exact, and ties frequent."""

from typing import NamedTuple

import faiss
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onward.bundle import Candidates, FaissIndex, ItemIndex, SearchParameters, pad_dimension
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.search import index as index_module
from onward.bundle.search.index import best_places, merge_candidates
from onward.bundle.search.rankers import ByInterests

ITEMS, DIMENSION = 240, 6
KINDS = {
    "flat": ("Flat", SearchParameters()),
    "ivf": ("IVF12,Flat", SearchParameters(2)),
    "ivf, one list": ("IVF12,Flat", SearchParameters(1)),
    "ivf of 4-bit codes, refined": ("IVF12,SQ4", SearchParameters(2, candidates_per_k=3)),
    "graph": ("HNSW8", SearchParameters(10)),
}
QUANTIZED_KINDS = {
    "quantized": ("SQ8", SearchParameters()),
    "ivf of 8-bit codes": ("IVF12,SQ8", SearchParameters(2)),
    "graph of 8-bit codes": ("HNSW8_SQ8", SearchParameters(10)),
}
"""Indexes whose own scores are not exact."""


class Query(NamedTuple):
    """A search in random vectors with some eligible and some hidden rows."""

    vectors_R1D: NDArray[np.float32]
    new_items: int
    interests_KD: NDArray[np.float32]
    eligible: Eligible
    hidden_rows: set[int]
    k: int

    def scores(self) -> dict[int, float]:
        """Return the score of each row that may be returned."""
        best_R1 = (self.vectors_R1D @ self.interests_KD.T).max(axis=1)
        rows = set(np.flatnonzero(self.eligible.rows_R1).tolist()) - self.hidden_rows
        return {row: float(best_R1[row]) for row in rows}

    def best(self, log_boost_R1: NDArray[np.float64] | None = None) -> list[tuple[int, float]]:
        """Return the k best rows and their scores; ties are broken by the smaller row."""
        scores = self.scores().items()
        boosted = [(row, score + (0 if log_boost_R1 is None else float(log_boost_R1[row]))) for row, score in scores]
        return sorted(boosted, key=lambda pair: (-pair[1], pair[0]))[: self.k]


@st.composite
def searches(draw: st.DrawFn) -> Query:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    new_items = draw(st.sampled_from([0, 0, 1, 7]))
    rows = ITEMS + new_items
    centres = random.integers(-3, 4, size=(12, DIMENSION))
    vectors_R1D = (
        centres[random.integers(0, 12, rows + 1)] + random.integers(-1, 2, size=(rows + 1, DIMENSION))
    ).astype(np.float32)
    vectors_R1D[0] = 0
    share = draw(st.sampled_from([0, 0.01, 0.1, 0.4, 0.7, 0.95, 1]))
    rows_R1 = random.random(rows + 1) < share
    rows_R1[0] = False
    hidden = random.choice(rows, size=draw(st.sampled_from([0, 3, 50, rows])), replace=False) + 1
    return Query(
        vectors_R1D,
        new_items,
        random.integers(-2, 3, size=(draw(st.integers(1, 4)), DIMENSION)).astype(np.float32),
        Eligible(rows_R1, items=ITEMS),
        set(hidden.tolist()),
        draw(st.sampled_from([1, 5, 20, 300])),
    )


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[str, SearchParameters]:
    return KINDS[request.param]


def index_of(kind: tuple[str, SearchParameters], query: Query) -> ItemIndex:
    description, parameters = kind
    vectors_N1D = query.vectors_R1D[: ITEMS + 1]
    vectors_NP = pad_dimension(vectors_N1D[1:], 16)
    index = faiss.index_factory(16, description, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexIVF):
        index.cp.min_points_per_centroid, index.cp.niter = 1, 2
    index.train(vectors_NP)
    index.add(vectors_NP)
    searched = ItemIndex(FaissIndex(index), vectors_N1D=vectors_N1D, parameters=parameters)
    return searched.with_new_vectors(query.vectors_R1D[ITEMS + 1 :])


def pairs(found: Candidates) -> list[tuple[int, float]]:
    return list(zip(found.rows.tolist(), found.scores.tolist(), strict=True))


@given(query=searches())
def test_a_search_returns_k_eligible_items_or_all_if_there_are_fewer(
    kind: tuple[str, SearchParameters], query: Query
) -> None:
    found = index_of(kind, query).search(
        query.interests_KD, query.k, eligible=query.eligible, hidden_rows=query.hidden_rows
    )
    scores = query.scores()
    assert len(set(found.rows.tolist())) == len(found.rows) == min(query.k, len(scores))
    assert all(score <= scores[row] for row, score in pairs(found))
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    scores_CK = query.vectors_R1D[found.rows] @ query.interests_KD.T
    assert scores_CK[np.arange(len(found.rows)), found.interests].tolist() == found.scores.tolist()


@given(query=searches())
def test_an_exact_search_equals_a_sorted_scan_of_the_eligible_items(
    kind: tuple[str, SearchParameters], query: Query
) -> None:
    found = index_of(kind, query).search(
        query.interests_KD, query.k, eligible=query.eligible, hidden_rows=query.hidden_rows, exact=True
    )
    assert pairs(found) == query.best()
    assert found.strategy == "scan"


@given(query=searches(), seed=st.integers(0, 99))
def test_a_scan_adds_the_log_boosts_to_the_scores(query: Query, seed: int) -> None:
    log_boost_R1 = np.random.default_rng(seed).choice([0.0, -0.5, 0.69], size=len(query.vectors_R1D))
    found = index_of(KINDS["flat"], query).scan(
        query.interests_KD,
        query.k,
        eligible=query.eligible,
        hidden_rows=query.hidden_rows,
        log_boost=lambda rows_C: log_boost_R1[rows_C],
    )
    assert pairs(found) == query.best(log_boost_R1)


@pytest.mark.parametrize("name", [*KINDS, *QUANTIZED_KINDS])
@given(query=searches())
def test_what_several_interests_find_is_scored_by_all_of_them(name: str, query: Query) -> None:
    assume(len(query.interests_KD) > 1)
    index = index_of((KINDS | QUANTIZED_KINDS)[name], query)
    alone = index.search(query.interests_KD, query.k, eligible=query.eligible, hidden_rows=query.hidden_rows)
    for found in (alone, *index.search_all(query.interests_KD[np.newaxis], query.k, eligible=query.eligible)):
        scores_CK = query.vectors_R1D[found.rows] @ query.interests_KD.T
        assert found.scores.tolist() == scores_CK.max(axis=1).tolist()
        assert found.scores.tolist() == ByInterests(index, query.interests_KD).scores(found.rows).tolist()
        assert found.interests.tolist() == scores_CK.argmax(axis=1).tolist()
        assert pairs(found) == sorted(pairs(found), key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize(("description", "search_width"), [("Flat", None), ("IVF12,Flat", 4), ("HNSW8", 40)])
def test_several_interests_find_the_best_of_what_each_finds(description: str, search_width: int | None) -> None:
    random = np.random.default_rng(1)
    vectors_N1D = random.normal(size=(2_001, 16)).astype(np.float32)
    index = faiss.index_factory(16, description, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors_N1D[1:])
    index.add(vectors_N1D[1:])
    searched = ItemIndex(FaissIndex(index), vectors_N1D=vectors_N1D, parameters=SearchParameters(search_width))
    for interests_KD in random.normal(size=(20, 4, 16)).astype(np.float32):
        by_interest = [searched.search(interest_1D, 30).rows for interest_1D in interests_KD[:, np.newaxis]]
        rows = np.unique(np.concatenate(by_interest))
        best_C = (vectors_N1D[rows] @ interests_KD.T).max(axis=1)
        assert searched.search(interests_KD, 30).rows.tolist() == rows[np.argsort(-best_C)[:30]].tolist()


@given(query=searches())
def test_a_flat_index_finds_the_same_scores_as_a_scan(query: Query) -> None:
    found = index_of(KINDS["flat"], query).search(
        query.interests_KD, query.k, eligible=query.eligible, hidden_rows=query.hidden_rows
    )
    assert found.scores.tolist() == [score for _, score in query.best()]


@pytest.mark.parametrize(
    ("description", "search_width", "strategies"),
    [
        ("IVF32,Flat", 2, {1.0: "index", 0.95: "masked", 0.5: "wide", 0.3: "wide", 0.01: "scan", 0: "scan"}),
        ("Flat", None, {1.0: "index", 0.95: "masked", 0.5: "masked", 0.1: "scan", 0: "scan"}),
    ],
)
def test_the_search_widens_as_fewer_items_are_eligible_until_a_scan_is_cheaper(
    description: str, search_width: int | None, strategies: dict[float, str]
) -> None:
    random = np.random.default_rng(1)
    vectors_N1D = random.normal(size=(4_001, 16)).astype(np.float32)
    vectors_N1D[0] = 0
    index = faiss.index_factory(16, description, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors_N1D[1:])
    index.add(vectors_N1D[1:])
    searched = ItemIndex(FaissIndex(index), vectors_N1D=vectors_N1D, parameters=SearchParameters(search_width))
    costs = []
    for share, strategy in strategies.items():
        rows_N1 = np.arange(4_001) <= share * 4_000
        rows_N1[0] = False
        eligible = Eligible(rows_N1, items=4_000)
        found = searched.search(vectors_N1D[1:2], 5, eligible=eligible)
        assert (found.strategy, len(found.rows)) == (strategy, min(5, eligible.count))
        costs.append(searched.expected_products(1, 5, eligible=eligible, hidden=0))
    assert max(costs) <= 4_000 * 16
    assert costs[-1] == 0


def test_a_wider_search_finds_what_a_mask_alone_misses() -> None:
    random = np.random.default_rng(1)
    vectors_N1D = random.normal(size=(4_001, 16)).astype(np.float32)
    index = faiss.index_factory(16, "IVF32,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors_N1D[1:])
    index.add(vectors_N1D[1:])
    searched = ItemIndex(FaissIndex(index), vectors_N1D=vectors_N1D, parameters=SearchParameters(4))
    eligible = Eligible(np.arange(4_001) % 4 == 1, items=4_000)
    masked = faiss.SearchParametersIVF(sel=eligible.selector, nprobe=4)
    found = {"masked": 0, "wide": 0}
    for query_1D in random.normal(size=(40, 1, 16)).astype(np.float32):
        best = set(searched.search(query_1D, 20, eligible=eligible, exact=True).rows.tolist())
        found["wide"] += len(best.intersection(searched.search(query_1D, 20, eligible=eligible).rows.tolist()))
        found["masked"] += len(best.intersection((index.search(query_1D, 20, params=masked)[1][0] + 1).tolist()))
    assert found["wide"] > 1.2 * found["masked"]


@given(query=searches(), seed=st.integers(0, 2**32), sessions=st.integers(1, 5))
def test_sessions_searched_together_get_the_results_of_single_searches(
    kind: tuple[str, SearchParameters], query: Query, seed: int, sessions: int
) -> None:
    index = index_of(kind, query)
    shape = (sessions, *query.interests_KD.shape)
    interests_BKD = np.random.default_rng(seed).integers(-2, 3, size=shape).astype(np.float32)
    together = index.search_all(interests_BKD, query.k, eligible=query.eligible)
    assert len(together) == sessions
    for interests_KD, found in zip(interests_BKD, together, strict=True):
        alone = index.search(interests_KD, query.k, eligible=query.eligible)
        assert found.scores.tolist() == alone.scores.tolist()
        assert found.strategy == alone.strategy
        assert all(query.eligible.rows_R1[found.rows])
        assert len(set(found.rows.tolist())) == len(found.rows)


def test_ties_in_scores_are_broken_by_the_smaller_row() -> None:
    assert best_places(np.array([1, 3, 3, 2, 3, 1], dtype=np.float32), 4).tolist() == [1, 2, 4, 3]
    rows, interests = np.array([5, 2]), np.array([0, 1])
    first = Candidates(rows, np.array([2.0, 1.0]), interests, "masked")
    second = Candidates(rows - 1, np.array([2.0, 1.0]), interests, "scan")
    together = merge_candidates((first, second), 3)
    assert (together.rows.tolist(), together.strategy) == ([4, 5, 1], "scan")


def test_new_vectors_replace_earlier_ones() -> None:
    vectors_N1D = np.eye(5, dtype=np.float32)[:, :4]
    flat = faiss.IndexFlatIP(4)
    flat.add(vectors_N1D[1:])
    once = ItemIndex(FaissIndex(flat), vectors_N1D=vectors_N1D, parameters=SearchParameters()).with_new_vectors(
        np.full((2, 4), 9, dtype=np.float32)
    )
    again = once.with_new_vectors(np.full((1, 4), 8, dtype=np.float32))
    assert pairs(again.search(np.ones((1, 4), dtype=np.float32), 1)) == [(5, 32)]
    assert again.vectors(np.array([5, 0])).tolist() == [[8] * 4, vectors_N1D[0].tolist()]


@pytest.mark.parametrize(("description", "read"), [("IVF12,Flat", ITEMS), ("IVF12,SQ4", ITEMS), ("HNSW8", 0)])
def test_touching_an_inverted_file_reads_all_of_it(description: str, read: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 16)).astype(np.float32)
    index = faiss.index_factory(16, description, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.cvar.indexIVF_stats.reset()
    FaissIndex(index).touch()
    assert faiss.cvar.indexIVF_stats.ndis == read


@given(searches(), st.integers(1, 300))
def test_a_scan_for_several_sessions_is_that_of_each(query: Query, at_once: int) -> None:
    index = index_of(KINDS["flat"], query)
    sessions = [query.interests_KD, -query.interests_KD, 2 * query.interests_KD]
    hidden = [query.hidden_rows, set(), query.hidden_rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "SCANNED_AT_ONCE", at_once)
        found = index.scan_all(np.stack(sessions), query.k, eligible=query.eligible, hidden_rows=hidden)
    for candidates, interests_KD, rows in zip(found, sessions, hidden, strict=True):
        alone = index.scan(interests_KD, query.k, eligible=query.eligible, hidden_rows=rows)
        assert pairs(candidates) == pairs(alone)
        assert candidates.interests.tolist() == alone.interests.tolist()
        assert candidates.strategy == "scan"
