"""Controllable diversity: choose k items that repeat fewer categories, or whose vectors are less similar.

Source: Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020, section 3.3.
Dimension key: C candidates, D embedding, k results.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def diversify(
    scores_C: NDArray[np.float32], categories_C: NDArray[np.int64], k: int, weight: float
) -> NDArray[np.int64]:
    """Choose k of C candidates greedily, or all if C < k; return their positions in the order of choice.

    The next item has the largest f(i) + weight * (number of chosen items whose category is not that of i), the greedy
    rule of the paper; ties are broken by the earlier candidate. The paper's objective counts each pair of chosen items
    twice, which would make the factor 2 * weight; the paper's code uses `weight`, and so does this function.

    Args:
        scores_C: any finite numbers, larger is better. f(i) is the score itself, as in the paper, so `weight` is in
            units of the scores; pass `in_unit_range(scores_C)` to give it the same meaning for every model.
        categories_C: a number for each category.
        k: number of items to choose; k times the number of interests are enough candidates.
        weight: 0 keeps the order of the scores.
    """
    _, category_C = np.unique(categories_C, return_inverse=True)
    value_C = scores_C.astype(np.float64)
    chosen = np.empty(min(k, len(value_C)), dtype=np.int64)
    for place in range(len(chosen)):
        best = int(value_C.argmax())
        chosen[place] = best
        value_C[category_C == category_C[best]] -= weight  # ranks as if it were added to every other category
        value_C[best] = -np.inf
    return chosen


def in_unit_range(scores_C: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale scores linearly to 0 for the lowest and 1 for the highest; all become 0 if they are equal."""
    if len(scores_C) == 0:
        return scores_C
    lowest, highest = scores_C.min(), scores_C.max()
    scaled_C: NDArray[np.float32] = (scores_C - lowest) / max(highest - lowest, np.finfo(np.float32).tiny)
    return scaled_C


def diversify_by_vectors(
    scores_C: NDArray[np.float32], vectors_CD: NDArray[np.float32], k: int, weight: float
) -> NDArray[np.int64]:
    """Choose k of C candidates greedily, or all if C < k; return their positions in the order of choice.

    Maximal marginal relevance: the next item has the largest (1 - weight) * score - weight * (largest cosine with a
    chosen item); ties are broken by the earlier candidate.

    Source: Carbonell and Goldstein, "The use of MMR, diversity-based reranking", SIGIR 1998.

    Args:
        scores_C: in 0..1, larger is better.
        vectors_CD: item vectors of any length.
        k: number of items to choose.
        weight: 0 keeps the order of the scores; with 1 the vectors alone decide after the first item.
    """
    lengths_C1 = np.linalg.norm(vectors_CD, axis=1, keepdims=True)
    units_CD = vectors_CD / np.maximum(lengths_C1, np.finfo(np.float32).tiny)
    nearest_C = np.zeros(len(scores_C))
    chosen = np.empty(min(k, len(scores_C)), dtype=np.int64)
    for place in range(len(chosen)):
        value_C = (1 - weight) * scores_C - weight * nearest_C if place else scores_C.astype(np.float64)
        value_C[chosen[:place]] = -np.inf
        chosen[place] = value_C.argmax()
        cosines_C = units_CD @ units_CD[chosen[place]]
        nearest_C = np.maximum(nearest_C, cosines_C) if place else cosines_C
    return chosen


def category_numbers(values: Sequence[Any]) -> NDArray[np.int64]:
    """Return a number for the category of each item: its value, or the first of its values if it is a list.

    An item without a value is a category by itself.
    """
    numbers: dict[Any, int] = {}
    firsts = [(value[0] if value else None) if isinstance(value, list) else value for value in values]
    keys = [place if first is None else json.dumps(first, sort_keys=True) for place, first in enumerate(firsts)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
