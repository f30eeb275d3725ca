"""Repeats: where visitors come back to items, those of the session itself score more, the latest by their place.

No bonus takes anything from a score, so the best items are found as with nearest sessions, by any filter and `exact`.
Dimension key: A distinct items of the session; V items with a bonus.
"""

from collections.abc import Sequence

import numpy as np

from onward.bundle.files.manifest import RepeatsInfo
from onward.bundle.search.nearest_sessions import SessionBonus


def with_repeats(bonus: SessionBonus | None, info: RepeatsInfo, rows: Sequence[int]) -> SessionBonus:
    """Return the bonus of nearest sessions, if there is one, and that of the session's own rows, oldest first."""
    steps_back: dict[int, int] = {}
    for step, row in enumerate(reversed(rows)):
        steps_back.setdefault(row, step)
    last = len(info.bonuses) - 1
    own = {row: info.bonuses[min(step, last)] for row, step in steps_back.items() if info.bonuses[min(step, last)]}
    rows_A = np.array([*own], dtype=np.int64)
    bonuses_A = np.array([*own.values()], dtype=np.float64)
    if bonus is None:
        return SessionBonus.of_values(rows_A, bonuses_A)
    rows_V = np.union1d(bonus.rows_V, rows_A)
    values_V = bonus.of(rows_V)
    values_V[np.searchsorted(rows_V, rows_A)] += bonuses_A
    return SessionBonus.of_values(rows_V, values_V)
