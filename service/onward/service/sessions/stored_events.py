"""StoredEvents: a session's events as the script gives them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Self, overload

from onward.service.sessions.events import Event


class StoredEvents(Sequence[Event]):
    """Made into events only where someone asks for them, since most requests need the items alone."""

    def __init__(
        self, times_ms: Sequence[str], types: Sequence[str], item_ids: Sequence[str], foreign: int = 0
    ) -> None:
        """Take the fields of all events as they are written; of as many more as are `foreign` none could be read."""
        self._times_ms = times_ms
        self._types = types
        self.item_ids = item_ids
        self.foreign = foreign

    @classmethod
    def parse(cls, entries: bytes) -> Self:
        """Read a line for each event: its time in ms, type and item. A line that is none of ours is left out."""
        if not entries:
            return cls([], [], [])
        lines = entries.count(b"\n") + 1
        try:
            fields = entries.replace(b"\n", b" ").decode().split(" ")
        except UnicodeDecodeError:
            fields = []
        times_ms = fields[::3]
        if len(fields) == 3 * lines and "" not in times_ms and "".join(times_ms).isdecimal():
            return cls(times_ms, fields[1::3], fields[2::3])
        events = [event for entry in entries.split(b"\n") if (event := _event(entry)) is not None]
        return cls(
            [str(event.timestamp_ms) for event in events],
            [event.type for event in events],
            [event.item_id for event in events],
            foreign=lines - len(events),
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    @overload
    def __getitem__(self, place: int) -> Event: ...

    @overload
    def __getitem__(self, place: slice) -> list[Event]: ...

    def __getitem__(self, place: int | slice) -> Event | list[Event]:
        return self._events[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    @cached_property
    def _events(self) -> list[Event]:
        return list(map(Event, self.item_ids, self._types, map(int, self._times_ms)))


def _event(entry: bytes) -> Event | None:
    try:
        timestamp_ms, kind, item_id = entry.decode().split(" ")
        return Event(item_id, kind, int(timestamp_ms))
    except ValueError:
        return None
