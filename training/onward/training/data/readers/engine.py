"""The protocol of data frame engines: they read and write events; all other steps are narwhals code for any engine."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import narwhals as nw
import polars as pl

from onward.training.data.readers.formats import Format

Frame: TypeAlias = nw.LazyFrame[Any]

SOURCE_ROW = "_source_row"
"""The column that `scan` adds: the number of a row in its file, from 1, without header lines."""


class Engine(Protocol):
    """Reads files as lazy frames and computes them; raises errors of its library as InputError."""

    def files(self, path: str) -> list[str]:
        """Return `path` itself, or the files of a folder sorted by name. Raises InputError if there is no file."""
        ...

    def scan(self, path: str, file_format: Format) -> Frame:
        """Return the rows of one file, with its own columns and SOURCE_ROW. Raises InputError if it is unreadable."""
        ...

    def with_epoch_ms(self, frame: Frame, iso_text: str, epoch_ms: str) -> Frame:
        """Add `epoch_ms`: the instant of ISO 8601 text (UTC if it names no zone), null if the text is not ISO 8601."""
        ...

    def with_id_faults(self, frame: Frame, columns: Mapping[str, str]) -> Frame:
        """For each column of text add the column that it maps to: why the text is not an id, null if it is one."""
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
        """Write `columns` of a frame to one Parquet file, sorted; the first column of `sort_by` must hold integers."""
        ...
