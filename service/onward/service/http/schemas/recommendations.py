"""Bodies of recommendations."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from onward.bundle import User
from onward.bundle.search.index import Strategy
from onward.bundle.search.retrieval import Rule
from onward.service.fields import EMPTY_LIST, Id, StrictModel
from onward.service.http.problems import Problem
from onward.service.http.schemas.base import BundleDigest, Count, Excluded, TookMs
from onward.service.http.schemas.entries import InvalidEntry, validated_alone
from onward.service.http.schemas.items import ListQuery, RecommendedItem
from onward.service.recommend.explanation import Explanation
from onward.service.recommend.options import ExcludeSeen, RecommendationOptions

MAX_ITEMS = 100
MAX_REQUESTS = 100

ScenarioName = Annotated[
    str,
    Field(
        pattern=r"^[a-z][a-z0-9_-]{0,63}$",
        description="Named options to go by; what is given beside them stands in their place.",
        examples=["homepage"],
    ),
]
Position = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        description="The `position` of an event's answer: the session must have come at least so far (409).",
        examples=["9f1c0a7be2d4-3"],
    ),
]
UserId = Annotated[
    Id | None,
    Field(
        description="Whose session it is, by the id in the click log. What the encoder learnt of the user counts too; "
        "an encoder that goes by sessions alone takes no notice."
    ),
]


def _gives(name: str, **value: Any) -> dict[str, Any]:
    return {"required": [name], "properties": {name: value}}


_GIVES_SESSION = _gives("session_id", type="string")


class RecommendationQuery(RecommendationOptions):
    """A session, the newest items of one, a user, or several of these; with a session the items are stored first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"session_id": "visitor-1", "items": ["item-17"], "k": 5},
                {"items": ["item-3", "item-17"], "k": 5, "exclude": ["item-4"], "exclude_seen": True},
                {"user_id": "user-7", "items": ["item-17"], "k": 5},
            ],
            "anyOf": [_GIVES_SESSION, _gives("user_id", type="string"), _gives("items", minItems=1)],
            "if": _gives("position", type="string"),
            "then": _GIVES_SESSION,
        }
    )

    session_id: Id | None = Field(default=None, description="The session to read, and to append `items` to.")
    items: list[Id] = Field(
        default=EMPTY_LIST, max_length=MAX_ITEMS, description="What the visitor just saw, oldest first."
    )
    user_id: UserId = None
    exclude: Excluded = Field(default=EMPTY_LIST)
    scenario: ScenarioName | None = None
    position: Position | None = None
    store: bool = Field(
        default=True,
        description="Keep what this call tells. Without consent, false: the session is read, but nothing is appended "
        "to it, and no record of the answer is kept.",
    )
    dry_run: bool = Field(default=False, description="Keep nothing, as `store: false`, and explain the answer.")

    @model_validator(mode="after")
    def _names_something(self) -> "RecommendationQuery":
        if self.session_id is None and self.user_id is None and not self.items:
            raise ValueError("give session_id, items, user_id or a combination")
        if self.position is not None and self.session_id is None:
            raise ValueError("a position is one of a session: give session_id")
        return self


class SessionRecommendationQuery(ListQuery):
    """Options of a stored session's recommendations."""

    user_id: UserId = None
    exclude_seen: ExcludeSeen = None
    scenario: ScenarioName | None = None
    position: Position | None = None


class NextQuery(StrictModel):
    """How much more of an answer is wanted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"k": 5}, {}]})

    k: int | None = Field(default=None, ge=1, le=100, description="Number of items; as many as before by default.")


class EligibleItems(BaseModel):
    """What the items were chosen from."""

    eligible: int = Field(description="Items that might be shown: available, let through, not excluded.", examples=[80])
    strategy: Strategy | None = Field(
        default=None,
        description="How they were searched: by the index; by the index, of which a part is masked, or with a wider "
        "look; or by a scan of all that are eligible. Absent where no vectors were compared.",
        examples=["index"],
    )


class ScenarioUsed(BaseModel):
    """The named options that an answer went by."""

    name: str = Field(examples=["homepage"])
    version: int = Field(examples=[3])


class Recommendations(BaseModel):
    """What is likely to come next, best first."""

    recommendation_id: str = Field(
        description="Names this answer in later events, its next page and its explanation.",
        examples=["0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e8d9e0f1a2b3c4d5e"],
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
    filter: EligibleItems
    scenario: ScenarioUsed | None = Field(default=None, examples=[{"name": "homepage", "version": 3}])
    variant: str | None = Field(default=None, examples=["b"])
    not_pinned: dict[str, Rule] | None = Field(
        default=None, description="Items that were to be pinned but must not be shown, and why."
    )
    position: str | None = Field(default=None, description="How far the session had come.", examples=["9f1c0a7be2d4-3"])
    degraded: list[Literal["session_store"]] = Field(description="What the answer had to go without.", examples=[[]])
    unknown_item_ids: list[str] = Field(description="Items of the session that the catalog lacks.", examples=[[]])
    explanation: Explanation | None = Field(default=None, description="Where `dry_run` asked for it.")
    took_ms: TookMs


class RecommendationQueries(StrictModel):
    """Several queries, of which each succeeds or fails by itself; those of one session are answered in order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"requests": [{"session_id": "visitor-1", "k": 5}, {"items": ["item-17"], "k": 5}]}]
        }
    )

    requests: list[
        Annotated[
            RecommendationQuery | InvalidEntry,
            validated_alone(RecommendationQuery),
        ]
    ] = Field(min_length=1, max_length=MAX_REQUESTS)


_EXAMPLE: JsonDict = {
    "recommendation_id": "0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e8d9e0f1a2b3c4d5e",
    "session_id": "visitor-1",
    "bundle": "5d13bce372cd0407de27cf50648fc2c7",
    "items": [{"id": "item-42", "score": 7.31, "rank": 1, "source": "encoder", "interest": 0}],
    "count": 1,
    "filter": {"eligible": 80, "strategy": "index"},
    "position": "9f1c0a7be2d4-3",
    "degraded": [],
    "unknown_item_ids": [],
    "took_ms": 0.83,
}


class RecommendationResult(BaseModel):
    """What became of one query: an answer or a problem."""

    status: int = Field(description="What the query would have been answered with by itself.", examples=[200])
    recommendations: Recommendations | None = None
    problem: Problem | None = None


class RecommendationResults(BaseModel):
    """What became of each query, in the order sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [{"status": 200, "recommendations": _EXAMPLE}],
                    "succeeded": 1,
                    "failed": 0,
                    "took_ms": 0.83,
                },
                {
                    "results": [
                        {"status": 200, "recommendations": _EXAMPLE},
                        {
                            "status": 422,
                            "problem": {
                                "type": "/problems/scenario_not_found",
                                "title": "Scenario not found",
                                "status": 422,
                                "detail": "No scenario of this name is stored.",
                                "code": "scenario_not_found",
                            },
                        },
                    ],
                    "succeeded": 1,
                    "failed": 1,
                    "took_ms": 0.83,
                },
            ]
        }
    )

    results: list[RecommendationResult]
    succeeded: int = Field(examples=[2])
    failed: int = Field(examples=[0])
    took_ms: TookMs
