"""Synthetic sessions with the sizes of public data sets, so that benchmarks need no download.

Dimension key: S sessions, E events, N items.
"""

from typing import NamedTuple

import numpy as np

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Sessions

MAX_LENGTH_FACTOR = 14
"""The length of the longest session, in mean lengths."""
SHORT_SESSIONS = 60_000
"""The number of sessions of a data set without users."""


class Sizes(NamedTuple):
    """The sizes of a data set that determine the time of a training step."""

    items: int
    users: int
    """0 if sessions have no user."""
    mean_length: float


DIGINETICA = Sizes(items=43_097, users=0, mean_length=4.85)
SIZES = {
    "diginetica": DIGINETICA,
    "yoochoose1_64": Sizes(items=17_376, users=0, mean_length=4.12),
    "amazon_beauty": Sizes(items=12_092, users=22_363, mean_length=6.88),
    "amazon_sports": Sizes(items=18_347, users=35_598, mean_length=6.32),
    "amazon_cds": Sizes(items=29_319, users=13_638, mean_length=26.7),
    "ml1m": Sizes(items=3_704, users=6_040, mean_length=163.6),
}
"""Sizes of the training part of each data set, by its name in recipe names."""


def sizes_of(recipe_name: str) -> Sizes:
    """Return the sizes of the data set in a recipe's name, MODEL-DATA-...; those of Diginetica if it names none."""
    return next((SIZES[part] for part in recipe_name.split("-")[1:] if part in SIZES), DIGINETICA)


def synthetic_corpus(sizes: Sizes, *, seed: int) -> Corpus:
    """Draw sessions of geometric lengths from 2 on, over items of power-law popularity.

    Every event is a target but the first of its session.
    """
    generator = np.random.default_rng(seed)
    count = sizes.users or SHORT_SESSIONS
    lengths_S = 1 + generator.geometric(1 / (sizes.mean_length - 1), size=count)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths_S, round(MAX_LENGTH_FACTOR * sizes.mean_length)))])
    cumulative_N = np.cumsum(1 / np.arange(10, sizes.items + 10))
    rows_E = 1 + np.searchsorted(cumulative_N, generator.uniform(0, cumulative_N[-1], offsets[-1]))
    is_target_E = np.ones(len(rows_E), dtype=np.bool_)
    is_target_E[offsets[:-1]] = False
    users_S = np.arange(1, count + 1) if sizes.users else np.zeros(count)
    sessions = Sessions(
        np.minimum(rows_E, sizes.items).astype(np.int64),
        offsets.astype(np.int64),
        is_target_E,
        users_S.astype(np.int64),
    )
    return Corpus(sizes.items, sizes.users, (sessions,))
