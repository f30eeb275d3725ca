"""Rankers against NumPy, on vectors of very different lengths."""

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from onward.bundle import FaissIndex, ItemIndex, SearchParameters
from onward.bundle.catalog.eligible import Eligible
from onward.bundle.search.boosts import BoostLevels
from onward.bundle.search.rankers import BySimilarity

ITEMS, NEW_ITEMS, DIMENSION, ANCHOR = 2_000, 50, 16, 7
ROWS = np.arange(1 + ITEMS + NEW_ITEMS)
HIDDEN_ROWS = {ANCHOR, 11, ITEMS + 3}
SHARES = [1, 0.5, 0.1]
"""Shares of eligible items; the last is scanned without reading the others."""


@pytest.fixture(scope="module")
def vectors_R1D() -> NDArray[np.float32]:
    random = np.random.default_rng(1)
    lengths_R11 = np.exp(random.normal(size=(len(ROWS), 1)))
    vectors_R1D = (lengths_R11 * random.normal(size=(len(ROWS), DIMENSION))).astype(np.float32)
    vectors_R1D[[0, 20, ITEMS + 20]] = 0
    return vectors_R1D


@pytest.fixture(scope="module", params=["Flat", "IVF12,Flat", "HNSW8"])
def ranker(request: pytest.FixtureRequest, vectors_R1D: NDArray[np.float32]) -> BySimilarity:
    vectors_N1D = vectors_R1D[: ITEMS + 1]
    index = faiss.index_factory(DIMENSION, request.param, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors_N1D[1:])
    index.add(vectors_N1D[1:])
    parameters = SearchParameters(None if request.param == "Flat" else 4)
    indexed = ItemIndex(FaissIndex(index), vectors_N1D=vectors_N1D, parameters=parameters)
    return BySimilarity(indexed.with_new_vectors(vectors_R1D[ITEMS + 1 :]), vectors_R1D[ANCHOR], exact=True)


def eligible(share: float) -> Eligible:
    return Eligible((ROWS > 0) & (np.random.default_rng(2).random(len(ROWS)) < share), items=ITEMS)


def cosines(vectors_R1D: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row with the anchor, 0 for a row without a vector."""
    lengths_R1 = np.linalg.norm(vectors_R1D.astype(np.float64), axis=1)
    products_R1 = vectors_R1D.astype(np.float64) @ vectors_R1D[ANCHOR]
    cosines_R1: NDArray[np.float64] = products_R1 / np.maximum(lengths_R1 * lengths_R1[ANCHOR], 1e-30)
    return cosines_R1


def visible(share: float) -> NDArray[np.int64]:
    return np.setdiff1d(eligible(share).selected, [*HIDDEN_ROWS])


@pytest.mark.parametrize("k", [10, 3_000])
@pytest.mark.parametrize("share", SHARES)
def test_exact_similarity_misses_none_of_the_nearest_by_cosine(
    ranker: BySimilarity, vectors_R1D: NDArray[np.float32], share: float, k: int
) -> None:
    found = ranker.best(eligible(share), k, hidden_rows=HIDDEN_ROWS)
    rows, cosines_R1 = visible(share), cosines(vectors_R1D)
    expected = rows[np.argsort(-cosines_R1[rows], kind="stable")][:k]
    assert sorted(found.rows.tolist()) == sorted(expected.tolist())
    np.testing.assert_allclose(found.scores, cosines_R1[expected], atol=1e-6)
    np.testing.assert_allclose(found.scores, ranker.scores(found.rows), atol=1e-6)
    assert (found.strategy, set(found.interests.tolist())) == ("scan", {0})


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("share", SHARES)
def test_similarity_with_many_levels_of_boosts_misses_none_of_the_best(
    ranker: BySimilarity, vectors_R1D: NDArray[np.float32], share: float, exact: bool
) -> None:
    log_boosts = np.linspace(-0.4, 0.4, 10)
    combinations_R1 = np.random.default_rng(3).integers(0, 10, len(ROWS)).astype(np.uint16)
    counts = np.bincount(combinations_R1, minlength=10)
    levels = BoostLevels((), log_boosts, combinations_R1, tuple(log_boosts.tolist()), counts)
    either = BySimilarity(ranker.index, ranker.vector_D, exact)
    found = either.best(eligible(share), 10, hidden_rows=HIDDEN_ROWS, levels=levels)
    rows = visible(share)
    boosted_C = cosines(vectors_R1D)[rows] + levels.log_boost(rows)
    expected = np.argsort(-boosted_C)[:10]
    assert found.rows.tolist() == rows[expected].tolist()
    np.testing.assert_allclose(found.scores, boosted_C[expected], atol=1e-6)
