"""Made-up visitors of a real catalog: lengths of sessions and popularity of items follow power laws."""

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle

LONGEST = 50
LENGTH_EXPONENT = 1.5
"""Gives 5.4 items a session, about as many as public click logs have, and one in 40 more than 40."""
UNSEEN_WEIGHT = 0.1
"""Of an item without any event, which is clicked now and then."""

Sessions = tuple[tuple[str, ...], ...]
"""Item ids of each session, oldest first."""


def draw_sessions(bundle: Bundle, count: int = 2_000, seed: int = 0) -> Sessions:
    """Draw sessions of the bundle's items, each as often as it was clicked in the log."""
    generator = np.random.default_rng(seed)
    lengths = _lengths(generator, count)
    rows = _rows(bundle.catalog.popularity_N1, generator, int(lengths.sum()))
    ids = [bundle.catalog.item_id(row) for row in rows.tolist()]
    ends = np.cumsum(lengths).tolist()
    return tuple(tuple(ids[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True))


def _lengths(generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    lengths = np.arange(1, LONGEST + 1)
    weights = lengths**-LENGTH_EXPONENT
    return generator.choice(lengths, size=count, p=weights / weights.sum())


def _rows(popularity_N1: NDArray[np.float32], generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Rows from 1 on; cumulative weights, since a catalog may have millions of items."""
    cumulative_N = np.cumsum(popularity_N1[1:].astype(np.float64) + UNSEEN_WEIGHT)
    return 1 + np.searchsorted(cumulative_N, generator.uniform(0, cumulative_N[-1], count), side="right")
