"""Ids of sessions, users and items: text of one rule, whatever a file's type for them."""

import narwhals as nw
from narwhals.dtypes import DType

from onward.training.errors import InputError

ID_PATTERN = r"^[^\p{C}\p{Z}\x{FFFD}]{1,128}$"
"""1 to 128 visible characters; the replacement character stands where a file was not UTF-8."""


def id_text(path: str, column: str, dtype: DType) -> nw.Expr:
    """The ids of a column as text, whole numbers without a fraction. Raises InputError for a type that is no id."""
    value = nw.col(column)
    if dtype.is_float():
        whole = nw.when((value == value.round()) & (value.abs() < 2**53)).then(value).cast(nw.Int64)
        return nw.coalesce(whole.cast(nw.String), nw.when(~value.is_nan()).then(value).cast(nw.String))
    if dtype.is_integer():
        return value.cast(nw.String)
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        return value.cast(nw.String).str.replace_all(r"^(-?[0-9]+)\.0$", "$1")
    raise InputError(f"{path}: column {column!r} holds {dtype}, which is no id; name another column")


def id_checks(column: str, what: str) -> list[tuple[nw.Expr, str]]:
    """What may be wrong with an id, and how a problem of it is called."""
    value = nw.col(column)
    return [
        (value.is_null() | (value == ""), f"missing {what} id"),
        (~value.str.contains(ID_PATTERN), f"unusable {what} id"),
    ]


def first_wrong(checks: list[tuple[nw.Expr, str]]) -> nw.Expr:
    """The name of the first check that finds something wrong, null where none does."""
    problem: nw.Expr = nw.lit(None, dtype=nw.String)
    for wrong, name in reversed(checks):
        problem = nw.when(wrong).then(nw.lit(name)).otherwise(problem)
    return problem
