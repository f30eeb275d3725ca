"""The engine for one machine: Polars, lazy and streaming, so that a log may be larger than memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from onward.bundle.memory import available_memory
from onward.training.data.readers.columns import ColumnNames
from onward.training.data.readers.dialect import Dialect
from onward.training.data.readers.engine import PARQUET_LEVEL, Frame, Table
from onward.training.data.readers.formats import Format
from onward.training.data.readers.id_dictionary import IdDictionary
from onward.training.data.readers.ids import FAULT, STRIPPED
from onward.training.data.readers.local_tables import local_tables, unfold
from onward.training.data.readers.sources import Found, Source, find_sources
from onward.training.data.readers.timestamps import SECONDS_BELOW
from onward.training.errors import InputError

ISO_FORMATS = ("%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M%:z", "%Y-%m-%d %H:%M", "%Y-%m-%d")
"""Formats of ISO 8601 after `T` and `Z` are replaced; a time without a zone is UTC."""

BYTES_PER_ROW = 300
"""What an event takes in memory while it is prepared, at most about."""
MEMORY_SHARE = 0.3
"""The share of the available memory that events may take."""
LEAST_BUCKET_ROWS, MOST_BUCKET_ROWS = 1_000_000, 100_000_000
SESSIONS_PER_USER = 1 << 32
"""The id of a user's session is USER * SESSIONS_PER_USER + its number."""


