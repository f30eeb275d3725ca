"""Ranking metrics over target ranks: full ranking, ties counted against the model.

Dimension key: T targets, E examples. Rank 1 is the best; any rank beyond k is a miss.
An example of session data has one target; it may have several if all later items of a user are targets. The targets of
one example are different items: one that came several times is given once. Ties give different items the same rank.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BEYOND = int(np.iinfo(np.int64).max)
"""The rank of a target that is not in the list: a miss at every k."""


def ranking_metrics(ranks_T: NDArray[np.int64], example_T: NDArray[np.int64], ks: Sequence[int]) -> dict[str, float]:
    """Compute recall@k, MRR@k and NDCG@k as fractions, means over examples.

    If an example has several targets, also hit_rate@k: the share of examples with any of their targets in the list.

    Args:
        ranks_T: rank of each target among all items: 1 + the number of other items that score at least as high.
        example_T: the example of each target, numbered 0..E-1, each with at least one target.
        ks: cut-offs.

    Raises:
        ValueError: a rank is below 1, or the targets of an example cannot be different items: more than r of them have
            a rank up to r.
    """
    if len(ranks_T) == 0:
        return {}
    if ranks_T.min() < 1:
        raise ValueError(f"rank {ranks_T.min()}: ranks begin at 1")
    _check_that_items_differ(ranks_T, example_T)
    targets_E = np.bincount(example_T)
    best_E = np.full(len(targets_E), BEYOND)
    np.minimum.at(best_E, example_T, ranks_T)
    metrics = {}
    for k in ks:
        hit_T = ranks_T <= k
        hits_E = np.bincount(example_T, weights=hit_T, minlength=len(targets_E))
        gain_E = np.bincount(example_T, weights=hit_T / np.log2(1.0 + ranks_T), minlength=len(targets_E))
        ideal = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
        metrics[f"recall@{k}"] = float((hits_E / targets_E).mean())
        if targets_E.max() > 1:
            metrics[f"hit_rate@{k}"] = float((best_E <= k).mean())
        metrics[f"mrr@{k}"] = float(np.where(best_E <= k, 1 / best_E, 0).mean())
        metrics[f"ndcg@{k}"] = float((gain_E / ideal[np.minimum(targets_E, k) - 1]).mean())
    return metrics


def _check_that_items_differ(ranks_T: NDArray[np.int64], example_T: NDArray[np.int64]) -> None:
    order_T = np.lexsort((ranks_T, example_T))
    sorted_T = example_T[order_T]
    place_T = np.arange(1, len(order_T) + 1) - np.searchsorted(sorted_T, sorted_T)
    if (ranks_T[order_T] < place_T).any():
        example = int(sorted_T[np.argmax(ranks_T[order_T] < place_T)])
        raise ValueError(f"example {example}: an item is given as a target twice; give each target once")


def coverage(lists: Sequence[Sequence[str]], items: int) -> float:
    """Compute the share of the catalog's `items` that occur in at least one list."""
    return len({item for ranked in lists for item in ranked}) / items


def diversity(lists: Sequence[Sequence[int]]) -> float:
    """Compute the share of item pairs of a list whose categories differ; mean over lists of two items or more.

    Source: Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020, section 4.4.

    Args:
        lists: the category number of each item.
    """
    shares = [_differing_pairs(categories) for categories in lists if len(categories) > 1]
    return float(np.mean(shares)) if shares else 0.0


def _differing_pairs(categories: Sequence[int]) -> float:
    size, alike = len(categories), sum(count * (count - 1) for count in Counter(categories).values())
    return 1 - alike / (size * (size - 1))


def gini(counts_N: NDArray[np.int64]) -> float:
    """Compute the Gini coefficient of how often items are shown: 0 if all alike, near 1 if few items take all places.

    Args:
        counts_N: how often each item of the catalog is shown.
    """
    total, items = counts_N.sum(), len(counts_N)
    if not total:
        return 0.0
    places_N = np.arange(1, items + 1)
    return float(((2 * places_N - items - 1) * np.sort(counts_N)).sum() / (items * total))
