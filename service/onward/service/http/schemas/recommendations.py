"""Schemas of recommendations."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from onward.bundle import User
from onward.bundle.search.index import Strategy
from onward.bundle.search.retrieval import Rule
from onward.service.fields import EMPTY_LIST, Id, StrictModel
from onward.service.http.problems import Problem
from onward.service.http.schemas.base import BundleDigest, Count, Excluded, TimeoutMs, TookMs
from onward.service.http.schemas.entries import InvalidEntry, validated_alone
from onward.service.http.schemas.items import ListQuery, RecommendedItem
from onward.service.http.schemas.scenarios import SCENARIO_NAME
from onward.service.recommend.explanation import Explanation
from onward.service.recommend.options import ExcludeSeen, RecommendationOptions

MAX_ITEMS = 100
MAX_REQUESTS = 100

ScenarioReference = Annotated[
    str,
    Field(
        pattern=SCENARIO_NAME,
        description="Name of stored options to use; an option in the request overrides the stored one.",
        examples=["homepage"],
    ),
]
RequiredPosition = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        description="The `position` from the answer to an event: the session must have reached it, otherwise 409.",
        examples=["9f1c0a7be2d4-3"],
    ),
]
UserId = Annotated[
    Id | None,
    Field(
        description="The user whose session it is, by the id in the click log. A personalized encoder also uses what "
        "it learnt of the user; an encoder that uses sessions alone ignores this field."
    ),
]


_NO_SUBJECT: JsonDict = {
    "properties": {"session_id": {"type": "null"}, "user_id": {"type": "null"}, "items": {"maxItems": 0}},
}
_POSITION_ALONE: JsonDict = {
    "properties": {"position": {"type": "string"}, "session_id": {"type": "null"}},
    "required": ["position"],
}


class RecommendationQuery(RecommendationOptions):
    """A session, newest items, a user, or several of these; with a session, `items` are first appended to it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"session_id": "visitor-1", "items": ["item-17"], "k": 5},
                {"items": ["item-3", "item-17"], "k": 5, "exclude": ["item-4"], "exclude_seen": True},
                {"user_id": "user-7", "items": ["item-17"], "k": 5},
            ],
            # Generators make several classes of a schema with anyOf; they pass over `not`.
            "not": {"anyOf": [_NO_SUBJECT, _POSITION_ALONE]},
        }
    )

    session_id: Id | None = Field(default=None, description="The session to read, and to append `items` to.")
    items: list[Id] = Field(
        default=EMPTY_LIST, max_length=MAX_ITEMS, description="Items that the visitor just viewed, oldest first."
    )
    user_id: UserId = None
    exclude: Excluded = Field(default=EMPTY_LIST)
    scenario: ScenarioReference | None = None
    position: RequiredPosition | None = None
    timeout_ms: TimeoutMs = None
    store: bool = Field(
        default=True,
        description="Whether to store anything. false, for a visitor without consent: the session is read, but nothing "
        "is appended to it, and the answer is not recorded.",
    )
    dry_run: bool = Field(
        default=False, description="Store nothing, as with `store: false`, and include the explanation."
    )

    @model_validator(mode="after")
    def _require_subject(self) -> "RecommendationQuery":
        if self.session_id is None and self.user_id is None and not self.items:
            raise ValueError("give session_id, items, user_id or a combination")
        if self.position is not None and self.session_id is None:
            raise ValueError("a position belongs to a session: give session_id")
        return self


class SessionRecommendationQuery(ListQuery):
    """Query parameters of recommendations for a stored session."""

    user_id: UserId = None
    exclude_seen: ExcludeSeen = None
    scenario: ScenarioReference | None = None
    position: RequiredPosition | None = None


class NextQuery(StrictModel):
    """Options of a next page."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"k": 5}, {}]})

    k: int | None = Field(
        default=None, ge=1, le=100, description="Number of items; by default as many as the answer asked for."
    )
    timeout_ms: TimeoutMs = None


class EligibleItems(BaseModel):
    """How many items were eligible, and how they were searched."""

    eligible: int = Field(
        description="Number of items that may be shown: available, passing the filter and not excluded.", examples=[80]
    )
    strategy: Strategy | None = Field(
        default=None,
        description="How they were searched: with the index; with the index and a mask of ineligible items; with the "
        "index and a wider search; or by a scan of all eligible items. Absent if no vectors were compared.",
        examples=["index"],
    )


class ScenarioUsed(BaseModel):
    """The scenario whose options an answer used."""

    name: str = Field(examples=["homepage"])
    version: int = Field(examples=[3])


class Recommendations(BaseModel):
    """Recommended items, best first."""

    recommendation_id: str = Field(
        description="Id of this answer, to request its next page or explanation and to attribute events to it.",
        examples=["0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e8d9e0f1a2b3c4d5e510800"],
    )
    session_id: str | None = Field(default=None, examples=["visitor-1"])
    bundle: BundleDigest
    items: list[RecommendedItem]
    count: Count
    user: User | None = Field(
        default=None,
        description="Whether the encoder knows the user of `user_id`. known: what it learnt of the user is used; "
        "unknown: the session alone is used. Absent if no user is named or the encoder uses sessions alone.",
        examples=["known"],
    )
    filter: EligibleItems
    scenario: ScenarioUsed | None = Field(default=None, examples=[{"name": "homepage", "version": 3}])
    variant: str | None = Field(default=None, examples=["b"])
    not_pinned: dict[str, Rule] | None = Field(
        default=None, description="Pinned items that may not be shown, each with the reason."
    )
    position: str | None = Field(
        default=None, description="How far the session had advanced.", examples=["9f1c0a7be2d4-3"]
    )
    degraded: list[Literal["session_store", "deadline"]] = Field(
        description="What this answer was made without: the session store, or the time for more than popular or "
        "similar items.",
        examples=[[]],
    )
    unknown_item_ids: list[str] = Field(
        description="Items of the session that the catalog does not have.", examples=[[]]
    )
    explanation: Explanation | None = Field(default=None, description="Only with `dry_run`.")
    took_ms: TookMs


class RecommendationQueries(StrictModel):
    """Several queries, each of which succeeds or fails alone; those of one session are answered in order."""

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
    "recommendation_id": "0b1f7c1e2d3a4b5c8d9e0f1a2b3c4d5e8d9e0f1a2b3c4d5e510800",
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
    """The result of one query: an answer or a problem."""

    status: int = Field(description="HTTP status that the query would have had as a single request.", examples=[200])
    recommendations: Recommendations | None = None
    problem: Problem | None = None


class RecommendationResults(BaseModel):
    """The result of each query, in the order sent."""

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
