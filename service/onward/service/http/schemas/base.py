"""Field types and base classes that the schemas of several endpoints share."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from onward.service.fields import Id

MAX_EXCLUDED = 1_000
MAX_LISTED = 100
MAX_CURSOR = 1_000

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)

_DATE_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")


def _require_rfc_3339(value: Any) -> Any:
    if isinstance(value, str) and _DATE_TIME.match(value):
        return value
    raise ValueError("write a time in RFC 3339 format, as in 2026-11-22T09:30:00Z")


def _require_plausible(value: datetime) -> datetime:
    if not EARLIEST <= value <= datetime.now(UTC) + MAX_CLOCK_DIFFERENCE:
        raise ValueError("a time must lie between 1990 and five minutes from now")
    return value


Timestamp = Annotated[
    AwareDatetime, Field(strict=False), BeforeValidator(_require_rfc_3339), AfterValidator(_require_plausible)
]
Excluded = Annotated[list[Id], Field(max_length=MAX_EXCLUDED, description="Items not to return.")]


class QueryString(BaseModel):
    """A query string, in which every value arrives as text: numbers are parsed from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


BundleDigest = Annotated[
    str, Field(description="Digest of the bundle that answered.", examples=["5d13bce372cd0407de27cf50648fc2c7"])
]
Count = Annotated[int, Field(description="Number of items; fewer than k if fewer are eligible.", examples=[1])]
Cursor = Annotated[
    str | None,
    Field(
        min_length=1, max_length=MAX_CURSOR, description="`next_cursor` of the page before; by default the first page."
    ),
]
NextCursor = Annotated[
    str | None,
    Field(description="The cursor of the next page; absent on the last page.", examples=["WyI1ZDEzYiIsMjBd"]),
]
Limit = Annotated[int, Field(ge=1, le=MAX_LISTED, description="The most entries of a page.", examples=[20])]
TookMs = Annotated[float, Field(description="Milliseconds from the request's start.", examples=[0.83])]
TimeoutMs = Annotated[
    int | None,
    Field(
        ge=1,
        le=60_000,
        description="Milliseconds from the arrival of the request within which to answer, by default as the deployment "
        "sets. After it, the answer is what is ready: popular or similar items, with `deadline` in `degraded`.",
        examples=[50],
    ),
]
