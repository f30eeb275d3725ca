"""The search for nearest sessions, compiled by numba. Importing this module compiles it, or loads compiled code.

Dimension key: A distinct items of the query session, latest first; C candidates; V items that get votes.

Source: Kersbergen, Sprangers and Schelter, "Serenade: Low-latency session-based recommendation in e-commerce at scale",
SIGMOD 2022 (VMIS-kNN). The lists of sessions that have an item are merged from their ends, the most recent session
first, so that no session beyond the wanted number of candidates is read, and no table of sessions is needed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onward.bundle.encoder.machine_code import compiled, njit, types

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}
_ROWS, _NUMBERS = types.Array(types.int64, 1, "C"), types.Array(types.float64, 1, "C")
_STORED_ROWS = types.Array(types.int32, 1, "C", readonly=True)
_STORED_OFFSETS = types.Array(types.int64, 1, "C", readonly=True)
_SIGNATURE = types.Tuple((_ROWS, _NUMBERS))(
    _ROWS,  # rows_A
    _NUMBERS,  # place_weights_A
    _NUMBERS,  # match_weights_A
    _STORED_ROWS,  # sessions
    _STORED_OFFSETS,  # sessions_offsets
    _STORED_ROWS,  # items
    _STORED_OFFSETS,  # items_offsets
    types.int64,  # candidates
    types.int64,  # neighbours
)
_HASH = np.uint32(2_654_435_769)


def _candidates(
    rows_A: Any, place_weights_A: Any, match_weights_A: Any, sessions: Any, sessions_offsets: Any, candidates: int
) -> Any:
    """Return the most recent sessions that share an item, latest first: numbers, similarities and match weights."""
    first_A, place_A = np.empty(len(rows_A), np.int64), np.empty(len(rows_A), np.int64)
    for a in range(len(rows_A)):
        first_A[a] = sessions_offsets[rows_A[a]]
        place_A[a] = sessions_offsets[rows_A[a] + 1] - 1
    session_C = np.empty(candidates, np.int64)
    similarity_C, match_C = np.empty(candidates, np.float64), np.empty(candidates, np.float64)
    count = 0
    while count < candidates:
        latest = -1
        for a in range(len(rows_A)):
            if place_A[a] >= first_A[a] and sessions[place_A[a]] > latest:
                latest = sessions[place_A[a]]
        if latest < 0:
            break
        similarity, match = 0.0, -1.0
        for a in range(len(rows_A)):
            if place_A[a] >= first_A[a] and sessions[place_A[a]] == latest:
                similarity += place_weights_A[a]
                if match < 0:
                    match = match_weights_A[a]
                place_A[a] -= 1
        session_C[count], similarity_C[count], match_C[count] = latest, similarity, match
        count += 1
    return session_C[:count], similarity_C[:count], match_C[:count]


candidate_sessions = njit(**_OPTIONS)(_candidates)


def _vote(
    rows_A: NDArray[np.int64],
    place_weights_A: NDArray[np.float64],
    match_weights_A: NDArray[np.float64],
    sessions: NDArray[np.int32],
    sessions_offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    items_offsets: NDArray[np.int64],
    candidates: int,
    neighbours: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of the items of the nearest sessions, each once, and the sum of the votes for each.

    Args:
        rows_A: item rows of the query session, each of which has a list in `sessions`.
        place_weights_A: what sharing each item adds to the similarity of a session.
        match_weights_A: the factor of a session's vote if this is the latest item that it shares.
        sessions: for each row the numbers of the sessions that have it, ascending, where newer ones are larger.
        sessions_offsets: the list of row r is sessions[sessions_offsets[r]:sessions_offsets[r + 1]].
        items: the distinct rows of each session.
        items_offsets: the rows of session s are items[items_offsets[s]:items_offsets[s + 1]].
        candidates: number of sessions to compare with, the most recent ones.
        neighbours: number of candidates that vote, the most similar ones; ties are broken by the more recent one.
    """
    session_C, similarity_C, match_C = candidate_sessions(
        rows_A, place_weights_A, match_weights_A, sessions, sessions_offsets, candidates
    )
    count = len(session_C)
    # The least similarity of a neighbour, and how many of the candidates that have it are neighbours.
    least, ties = -1.0, 0
    if count > neighbours:
        least = np.partition(similarity_C, count - neighbours)[count - neighbours]
        ties = neighbours
        for c in range(count):
            if similarity_C[c] > least:
                ties -= 1
    total = 0
    for c in range(count):
        if similarity_C[c] == least:
            ties -= 1
            if ties < 0:
                similarity_C[c] = -1.0
        if similarity_C[c] >= least and similarity_C[c] > 0:
            total += items_offsets[session_C[c] + 1] - items_offsets[session_C[c]]
        else:
            match_C[c] = -1.0
    # Sum the votes in a hash table, the oldest neighbour first, so that sums are rounded as in a sum by time.
    bits = 4
    while (1 << bits) < 2 * total:
        bits += 1
    mask, shift = (1 << bits) - 1, np.uint32(max(32 - bits, 0))
    row_of = np.zeros(1 << bits, np.int32)
    votes_of = np.zeros(1 << bits, np.float64)
    slots = np.empty(total, np.int64)
    found = 0
    for c in range(count - 1, -1, -1):
        if match_C[c] < 0:
            continue
        vote = similarity_C[c] * match_C[c]
        for place in range(items_offsets[session_C[c]], items_offsets[session_C[c] + 1]):
            row = items[place]
            slot = np.int64(np.uint32(np.uint32(row) * _HASH) >> shift) & mask
            while row_of[slot] != row and row_of[slot] != 0:
                slot = (slot + 1) & mask
            if row_of[slot] == 0:
                row_of[slot] = row
                slots[found] = slot
                found += 1
            votes_of[slot] += vote
    rows_V, votes_V = np.empty(found, np.int64), np.empty(found, np.float64)
    for v in range(found):
        rows_V[v], votes_V[v] = row_of[slots[v]], votes_of[slots[v]]
    return rows_V, votes_V


vote = compiled(_SIGNATURE, _vote, **_OPTIONS)
