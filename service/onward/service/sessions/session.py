"""Session: what a store remembers of a visitor."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from onward.service.sessions.events import Event

NO_GENERATION = "0"
GENERATION_BYTES = 6
"""Length of the random name of a generation, which is written in hexadecimal digits."""


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

    def may_reach(self, required: Self) -> bool:
        """Return whether a session at this position may reach the required one by later events."""
        return self.generation == required.generation != NO_GENERATION


START = Position(NO_GENERATION, 0)
"""The position of an empty session, which every session reaches."""


class Session(NamedTuple):
    """The state of a session after an append."""

    events: Sequence[Event]
    """The latest events that added an item, oldest first, without their ids and weights."""
    item_ids: Sequence[str]
    """The input of the encoder: the items of `events` that are not hidden."""
    purchased: frozenset[str]
    hidden: frozenset[str]
    """Items that the visitor disliked and did not come back to."""
    position: str
    """The position as a token."""
    outcomes: Sequence[bool]
    """For each event of the append, whether it was applied; otherwise it was a duplicate."""
    answer_generation: str | None = None
    """The generation of the session's answers, if the append asked for it and an answer can be kept."""

    @classmethod
    def of(
        cls,
        events: Sequence[Event],
        *,
        purchased: Iterable[str] = (),
        hidden: Iterable[str] = (),
        position: Position = START,
        outcomes: Sequence[bool] = (),
    ) -> Self:
        """Make a session of what a store holds."""
        hidden = frozenset(hidden)
        item_ids = [event.item_id for event in events if event.item_id not in hidden]
        return cls(events, item_ids, frozenset(purchased), hidden, str(position), outcomes)

    def with_events(self, events: Sequence[Event], *, length: int) -> "Session":
        """Return the session that appending events without ids would give, at this position and with these outcomes.

        A store would also drop the oldest marks beyond its limit, whose times a session does not hold.

        Args:
            events: new events, oldest first.
            length: the number of events that the store keeps of a session.
        """
        purchased_ms, hidden_ms = dict.fromkeys(self.purchased, 0), dict.fromkeys(self.hidden, 0)
        entered: list[Event] = []
        for event in events:
            event.take_effect(entered, purchased_ms, hidden_ms)
        latest = [*self.events, *entered][-length:] if entered else self.events
        return self._replace(
            events=latest,
            item_ids=[event.item_id for event in latest if event.item_id not in hidden_ms],
            purchased=frozenset(purchased_ms),
            hidden=frozenset(hidden_ms),
        )

    @property
    def applied(self) -> int:
        """The number of events of the append that were applied."""
        return sum(self.outcomes)

    @property
    def is_new(self) -> bool:
        """Whether no event was ever applied to the session."""
        return Position.parse(self.position).number == 0

    def positions(self) -> list[str]:
        """Return the token of the position after each event of the append."""
        generation, number = Position.parse(self.position)
        number -= self.applied
        return [str(Position(generation, number := number + applied)) for applied in self.outcomes]
