"""Turn the rows of files into events: ids, times in epoch milliseconds, and the problem of each unusable row.

Pure functions of lazy frames. An event has the columns of EVENT_COLUMNS; `problem` is null in a valid one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import narwhals as nw
from narwhals.dtypes import DType

from onward.training.data.readers.columns import ColumnNames, describe_columns, suggested_path
from onward.training.data.readers.dialect import Dialect
from onward.training.data.readers.engine import (
    ELEMENT,
    EMPTY_LINE,
    ROW_FAULT,
    SOURCE_FILE,
    SOURCE_ROW,
    Engine,
    Frame,
    Table,
)
from onward.training.data.readers.formats import describe_headerless
from onward.training.data.readers.ids import STRIPPED, Check, first_failed, id_checks, is_text, written_text
from onward.training.data.readers.timestamps import TimeFormat, number_of_text, with_epoch_ms
from onward.training.errors import InputError

EARLIEST_MS = 631_152_000_000
"""The start of 1990: an earlier time is a counter or a mistake."""
DAY_MS = 86_400_000
NO_INTERACTION = "weight of 0 or less"
"""Problem of a well-formed event that is not an interaction: the visitor only saw the item, or disliked it."""
EVENT_TYPE = "event type "
"""Start of the problem of an event whose type is left out."""
IMPRESSIONS = ("impression", "impressions", "itemimpression", "viewitemlist", "view_item_list")
"""Types of events that say that an item was shown, in lower case."""
LEFT_OUT = (*IMPRESSIONS, "bounce", "bounces", "ranking")
"""Types of events that are no interactions with an item, in lower case."""
UNREADABLE_TIME = "unreadable time"
EPOCH_MS = "_epoch_ms"
SHOWN_CHARACTERS = 80

EVENT_COLUMNS = (
    *("session_id", "item_id", "timestamp_ms", "sequence", "event", "weight"),
    *("source", SOURCE_ROW, "stripped", "problem"),
)


@dataclass(frozen=True)
class Reading:
    """How the rows of a table become events."""

    columns: ColumnNames
    """The column of each role; its session column holds the session id."""
    dialect: Dialect
    time_format: TimeFormat
    position_counts: bool
    """Whether the position orders events, so that each must have one; else it only orders events of one time."""
    weights: Mapping[str, float] | None
    """Weights of types of events, in lower case; other types are left out. None: all types count."""
    latest_ms: int
    """A later time is a mistake."""


def read_events(engine: Engine, table: Table, reading: Reading, *, first_source: int, name: str) -> Frame:
    """Turn the rows of a table into events. Raises InputError if a column is missing or has an unsuitable type.

    `first_source` is the number of the table's first file among the input files, which keeps events in input order.
    What is materialized for them has a name that begins with `name`.
    """
    columns, path = reading.columns, table.path
    session, item = required_columns(table, columns)
    rows = _used_columns(table.frame, columns)
    rows = with_epoch_ms(engine, rows, path, columns.time, reading.time_format, EPOCH_MS)
    schema = rows.collect_schema()
    nulls = reading.dialect.nulls
    element = nw.col(ELEMENT).cast(nw.Float64) if ELEMENT in schema else nw.lit(None, dtype=nw.Float64)
    without_time = nw.lit(False) if columns.time is None else _is_null(columns.time, schema[columns.time], nulls)
    events = rows.select(
        written_text(path, session, schema[session]).alias("session_id"),
        written_text(path, item, schema[item]).alias("item_id"),
        nw.col(EPOCH_MS).alias("timestamp_ms"),
        (
            element
            if columns.position is None
            else _number(path, "position", columns.position, schema[columns.position], required=reading.position_counts)
        ).alias("sequence"),
        _event(columns.event, nulls).alias("event"),
        _weight(path, columns, schema, reading.weights).alias("weight"),
        (nw.col(SOURCE_FILE) + first_source).cast(nw.Int32).alias("source"),
        nw.col(SOURCE_ROW),
        without_time.alias("without_time"),
        (nw.col(ROW_FAULT) if ROW_FAULT in schema else nw.lit(None, dtype=nw.String)).alias(ROW_FAULT),
    )
    as_text = {"session_id": is_text(schema[session]), "item_id": is_text(schema[item])}
    events = engine.with_ids(events, as_text, nulls, f"{name} from file {first_source}")
    stripped = nw.col("session_id" + STRIPPED) | nw.col("item_id" + STRIPPED)
    return events.with_columns(stripped.alias("stripped"), _problem(reading).alias("problem")).select(EVENT_COLUMNS)


def required_columns(table: Table, columns: ColumnNames) -> tuple[str, str]:
    """Return the columns of the session and of the item. Raises InputError if one is missing."""
    session = _required_column(table, "session", columns.session)
    return session, _required_column(table, "item", columns.item)


def flag_duplicates(engine: Engine, events: Frame) -> Frame:
    """Mark every valid event that repeats an earlier one with the same session, item, time, type and position.

    A date alone cannot distinguish a repeated click from a repeated row: an event without a position is a duplicate
    only if its time has a time of day (is not midnight UTC).
    """
    events = engine.with_ordinals(
        events,
        within=("session_id", "item_id", "timestamp_ms", "sequence", "event", "problem"),
        order_by=("source", SOURCE_ROW),
        name="_ordinal",
    )
    has_clock = (nw.col("timestamp_ms") % DAY_MS != 0).fill_null(False)
    can_tell = ~nw.col("sequence").is_null() | has_clock
    repeated = nw.col("problem").is_null() & can_tell & (nw.col("_ordinal") > 1)
    problem = nw.when(repeated).then(nw.lit("duplicate")).otherwise(nw.col("problem"))
    return events.with_columns(problem.alias("problem")).drop("_ordinal")


def is_mistake(problem: str) -> bool:
    """Return whether a row with this problem is wrong, rather than no interaction."""
    return problem not in (NO_INTERACTION, EMPTY_LINE) and not problem.startswith(EVENT_TYPE)


def _required_column(table: Table, role: str, column: str | None) -> str:
    if column is not None:
        return column
    if table.layout is not None and table.layout.headerless:
        raise InputError(describe_headerless(table.path, table.first_line))
    if table.layout is not None and table.layout.separator is not None and len(table.names) == 1:
        shown = (
            table.first_line
            if len(table.first_line) <= SHOWN_CHARACTERS
            else f"{table.first_line[:SHOWN_CHARACTERS]}..."
        )
        raise InputError(
            f"{table.path}: the first line has no columns, {shown!r}; "
            "delete what stands before the header, or give the --separator of its names"
        )
    path = suggested_path(role, table.names)
    option = f"give --{role}-column" + ("" if path is None else f", such as --{role}-column {path}")
    if role == "session":
        option += ", or --user-column for sessions by idle time"
    known = describe_columns(table.names)
    raise InputError(f"{table.path}: cannot tell which column is the {role} id; {option} ({known})")


def _used_columns(rows: Frame, columns: ColumnNames) -> Frame:
    used = [name for name in columns.model_dump().values() if name is not None]
    own = [name for name in (ELEMENT, ROW_FAULT) if name in rows.collect_schema()]
    return rows.select(SOURCE_FILE, SOURCE_ROW, *own, *dict.fromkeys(used))


def _is_null(column: str, dtype: DType, nulls: tuple[str, ...]) -> nw.Expr:
    value = nw.col(column)
    return value.is_null() | value.is_in(list(nulls)).fill_null(False) if dtype == nw.String else value.is_null()


def _event(column: str | None, nulls: tuple[str, ...]) -> nw.Expr:
    if column is None:
        return nw.lit(None, dtype=nw.String)
    text = nw.col(column).cast(nw.String)
    return nw.when(~text.is_in(list(nulls))).then(text)


def _weight(
    path: str, columns: ColumnNames, schema: Mapping[str, DType], weights: Mapping[str, float] | None
) -> nw.Expr:
    if weights is None or columns.event is None:
        return _number(path, "weight", columns.weight, schema.get(columns.weight or ""), required=True)
    event = nw.col(columns.event).cast(nw.String).str.to_lowercase()
    weight = nw.lit(None, dtype=nw.Float64)
    for name, value in weights.items():
        weight = nw.when(event == name).then(nw.lit(value)).otherwise(weight)
    return weight


def _number(path: str, role: str, column: str | None, dtype: DType | None, *, required: bool) -> nw.Expr:
    if column is not None and dtype is not None:
        if dtype == nw.String:
            return number_of_text(column)
        if dtype.is_numeric():
            return nw.col(column).cast(nw.Float64)
        if required:
            raise InputError(f"{path}: column {column!r} holds {dtype}, which cannot be a {role}; give --{role}-column")
    return nw.lit(None, dtype=nw.Float64)


def _problem(reading: Reading) -> nw.Expr:
    """Return the first problem of an event, or null."""
    columns = reading.columns
    time = nw.col("timestamp_ms")
    id_role = "user" if columns.session == columns.user else "session"
    checks: list[Check] = [(~nw.col(ROW_FAULT).is_null(), nw.col(ROW_FAULT))]
    checks += _checks_of_type(reading)
    checks += [*id_checks("session_id", id_role), *id_checks("item_id", "item")]
    if columns.time:
        checks += [
            (nw.col("without_time"), nw.lit("missing time")),
            (time.is_null(), nw.lit(UNREADABLE_TIME)),
            (time < EARLIEST_MS, nw.lit("time before 1990")),
            (time > reading.latest_ms, nw.lit("time in the future")),
        ]
    if columns.position and reading.position_counts:
        checks.append((nw.col("sequence").is_null(), nw.lit("missing or unreadable position")))
    if columns.weight or reading.weights:
        checks.append((nw.col("weight") <= 0, nw.lit(NO_INTERACTION)))
    return first_failed(checks)


def _checks_of_type(reading: Reading) -> list[Check]:
    event = nw.col("event")
    if reading.columns.event is None:
        return []
    if reading.weights is None:
        left_out = event.str.to_lowercase().is_in(list(LEFT_OUT)).fill_null(False)
        if reading.columns.weight is not None:
            left_out &= ~(nw.col("weight") <= 0).fill_null(False)
        return [(left_out, nw.concat_str(nw.lit(EVENT_TYPE), event))]
    unknown = ~event.str.to_lowercase().is_in(list(reading.weights))
    return [
        (event.is_null(), nw.lit("missing event type")),
        (unknown, nw.concat_str(nw.lit(EVENT_TYPE), event, nw.lit(", not in --weights"))),
    ]
