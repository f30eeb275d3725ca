"""The engine for one machine: Polars, lazy and streaming, so that a log may be larger than memory."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import narwhals as nw
import polars as pl

from onward.training.data.readers.engine import SOURCE_ROW, Frame
from onward.training.data.readers.formats import BY_EXTENSION, SERVED_ANSWERS, Format, Layout, first_lines, layout
from onward.training.data.readers.ids import id_faults
from onward.training.errors import InputError

ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M%:z", "%Y-%m-%d %H:%M", "%Y-%m-%d")
"""Formats of ISO 8601 after `T` and `Z` are replaced; a time without a zone is UTC."""

BUCKET_ROWS = 4_000_000
"""Events that are sorted in memory at once, in about a gigabyte."""


class PolarsEngine:
    """Reads local files; intermediate frames lie in `scratch`.

    Memory grows with the number of sessions and items and with `bucket_rows`, not with the number of events.
    """

    def __init__(self, scratch: Path, bucket_rows: int = BUCKET_ROWS) -> None:
        self._scratch = scratch
        self._bucket_rows = bucket_rows

    def files(self, path: str) -> list[str]:
        """See Engine."""
        if "://" in path:
            raise InputError(f"{path}: only local files can be read here; use --engine spark or download it first")
        return local_files(path)

    def scan(self, path: str, file_format: Format) -> Frame:
        """See Engine."""
        if file_format is Format.PARQUET:
            rows = pl.scan_parquet(path, row_index_name=SOURCE_ROW, row_index_offset=1, glob=False)
        else:
            try:
                lines = first_lines(path)
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(f"{path}: cannot be read ({error})") from error
            rows = _scan_text(path, layout(path, file_format, lines))
        try:
            rows.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{path}: cannot be read as {file_format} ({_first_line(error)})") from error
        return nw.from_native(rows.with_columns(pl.col(SOURCE_ROW).cast(pl.Int64)))

    def with_epoch_ms(self, frame: Frame, iso_text: str, epoch_ms: str) -> Frame:
        """See Engine."""
        text = pl.col(iso_text).str.replace("T", " ", literal=True).str.replace(r" ?(?:Z|UTC)$", "+00:00")
        text = text.str.replace(r"([+-]\d{2}):?(\d{2})$", "$1:$2")
        instants = (
            text.str.to_datetime(pattern, time_unit="ms", time_zone="UTC", strict=False) for pattern in ISO_FORMATS
        )
        rows: pl.LazyFrame = frame.to_native()
        return nw.from_native(rows.with_columns(pl.coalesce(*instants).dt.epoch("ms").alias(epoch_ms)))

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
        file = self._scratch / f"{name}.parquet"
        self._sink(rows, file)
        return pl.scan_parquet(file)

    def _sink(self, rows: pl.LazyFrame, file: Path) -> None:
        with _input_errors():
            rows.sink_parquet(file, engine="streaming")

    def _collected(self, rows: pl.LazyFrame) -> pl.DataFrame:
        with _input_errors():
            return rows.collect(engine="streaming")


def local_files(path: str) -> list[str]:
    """Return a local file, or the files of a folder with a known extension, sorted by name.

    Raises InputError if there is no such file.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"{path}: there is no such file")
    if place.is_file():
        return [path]
    files = [
        str(file)
        for file in sorted(place.iterdir())
        if Path(file.name.removesuffix(".gz")).suffix in BY_EXTENSION and not fnmatch(file.name, SERVED_ANSWERS)
    ]
    if not files:
        raise InputError(f"{path}: no file of this folder is of a known format; name the files themselves")
    return files


def _scan_text(path: str, text: Layout) -> pl.LazyFrame:
    rows = pl.scan_csv(
        path,
        has_header=False,
        skip_lines=text.header_lines,
        schema=dict.fromkeys(text.names if text.separator else ("line",), pl.String),
        separator=text.separator or "\x01",
        quote_char='"' if text.separator else None,
        null_values=text.null_text,
        encoding="utf8-lossy",
        extra_columns="ignore",
        missing_columns="insert",
        row_index_name=SOURCE_ROW,
        row_index_offset=1,
        glob=False,
    )
    if text.separator:
        return rows
    fields = (pl.col("line").str.json_path_match(f"$['{name}']").alias(name) for name in text.names)
    return rows.filter(pl.col("line").is_not_null()).select(SOURCE_ROW, *fields)


@contextmanager
def _input_errors() -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"reading or writing failed ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
