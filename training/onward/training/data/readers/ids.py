"""Ids of sessions, users and items as text that follows the rule of ids, whatever their type in a file."""

from collections.abc import Sequence
from typing import TypeAlias

import narwhals as nw
import polars as pl
from narwhals.dtypes import DType

from onward.bundle import MAX_ID_LENGTH, id_fault
from onward.training.errors import InputError

PLAIN_ID = rf"^[ -~]{{1,{MAX_ID_LENGTH}}}\z"
"""Regular expression of ids in ASCII, which engines check by themselves; all other texts go through `id_fault`."""

FAULT, STRIPPED = "_fault", "_stripped"
"""Ends of the names of the columns that `Engine.with_ids` adds to a column of ids."""
SPACES = " \t\r\n\u00a0"
"""What is taken off the ends of ids; elsewhere, and all other spaces, belong to them."""

Check: TypeAlias = tuple[nw.Expr, nw.Expr]
"""When a row has a problem, and the text that names it."""


def id_text(path: str, column: str, dtype: DType, nulls: Sequence[str]) -> nw.Expr:
    """Convert the ids of a column to text without spaces at its ends; a whole number in floats loses its `.0`.

    Empty text and the texts `nulls` become null.

    Raises InputError if the type of the column cannot hold ids.
    """
    text = written_text(path, column, dtype)
    return id_of_text(text, nulls) if is_text(dtype) else text


def is_stripped(column: str, dtype: DType) -> nw.Expr:
    """Return whether an id has spaces at its ends."""
    return has_spaces(nw.col(column).cast(nw.String)) if is_text(dtype) else nw.lit(False)


def is_text(dtype: DType) -> bool:
    """Return whether a column of this type holds text."""
    return dtype in (nw.String, nw.Categorical, nw.Enum)


def written_text(path: str, column: str, dtype: DType) -> nw.Expr:
    """Return ids as they are written; a whole number in floats loses its `.0`.

    Raises InputError if the type of the column cannot hold ids.
    """
    value = nw.col(column)
    if dtype.is_float():
        whole = nw.when((value == value.round()) & (value.abs() < 2**53)).then(value).cast(nw.Int64)
        return nw.coalesce(whole.cast(nw.String), nw.when(~value.is_nan()).then(value).cast(nw.String))
    if dtype.is_integer() or is_text(dtype):
        return value.cast(nw.String)
    raise InputError(f"{path}: column {column!r} holds {dtype}, which cannot be an id; name another column")


def id_of_text(text: nw.Expr, nulls: Sequence[str]) -> nw.Expr:
    """Return the id that a text stands for, null if it is empty or one of `nulls`."""
    text = text.str.strip_chars(SPACES)
    known = nw.when(~text.is_in(["", *nulls])).then(text)
    return known.str.replace_all(r"^(-?[0-9]+)\.0$", "$1")


def has_spaces(text: nw.Expr) -> nw.Expr:
    """Return whether a text has spaces at its ends."""
    return (text.str.len_chars() > text.str.strip_chars(SPACES).str.len_chars()).fill_null(False)


def id_faults(ids: pl.Expr) -> pl.Expr:
    """Return why each text is not an id, as `id_fault` says it; null for an id and for null."""
    others = pl.when(~ids.str.contains(PLAIN_ID)).then(ids)
    return others.map_batches(_faults, return_dtype=pl.String, is_elementwise=True)


def id_checks(column: str, what: str) -> list[Check]:
    """Return the checks of the ids of a column, beside which a column with FAULT says why they are none."""
    value, fault = nw.col(column), nw.col(column + FAULT)
    return [
        (value.is_null(), nw.lit(f"missing {what} id")),
        (~fault.is_null(), nw.concat_str(nw.lit(f"unusable {what} id: "), fault)),
    ]


def first_failed(checks: list[Check]) -> nw.Expr:
    """Return the problem of the first failed check, or null if all pass."""
    problem: nw.Expr = nw.lit(None, dtype=nw.String)
    for wrong, name in reversed(checks):
        problem = nw.when(wrong).then(name).otherwise(problem)
    return problem


def _faults(texts: pl.Series) -> pl.Series:
    distinct = texts.drop_nulls().unique()
    faults = pl.Series(map(id_fault, distinct), dtype=pl.String)
    return texts.replace_strict(distinct, faults, default=None, return_dtype=pl.String)
