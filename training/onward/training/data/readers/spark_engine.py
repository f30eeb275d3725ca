"""The engine for a cluster: Spark, through the same narwhals expressions; it reads Spark's own configuration.

Files are local, on a disk mounted at the same path on every worker, or anything Spark has a connector for
(`s3a://...`). Intermediate files lie in `scratch`, which every worker must be able to access too.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from onward.bundle import id_fault
from onward.bundle.files import id_rule
from onward.training.data.readers.columns import ColumnNames
from onward.training.data.readers.dialect import Dialect
from onward.training.data.readers.engine import PARQUET_LEVEL, ROW_FAULT, SOURCE_FILE, SOURCE_ROW, Frame, Table
from onward.training.data.readers.formats import SAMPLED_LINES, Format, Layout, format_of, layout
from onward.training.data.readers.ids import FAULT, PLAIN_ID, STRIPPED, has_spaces, id_of_text
from onward.training.data.readers.json_rows import NO_OBJECT
from onward.training.data.readers.local_tables import EXTRA_FIELD, TOO_MANY_FIELDS, read_text_table
from onward.training.data.readers.plain_text import plain_text
from onward.training.data.readers.sources import Found, Source, find_sources
from onward.training.errors import InputError

try:
    from py4j.protocol import Py4JError
    from pyspark import cloudpickle
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame, SparkSession, Window
    from pyspark.sql import functions as F
    from pyspark.sql.types import StringType, StructField, StructType
except ImportError as error:
    raise InputError("--engine spark needs the spark extra: pip install 'onward[spark]'") from error

cloudpickle.register_pickle_by_value(id_rule)  # workers need Python, but not this package
_fault_by_worker = F.udf(lambda text: None if text is None else id_fault(text), StringType(), useArrow=False)


class SparkEngine:
    """Runs in the session of Spark's configuration; on this machine if the configuration names no master."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch.resolve()
        with _input_errors("Spark did not start; it needs Java 17 or newer"):
            self._spark = SparkSession.builder.appName("onward-training prepare").getOrCreate()
        self._spark.sparkContext.setLogLevel("ERROR")
        self._spark.conf.set("spark.sql.session.timeZone", "UTC")
        self._spark.conf.set("spark.sql.ansi.enabled", "false")

    def find(self, path: str, file_format: Format | None) -> Found:
        """See Engine."""
        if "://" in path:
            return Found((Source(path, file_format or format_of(path), path),))
        return find_sources(path, file_format, self._scratch)

    def scan(self, sources: Sequence[Source], dialect: Dialect, columns: ColumnNames) -> Iterator[Table]:
        """See Engine. If a path is a folder, rows are numbered across its files, in order of their names."""
        for source in sources:
            if source.format is Format.MIND:
                raise InputError(f"{source.path}: --engine spark does not read {source.format}")
            with _input_errors(f"{source.path}: cannot be read as {source.format}"):
                table = self._scan(source, dialect)
            if table is not None:
                yield table

    def unfold(self, frame: Frame, column: str) -> Frame:
        """Refuse: see Engine."""
        raise InputError(f"column {column!r} holds several items, which --engine spark does not read")

    def with_epoch_ms(self, frame: Frame, iso_text: str, epoch_ms: str) -> Frame:
        """See Engine."""
        text = F.regexp_replace(F.col(iso_text), r" ?(?:Z|UTC)$", "+00:00")
        text = F.regexp_replace(text, r"([+-]\d{2}):?(\d{2})$", "$1:$2")
        rows: DataFrame = frame.to_native()
        return _lazy(rows.withColumn(epoch_ms, F.unix_millis(F.try_to_timestamp(text))))

    def with_epoch_ms_by(self, frame: Frame, text: str, time_format: str, epoch_ms: str) -> Frame:
        """Refuse: see Engine."""
        raise InputError(f"--engine spark reads numbers and ISO 8601 as times, not {time_format!r}")

    def with_text_times(self, frame: Frame, column: str, epoch_ms: str, times: Callable[[Frame], Frame]) -> Frame:
        """See Engine."""
        return times(frame)

    def with_ids(self, frame: Frame, columns: Mapping[str, bool], nulls: Sequence[str], name: str) -> Frame:
        """See Engine. Ids are text."""
        for column, as_text in columns.items():
            text = nw.col(column)
            frame = frame.with_columns(
                (id_of_text(text, nulls) if as_text else text).alias(column),
                (has_spaces(text) if as_text else nw.lit(False)).alias(column + STRIPPED),
            )
        rows: DataFrame = frame.to_native()
        for column in columns:
            others = F.when(~F.col(column).rlike(PLAIN_ID), F.col(column))
            rows = rows.withColumn(column + FAULT, _fault_by_worker(others))
        return _lazy(rows)

    def with_id_texts(self, frame: Frame) -> Frame:
        """See Engine. They are text."""
        return frame

    def with_ordinals(self, frame: Frame, *, within: Sequence[str], order_by: Sequence[str], name: str) -> Frame:
        """See Engine."""
        return frame.with_columns(nw.col(order_by[-1]).cum_count().over(*within, order_by=order_by).alias(name))

    def cut_sessions(self, frame: Frame, number: str) -> Frame:
        """See Engine."""
        session = nw.concat_str("session_id", nw.col(number).cast(nw.String), separator="-")
        return frame.with_columns(session.alias("session_id"))

    def of(self, frame: pl.DataFrame) -> Frame:
        """See Engine."""
        return _lazy(self._spark.createDataFrame(frame.to_arrow()))

    def materialize(self, frame: Frame, name: str) -> Frame:
        """See Engine."""
        return _lazy(self._spark.read.parquet(self._written(frame.to_native(), name)))

    def materialize_by_session(self, frame: Frame, step: Callable[[Frame], Frame], name: str) -> Frame:
        """See Engine. Spark partitions sessions itself."""
        return self.materialize(step(frame), name)

    def write(self, frame: Frame, file: Path, *, sort_by: Sequence[str], columns: Sequence[str]) -> None:
        """See Engine. Concatenates the sorted part files of the workers into one file."""
        rows: DataFrame = frame.to_native()
        folder = self._written(rows.sort(*sort_by).select(*columns), f"sorted-{file.stem}")
        parts = sorted(Path(folder.removeprefix("file://")).glob("part-*.parquet"))
        pl.scan_parquet(parts).sink_parquet(file, compression_level=PARQUET_LEVEL)

    def _scan(self, source: Source, dialect: Dialect) -> Table | None:
        if source.format is Format.PARQUET:
            return _table(source, _numbered(self._spark.read.parquet(source.path)))
        if source.format is Format.JSONL:
            path = source.path
            if "://" not in path:
                path = plain_text(path, source.name, dialect.encoding, self._scratch).path
            return _table(source, self._scan_json(path))
        if "://" in source.path:
            lines = [row.value.removeprefix("\ufeff") for row in self._spark.read.text(source.path).head(SAMPLED_LINES)]
            text = layout(source.path, source.format, lines, dialect)
            return _table(source, self._scan_text(source.path, text), layout=text, first_line=lines[0])
        table = read_text_table(source, dialect, self._scratch)
        if table is None:
            return None
        if table.multiline:
            raise InputError(f"{source.path}: --engine spark does not read fields of several lines")
        rows = self._scan_text(table.path, table.layout)
        count = None if table.blank else table.rows
        return _table(source, rows, count, table.layout, table.first_line, table.remarks)

    def _scan_json(self, path: str) -> DataFrame:
        lines = self._spark.read.text(path)
        first = [row.value.removeprefix("\ufeff") for row in lines.head(SAMPLED_LINES)]
        sampled = layout(path, Format.JSONL, first).names
        keys = lines.select(F.explode(F.json_object_keys("value")).alias("name")).distinct().collect()
        nested = {name for name in _names(first) if name not in sampled}
        names = [*sampled, *sorted({row.name for row in keys if "'" not in row.name} - {*sampled} - nested)]
        rows = self._scan_text(path, Layout(("line",), "\x01", header_lines=0))
        is_broken = F.json_object_keys("line").isNull()
        fields = (F.get_json_object("line", f"$['{name}']").alias(name) for name in names)
        return rows.select(SOURCE_ROW, F.when(is_broken, NO_OBJECT).alias(ROW_FAULT), *fields)

    def _scan_text(self, path: str, text: Layout) -> DataFrame:
        names = (*text.names, EXTRA_FIELD)
        rows = _numbered(
            self._spark.read.csv(
                path,
                schema=StructType([StructField(name, StringType()) for name in names]),
                sep=text.separator,
                quote=text.quote or "",
                escape=text.quote or "",
                nullValue=text.null_text,
                header=text.header_lines > 0,
                enforceSchema=True,
            )
        )
        fault = F.when(F.col(EXTRA_FIELD).isNotNull(), TOO_MANY_FIELDS)
        return rows.withColumn(ROW_FAULT, fault).drop(EXTRA_FIELD)

    def _written(self, rows: DataFrame, name: str) -> str:
        folder = f"file://{self._scratch / name}"
        with _input_errors("reading or writing failed"):
            rows.write.parquet(folder)
        return folder


