"""Nearest sessions: the past sessions most like the current one vote for their items.

Candidates are the most recent past sessions that share an item with the session. The most similar ones, whose shared
items come latest in the session, are its neighbours; each votes for all its items, and votes for rare items count more.
The share p of all votes that an item gets is an estimate of its probability, so that the votes add
weight * ln(1 + p / `FLOOR`) to its score: a boost of 2 counts like twice the votes. Where visitors come back to items,
those of the session itself get a share of the votes too.

Sources: Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", User Modeling and User-Adapted
Interaction 28, 2018 (V-SKNN); Kersbergen, Sprangers and Schelter, "Serenade: Low-latency session-based recommendation
in e-commerce at scale", SIGMOD 2022 (VMIS-kNN).
Dimension key: A distinct items of the session, latest first; E pairs of one of them and a past session that has it;
S past sessions; V items that get votes; N items of past sessions; C items to score.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onward.bundle.encoder.kernel import KernelUnavailable
from onward.bundle.files.arrays import open_array
from onward.bundle.files.manifest import (
    NEAREST_COUNTS,
    NEAREST_ITEMS,
    NEAREST_ITEMS_OFFSETS,
    NEAREST_SESSIONS,
    NEAREST_SESSIONS_OFFSETS,
    BundleError,
    NearestSessionsInfo,
)

FLOOR = 1e-5
"""The share of votes that an item without votes counts with."""
LINEAR_STEPS = 10
"""With the linear match weight, a session whose latest shared item is this many steps back has no vote."""

Rows = NDArray[np.int64]
Numbers = NDArray[np.float64]
Search = Callable[..., tuple[Rows, Numbers]]


class StoredSessions(NamedTuple):
    """Past sessions and their inverted index, as the files hold them."""

    items: NDArray[np.int32]
    """The distinct rows of each session, session after session, the oldest session first."""
    items_offsets: NDArray[np.int64]
    """(S + 1,): the rows of session s are items[items_offsets[s]:items_offsets[s + 1]]."""
    sessions: NDArray[np.int32]
    """For each row the numbers of the newest sessions that have it, ascending."""
    sessions_offsets: NDArray[np.int64]
    """(N + 2,): the sessions of row r are sessions[sessions_offsets[r]:sessions_offsets[r + 1]]; row 0 has none."""
    counts: NDArray[np.int32]
    """(N + 1,): how many sessions had each row, also those that are not stored."""


class SessionBonus(NamedTuple):
    """What its neighbours, and its own items, add to the scores of rows for a session; nothing to all others."""

    rows_V: Rows
    shares_V: Numbers
    """The share of the votes of each row, above 0."""
    weight: float

    @classmethod
    def of_values(cls, rows_V: Rows, values_V: Numbers) -> "SessionBonus":
        """Return the bonus that adds these values, above 0, to the scores of rows."""
        return cls(rows_V, FLOOR * np.expm1(values_V), 1.0)

    def of(self, rows_C: Rows) -> Numbers:
        """Return what is added to the score of each row, (C,)."""
        if not len(self.rows_V):
            return np.zeros(len(rows_C))
        if len(rows_C) > 8 * len(self.rows_V):
            values = np.zeros(1 + max(int(rows_C.max()), int(self.rows_V.max())))
            values[self.rows_V] = self.of_shares(self.shares_V)
            return values[rows_C]
        order_V = np.argsort(self.rows_V)
        rows_V, shares_V = self.rows_V[order_V], self.shares_V[order_V]
        places_C = np.minimum(np.searchsorted(rows_V, rows_C), len(rows_V) - 1)
        return np.where(rows_V[places_C] == rows_C, self.of_shares(shares_V[places_C]), 0.0)

    def of_shares(self, shares_C: Numbers) -> Numbers:
        """Return what shares of the votes add to a score."""
        bonus_C: Numbers = self.weight * np.log1p(shares_C / FLOOR)
        return bonus_C

    def share_for(self, bonus: float) -> float:
        """Return the share of the votes that adds this much to a score."""
        return float(FLOOR * np.expm1(bonus / self.weight))


class NearestSessions:
    """Finds the neighbours of a session and sums their votes. Thread-safe; each call runs in the thread that makes it.

    NumPy does it in milliseconds, compiled code, once `accelerate` has succeeded, in a tenth of that.
    """

    def __init__(self, stored: StoredSessions, info: NearestSessionsInfo) -> None:
        self.info = info
        self.engine: Literal["numpy", "kernel"] = "numpy"
        """The engine in use."""
        self._stored = stored
        self._search: Search = _vote

    @classmethod
    def load(cls, folder: Path, info: NearestSessionsInfo) -> "NearestSessions":
        """Memory-map the past sessions of a bundle, which the processes of a machine share. Raises BundleError."""
        return cls(read_stored_sessions(folder, info), info)

    @property
    def expected_products(self) -> int:
        """About as many multiplications take as long as finding the votes for one session."""
        return 300_000 if self.engine == "kernel" else 5_000_000

    def accelerate(self, sessions: Iterable[Sequence[int]]) -> None:
        """Compile or load the search, check it on the rows of sessions, and search by it from now on.

        Raises KernelUnavailable if it cannot be used; NumPy then goes on.
        """
        try:
            from onward.bundle.search import nearest_sessions_kernel  # slow to import, and numba is optional
        except ImportError as error:
            raise KernelUnavailable("numba is not installed") from error
        except Exception as error:  # the classes that numba and LLVM raise have no common base
            raise KernelUnavailable(f"the search for nearest sessions does not compile: {error}") from error
        compiled = NearestSessions(self._stored, self.info)
        compiled._search = nearest_sessions_kernel.vote
        for rows in sessions:
            (rows_V, votes_V), (expected_rows_V, expected_V) = compiled.votes(rows), self.votes(rows)
            order_V = np.argsort(rows_V)
            if not np.array_equal(rows_V[order_V], expected_rows_V) or not np.allclose(votes_V[order_V], expected_V):
                raise KernelUnavailable("the compiled search for nearest sessions differs from NumPy's on a probe")
        self._search, self.engine = compiled._search, "kernel"

    def votes(self, rows: Sequence[int]) -> tuple[Rows, Numbers]:
        """Return the rows that get votes from the neighbours of a session, and the votes for each.

        Of the session's rows, oldest first, the last `last_events` are read; those without past sessions only count as
        steps.
        """
        info = self.info
        steps_back: dict[int, int] = {}
        events = rows[-info.last_events :]
        for step, row in enumerate(reversed(events), start=1):
            if row <= info.items:
                steps_back.setdefault(row, step)
        rows_A = np.array([*steps_back], dtype=np.int64)
        steps_A = np.array([*steps_back.values()], dtype=np.int64)
        place_weights_A = ((len(events) + 1 - steps_A) / max(len(events), 1)) ** info.place_power
        match_weights_A = np.maximum(1 - steps_A / LINEAR_STEPS, 0) if info.match == "linear" else 1 / steps_A
        stored = self._stored
        rows_V, votes_V = self._search(
            rows_A,
            place_weights_A,
            match_weights_A,
            stored.sessions,
            stored.sessions_offsets,
            stored.items,
            stored.items_offsets,
            info.candidates,
            info.neighbours,
        )
        rarity_V = np.log(info.counted_sessions / stored.counts[rows_V])
        return rows_V, votes_V * (info.rarity_base + info.rarity_factor * rarity_V)

    def bonus(self, rows_V: Rows, votes_V: Numbers, rows: Sequence[int]) -> SessionBonus:
        """Return what votes for rows, each given once, and the session's own rows, oldest first, add to scores."""
        is_positive_V = votes_V > 0
        if not is_positive_V.all():
            rows_V, votes_V = rows_V[is_positive_V], votes_V[is_positive_V]
        shares_V = votes_V / max(votes_V.sum(), np.finfo(np.float64).tiny)
        if self.info.repeat_share:
            recent = rows[-self.info.last_events :]
            rows_V, shares_V = _with_repeats(rows_V, shares_V, recent, self.info.repeat_share)
        return SessionBonus(rows_V, shares_V, self.info.weight)


