"""A synthetic workload over a real catalog: sessions start at popular items and continue among similar ones."""

import numpy as np
from numpy.typing import NDArray

from onward.bundle import Bundle

MAX_LENGTH = 50
LENGTH_EXPONENT = 1.5
"""Gives 5.4 items per session on average, about as in public click logs; one session in 40 has more than 40."""
UNSEEN_WEIGHT = 0.1
"""Weight of an item without any event, so that it is clicked now and then."""
SIMILAR_SHARE = 0.8
"""Share of clicks on an item near the previous one; all others are drawn by popularity, like the first."""
NEIGHBOURS = 20

Sessions = tuple[tuple[str, ...], ...]
"""Item ids of each session, oldest first."""


def draw_sessions(bundle: Bundle, count: int = 2_000, seed: int = 0) -> Sessions:
    """Draw sessions of the bundle's items: power-law lengths, first items by popularity."""
    generator = np.random.default_rng(seed)
    lengths = _lengths(generator, count)
    cumulative_N = np.cumsum(bundle.catalog.popularity_N1[1:].astype(np.float64) + UNSEEN_WEIGHT)
    neighbours: dict[int, NDArray[np.int64]] = {}
    sessions = []
    for length in lengths.tolist():
        rows = _popular_rows(cumulative_N, generator, length)
        for place in np.flatnonzero(generator.random(length - 1) < SIMILAR_SHARE) + 1:
            previous = int(rows[place - 1])
            if previous not in neighbours:
                neighbours[previous] = _nearest(bundle, previous)
            rows[place] = generator.choice(neighbours[previous])
        sessions.append(tuple(map(bundle.catalog.item_id, rows.tolist())))
    return tuple(sessions)


def _lengths(generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    lengths = np.arange(1, MAX_LENGTH + 1)
    weights = lengths**-LENGTH_EXPONENT
    return generator.choice(lengths, size=count, p=weights / weights.sum())


def _popular_rows(cumulative_N: NDArray[np.float64], generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Draw rows from 1 on by their cumulative weights, by binary search since a catalog may have millions of items."""
    return 1 + np.searchsorted(cumulative_N, generator.uniform(0, cumulative_N[-1], count), side="right")


def _nearest(bundle: Bundle, row: int) -> NDArray[np.int64]:
    """Return the rows nearest to an item, itself included, since visitors return to items they saw."""
    vector_1D = bundle.index.vectors(np.array([row]))
    return bundle.index.search(vector_1D, NEIGHBOURS).rows if vector_1D.any() else np.array([row])
