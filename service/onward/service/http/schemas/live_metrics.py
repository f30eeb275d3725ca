"""Schemas of the figures of operation, of recall and of exposure."""

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema

from onward.service.duration import Duration
from onward.service.http.schemas.base import BundleDigest, Cursor, Limit, NextCursor, QueryString
from onward.service.http.schemas.catalog import Item

LONGEST_WINDOW = timedelta(minutes=1)


def _require_supported(value: timedelta) -> timedelta:
    if not timedelta(seconds=1) <= value <= LONGEST_WINDOW:
        raise ValueError("a window is 1 to 60 seconds long")
    return value


Rates = Annotated[dict[str, float], Field(description="In a second; without zeros.", examples=[{"200": 812.4}])]
Milliseconds = Annotated[
    float | None, Field(description="Milliseconds; absent if nothing was measured.", examples=[3.1])
]
Window = Annotated[
    Duration,
    AfterValidator(_require_supported),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,2}(\.[0-9]{1,3})?$", "examples": ["10"]}),
]


class LiveMetricsQuery(QueryString):
    """How far back to look."""

    window: Window = Field(
        default=timedelta(seconds=10), description="Length of the window that ends now, 1 to 60 seconds."
    )


class Recall(BaseModel):
    """Share of the items of exact searches that the answers of the live bundle had, on the answers compared."""

    answers: int = Field(description="Answers that were compared since the workers started.", examples=[214])
    value: float | None = Field(default=None, description="Absent if none was compared.", examples=[0.994])
    low: float = Field(description="Lower end of the 95 % confidence interval, which counts answers.", examples=[0.972])
    high: float = Field(description="Upper end of it.", examples=[0.999])


class StoreFigures(BaseModel):
    """Calls of the session store."""

    calls: float = Field(description="In a second.", examples=[810.2])
    p50_ms: Milliseconds = None
    p99_ms: Milliseconds = None
    failures: Rates


class WorkerFigures(BaseModel):
    """What a worker, or all workers together, did in the window."""

    requests: float = Field(description="Requests answered in a second.", examples=[812.4])
    statuses: Rates
    p50_ms: Milliseconds = None
    p95_ms: Milliseconds = None
    p99_ms: Milliseconds = None
    refused: Rates = Field(description="Requests refused in a second, by code, without zeros.", examples=[{}])
    degraded: Rates = Field(description="Answers in a second that were made without something, by what.", examples=[{}])
    store: StoreFigures
    recall: Recall


class OneWorker(WorkerFigures):
    """What one worker did in the window."""

    pid: int = Field(description="Its process id.", examples=[4711])


class RouteFigures(BaseModel):
    """Requests of one route, over all workers."""

    method: str = Field(examples=["POST"])
    route: str = Field(examples=["/v1/recommendations"])
    requests: float = Field(description="In a second.", examples=[700.1])
    p50_ms: Milliseconds = None
    p95_ms: Milliseconds = None
    p99_ms: Milliseconds = None


class LiveMetrics(BaseModel):
    """Figures of operation of the workers that share this address, between two readings of their metrics.

    Percentiles are linear within the buckets of the metrics and leave out the routes of operation.
    """

    seconds: float = Field(
        description="Length of the window; another than asked for if no reading fits.", examples=[10.0]
    )
    bundle: str | None = Field(default=None, description="Digest of the live bundle.", examples=["5d13bce372cd0407..."])
    total: WorkerFigures
    workers: list[OneWorker]
    routes: list[RouteFigures] = Field(description="The busiest first.")
    store_misconfigured: str | None = Field(default=None, description="Why the store refuses the service.")


class Tenth(BaseModel):
    """A tenth of the items, by popularity in training."""

    items: int = Field(description="Items that may be shown.", examples=[102])
    shown: int = Field(description="Those of them that were ever shown.", examples=[97])
    impressions: int = Field(
        description="How often they were shown; under load of a sample of answers.", examples=[5210]
    )


class Exposure(BaseModel):
    """Which items of the live bundle answers have shown since it first answered."""

    bundle: BundleDigest
    items: int = Field(description="Items of the bundle that may be shown.", examples=[1024])
    shown: int = Field(description="Those of them that were ever shown.", examples=[930])
    coverage: float = Field(description="`shown` / `items`.", examples=[0.908])
    tenths: list[Tenth] = Field(description="The most popular tenth first.")


class DataBar(BaseModel):
    """One bar of a chart."""

    label: str = Field(examples=["2026-11-22"])
    value: float = Field(examples=[5210.0])


class DataPart(BaseModel):
    """The size of a part of the dataset."""

    events: int = Field(examples=[48000])
    sessions: int = Field(examples=[9000])
    items: int = Field(examples=[1022])
    examples: int = Field(examples=[39000])


class BundleData(BaseModel):
    """The dataset that a bundle was trained on, in figures; shares are from 0 to 1."""

    bundle: BundleDigest
    prepared: datetime = Field(examples=["2026-11-22T09:30:00Z"])
    fingerprint: str = Field(description="Of the dataset.", examples=["0f1e2d3c4b5a"])
    rows: list[str] = Field(description="Where every row went.", examples=[["kept: 60,000 of 60,000 events"]])
    parts: dict[str, DataPart] = Field(
        examples=[{"train": {"events": 48000, "sessions": 9000, "items": 1022, "examples": 39000}}]
    )
    session_lengths: list[DataBar] = Field(description="Sessions by their number of events.")
    events_by_day: list[DataBar] = Field(description="Empty if the log had no times.")
    popularity: list[DataBar] = Field(
        description="Share of the events on each twentieth of the items, the most popular first."
    )
    repeated: float = Field(description="Share of events on an item that the session has had already.", examples=[0.12])
    same_as_before: float = Field(description="Share of events on the same item as the one before.", examples=[0.03])
    unknown_in_test: float | None = Field(
        default=None, description="Share of the test events of items that training never saw.", examples=[0.01]
    )
    drift: float | None = Field(
        default=None, description="Difference of the popularities of test and training, from 0 to 1.", examples=[0.2]
    )
    known_now: float | None = Field(
        default=None,
        description="Of the live bundle: share of the weight of recent events, among the most popular items now, that "
        "is on items that it was trained on.",
        examples=[0.97],
    )


class UnseenQuery(QueryString):
    """Which page of the items to list."""

    cursor: Cursor = None
    limit: Limit = 20


class UnseenItems(BaseModel):
    """Items of the live bundle that may be shown and never were, the most popular first."""

    bundle: BundleDigest
    items: list[Item]
    count: int = Field(description="Number of all such items.", examples=[94])
    next_cursor: NextCursor = None
