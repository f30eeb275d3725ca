"""The file formats of events and items, and the layout of text files."""

import csv
import gzip
import json
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

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
SEPARATORS = {Format.TSV: "\t", Format.RECBOLE: "\t", Format.DIGINETICA: ";", Format.YOOCHOOSE: ","}
DIGINETICA_COLUMNS = {"timeframe", "eventdate"}
"""Columns that identify Diginetica's log, which writes NA for an unknown user."""
YOOCHOOSE_COLUMNS = ("session_id", "timestamp", "item_id", "category")
SERVED_ANSWERS = "answers-*.jsonl*"
"""Files of recorded answers, which lie beside the events in a service's event log and hold no events."""
SAMPLED_LINES = 100
"""JSON lines have no header: the columns are the fields of this many first lines."""


@dataclass(frozen=True)
class Layout:
    """How a text file is split into named fields; every field is text."""

    names: tuple[str, ...]
    separator: str | None
    """None: every line is a JSON object."""
    header_lines: int
    null_text: str | None = None
    """Text that means null, besides an empty field."""


def format_of(path: str) -> Format:
    """Return the format of a file's extension, ignoring `.gz`. Raises InputError if the extension is unknown."""
    extension = Path(path.removesuffix(".gz")).suffix.lower()
    if extension not in BY_EXTENSION:
        raise InputError(f"{path}: cannot tell the format from {extension or 'no extension'!r}; give --format")
    return BY_EXTENSION[extension]


def first_lines(path: str) -> list[str]:
    """Return the first lines of a local text file, gzipped or not, without a byte order mark."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        text = [line.decode("utf-8", errors="replace") for line in islice(file, SAMPLED_LINES)]
    return [line.removeprefix("\ufeff").rstrip("\r\n") for line in text]


def layout(path: str, file_format: Format, lines: list[str]) -> Layout:
    """Derive the layout of a text file from its first lines. Raises InputError if they are neither header nor JSON."""
    if not lines or not lines[0].strip():
        raise InputError(f"{path}: the first line is empty; expected {_first_line(file_format)}")
    if file_format is Format.JSONL:
        return Layout(_json_fields(path, lines), separator=None, header_lines=0)
    separator = SEPARATORS.get(file_format) or _guessed_separator(lines[0])
    if file_format is Format.YOOCHOOSE:
        return Layout(YOOCHOOSE_COLUMNS, separator, header_lines=0)
    names = _header(path, lines[0], separator)
    if file_format is Format.RECBOLE:
        names = tuple(name.partition(":")[0] for name in names)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: the header names {repeated[0]!r} twice; give every column its own name")
    return Layout(names, separator, header_lines=1, null_text="NA" if set(names) >= DIGINETICA_COLUMNS else None)


def _header(path: str, line: str, separator: str) -> tuple[str, ...]:
    try:
        return tuple(name.strip() for name in next(csv.reader([line], delimiter=separator)))
    except csv.Error as error:
        raise InputError(f"{path}: the first line is not a header ({error})") from error


def _first_line(file_format: Format) -> str:
    return {Format.JSONL: "a JSON object", Format.YOOCHOOSE: "an event"}.get(file_format, "a header with column names")


def _guessed_separator(header: str) -> str:
    return max(",;\t|", key=header.count)


def _json_fields(path: str, lines: list[str]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            names |= dict.fromkeys(name for name in fields if "'" not in name)
    if not names:
        raise InputError(f"{path}: none of the first {len(lines)} lines is a JSON object; give --format")
    return tuple(names)
