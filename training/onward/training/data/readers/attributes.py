"""Read a file of item attributes: titles, categories, prices, availability."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from onward.training.data.readers.columns import ColumnNames, describe_columns, plain_name, suggested_path
from onward.training.data.readers.dialect import Dialect
from onward.training.data.readers.engine import EMPTY_LINE, ROW_FAULT, SOURCE_ROW
from onward.training.data.readers.formats import Format, describe_headerless, format_of
from onward.training.data.readers.ids import FAULT, first_failed, id_checks, id_faults, id_text, is_stripped
from onward.training.data.readers.json_rows import NO_OBJECT, flatten, json_objects
from onward.training.data.readers.local_tables import read_text_table, readable, scan_text
from onward.training.data.readers.plain_text import plain_text
from onward.training.data.readers.remote_files import local_file
from onward.training.data.readers.row_problems import SHOWN_ROWS, RowProblem
from onward.training.data.readers.sources import Source
from onward.training.errors import InputError

ITEM_COLUMNS = ("row", "item_id", "popularity")
"""First columns of a dataset's items file, before the attributes, which may not use these names."""
AVAILABLE = ("available", "isavailable", "availability", "instock")
"""Names of the column that says whether an item can be recommended, the likeliest first."""
TRUE_WORDS = ("true", "t", "yes", "y", "on", "available", "instock", "active", "preorder", "backorder", "limited")
FALSE_WORDS = ("false", "f", "no", "n", "off", "unavailable", "notavailable", "outofstock", "inactive", "soldout")
TRUTH = {**dict.fromkeys(TRUE_WORDS, True), **dict.fromkeys(FALSE_WORDS, False), "discontinued": False}
SHOWN_IDS = 2
FEW_SHARE = 0.5
"""A smaller share of items with attributes is worth a remark."""
INTEGER, FLOAT = (
    r"^-?(?:0|[1-9][0-9]{0,17})$",
    r"^-?(?:0|[1-9][0-9]{0,14})?(?:\.[0-9]*)?(?:(?:\.[0-9]+)[eE][+-]?[0-9]+)?$",
)
CURRENCY = r"[^0-9.,'-]"


@dataclass(frozen=True)
class Attributes:
    """One row per item, with item_id and a column for each attribute; and the problems of rows that were dropped."""

    path: str
    items: pl.DataFrame
    problems: tuple[RowProblem, ...]
    remarks: tuple[str, ...] = ()


def read_attributes(
    path: str,
    file_format: Format | None,
    item_column: str | None,
    *,
    dialect: Dialect = Dialect(),  # noqa: B008 - immutable
    numbers: Sequence[str] = (),
    scratch: Path | None = None,
) -> Attributes:
    """Read a file of items, of this machine or at an address; of several rows for one item the first counts.

    Args:
        path: the file.
        file_format: its format; None: by its extension.
        item_column: the column of the item id; None: guessed.
        dialect: its encoding and its marks of missing values count; the rest describes files of events.
        numbers: attributes that are read as numbers, whatever currency or other text stands around them.
        scratch: a folder for copies of packed files.

    Raises InputError if the file is unreadable, has no item id column or has a column name that datasets reserve.
    """
    with tempfile.TemporaryDirectory() as own, local_file(path) as file:
        if not Path(file).is_file():
            raise InputError(f"{path}: there is no such file (--items)")
        read = _read_items(file, file_format, item_column, dialect, numbers, scratch or Path(own))
    return replace(read, path=path)


