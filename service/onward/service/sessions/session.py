"""Session: what a store remembers of a visitor."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from onward.service.sessions.events import Event

UNBORN = "0"


class Position(NamedTuple):
    """How far a session has come: which life it is in, and how many events were applied in it.

    A session that ended or was deleted begins another life.
    """

    birth: str
    number: int

    def __str__(self) -> str:
        return f"{self.birth}-{self.number}"

    @classmethod
    def parse(cls, token: str) -> Self:
        """Read what str() wrote. A text that is none gives a position that no session reaches."""
        birth, _, number = token.rpartition("-")
        return cls(birth, int(number)) if number.isdecimal() and number.isascii() else cls("", 1)

    def reaches(self, asked: Self) -> bool:
        """Whether whoever sees this position sees all that was there at the one asked for."""
        return asked.number == 0 or (self.birth == asked.birth and self.number >= asked.number)


NOWHERE = Position(UNBORN, 0)


class Session(NamedTuple):
    """What is known of a session once an append was done."""

    events: Sequence[Event]
    """The last ones that entered the session, oldest first, without their ids and weights."""
    item_ids: Sequence[str]
    """What the encoder sees: the items of `events` that are not hidden."""
    purchased: frozenset[str]
    hidden: frozenset[str]
    """Items that the visitor dislikes and did not come back to."""
    at: Position
    outcomes: Sequence[bool]
    """Of each event that was sent, whether it was applied; it was a duplicate where not."""

    @classmethod
    def of(
        cls,
        events: Sequence[Event],
        *,
        purchased: Iterable[str] = (),
        hidden: Iterable[str] = (),
        at: Position = NOWHERE,
        outcomes: Sequence[bool] = (),
    ) -> Self:
        """Put together what a store holds."""
        hidden = frozenset(hidden)
        item_ids = [event.item_id for event in events if event.item_id not in hidden]
        return cls(events, item_ids, frozenset(purchased), hidden, at, outcomes)

    @property
    def applied(self) -> int:
        """Number of the events just sent that were applied."""
        return sum(self.outcomes)

    @property
    def position(self) -> str:
        """Token of how far the session has come."""
        return str(self.at)

    def positions(self) -> list[str]:
        """Return the token after each event that was sent."""
        number = self.at.number - self.applied
        return [str(self.at._replace(number=(number := number + applied))) for applied in self.outcomes]
