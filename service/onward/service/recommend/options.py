"""The options of a recommendation, from a request or a stored scenario."""

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
        raise PydanticCustomError("exclude_seen", "give true, false, purchased or last") from error


ExcludeSeen = Annotated[
    bool | Literal["purchased", "last"] | None,
    WrapValidator(_exclude_seen),
    Field(
        description="Exclude all items of the session, with `purchased` only the purchased ones, or with `last` only "
        "the last one; by default the bundle decides."
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
    filter: Filter | None = Field(default=None, description="Condition that every shown item must meet.")
    exclude_seen: ExcludeSeen = None
    diversity: float = Field(
        default=0.0, ge=0, le=1, description="Weight of the difference between items against their scores, from 0 to 1."
    )
    diversity_by: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Attribute in which items should differ; by default `category`, or the items' vectors if none "
        "has a category.",
        examples=["category"],
    )
    exact: bool = Field(
        default=False, description="Compare with every item instead of using the index: slower, but exact."
    )
    boost: list[BoostBody] = Field(default=EMPTY_LIST, max_length=MAX_BOOSTS)
    pin: list[PinBody] = Field(default=EMPTY_LIST, max_length=MAX_PINS)
    variant: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="The arm of an experiment that this answer belongs to; online metrics can be grouped by it.",
        examples=["b"],
    )

    @model_validator(mode="after")
    def _require_distinct_pins(self) -> Self:
        if self.pin and not self._pins_are_distinct():
            raise PydanticCustomError("pins", "pins are of different items at different positions")
        return self

    def over(self, scenario: "RecommendationOptions") -> "RecommendationOptions":
        """Return a scenario's options, overridden by those that are set here, each as a whole."""
        overrides = {name: getattr(self, name) for name in OPTIONS if name in self.model_fields_set}
        return scenario.model_copy(update=overrides)

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

    def as_json(self) -> dict[str, Any]:
        """Return the options that were set, as JSON values."""
        names = self.model_fields_set & OPTIONS
        if names <= PLAIN_OPTIONS:
            return {name: getattr(self, name) for name in names}
        return self.model_dump(mode="json", include=names, by_alias=True)

    def _pins_are_distinct(self) -> bool:
        items, positions = {pin.id for pin in self.pin}, {pin.position for pin in self.pin}
        return len(items) == len(positions) == len(self.pin)


@cache
def _plain_options(k: int) -> Options:
    return Options(k)


OPTIONS = frozenset(RecommendationOptions.model_fields)
OPTIONS_BESIDE_K = OPTIONS - {"k"}
PLAIN_OPTIONS = OPTIONS - {"filter", "boost", "pin"}
"""Options whose values are JSON values without conversion."""
