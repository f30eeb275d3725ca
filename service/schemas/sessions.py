"""Bodies of events and sessions."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from service.schemas.base import Id, RequestBody, Timestamp

MAX_EVENTS = 1_000


class EventBody(RequestBody):
    """What a visitor did with an item."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"session_id": "visitor-1", "item_id": "item-17", "type": "view"}]}
    )

    session_id: Id
    item_id: Id
    type: str = Field(default="view", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="view, cart, purchase, ...")
    timestamp: Timestamp | None = Field(default=None, description="When, by RFC 3339; now where it is not given.")
    event_id: Id | None = Field(default=None, description="Applied once: a session remembers its last 1,000 event ids.")
    recommendation_id: Id | None = Field(default=None, description="The answer that led to this event.")


class EventsBody(RequestBody):
    """Several events, of one session or of many; those of one session oldest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"session_id": "visitor-1", "item_id": "item-17", "event_id": "e-1"}]}]
        }
    )

    events: list[EventBody] = Field(min_length=1, max_length=MAX_EVENTS)


def _one_or_many(body: Any) -> Literal["one", "many"]:
    return "many" if isinstance(body, dict) and "events" in body else "one"


OneOrManyEvents = Annotated[
    Annotated[EventBody, Tag("one")] | Annotated[EventsBody, Tag("many")], Discriminator(_one_or_many)
]


class StoredEvent(BaseModel):
    """An event of a session."""

    item_id: str = Field(examples=["item-17"])
    type: str = Field(examples=["view"])
    timestamp: datetime


class StoredSession(BaseModel):
    """What is stored of a session, oldest first."""

    session_id: str = Field(examples=["visitor-1"])
    events: list[StoredEvent]
    count: int = Field(examples=[1])


class EventsStored(BaseModel):
    """Every event sent is stored."""

    applied: int = Field(description="Events that are new.", examples=[1])
    duplicates: int = Field(description="Events whose event_id was applied before.", examples=[0])
