"""Kinds of attributes, and their columns."""

from typing import Any

import numpy as np
import pytest

from onward.bundle.files.attributes import Column, Columns, Kind, comparable, fits, infer_schema


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, -3], "number"),
        ([True, False], "boolean"),
        (["Acme", "Apex"], "string"),
        ([["new"], [], ["new", "sale"]], "strings"),
        ([[]], "strings"),
        (["2026-01-31", "2026-01-31T10:00:00Z", "2026-01-31t10:00:00.25+05:30", "2026-01-31 10:00:00"], "date"),
        (["2026-01-31", "soon"], "string"),
        (["soon", "2026-01-31"], "string"),
        (["2026-02-30"], "string"),
        (["2026-01-31T10:00"], "string"),
        (["٢٠٢٦-01-31"], "string"),
        ([1, True], "mixed"),
        ([1, "1"], "mixed"),
        (["new", ["new"]], "mixed"),
        ([["new", 1]], "mixed"),
        ([{"width": 1}], "mixed"),
        ([10**400], "mixed"),
        ([None, 1, None], "number"),
    ],
)
def test_the_kind_of_an_attribute_is_inferred_from_its_values(values: list[Any], kind: Kind) -> None:
    assert infer_schema({"x": value} for value in values) == {"x": kind}


def test_an_attribute_that_is_always_null_has_no_kind() -> None:
    assert infer_schema([{"x": None}, {}]) == {}


def test_a_known_attribute_keeps_its_kind() -> None:
    assert infer_schema([{"x": "soon", "y": 1}], known={"x": "date"}) == {"x": "date", "y": "number"}


@pytest.mark.parametrize(
    ("kind", "fitting", "misfit"),
    [
        ("number", 2, True),
        ("boolean", False, 0),
        ("string", "2026-01-01", 1),
        ("strings", [], ["a", 1]),
        ("date", "2026-01-01", "soon"),
        ("mixed", {"a": 1}, None),
    ],
)
def test_a_value_fits_its_kind_and_null_fits_any(kind: Kind, fitting: Any, misfit: Any) -> None:
    assert fits(kind, fitting)
    assert fits(kind, None)
    assert misfit is None or not fits(kind, misfit)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-01-01", "2026-01-01T00:00:00.000001Z"),
        ("2026-01-01T10:00:00+02:00", "2026-01-01T08:30:00Z"),
        ("2026-01-01T10:00:00", "2026-01-01T10:00:00-00:01"),
        ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
    ],
)
def test_dates_are_compared_as_instants(earlier: str, later: str) -> None:
    first, second = comparable("date", earlier), comparable("date", later)
    assert first is not None
    assert second is not None
    assert first < second


def column_of(kind: Kind, values: list[Any]) -> Column:
    items = [(row, {} if value is None else {"x": value}) for row, value in enumerate(values)]
    return Columns({"x": kind}, len(values), lambda: items)["x"]


def test_a_list_has_a_value_for_each_string_and_counts_as_present_when_empty() -> None:
    column = column_of("strings", [None, ["a", "b"], [], ["b"], "b"])
    assert column.present_R.tolist() == [False, True, True, True, True]
    assert column.rows_where(column.values_V == comparable("strings", "b")).tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_a_value_of_another_kind_counts_as_present_but_matches_nothing() -> None:
    column = column_of("number", [None, 1, "1", True, 2.5])
    assert column.present_R.tolist() == [False, True, True, True, True]
    assert column.rows_where(np.ones(len(column.values_V), dtype=np.bool_)).tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]


def test_every_column_is_built_once() -> None:
    passes = []

    def items() -> list[tuple[int, dict[str, Any]]]:
        passes.append(1)
        return [(0, {"x": 1, "y": "a"})]

    columns = Columns({"x": "number", "y": "string"}, 1, items)
    assert columns["x"] is columns["x"]
    columns.build_all()
    columns.build_all()
    assert columns["y"].present_R.all()
    assert not columns["z"].present_R.any()
    assert len(passes) == 2
