"""Attributes of any kind give features, the same ones in every process and version."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.bundle.content.features import BINS, MAX_FEATURES, ContentFeatures

ITEMS: list[dict[str, Any]] = [
    {"title": "Blue ceramic mug", "tags": ["kitchen", "Ünïcode"], "price": 9.5, "since": "2026-01-01", "ok": True},
    {"title": "Blue wooden bowl", "tags": ["kitchen"], "price": 9.5, "since": "2026-01-02", "size": {"width": 3}},
    {"title": "Red ceramic mug", "tags": [], "price": 20, "ok": True, "size": {"width": 3}},
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ATTRIBUTES = st.dictionaries(st.sampled_from(["title", "tags", "price", "since", "ok", "size", "更"]), JSON)


@pytest.fixture(scope="module")
def features() -> ContentFeatures:
    return ContentFeatures.fit(ITEMS)


def test_features_have_these_digests_and_weights_for_ever(features: ContentFeatures) -> None:
    assert features.dates == {"since"}
    assert set(features.edges) == {"title", "tags", "price", "since", "ok", "size.width"}
    assert len(features.known_F) == 48
    assert features.known_F[:2].tolist() == [-9179035477624121883, -8140301932223087059]
    found = features.of({"title": "BLUE  mug", "price": 9.5, "tags": ["kitchen"]})
    assert found is not None
    assert found.rows_T[:6].tolist() == [4, 5, 6, 7, 8, 11]
    np.testing.assert_allclose(found.weights_T[:6], [0.2774, 1.0, 0.2774, 0.2774, 0.2887, 0.2887], atol=1e-4)


def test_case_spaces_and_the_form_of_a_number_do_not_count(features: ContentFeatures) -> None:
    one = features.of({"title": "Blue  MUG ", "price": 20, "available": False})
    other = features.of({"price": 20.0, "title": "blue mug"})
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.rows_T, other.rows_T)
    np.testing.assert_array_equal(one.weights_T, other.weights_T)


@pytest.mark.parametrize("attributes", [{}, {"other": 1}, {"title": " "}, {"price": math.nan}, {"tags": []}])
def test_an_item_without_a_known_attribute_has_no_features(
    features: ContentFeatures, attributes: dict[str, Any]
) -> None:
    assert features.of(attributes) is None


def test_an_unknown_value_of_a_known_attribute_counts_as_another(features: ContentFeatures) -> None:
    unknown, missing = features.of({"title": "zzz qqq", "ok": True}), features.of({"ok": True})
    assert unknown is not None
    assert missing is not None
    assert set(unknown.rows_T) != set(missing.rows_T)


def test_numbers_are_told_apart_by_the_quantiles_of_trained_items() -> None:
    features = ContentFeatures.fit([{"price": float(price)} for price in range(1, 1_001)])
    assert len(features.edges["price"]) == BINS - 1
    low, near, high = (features.of({"price": price}) for price in (3.25, 4.5, 990.5))
    assert low is not None
    assert near is not None
    assert high is not None
    assert low.rows_T.tolist() == near.rows_T.tolist() != high.rows_T.tolist()


@given(attributes=ATTRIBUTES)
def test_any_attributes_give_finite_weights_in_order_of_rows(
    features: ContentFeatures, attributes: dict[str, Any]
) -> None:
    found = features.of(attributes)
    if found is not None:
        assert (np.diff(found.rows_T) > 0).all()
        assert found.rows_T[0] > 0
        assert found.rows_T[-1] <= len(features.known_F) <= MAX_FEATURES
        assert np.isfinite(found.weights_T).all()
        assert (found.weights_T > 0).all()
    for name in features.attributes_of(attributes):
        assert name in attributes


@given(items=st.lists(ATTRIBUTES, min_size=1, max_size=8))
def test_features_can_be_fitted_to_any_attributes(items: list[dict[str, Any]]) -> None:
    features = ContentFeatures.fit(items)
    assert (features.known_F[:-1] < features.known_F[1:]).all()
    assert (features.rarity_F > 0).all()
    for attributes in items:
        features.of(attributes)