class PolarsEngine:
    """Reads local files; intermediate frames lie in `scratch`.

    Logs of fewer events than `bucket_rows`, by default as many as a share of the available memory holds, are kept in
    memory. Beyond that, memory grows with the number of sessions and items and with `bucket_rows`, not with the number
    of events.
    """

    def __init__(self, scratch: Path, bucket_rows: int | None = None) -> None:
        self._scratch = scratch
        self._bucket_rows = rows_in_memory() if bucket_rows is None else bucket_rows
        self._in_memory: bool | None = None  # unknown until the rows of the first log have been counted
        self._ids = {"session_id": IdDictionary(), "item_id": IdDictionary()}

    def find(self, path: str, file_format: Format | None) -> Found:
        """See Engine."""
        return find_sources(path, file_format, self._scratch)

    def scan(self, sources: Sequence[Source], dialect: Dialect, columns: ColumnNames) -> Iterator[Table]:
        """See Engine."""
        rows: int | None = 0
        for table in local_tables(sources, dialect, columns, self._scratch):
            rows = None if rows is None or table.rows is None else rows + table.rows
            yield table
        if rows is not None:
            self._in_memory = self._in_memory is not False and rows < self._bucket_rows

    def unfold(self, frame: Frame, column: str) -> Frame:
        """See Engine."""
        rows: pl.LazyFrame = frame.to_native()
        self._in_memory = None if self._in_memory else self._in_memory  # there are more rows than were counted
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

    def with_text_times(self, frame: Frame, column: str, epoch_ms: str, times: Callable[[Frame], Frame]) -> Frame:
        """See Engine. Whole numbers of seconds and milliseconds are read without `times`, in a tenth of its time."""

        def instants(texts: pl.Series) -> pl.Series:
            known = plain_instants(texts)
            if known is None:
                rows: pl.LazyFrame = times(nw.from_native(texts.alias(column).to_frame().lazy())).to_native()
                known = rows.select(epoch_ms).collect().to_series()
            return known

        rows: pl.LazyFrame = frame.to_native()
        read = pl.col(column).map_batches(instants, return_dtype=pl.Int64, is_elementwise=True)
        return nw.from_native(rows.with_columns(read.alias(epoch_ms)))

    def with_ids(self, frame: Frame, columns: Mapping[str, bool], nulls: Sequence[str], name: str) -> Frame:
        """See Engine. Ids are numbers in one dictionary for each column, so that every text is looked at once."""
        rows: pl.LazyFrame = frame.to_native()
        rows = rows.with_columns(self._ids[column].numbers(pl.col(column)) for column in columns)
        rows = self._materialized(rows, name)
        highest = self._collected(rows.select(pl.col(*columns).max()))
        for column, as_text in columns.items():
            meanings = self._ids[column].meanings(highest[column].item(), nulls if as_text else None)
            number = pl.col(column)
            rows = rows.with_columns(
                _gathered(number, meanings.ids).alias(column),
                _gathered(number, meanings.stripped).alias(column + STRIPPED),
                _gathered(number, meanings.faults).alias(column + FAULT),
            )
        return nw.from_native(rows)

    def with_id_texts(self, frame: Frame) -> Frame:
        """See Engine."""
        rows: pl.LazyFrame = frame.to_native()
        return nw.from_native(self._with_texts(rows))

    def with_ordinals(self, frame: Frame, *, within: Sequence[str], order_by: Sequence[str], name: str) -> Frame:
        """See Engine. Rows whose hash no other row has need no window; a frame is computed for it, as a bucket is."""
        rows: pl.LazyFrame = frame.to_native()
        table = self._collected(rows)
        hashes = table.select(_hash(within, table.schema)).to_series()
        ordinals = np.ones(len(table), dtype=np.int64)
        if hashes.n_unique() < len(table):
            alike = hashes.is_duplicated()
            ordinal = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(within, order_by=order_by)
            ordinals[alike.to_numpy()] = table.filter(alike).select(ordinal).to_series().to_numpy()
        return nw.from_native(table.with_columns(pl.Series(name, ordinals)).lazy())

    def cut_sessions(self, frame: Frame, number: str) -> Frame:
        """See Engine. The number of the user and that of the session share 64 bits."""
        rows: pl.LazyFrame = frame.to_native()
        return nw.from_native(
            rows.with_columns(pl.col("session_id").cast(pl.Int64) * SESSIONS_PER_USER + pl.col(number))
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
        if self._in_memory:
            table = self._collected(rows).sort(sort_by).select(columns)
            self._sink(self._with_texts(table.lazy()), file)
            return
        buckets = self._buckets(rows)
        rows = self._materialized(rows, file.stem)
        number = pl.col(sort_by[0])
        first, last = rows.select(number.min().alias("first"), number.max().alias("last")).collect().row(0)
        bucket = (number - first) * buckets // (last - first + 1)
        bucketed = self._split_into_buckets(rows, bucket, buckets, f"{file.stem}-bucketed")
        ordered = [self._materialized(part.sort(sort_by), f"{file.stem}-{i}") for i, part in enumerate(bucketed)]
        self._sink(self._with_texts(pl.concat(ordered).select(columns)), file)

    def _with_texts(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Turn the numbers of ids into their texts."""
        schema = rows.collect_schema()
        for column, ids in self._ids.items():
            number = pl.col(column)
            if schema.get(column) == pl.UInt32:
                rows = rows.with_columns(ids.texts(number))
            elif schema.get(column) == pl.Int64:
                user = ids.texts((number // SESSIONS_PER_USER).cast(pl.UInt32))
                rows = rows.with_columns(pl.concat_str(user, number % SESSIONS_PER_USER, separator="-").alias(column))
        return rows

    def _buckets(self, rows: pl.LazyFrame) -> int:
        return 1 + int(self._collected(rows.select(pl.len())).item()) // self._bucket_rows

    def _split_into_buckets(self, rows: pl.LazyFrame, bucket: pl.Expr, buckets: int, name: str) -> list[pl.LazyFrame]:
        """Write the rows of each value of `bucket` to a separate file; the query runs once per bucket."""
        files = [self._scratch / f"{name}-bucket-{i}.arrow" for i in range(buckets)]
        with _input_errors():
            pl.collect_all(
                [rows.filter(bucket == i).sink_ipc(file, compression="lz4", lazy=True) for i, file in enumerate(files)],
                engine="streaming",
            )
        return [pl.scan_ipc(file) for file in files]

    def _materialized(self, rows: pl.LazyFrame, name: str) -> pl.LazyFrame:
        if self._in_memory:
            return self._collected(rows).lazy()
        file = self._scratch / f"{name}.arrow"
        with _input_errors():
            rows.sink_ipc(file, compression="lz4", engine="streaming")
        return pl.scan_ipc(file)

    def _sink(self, rows: pl.LazyFrame, file: Path) -> None:
        with _input_errors():
            rows.sink_parquet(file, compression_level=PARQUET_LEVEL, engine="streaming")

    def _collected(self, rows: pl.LazyFrame) -> pl.DataFrame:
        with _input_errors():
            return rows.collect(engine="streaming")


def rows_in_memory() -> int:
    """Return how many events may be kept in memory at once."""
    rows = int(MEMORY_SHARE * available_memory()) // BYTES_PER_ROW
    return min(max(rows, LEAST_BUCKET_ROWS), MOST_BUCKET_ROWS)


def plain_instants(texts: pl.Series) -> pl.Series | None:
    """Return the instants of whole numbers of seconds or milliseconds in epoch milliseconds.

    None if any text is not one of 9 to 11 or of 13 digits.
    """
    numbers = texts.cast(pl.Int64, strict=False)
    lengths = texts.str.len_bytes()
    is_plain = (lengths.is_between(9, 11) | (lengths == 13)) & (numbers >= 0) & ~texts.str.starts_with("+")
    if numbers.null_count() > texts.null_count() or not is_plain.all():
        return None
    number = pl.col(numbers.name)
    instants = pl.when(number < SECONDS_BELOW).then(number * 1000).otherwise(number)
    return numbers.to_frame().select(instants).to_series()


def _gathered(numbers: pl.Expr, values: pl.Series) -> pl.Expr:
    """Return the value of each number, null for null."""
    return numbers.map_batches(values.gather, return_dtype=values.dtype, is_elementwise=True)


def _hash(columns: Sequence[str], schema: pl.Schema) -> pl.Expr:
    """Return a hash of each row, the same for equal rows."""
    hashes = []
    for place, column in enumerate(columns):
        value = pl.col(column)
        if schema[column].is_float():
            value = value.fill_nan(None) + 0.0  # -0.0 is 0.0
        hashes.append(value.hash(seed=place))
    return pl.sum_horizontal(hashes)


@contextmanager
def _input_errors() -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"reading or writing failed ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