def _read_items(
    path: str,
    file_format: Format | None,
    item_column: str | None,
    dialect: Dialect,
    numbers: Sequence[str],
    scratch: Path,
) -> Attributes:
    rows, faults = _read(path, file_format or format_of(path), dialect, scratch)
    column = _item_column(path, rows.columns, item_column)
    frame = nw.from_native(rows)
    dtype = frame.schema[column]
    ids = frame.select(id_text(path, column, dtype, dialect.nulls).alias("item_id")).to_native()
    stripped = int(frame.select(is_stripped(column, dtype).alias("stripped")).to_native()["stripped"].sum())
    checked = nw.from_native(ids.with_columns(id_faults(pl.col("item_id")).alias("item_id" + FAULT)))
    problems = checked.select(first_failed(id_checks("item_id", "item")).alias("kind")).to_native()["kind"]
    problems = pl.select(pl.coalesce(faults, problems)).to_series()
    if taken := {*ITEM_COLUMNS} & {*rows.drop(column).columns}:
        raise InputError(f"{path}: a dataset has its own {min(taken)!r}; rename that column")
    items = ids.hstack(rows.drop(column))
    repeated = items["item_id"].is_first_distinct().not_() & problems.is_null()
    problems = problems.set(repeated, "duplicate item")
    items = items.filter(problems.is_null())
    remarks = [f"{stripped:,} ids of {Path(path).name} had spaces at their ends, which were taken off"] * bool(stripped)
    items = _with_numbers(path, items, numbers)
    items, said = _with_availability(path, items)
    return Attributes(path, items, _problems(path, problems), (*remarks, *said))


def add_attributes(items_file: Path, attributes: Attributes) -> tuple[int, list[str]]:
    """Join the attributes to a dataset's file of items.

    Return how many items of the attributes have no event, and what should be looked at. Raises InputError if none has.
    """
    items = pl.read_parquet(items_file)
    unused = attributes.items.join(items, on="item_id", how="anti")["item_id"]
    matched = len(attributes.items) - len(unused)
    name = Path(attributes.path).name
    examples = (
        f"such as {_examples(items.join(attributes.items, on='item_id', how='anti')['item_id'])} of the events "
        f"and {_examples(unused)} of {name}"
    )
    if not matched:
        raise InputError(f"{attributes.path}: none of its items has an event: compare the ids, {examples}")
    joined = items.join(attributes.items, on="item_id", how="left", maintain_order="left")
    joined.write_parquet(items_file)
    remarks = []
    if matched < FEW_SHARE * len(items):
        remarks.append(f"only {matched:,} of {len(items):,} items have attributes; compare the ids, {examples}")
    if "available" in joined.columns and not joined["available"].fill_null(value=True).any():
        remarks.append(f"no item is available: {name} says so of all, so none can be recommended")
    return len(unused), remarks


def _examples(ids: pl.Series) -> str:
    return " and ".join(map(repr, ids.head(SHOWN_IDS))) or "none"


def _read(path: str, file_format: Format, dialect: Dialect, scratch: Path) -> tuple[pl.DataFrame, pl.Series]:
    """Return the rows of a file, and the fault of each row that is none."""
    try:
        if file_format is Format.PARQUET:
            rows = _flat(readable(pl.scan_parquet(path, glob=False)).collect())
            return rows, pl.Series([None] * len(rows), dtype=pl.String)
        if file_format is Format.JSONL:
            return _read_json(path, dialect, scratch)
        return _read_text(path, file_format, dialect, scratch)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: cannot be read as {file_format} ({str(error).partition(chr(10))[0]})") from error


def _read_text(path: str, file_format: Format, dialect: Dialect, scratch: Path) -> tuple[pl.DataFrame, pl.Series]:
    """Read a text file; a column whose values are all numbers, or all booleans, gets that type."""
    own = Dialect(encoding=dialect.encoding, nulls=dialect.nulls)
    table = read_text_table(Source(path, file_format, path), own, scratch)
    if table is None:
        raise InputError(f"{path}: it is empty")
    if table.remarks:
        raise InputError(f"{table.remarks[0].removesuffix('; see --encoding')}; give its --encoding, such as cp1252")
    if table.layout.headerless and ColumnNames().find(path, table.layout.names).item is None:
        raise InputError(describe_headerless(path, table.first_line).partition("; name")[0] + "; add one")
    rows = scan_text([table]).collect()
    if len(rows) != table.rows:
        raise InputError(f"{path}: {table.rows:,} rows were counted, but {len(rows):,} read; look for lone quote marks")
    faults = rows[ROW_FAULT]
    rows = rows.drop(ROW_FAULT, SOURCE_ROW)
    nulls = [null for null in dialect.nulls if null]
    rows = rows.with_columns(pl.when(~pl.all().is_in(nulls)).then(pl.all()))
    item = ColumnNames().find(path, rows.columns).item
    return rows.with_columns(_typed(rows[name]) for name in rows.columns if name != item), faults


