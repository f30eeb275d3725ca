"""Diversity against reference implementations, and the effect of its weight."""

import numpy as np
import pytest
from numpy.typing import NDArray

from onward.bundle.search.diversity import category_numbers, diversify, diversify_by_vectors, in_unit_range


def reference_choice(scores: list[float], categories: list[int], k: int, weight: float) -> list[int]:
    """Algorithm 1 of the paper, written out pair by pair."""
    chosen: list[int] = []
    while len(chosen) < min(k, len(scores)):
        left = [i for i in range(len(scores)) if i not in chosen]
        gains = [scores[i] + weight * sum(categories[i] != categories[j] for j in chosen) for i in left]
        chosen.append(left[gains.index(max(gains))])
    return chosen


def candidates(seed: int, count: int = 40) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    scores_C = generator.permutation(np.arange(count) / 64).astype(np.float32)  # exact in binary, as are the weights
    return scores_C, generator.integers(-2, 5, size=count)


@pytest.mark.parametrize("weight", [0, 0.125, 0.5, 4])
def test_the_choice_equals_that_of_a_reference_implementation(weight: float) -> None:
    for seed in range(5):
        scores_C, categories_C = candidates(seed)
        expected = reference_choice(scores_C.tolist(), categories_C.tolist(), 15, weight)
        assert diversify(scores_C, categories_C, 15, weight).tolist() == expected


def test_the_weight_demotes_a_second_item_of_a_category() -> None:
    scores_C = np.array([1.0, 0.9, 0.7], dtype=np.float32)
    categories_C = np.array([7, 7, 8])
    assert diversify(scores_C, categories_C, 3, 0.1).tolist() == [0, 1, 2]
    assert diversify(scores_C, categories_C, 3, 0.3).tolist() == [0, 2, 1]


def test_weight_0_keeps_the_order_of_the_scores() -> None:
    scores_C, categories_C = candidates(1)
    assert diversify(scores_C, categories_C, 40, 0).tolist() == np.argsort(-scores_C, kind="stable").tolist()


def test_a_large_weight_shows_every_category_before_repeating_one() -> None:
    scores_C, categories_C = candidates(2)
    first = categories_C[diversify(scores_C, categories_C, 7, 100)]
    assert sorted(first.tolist()) == sorted(set(categories_C.tolist()))


def test_fewer_than_k_candidates_are_all_chosen() -> None:
    assert sorted(diversify(*candidates(3, count=4), 20, 0.5).tolist()) == [0, 1, 2, 3]
    assert diversify(np.array([], dtype=np.float32), np.array([], dtype=np.int64), 20, 0.5).tolist() == []


def test_scores_in_unit_range_keep_their_order_and_distances() -> None:
    scores_C = np.array([30, 10, 20], dtype=np.float32)
    assert in_unit_range(scores_C).tolist() == [1, 0, 0.5]
    assert in_unit_range(np.array([5, 5], dtype=np.float32)).tolist() == [0, 0]
    assert in_unit_range(np.array([], dtype=np.float32)).tolist() == []


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0])
def test_the_choice_by_vectors_is_maximal_marginal_relevance(weight: float) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        scores_C = in_unit_range(random.random(30, dtype=np.float32))
        vectors_CD = random.normal(size=(30, 4)).astype(np.float32)
        units_CD = vectors_CD / np.linalg.norm(vectors_CD, axis=1, keepdims=True)
        expected = [int(scores_C.argmax())]
        while len(expected) < 10:
            gains = {
                place: (1 - weight) * scores_C[place] - weight * (units_CD[expected] @ units_CD[place]).max()
                for place in range(30)
                if place not in expected
            }
            expected.append(max(gains, key=lambda place: gains[place]))
        assert diversify_by_vectors(scores_C, vectors_CD, 10, weight).tolist() == expected


def test_fewer_than_k_candidates_are_all_chosen_by_vectors_too() -> None:
    scores_C = np.array([0.5, 1, 0], dtype=np.float32)
    assert sorted(diversify_by_vectors(scores_C, np.zeros((3, 2), dtype=np.float32), 9, 1).tolist()) == [0, 1, 2]
    assert diversify_by_vectors(scores_C[:0], np.zeros((0, 2), dtype=np.float32), 9, 1).tolist() == []


def test_a_category_is_a_value_or_the_first_of_a_list_and_distinct_for_items_without() -> None:
    values = ["a", ["a", "b"], None, [], "b", None, 1, True, {"x": 1}, {"x": 1}]
    assert category_numbers(values).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert category_numbers([]).tolist() == []
