"""Schemas of online metrics."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema

from onward.service.duration import Duration
from onward.service.http.schemas.base import QueryString
from onward.service.records.online_metrics import LONGEST_WINDOW, SHORTEST_WINDOW, Dimension

DIMENSIONS = get_args(Dimension)
_DIMENSION = f"({'|'.join(DIMENSIONS)})"
_PATTERN = f"^{_DIMENSION}(,{_DIMENSION}){{0,{len(DIMENSIONS) - 1}}}$"


def _require_dimensions(value: str) -> str:
    names = value.split(",")
    if len(names) > len(DIMENSIONS) or not {*names} <= {*DIMENSIONS}:
        raise ValueError("give scenario, bundle, variant or several of them, separated by commas")
    return value


def _require_supported(value: timedelta) -> timedelta:
    if not SHORTEST_WINDOW <= value <= LONGEST_WINDOW:
        raise ValueError("a window is 1 minute to 30 days long")
    return value


_Window = Annotated[
    Duration,
    AfterValidator(_require_supported),
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
    """The window to report on and the dimensions to group by."""

    window: _Window = Field(
        default=timedelta(hours=1),
        description="Length of the window that ends now, from 1 minute to 30 days, in ISO 8601 format or in seconds.",
    )
    by: Annotated[str, AfterValidator(_require_dimensions), Field(json_schema_extra={"pattern": _PATTERN})] | None = (
        Field(
            default=None,
            description="Group answers by these, separated by commas: scenario, bundle, variant.",
            examples=["scenario,variant"],
        )
    )


class AnswerOutcome(BaseModel):
    """The events that one group of answers led to."""

    scenario: str | None = Field(
        default=None, description="If grouped by scenario; empty for answers without one.", examples=["home"]
    )
    bundle: str | None = Field(default=None, description="If grouped by bundle: its digest.")
    variant: str | None = Field(
        default=None, description="If grouped by variant; empty for answers without one.", examples=["b"]
    )
    answers: int = Field(examples=[1200])
    impressions: int = Field(description="Number of items in the answers.", examples=[24000])
    clicks: int = Field(description="Events of type view attributed to the answers.", examples=[360])
    carts: int = Field(examples=[48])
    purchases: int = Field(examples=[12])
    others: dict[str, int] = Field(description="Attributed events of other types, by type.", examples=[{"like": 7}])
    values: dict[str, float] = Field(
        description="Sum of the attributed events' `value`, by type.", examples=[{"purchase": 263.5}]
    )
    click_through_rate: float | None = Field(
        default=None, description="Clicks per impression; absent if there are no impressions.", examples=[0.015]
    )
    conversion_rate: float | None = Field(
        default=None, description="Purchases per click; absent if there are no clicks.", examples=[0.033]
    )


class OnlineMetricsReport(BaseModel):
    """The events that answers of a time window led to, summed over all workers and replicas; lags some seconds."""

    since: datetime = Field(
        description="Start of the first minute, or of the first hour if the window is longer than two hours.",
        examples=["2026-11-22T09:30:00Z"],
    )
    resolution: Literal["minute", "hour"]
    outcomes: list[AnswerOutcome] = Field(
        description="One per group, most answers first; a single one if answers are not grouped."
    )
    unattributed: int = Field(
        description="Events with a `recommendation_id` whose answer has expired, does not contain the item, or was "
        "already credited with an event of this item and type.",
        examples=[3],
    )
