"""Schemas of events and sessions."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from onward.service.fields import Id, StrictModel
from onward.service.http.problems import UNION_TAG
from onward.service.http.schemas.base import BundleDigest, Limit, NextCursor, QueryString, Timestamp
from onward.service.http.schemas.entries import EntryProblem, InvalidEntry, validated_alone
from onward.service.http.schemas.items import RecommendedItem
from onward.service.recommend.session_history import ReplayStatus
from onward.service.records.answers import MAX_ANSWERS
from onward.service.redis_client import FIRST_SCAN, SCAN_CURSOR
from onward.service.sessions import EVENT_TYPE

MAX_EVENTS = 1_000

PositionToken = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{1,32}-[0-9]{1,15}$",
        description="How far a session has advanced, as returned in the answer to an event.",
        examples=["9f1c0a7be2d4-3"],
    ),
]


class EventBody(StrictModel):
    """One interaction of a visitor with an item."""

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
        description="view, cart, purchase, like, dislike, impression or a type of your own; the deployment gives each "
        "type a weight. Above 0: the item enters the session. Below 0: the item is hidden from the session's answers "
        "until an event of positive weight restores it. 0: the event is only counted. A purchase also marks the item "
        "as purchased.",
    )
    timestamp: Timestamp | None = Field(
        default=None,
        description="When it happened, in RFC 3339 format; by default now. An event older than the deployment's "
        "maximum age, by default one day, is rejected.",
    )
    event_id: Id | None = Field(
        default=None,
        description="Deduplication key: an event with this id is applied once. A session remembers its last 1,000 ids.",
    )
    recommendation_id: Id | None = Field(
        default=None, description="The answer that led to this event, to attribute the event to it."
    )
    value: float | None = Field(default=None, ge=0, description="Value of the event, such as the price paid.")
    store: bool = Field(default=True, description="false: validate the event, but store nothing of it.")


class EventsBody(StrictModel):
    """Events of one or more sessions, those of one session oldest first. Each is accepted or rejected alone."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"session_id": "visitor-1", "item_id": "item-17", "event_id": "e-1"}]}]
        }
    )

    events: list[Annotated[EventBody | InvalidEntry, validated_alone(EventBody)]] = Field(
        min_length=1, max_length=MAX_EVENTS
    )


ONE, MANY = UNION_TAG + "one", UNION_TAG + "many"


def _tag_of(body: Any) -> str:
    return MANY if isinstance(body, dict) and "events" in body else ONE


OneOrManyEvents = Annotated[Annotated[EventBody, Tag(ONE)] | Annotated[EventsBody, Tag(MANY)], Discriminator(_tag_of)]

Applied = Annotated[int, Field(description="New events that were applied.", examples=[1])]
Duplicates = Annotated[int, Field(description="Events whose `event_id` was applied before.", examples=[0])]
NotStored = Annotated[
    int, Field(description="Valid events with `store: false`; nothing of them is stored.", examples=[0])
]


class EventStored(BaseModel):
    """Whether the event was applied, a duplicate, or not to be stored."""

    applied: Applied
    duplicates: Duplicates
    not_stored: NotStored
    position: PositionToken | None = Field(
        default=None,
        description="Pass it to a later request to ensure that it sees this event. Absent if nothing was stored.",
        examples=["9f1c0a7be2d4-3"],
    )


class EventResult(BaseModel):
    """The result of one event of a list."""

    status: Literal["applied", "duplicate", "not_stored", "rejected", "failed"] = Field(
        description="A rejected event is invalid; a failed one may be sent again unchanged."
    )
    position: PositionToken | None = None
    error: EntryProblem | None = None


class EventsStored(BaseModel):
    """The result of each event of a list, in the order sent."""

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
                                "detail": "The event violates the schema in 1 place.",
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
    rejected: int = Field(description="Events that violate the schema or are too old.", examples=[0])
    failed: int = Field(
        description="Events that the session store did not confirm; they may be sent again.", examples=[0]
    )
    results: list[EventResult]


class StoredEvent(BaseModel):
    """A stored event."""

    item_id: str = Field(examples=["item-17"])
    type: str = Field(examples=["view"])
    timestamp: datetime = Field(examples=["2026-11-22T09:30:00Z"])