def _with_repeats(rows_V: Rows, shares_V: Numbers, rows: Sequence[int], repeat_share: float) -> tuple[Rows, Numbers]:
    """Give `repeat_share` of all votes to the session's own rows: an event counts 1 / (steps back to it)."""
    if not rows:
        return rows_V, shares_V
    rows_A, item_E = np.unique(np.array(rows, dtype=np.int64), return_inverse=True)
    weights_A = _sums(item_E, 1 / np.arange(len(rows), 0, -1))
    own_A = repeat_share * weights_A / weights_A.sum()
    places_V = np.minimum(np.searchsorted(rows_A, rows_V), len(rows_A) - 1)
    is_own_V = rows_A[places_V] == rows_V
    is_voted_A = np.zeros(len(rows_A), dtype=np.bool_)
    is_voted_A[places_V[is_own_V]] = True
    shares_V = (1 - repeat_share) * shares_V + np.where(is_own_V, own_A[places_V], 0)
    return np.concatenate([rows_V, rows_A[~is_voted_A]]), np.concatenate([shares_V, own_A[~is_voted_A]])


def _vote(
    rows_A: Rows,
    place_weights_A: Numbers,
    match_weights_A: Numbers,
    sessions: NDArray[np.int32],
    sessions_offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    items_offsets: NDArray[np.int64],
    candidates: int,
    neighbours: int,
) -> tuple[Rows, Numbers]:
    """Do what `nearest_sessions_kernel.vote` does, by NumPy."""
    sessions_E, item_E = _joined(sessions, sessions_offsets, rows_A, last=candidates)
    sessions_S, latest_S, session_E = np.unique(sessions_E, return_index=True, return_inverse=True)
    similarity_S = _sums(session_E, place_weights_A[item_E])[-candidates:]
    match_S = match_weights_A[item_E[latest_S]][-candidates:]
    nearest = _largest(similarity_S, neighbours)
    rows_E, neighbour_E = _joined(items, items_offsets, sessions_S[-candidates:][nearest])
    rows_V, item_E = np.unique(rows_E, return_inverse=True)
    votes_V = _sums(item_E, (similarity_S * match_S)[nearest][neighbour_E])
    return rows_V.astype(np.int64), votes_V


