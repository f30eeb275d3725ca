"""Request and response bodies. Requests are strict: no unknown field, no number for a text, no text for a number."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from service.bundle import User, is_valid_id
from service.bundle.manifest import MAX_ID_LENGTH

MAX_K = 100
MAX_ITEMS = 100
MAX_EXCLUDED = 1_000
MAX_EVENTS = 1_000

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)

_DATE_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")


def _visible(value: str) -> str:
    if not is_valid_id(value):
        raise ValueError(f"an id is 1 to {MAX_ID_LENGTH} visible characters")
    return value


def _written_out(value: Any) -> Any:
    if isinstance(value, str) and _DATE_TIME.match(value):
        return value
    raise ValueError("a time is written by RFC 3339, as in 2026-11-22T09:30:00Z")


def _plausible(value: datetime) -> datetime:
    if not EARLIEST <= value <= datetime.now(UTC) + MAX_CLOCK_DIFFERENCE:
        raise ValueError("a time lies between 1990 and five minutes from now")
    return value


Id = Annotated[
    str,
    AfterValidator(_visible),
    Field(
        description=r"1 to 128 visible characters, `^[^\p{C}\p{Z}]{1,128}$`; compared byte for byte.",
        json_schema_extra={"minLength": 1, "maxLength": MAX_ID_LENGTH},
    ),
]
Timestamp = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written_out), AfterValidator(_plausible)]
K = Annotated[int, Field(ge=1, le=MAX_K, description="Number of items wanted.")]
Excluded = Annotated[list[Id], Field(max_length=MAX_EXCLUDED, description="Items not to return.")]
UserId = Annotated[
    Id | None,
    Field(
        description="Whose session it is, by the id in the click log. What the encoder learnt of the user counts too; "
        "an encoder that goes by sessions alone takes no notice."
    ),
]
ExcludeSeen = Annotated[
    bool | None, Field(description="Leave out the session's own items; the bundle decides where this is not given.")
]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class RecommendationQuery(_Request):
    """A session, the newest items of one, a user, or several of these; with a session the items are stored first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"session_id": "visitor-1", "items": ["item-17"], "k": 5},
                {"items": ["item-3", "item-17"], "k": 5, "exclude": ["item-4"], "exclude_seen": True},
                {"user_id": "user-7", "items": ["item-17"], "k": 5},
            ]
        }
    )

    session_id: Id | None = Field(default=None, description="The session to read, and to append `items` to.")
    items: list[Id] = Field(default=[], max_length=MAX_ITEMS, description="What the visitor just saw, oldest first.")
    user_id: UserId = None
    k: K = 20
    exclude: Excluded = []
    exclude_seen: ExcludeSeen = None

    @model_validator(mode="after")
    def _names_something(self) -> "RecommendationQuery":
        if self.session_id is None and self.user_id is None and not self.items:
            raise ValueError("give session_id, items, user_id or a combination")
        return self


class _QueryString(BaseModel):
    """A query string: every value arrives as a text, so numbers are read from texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ListQuery(_QueryString):
    """Options of every list of items."""

    k: K = 20
    exclude: Excluded = []


class SessionRecommendationQuery(ListQuery):
    """Options of a stored session's recommendations."""

    user_id: UserId = None
    exclude_seen: ExcludeSeen = None


class EventBody(_Request):
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


class EventsBody(_Request):
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


class RecommendedItem(BaseModel):
    """One item of an answer."""

    id: str = Field(examples=["item-42"])
    score: float = Field(description="Larger is better; comparable within one answer.", examples=[7.31])
    rank: int = Field(description="From 1.", examples=[1])
    source: Literal["encoder", "similar", "popular"] = Field(description="What brought the item.")
    interest: int | None = Field(default=None, description="Which of the session's interests brought it.", examples=[0])
    attributes: dict[str, Any] | None = Field(
        default=None, description="What the catalog knows of it.", examples=[{"title": "Blue mug", "price": 12.5}]
    )


BundleDigest = Annotated[
    str, Field(description="Digest of the bundle that answered.", examples=["5d13bce372cd0407de27cf50648fc2c7"])
]
Count = Annotated[int, Field(description="Number of items; fewer than k where fewer are eligible.", examples=[1])]
TookMs = Annotated[float, Field(description="Milliseconds from the request's start.", examples=[0.83])]


class ItemList(BaseModel):
    """Items, best first."""

    bundle: BundleDigest
    items: list[RecommendedItem]
    count: Count
    took_ms: TookMs


class Recommendations(BaseModel):
    """What is likely to come next, best first."""

    recommendation_id: str = Field(
        description="Names this answer in later events.", examples=["0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e"]
    )
    session_id: str | None = Field(default=None, examples=["visitor-1"])
    bundle: BundleDigest
    items: list[RecommendedItem]
    count: Count
    user: User | None = Field(
        default=None,
        description="Whether the encoder knows the user of `user_id`: known, what it learnt of the user counts; "
        "unknown, the session alone counts. Absent where no user is named or the encoder goes by sessions alone.",
        examples=["known"],
    )
    degraded: list[Literal["session_store"]] = Field(description="What the answer had to go without.", examples=[[]])
    unknown_item_ids: list[str] = Field(description="Items of the session that the catalog lacks.", examples=[[]])
    took_ms: TookMs


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


class Version(BaseModel):
    """What runs."""

    service: str = Field(examples=["0.1.0"])
    bundle: str | None = Field(default=None, description="Digest of the live bundle.", examples=["5d13bce372cd0407..."])
    model: str | None = Field(default=None, examples=["srgnn"])
    created: datetime | None = Field(default=None, description="When the bundle was exported.")
    items: int | None = Field(default=None, examples=[43097])
    metrics: dict[str, float] | None = Field(
        default=None,
        description="From training's validation, as the bundle's manifest explains; not of the index that serves.",
        examples=[{"recall@20": 0.5}],
    )


class RefusedBundle(BaseModel):
    """A bundle that must not serve."""

    bundle: str
    reason: str = Field(examples=["ids.txt: its SHA-256 is not the one in manifest.json"])


class Health(BaseModel):
    """The state of this process."""

    status: Literal["live", "ready"]
    bundle: str | None = Field(default=None, description="Digest of the live bundle.")
    refused: RefusedBundle | None = Field(default=None, description="The newest bundle, where it could not go live.")
