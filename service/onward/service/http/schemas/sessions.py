"""Bodies of events and sessions."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from onward.service.fields import Id, StrictModel
from onward.service.http.problems import UNION_TAG
from onward.service.http.schemas.base import Timestamp
from onward.service.http.schemas.entries import EntryProblem, InvalidEntry, validated_alone
from onward.service.sessions import EVENT_TYPE

MAX_EVENTS = 1_000

PositionToken = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{1,32}-[0-9]{1,15}$",
        description="How far a session has come, as the answer to an event told it.",
        examples=["9f1c0a7be2d4-3"],
    ),
]


class EventBody(StrictModel):
    """What a visitor did with an item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"session_id": "visitor-1", "item_id": "item-17", "type": "view"},
                {
                    "session_id": "visitor-1",
                    "item_id": "item-17",
                    "type": "purchase",
                    "event_id": "e-2",
                    "value": 19.9,
                },
            ]
        }
    )

    session_id: Id
    item_id: Id
    type: str = Field(
        default="view",
        pattern=f"^{EVENT_TYPE}$",
        description="view, cart, purchase, like, dislike, impression or one of your own; the deployment has a weight "
        "for each. Above 0 the item enters the session; below 0 it is hidden from the session's answers until such an "
        "event comes again; 0 is counted alone. A purchased item is remembered as one.",
    )
    timestamp: Timestamp | None = Field(
        default=None,
        description="When, by RFC 3339; now where it is not given. An event that is older than the deployment takes, "
        "by default a day, is refused.",
    )
    event_id: Id | None = Field(default=None, description="Applied once: a session remembers its last 1,000 event ids.")
    recommendation_id: Id | None = Field(default=None, description="The answer that led to this event.")
    value: float | None = Field(default=None, ge=0, description="What it was worth, such as the price paid.")
    store: bool = Field(default=True, description="false: it is checked, and nothing of it is kept anywhere.")


class EventsBody(StrictModel):
    """Several events, of one session or of many; those of one session oldest first. Each counts by itself."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"session_id": "visitor-1", "item_id": "item-17", "event_id": "e-1"}]}]
        }
    )

    events: list[Annotated[EventBody | InvalidEntry, validated_alone(EventBody)]] = Field(
        min_length=1, max_length=MAX_EVENTS
    )


ONE, MANY = UNION_TAG + "one", UNION_TAG + "many"


def _one_or_many(body: Any) -> str:
    return MANY if isinstance(body, dict) and "events" in body else ONE


OneOrManyEvents = Annotated[
    Annotated[EventBody, Tag(ONE)] | Annotated[EventsBody, Tag(MANY)], Discriminator(_one_or_many)
]

Applied = Annotated[int, Field(description="Events that are new.", examples=[1])]
Duplicates = Annotated[int, Field(description="Events whose event_id was applied before.", examples=[0])]
NotStored = Annotated[int, Field(description="Events with `store: false`, of which nothing is kept.", examples=[0])]


class EventStored(BaseModel):
    """The event is stored, or was before, or was not to be."""

    applied: Applied
    duplicates: Duplicates
    not_stored: NotStored
    position: PositionToken | None = Field(
        default=None,
        description="Given to a later request, makes sure that it sees this event. Absent where nothing is stored.",
        examples=["9f1c0a7be2d4-3"],
    )


class EventResult(BaseModel):
    """What became of one event of a list."""

    status: Literal["applied", "duplicate", "not_stored", "rejected", "failed"] = Field(
        description="A rejected event is wrong; one that failed may be sent again as it is."
    )
    position: PositionToken | None = None
    error: EntryProblem | None = None


class EventsStored(BaseModel):
    """What became of each event of a list, in the order in which they were sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "applied": 1,
                    "duplicates": 0,
                    "not_stored": 0,
                    "rejected": 0,
                    "failed": 0,
                    "results": [{"status": "applied", "position": "9f1c0a7be2d4-3"}],
                },
                {
                    "applied": 1,
                    "duplicates": 0,
                    "not_stored": 0,
                    "rejected": 1,
                    "failed": 0,
                    "results": [
                        {"status": "applied", "position": "9f1c0a7be2d4-3"},
                        {
                            "status": "rejected",
                            "error": {
                                "code": "invalid_request",
                                "detail": "The event breaks the schema in 1 place.",
                                "errors": [{"at": "body.events.1.item_id", "message": "Field required"}],
                            },
                        },
                    ],
                },
            ]
        }
    )

    applied: Applied
    duplicates: Duplicates
    not_stored: NotStored
    rejected: int = Field(description="Events that break the schema or are too old.", examples=[0])
    failed: int = Field(description="Events that the session store did not take; they may be sent again.", examples=[0])
    results: list[EventResult]


class StoredEvent(BaseModel):
    """An event of a session."""

    item_id: str = Field(examples=["item-17"])
    type: str = Field(examples=["view"])
    timestamp: datetime = Field(examples=["2026-11-22T09:30:00Z"])


class StoredSession(BaseModel):
    """All that is stored of a session."""

    session_id: str = Field(examples=["visitor-1"])
    events: list[StoredEvent] = Field(description="The last ones that entered the session, oldest first.")
    count: int = Field(description="Number of `events`.", examples=[1])
    purchased: list[str] = Field(description="Items that were purchased, by name.", examples=[[]])
    disliked: list[str] = Field(description="Items that are hidden from the session's answers.", examples=[["item-4"]])
    position: PositionToken


class MergeBody(StrictModel):
    """Where a session goes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"into": "user-7"}]})

    into: Id = Field(description="The session that takes over all events, as of a visitor who logged in.")


class MergedSession(BaseModel):
    """The session that took over another one's events."""

    session_id: str = Field(examples=["user-7"])
    applied: int = Field(description="Events that were taken over.", examples=[2])
    position: PositionToken
