"""Filters: a small tree of conditions on item attributes.

{"and": [{"attribute": "price", "range": {"max": 20}}, {"not": {"attribute": "brand", "in": ["Acme", "Apex"]}}]}

A comparison is false for an item that lacks the attribute or whose value is not of the schema's kind; `not` of that
comparison is then true. Dimension key: R items of a table, V values of an attribute.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from onward.bundle.files.attributes import Column, Kind, Schema, Table, comparable

MAX_DEPTH = 8
MAX_NODES = 100
"""Conditions in a filter, at all levels of nesting."""
MAX_BRANCHES = 20
MAX_VALUES = 100
MAX_TEXT = 1_000
MAX_NAMES_LISTED = 20

_KINDS: dict[Kind, str] = {
    "number": "a number",
    "string": "a string",
    "strings": "a list of strings",
    "boolean": "true or false",
    "date": "a date",
    "mixed": "of mixed kinds",
}
_OPERANDS: dict[Kind, str] = {**_KINDS, "strings": "a string", "date": "a date or time by RFC 3339"}
_ORDERED: tuple[Kind, ...] = ("number", "date")
_BOUNDS: Mapping[str, Callable[[Any, Any], Any]] = {
    "min": operator.ge,
    "max": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}


def _described_as(expected: str) -> WrapValidator:
    """Replace pydantic's errors, one for each type of a union, by a single message."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("filter_value", "expected {expected}", {"expected": expected}) from error

    return WrapValidator(validate)


_Text = Annotated[str, Field(max_length=MAX_TEXT)]
AttributeName = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, description="An attribute of the catalog.")]
Value = Annotated[
    bool | float | _Text,
    Field(description="A value of the attribute's kind; a date as text by RFC 3339."),
    _described_as(f"true, false, a finite number or a text of at most {MAX_TEXT} characters"),
]
Bound = Annotated[
    float | _Text,
    Field(description="A number, or a date as text by RFC 3339."),
    _described_as("a finite number, or a date as text by RFC 3339"),
]


@dataclass(frozen=True, slots=True)
class FilterFault:
    """A condition that a catalog cannot evaluate: its path in the filter, and the reason."""

    path: tuple[str | int, ...]
    message: str

    def within(self, *path: str | int) -> "FilterFault":
        """Return the same fault with `path` put before its own path."""
        return FilterFault((*path, *self.path), self.message)


_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)


class _Node(BaseModel):
    """Base of all conditions, which are the nodes of the tree."""

    model_config = _STRICT


def _parsed(value: Any, handler: Callable[[Any], Any]) -> Any:
    """Validate a condition as the class that its keys determine, so that errors mention no other class."""
    if isinstance(value, _Node):
        return value
    for name, condition in _CONDITIONS.items():
        if isinstance(value, dict) and name in value:
            return condition.model_validate(value)
    raise PydanticCustomError(
        "filter_condition", "a condition has one of and, or and not, or an attribute with equals, in, range or exists"
    )


Condition: TypeAlias = Annotated[
    "AndCondition | OrCondition | NotCondition | EqualsCondition | InCondition | RangeCondition | ExistsCondition",
    WrapValidator(_parsed),
]
_Branches = Annotated[list[Condition], Field(min_length=1, max_length=MAX_BRANCHES)]


class AndCondition(_Node):
    """True if all conditions are."""

    and_: Annotated[_Branches, Field(alias="and")]

    def mask(self, columns: Table) -> NDArray[np.bool_]:
        """Return mask_R: the items that meet every condition."""
        mask_R: NDArray[np.bool_] = np.logical_and.reduce([condition.mask(columns) for condition in self.and_])
        return mask_R

    def faults(self, schema: Schema) -> Iterator[FilterFault]:
        """Yield the conditions that a catalog of this schema cannot evaluate."""
        for place, condition in enumerate(self.and_):
            yield from (fault.within("and", place) for fault in condition.faults(schema))


