"""The rows of files as events: text ids, times in epoch milliseconds, and what is wrong with each row.

Pure functions of lazy frames. An event has the columns of EVENT_COLUMNS; `problem` is null in a sound one.
"""

from functools import reduce
from operator import and_

import narwhals as nw
from narwhals.dtypes import DType

from training.data.columns import ColumnNames, found
from training.data.engine import SOURCE_ROW, Engine, Frame
from training.data.instants import number_of_text, with_epoch_ms
from training.errors import InputError

ID_PATTERN = r"^[^\p{C}\p{Z}\x{FFFD}]{1,128}$"
"""1 to 128 visible characters; the replacement character stands where a file was not UTF-8."""
EARLIEST_MS = 631_152_000_000
"""1990: a time before it is a counter or a mistake."""
DAY_MS = 86_400_000

EVENT_COLUMNS = ("session_id", "item_id", "timestamp_ms", "sequence", "source", SOURCE_ROW, "problem")


def read_events(engine: Engine, rows: Frame, path: str, columns: ColumnNames, *, source: int, latest_ms: int) -> Frame:
    """The rows of one file as events. Raises InputError when a column is missing or of no use.

    Args:
        columns: where to find what; its session column gives the session id.
        source: the file's number among the files of the run, by which events keep their order.
        latest_ms: a later time is a mistake.
    """
    names = list(rows.collect_schema())
    session = _needed(path, "session", columns.session, names)
    item = _needed(path, "item", columns.item, names)
    rows = with_epoch_ms(engine, _without_blank_rows(rows, columns), path, columns.time, "epoch_ms")
    schema = rows.collect_schema()
    events = rows.select(
        _id_text(path, session, schema[session]).alias("session_id"),
        _id_text(path, item, schema[item]).alias("item_id"),
        nw.col("epoch_ms").alias("timestamp_ms"),
        _sequence(path, columns.position, schema.get(columns.position or "")).alias("sequence"),
        nw.lit(source, dtype=nw.Int32).alias("source"),
        nw.col(SOURCE_ROW),
        (nw.col(columns.time).is_null() if columns.time else nw.lit(False)).alias("without_time"),
    )
    return events.with_columns(_problem(columns, latest_ms).alias("problem")).select(EVENT_COLUMNS)


def flag_duplicates(events: Frame) -> Frame:
    """Mark every sound event that repeats an earlier one of the same session, item, time and position.

    Days are too coarse to tell a repeated click from a repeated row: an event whose time is a whole UTC day and that
    has no position is never a duplicate, nor is one without time and position.
    """
    ordinal = (
        nw.col(SOURCE_ROW)
        .cum_count()
        .over("session_id", "item_id", "timestamp_ms", "sequence", "problem", order_by=("source", SOURCE_ROW))
    )
    has_clock = (nw.col("timestamp_ms") % DAY_MS != 0).fill_null(False)
    repeated = nw.col("problem").is_null() & (~nw.col("sequence").is_null() | has_clock) & (ordinal > 1)
    return events.with_columns(
        nw.when(repeated).then(nw.lit("duplicate")).otherwise(nw.col("problem")).alias("problem")
    )


def _needed(path: str, role: str, column: str | None, names: list[str]) -> str:
    if column is None:
        known = found([name for name in names if name != SOURCE_ROW])
        raise InputError(f"{path}: cannot tell which column is the {role} id; give --{role}-column ({known})")
    return column


def _without_blank_rows(rows: Frame, columns: ColumnNames) -> Frame:
    """Only the columns in use, without rows that hold nothing: the empty lines of text files."""
    names = list(dict.fromkeys(name for name in columns.model_dump().values() if name is not None))
    return rows.select(SOURCE_ROW, *names).filter(~reduce(and_, (nw.col(name).is_null() for name in names)))


def _id_text(path: str, column: str, dtype: DType) -> nw.Expr:
    """An id as text; a whole number is written without a fraction, whatever the file's type for it."""
    value = nw.col(column)
    if dtype.is_float():
        whole = nw.when((value == value.round()) & (value.abs() < 2**53)).then(value).cast(nw.Int64)
        return nw.coalesce(whole.cast(nw.String), nw.when(~value.is_nan()).then(value).cast(nw.String))
    if dtype.is_integer():
        return value.cast(nw.String)
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        return value.cast(nw.String).str.replace_all(r"^(-?[0-9]+)\.0$", "$1")
    raise InputError(f"{path}: column {column!r} holds {dtype}, which is no id; name another column")


def _sequence(path: str, column: str | None, dtype: DType | None) -> nw.Expr:
    if column is None or dtype is None:
        return nw.lit(None, dtype=nw.Float64)
    if dtype == nw.String:
        return number_of_text(column)
    if dtype.is_numeric():
        return nw.col(column).cast(nw.Float64)
    raise InputError(f"{path}: column {column!r} holds {dtype}, which is no position; give --position-column")


def _problem(columns: ColumnNames, latest_ms: int) -> nw.Expr:
    """The first thing wrong with an event."""
    session, item, time = nw.col("session_id"), nw.col("item_id"), nw.col("timestamp_ms")
    who = "user" if columns.session == columns.user else "session"
    checks = [
        (session.is_null() | (session == ""), f"missing {who} id"),
        (item.is_null() | (item == ""), "missing item id"),
        (~session.str.contains(ID_PATTERN), f"unusable {who} id"),
        (~item.str.contains(ID_PATTERN), "unusable item id"),
    ]
    if columns.time:
        checks += [
            (nw.col("without_time"), "missing time"),
            (time.is_null(), "unreadable time"),
            (time < EARLIEST_MS, "time before 1990"),
            (time > latest_ms, "time in the future"),
        ]
    if columns.position:
        checks.append((nw.col("sequence").is_null(), "missing or unreadable position"))
    problem = nw.lit(None, dtype=nw.String)
    for wrong, name in reversed(checks):
        problem = nw.when(wrong).then(nw.lit(name)).otherwise(problem)
    return problem
