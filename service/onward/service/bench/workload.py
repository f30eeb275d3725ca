"""Made-up visitors of a real catalog: they come by its popular items and go on among items that are near."""

import numpy as np
from numpy.typing import NDArray

from onward.bundle import Bundle

LONGEST = 50
LENGTH_EXPONENT = 1.5
"""Gives 5.4 items a session, about as many as public click logs have, and one in 40 more than 40."""
UNSEEN_WEIGHT = 0.1
"""Of an item without any event, which is clicked now and then."""
STAYS = 0.8
"""How often a click is on one of the items that are nearest to the one before; else it is on any item, as the first."""
NEAREST = 20

Sessions = tuple[tuple[str, ...], ...]
"""Item ids of each session, oldest first."""


def draw_sessions(bundle: Bundle, count: int = 2_000, seed: int = 0) -> Sessions:
    """Draw sessions of the bundle's items: lengths by a power law, first items as often as they were clicked."""
    generator = np.random.default_rng(seed)
    lengths = _lengths(generator, count)
    cumulative_N = np.cumsum(bundle.catalog.popularity_N1[1:].astype(np.float64) + UNSEEN_WEIGHT)
    near: dict[int, NDArray[np.int64]] = {}
    sessions = []
    for length in lengths.tolist():
        rows = _any_rows(cumulative_N, generator, length)
        for place in np.flatnonzero(generator.random(length - 1) < STAYS) + 1:
            before = int(rows[place - 1])
            if before not in near:
                near[before] = _nearest(bundle, before)
            rows[place] = generator.choice(near[before])
        sessions.append(tuple(map(bundle.catalog.item_id, rows.tolist())))
    return tuple(sessions)


def _lengths(generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    lengths = np.arange(1, LONGEST + 1)
    weights = lengths**-LENGTH_EXPONENT
    return generator.choice(lengths, size=count, p=weights / weights.sum())


def _any_rows(cumulative_N: NDArray[np.float64], generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Rows from 1 on, by cumulative weights, since a catalog may have millions of items."""
    return 1 + np.searchsorted(cumulative_N, generator.uniform(0, cumulative_N[-1], count), side="right")


def _nearest(bundle: Bundle, row: int) -> NDArray[np.int64]:
    """The rows of the items nearest to an item, itself among them, since visitors come back to what they saw."""
    vector_1D = bundle.index.vectors(np.array([row]))
    return bundle.index.search(vector_1D, NEAREST).rows if vector_1D.any() else np.array([row])
