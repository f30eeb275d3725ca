"""Build the inverted index of the newest sessions.

Dimension key: S sessions, V distinct items of them, in one flat array; N items.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.bundle import StoredSessions
from onward.training.data.dataset import Sessions


class CountedSessions(NamedTuple):
    """The sessions to store, and the number of all sessions that items were counted in."""

    stored: StoredSessions
    counted: int


def index_sessions(parts: Sequence[Sessions], items: int, candidates: int) -> CountedSessions:
    """Index sessions, given oldest first.

    A session is stored if it is one of the newest `candidates` sessions of an item; no search would read it otherwise.
    """
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    rows = np.concatenate([part.rows for part in parts])
    sessions = np.repeat(np.arange(len(lengths)), lengths)[rows > 0]
    size = items + 1
    sessions_V, rows_V = np.divmod(np.unique(sessions * size + rows[rows > 0]), size)
    return _newest(sessions_V, rows_V, np.bincount(rows_V, minlength=size), candidates)


def add_sessions(
    stored: StoredSessions,
    counted: int,
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    items: int,
    candidates: int,
) -> CountedSessions:
    """Add sessions, which are newer than those stored, to an index; drop those that no search would read any more.

    Args:
        stored: the index.
        counted: number of sessions that its items were counted in.
        rows: item rows of the new sessions, 1..items.
        offsets: session s is rows[offsets[s]:offsets[s + 1]].
        items: N, which may be larger than before.
        candidates: see `index_sessions`.
    """
    size, old = items + 1, len(stored.items_offsets) - 1
    sessions = old + np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    new_sessions_V, new_rows_V = np.divmod(np.unique(sessions * size + rows), size)
    counts = np.bincount(new_rows_V, minlength=size)
    counts[: len(stored.counts)] += stored.counts
    old_sessions_V = np.repeat(np.arange(old), np.diff(stored.items_offsets))
    index = _newest(
        np.concatenate([old_sessions_V, new_sessions_V]),
        np.concatenate([stored.items.astype(np.int64), new_rows_V]),
        counts,
        candidates,
    )
    return index._replace(counted=counted + len(offsets) - 1)


def with_items(stored: StoredSessions, items: int) -> StoredSessions:
    """Extend an index to rows 1..items. The added rows have no session, so that none votes for them."""
    added = items + 1 - len(stored.counts)
    return stored._replace(
        sessions_offsets=np.pad(stored.sessions_offsets, (0, added), mode="edge"),
        counts=np.pad(stored.counts, (0, added)),
    )


def _newest(
    sessions_V: NDArray[np.int64], rows_V: NDArray[np.int64], counts: NDArray[np.int64], candidates: int
) -> CountedSessions:
    """Store the newest sessions of each row; `sessions_V` ascend and are the sessions of `rows_V`."""
    counted = int(np.count_nonzero(np.diff(sessions_V, prepend=-1)))
    order = np.argsort(rows_V, kind="stable")
    ends = np.cumsum(np.bincount(rows_V, minlength=len(counts)))
    newest = order[np.arange(len(order)) >= ends[rows_V[order]] - candidates]
    is_stored = np.zeros(int(sessions_V[-1]) + 1 if len(sessions_V) else 0, dtype=np.bool_)
    is_stored[sessions_V[newest]] = True
    numbers = np.cumsum(is_stored) - 1
    stored_V = is_stored[sessions_V]
    stored = StoredSessions(
        items=rows_V[stored_V].astype(np.int32),
        items_offsets=_offsets(numbers[sessions_V[stored_V]], int(np.count_nonzero(is_stored))),
        sessions=numbers[sessions_V[newest]].astype(np.int32),
        sessions_offsets=_offsets(rows_V[newest], len(counts)),
        counts=counts.astype(np.int32),
    )
    return CountedSessions(stored, counted)


def _offsets(owners: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return where the list of each of `size` owners begins, and the end of the last one; `owners` ascend."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(owners, minlength=size))])
