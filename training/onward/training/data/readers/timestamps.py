"""Convert times of any type to epoch milliseconds."""

import narwhals as nw
from narwhals.dtypes import DType

from onward.training.data.readers.engine import Engine, Frame
from onward.training.errors import InputError

NUMBER_PATTERN = r"^-?[0-9]{1,18}(?:\.[0-9]*)?$"
ISO_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r"(?: ?(?:Z|UTC)|[+-][0-9]{2}:?[0-9]{2})?)?$"
)
SECONDS_BELOW, MILLISECONDS_BELOW, MICROSECONDS_BELOW = 10**11, 10**14, 10**17
"""The magnitude of a number determines its unit; from MICROSECONDS_BELOW on it counts nanoseconds."""


def with_epoch_ms(engine: Engine, rows: Frame, path: str, column: str | None, name: str) -> Frame:
    """Add `name` (Int64): the instants of `column` in epoch milliseconds, null if a value is not a time.

    A column may hold dates, datetimes (UTC if they name no zone), numbers since 1970 in seconds, milliseconds,
    microseconds or nanoseconds, or text of such numbers or of ISO 8601 times. Raises InputError for any other type.
    """
    if column is None:
        return rows.with_columns(nw.lit(None, dtype=nw.Int64).alias(name))
    dtype = rows.collect_schema()[column]
    if dtype == nw.String:
        return _with_instants_of_text(engine, rows, column, name)
    return rows.with_columns(_of_typed(path, column, dtype).alias(name))


def number_of_text(column: str) -> nw.Expr:
    """Parse text as a number (Float64), null if it is not one."""
    return nw.when(nw.col(column).str.contains(NUMBER_PATTERN)).then(nw.col(column)).cast(nw.Float64)


def _of_typed(path: str, column: str, dtype: DType) -> nw.Expr:
    value = nw.col(column)
    if dtype == nw.Date:
        return value.cast(nw.Datetime("ms")).dt.timestamp("ms")
    if dtype == nw.Datetime:
        return value.dt.timestamp("ms")
    if dtype.is_integer():
        return _of_integers(value.cast(nw.Int64))
    if dtype.is_numeric():
        return _of_floats(value.cast(nw.Float64))
    raise InputError(f"{path}: column {column!r} holds {dtype}, which cannot be a time; give --time-column")


def _with_instants_of_text(engine: Engine, rows: Frame, column: str, name: str) -> Frame:
    iso = nw.when(nw.col(column).str.contains(ISO_PATTERN)).then(nw.col(column))
    rows = engine.with_epoch_ms(rows.with_columns(iso.alias("_iso_text")), "_iso_text", name)
    numbers = _of_floats(number_of_text(column))
    return rows.with_columns(nw.coalesce(nw.col(name), numbers).alias(name))


def _of_integers(value: nw.Expr) -> nw.Expr:
    size = value.abs()
    nanoseconds, microseconds, seconds = value // 10**6, value // 10**3, value * 10**3
    return (
        nw.when(size < SECONDS_BELOW)
        .then(seconds)
        .otherwise(
            nw.when(size < MILLISECONDS_BELOW)
            .then(value)
            .otherwise(nw.when(size < MICROSECONDS_BELOW).then(microseconds).otherwise(nanoseconds))
        )
    )


def _of_floats(value: nw.Expr) -> nw.Expr:
    """Convert floats via whole numbers; a float is exact for microseconds, but nanoseconds lose their last digits."""
    finite = nw.when(value.abs() < float(2**63)).then(value)
    seconds = (nw.when(finite.abs() < SECONDS_BELOW).then(finite) * 1000).round()
    larger = nw.when(finite.abs() >= SECONDS_BELOW).then(finite)
    return nw.coalesce(seconds.cast(nw.Int64), _of_integers(larger.cast(nw.Int64)))
