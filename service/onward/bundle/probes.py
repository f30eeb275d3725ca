"""Compare the answer to a probe with the one recorded at export.

Another CPU may round differently, so numbers are compared with a tolerance and items of nearly equal score may swap.
"""

from collections.abc import Sequence

import numpy as np

from onward.bundle.files.manifest import ENCODER, INDEX, Probe, ScoredItem

TOLERANCE = 1e-3
"""Allowed difference, relative to the largest number compared."""


def probe_fault(actual: Probe, expected: Probe) -> str | None:
    """Return which file gives other results than at export and how, None if the answers agree."""
    if not np.allclose(actual.interests, expected.interests, rtol=0, atol=_tolerance(expected.interests)):
        return f"{ENCODER} gives other interests than at export"
    if not same_top(actual.top, expected.top):
        return f"{INDEX} gives other items or scores than at export"
    return None


def same_top(actual: Sequence[ScoredItem], expected: Sequence[ScoredItem]) -> bool:
    """Return whether two ranked lists agree; items whose scores are equal within the tolerance may swap places."""
    actual_scores, expected_scores = ([item.score for item in items] for items in (actual, expected))
    tolerance = _tolerance(expected_scores)
    if len(actual_scores) != len(expected_scores) or not np.allclose(
        actual_scores, expected_scores, rtol=0, atol=tolerance
    ):
        return False
    actual_by_id = {item.item_id: item.score for item in actual}
    last = expected_scores[-1]
    return all(abs(actual_by_id.get(item.item_id, last) - item.score) <= tolerance for item in expected)


def _tolerance(numbers: Sequence[float] | Sequence[Sequence[float]]) -> float:
    return TOLERANCE * float(np.abs(numbers).max())
