"""Read all input files of a preparation as one log of events, with the problems of their rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import narwhals as nw
import polars as pl

from onward.training.data.preparation.account import ColumnTaken
from onward.training.data.preparation.prepare_options import DEFAULT_GAP_MS, Preparation
from onward.training.data.readers.columns import GUESSES, ColumnNames, describe_columns, plain_name
from onward.training.data.readers.engine import SOURCE_ROW, Engine, Frame, Table
from onward.training.data.readers.events import UNREADABLE_TIME, Reading, flag_duplicates, read_events, required_columns
from onward.training.data.readers.formats import DIGINETICA_COLUMNS
from onward.training.data.readers.row_problems import SHOWN_ROWS, RowProblem
from onward.training.data.readers.sources import IgnoredFile, Source
from onward.training.data.readers.timestamps import find_time_format
from onward.training.errors import InputError

PLURALS = ("itemids", "itemidlist", "items", "productids", "products")
"""Names of columns that may hold several items."""


@dataclass(frozen=True)
class InputLog:
    """Events of several files; `preparation` is the requested one, completed by what the files determine."""

    events: Frame
    problems: tuple[RowProblem, ...]
    preparation: Preparation
    columns: tuple[ColumnTaken, ...]
    times: str | None
    files: tuple[str, ...]
    ignored: tuple[IgnoredFile, ...]
    rows: int
    has_events: bool
    """Whether a file has a column of types of events."""
    has_weights: bool
    position_counts: bool
    """Whether positions come before times in the order of events."""
    remarks: tuple[str, ...]
    time_example: str | None
    """The first time as it is written, None if all are times."""


def read_log(engine: Engine, arguments: Sequence[str], preparation: Preparation, latest_ms: int, name: str) -> InputLog:
    """Read files and folders, flag unusable rows and materialize the events under `name`.

    Raises InputError if a file is unreadable or lacks a column, or if files differ in the roles they have columns for.
    """
    found = [engine.find(argument, preparation.format) for argument in arguments]
    sources = [source for files in found for source in files.sources]
    tables = [
        _Taken(table, preparation.columns.find(table.path, table.names))
        for table in engine.scan(sources, preparation.dialect, preparation.columns)
    ]
    if not tables:
        raise InputError(f"{arguments[0]}: no usable event: every file is empty")
    for taken in tables:
        preparation = _with_gap(preparation, taken.columns)
    tables = [_taken(engine, preparation, table) for table in tables]
    for taken in tables:
        required_columns(taken.table, taken.columns)
    position_counts = _position_counts(preparation, tables)
    _check_roles(tables, position_counts=position_counts)
    timed = [(t.table.path, t.table.frame, t.columns.time) for t in tables if t.columns.time is not None]
    time_format = find_time_format(timed, preparation.dialect.time_format)
    frames: list[Frame] = []
    first_source = 0
    for taken in tables:
        reading = Reading(
            taken.columns, preparation.dialect, time_format, position_counts, preparation.weights, latest_ms
        )
        frames.append(read_events(engine, taken.table, reading, first_source=first_source, name=name))
        first_source += len(taken.table.sources)
    unchecked = engine.materialize(nw.concat(frames), f"{name} as read")
    rows = _checked_rows(unchecked, [taken.table for taken in tables])
    events = engine.materialize_by_session(unchecked, partial(flag_duplicates, engine), name)
    files = [source for taken in tables for source in taken.table.sources]
    problems = _problems(events, files)
    return InputLog(
        events,
        problems,
        preparation,
        columns=tuple(_columns_taken(preparation, tables)),
        times=str(time_format) if timed else None,
        files=tuple(source.name for source in files),
        ignored=(*(file for part in found for file in part.ignored), *_empty(sources, files)),
        rows=rows,
        has_events=any(taken.columns.event is not None for taken in tables),
        has_weights=preparation.weights is not None or any(taken.columns.weight is not None for taken in tables),
        position_counts=position_counts,
        remarks=tuple(_remarks(events, [taken.table for taken in tables])),
        time_example=_time_example(tables) if any(row.kind == UNREADABLE_TIME for row in problems) else None,
    )


@dataclass(frozen=True)
class _Taken:
    """A table and its columns."""

    table: Table
    columns: ColumnNames


def _taken(engine: Engine, preparation: Preparation, taken: _Taken) -> _Taken:
    table = _with_rows_of_items(engine, preparation, taken)
    return _Taken(table, _columns_to_read(table.path, preparation, taken.columns, table.names))


def _with_rows_of_items(engine: Engine, preparation: Preparation, taken: _Taken) -> Table:
    """Give every item of a cell that holds several a row of its own. Raises InputError if it may, but need not, be."""
    table, item = taken.table, taken.columns.item
    if item is None:
        return table
    schema = table.frame.collect_schema()
    frame = table.frame
    separator = preparation.item_separator
    sequences = () if table.layout is None else table.layout.sequences
    cell = next((name for name in (f"{item}_list", item) if name in sequences), None)
    if isinstance(schema[item], nw.List):
        return _unfolded(engine, table, frame, item)
    if cell is not None:
        separator = separator or " "
        columns = [nw.col(name) for name in dict.fromkeys((cell, cell.removesuffix("_list"))) if name in table.names]
        parts = nw.concat_str(*columns, separator=separator, ignore_nulls=True).str.split(separator)
        return _unfolded(engine, table, frame.with_columns(parts.alias(item)), item)
    if separator is not None and schema[item] == nw.String:
        parts = nw.col(item).str.strip_chars().str.split(separator)
        return _unfolded(engine, table, frame.with_columns(parts.alias(item)), item)
    if plain_name(item) in PLURALS and preparation.columns.item is None and schema[item] == nw.String:
        raise InputError(
            f"{table.path}: column {item!r} may hold several items; give --item-separator ' ' (or another), or "
            f"--item-column {item} if it holds one"
        )
    return table


def _unfolded(engine: Engine, table: Table, frame: Frame, item: str) -> Table:
    return Table(engine.unfold(frame, item), table.sources, None, table.layout, table.first_line, table.remarks)


def _position_counts(preparation: Preparation, tables: Sequence[_Taken]) -> bool:
    """Return whether positions come before times: if a position was named, by Diginetica's format, or without times."""
    if preparation.columns.position is not None:
        return True
    return any(
        taken.columns.position is not None
        and (taken.columns.time is None or set(map(str.lower, taken.table.names)) >= DIGINETICA_COLUMNS)
        for taken in tables
    )