def _joined(
    values: NDArray[np.int32], offsets: NDArray[np.int64], lists: NDArray[np.integer[Any]], last: int | None = None
) -> tuple[NDArray[np.int32], Rows]:
    """Concatenate the `last` values of each of `lists`; return them with the index in `lists` of each value."""
    ends = offsets[lists + 1]
    lengths = ends - offsets[lists]
    if last is not None:
        lengths = np.minimum(lengths, last)
    places = np.repeat(np.arange(len(lists)), lengths)
    return values[np.arange(len(places)) + (ends - np.cumsum(lengths))[places]], places


def _sums(places: Rows, values: Numbers) -> Numbers:
    """Return the sum of the values of each place from 0 to the last one."""
    sums: Numbers = np.bincount(places, weights=values).astype(np.float64)
    return sums


def _largest(values: Numbers, k: int) -> Rows:
    """Return the indices of the k largest values, in ascending order; among equal values the last are taken."""
    if len(values) <= k:
        return np.arange(len(values))
    least = np.partition(values, -k)[-k]
    larger, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    return np.sort(np.concatenate([larger, equal[len(larger) - k :]]))


def write_stored_sessions(folder: Path, stored: StoredSessions) -> None:
    """Write the files of past sessions into a bundle's folder."""
    for name, array in zip(_NAMES, stored, strict=True):
        np.save(folder / name, np.asarray(array))


def check_stored_sessions(folder: Path, info: NearestSessionsInfo) -> None:
    """Raise BundleError unless the files hold lists of rows and of sessions that compiled code may follow blindly."""
    stored = read_stored_sessions(folder, info)
    _check_lists((NEAREST_ITEMS, NEAREST_ITEMS_OFFSETS), stored.items, stored.items_offsets, first=1, last=info.items)
    _check_lists(
        (NEAREST_SESSIONS, NEAREST_SESSIONS_OFFSETS),
        stored.sessions,
        stored.sessions_offsets,
        first=0,
        last=info.sessions - 1,
    )
    falls = np.flatnonzero(np.diff(stored.sessions) <= 0) + 1
    if not np.isin(falls, stored.sessions_offsets).all():
        raise BundleError(f"{NEAREST_SESSIONS}: the sessions of an item are not ascending")
    if (stored.counts < np.diff(stored.sessions_offsets)).any() or stored.counts.max(initial=0) > info.counted_sessions:
        raise BundleError(f"{NEAREST_COUNTS}: an item has fewer sessions than are stored, or more than were counted")
    if stored.counts[stored.items].min(initial=1) < 1:
        raise BundleError(f"{NEAREST_COUNTS}: an item of a stored session has none")


def _check_lists(
    names: tuple[str, str], values: NDArray[np.int32], offsets: NDArray[np.int64], *, first: int, last: int
) -> None:
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise BundleError(f"{names[1]}: does not divide {names[0]} into lists")
    if len(values) and not (values.min() >= first and values.max() <= last):
        raise BundleError(f"{names[0]}: holds a number outside {first}..{last}")


_NAMES = (NEAREST_ITEMS, NEAREST_ITEMS_OFFSETS, NEAREST_SESSIONS, NEAREST_SESSIONS_OFFSETS, NEAREST_COUNTS)


def read_stored_sessions(folder: Path, info: NearestSessionsInfo) -> StoredSessions:
    """Memory-map the past sessions of a bundle. Raises BundleError unless types and shapes are right."""
    return StoredSessions(
        items=open_array(folder / NEAREST_ITEMS, np.int32, (None,)),
        items_offsets=open_array(folder / NEAREST_ITEMS_OFFSETS, np.int64, (info.sessions + 1,)),
        sessions=open_array(folder / NEAREST_SESSIONS, np.int32, (None,)),
        sessions_offsets=open_array(folder / NEAREST_SESSIONS_OFFSETS, np.int64, (info.items + 2,)),
        counts=open_array(folder / NEAREST_COUNTS, np.int32, (info.items + 1,)),
    )
