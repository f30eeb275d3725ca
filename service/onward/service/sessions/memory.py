"""InMemorySessionStore: the sessions of one process."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from secrets import token_hex

from onward.service.errors import ServiceError, SessionBehind
from onward.service.sessions.events import Event
from onward.service.sessions.session import GENERATION_BYTES, NO_GENERATION, START, Position, Session
from onward.service.sessions.store import (
    REMEMBERED_EVENT_IDS,
    REMEMBERED_MARKS,
    ListedSession,
    MergeResult,
    SessionAppend,
    SessionPage,
    session_digest,
)


class InMemorySessionStore:
    """The session store of tests and of a service with one process: sessions in a dict."""

    def __init__(
        self,
        *,
        length: int,
        ttl: timedelta,
        clock: Callable[[], float] = time.monotonic,
        answer_generation: Callable[[str], str] = lambda _owner: "",
    ) -> None:
        """Keep sessions for a time to live; `answer_generation` returns that of the answers of a session's digest."""
        self.length = length
        self._answer_generation = answer_generation
        self._ttl_s = ttl.total_seconds()
        self._clock = clock
        self._sessions: OrderedDict[str, _StoredSession] = OrderedDict()

    async def append(
        self, session_id: str, events: Sequence[Event], *, at_least: str | None = None, keeps_answer: bool = False
    ) -> Session:
        """Apply events and return the session; see `SessionStore`."""
        self._evict_expired()
        stored = self._sessions.get(session_id) or _StoredSession(self.length)
        if at_least is not None and not stored.at.reaches(required := Position.parse(at_least)):
            raise SessionBehind(may_catch_up=stored.at.may_reach(required))
        outcomes: Sequence[bool] = ()
        if events:
            self._keep(session_id, stored)
            outcomes = stored.apply(events)
        generation = self._answer_generation(session_digest(session_id)) if keeps_answer else None
        return stored.session(outcomes)._replace(answer_generation=generation)

    async def append_all(self, appends: Sequence[SessionAppend]) -> list[Session | ServiceError]:
        """Do the appends one after another."""
        return [await self._append_or_error(append) for append in appends]

    async def merge(self, source: str, target: str) -> MergeResult:
        """Move everything in one step; it is atomic, since it awaits nothing."""
        self._evict_expired()
        stored_target = self._sessions.get(target) or _StoredSession(self.length)
        stored_source = self._sessions.get(source)
        if stored_source is None or stored_source.at.number == 0:
            return MergeResult(0, stored_target.session().position)
        applied = len(stored_source.events)
        stored_target.take_over(stored_source)
        self._sessions[source] = stored_source.emptied()
        self._keep(target, stored_target)
        return MergeResult(applied, stored_target.session().position)

    async def read(self, digest: str) -> Session:
        """Find the session after a look at all; see `SessionStore`."""
        self._evict_expired()
        found = (stored for session_id, stored in self._sessions.items() if session_digest(session_id) == digest)
        return next(found, _StoredSession(self.length)).session()

    async def page(self, cursor: str, limit: int) -> SessionPage:
        """List sessions in the order of their digests; the cursor has a digest as a number. See `SessionStore`."""
        self._evict_expired()
        after = int(cursor.partition("-")[2])
        by_digest = {
            session_digest(session_id): stored for session_id, stored in self._sessions.items() if stored.at.number
        }
        page = sorted(digest for digest in by_digest if _scan_place(digest) > after)[: limit + 1]
        listed = [
            ListedSession(
                digest,
                by_digest[digest].at.number,
                next(reversed(by_digest[digest].events), None),
                int((by_digest[digest].expires_s - self._clock()) * 1000),
            )
            for digest in page[:limit]
        ]
        return SessionPage(listed, f"0-{_scan_place(page[limit - 1])}" if len(page) > limit else None)

    async def delete(self, session_id: str) -> None:
        """Remove the session."""
        self._sessions.pop(session_id, None)

    async def erase(self, digest: str) -> None:
        """Remove the session of a digest, after a look at all sessions."""
        for session_id in [session_id for session_id in self._sessions if session_digest(session_id) == digest]:
            del self._sessions[session_id]

    async def close(self) -> None:
        """Remove all sessions."""
        self._sessions.clear()

    async def _append_or_error(self, append: SessionAppend) -> Session | ServiceError:
        try:
            return await self.append(
                append.session_id, append.events, at_least=append.at_least, keeps_answer=append.keeps_answer
            )
        except ServiceError as error:
            return error

    def _keep(self, session_id: str, stored: "_StoredSession") -> None:
        """Store a session at the end of the dict, which is ordered by expiry."""
        stored.expires_s = self._clock() + self._ttl_s
        self._sessions[session_id] = stored
        self._sessions.move_to_end(session_id)

    def _evict_expired(self) -> None:
        now_s = self._clock()
        while self._sessions and next(iter(self._sessions.values())).expires_s <= now_s:
            self._sessions.popitem(last=False)


