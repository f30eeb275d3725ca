"""Ids of sessions, users and items as text that follows one rule, whatever their type in a file."""

import narwhals as nw
from narwhals.dtypes import DType

from onward.training.errors import InputError

ID_PATTERN = r"^[^\p{C}\p{Z}\x{FFFD}]{1,128}$"
"""1 to 128 visible characters, without the replacement character, which marks bytes that were not UTF-8."""


def id_text(path: str, column: str, dtype: DType) -> nw.Expr:
    """Convert the ids of a column to text; a whole number in a float column loses its `.0`.

    Raises InputError if the type of the column cannot hold ids.
    """
    value = nw.col(column)
    if dtype.is_float():
        whole = nw.when((value == value.round()) & (value.abs() < 2**53)).then(value).cast(nw.Int64)
        return nw.coalesce(whole.cast(nw.String), nw.when(~value.is_nan()).then(value).cast(nw.String))
    if dtype.is_integer():
        return value.cast(nw.String)
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        return value.cast(nw.String).str.replace_all(r"^(-?[0-9]+)\.0$", "$1")
    raise InputError(f"{path}: column {column!r} holds {dtype}, which cannot be an id; name another column")


def id_checks(column: str, what: str) -> list[tuple[nw.Expr, str]]:
    """Return the checks of an id, each as (condition of a bad id, name of the problem)."""
    value = nw.col(column)
    return [
        (value.is_null() | (value == ""), f"missing {what} id"),
        (~value.str.contains(ID_PATTERN), f"unusable {what} id"),
    ]


def first_failed(checks: list[tuple[nw.Expr, str]]) -> nw.Expr:
    """Return the name of the first failed check, or null if all pass; checks are (condition of failure, name)."""
    problem: nw.Expr = nw.lit(None, dtype=nw.String)
    for wrong, name in reversed(checks):
        problem = nw.when(wrong).then(nw.lit(name)).otherwise(problem)
    return problem
