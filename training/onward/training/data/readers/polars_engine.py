"""The engine for one machine: Polars, lazy and streaming, so that a log may be larger than memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import narwhals as nw
import polars as pl

from onward.training.data.readers.columns import ColumnNames
from onward.training.data.readers.dialect import Dialect
from onward.training.data.readers.engine import Frame, Table
from onward.training.data.readers.formats import Format
from onward.training.data.readers.ids import id_faults
from onward.training.data.readers.local_tables import local_tables, unfold
from onward.training.data.readers.sources import Found, Source, find_sources
from onward.training.errors import InputError

ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M%:z", "%Y-%m-%d %H:%M", "%Y-%m-%d")
"""Formats of ISO 8601 after `T` and `Z` are replaced; a time without a zone is UTC."""

BUCKET_ROWS = 4_000_000
"""Events that are sorted in memory at once, in about a gigabyte."""


class PolarsEngine:
    """Reads local files; intermediate frames lie in `scratch`.

    Logs of fewer events than `bucket_rows` are kept in memory. Beyond that, memory grows with the number of sessions
    and items and with `bucket_rows`, not with the number of events.
    """

    def __init__(self, scratch: Path, bucket_rows: int = BUCKET_ROWS) -> None:
        self._scratch = scratch
        self._bucket_rows = bucket_rows
        self._in_memory: bool | None = None  # unknown until the first log has been read

    def find(self, path: str, file_format: Format | None) -> Found:
        """See Engine."""
        if "://" in path:
            raise InputError(f"{path}: only local files can be read here; use --engine spark or download it first")
        return find_sources(path, file_format, self._scratch)

    def scan(self, sources: Sequence[Source], dialect: Dialect, columns: ColumnNames) -> Iterator[Table]:
        """See Engine."""
        return local_tables(sources, dialect, columns, self._scratch)

    def unfold(self, frame: Frame, column: str) -> Frame:
        """See Engine."""
        rows: pl.LazyFrame = frame.to_native()
        return nw.from_native(unfold(rows, column))

    def with_epoch_ms(self, frame: Frame, iso_text: str, epoch_ms: str) -> Frame:
        """See Engine."""
        text = pl.col(iso_text).str.replace(r"^(.{10})T", "$1 ").str.replace(r" ?(?:Z|UTC)$", "+00:00")
        text = text.str.replace(r"([+-]\d{2}):?(\d{2})$", "$1:$2")
        instants = (
            text.str.to_datetime(pattern, time_unit="ms", time_zone="UTC", strict=False) for pattern in ISO_FORMATS
        )
        rows: pl.LazyFrame = frame.to_native()
        return nw.from_native(rows.with_columns(pl.coalesce(*instants).dt.epoch("ms").alias(epoch_ms)))

    def with_epoch_ms_by(self, frame: Frame, text: str, time_format: str, epoch_ms: str) -> Frame:
        """See Engine."""
        rows: pl.LazyFrame = frame.to_native()
        value = pl.col(text).str.strip_chars()
        try:
            if "%H" in time_format or "%I" in time_format or "%s" in time_format or "%T" in time_format:
                zone = "UTC" if "%z" in time_format or "%Z" in time_format else None
                moment = value.str.to_datetime(time_format, time_unit="ms", time_zone=zone, strict=False)
            else:
                moment = value.str.to_date(time_format, strict=False).cast(pl.Datetime("ms"))
            return nw.from_native(rows.with_columns(moment.dt.epoch("ms").alias(epoch_ms)))
        except pl.exceptions.PolarsError as error:
            raise InputError(f"--time-format {time_format!r}: {_first_line(error)}") from error

    def with_id_faults(self, frame: Frame, columns: Mapping[str, str]) -> Frame:
        """See Engine."""
        rows: pl.LazyFrame = frame.to_native()
        return nw.from_native(
            rows.with_columns(id_faults(pl.col(column)).alias(fault) for column, fault in columns.items())
        )

    def of(self, frame: pl.DataFrame) -> Frame:
        """See Engine."""
        return nw.from_native(frame.lazy())

    def materialize(self, frame: Frame, name: str) -> Frame:
        """See Engine."""
        rows: pl.LazyFrame = frame.to_native()
        return nw.from_native(self._materialized(rows, name))

    def materialize_by_session(self, frame: Frame, step: Callable[[Frame], Frame], name: str) -> Frame:
        """See Engine. Window functions need all rows of a session at once, so sessions are hashed into buckets."""
        rows: pl.LazyFrame = frame.to_native()
        buckets = self._buckets(rows)
        self._in_memory = self._in_memory is not False and buckets == 1  # a log comes first, then its parts
        if buckets == 1:
            return self.materialize(step(frame), name)
        bucketed = self._split_into_buckets(rows, pl.col("session_id").hash() % buckets, buckets, name)
        results = [self.materialize(step(nw.from_native(bucket)), f"{name}-{i}") for i, bucket in enumerate(bucketed)]
        return nw.concat(results)

    def write(self, frame: Frame, file: Path, *, sort_by: Sequence[str], columns: Sequence[str]) -> None:
        """See Engine."""
        rows: pl.LazyFrame = frame.to_native()
        buckets = self._buckets(rows)
        if buckets == 1:
            self._sink(rows.sort(sort_by).select(columns), file)
            return
        rows = self._materialized(rows, file.stem)
        number = pl.col(sort_by[0])
        first, last = rows.select(number.min().alias("first"), number.max().alias("last")).collect().row(0)
        bucket = (number - first) * buckets // (last - first + 1)
        bucketed = self._split_into_buckets(rows, bucket, buckets, f"{file.stem}-bucketed")
        ordered = [self._materialized(part.sort(sort_by), f"{file.stem}-{i}") for i, part in enumerate(bucketed)]
        self._sink(pl.concat(ordered).select(columns), file)

    def _buckets(self, rows: pl.LazyFrame) -> int:
        return 1 + int(self._collected(rows.select(pl.len())).item()) // self._bucket_rows

    def _split_into_buckets(self, rows: pl.LazyFrame, bucket: pl.Expr, buckets: int, name: str) -> list[pl.LazyFrame]:
        """Write the rows of each value of `bucket` to a separate file; the query runs once per bucket."""
        files = [self._scratch / f"{name}-bucket-{i}.parquet" for i in range(buckets)]
        with _input_errors():
            pl.collect_all(
                [rows.filter(bucket == i).sink_parquet(file, lazy=True) for i, file in enumerate(files)],
                engine="streaming",
            )
        return [pl.scan_parquet(file) for file in files]

    def _materialized(self, rows: pl.LazyFrame, name: str) -> pl.LazyFrame:
        if self._in_memory:
            return self._collected(rows).lazy()
        file = self._scratch / f"{name}.parquet"
        self._sink(rows, file)
        return pl.scan_parquet(file)

    def _sink(self, rows: pl.LazyFrame, file: Path) -> None:
        with _input_errors():
            rows.sink_parquet(file, engine="streaming")

    def _collected(self, rows: pl.LazyFrame) -> pl.DataFrame:
        with _input_errors():
            return rows.collect(engine="streaming")


@contextmanager
def _input_errors() -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"reading or writing failed ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
