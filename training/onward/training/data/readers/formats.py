"""The file formats of events and items, and the layout of text files."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path

from onward.training.data.readers.dialect import QUOTE, Dialect
from onward.training.errors import InputError


class Format(StrEnum):
    """A file format, named as `--format` takes it."""

    PARQUET = "parquet"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    RECBOLE = "recbole"
    DIGINETICA = "diginetica"
    YOOCHOOSE = "yoochoose"
    MOVIELENS = "movielens"
    MIND = "mind"


BY_EXTENSION = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".txt": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".inter": Format.RECBOLE,
    ".item": Format.RECBOLE,
    ".dat": Format.YOOCHOOSE,
}
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
COMPRESSIONS = (".gz", ".bz2", ".zst")
SEPARATORS = {
    Format.RECBOLE: "\t",
    Format.DIGINETICA: ";",
    Format.YOOCHOOSE: ",",
    Format.MOVIELENS: "::",
    Format.MIND: "\t",
}
DIGINETICA_COLUMNS = {"timeframe", "eventdate"}
"""Columns that identify Diginetica's log, which writes NA for an unknown user."""
COLUMNS = {
    Format.YOOCHOOSE: ("session_id", "timestamp", "item_id", "category"),
    Format.MOVIELENS: ("user_id", "item_id", "rating", "timestamp"),
    Format.MIND: ("impression_id", "user_id", "time", "history", "impressions"),
}
"""Columns of formats without a header."""
MOVIELENS_ITEMS = ("item_id", "title", "genres")
SERVED_ANSWERS = "answers-*.jsonl*"
"""Files of recorded answers, which lie beside the events in a service's event log and hold no events."""
SAMPLED_LINES = 100
"""The lines at the start of a text file that its layout is told from."""
UNIT_SEPARATOR = "\x1f"
"""Stands for a separator of several characters, which readers do not take."""
_TOLD_SEPARATOR = re.compile('"?sep=(.)"?', re.IGNORECASE)
"""The first line of files that are written for spreadsheets."""
_DATA = re.compile(r"-?[0-9][0-9:./ T+-]*(?:Z|UTC)?|[0-9a-f]{32,}")


@dataclass(frozen=True)
class Layout:
    """How a text file is split into named fields; every field is text."""

    names: tuple[str, ...]
    separator: str | None
    """None: every line is a JSON object."""
    header_lines: int
    null_text: str | None = None
    """Text that means null in this format, besides those of the dialect."""
    quote: str | None = None
    """The quote mark, if fields may be quoted."""
    sequences: tuple[str, ...] = ()
    """Columns that hold several values, separated by spaces."""
    headerless: bool = False
    """Whether the first line, taken for the header, looks like data."""


def known_format(path: str) -> Format | None:
    """Return the format of a file's extension in any case, ignoring that of a compression; None if it is unknown."""
    name = path.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return BY_EXTENSION.get(Path(name).suffix)


def format_of(path: str) -> Format:
    """Return the format of a file's extension. Raises InputError if the extension is unknown."""
    if (file_format := known_format(path)) is None:
        extension = Path(path).suffix.lower()
        if extension in SPREADSHEETS:
            raise InputError(f"{path}: a spreadsheet cannot be read; save it as CSV")
        raise InputError(
            f"{path}: cannot tell the format from {extension or 'no extension'!r}; "
            f"give --format if it is one of {', '.join(Format)}, else save it as CSV or Parquet"
        )
    return file_format


def first_lines(path: str) -> list[str]:
    """Return the first lines of a plain local text file, without a byte order mark."""
    with Path(path).open("rb") as file:
        text = [line.decode("utf-8", errors="replace") for line in islice(file, SAMPLED_LINES)]
    return [line.removeprefix("\ufeff").rstrip("\r\n") for line in text]


