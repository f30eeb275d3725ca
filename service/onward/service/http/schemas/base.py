"""What the bodies of several endpoints are made of."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)

from onward.bundle import is_valid_id
from onward.bundle.files.manifest import MAX_ID_LENGTH
from onward.service.errors import Fault, InvalidRequest, ServiceError, faults_of

MAX_K = 100
MAX_EXCLUDED = 1_000

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
NONE_GIVEN: Any = ()
"""An absent list; as a list it would be copied for every request."""
VISIBLE = "visible-characters"  # no pattern: few languages' regular expressions know these classes
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
        json_schema_extra={"minLength": 1, "maxLength": MAX_ID_LENGTH, "format": VISIBLE},
    ),
]
Timestamp = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_written_out), AfterValidator(_plausible)]
K = Annotated[int, Field(ge=1, le=MAX_K, description="Number of items wanted.")]
Excluded = Annotated[list[Id], Field(max_length=MAX_EXCLUDED, description="Items not to return.")]


class RequestBody(BaseModel):
    """A body in JSON: every value has its own type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class QueryString(BaseModel):
    """A query string: every value arrives as a text, so numbers are read from texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


BundleDigest = Annotated[
    str, Field(description="Digest of the bundle that answered.", examples=["5d13bce372cd0407de27cf50648fc2c7"])
]
Count = Annotated[int, Field(description="Number of items; fewer than k where fewer are eligible.", examples=[1])]
TookMs = Annotated[float, Field(description="Milliseconds from the request's start.", examples=[0.83])]


class UnusableEntry(BaseModel):
    """What stands in a list for an entry that breaks its schema."""

    found: list[Any]
    """What is wrong with it, without what was sent."""

    def refusal(self, what: str, *place: str | int) -> InvalidRequest:
        """Say what is wrong with the entry, `what` it is, at its place in the request."""
        return InvalidRequest.of(faults_of(self.found, *place), what)


def by_itself(model: type[BaseModel]) -> PlainValidator:
    """Read an entry of a list as `model`, or as an UnusableEntry, so that one does not spoil the others."""

    def validate(sent: Any) -> BaseModel:
        try:
            return model.model_validate(sent)
        except ValidationError as error:
            return UnusableEntry(found=error.errors(include_url=False, include_input=False))

    return PlainValidator(validate, json_schema_input_type=model)


class EntryProblem(BaseModel):
    """Why an entry of a list was not taken."""

    code: str = Field(examples=["invalid_request"])
    detail: str = Field(examples=["The entry breaks the schema in 1 place."])
    errors: list[Fault] | None = Field(
        default=None, examples=[[{"at": "body.events.1.item_id", "message": "Field required"}]]
    )

    @classmethod
    def of(cls, error: ServiceError) -> Self:
        """Describe an error."""
        faults = list(error.faults) if isinstance(error, InvalidRequest) else []
        return cls(code=error.code, detail=error.detail, errors=faults or None)
