"""Cold start: the vector of a new item is computed from related items."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onward.bundle import Bundle
from onward.bundle.catalog.cold_start import MAX_NEIGHBOURS, MIN_CO_OCCURRENCE, ColdItem, ColdStart, mean_vector
from tests.bundles import item_ids, make_bundle

IDS = item_ids("i", 40)
BRANDS = ["acme", "apex", "bolt", "core"]
ATTRIBUTES: list[dict[str, Any]] = [
    {
        "brand": BRANDS[number % 4],
        "tags": [f"t{number % 10}", "any"],
        "price": float(number),
        "since": f"2026-01-{number % 28 + 1:02}",
        "sale": number < 30,
    }
    for number in range(40)
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"), IDS, attributes=ATTRIBUTES)


@pytest.fixture
def cold_start(bundle: Bundle) -> ColdStart:
    return ColdStart(bundle.catalog, bundle.vectors_N1D)


@pytest.fixture
def first_items(tmp_path: Path, bundle: Bundle) -> ColdStart:
    """The first 20 items alone."""
    first = make_bundle(tmp_path, IDS[:20], attributes=ATTRIBUTES[:20])
    return ColdStart(first.catalog, bundle.vectors_N1D[:21])


def vectors(bundle: Bundle, ids: Sequence[str]) -> NDArray[np.float32]:
    return bundle.vectors_N1D[[bundle.catalog.row(item_id) or 0 for item_id in ids]]


def test_items_named_as_similar_have_equal_weights_and_take_precedence(bundle: Bundle, cold_start: ColdStart) -> None:
    cold = cold_start.vector(ColdItem({"brand": "acme"}, ["i1", "nobody", "i2"], {"i3": 100.0}))
    assert cold is not None
    assert (cold.source, cold.neighbours) == ("similar_to", ("i1", "i2"))
    expected = mean_vector(vectors(bundle, ["i1", "i2"]), np.ones(2, dtype=np.float32))
    np.testing.assert_array_equal(cold.vector_D, expected)


def test_a_single_neighbour_passes_on_its_vector(bundle: Bundle, cold_start: ColdStart) -> None:
    cold = cold_start.vector(ColdItem(similar_to=["i7"]))
    assert cold is not None
    np.testing.assert_allclose(cold.vector_D, vectors(bundle, ["i7"])[0], rtol=1e-6)


def test_co_occurrence_is_used_once_its_weights_reach_the_minimum(bundle: Bundle, cold_start: ColdStart) -> None:
    too_few = {"i1": MIN_CO_OCCURRENCE - 1, "nobody": 100.0}
    assert cold_start.vector(ColdItem(seen_with=too_few)) is None
    cold = cold_start.vector(ColdItem({"brand": "acme"}, seen_with={"i2": 1.0, "i1": MIN_CO_OCCURRENCE}))
    assert cold is not None
    assert (cold.source, cold.neighbours) == ("seen_with", ("i1", "i2"))
    expected = mean_vector(vectors(bundle, ["i1", "i2"]), np.array([MIN_CO_OCCURRENCE, 1], dtype=np.float32))
    np.testing.assert_array_equal(cold.vector_D, expected)


def test_a_rarer_shared_value_has_a_larger_weight(cold_start: ColdStart) -> None:
    cold = cold_start.vector(ColdItem({"brand": "apex", "tags": ["t3", "t3"]}))
    assert cold is not None
    assert cold.source == "attributes"
    both = [
        item_id
        for item_id, known in zip(IDS, ATTRIBUTES, strict=True)
        if known["brand"] == "apex" and "t3" in known["tags"]
    ]
    tagged = [
        item_id for item_id, known in zip(IDS, ATTRIBUTES, strict=True) if "t3" in known["tags"] and item_id not in both
    ]
    assert set(cold.neighbours[: len(both)]) == set(both)
    assert set(cold.neighbours[len(both) : len(both) + len(tagged)]) == set(tagged)


def test_numbers_and_dates_order_the_items_that_share_a_value(cold_start: ColdStart) -> None:
    by_price = cold_start.vector(ColdItem({"brand": "apex", "price": 21}))
    by_date = cold_start.vector(ColdItem({"brand": "apex", "since": "2026-01-22T00:00:00Z"}))
    assert by_price is not None
    assert by_date is not None
    assert by_price.neighbours[0] == by_date.neighbours[0] == "i22"


@pytest.mark.parametrize(
    "attributes",
    [{}, {"price": 20}, {"tags": ["any"]}, {"sale": True}, {"brand": "unheard"}, {"brand": 7}, {"other": "acme"}],
    ids=str,
)
def test_weak_evidence_gives_no_vector(cold_start: ColdStart, attributes: dict[str, Any]) -> None:
    assert cold_start.vector(ColdItem(attributes)) is None


def test_ties_between_neighbours_are_broken_by_popularity(tmp_path: Path) -> None:
    ids = item_ids("i", 4 * MAX_NEIGHBOURS)
    popularity = np.random.default_rng(3).permutation(len(ids) + 1).astype(np.float32)
    attributes = [{"brand": "acme" if number % 2 else "apex"} for number in range(len(ids))]
    bundle = make_bundle(tmp_path / "bundle", ids, attributes=attributes, popularity=popularity)
    cold = ColdStart(bundle.catalog, bundle.vectors_N1D).vector(ColdItem({"brand": "acme"}))
    assert cold is not None
    ranked = sorted(range(2, len(ids) + 1, 2), key=lambda row: -popularity[row])
    assert cold.neighbours == tuple(f"i{row}" for row in ranked[:MAX_NEIGHBOURS])


def test_a_mean_vector_has_the_mean_length_of_its_vectors() -> None:
    vectors_CD = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    weights_C = np.arange(1, 6, dtype=np.float32)
    mean_D = mean_vector(vectors_CD, weights_C)
    assert mean_D is not None
    lengths_C = np.linalg.norm(vectors_CD, axis=1)
    assert np.linalg.norm(mean_D) == pytest.approx(np.average(lengths_C, weights=weights_C), rel=1e-5)
    direction_D = weights_C @ vectors_CD
    assert mean_D @ direction_D == pytest.approx(np.linalg.norm(mean_D) * np.linalg.norm(direction_D), rel=1e-5)


def test_vectors_that_cancel_out_have_no_mean() -> None:
    assert mean_vector(np.array([[1, 0], [-1, 0]], dtype=np.float32), np.ones(2, dtype=np.float32)) is None


def test_only_trained_items_are_neighbours_by_attributes(bundle: Bundle, first_items: ColdStart) -> None:
    among_all = ColdStart(bundle.catalog, bundle.vectors_N1D, trained_items=20)
    for attributes in ({"brand": "apex", "price": 3.5}, {"tags": ["t3"]}, {"sale": True}):
        expected, cold = first_items.vector(ColdItem(attributes)), among_all.vector(ColdItem(attributes))
        assert (cold is None) == (expected is None)
        if cold is not None and expected is not None:
            assert cold.neighbours == expected.neighbours
            np.testing.assert_array_equal(cold.vector_D, expected.vector_D)
    named = among_all.vector(ColdItem(similar_to=["i30"]))
    assert named is not None
    assert named.neighbours == ("i30",)