class _StoredSession:
    """The mutable state of one session."""

    def __init__(self, length: int) -> None:
        self.events: deque[Event] = deque(maxlen=length)
        self.event_ids: dict[str, None] = {}
        self.purchased_ms: dict[str, int] = {}
        self.hidden_ms: dict[str, int] = {}
        self.at = START
        self.expires_s = 0.0

    def session(self, outcomes: Sequence[bool] = ()) -> Session:
        return Session.of(
            list(self.events), purchased=self.purchased_ms, hidden=self.hidden_ms, position=self.at, outcomes=outcomes
        )

    def apply(self, events: Iterable[Event]) -> list[bool]:
        outcomes = [self._apply(event) for event in events]
        self._evict()
        return outcomes

    def take_over(self, other: "_StoredSession") -> None:
        """Merge another session's events by time, this session's first among equals.

        An item stays hidden unless one of the two sessions has a later event of it than the other's mark.
        """
        events, other_events = list(self.events), list(other.events)
        self.hidden_ms = _latest(_still_hidden(self.hidden_ms, other_events), _still_hidden(other.hidden_ms, events))
        self.purchased_ms = _latest(self.purchased_ms, other.purchased_ms)
        self.events.clear()
        self.events.extend(sorted([*events, *other_events], key=lambda event: event.timestamp_ms))
        self.event_ids |= other.event_ids
        self._advance(other.at.number)
        self._evict()

    def emptied(self) -> "_StoredSession":
        """Return what is left of a session that was moved: it still knows the ids of its events."""
        emptied = _StoredSession(self.events.maxlen or 0)
        emptied.event_ids, emptied.expires_s = self.event_ids, self.expires_s
        return emptied

    def _apply(self, event: Event) -> bool:
        if event.event_id is not None:
            if event.event_id in self.event_ids:
                return False
            self.event_ids[event.event_id] = None
        self._advance(1)
        event.take_effect(self.events, self.purchased_ms, self.hidden_ms)
        return True

    def _advance(self, steps: int) -> None:
        generation = token_hex(GENERATION_BYTES) if self.at.generation == NO_GENERATION else self.at.generation
        self.at = Position(generation, self.at.number + steps)

    def _evict(self) -> None:
        """Remove the oldest event ids and marks beyond their limits; of marks of the same time, the first by name."""
        while len(self.event_ids) > REMEMBERED_EVENT_IDS:
            del self.event_ids[next(iter(self.event_ids))]
        surplus = len(self.purchased_ms) + len(self.hidden_ms) - REMEMBERED_MARKS
        if surplus <= 0:
            return
        marks = sorted(
            [(time_ms, "h", item_id) for item_id, time_ms in self.hidden_ms.items()]
            + [(time_ms, "p", item_id) for item_id, time_ms in self.purchased_ms.items()]
        )
        for _, kind, item_id in marks[:surplus]:
            del (self.hidden_ms if kind == "h" else self.purchased_ms)[item_id]


def _still_hidden(hidden_ms: Mapping[str, int], events: Iterable[Event]) -> dict[str, int]:
    """Return the hidden items that have no event later than their mark."""
    by_time = sorted(events, key=lambda event: event.timestamp_ms)
    last_ms = {event.item_id: event.timestamp_ms for event in by_time}
    return {item_id: time_ms for item_id, time_ms in hidden_ms.items() if last_ms.get(item_id, 0) <= time_ms}


def _latest(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {item_id: max(first.get(item_id, 0), second.get(item_id, 0)) for item_id in {**first, **second}}


def _scan_place(digest: str) -> int:
    """Return a number that grows with the digest, of up to 20 digits as in the cursor of a scan."""
    return int(digest[:16], 16)