def _numbered(rows: DataFrame) -> DataFrame:
    """Add SOURCE_ROW: the row's number within its block plus the prefix sum of the rows in earlier blocks.

    Spark reads a file in blocks, each in order by one task. Empty lines of text files do not count.
    """
    columns = rows.columns
    placed = rows.select(
        *(F.col(f"`{name}`") for name in columns),
        F.col("_metadata.file_path").alias("_file"),
        F.col("_metadata.file_block_start").alias("_block"),
        F.monotonically_increasing_id().alias("_serial"),
    )
    blocks = placed.groupBy("_file", "_block").agg(F.min("_serial").alias("_first"), F.count("*").alias("_rows"))
    earlier = Window.orderBy("_file", "_block").rowsBetween(Window.unboundedPreceding, -1)
    before = F.coalesce(F.sum("_rows").over(earlier), F.lit(0))
    starts = blocks.select("_file", "_block", "_first", before.alias("_before"))
    row = F.col("_before") + F.col("_serial") - F.col("_first") + 1
    return placed.join(F.broadcast(starts), on=["_file", "_block"]).select(
        *(F.col(f"`{name}`") for name in columns), row.cast("long").alias(SOURCE_ROW)
    )


def _table(
    source: Source,
    rows: DataFrame,
    count: int | None = None,
    layout: Layout | None = None,
    first_line: str = "",
    remarks: tuple[str, ...] = (),
) -> Table:
    for key, value in source.keys:
        if key not in rows.columns:
            rows = rows.withColumn(key, F.lit(value))
    return Table(_lazy(rows.withColumn(SOURCE_FILE, F.lit(0))), (source,), count, layout, first_line, remarks)


def _names(lines: Sequence[str]) -> set[str]:
    """Return the fields of JSON objects, one a line."""
    names: set[str] = set()
    for line in lines:
        with suppress(ValueError):
            value = json.loads(line)
            names |= {*value} if isinstance(value, dict) else set()
    return names


def _lazy(rows: DataFrame) -> Frame:
    frame: Frame = nw.from_native(rows)
    return frame


@contextmanager
def _input_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise InputError(f"{what} ({_first_line(error)})") from error


def _first_line(error: Any) -> str:
    return str(error).strip().partition("\n")[0]
