"""SR-GNN's preprocessing, steps 1 to 3, in plain Python over lists: slow, short, and independent of what it checks."""

from collections import Counter, defaultdict
from collections.abc import Iterable

Sessions = dict[str, list[str]]


def srgnn_split(
    clicks: Iterable[tuple[str, str, float, float]], test_span: float, min_support: int
) -> tuple[Sessions, Sessions]:
    """Training and test sessions of (session, item, order in the session, time) clicks.

    A session's time is that of its last click; test is what ended later than `test_span` before the last of all.
    """
    by_session: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for session, item, order, time in clicks:
        by_session[session].append((order, time, item))
    ended = {session: max(time for _, time, _ in rows) for session, rows in by_session.items()}
    sessions = {
        session: [item for *_, item in sorted(rows, key=lambda row: row[0])]
        for session, rows in by_session.items()
        if len(rows) > 1
    }
    support = Counter(item for items in sessions.values() for item in items)
    sessions = _only(sessions, {item for item, count in support.items() if count >= min_support})
    split = max(ended[session] for session in sessions) - test_span
    train = {session: items for session, items in sessions.items() if ended[session] < split}
    test = {session: items for session, items in sessions.items() if ended[session] > split}
    return train, _only(test, {item for items in train.values() for item in items})


def _only(sessions: Sessions, items: set[str]) -> Sessions:
    kept = {session: [item for item in of_session if item in items] for session, of_session in sessions.items()}
    return {session: of_session for session, of_session in kept.items() if len(of_session) > 1}
