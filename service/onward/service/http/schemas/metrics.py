"""Bodies of online metrics."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema

from onward.service.duration import Duration
from onward.service.http.schemas.base import QueryString
from onward.service.records.online_metrics import LONGEST_WINDOW, SHORTEST_WINDOW, Dimension

DIMENSIONS = get_args(Dimension)
_ONE = f"({'|'.join(DIMENSIONS)})"
_PATTERN = f"^{_ONE}(,{_ONE}){{0,{len(DIMENSIONS) - 1}}}$"


def _dimensions(value: str) -> str:
    named = value.split(",")
    if len(named) > len(DIMENSIONS) or not {*named} <= {*DIMENSIONS}:
        raise ValueError("give scenario, bundle, variant or several of them, comma between")
    return value


def _in_reach(value: timedelta) -> timedelta:
    if not SHORTEST_WINDOW <= value <= LONGEST_WINDOW:
        raise ValueError("a window is 1 minute to 30 days long")
    return value


_Window = Annotated[
    Duration,
    AfterValidator(_in_reach),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "duration"},
                {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,6})?$"},
            ],
            "examples": ["PT1H", "3600"],
        }
    ),
]


class OnlineMetricsQuery(QueryString):
    """Over which time, and told apart by what."""

    window: _Window = Field(
        default=timedelta(hours=1),
        description="How far back, from 1 minute to 30 days, by ISO 8601 or in seconds.",
    )
    by: Annotated[str, AfterValidator(_dimensions), Field(json_schema_extra={"pattern": _PATTERN})] | None = Field(
        default=None,
        description="Tell answers apart by these, comma between: scenario, bundle, variant.",
        examples=["scenario,variant"],
    )


class AnswerOutcome(BaseModel):
    """What became of the answers of one kind."""

    scenario: str | None = Field(default=None, description="Where asked for by it; empty for none.", examples=["home"])
    bundle: str | None = Field(default=None, description="Where asked for by it: the bundle's digest.")
    variant: str | None = Field(default=None, description="Where asked for by it; empty for none.", examples=["b"])
    answers: int = Field(examples=[1200])
    impressions: int = Field(description="Items that the answers held.", examples=[24000])
    clicks: int = Field(description="Events of type view that the answers led to.", examples=[360])
    carts: int = Field(examples=[48])
    purchases: int = Field(examples=[12])
    others: dict[str, int] = Field(description="Events of other types that they led to.", examples=[{"like": 7}])
    values: dict[str, float] = Field(description="Sum of the events' `value`, by type.", examples=[{"purchase": 263.5}])
    click_through_rate: float | None = Field(
        default=None, description="Clicks for each impression; absent without impressions.", examples=[0.015]
    )
    conversion_rate: float | None = Field(
        default=None, description="Purchases for each click; absent without clicks.", examples=[0.033]
    )


class OnlineMetricsReport(BaseModel):
    """What became of the answers of a time, over all workers and replicas; some seconds behind."""

    since: datetime = Field(
        description="Start of the first minute, or of the first hour in more than two hours.",
        examples=["2026-11-22T09:30:00Z"],
    )
    resolution: Literal["minute", "hour"]
    outcomes: list[AnswerOutcome] = Field(description="Most answers first; one where nothing tells them apart.")
    unattributed: int = Field(
        description="Events with a `recommendation_id` of which the answer is kept no longer, or did not hold the "
        "item, or had been counted with an event of this type before.",
        examples=[3],
    )