class OrCondition(_Node):
    """True if at least one condition is."""

    or_: Annotated[_Branches, Field(alias="or")]

    def mask(self, columns: Table) -> NDArray[np.bool_]:
        """Return mask_R: the items that meet at least one condition."""
        mask_R: NDArray[np.bool_] = np.logical_or.reduce([condition.mask(columns) for condition in self.or_])
        return mask_R

    def faults(self, schema: Schema) -> Iterator[FilterFault]:
        """Yield the conditions that a catalog of this schema cannot evaluate."""
        for place, condition in enumerate(self.or_):
            yield from (fault.within("or", place) for fault in condition.faults(schema))


class NotCondition(_Node):
    """True if the condition is false."""

    not_: Annotated[Condition, Field(alias="not")]

    def mask(self, columns: Table) -> NDArray[np.bool_]:
        """Return mask_R: the items that do not meet the condition."""
        return ~self.not_.mask(columns)

    def faults(self, schema: Schema) -> Iterator[FilterFault]:
        """Yield the conditions that a catalog of this schema cannot evaluate."""
        return (fault.within("not") for fault in self.not_.faults(schema))


class EqualsCondition(_Node):
    """True if the attribute is this value, or a list that contains it."""

    attribute: AttributeName
    equals: Value

    def mask(self, columns: Table) -> NDArray[np.bool_]:
        """Return mask_R: the items with the value."""
        return _rows_with_any(columns[self.attribute], [self.equals])

    def faults(self, schema: Schema) -> Iterator[FilterFault]:
        """Yield the conditions that a catalog of this schema cannot evaluate."""
        return _value_faults(schema, self.attribute, {("equals",): self.equals})


class InCondition(_Node):
    """True if the attribute is one of these values, or a list that contains one."""

    attribute: AttributeName
    in_: Annotated[list[Value], Field(alias="in", min_length=1, max_length=MAX_VALUES)]

    def mask(self, columns: Table) -> NDArray[np.bool_]:
        """Return mask_R: the items with one of the values."""
        return _rows_with_any(columns[self.attribute], self.in_)

    def faults(self, schema: Schema) -> Iterator[FilterFault]:
        """Yield the conditions that a catalog of this schema cannot evaluate."""
        return _value_faults(schema, self.attribute, {("in", place): value for place, value in enumerate(self.in_)})


