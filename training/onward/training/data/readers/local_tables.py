"""Read local files of every format as lazy Polars frames."""

from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from onward.training.data.readers.columns import ColumnNames
from onward.training.data.readers.dialect import Dialect
from onward.training.data.readers.engine import ELEMENT, EMPTY_LINE, ROW_FAULT, SOURCE_FILE, SOURCE_ROW, Table
from onward.training.data.readers.formats import (
    UNIT_SEPARATOR,
    Format,
    Layout,
    first_lines,
    layout,
)
from onward.training.data.readers.json_rows import write_json_rows
from onward.training.data.readers.plain_text import plain_text, scratch_file, whole_lines
from onward.training.data.readers.quoting import doubtful, rewrite, survey
from onward.training.data.readers.sources import Source
from onward.training.errors import InputError

MANY_FILES, SMALL_FILE_BYTES = 50, 1 << 22
HISTORY_LENGTH = 1_000_000
"""Events of a history stand before those that were shown, also at the same time."""
EXTRA_FIELD = "_extra_field"
TOO_MANY_FIELDS = "more fields than the header has columns"


@dataclass(frozen=True)
class TextTable:
    """A delimited text file, ready to be read by Polars."""

    path: str
    layout: Layout
    rows: int
    blank: bool
    """Whether there are empty lines."""
    multiline: bool
    """Whether a quoted field goes over several lines."""
    first_line: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Opened:
    """One file; files with equal `kind` can be read as one table."""

    source: Source
    kind: object
    text: TextTable | None = None
    schema: pl.Schema | None = None
    plain: str | None = None


def local_tables(sources: Sequence[Source], dialect: Dialect, columns: ColumnNames, scratch: Path) -> Iterator[Table]:
    """Yield the tables of local files. Raises InputError if a file is unreadable."""
    opened = (_open(source, dialect, scratch) for source in sources)
    for _, files in groupby((file for file in opened if file is not None), key=lambda file: file.kind):
        yield _table(list(files), columns, scratch)


def read_text_table(source: Source, dialect: Dialect, scratch: Path) -> TextTable | None:
    """Bring a delimited text file into a form that Polars reads right, and count its rows; None if it is empty.

    Raises InputError if the file is unreadable, or its quote marks cannot be told.
    """
    plain = plain_text(source.path, source.name, dialect.encoding, scratch)
    remarks = () if plain.not_utf8 is None else (f"{source.name} is not UTF-8: {plain.not_utf8}; see --encoding",)
    lines = first_lines(plain.path)
    if source.in_folder and not any(line.strip() for line in lines):
        return None
    text = layout(source.path, source.format, lines, dialect)
    path, separator = plain.path, text.separator or ","
    if len(separator) > 1 or not separator.isascii():
        path = _with_unit_separator(path, separator, scratch)
        text = replace(text, separator=UNIT_SEPARATOR, quote=None)
        separator = UNIT_SEPARATOR
    example = lines[text.header_lines].encode() if len(lines) > text.header_lines else b""
    found = survey(path, separator, text.quote, example)
    if text.quote is not None and found.fault_line is not None:
        if found.quoted or dialect.quote is not None:
            path = rewrite(path, source.name, separator, text.quote, scratch)
            found = replace(survey(path, separator, text.quote, example), blank=found.blank)
        else:
            text = replace(text, quote=None)
            found = survey(path, separator, None, example)
    if text.quote is not None and found.swallowed_line is not None and dialect.quote is None:
        raise doubtful(source.name, found.swallowed_line, text.quote)
    return TextTable(
        path, text, max(found.rows - text.header_lines, 0), found.blank, found.multiline, lines[0], remarks
    )


def scan_text(tables: Sequence[TextTable]) -> pl.LazyFrame:
    """Read text files of one layout: every column is text, SOURCE_ROW counts the rows of all."""
    text = tables[0].layout
    rows = pl.scan_csv(
        [table.path for table in tables],
        has_header=False,
        skip_lines=text.header_lines,
        schema=dict.fromkeys((*text.names, EXTRA_FIELD), pl.String),
        separator=text.separator or ",",
        quote_char=text.quote,
        null_values=text.null_text,
        encoding="utf8-lossy",
        extra_columns="ignore",
        missing_columns="insert",
        row_index_name=SOURCE_ROW,
        row_index_offset=1,
        glob=False,
    )
    fault: pl.Expr = pl.when(pl.col(EXTRA_FIELD).is_not_null()).then(pl.lit(TOO_MANY_FIELDS))
    if any(table.blank for table in tables):
        fault = pl.when(pl.all_horizontal(pl.col(*text.names).is_null())).then(pl.lit(EMPTY_LINE)).otherwise(fault)
    return rows.with_columns(fault.alias(ROW_FAULT)).drop(EXTRA_FIELD)


