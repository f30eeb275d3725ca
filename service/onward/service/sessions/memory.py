"""InMemorySessionStore: sessions of one process."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

from onward.service.errors import ServiceError, SessionBehind
from onward.service.sessions.events import Event
from onward.service.sessions.session import UNBORN, Position, Session
from onward.service.sessions.store import REMEMBERED_EVENT_IDS, REMEMBERED_MARKS, Append, Merged, new_birth


class InMemorySessionStore:
    """For tests and a service of one process: the same promise, in a dict."""

    def __init__(self, *, length: int, ttl: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._length = length
        self._ttl_s = ttl.total_seconds()
        self._clock = clock
        self._sessions: OrderedDict[str, _RememberedSession] = OrderedDict()

    async def append(
        self, session_id: str, events: Sequence[Event], *, at_least: str | None = None, answer_id: str | None = None
    ) -> Session:
        """Apply events in this process, where answers have no list whose place could be kept."""
        self._forget_expired()
        remembered = self._sessions.get(session_id) or _RememberedSession(self._length)
        if at_least is not None and not remembered.at.reaches(Position.parse(at_least)):
            raise SessionBehind("The session is not at the position that was asked for, or ended since.")
        if not events:
            return remembered.session()
        self._keep(session_id, remembered)
        return remembered.session(remembered.apply(events))

    async def append_all(self, appends: Sequence[Append]) -> list[Session | ServiceError]:
        """One after another."""
        return [await self._appended(one) for one in appends]

    async def merge(self, source: str, target: str) -> Merged:
        """Move everything at once."""
        self._forget_expired()
        into = self._sessions.get(target) or _RememberedSession(self._length)
        moved = self._sessions.get(source)
        if moved is None or moved.at.number == 0:
            return Merged(0, into.session().position)
        applied = len(moved.events)
        into.take_over(moved)
        self._sessions[source] = moved.emptied()
        self._keep(target, into)
        return Merged(applied, into.session().position)

    async def delete(self, session_id: str) -> None:
        """Drop the session."""
        self._sessions.pop(session_id, None)

    async def close(self) -> None:
        """Drop every session."""
        self._sessions.clear()

    async def _appended(self, one: Append) -> Session | ServiceError:
        try:
            return await self.append(one.session_id, one.events, at_least=one.at_least, answer_id=one.answer_id)
        except ServiceError as error:
            return error

    def _keep(self, session_id: str, remembered: "_RememberedSession") -> None:
        """Put it at the end: the order of the dict is the order of expiry."""
        remembered.expires_s = self._clock() + self._ttl_s
        self._sessions[session_id] = remembered
        self._sessions.move_to_end(session_id)

    def _forget_expired(self) -> None:
        now_s = self._clock()
        while self._sessions and next(iter(self._sessions.values())).expires_s <= now_s:
            self._sessions.popitem(last=False)


class _RememberedSession:
    """One session of InMemorySessionStore."""

    def __init__(self, length: int) -> None:
        self.events: deque[Event] = deque(maxlen=length)
        self.event_ids: dict[str, None] = {}
        self.purchased_ms: dict[str, int] = {}
        self.hidden_ms: dict[str, int] = {}
        self.at = Position(UNBORN, 0)
        self.expires_s = 0.0

    def session(self, outcomes: Sequence[bool] = ()) -> Session:
        return Session.of(
            list(self.events), purchased=self.purchased_ms, hidden=self.hidden_ms, at=self.at, outcomes=outcomes
        )

    def apply(self, events: Iterable[Event]) -> list[bool]:
        outcomes = [self._apply(event) for event in events]
        self._bound_marks()
        return outcomes

    def take_over(self, other: "_RememberedSession") -> None:
        """Merge another one's events by their times, own ones first among equals; the later of mark and event wins."""
        own, others = list(self.events), list(other.events)
        self.hidden_ms = _latest(_not_met_since(self.hidden_ms, others), _not_met_since(other.hidden_ms, own))
        self.purchased_ms = _latest(self.purchased_ms, other.purchased_ms)
        self.events.clear()
        self.events.extend(sorted([*own, *others], key=lambda event: event.timestamp_ms))
        for event_id in other.event_ids:
            self._remember(event_id)
        self._advance(other.at.number)
        self._bound_marks()

    def emptied(self) -> "_RememberedSession":
        """Return what is left of a session that was moved: it goes on to know the ids of its events."""
        left = _RememberedSession(self.events.maxlen or 0)
        left.event_ids, left.expires_s = self.event_ids, self.expires_s
        return left

    def _apply(self, event: Event) -> bool:
        if event.event_id is not None and not self._remember(event.event_id):
            return False
        self._advance(1)
        if event.effect in ("enter", "purchase"):
            self.events.append(event._replace(event_id=None, weight=1.0))
            self.hidden_ms.pop(event.item_id, None)
        if event.effect == "purchase":
            self.purchased_ms[event.item_id] = event.timestamp_ms
        if event.effect == "hide":
            self.hidden_ms[event.item_id] = event.timestamp_ms
        return True

    def _remember(self, event_id: str) -> bool:
        if event_id in self.event_ids:
            return False
        self.event_ids[event_id] = None
        if len(self.event_ids) > REMEMBERED_EVENT_IDS:
            del self.event_ids[next(iter(self.event_ids))]
        return True

    def _advance(self, steps: int) -> None:
        birth = new_birth() if self.at.birth == UNBORN else self.at.birth
        self.at = Position(birth, self.at.number + steps)

    def _bound_marks(self) -> None:
        """Forget the oldest marks; among those of one time, the first by name."""
        surplus = len(self.purchased_ms) + len(self.hidden_ms) - REMEMBERED_MARKS
        if surplus <= 0:
            return
        oldest = sorted(
            [(time_ms, "h", item_id) for item_id, time_ms in self.hidden_ms.items()]
            + [(time_ms, "p", item_id) for item_id, time_ms in self.purchased_ms.items()]
        )
        for _, kind, item_id in oldest[:surplus]:
            del (self.hidden_ms if kind == "h" else self.purchased_ms)[item_id]


def _not_met_since(hidden_ms: Mapping[str, int], events: Iterable[Event]) -> dict[str, int]:
    last_met_ms = {event.item_id: event.timestamp_ms for event in sorted(events, key=lambda event: event.timestamp_ms)}
    return {item_id: time_ms for item_id, time_ms in hidden_ms.items() if last_met_ms.get(item_id, 0) <= time_ms}


def _latest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {item_id: max(one.get(item_id, 0), other.get(item_id, 0)) for item_id in {**one, **other}}
