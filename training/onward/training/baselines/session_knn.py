"""Session-based nearest neighbours: V-SKNN, VMIS-kNN and the public program of the latter, one method with options.

Candidates are the most recent sessions that share an item with the query session. The most similar candidates, whose
shared items come latest in the query session, are its neighbours; each votes for all its items.

Sources: Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", User Modeling and User-Adapted
Interaction 28, 2018 (V-SKNN); Kersbergen, Sprangers and Schelter, "Serenade: Low-latency session-based recommendation
in e-commerce at scale", SIGMOD 2022 (VMIS-kNN).
Dimension key: A distinct items of the query session, latest first; E pairs of one of them and a session that has it;
S sessions; V items of these sessions, in one flat array; I distinct items of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from onward.training.baselines.past_sessions import PastSessions
from onward.training.baselines.popularity import BaselineItem, PopularityBaseline
from onward.training.data.dataset import Dataset, PartName

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class SessionKNNOptions:
    """Sizes and weights of the method."""

    last_events: int | None
    """Number of the query session's last events that are used; None uses all."""
    candidates: int
    """Number of sessions to compare with: the most recent ones that share an item."""
    neighbours: int
    """Number of candidates that vote: the most similar ones, ties broken by the more recent session."""
    place_weight: Callable[[Floats], Floats]
    """Maps (position of an item's last event) / (number of events) to what sharing the item adds to the similarity."""
    match_weight: Callable[[Integers], Floats]
    """Maps the steps back to the latest shared item (1 for the last) to a factor of a neighbour's vote."""
    item_weight: Callable[[Floats], Floats]
    """Maps the rarity of an item, log(total / past sessions that have it), to a factor of the votes for it."""
    rarity_total: Literal["sessions", "session_items"] = "sessions"
    """The total of the rarity: the number of past sessions, or that of all their distinct items, added up."""
    longest_quantile: float = 1.0
    """Past sessions with more distinct items than this quantile of them, rounded, neither vote nor count."""


V_SKNN = SessionKNNOptions(
    last_events=None,
    candidates=5_000,
    neighbours=500,
    place_weight=lambda share: share**2,
    match_weight=lambda steps_back: 1 / steps_back,
    item_weight=lambda rarity: 1 + 10 * rarity,
)
"""Its authors' settings for Diginetica: Ludewig, Mauro, Latifi and Jannach, "Performance comparison of neural and
non-neural approaches to session-based recommendation", RecSys 2019, single split, tables of rn5l/session-rec."""

VMIS_KNN = SessionKNNOptions(
    last_events=4,
    candidates=1_502,
    neighbours=288,
    place_weight=lambda share: share,
    match_weight=lambda steps_back: np.maximum(1 - steps_back / 10, 0),
    item_weight=lambda rarity: rarity,
)
"""The paper's rarity, log(sessions / sessions that have the item), and its authors' settings for the sample of
bol.com's clicks: the readme of bolcom/serenade."""

SERENADE = replace(VMIS_KNN, rarity_total="session_items", longest_quantile=0.995)
"""VMIS-kNN as bolcom/serenade computes it: its rarity counts items of sessions, and the longest sessions are left out.
The program also removes the session's last item from the ranking; here the caller may do so. It divides the similarity
by the number of distinct items instead of events, which changes no ranking."""