def flatten_structs(rows: pl.LazyFrame, columns: ColumnNames) -> pl.LazyFrame:
    """Give the fields of objects columns of their own, and the objects of the list that holds the items rows."""
    schema = rows.collect_schema()
    while any(isinstance(dtype, pl.Struct) for dtype in schema.values()):
        rows = rows.select(_flat(schema))
        schema = rows.collect_schema()
    lists = {
        name: {field.name for field in dtype.inner.fields}
        for name, dtype in schema.items()
        if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)
    }
    fields = [name for name in schema if name not in lists and not name.startswith("_source")]
    unfolded = columns.list_to_unfold(fields, lists)
    rows = rows.drop([name for name in lists if name != unfolded])
    return rows if unfolded is None else flatten_structs(unfold(rows, unfolded), columns)


def unfold(rows: pl.LazyFrame, column: str) -> pl.LazyFrame:
    """Give each value of a list its own row, with its place as ELEMENT; an empty list gives one without a value."""
    lengths = pl.col(column).list.len().fill_null(0).clip(1)
    longest = pl.when(pl.col(column).list.len() > 0).then(pl.col(column))
    places = pl.int_ranges(0, lengths)
    rows = rows.with_columns(longest.alias(column), places.alias(ELEMENT))
    filled = pl.col(column).fill_null(pl.lit([None], dtype=rows.collect_schema()[column]))
    return rows.with_columns(filled).explode(column, ELEMENT)