class Bounds(TypedDict, total=False):
    """Bounds of a range: numbers, or dates."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]  # how pydantic configures a TypedDict

    min: Annotated[Bound, Field(description="Not less than this.")]
    max: Annotated[Bound, Field(description="Not more than this.")]
    above: Annotated[Bound, Field(description="More than this.")]
    below: Annotated[Bound, Field(description="Less than this.")]


def _not_empty(bounds: Bounds) -> Bounds:
    if not bounds:
        raise PydanticCustomError("filter_range", "a range has at least one of min, max, above and below")
    return bounds


class RangeCondition(_Node):
    """True if the attribute, a number or a date, lies within the bounds."""

    attribute: AttributeName
    range: Annotated[Bounds, AfterValidator(_not_empty), Field(json_schema_extra={"minProperties": 1})]

    def mask(self, columns: Table) -> NDArray[np.bool_]:
        """Return mask_R: the items within all bounds."""
        column = columns[self.attribute]
        inside_V = np.full(len(column.values_V), column.kind in _ORDERED)
        for name, bound in self.range.items():
            number = comparable(column.kind, bound)
            inside_V &= number is not None and _BOUNDS[name](column.values_V, number)
        return column.rows_where(inside_V)

    def faults(self, schema: Schema) -> Iterator[FilterFault]:
        """Yield the conditions that a catalog of this schema cannot evaluate."""
        kind = schema.get(self.attribute)
        if kind is None or kind in _ORDERED:
            yield from _value_faults(
                schema, self.attribute, {("range", name): bound for name, bound in self.range.items()}
            )
        else:
            yield FilterFault(("range",), f"{self.attribute} is {_KINDS[kind]}; only a number or a date has a range")


class ExistsCondition(_Node):
    """True if the item has the attribute (`exists` true) or lacks it (false)."""

    attribute: AttributeName
    exists: bool

    def mask(self, columns: Table) -> NDArray[np.bool_]:
        """Return mask_R: the items that have the attribute, or those that do not."""
        present_R = columns[self.attribute].present_R
        return present_R if self.exists else ~present_R

    def faults(self, schema: Schema) -> Iterator[FilterFault]:
        """Yield the conditions that a catalog of this schema cannot evaluate."""
        return _value_faults(schema, self.attribute, {})


_CONDITIONS: Mapping[str, type[_Node]] = {
    "and": AndCondition,
    "or": OrCondition,
    "not": NotCondition,
    "equals": EqualsCondition,
    "in": InCondition,
    "range": RangeCondition,
    "exists": ExistsCondition,
}
for _condition in (AndCondition, OrCondition, NotCondition):
    _condition.model_rebuild()


class Filter(RootModel[Condition]):
    """A condition that items must meet: and, or, not, or a comparison with one attribute.

    An item without the attribute meets no comparison with it, but meets the `not` of each.
    """

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {"attribute": "category", "equals": "shoes"},
                {
                    "and": [
                        {"attribute": "price", "range": {"min": 5, "max": 20}},
                        {"not": {"attribute": "brand", "in": ["Acme", "Apex"]}},
                    ]
                },
            ]
        },
    )

    @model_validator(mode="before")
    @classmethod
    def _small_enough(cls, value: Any) -> Any:
        """Check the size level by level before any recursive validation."""
        level, nodes, depth = [value], 1, 1
        while level := [branch for condition in level for branch in _branches(condition)]:
            nodes, depth = nodes + len(level), depth + 1
            if nodes > MAX_NODES or depth > MAX_DEPTH:
                raise PydanticCustomError(
                    "filter_too_large",
                    "a filter has at most {nodes} conditions, nested at most {depth} deep",
                    {"nodes": MAX_NODES, "depth": MAX_DEPTH},
                )
        return value

    def mask(self, columns: Table) -> NDArray[np.bool_]:
        """Return mask_R: the items that pass the filter."""
        return self.root.mask(columns)

    def check(self, schema: Schema) -> list[FilterFault]:
        """Return the conditions that a catalog of this schema cannot evaluate; the messages never repeat values."""
        return list(self.root.faults(schema))

    @cached_property
    def key(self) -> str:
        """The filter as JSON text, which identifies it; 1 and true differ."""
        return self.model_dump_json()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _branches(value: Any) -> Sequence[Any]:
    """Return the conditions directly inside a value that has not been validated yet."""
    if not isinstance(value, dict):
        return ()
    branches = [branch for name in ("and", "or") if isinstance(value.get(name), list) for branch in value[name]]
    return [*branches, value["not"]] if "not" in value else branches


def _rows_with_any(column: Column, values: Sequence[bool | float | str]) -> NDArray[np.bool_]:
    numbers = [number for value in values if (number := comparable(column.kind, value)) is not None]
    return column.rows_where(np.isin(column.values_V, np.array(numbers, dtype=column.values_V.dtype)))


def _value_faults(
    schema: Schema, attribute: str, values: Mapping[tuple[str | int, ...], object]
) -> Iterator[FilterFault]:
    kind = schema.get(attribute)
    if kind is None:
        yield FilterFault(("attribute",), _unknown_attribute(schema))
        return
    for path, value in values.items():
        if comparable(kind, value) is None:
            yield FilterFault(path, f"{attribute} is {_KINDS[kind]}; {_advice(kind)}")


def _advice(kind: Kind) -> str:
    return "only exists can test it" if kind == "mixed" else f"compare it with {_OPERANDS[kind]}"


def _unknown_attribute(schema: Schema) -> str:
    if not schema:
        return "the catalog's items have no attributes"
    names = ", ".join(sorted(schema)[:MAX_NAMES_LISTED])
    more = len(schema) - MAX_NAMES_LISTED
    return f"no item of the catalog has this attribute; there are {names}" + (f" and {more} more" if more > 0 else "")
