"""Session: what a store remembers of a visitor."""

import secrets
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple, Self, overload

from onward.service.sessions.events import Event

NO_GENERATION = "0"


class Position(NamedTuple):
    """How far a session has come: its generation, and the number of events applied in it.

    A session that starts again after it expired or was deleted has another generation. Written as `GENERATION-NUMBER`,
    a position is the token that callers send to read their own writes.
    """

    generation: str
    number: int

    def __str__(self) -> str:
        return f"{self.generation}-{self.number}"

    @classmethod
    def parse(cls, token: str) -> Self:
        """Parse a token. A malformed one gives a position that no session reaches."""
        generation, _, number = token.rpartition("-")
        return cls(generation, int(number)) if number.isdecimal() and number.isascii() else cls("", 1)

    def reaches(self, required: Self) -> bool:
        """Return whether a session at this position includes all events up to the required one."""
        return required.number == 0 or (self.generation == required.generation and self.number >= required.number)


START = Position(NO_GENERATION, 0)
"""The position of an empty session, which every session reaches."""


def new_generation() -> str:
    """Return a random name for the generation of sessions that begin now, 12 hexadecimal digits."""
    return secrets.token_hex(6)


class Session(NamedTuple):
    """The state of a session after an append."""

    events: Sequence[Event]
    """The latest events that added an item, oldest first, without their ids and weights."""
    item_ids: Sequence[str]
    """The input of the encoder: the items of `events` that are not hidden."""
    purchased: frozenset[str]
    hidden: frozenset[str]
    """Items that the visitor disliked and did not come back to."""
    at: Position
    outcomes: Sequence[bool]
    """For each event of the append, whether it was applied; otherwise it was a duplicate."""

    @classmethod
    def of(
        cls,
        events: Sequence[Event],
        *,
        purchased: Iterable[str] = (),
        hidden: Iterable[str] = (),
        at: Position = START,
        outcomes: Sequence[bool] = (),
    ) -> Self:
        """Make a session of what a store holds."""
        hidden = frozenset(hidden)
        item_ids = [event.item_id for event in events if event.item_id not in hidden]
        return cls(events, item_ids, frozenset(purchased), hidden, at, outcomes)

    @property
    def applied(self) -> int:
        """The number of events of the append that were applied."""
        return sum(self.outcomes)

    @property
    def position(self) -> str:
        """The position as a token."""
        return str(self.at)

    def positions(self) -> list[str]:
        """Return the token of the position after each event of the append."""
        number = self.at.number - self.applied
        return [str(self.at._replace(number=(number := number + applied))) for applied in self.outcomes]


class StoredEvents(Sequence[Event]):
    """The events of a session as Redis stores them, made into events lazily: most requests need only the item ids."""

    def __init__(
        self, times_ms: Sequence[str], types: Sequence[str], item_ids: Sequence[str], foreign: int = 0
    ) -> None:
        """Take the fields of all events as text, and the number of entries that were left out as malformed."""
        self._times_ms = times_ms
        self._types = types
        self.item_ids = item_ids
        self.foreign = foreign

    @classmethod
    def parse(cls, entries: bytes) -> Self:
        """Parse one line for each event: its time in ms, type and item. Malformed lines are left out and counted."""
        if not entries:
            return cls([], [], [])
        lines = entries.count(b"\n") + 1
        try:
            fields = entries.replace(b"\n", b" ").decode().split(" ")
        except UnicodeDecodeError:
            fields = []
        # The fast path splits all lines at once; it is valid only if every line has three fields.
        times_ms = fields[::3]
        if len(fields) == 3 * lines and "" not in times_ms and "".join(times_ms).isdecimal():
            return cls(times_ms, fields[1::3], fields[2::3])
        events = [event for entry in entries.split(b"\n") if (event := _parse_event(entry)) is not None]
        return cls(
            [str(event.timestamp_ms) for event in events],
            [event.type for event in events],
            [event.item_id for event in events],
            foreign=lines - len(events),
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self._events[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # unhashable, as a list is

    @cached_property
    def _events(self) -> list[Event]:
        return list(map(Event, self.item_ids, self._types, map(int, self._times_ms)))


def _parse_event(entry: bytes) -> Event | None:
    try:
        timestamp_ms, kind, item_id = entry.decode().split(" ")
        return Event(item_id, kind, int(timestamp_ms))
    except ValueError:
        return None