def layout(path: str, file_format: Format, lines: list[str], dialect: Dialect = Dialect()) -> Layout:  # noqa: B008
    """Derive the layout of a text file from its first lines. Raises InputError if they are neither header nor JSON."""
    if not lines or not lines[0].strip():
        raise InputError(f"{path}: the first line is empty; expected {_first_line(file_format)}")
    if file_format is Format.JSONL:
        return Layout(_json_fields(path, lines), separator=None, header_lines=0)
    if (told := _TOLD_SEPARATOR.fullmatch(lines[0])) is not None and len(lines) > 1:
        dialect = dialect.model_copy(update={"separator": dialect.separator or told[1]})
        below = layout(path, file_format, lines[1:], dialect)
        return replace(below, header_lines=below.header_lines + 1)
    if file_format is Format.YOOCHOOSE and "::" in lines[0]:
        file_format = Format.MOVIELENS
    separator = dialect.separator or SEPARATORS.get(file_format) or _guessed_separator(file_format, lines[0])
    quote = _quote(file_format, separator, dialect)
    if dialect.columns is not None or file_format in COLUMNS:
        names = dialect.columns or _columns_of_format(file_format, lines[0].count(separator) + 1)
        _check_width(path, names, lines[0], separator, quote)
        return Layout(names, separator, header_lines=0, quote=quote)
    names = _header(path, lines[0], separator, quote)
    sequences: tuple[str, ...] = ()
    if file_format is Format.RECBOLE:
        sequences = tuple(name.partition(":")[0] for name in names if name.endswith(":token_seq"))
        names = tuple(name.partition(":")[0] for name in names)
    headerless = any(_DATA.fullmatch(name) for name in names)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated and headerless:
        raise InputError(describe_headerless(path, lines[0]))
    if repeated:
        raise InputError(f"{path}: the header names {repeated[0]!r} twice; give every column its own name")
    null_text = "NA" if set(names) >= DIGINETICA_COLUMNS else None
    return Layout(names, separator, 1, null_text, quote, sequences, headerless)


def describe_headerless(path: str, line: str) -> str:
    """Say that a file has no header, for an error message."""
    shown = line if len(line) <= 80 else f"{line[:80]}..."
    return (
        f"{path}: there is no header: the first line is {shown!r}; "
        "name the columns in order, such as --columns session_id,item_id,timestamp"
    )


def _quote(file_format: Format, separator: str, dialect: Dialect) -> str | None:
    if dialect.quote is not None:
        return dialect.quote or None
    is_unquoted_tsv = separator == "\t" and file_format in (Format.TSV, Format.RECBOLE, Format.MIND)
    is_hive_text = separator != "\t" and not separator.isprintable()  # as \x01, which Hive takes instead of quoting
    return None if len(separator) > 1 or is_unquoted_tsv or is_hive_text else QUOTE


def _columns_of_format(file_format: Format, width: int) -> tuple[str, ...]:
    if file_format is Format.MOVIELENS and width == len(MOVIELENS_ITEMS):
        return MOVIELENS_ITEMS
    return COLUMNS[file_format]


def _check_width(path: str, names: Sequence[str], line: str, separator: str, quote: str | None) -> None:
    width = len(_fields(path, line, separator, quote))
    if width != len(names):
        raise InputError(f"{path}: the first line has {width} fields, not the {len(names)} columns {', '.join(names)}")


def _header(path: str, line: str, separator: str, quote: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in _fields(path, line, separator, quote))
    if quote is None and len(names) > 1 and all(len(name) > 1 and name[0] == name[-1] == QUOTE for name in names):
        raise InputError(f"{path}: the names of the header are in quote marks; give --quote '{QUOTE}'")
    return names


def _fields(path: str, line: str, separator: str, quote: str | None) -> list[str]:
    if quote is None or len(separator) > 1:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator, quotechar=quote))
    except csv.Error as error:
        raise InputError(f"{path}: the first line is not a header ({error})") from error


def _first_line(file_format: Format) -> str:
    if file_format in COLUMNS:
        return "an event"
    return "a JSON object" if file_format is Format.JSONL else "a header with column names"


def _guessed_separator(file_format: Format, header: str) -> str:
    if file_format is Format.TSV and "\t" in header:
        return "\t"
    return max(",;\t|", key=header.count)


def _json_fields(path: str, lines: list[str]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            scalars = (name for name, value in fields.items() if not isinstance(value, dict | list))
            names |= dict.fromkeys(name for name in scalars if "'" not in name)
    if not names:
        raise InputError(f"{path}: none of the first {len(lines)} lines is a JSON object; give --format")
    return tuple(names)
