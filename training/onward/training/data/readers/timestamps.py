"""Convert times of any type to epoch milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
from narwhals.dtypes import DType

from onward.training.data.readers.engine import Engine, Frame
from onward.training.errors import InputError

NUMBER_PATTERN = r"^-?[0-9]{1,18}(?:\.[0-9]*)?(?:[eE][+]?[0-9]{1,2})?$"
EPOCH_PATTERN = r"^[0-9]{9,11}(?:\.[0-9]*)?$|^[0-9]{13}$|^[0-9]{16}$|^[0-9]{19}$"
"""Numbers since 1970, which are no compact dates."""
ISO_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r"(?: ?(?:Z|UTC)|[+-][0-9]{2}:?[0-9]{2})?)?$"
)
COMPACT = {
    r"^((?:199|20[0-9])[0-9])/?(0[1-9]|1[0-2])/?([0-3][0-9])$": "$1-$2-$3",
    r"^((?:199|20[0-9])[0-9])(0[1-9]|1[0-2])([0-3][0-9])([0-2][0-9])([0-5][0-9])$": "$1-$2-$3 $4:$5",
    r"^((?:199|20[0-9])[0-9])(0[1-9]|1[0-2])([0-3][0-9])([0-2][0-9])([0-5][0-9])([0-5][0-9])$": "$1-$2-$3 $4:$5:$6",
    r"^([0-9]{4})/([0-9]{2})/([0-9]{2}) ": "$1-$2-$3 ",
    r"([0-9]) ?([+-][0-9]{2}):?([0-9]{2})$": "$1$2:$3",
    r"(:[0-9]{2}(?:\.[0-9]+)?) ?([+-][0-9]{2})$": "$1$2:00",
}
"""Other ways to write ISO 8601, which no other time is written in: as a number of seconds or milliseconds these are
years before 1990 or after 2600."""
COMPACT_RANGES = ((19_900_101, 20_991_231), (19_900_101_000000, 20_991_231_235959))
DAY_OR_MONTH = r"^[0-9]{1,2}[/.-][0-9]{1,2}[/.-][0-9]{4}(?:$|,? )"
DAY_FIRST = r"^(?:1[3-9]|[23][0-9])[/.-][0-9]{1,2}[/.-][0-9]{4}"
MONTH_FIRST = r"^[0-9]{1,2}[/.-](?:1[3-9]|[23][0-9])[/.-][0-9]{4}"
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
WEEKDAY = r"^[A-Z][a-z]{2} [A-Z][a-z]{2} [0-9 ][0-9] "
WEEKDAY_FORMAT = "%a %b %d %H:%M:%S %z %Y"
SAMPLED_ROWS = 1_000
SECONDS_BELOW, MILLISECONDS_BELOW, MICROSECONDS_BELOW = 10**11, 10**14, 10**17
"""The magnitude of a number determines its unit; from MICROSECONDS_BELOW on it counts nanoseconds."""


@dataclass(frozen=True)
class TimeFormat:
    """How the times of a log are written, besides numbers and ISO 8601."""

    formats: tuple[str, ...] = ()
    """Formats of `strftime` to try in turn, after `-` and `.` between numbers are replaced by `/`."""
    given: bool = False
    """Whether the one format was given, so that nothing else is a time."""

    def __str__(self) -> str:
        if self.given:
            return f"{self.formats[0]} (given)"
        if not self.formats:
            return "numbers since 1970 or ISO 8601"
        return self.formats[0] if len(self.formats) == 1 else f"{self.formats[0]}, or with a clock behind it"


def find_time_format(columns: Sequence[tuple[str, Frame, str]], given: str | None) -> TimeFormat:
    """Find the format of the times of all tables, each its path, its rows and its column of times.

    Whether the day or the month comes first is told from numbers above 12. Raises InputError if there are none, or
    both: then it has to be given.
    """
    if given is not None:
        return TimeFormat((given,), given=True)
    texts = [(path, rows, name) for path, rows, name in columns if rows.collect_schema()[name] == nw.String]
    samples = [rows.select(nw.col(name).alias("time")).head(SAMPLED_ROWS).collect("polars") for _, rows, name in texts]
    if _any(samples, WEEKDAY):
        return TimeFormat((WEEKDAY_FORMAT,))
    if not _any(samples, DAY_OR_MONTH):
        return TimeFormat()
    columns_of_times = [rows.select(nw.col(name).alias("time")) for _, rows, name in texts]
    day_first, month_first = _any(columns_of_times, DAY_FIRST), _any(columns_of_times, MONTH_FIRST)
    if day_first == month_first:
        path, _, name = texts[0]
        example = samples[0].filter(nw.col("time").str.contains(DAY_OR_MONTH))["time"].head(1).to_list()
        shown = f"such as {example[0]!r}" if example else f"in column {name!r}"
        raise InputError(
            f"{path}: cannot tell whether the day or the month comes first in times {shown}; "
            "give --time-format, such as '%d/%m/%Y %H:%M' or '%m/%d/%Y %I:%M:%S %p'"
        )
    return TimeFormat(tuple(("%d/%m/%Y" if day_first else "%m/%d/%Y") + clock for clock in CLOCKS))


def with_epoch_ms(
    engine: Engine, rows: Frame, path: str, column: str | None, time_format: TimeFormat, name: str
) -> Frame:
    """Add `name` (Int64): the instants of `column` in epoch milliseconds, null if a value is not a time.

    A column may hold dates, datetimes (UTC if they name no zone), numbers since 1970 in seconds, milliseconds,
    microseconds or nanoseconds, compact dates (20240131), or text of such numbers, of ISO 8601 times or in
    `time_format`. Raises InputError for any other type.
    """
    if column is None:
        return rows.with_columns(nw.lit(None, dtype=nw.Int64).alias(name))
    dtype = rows.collect_schema()[column]
    if time_format.given and (dtype == nw.String or dtype.is_integer()):
        text = rows.with_columns(nw.col(column).cast(nw.String).alias("_time_text"))
        return engine.with_epoch_ms_by(text, "_time_text", time_format.formats[0], name)
    if dtype == nw.String:

        def times(texts: Frame) -> Frame:
            read = _with_instants_of_text(engine, texts, column, name)
            return _with_instants_of_formats(engine, read, column, time_format.formats, name)

        return engine.with_text_times(rows, column, name, times)
    if dtype.is_integer():
        return _with_instants_of_integers(engine, rows, column, name)
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
    if dtype.is_numeric():
        return _of_floats(value.cast(nw.Float64))
    raise InputError(f"{path}: column {column!r} holds {dtype}, which cannot be a time; give --time-column")


def _with_instants_of_text(engine: Engine, rows: Frame, column: str, name: str) -> Frame:
    text: nw.Expr = nw.when(~nw.col(column).str.contains(EPOCH_PATTERN)).then(nw.col(column)).str.strip_chars()
    other = nw.when(~text.str.contains(ISO_PATTERN)).then(text)
    for pattern, replacement in COMPACT.items():
        other = other.str.replace_all(pattern, replacement)
    text = nw.coalesce(other, text)
    iso = nw.when(text.str.contains(ISO_PATTERN)).then(text)
    rows = engine.with_epoch_ms(rows.with_columns(iso.alias("_iso_text")), "_iso_text", name)
    numbers = _of_floats(number_of_text(column))
    return rows.with_columns(nw.coalesce(nw.col(name), numbers).alias(name))


def _with_instants_of_integers(engine: Engine, rows: Frame, column: str, name: str) -> Frame:
    value = nw.col(column).cast(nw.Int64)
    (first_day, last_day), (first_second, last_second) = COMPACT_RANGES
    is_date = value.is_between(first_day, last_day)
    is_second = value.is_between(first_second, last_second)
    text = nw.when(is_date | is_second).then(value).cast(nw.String)
    for pattern, replacement in COMPACT.items():
        text = text.str.replace_all(pattern, replacement)
    iso = nw.when(text.str.contains(ISO_PATTERN)).then(text)
    rows = engine.with_epoch_ms(rows.with_columns(iso.alias("_iso_text")), "_iso_text", name)
    return rows.with_columns(nw.coalesce(nw.col(name), _of_integers(value)).alias(name))


def _with_instants_of_formats(engine: Engine, rows: Frame, column: str, formats: Sequence[str], name: str) -> Frame:
    if not formats:
        return rows
    text = nw.col(column).str.strip_chars()
    if formats[0] != WEEKDAY_FORMAT:
        text = text.str.replace_all(r"^([0-9]{1,2})[.-]([0-9]{1,2})[.-]([0-9]{4})", "$1/$2/$3")
        text = text.str.replace_all("[,\u202f\u00a0]", " ").str.replace_all(" +", " ")
    rows = rows.with_columns(text.alias("_time_text"))
    places = [f"_instant_{place}" for place in range(len(formats))]
    for time_format, place in zip(formats, places, strict=True):
        rows = engine.with_epoch_ms_by(rows, "_time_text", time_format, place)
    return rows.with_columns(nw.coalesce(nw.col(name), *map(nw.col, places)).alias(name)).drop("_time_text", *places)


def _any(tables: Sequence[Any], pattern: str) -> bool:
    """Return whether any text of the column `time` of the tables matches."""
    matches = (rows.select(nw.col("time").str.contains(pattern).any().alias("any")) for rows in tables)
    return any(bool(found.lazy().collect("polars").item()) for found in matches)


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
