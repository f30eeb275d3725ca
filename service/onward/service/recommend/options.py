"""The options of a recommendation, given by a request or stored as a scenario."""

from collections.abc import Collection, Iterator
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from onward.bundle.catalog.filters import Filter, FilterFault
from onward.bundle.files.attributes import Schema
from onward.bundle.search.retrieval import LARGEST_FACTOR, LEAST_FACTOR, MAX_BOOSTS, Boost, Options, Pin
from onward.service.errors import Fault, InvalidRequest
from onward.service.fields import EMPTY_LIST, MAX_K, Id, K, StrictModel

MAX_PINS = 20


def _exclude_seen(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """Report one error, not one for each type that the value may have."""
    try:
        return read(value)
    except ValidationError as error:
        raise PydanticCustomError("exclude_seen", "give true, false or purchased") from error


ExcludeSeen = Annotated[
    bool | Literal["purchased"] | None,
    WrapValidator(_exclude_seen),
    Field(
        description="Leave out the session's own items, or with `purchased` only those that it bought; the bundle "
        "decides if this is not given."
    ),
]


class BoostBody(StrictModel):
    """Rank the items that pass a filter as if the encoder predicted them `factor` times as likely."""

    filter: Filter
    factor: float = Field(ge=LEAST_FACTOR, le=LARGEST_FACTOR, examples=[2.0])


class PinBody(StrictModel):
    """Show an item at a position, if it may be shown at all."""

    id: Id
    position: int = Field(ge=1, le=MAX_K, description="From 1, at most k.")


class RecommendationOptions(StrictModel):
    """Which items to show, and in which order."""

    k: K = 20
    filter: Filter | None = Field(default=None, description="What every shown item passes.")
    exclude_seen: ExcludeSeen = None
    diversity: float = Field(default=0.0, ge=0, le=1, description="How much it counts that the items differ.")
    diversity_by: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="The attribute in which they are to differ; `category`, or what the encoder knows of them.",
        examples=["category"],
    )
    exact: bool = Field(
        default=False, description="Compare with every item instead of asking the index: slower, and misses nothing."
    )
    boost: list[BoostBody] = Field(default=EMPTY_LIST, max_length=MAX_BOOSTS)
    pin: list[PinBody] = Field(default=EMPTY_LIST, max_length=MAX_PINS)
    variant: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="The arm of an experiment that this answer belongs to; online metrics are kept by it.",
        examples=["b"],
    )

    @model_validator(mode="after")
    def _pins_stand_apart(self) -> Self:
        if self.pin and not self._pins_are_apart():
            raise PydanticCustomError("pins", "pins are of different items at different positions")
        return self

    def over(self, scenario: "RecommendationOptions") -> "RecommendationOptions":
        """Return a scenario's options, overridden by those that are set here, each as a whole."""
        own = {name: getattr(self, name) for name in OPTIONS if name in self.model_fields_set}
        return scenario.model_copy(update=own)

    @property
    def uses_attributes(self) -> bool:
        """Whether an option names an attribute, which a catalog may lack."""
        return self.filter is not None or bool(self.boost) or self.diversity_by is not None

    def faults(self, schema: Schema) -> Iterator[FilterFault]:
        """Yield what does not fit a catalog of this schema, with its location in the options."""
        if self.filter is not None:
            yield from (fault.within("filter") for fault in self.filter.check(schema))
        for number, boost in enumerate(self.boost):
            yield from (fault.within("boost", number, "filter") for fault in boost.filter.check(schema))
        if self.diversity_by is not None and self.diversity_by not in schema:
            yield FilterFault(("diversity_by",), "no item of the catalog has this attribute")

    def refusal(self, schema: Schema, *location: str | int) -> InvalidRequest | None:
        """Return the error for options that do not fit a catalog of this schema, None if they fit."""
        faults = [
            Fault(at=".".join(map(str, (*location, *fault.path))), message=fault.message)
            for fault in self.faults(schema)
        ]
        return InvalidRequest.of(faults) if faults else None

    def as_options(self, *, exclude: Collection[str] = ()) -> Options:
        """Return the options in the form that a bundle takes; pins beyond k are left out."""
        if not exclude and self.model_fields_set.isdisjoint(OPTIONS_BESIDE_K):
            return _plain_options(self.k)
        return Options(
            k=self.k,
            exclude=exclude,
            exclude_seen=self.exclude_seen,
            filter=self.filter,
            diversity=self.diversity,
            diversity_by=self.diversity_by,
            boosts=tuple([Boost(boost.filter, boost.factor) for boost in self.boost]),
            exact=self.exact,
            pins=tuple([Pin(pin.id, pin.position) for pin in self.pin if pin.position <= self.k]),
        )

    def given(self) -> dict[str, Any]:
        """Return the options that were set, as JSON values."""
        given = self.model_fields_set & OPTIONS
        if given <= PLAIN_OPTIONS:
            return {name: getattr(self, name) for name in given}
        return self.model_dump(mode="json", include=given, by_alias=True)

    def _pins_are_apart(self) -> bool:
        items, positions = {pin.id for pin in self.pin}, {pin.position for pin in self.pin}
        return len(items) == len(positions) == len(self.pin)


@cache
def _plain_options(k: int) -> Options:
    return Options(k)


OPTIONS = frozenset(RecommendationOptions.model_fields)
OPTIONS_BESIDE_K = OPTIONS - {"k"}
PLAIN_OPTIONS = OPTIONS - {"filter", "boost", "pin"}
"""Those whose values are JSON values as they are."""
