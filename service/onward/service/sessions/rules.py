"""EventRules: the weights that a deployment gives to events, and how old events may be."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Self

from onward.service.errors import EventTooOld
from onward.service.sessions.events import PURCHASE, Event

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"view": 1, "cart": 3, "purchase": 5, "like": 2, "impression": 0, "dislike": -1}
)
WEIGHT_OF_OTHER_TYPES = 1.0
MAX_WEIGHT = 1_000
MAX_EVENT_AGE = timedelta(days=1)

EVENT_TYPE = r"[a-z][a-z0-9_-]{0,31}"
_WEIGHTS = re.compile(rf"(?:({EVENT_TYPE})=(-?\d+(?:\.\d+)?))")


@dataclass(frozen=True, slots=True)
class EventWeights:
    """The weight of each type of event: a deployment's own, or else the default."""

    own: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `TYPE=WEIGHT,...`. Raises ValueError, which says how to write it."""
        matches = [_WEIGHTS.fullmatch(part.strip()) for part in text.split(",") if part.strip()]
        own = {match[1]: float(match[2]) for match in matches if match is not None}
        if len(own) < len(matches) or any(abs(weight) > MAX_WEIGHT for weight in own.values()):
            raise ValueError(
                f"types and their weights, each once, -{MAX_WEIGHT} to {MAX_WEIGHT}, as in share=2,skip=-1"
            )
        if own.get(PURCHASE, 1.0) <= 0:
            raise ValueError(f"a {PURCHASE} has a weight above 0")
        return cls(own)

    def __str__(self) -> str:
        return ",".join(f"{kind}={weight:g}" for kind, weight in self.own.items())

    def of(self, kind: str) -> float:
        """Return the weight of a type of event."""
        return self.own.get(kind, WEIGHTS.get(kind, WEIGHT_OF_OTHER_TYPES))


@dataclass(frozen=True, slots=True)
class EventRules:
    """The weights of events, and the age up to which they are accepted."""

    weights: EventWeights = field(default_factory=EventWeights)
    max_age: timedelta = MAX_EVENT_AGE

    def event(self, item_id: str, kind: str, happened: datetime | None, event_id: str | None, now: datetime) -> Event:
        """Return an event, which happened `now` if no time is given. Raises EventTooOld."""
        if happened is not None and now - happened > self.max_age:
            raise EventTooOld(f"An event is taken for {self.max_age} after it happened; this one is older.")
        timestamp_ms = int((happened or now).timestamp() * 1000)
        return Event(item_id, kind, timestamp_ms, event_id, self.weights.of(kind))

    def event_now(self, item_id: str, kind: str, now_ms: int) -> Event:
        """Return an event without an id that happens now; a shorter way for events that callers send as bare items."""
        return Event(item_id, kind, now_ms, None, self.weights.of(kind))
