"""Bodies of recommendations."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.bundle import User
from service.schemas.base import BundleDigest, Count, Excluded, Id, K, RequestBody, TookMs
from service.schemas.items import ListQuery, RecommendedItem

MAX_ITEMS = 100

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


class RecommendationQuery(RequestBody):
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
    exclude: Excluded = Field(default=[])
    exclude_seen: ExcludeSeen = None

    @model_validator(mode="after")
    def _names_something(self) -> "RecommendationQuery":
        if self.session_id is None and self.user_id is None and not self.items:
            raise ValueError("give session_id, items, user_id or a combination")
        return self


class SessionRecommendationQuery(ListQuery):
    """Options of a stored session's recommendations."""

    user_id: UserId = None
    exclude_seen: ExcludeSeen = None


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