def _check_roles(tables: Sequence[_Taken], *, position_counts: bool) -> None:
    ignored = set() if position_counts else {"position"}
    roles = tables[0].columns.roles - ignored
    for taken in tables[1:]:
        if differing := (taken.columns.roles - ignored) ^ roles:
            path, first = taken.table.path, tables[0].table.path
            raise InputError(f"{path}: unlike {first} in its {min(differing)} column; all files must have it, or none")


def _with_gap(preparation: Preparation, columns: ColumnNames) -> Preparation:
    """Cut sessions by the default idle gap if the log has users but no session ids."""
    has_sessions = preparation.split.takes_histories or columns.session is not None
    if has_sessions or preparation.gap_ms is not None or columns.user is None:
        return preparation
    return preparation.model_copy(update={"gap_ms": DEFAULT_GAP_MS})


def _columns_to_read(path: str, preparation: Preparation, columns: ColumnNames, names: Sequence[str]) -> ColumnNames:
    """Return the columns to read; if users' events are cut at gaps or kept whole, the user id is the session id."""
    by_gap = preparation.gap_ms is not None
    if columns.item is None or (columns.session is None and columns.user is None):
        return columns
    if preparation.split.needs_time and columns.time is None:
        raise InputError(
            f"{path}: a temporal split needs times; give --time-column ({describe_columns(names)}) or another --split"
        )
    if by_gap and (columns.user is None or columns.time is None):
        missing = "user" if columns.user is None else "time"
        options = f"give --{missing}-column, or --session-column for sessions as they are"
        raise InputError(f"{path}: sessions by idle gap need a {missing} column; {options} ({describe_columns(names)})")
    by_user = by_gap or (preparation.split.takes_histories and columns.user is not None)
    session = columns.user if by_user else columns.session
    return columns.model_copy(update={"session": session, "user": session if by_user else None})


def _columns_taken(preparation: Preparation, tables: Sequence[_Taken]) -> Iterator[ColumnTaken]:
    """Yield the columns of the first table that has one, by role."""
    for role in GUESSES:
        columns = (getattr(taken.columns, role) for taken in tables)
        column = next((column for column in columns if column is not None), None)
        if column is None or (role == "session" and column == tables[0].columns.user):
            continue
        given = getattr(preparation.columns, role) is not None
        yield ColumnTaken(role=role, column=column, how="given" if given else "guessed")


def _checked_rows(events: Frame, tables: Sequence[Table]) -> int:
    """Return the number of rows that were read. Raises InputError if it is not the number of rows of the files."""
    rows = _count(events)
    counts = [table.rows for table in tables]
    expected = sum(count for count in counts if count is not None)
    if None not in counts and rows != expected:
        path = tables[0].path if len(tables) == 1 else f"the {sum(len(table.sources) for table in tables)} files"
        raise InputError(
            f"{path}: {expected:,} rows were counted, but {rows:,} read; "
            "look for lone quote marks and carriage returns, or give --quote ''"
        )
    return rows


def _time_example(tables: Sequence[_Taken]) -> str | None:
    for taken in tables:
        if taken.columns.time is not None:
            time = nw.col(taken.columns.time).cast(nw.String)
            first = taken.table.frame.select(time.alias("time")).filter(~nw.col("time").is_null()).head(1)
            for example in first.collect("polars").to_native()["time"]:
                return str(example)
    return None


def _count(events: Frame) -> int:
    return int(events.select(nw.len()).collect("polars").to_native().item())


def _empty(sources: Sequence[Source], read: Sequence[Source]) -> Iterator[IgnoredFile]:
    paths = {source.path for source in read}
    return (IgnoredFile(name=source.name, reason="empty") for source in sources if source.path not in paths)


def _remarks(events: Frame, tables: Sequence[Table]) -> Iterator[str]:
    yield from (remark for table in tables for remark in table.remarks)
    stripped = _count(events.filter(nw.col("stripped")))
    if stripped:
        yield f"{stripped:,} events had ids with spaces at their ends, which were taken off"


def _problems(events: Frame, files: Sequence[Source]) -> tuple[RowProblem, ...]:
    bad = events.filter(~nw.col("problem").is_null()).select("source", "problem", SOURCE_ROW)
    ordinal = nw.col(SOURCE_ROW).cum_count().over("source", "problem", order_by=SOURCE_ROW)
    first = bad.filter(ordinal <= SHOWN_ROWS).collect("polars").to_native()
    counts = bad.group_by("source", "problem").agg(nw.len().alias("count")).collect("polars").to_native()
    rows = first.sort(SOURCE_ROW).group_by("source", "problem").agg(pl.col(SOURCE_ROW).alias("rows"))
    table = counts.join(rows, on=["source", "problem"]).sort("source", "problem")
    return tuple(
        RowProblem(
            kind=row["problem"], file=files[row["source"]].name, count=row["count"], first_rows=tuple(row["rows"])
        )
        for row in table.iter_rows(named=True)
    )