def mind_clicks(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Turn MIND's rows into events: the history of a user's first row, then what was shown: clicks and impressions."""
    user, shown, label = pl.col("user_id"), pl.col("impressions").str.split(" "), pl.col("item_id").str.slice(-1)
    first = rows.filter(pl.col("history").is_not_null()).unique(subset=["user_id"], keep="first", maintain_order=True)
    past = unfold(first.with_columns(pl.col("history").str.split(" ").alias("item_id")), "item_id")
    past = past.with_columns(pl.lit("history").alias("event_type"), pl.col(ELEMENT).cast(pl.Int64) - HISTORY_LENGTH)
    now = unfold(rows.with_columns(shown.alias("item_id")), "item_id").with_columns(pl.col(ELEMENT).cast(pl.Int64))
    event = pl.when(label == "0").then(pl.lit("impression")).otherwise(pl.lit("click"))
    now = now.with_columns(event.alias("event_type"), pl.col("item_id").str.replace("-[01]$", ""))
    columns = [user, "item_id", "time", "event_type", ELEMENT, SOURCE_FILE, SOURCE_ROW, ROW_FAULT]
    return pl.concat([past.select(columns), now.select(columns)])


def _open(source: Source, dialect: Dialect, scratch: Path) -> _Opened | None:
    keys = tuple(key for key, _ in source.keys)
    if source.format is Format.PARQUET:
        try:
            schema = pl.read_parquet_schema(source.path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{source.path}: cannot be read as parquet ({_first_line(error)})") from error
        return _Opened(source, (source.format, keys, tuple(schema.items())), schema=pl.Schema(schema))
    if source.format is Format.JSONL:
        plain = plain_text(source.path, source.name, dialect.encoding, scratch)
        return _Opened(source, (source.format, keys), plain=plain.path)
    text = read_text_table(source, dialect, scratch)
    return None if text is None else _Opened(source, (text.layout, keys), text=text)


def _table(files: Sequence[_Opened], columns: ColumnNames, scratch: Path) -> Table:
    sources = tuple(file.source for file in files)
    texts = [file.text for file in files if file.text is not None]
    if texts:
        rows, counts = scan_text(_joined(texts, scratch)), [text.rows for text in texts]
        rows = _with_files(rows, sources, counts)
        if sources[0].format is Format.MIND:
            return Table(nw.from_native(mind_clicks(rows)), sources, None, texts[0].layout)
        remarks = tuple(remark for text in texts for remark in text.remarks)
        return Table(nw.from_native(rows), sources, sum(counts), texts[0].layout, texts[0].first_line, remarks)
    if files[0].schema is not None:
        paths = [source.path for source in sources]
        counts = [int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()) for path in paths]
        rows = pl.scan_parquet(
            paths, row_index_name=SOURCE_ROW, row_index_offset=1, glob=False, hive_partitioning=False
        )
        rows = flatten_structs(_with_files(rows, sources, counts), columns)
        is_unfolded = ELEMENT in rows.collect_schema()
        return Table(nw.from_native(readable(rows)), sources, None if is_unfolded else sum(counts))
    plain = [file.plain or source.path for file, source in zip(files, sources, strict=True)]
    rows, count = write_json_rows(plain, columns, scratch_file(scratch, "json").with_suffix(""))
    return Table(nw.from_native(_with_keys(rows, sources)), sources, count)


def _with_files(rows: pl.LazyFrame, sources: Sequence[Source], counts: Sequence[int]) -> pl.LazyFrame:
    """Turn the running number of the rows of several files into SOURCE_FILE and SOURCE_ROW; add the folders' keys."""
    row = pl.col(SOURCE_ROW).cast(pl.Int64)
    if len(sources) == 1:
        rows = rows.with_columns(pl.lit(0, dtype=pl.Int32).alias(SOURCE_FILE), row)
    else:
        starts = np.array([0, *accumulate(counts)][:-1])
        file = row.map_batches(
            lambda numbers: pl.Series(np.searchsorted(starts, numbers.to_numpy(), side="left") - 1, dtype=pl.Int32),
            return_dtype=pl.Int32,
            is_elementwise=True,
        )
        rows = rows.with_columns(file.alias(SOURCE_FILE), row)
        offset = pl.col(SOURCE_FILE).replace_strict(
            pl.Series(range(len(starts)), dtype=pl.Int32), pl.Series(starts, dtype=pl.Int64), return_dtype=pl.Int64
        )
        rows = rows.with_columns(row - offset)
    return _with_keys(rows, sources)


def _with_keys(rows: pl.LazyFrame, sources: Sequence[Source]) -> pl.LazyFrame:
    """Add the columns that the names of folders give."""
    own = rows.collect_schema()
    for place, (key, _) in enumerate(sources[0].keys):
        if key not in own:
            values = pl.Series([source.keys[place][1] for source in sources], dtype=pl.String)
            numbers = pl.Series(range(len(values)), dtype=pl.Int32)
            rows = rows.with_columns(
                pl.col(SOURCE_FILE).replace_strict(numbers, values, return_dtype=pl.String).alias(key)
            )
    return rows


def readable(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Give bytes and decimals, which databases write ids as, the type of text."""
    schema = rows.collect_schema()
    texts = [
        _utf8(name) if dtype == pl.Binary else pl.col(name).cast(pl.String).str.replace(r"\.0+$", "")
        for name, dtype in schema.items()
        if dtype == pl.Binary or isinstance(dtype, pl.Decimal)
    ]
    return rows.with_columns(texts)


def _utf8(name: str) -> pl.Expr:
    return pl.col(name).map_batches(
        lambda values: pl.Series([None if v is None else v.decode(errors="replace") for v in values], dtype=pl.String),
        return_dtype=pl.String,
        is_elementwise=True,
    )


def _flat(schema: pl.Schema) -> Iterator[pl.Expr]:
    for name, dtype in schema.items():
        if isinstance(dtype, pl.Struct):
            for field in dtype.fields:
                yield pl.col(name).struct.field(field.name).alias(f"{name}.{field.name}")
        else:
            yield pl.col(name)


def _joined(texts: Sequence[TextTable], scratch: Path) -> Sequence[TextTable]:
    """Join many small files of one layout, without their headers: a scan of each would cost more than its rows."""
    size = sum(Path(text.path).stat().st_size for text in texts)
    if len(texts) < MANY_FILES or size > SMALL_FILE_BYTES * len(texts):
        return texts
    copy = scratch_file(scratch, "joined")
    with copy.open("wb") as joined:
        for text in texts:
            with Path(text.path).open("rb") as file:
                for _ in range(text.layout.header_lines):
                    file.readline()
                rows = file.read() if text.layout.header_lines else file.read().removeprefix(BOM_UTF8)
            joined.write(rows if rows.endswith(b"\n") or not rows else rows + b"\n")
    layout = replace(texts[0].layout, header_lines=0)
    return [replace(texts[0], path=str(copy), layout=layout, blank=any(text.blank for text in texts))]


def _with_unit_separator(path: str, separator: str, scratch: Path) -> str:
    copy = scratch_file(scratch, path)
    with copy.open("wb") as file:
        for chunk in whole_lines(path):
            file.write(chunk.replace(separator.encode(), UNIT_SEPARATOR.encode()))
    return str(copy)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
