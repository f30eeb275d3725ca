"""Compare two rankers on the same held-out sessions: the mean difference of a metric and its confidence interval.

The examples of a session depend on each other, so the session is the unit: the standard error is that of a mean over
clusters (Cochran, "Sampling Techniques", 1977, section 9A.2: cluster totals, ratio to the number of examples).
Dimension key: E examples, S sessions.
"""

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.96
"""Half the width of a 95 % confidence interval, in standard errors."""


class PairedDifference(NamedTuple):
    """A mean difference over examples, with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return (self.high - self.mean) / Z_95


def example_values(ranks: Sequence[Sequence[int]], k: int) -> dict[str, NDArray[np.float64]]:
    """Return recall@k and MRR@k of each example, (E,), by their names, from the ranks of its targets."""
    recall_E = np.array([sum(rank <= k for rank in targets) / len(targets) for targets in ranks])
    best_E = np.array([min(targets) for targets in ranks])
    return {f"recall@{k}": recall_E, f"mrr@{k}": np.where(best_E <= k, 1 / best_E, 0.0)}


def ndcg_values(ranks: Sequence[Sequence[int]], k: int) -> NDArray[np.float64]:
    """Return NDCG@k of each example, (E,), from the ranks of its targets."""
    ideal = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    gains = (sum(1 / log2(1 + rank) for rank in targets if rank <= k) for targets in ranks)
    best = (ideal[min(len(targets), k) - 1] for targets in ranks)
    return np.array([gain / ideal_gain for gain, ideal_gain in zip(gains, best, strict=True)])


def standard_errors(
    ranks: Sequence[Sequence[int]], session_E: NDArray[np.int64], ks: Sequence[int]
) -> dict[str, float]:
    """Return the standard errors of recall@k, MRR@k and NDCG@k, whose examples are a sample.

    Args:
        ranks: the rank of each target of each example.
        session_E: the session of each example; there must be two at least.
        ks: cut-offs.
    """
    errors = {}
    for k in ks:
        values = {**example_values(ranks, k), f"ndcg@{k}": ndcg_values(ranks, k)}
        for name, values_E in values.items():
            errors[name] = paired_difference(values_E, np.zeros(len(values_E)), session_E).error
    return errors


def paired_difference(
    values_E: NDArray[np.float64], others_E: NDArray[np.float64], session_E: NDArray[np.int64]
) -> PairedDifference:
    """Return the mean of `values_E` minus that of `others_E`.

    Args:
        values_E: a metric of one ranker for each example.
        others_E: the metric of the other ranker for the same examples.
        session_E: the session of each example; there must be two at least.
    """
    _, session_E, examples_S = np.unique(session_E, return_inverse=True, return_counts=True)
    total_S = np.bincount(session_E, weights=values_E - others_E)
    sessions, mean = len(total_S), float(total_S.sum() / len(session_E))
    squares = float(((total_S - mean * examples_S) ** 2).sum())
    error = (squares * sessions / (sessions - 1)) ** 0.5 / len(session_E)
    return PairedDifference(mean, mean - Z_95 * error, mean + Z_95 * error)