def _typed(text: pl.Series) -> pl.Series:
    """Convert text that is all numbers or all booleans; numbers with leading zeros are codes."""
    known = text.drop_nulls()
    if known.is_empty():
        return text
    if known.str.contains(INTEGER).all():
        return text.cast(pl.Int64)
    if known.str.contains(FLOAT).all() and known.str.contains("[0-9]").all():
        return text.cast(pl.Float64, strict=False)
    lowered = known.str.to_lowercase()
    return text.str.to_lowercase() == "true" if lowered.is_in(["true", "false"]).all() else text


def _read_json(path: str, dialect: Dialect, scratch: Path) -> tuple[pl.DataFrame, pl.Series]:
    plain = plain_text(path, Path(path).name, dialect.encoding, scratch)
    if plain.not_utf8 is not None:
        raise InputError(f"{path} is not UTF-8: {plain.not_utf8}; give its --encoding, such as cp1252")
    values = [value for _, value in json_objects(plain.path)]
    faults = pl.Series([None if isinstance(value, dict) else NO_OBJECT for value in values], dtype=pl.String)
    if not any(isinstance(value, dict) for value in values):
        raise InputError(
            f"{path}: there is no JSON object in it: write one a line, or one array of them, or give --items-format"
        )
    rows = [_attributes_of(value) if isinstance(value, dict) else {} for value in values]
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame([_column(name, [row.get(name) for row in rows]) for name in names]), faults


def _attributes_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object's fields by path, lists of objects as lists of the fields that are named first."""
    fields, lists = flatten(value)
    return fields | {name: [_json(element) for element in elements] for name, elements in lists.items()}


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    """Make a column of JSON values: of one type if they have one, else of text."""
    kinds = {type(value) for value in values if value is not None}
    if list in kinds:
        lists = [value if isinstance(value, list) or value is None else [value] for value in values]
        elements = {type(element) for value in lists if value is not None for element in value}
        inner = _type_of(elements)
        if inner is pl.String:
            lists = [None if value is None else [_text(element) for element in value] for value in lists]
        return pl.Series(name, lists, dtype=pl.List(inner))
    dtype = _type_of(kinds)
    if dtype is pl.Int64 and any(value is not None and abs(value) >= 2**63 for value in values):
        dtype = pl.String
    return pl.Series(name, [_text(value) for value in values] if dtype is pl.String else values, dtype=dtype)


def _type_of(kinds: set[type]) -> type[pl.DataType]:
    kinds = kinds - {type(None)}
    if kinds == {bool}:
        return pl.Boolean
    if kinds == {int}:
        return pl.Int64
    return pl.Float64 if kinds and kinds <= {int, float} else pl.String


def _text(value: Any) -> str | None:
    return None if value is None else _json(value)


def _flat(rows: pl.DataFrame) -> pl.DataFrame:
    while structs := [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Struct)]:
        rows = rows.with_columns(
            pl.col(name).struct.field(field.name).alias(f"{name}.{field.name}")
            for name in structs
            for field in rows.schema[name].fields  # type: ignore[attr-defined]
        ).drop(structs)
    return rows


