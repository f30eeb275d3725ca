"""Read JSON lines, a JSON array or one JSON object as a table, by all of its lines.

Objects within objects become columns named by their path (`item.id`). A list of objects that hold the items of an event
or of a session (`items[]`, `events[]`) gives a row for each of them. Numbers keep all of their digits.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from pydantic_core import from_json

from onward.training.data.readers.columns import ColumnNames
from onward.training.data.readers.engine import ELEMENT, OWN_COLUMNS, ROW_FAULT, SOURCE_FILE, SOURCE_ROW
from onward.training.errors import InputError

ROWS_PER_PIECE = 50_000
MAX_COLUMNS = 2_000
"""Fields beyond these are not kept: objects used as maps have a field for every key."""
NO_OBJECT = "no JSON object"

Row = dict[str, Any]


def json_objects(path: str) -> Iterator[tuple[int, Any]]:
    """Yield the values of a plain file of JSON lines, or of one JSON array or object, and their numbers from 1.

    None stands for a broken line. The numbers count lines, or the elements of the array. Empty lines are skipped.
    Raises InputError if an array is incomplete.
    """
    with Path(path).open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        yield from enumerate(_array(path), start=1)
        return
    if start.startswith(b"{") and (value := _object_of_many_lines(path)) is not None:
        yield 1, value
        return
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if text:
                yield number, _parsed(text)


def write_json_rows(paths: Sequence[str], columns: ColumnNames, folder: Path) -> tuple[pl.LazyFrame, int]:
    """Write the rows of files of events in pieces to `folder`; return a frame of all, every column text or lists.

    Also return their number. Raises InputError if there is no object in the files.
    """
    folder.mkdir()
    rows = (
        {SOURCE_FILE: place, **row}
        for place, path in enumerate(paths)
        for number, value in json_objects(path)
        for row in event_rows(number, value, columns)
    )
    names: dict[str, None] = {}
    lists: set[str] = set()
    pieces: list[Path] = []
    count = 0
    while piece := list(islice(rows, ROWS_PER_PIECE)):
        names |= dict.fromkeys(name for row in piece for name in row)
        lists |= {name for row in piece for name, value in row.items() if isinstance(value, list)}
        count += len(piece)
        pieces.append(folder / f"{len(pieces):05}.parquet")
        _frame(piece).write_parquet(pieces[-1])
    if not set(names) - OWN_COLUMNS:
        raise InputError(
            f"{paths[0]}: there is no JSON object in it: write one a line, or one array of them, or give --format"
        )
    kept = [*names][:MAX_COLUMNS]
    schema = {name: _type(name, is_list=name in lists) for name in kept}
    return pl.concat([_as(pl.scan_parquet(file), schema) for file in pieces]), count


def event_rows(number: int, value: Any, columns: ColumnNames) -> Iterator[Row]:
    """Yield the rows of one value: of a line, or of an array's element."""
    if not isinstance(value, dict):
        yield {SOURCE_ROW: number, ROW_FAULT: NO_OBJECT}
        return
    fields, lists = flatten(value)
    unfolded = columns.list_to_unfold(fields, {name: _names(elements) for name, elements in lists.items()})
    parent = {SOURCE_ROW: number, **{name: _text(field) for name, field in fields.items()}}
    if unfolded is None:
        yield parent
        return
    for place, element in enumerate(lists[unfolded]):
        inner, _ = flatten(element) if isinstance(element, dict) else ({}, {})
        yield {**parent, ELEMENT: place, **{f"{unfolded}.{name}": _text(field) for name, field in inner.items()}}


def flatten(value: Mapping[str, Any], prefix: str = "") -> tuple[Row, dict[str, list[Any]]]:
    """Return the fields of an object by path, and apart from them the lists that hold objects. Nulls are left out."""
    fields: Row = {}
    lists: dict[str, list[Any]] = {}
    for name, field in value.items():
        path = prefix + name
        if isinstance(field, dict):
            inner, inner_lists = flatten(field, f"{path}.")
            fields |= inner
            lists |= inner_lists
        elif isinstance(field, list) and any(isinstance(element, dict) for element in field):
            lists[path] = field
        elif field is not None:
            fields[path] = field
    return fields, lists


def _array(path: str) -> Iterable[Any]:
    try:
        values = from_json(Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise InputError(f"{path}: the JSON array cannot be read ({error})") from error
    return list(values)


def _object_of_many_lines(path: str) -> Any:
    """Return the object that a file is as a whole, None if its first line is one already, or the file is none."""
    with Path(path).open("rb") as file:
        if _parsed(file.readline().removeprefix(b"\xef\xbb\xbf")) is not None:
            return None
        file.seek(0)
        value = _parsed(file.read().removeprefix(b"\xef\xbb\xbf"))
    return value if isinstance(value, dict) else None


def _parsed(text: bytes) -> Any:
    try:
        return from_json(text)
    except ValueError:
        pass
    try:
        return json.loads(text.decode(errors="replace"))  # text that is not UTF-8, lone surrogates
    except ValueError:
        return None


def _names(elements: Iterable[Any]) -> set[str]:
    return {name for element in elements if isinstance(element, dict) for name in flatten(element)[0]}


def _text(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode() if not value.isascii() else value
    if isinstance(value, list):
        return [_text(element) for element in value]
    return None if value is None else json.dumps(value)


def _frame(rows: list[Row]) -> pl.DataFrame:
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame([_series(name, [row.get(name) for row in rows]) for name in names])


def _series(name: str, values: list[Any]) -> pl.Series:
    if not any(isinstance(value, list) for value in values):
        return pl.Series(name, values, dtype=_type(name, is_list=False))
    return pl.Series(name, [[v] if isinstance(v, str) else v for v in values], dtype=pl.List(pl.String))


def _type(name: str, *, is_list: bool) -> pl.DataType:
    if name == SOURCE_FILE:
        return pl.Int32()
    if name in (SOURCE_ROW, ELEMENT):
        return pl.Int64()
    return pl.List(pl.String()) if is_list else pl.String()


def _as(piece: pl.LazyFrame, schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """Give a piece the columns of the whole file."""
    own = piece.collect_schema()
    return piece.select(
        (pl.col(name).cast(dtype) if name in own else pl.lit(None, dtype=dtype)).alias(name)
        for name, dtype in schema.items()
    )
