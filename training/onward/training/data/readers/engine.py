"""The protocol of data frame engines: they read and write events; all other steps are narwhals code for any engine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import narwhals as nw
import polars as pl

from onward.training.data.readers.columns import ColumnNames
from onward.training.data.readers.dialect import Dialect
from onward.training.data.readers.formats import Format, Layout
from onward.training.data.readers.sources import Found, Source

Frame: TypeAlias = nw.LazyFrame[Any]

SOURCE_FILE, SOURCE_ROW = "_source_file", "_source_row"
"""The columns that `scan` adds: the number of a row's file among those of the table, from 0, and the number of the row
in its file, from 1, without header lines."""
ELEMENT = "_element"
"""The column of a table whose rows held several events: the place of the event in its row, from 0."""
ROW_FAULT = "_row_fault"
"""The column of a table that may have broken rows: what is wrong with a row, null if nothing is."""
EMPTY_LINE = "empty line"
"""The fault of a line of a text file that is empty."""
PARQUET_LEVEL = 1
"""Level of Zstandard: files are about as small as by higher levels, for half of the time."""
OWN_COLUMNS = {SOURCE_FILE, SOURCE_ROW, ELEMENT, ROW_FAULT}


@dataclass(frozen=True)
class Table:
    """Consecutive files of the same columns as one lazy frame."""

    frame: Frame
    """Its columns are those of the files, and SOURCE_FILE, SOURCE_ROW, maybe ELEMENT and ROW_FAULT."""
    sources: tuple[Source, ...]
    rows: int | None
    """The number of rows by a count of its own; None if there was none."""
    layout: Layout | None = None
    """The layout of text files, None of others."""
    first_line: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The first file, for error messages."""
        return self.sources[0].path

    @property
    def names(self) -> list[str]:
        """The columns of the files."""
        return [name for name in self.frame.collect_schema() if name not in OWN_COLUMNS]


class Engine(Protocol):
    """Reads files as lazy frames and computes them; raises errors of its library as InputError."""

    def find(self, path: str, file_format: Format | None) -> Found:
        """Return the files that `path` names: itself, or those of a folder. Raises InputError if there is no file."""
        ...

    def scan(self, sources: Sequence[Source], dialect: Dialect, columns: ColumnNames) -> Iterator[Table]:
        """Yield the rows of files; `columns` are those that were named. Raises InputError if a file is unreadable."""
        ...

    def unfold(self, frame: Frame, column: str) -> Frame:
        """Give each value of a list its own row, with its place as ELEMENT. Raises InputError if that is impossible."""
        ...

    def with_epoch_ms(self, frame: Frame, iso_text: str, epoch_ms: str) -> Frame:
        """Add `epoch_ms`: the instant of ISO 8601 text (UTC if it names no zone), null if the text is not ISO 8601."""
        ...

    def with_epoch_ms_by(self, frame: Frame, text: str, time_format: str, epoch_ms: str) -> Frame:
        """Add `epoch_ms`: the instant of text in a format of `strftime`, null if the text is not of that format."""
        ...

    def with_text_times(self, frame: Frame, column: str, epoch_ms: str, times: Callable[[Frame], Frame]) -> Frame:
        """Add `epoch_ms` (Int64), the instants of the texts of `column`, as `times` adds it to any frame with them."""
        ...

    def with_ids(self, frame: Frame, columns: Mapping[str, bool], nulls: Sequence[str], name: str) -> Frame:
        """Turn columns of ids as they are written into ids, which may be numbers that stand for texts until `write`.

        `columns` says of each whether its file holds text, which may have spaces at its ends or be one of `nulls`. For
        each, a column with FAULT says why the text is not an id, null if it is one, and one with STRIPPED whether it
        had spaces. What is materialized for it is called `name`.
        """
        ...

    def with_id_texts(self, frame: Frame) -> Frame:
        """Turn the ids of `session_id` and `item_id` into text."""
        ...

    def with_ordinals(self, frame: Frame, *, within: Sequence[str], order_by: Sequence[str], name: str) -> Frame:
        """Add `name`: the place, from 1, of each row among those that are equal in the columns `within`."""
        ...

    def cut_sessions(self, frame: Frame, number: str) -> Frame:
        """Turn each `session_id` S into the id of S-N, N being the row's value of the column `number`."""
        ...

    def of(self, frame: pl.DataFrame) -> Frame:
        """Turn a small table in local memory into a frame of this engine."""
        ...

    def materialize(self, frame: Frame, name: str) -> Frame:
        """Compute a frame once, into scratch files, and return a frame that reads them. Raises InputError."""
        ...

    def materialize_by_session(self, frame: Frame, step: Callable[[Frame], Frame], name: str) -> Frame:
        """Materialize `step(frame)`; `step` must treat each `session_id` independently of the others."""
        ...

    def write(self, frame: Frame, file: Path, *, sort_by: Sequence[str], columns: Sequence[str]) -> None:
        """Write `columns` of a frame to one Parquet file, sorted, with ids as text.

        The first column of `sort_by` must hold integers.
        """
        ...