class StoredSession(BaseModel):
    """Everything that is stored of a session."""

    session_id: str = Field(examples=["visitor-1"])
    events: list[StoredEvent] = Field(description="The last events that entered the session, oldest first.")
    count: int = Field(description="Number of `events`.", examples=[1])
    purchased: list[str] = Field(description="Purchased items, sorted by id.", examples=[[]])
    disliked: list[str] = Field(
        description="Items that are hidden from the session's answers, sorted by id.", examples=[["item-4"]]
    )
    position: PositionToken


SessionKey = Annotated[
    str,
    Field(description="Stands for the session, whose id is not stored.", examples=["0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e"]),
]
NamedBy = Annotated[
    Literal["id", "key"], Field(description="Whether the path has the session's id, or its `key` of a list.")
]


class SessionsQuery(QueryString):
    """Which sessions to list."""

    cursor: str = Field(
        default=FIRST_SCAN,
        pattern=f"^{SCAN_CURSOR}$",
        description="`next_cursor` of the page before; by default the first page.",
    )
    limit: Limit = 20


class ListedSession(BaseModel):
    """What a list shows of a session."""

    key: SessionKey
    applied: int = Field(description="Events that were ever applied.", examples=[3])
    last_event: StoredEvent | None = Field(default=None, description="The last event that entered the session.")
    expires_in_s: float = Field(description="Seconds until the session ends unless an event comes.", examples=[1712.5])


class ListedSessions(BaseModel):
    """Sessions, in no order."""

    sessions: list[ListedSession]
    next_cursor: NextCursor = None


class SessionNaming(QueryString):
    """How a path names a session."""

    by: NamedBy = "id"


class SessionHistoryQuery(SessionNaming):
    """What to show of a session."""

    limit: int = Field(default=20, ge=1, le=MAX_ANSWERS, description="The most answers to show.", examples=[20])
    replay: bool = Field(
        default=False, description="Compute each answer again, by the bundle that gave it and the catalog as it is now."
    )


class ReplayedAnswer(BaseModel):
    """What an answer would be now."""

    status: ReplayStatus = Field(
        description="`same`; `changed`, as the catalog may have; `bundle_removed`; or `not_repeatable`, as an answer "
        "of popular items is."
    )
    items: list[RecommendedItem] | None = Field(default=None, description="The items, if the answer has changed.")


class PastAnswer(BaseModel):
    """An answer that a session got."""

    recommendation_id: str = Field(
        description="Its id, or one that stands for it, for explanations and next pages.",
        examples=["0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e8d9e0f1a2b3c4d5e510800"],
    )
    made: datetime = Field(examples=["2026-11-22T09:30:00Z"])
    bundle: BundleDigest
    user_id: str | None = None
    scenario: str | None = None
    scenario_version: int | None = None
    variant: str | None = None
    options: dict[str, Any] = Field(description="The options that differed from their defaults.", examples=[{"k": 5}])
    session: list[str] = Field(description="The items that it is based on, oldest first.", examples=[["item-17"]])
    items: list[RecommendedItem] = Field(description="The items of all its pages, without attributes.")
    pages: int = Field(examples=[1])
    replay: ReplayedAnswer | None = Field(default=None, description="Of the first page, if that was asked for.")


class SessionHistory(BaseModel):
    """What is stored of a session, and the answers that it got."""

    key: SessionKey
    events: list[StoredEvent] = Field(description="The last events that entered the session, oldest first.")
    purchased: list[str] = Field(description="Purchased items, sorted by id.", examples=[[]])
    disliked: list[str] = Field(description="Hidden items, sorted by id.", examples=[["item-4"]])
    position: PositionToken
    answers: list[PastAnswer] = Field(
        description="The answers that are kept and whose bundle is at hand, newest first."
    )


class MergeBody(StrictModel):
    """The session to merge into."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"into": "user-7"}]})

    into: Id = Field(description="The session that receives all events, for example that of a visitor who logged in.")


class MergedSession(BaseModel):
    """The session that received the events."""

    session_id: str = Field(examples=["user-7"])
    applied: int = Field(description="Number of events that were moved.", examples=[2])
    position: PositionToken