class SessionKNN:
    """Ranks the items of the sessions most similar to the query session, then the most popular items."""

    def __init__(self, dataset: Dataset, part: PartName, *, options: SessionKNNOptions) -> None:
        past = PastSessions.before(dataset, part)
        self._options = options
        self._ids = dataset.item_ids()
        self._rows = {item: row for row, item in enumerate(self._ids, start=1)}
        self._popularity = PopularityBaseline(dataset, part)
        size = len(self._ids) + 1
        sessions, rows = np.divmod(np.unique(past.session_of_event() * size + past.rows), size)
        is_voter_V = _not_longer(sessions, options.longest_quantile)
        sessions, rows = sessions[is_voter_V], rows[is_voter_V]
        self._items_of = _JaggedArray.of(sessions, rows, len(past.offsets) - 1)
        self._sessions_of = _JaggedArray.of(rows, sessions, size)
        sharing_N = np.maximum(np.diff(self._sessions_of.offsets), 1)
        total = len(np.unique(sessions)) if options.rarity_total == "sessions" else len(sessions)
        self._item_weight_N = options.item_weight(np.log(total / sharing_N))

    def retrieve(self, item_ids: Sequence[str], k: int) -> list[BaselineItem]:
        """Return the k best items; a score is 1 + the votes for the item, or below 1 without votes (popularity)."""
        sessions_S, vote_S = self._neighbours(item_ids)
        rows_V, session_V = self._items_of.joined(sessions_S)
        rows_I, item_V = np.unique(rows_V, return_inverse=True)
        votes_I = np.bincount(item_V, weights=vote_S[session_V]) * self._item_weight_N[rows_I]
        best = _largest(votes_I, k)
        voted = zip(rows_I[best].tolist(), votes_I[best].tolist(), strict=True)
        return self._popularity.fill({self._ids[row - 1]: 1 + votes for row, votes in voted}, k)

    def _neighbours(self, item_ids: Sequence[str]) -> tuple[Integers, Floats]:
        """Return the most similar sessions and their votes: similarity times the weight of the latest shared item."""
        rows_A, steps_back_A, events = self._query_items(item_ids)
        recent = self._options.candidates
        sessions_E, item_E = self._sessions_of.joined(rows_A, last=recent)
        sessions_S, latest_S, session_E = np.unique(sessions_E, return_index=True, return_inverse=True)
        place_weight_A = self._options.place_weight((events + 1 - steps_back_A) / events)
        similarity_S = np.bincount(session_E, weights=place_weight_A[item_E])[-recent:]
        match_weight_S = self._options.match_weight(steps_back_A[item_E[latest_S]])[-recent:]
        nearest = _largest(similarity_S, self._options.neighbours)
        return sessions_S[-recent:][nearest], (similarity_S * match_weight_S)[nearest]

    def _query_items(self, item_ids: Sequence[str]) -> tuple[Integers, Integers, int]:
        """Return rows of the distinct known items, latest first, the steps back to each and the number of events."""
        events = item_ids if self._options.last_events is None else item_ids[-self._options.last_events :]
        steps_back: dict[int, int] = {}
        for step, item in enumerate(reversed(events), start=1):
            if item in self._rows:
                steps_back.setdefault(self._rows[item], step)
        return np.array([*steps_back], np.int64), np.array([*steps_back.values()], np.int64), len(events)


class _JaggedArray(NamedTuple):
    """Lists of numbers in one flat array: list i is values[offsets[i]:offsets[i + 1]]."""

    values: Integers
    offsets: Integers

    @classmethod
    def of(cls, owners: Integers, values: Integers, size: int) -> Self:
        """Group `values` by owner into `size` lists, each in the given order."""
        order = np.argsort(owners, kind="stable")
        return cls(values[order], np.searchsorted(owners[order], np.arange(size + 1)))

    def joined(self, lists: Integers, last: int | None = None) -> tuple[Integers, Integers]:
        """Concatenate the `last` values of each of `lists`; return them with the index in `lists` of each value."""
        ends = self.offsets[lists + 1]
        lengths = np.minimum(ends - self.offsets[lists], last or len(self.values))
        places = np.repeat(np.arange(len(lists)), lengths)
        return self.values[np.arange(len(places)) + (ends - np.cumsum(lengths))[places]], places


def _not_longer(sessions_V: Integers, quantile: float) -> NDArray[np.bool_]:
    """Return for each item of a session whether the session has no more items than the quantile of all sessions."""
    _, session, items = np.unique(sessions_V, return_inverse=True, return_counts=True)
    is_voter: NDArray[np.bool_] = items <= np.floor(np.quantile(items, quantile) + 0.5)
    return is_voter[session]


def _largest(values: NDArray[np.number], k: int) -> Integers:
    """Return the indices of the k largest values, in ascending order; among equal values the last are taken."""
    if len(values) <= k:
        return np.arange(len(values))
    least = np.partition(values, -k)[-k]
    larger, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    return np.sort(np.concatenate([larger, equal[len(larger) - k :]]))
