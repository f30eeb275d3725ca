"""What reads and writes event frames; everything between is narwhals, the same for every engine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import narwhals as nw
import polars as pl

from onward.training.data.readers.formats import Format

Frame: TypeAlias = nw.LazyFrame[Any]

SOURCE_ROW = "_source_row"
"""The column that `scan` adds: a row's number in its file from 1, header lines not counted."""


class Engine(Protocol):
    """Reads files as lazy frames and computes them; a library's errors become InputError here."""

    def files(self, path: str) -> list[str]:
        """`path` itself, or the files of a folder by name. Raises InputError when there is nothing to read."""
        ...

    def scan(self, path: str, file_format: Format) -> Frame:
        """The rows of one file, in its own columns and SOURCE_ROW. Raises InputError."""
        ...

    def with_epoch_ms(self, frame: Frame, iso_text: str, epoch_ms: str) -> Frame:
        """Add `epoch_ms`: the instant that ISO 8601 text tells (UTC if it names no zone), null where it tells none."""
        ...

    def of(self, frame: pl.DataFrame) -> Frame:
        """A small table from the driver's memory."""
        ...

    def settle(self, frame: Frame, name: str) -> Frame:
        """Compute a frame once, into scratch files, and read it from there. Raises InputError."""
        ...

    def settle_by_session(self, frame: Frame, step: Callable[[Frame], Frame], name: str) -> Frame:
        """Settle `step(frame)`, where `step` never looks beyond the events of one `session_id`."""
        ...

    def write(self, frame: Frame, file: Path, *, sort_by: Sequence[str], columns: Sequence[str]) -> None:
        """Compute `columns` of a frame into one Parquet file, in order; the first of `sort_by` is a whole number."""
        ...
