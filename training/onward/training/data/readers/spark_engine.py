"""The engine for a cluster: Spark, through the same narwhals expressions; it reads Spark's own configuration.

Files are local, on a disk mounted at the same path on every worker, or anything Spark has a connector for
(`s3a://...`). Intermediate files lie in `scratch`, which every worker must be able to access too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from onward.bundle import id_fault
from onward.bundle.files import id_rule
from onward.training.data.readers.engine import SOURCE_ROW, Frame
from onward.training.data.readers.formats import SAMPLED_LINES, Format, Layout, layout
from onward.training.data.readers.ids import PLAIN_ID
from onward.training.data.readers.polars_engine import local_files
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

    def files(self, path: str) -> list[str]:
        """See Engine."""
        return [path] if "://" in path else [f"file://{Path(file).resolve()}" for file in local_files(path)]

    def scan(self, path: str, file_format: Format) -> Frame:
        """See Engine. If `path` is a folder, rows are numbered across its files, in order of their names."""
        with _input_errors(f"{path}: cannot be read as {file_format}"):
            if file_format is Format.PARQUET:
                return _lazy(_numbered(self._spark.read.parquet(path)))
            lines = [row.value.removeprefix("\ufeff") for row in self._spark.read.text(path).head(SAMPLED_LINES)]
            return _lazy(self._scan_text(path, layout(path, file_format, lines)))

    def with_epoch_ms(self, frame: Frame, iso_text: str, epoch_ms: str) -> Frame:
        """See Engine."""
        text = F.regexp_replace(F.col(iso_text), r" ?(?:Z|UTC)$", "+00:00")
        text = F.regexp_replace(text, r"([+-]\d{2}):?(\d{2})$", "$1:$2")
        rows: DataFrame = frame.to_native()
        return _lazy(rows.withColumn(epoch_ms, F.unix_millis(F.try_to_timestamp(text))))

    def with_id_faults(self, frame: Frame, columns: Mapping[str, str]) -> Frame:
        """See Engine."""
        rows: DataFrame = frame.to_native()
        for column, fault in columns.items():
            others = F.when(~F.col(column).rlike(PLAIN_ID), F.col(column))
            rows = rows.withColumn(fault, _fault_by_worker(others))
        return _lazy(rows)

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
        pl.scan_parquet(sorted(Path(folder.removeprefix("file://")).glob("part-*.parquet"))).sink_parquet(file)

    def _scan_text(self, path: str, text: Layout) -> DataFrame:
        names = text.names if text.separator else ("line",)
        lines = _numbered(
            self._spark.read.csv(
                path,
                schema=StructType([StructField(name, StringType()) for name in names]),
                sep=text.separator or "\x01",
                quote='"' if text.separator else "",
                escape='"' if text.separator else "",
                nullValue=text.null_text,
                header=text.header_lines > 0,
                enforceSchema=True,
            )
        )
        if text.separator:
            return lines
        fields = (F.get_json_object("line", f"$['{name}']").alias(name) for name in text.names)
        return lines.select(SOURCE_ROW, *fields)

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
