"""Turn the rows of files into events: text ids, times in epoch milliseconds, and the problem of each unusable row.

Pure functions of lazy frames. An event has the columns of EVENT_COLUMNS; `problem` is null in a valid one.
"""

import narwhals as nw
from narwhals.dtypes import DType

from onward.training.data.readers.columns import ColumnNames, describe_columns
from onward.training.data.readers.engine import SOURCE_ROW, Engine, Frame
from onward.training.data.readers.ids import first_failed, id_checks, id_text
from onward.training.data.readers.timestamps import number_of_text, with_epoch_ms
from onward.training.errors import InputError

EARLIEST_MS = 631_152_000_000
"""The start of 1990: an earlier time is a counter or a mistake."""
DAY_MS = 86_400_000
NO_INTERACTION = "weight of 0 or less"
"""Problem of a well-formed event that is not an interaction: the visitor only saw the item, or disliked it."""
EPOCH_MS = "_epoch_ms"
SESSION_FAULT, ITEM_FAULT = "session_fault", "item_fault"

EVENT_COLUMNS = ("session_id", "item_id", "timestamp_ms", "sequence", "source", SOURCE_ROW, "problem")


def read_events(
    engine: Engine, rows: Frame, path: str, columns: ColumnNames, *, source: int, latest_ms: int, blank_lines: bool
) -> Frame:
    """Turn the rows of one file into events. Raises InputError if a column is missing or has an unsuitable type.

    Args:
        columns: the column of each role; its session column holds the session id.
        source: the number of the file among the input files, which keeps events in input order.
        latest_ms: a later time is a mistake.
        blank_lines: skip rows without any value, which are empty lines of a text file, instead of reporting them.
    """
    names = list(rows.collect_schema())
    session = _required_column(path, "session", columns.session, names)
    item = _required_column(path, "item", columns.item, names)
    rows = _used_columns(rows, columns, blank_lines=blank_lines)
    rows = with_epoch_ms(engine, rows, path, columns.time, EPOCH_MS)
    schema = rows.collect_schema()
    events = rows.select(
        id_text(path, session, schema[session]).alias("session_id"),
        id_text(path, item, schema[item]).alias("item_id"),
        nw.col(EPOCH_MS).alias("timestamp_ms"),
        _number(path, "position", columns.position, schema.get(columns.position or "")).alias("sequence"),
        nw.lit(source, dtype=nw.Int32).alias("source"),
        nw.col(SOURCE_ROW),
        (nw.col(columns.time).is_null() if columns.time else nw.lit(False)).alias("without_time"),
        _number(path, "weight", columns.weight, schema.get(columns.weight or "")).alias("weight"),
    )
    events = engine.with_id_faults(events, {"session_id": SESSION_FAULT, "item_id": ITEM_FAULT})
    return events.with_columns(_problem(columns, latest_ms).alias("problem")).select(EVENT_COLUMNS)


def flag_duplicates(events: Frame) -> Frame:
    """Mark every valid event that repeats an earlier one with the same session, item, time and position.

    A date alone cannot distinguish a repeated click from a repeated row: an event without a position is a duplicate
    only if its time has a time of day (is not midnight UTC).
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


def _required_column(path: str, role: str, column: str | None, names: list[str]) -> str:
    if column is None:
        known = describe_columns([name for name in names if name != SOURCE_ROW])
        raise InputError(f"{path}: cannot tell which column is the {role} id; give --{role}-column ({known})")
    return column


def _used_columns(rows: Frame, columns: ColumnNames, *, blank_lines: bool) -> Frame:
    names = list(dict.fromkeys(name for name in columns.model_dump().values() if name is not None))
    rows = rows.select(SOURCE_ROW, *names)
    return (
        rows.filter(~nw.all_horizontal(*(nw.col(name).is_null() for name in names), ignore_nulls=False))
        if blank_lines
        else rows
    )


def _number(path: str, role: str, column: str | None, dtype: DType | None) -> nw.Expr:
    if column is None or dtype is None:
        return nw.lit(None, dtype=nw.Float64)
    if dtype == nw.String:
        return number_of_text(column)
    if dtype.is_numeric():
        return nw.col(column).cast(nw.Float64)
    raise InputError(f"{path}: column {column!r} holds {dtype}, which cannot be a {role}; give --{role}-column")


def _problem(columns: ColumnNames, latest_ms: int) -> nw.Expr:
    """Return the first problem of an event, or null."""
    time = nw.col("timestamp_ms")
    id_role = "user" if columns.session == columns.user else "session"
    checks = [*id_checks("session_id", SESSION_FAULT, id_role), *id_checks("item_id", ITEM_FAULT, "item")]
    if columns.time:
        checks += [
            (nw.col("without_time"), nw.lit("missing time")),
            (time.is_null(), nw.lit("unreadable time")),
            (time < EARLIEST_MS, nw.lit("time before 1990")),
            (time > latest_ms, nw.lit("time in the future")),
        ]
    if columns.position:
        checks.append((nw.col("sequence").is_null(), nw.lit("missing or unreadable position")))
    if columns.weight:
        checks.append((nw.col("weight") <= 0, nw.lit(NO_INTERACTION)))
    return first_failed(checks)