def _item_column(path: str, names: Sequence[str], item_column: str | None) -> str:
    column = ColumnNames(item=item_column).find(path, names).item
    if column is None:
        suggested = suggested_path("item", names)
        option = "give --items-column" + ("" if suggested is None else f", such as --items-column {suggested}")
        raise InputError(f"{path}: cannot tell which column is the item id; {option} ({describe_columns(names)})")
    return column


def _with_numbers(path: str, items: pl.DataFrame, numbers: Sequence[str]) -> pl.DataFrame:
    """Read text such as `$1,299.00` or `1.299,00 EUR` as numbers. Raises InputError if there is no such attribute."""
    for name in numbers:
        if name not in items.columns:
            raise InputError(f"{path}: --items-number {name}: there is no such attribute")
        if items[name].dtype != pl.String:
            continue
        text = items[name].str.replace_all(CURRENCY, "").str.replace_all("'", "")
        items = items.with_columns(text.map_elements(_amount, return_dtype=pl.Float64).alias(name))
    return items


def _amount(text: str) -> float | None:
    """Read a number with `.` or `,` before its decimals and the other between thousands."""
    decimal = max(text.rfind("."), text.rfind(","))
    mark = text[decimal] if decimal >= 0 else ""
    is_thousands = bool(mark) and (text.count(mark) > 1 or (len(text) - decimal == 4 and mark == ","))
    if not any(map(str.isdigit, text)):
        return None
    whole, fraction = (text, "") if decimal < 0 or is_thousands else (text[:decimal], text[decimal + 1 :])
    try:
        return float(f"{whole.replace('.', '').replace(',', '')}.{fraction or 0}")
    except ValueError:
        return None


def _with_availability(path: str, items: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Add the booleans of the column that says whether an item is available, as `available`.

    Raises InputError for a word that is not known.
    """
    by_plain_name = {plain_name(name): name for name in reversed(items.columns)}
    column = next((by_plain_name[name] for name in AVAILABLE if name in by_plain_name), None)
    if column is None:
        return items, []
    values = items[column]
    text = values.cast(pl.String).str.to_lowercase().str.replace_all(r"[\s_-]|^https?://schema\.org/", "")
    truth = text.replace_strict(TRUTH, default=None, return_dtype=pl.Boolean)
    number = text.cast(pl.Float64, strict=False)
    truth = pl.select(pl.coalesce(truth, number > 0)).to_series().alias("available")
    unclear = items.filter(values.is_not_null() & truth.is_null())
    if not unclear.is_empty():
        item, value = unclear.select("item_id", column).row(0)
        raise InputError(f"{path}: item {item}: {column} is {value!r}; write true or false")
    items = items.with_columns(truth)
    if plain_name(column) == "available" and column != "available":
        items = items.drop(column)
    if values.dtype == pl.Boolean and column == "available":
        return items, []
    return items, [f"{column!r} says which items are available: {', '.join(_words(values, truth))}"]


def _words(values: pl.Series, truth: pl.Series) -> Iterator[str]:
    table = pl.DataFrame({"word": values.cast(pl.String), "truth": truth}).drop_nulls()
    for word, available, count in (
        table.group_by("word", "truth").len().sort("len", "word", descending=True).head(8).rows()
    ):
        yield f"{word!r} {'yes' if available else 'no'} ({count:,})"


def _problems(path: str, kinds: pl.Series) -> tuple[RowProblem, ...]:
    """Group rows by problem; `kinds` has the problem of each row of the file, or null."""
    rows = kinds.alias("kind").to_frame().with_row_index("row", offset=1).drop_nulls()
    rows = rows.filter(pl.col("kind") != EMPTY_LINE)
    table = rows.group_by("kind").agg(pl.len().alias("count"), pl.col("row").head(SHOWN_ROWS)).sort("kind")
    return tuple(
        RowProblem(kind=kind, file=Path(path).name, count=count, first_rows=tuple(first))
        for kind, count, first in table.iter_rows()
    )
