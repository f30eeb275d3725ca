"""Read a file of item attributes: titles, categories, prices, availability."""

from dataclasses import dataclass
from pathlib import Path

import narwhals as nw
import polars as pl

from onward.training.data.readers.columns import ColumnNames, describe_columns
from onward.training.data.readers.formats import Format, Layout, first_lines, format_of, layout
from onward.training.data.readers.ids import first_failed, id_checks, id_faults, id_text
from onward.training.data.readers.row_problems import SHOWN_ROWS, RowProblem
from onward.training.errors import InputError

ITEM_COLUMNS = ("row", "item_id", "popularity")
"""First columns of a dataset's items file, before the attributes, which may not use these names."""
TRUTH = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class Attributes:
    """One row per item, with item_id and a column for each attribute; and the problems of rows that were dropped."""

    items: pl.DataFrame
    problems: tuple[RowProblem, ...]


def read_attributes(path: str, file_format: Format | None, item_column: str | None) -> Attributes:
    """Read a local file of items; of several rows for one item the first counts.

    Raises InputError if the file is unreadable, has no item id column or has a column name that datasets reserve.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file (--items)")
    rows = _read(path, file_format or format_of(path), item_column)
    column = ColumnNames(item=item_column).find(path, rows.columns).item
    if column is None:
        raise InputError(
            f"{path}: cannot tell which column is the item id; give --items-column ({describe_columns(rows.columns)})"
        )
    frame = nw.from_native(rows)
    ids = frame.select(id_text(path, column, frame.schema[column]).alias("item_id")).to_native()
    checked = nw.from_native(ids.with_columns(id_faults(pl.col("item_id")).alias("fault")))
    problems = checked.select(first_failed(id_checks("item_id", "fault", "item")).alias("kind")).to_native()["kind"]
    if taken := {*ITEM_COLUMNS} & {*rows.drop(column).columns}:
        raise InputError(f"{path}: a dataset has its own {min(taken)!r}; rename that column")
    items = ids.hstack(rows.drop(column))
    repeated = items["item_id"].is_first_distinct().not_() & problems.is_null()
    problems = problems.set(repeated, "duplicate item")
    return Attributes(_with_availability(path, items.filter(problems.is_null())), _problems(path, problems))


def add_attributes(items_file: Path, attributes: pl.DataFrame) -> int:
    """Join the attributes to a dataset's file of items; return how many rows of attributes match no item."""
    items = pl.read_parquet(items_file)
    items.join(attributes, on="item_id", how="left", maintain_order="left").write_parquet(items_file)
    return len(attributes.join(items, on="item_id", how="anti"))


def _read(path: str, file_format: Format, item_column: str | None) -> pl.DataFrame:
    try:
        if file_format is Format.PARQUET:
            return pl.read_parquet(path, glob=False)
        if file_format is Format.JSONL:
            return pl.read_ndjson(path, infer_schema_length=None)
        return _read_text(path, layout(path, file_format, first_lines(path)), item_column)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: cannot be read as {file_format} ({str(error).partition(chr(10))[0]})") from error


def _read_text(path: str, text: Layout, item_column: str | None) -> pl.DataFrame:
    """Read a text file; a column whose values are all numbers, or all booleans, gets that type, but not the ids."""
    ids = ColumnNames(item=item_column).find(path, text.names).item
    return pl.read_csv(
        path,
        has_header=False,
        skip_lines=text.header_lines,
        new_columns=text.names,
        schema_overrides=None if ids is None else {ids: pl.String},
        separator=text.separator or "",
        infer_schema_length=None,
        encoding="utf8-lossy",
        extra_columns="ignore",
        glob=False,
    )


def _with_availability(path: str, items: pl.DataFrame) -> pl.DataFrame:
    """Convert the column `available`, if there is one, to booleans. Raises InputError for any other value."""
    if "available" not in items.columns or items["available"].dtype == pl.Boolean:
        return items
    text = items["available"].cast(pl.String).str.strip_chars().str.to_lowercase()
    unclear = items.filter(text.is_not_null() & ~text.is_in(list(TRUTH)))
    if not unclear.is_empty():
        item, value = unclear.select("item_id", "available").row(0)
        raise InputError(f"{path}: item {item}: available is {value!r}; write true or false")
    return items.with_columns(text.replace_strict(TRUTH, return_dtype=pl.Boolean).alias("available"))


def _problems(path: str, kinds: pl.Series) -> tuple[RowProblem, ...]:
    """Group rows by problem; `kinds` has the problem of each row of the file, or null."""
    rows = kinds.to_frame("kind").with_row_index("row", offset=1).drop_nulls()
    table = rows.group_by("kind").agg(pl.len().alias("count"), pl.col("row").head(SHOWN_ROWS)).sort("kind")
    return tuple(
        RowProblem(kind=kind, file=Path(path).name, count=count, first_rows=tuple(first))
        for kind, count, first in table.iter_rows()
    )
