"""Random small catalogs and filters, and a reference implementation of filters."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from onward.bundle.files.attributes import Schema

VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "price": st.integers(-2, 3) | st.sampled_from([0.5, 1.5, 2.0**60]),
    "brand": st.sampled_from(["Acme", "Apex", "", "2026-01-01"]),
    "tags": st.lists(st.sampled_from(["new", "sale", "red"]), max_size=3),
    "new": st.booleans(),
    "launched": st.sampled_from(
        [
            "2026-01-01",
            "2026-01-01T00:00:00Z",
            "2026-01-01T01:00:00+02:00",
            "2025-12-31T23:59:59.5Z",
            "2026-01-01 12:00:00",
        ]
    ),
    "odd": st.none() | st.integers(0, 1) | st.just("x") | st.lists(st.integers(), max_size=1) | st.just({"x": 1}),
}
anything = st.one_of(*VALUES.values())
attributes = st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in VALUES.items()})
patches = st.fixed_dictionaries({}, optional={name: st.none() | values | anything for name, values in VALUES.items()})

names = st.sampled_from([*VALUES, "unheard of"])
scalars = st.one_of(VALUES["price"], VALUES["brand"], st.just("sale"), VALUES["new"], VALUES["launched"])
bounds = st.one_of(VALUES["price"], VALUES["launched"], st.just("no date"))
comparisons = (
    st.fixed_dictionaries({"attribute": names, "equals": scalars})
    | st.fixed_dictionaries({"attribute": names, "in": st.lists(scalars, min_size=1, max_size=4)})
    | st.fixed_dictionaries({"attribute": names, "exists": st.booleans()})
    | st.fixed_dictionaries(
        {
            "attribute": names,
            "range": st.dictionaries(st.sampled_from(["min", "max", "above", "below"]), bounds, min_size=1, max_size=2),
        }
    )
)
conditions = st.recursive(
    comparisons,
    lambda inner: (
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"not": inner})
    ),
    max_leaves=6,
)


def holds(condition: Mapping[str, Any], item: Mapping[str, Any], schema: Schema) -> bool:
    """Return whether an item with these attributes meets a condition."""
    match condition:
        case {"and": inner}:
            return all(holds(part, item, schema) for part in inner)
        case {"or": inner}:
            return any(holds(part, item, schema) for part in inner)
        case {"not": inner}:
            return not holds(inner, item, schema)
    kind, value = schema.get(condition["attribute"]), item.get(condition["attribute"])
    if "exists" in condition:
        return bool((value is not None) == condition["exists"])
    values = (
        [typed(kind, single) for single in value]
        if kind == "strings" and isinstance(value, list)
        else [typed(kind, value)]
    )
    if any(single is None for single in values):
        return False
    if "range" not in condition:
        operands = [typed(kind, operand) for operand in condition.get("in", [condition.get("equals")])]
        return any(single in operands for single in values)
    return kind in ("number", "date") and all(
        _within(values[0], name, typed(kind, bound)) for name, bound in condition["range"].items()
    )


def typed(kind: str | None, value: Any) -> Any:
    """Return a comparable value, None if the value is of another kind."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "number":
            return float(value) if is_number else None
        case "boolean":
            return value if isinstance(value, bool) else None
        case "string" | "strings":
            return value if isinstance(value, str) else None
        case "date" if isinstance(value, str) and value[:4].isdigit():
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _within(value: Any, name: str, bound: Any) -> bool:
    if bound is None:
        return False
    return bool({"min": value >= bound, "max": value <= bound, "above": value > bound, "below": value < bound}[name])
