"""Read all input files of a preparation as one log of events, with the problems of their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import polars as pl

from onward.training.data.preparation.prepare_options import DEFAULT_GAP_MS, Preparation
from onward.training.data.readers.columns import ColumnNames, describe_columns
from onward.training.data.readers.engine import SOURCE_ROW, Engine, Frame
from onward.training.data.readers.events import flag_duplicates, read_events
from onward.training.data.readers.formats import Format, format_of
from onward.training.data.readers.row_problems import SHOWN_ROWS, RowProblem
from onward.training.errors import InputError


@dataclass(frozen=True)
class InputLog:
    """Events of several files; `preparation` is the requested one, completed by what the files determine."""

    events: Frame
    problems: tuple[RowProblem, ...]
    preparation: Preparation


def read_log(engine: Engine, arguments: Sequence[str], preparation: Preparation, latest_ms: int, name: str) -> InputLog:
    """Read files and folders, flag unusable rows and materialize the events under `name`.

    Raises InputError if a file is unreadable or lacks a column, or if files differ in the roles they have columns for.
    """
    files = [file for argument in arguments for file in engine.files(argument)]
    frames: list[Frame] = []
    roles: set[str] = set()
    for source, file in enumerate(files):
        file_format = preparation.format or format_of(file)
        rows = engine.scan(file, file_format)
        names = [name for name in rows.collect_schema() if name != SOURCE_ROW]
        columns = preparation.columns.find(file, names)
        preparation = _with_gap(preparation, columns)
        columns = _columns_to_read(file, preparation, columns, names)
        roles = roles or columns.roles
        if columns.roles != roles:
            differing = min(columns.roles ^ roles)
            raise InputError(f"{file}: unlike {files[0]} in its {differing} column; all files must have it, or none")
        blank_lines = file_format not in (Format.PARQUET, Format.JSONL)
        frames.append(
            read_events(engine, rows, file, columns, source=source, latest_ms=latest_ms, blank_lines=blank_lines)
        )
    unchecked = engine.materialize(nw.concat(frames), f"{name} as read")
    events = engine.materialize_by_session(unchecked, flag_duplicates, name)
    return InputLog(events, _problems(events, files), preparation)


def _with_gap(preparation: Preparation, columns: ColumnNames) -> Preparation:
    """Cut sessions by the default idle gap if the log has users but no session ids."""
    has_sessions = preparation.split.takes_histories or columns.session is not None
    if has_sessions or preparation.gap_ms is not None or columns.user is None:
        return preparation
    return preparation.model_copy(update={"gap_ms": DEFAULT_GAP_MS})


def _columns_to_read(path: str, preparation: Preparation, columns: ColumnNames, names: Sequence[str]) -> ColumnNames:
    """Return the columns to read; if users' events are cut at gaps or kept whole, the user id is the session id."""
    by_gap = preparation.gap_ms is not None
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


def _problems(events: Frame, files: Sequence[str]) -> tuple[RowProblem, ...]:
    bad = events.filter(~nw.col("problem").is_null()).select("source", "problem", SOURCE_ROW)
    ordinal = nw.col(SOURCE_ROW).cum_count().over("source", "problem", order_by=SOURCE_ROW)
    first = bad.filter(ordinal <= SHOWN_ROWS).collect("polars").to_native()
    counts = bad.group_by("source", "problem").agg(nw.len().alias("count")).collect("polars").to_native()
    rows = first.sort(SOURCE_ROW).group_by("source", "problem").agg(pl.col(SOURCE_ROW).alias("rows"))
    table = counts.join(rows, on=["source", "problem"]).sort("source", "problem")
    return tuple(
        RowProblem(
            kind=row["problem"], file=Path(files[row["source"]]).name, count=row["count"], first_rows=tuple(row["rows"])
        )
        for row in table.iter_rows(named=True)
    )
