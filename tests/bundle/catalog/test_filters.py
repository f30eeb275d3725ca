"""Validation of filters, faults that depend on the catalog, and the items that pass."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from onward.bundle.catalog.filters import MAX_DEPTH, MAX_NAMES_LISTED, Filter
from onward.bundle.files.attributes import Columns, Schema, infer_schema
from tests.bundle.conditions import attributes, conditions, holds

LEAF = {"attribute": "price", "exists": True}
SCHEMA: Schema = {
    "price": "number",
    "brand": "string",
    "tags": "strings",
    "new": "boolean",
    "launched": "date",
    "odd": "mixed",
}


class Body(BaseModel):
    model_config = ConfigDict(strict=True)

    filter: Filter | None = None


def nested(depth: int) -> dict[str, Any]:
    return LEAF if depth == 1 else {"not": nested(depth - 1)}


@given(condition=conditions, items=st.lists(attributes, min_size=1, max_size=8))
def test_a_filter_passes_the_same_items_as_a_reference_implementation(
    condition: dict[str, Any], items: list[dict[str, Any]]
) -> None:
    schema = infer_schema(items)
    mask = Filter.model_validate(condition).mask(Columns(schema, len(items), lambda: enumerate(items)))
    assert mask.tolist() == [holds(condition, item, schema) for item in items]


@given(condition=conditions)
def test_a_filter_round_trips_through_json_and_equals_only_itself(condition: dict[str, Any]) -> None:
    read = Filter.model_validate(condition)
    assert json.loads(read.model_dump_json()) == condition
    assert Filter.model_validate_json(read.key) == read
    assert Body.model_validate(json.loads(Body(filter=read).model_dump_json())).filter == read


def test_filters_for_1_and_true_differ() -> None:
    one, true = (Filter.model_validate({"attribute": "x", "equals": value}) for value in (1, True))
    assert one != true
    assert one == Filter.model_validate({"attribute": "x", "equals": 1.0})
    assert hash(one) == hash(Filter.model_validate({"attribute": "x", "equals": 1.0}))


@pytest.mark.parametrize(
    "condition",
    [
        nested(MAX_DEPTH),
        {"and": [LEAF] * 20},
        {"or": [{"and": [LEAF] * 20}] * 3 + [{"and": [LEAF] * 19}] + [LEAF] * 16},
        {"attribute": "price", "in": [1] * 100},
        {"attribute": "x" * 1_000, "equals": "y" * 1_000},
    ],
)
def test_a_filter_at_the_size_limits_is_accepted(condition: dict[str, Any]) -> None:
    assert Filter.model_validate(condition).check({}) != []


@pytest.mark.parametrize(
    ("condition", "path"),
    [
        (nested(MAX_DEPTH + 1), ()),
        ({"or": [{"and": [LEAF] * 20}] * 4 + [LEAF] * 16}, ()),
        ({"and": [LEAF] * 21}, ("and",)),
        ({"and": []}, ("and",)),
        ({"and": {"0": LEAF}}, ("and",)),
        ({"not": [LEAF]}, ("not",)),
        ({"and": [LEAF, {"or": [LEAF, {}]}]}, ("and", 1, "or", 1)),
        ({"and": [LEAF], "or": [LEAF]}, ("or",)),
        ({**LEAF, "equals": 1}, ("exists",)),
        ({"attribute": "price"}, ()),
        ({"equals": 1}, ("attribute",)),
        ({"attribute": "", "equals": 1}, ("attribute",)),
        ({"attribute": "x" * 1_001, "equals": 1}, ("attribute",)),
        ({"attribute": "x", "equals": "y" * 1_001}, ("equals",)),
        ({"attribute": "x", "equals": None}, ("equals",)),
        ({"attribute": "x", "equals": float("inf")}, ("equals",)),
        ({"attribute": "x", "equals": 10**400}, ("equals",)),
        ({"attribute": "x", "in": []}, ("in",)),
        ({"attribute": "x", "in": [1] * 101}, ("in",)),
        ({"attribute": "x", "in": [1, [1]]}, ("in", 1)),
        ({"attribute": "x", "range": {}}, ("range",)),
        ({"attribute": "x", "range": {"min": None}}, ("range", "min")),
        ({"attribute": "x", "range": {"min": True}}, ("range", "min")),
        ({"attribute": "x", "range": {"from": 1}}, ("range", "from")),
        ({"attribute": "x", "exists": 1}, ("exists",)),
        ({}, ()),
        ([], ()),
        ("x", ()),
    ],
)
def test_an_invalid_filter_is_refused_with_the_path_of_the_fault(condition: Any, path: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        Body.model_validate({"filter": condition})
    assert ("filter", *path) in {fault["loc"] for fault in refused.value.errors()}


def test_very_deep_nesting_is_refused_before_recursive_validation() -> None:
    condition: dict[str, Any] = {}
    for _ in range(7_000):
        condition = {"not": condition}
    with pytest.raises(ValidationError, match="at most 100 conditions, nested at most 8 deep"):
        Body.model_validate({"filter": condition})


@pytest.mark.parametrize(
    ("condition", "path", "message"),
    [
        ({"attribute": "brand", "equals": 1}, ("equals",), "brand is a string; compare it with a string"),
        ({"attribute": "price", "equals": True}, ("equals",), "price is a number; compare it with a number"),
        ({"attribute": "new", "equals": 1}, ("equals",), "new is true or false; compare it with true or false"),
        ({"attribute": "tags", "in": ["a", 1]}, ("in", 1), "tags is a list of strings; compare it with a string"),
        (
            {"attribute": "launched", "range": {"min": "2026-01-01", "below": "soon"}},
            ("range", "below"),
            "launched is a date; compare it with a date or time by RFC 3339",
        ),
        (
            {"attribute": "brand", "range": {"min": "a"}},
            ("range",),
            "brand is a string; only a number or a date has a range",
        ),
        (
            {"attribute": "odd", "equals": 1},
            ("equals",),
            "odd is of mixed kinds; only exists can test it",
        ),
        (
            {"attribute": "secret", "exists": True},
            ("attribute",),
            "no item of the catalog has this attribute; there are brand, launched, new, odd, price, tags",
        ),
    ],
)
def test_a_condition_that_the_catalog_cannot_evaluate_is_reported_with_its_path(
    condition: dict[str, Any], path: tuple[str | int, ...], message: str
) -> None:
    for around, prefix in (
        (condition, ()),
        ({"and": [LEAF, condition]}, ("and", 1)),
        ({"or": [{"not": condition}]}, ("or", 0, "not")),
    ):
        faults = Filter.model_validate(around).check(SCHEMA)
        assert [(fault.path, fault.message) for fault in faults] == [((*prefix, *path), message)]


def test_the_fault_of_an_unknown_attribute_lists_known_ones() -> None:
    [fault] = Filter.model_validate(LEAF).check({f"a{number:02}": "number" for number in range(25)})
    assert fault.message.endswith(f"a{MAX_NAMES_LISTED - 1:02} and 5 more")
    [fault] = Filter.model_validate(LEAF).check({})
    assert fault.message == "the catalog's items have no attributes"


@given(condition=conditions)
def test_only_conditions_that_the_catalog_cannot_evaluate_are_faults(condition: dict[str, Any]) -> None:
    faults = Filter.model_validate(condition).check(SCHEMA)
    asks_too_much = Filter.model_validate({"and": [condition, {"attribute": "price", "equals": "x"}]}).check(SCHEMA)
    assert len(asks_too_much) == len(faults) + 1
    assert all("unheard of" not in fault.message for fault in faults)
