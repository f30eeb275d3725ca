"""Bring a text file into plain UTF-8 with lines that end in newlines: decompress it, decode it."""

import bz2
import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import polars as pl

from onward.training.errors import InputError

CHUNK_BYTES = 1 << 22
BINARY_MARKS = {
    b"PAR1": "a Parquet file (.parquet)",
    b"\x1f\x8b": "packed by gzip (.gz)",
    b"BZh": "packed by bzip2 (.bz2)",
    b"\x28\xb5\x2f\xfd": "packed by Zstandard (.zst)",
    b"PK\3\4": "a zip archive (.zip) or a spreadsheet",
}
"""The first bytes of files that are sometimes taken for text."""
BYTE_ORDER_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Marks at the start of a file that tell its encoding, the longest first."""


@dataclass(frozen=True)
class PlainText:
    """A file in UTF-8, or in another encoding that nobody named."""

    path: str
    name: str
    not_utf8: str | None
    """The first byte that is not UTF-8 and its place; None if all is UTF-8."""


def plain_text(path: str, name: str, encoding: str | None, scratch: Path) -> PlainText:
    """Return the file itself if it is plain, else a copy in `scratch`.

    `encoding` counts for a file that is not UTF-8; UTF-16 is told by its byte order mark. Raises InputError if the
    file is damaged, or is not of that encoding.
    """
    with _input_errors(path):
        plain = _decompressed(path, scratch)
        if (kind := _kind_of_binary(plain)) is not None:
            raise InputError(f"{path}: it is {kind}, no text; give it that extension, or --format")
        encoding, fault = _encoding(plain, encoding)
        if encoding is not None:
            plain, fault = _decoded(plain, path, encoding, scratch), None
        elif _ends_lines_by_carriage_return(plain):
            plain = _decoded(plain, path, "utf-8", scratch, errors="surrogateescape")
    return PlainText(plain, name, fault)


def whole_lines(path: str) -> Iterator[bytes]:
    """Yield a file in large pieces that end with lines."""
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk + file.readline()


def scratch_file(scratch: Path, path: str) -> Path:
    """Return a new path in `scratch` for a copy of a file."""
    return scratch / f"plain-{len(list(scratch.iterdir()))}-{Path(path).name}.txt"


def _decompressed(path: str, scratch: Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix == ".zst":
        copy = scratch_file(scratch, path)
        try:
            pl.scan_lines(path, glob=False).sink_csv(copy, include_header=False, quote_style="never")
        except pl.exceptions.ComputeError as error:
            if "utf8" not in str(error):
                raise
            raise InputError(
                f"{path}: the text in it is not UTF-8, as it must be in .zst files; unpack it by `zstd -d`, or pack it "
                "by gzip, and give its --encoding"
            ) from error
        return str(copy)
    if suffix not in (".gz", ".bz2"):
        return path
    copy = scratch_file(scratch, path)
    with (gzip.open if suffix == ".gz" else bz2.open)(path, "rb") as packed, copy.open("wb") as file:
        while chunk := packed.read(CHUNK_BYTES):
            file.write(chunk)
    return str(copy)


def _kind_of_binary(path: str) -> str | None:
    with Path(path).open("rb") as file:
        start = file.read(4)
    return next((kind for mark, kind in BINARY_MARKS.items() if start.startswith(mark)), None)


def _encoding(path: str, encoding: str | None) -> tuple[str | None, str | None]:
    """Return the encoding to decode a file by, None for UTF-8, and the first byte that is not UTF-8."""
    with Path(path).open("rb") as file:
        start = file.read(4)
    for mark, name in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return name, None
    fault = _first_fault(path, refuse_null=encoding is not None)
    return (encoding if fault is not None else None), fault


def _first_fault(path: str, *, refuse_null: bool) -> str | None:
    place, line = 0, 1
    for chunk in whole_lines(path):
        bad = None if chunk.isascii() else _bad_byte(chunk)
        if bad is None and refuse_null and b"\0" in chunk:
            bad = chunk.index(b"\0")
        if bad is not None:
            return f"byte {place + bad:,} (0x{chunk[bad]:02x}, line {line + chunk.count(10, 0, bad):,})"
        place, line = place + len(chunk), line + chunk.count(b"\n")
    return None


def _bad_byte(chunk: bytes) -> int | None:
    try:
        chunk.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def _ends_lines_by_carriage_return(path: str) -> bool:
    with Path(path).open("rb") as file:
        start = file.read(CHUNK_BYTES)
    return b"\n" not in start and b"\r" in start


def _decoded(path: str, original: str, encoding: str, scratch: Path, errors: str = "strict") -> str:
    copy = scratch_file(scratch, original)
    with _text(path, encoding, errors) as text, copy.open("wb") as file:
        while chunk := text.read(CHUNK_BYTES):
            file.write(chunk.encode(errors=errors))
    return str(copy)


def _text(path: str, encoding: str, errors: str) -> IO[str]:
    return io.TextIOWrapper(Path(path).open("rb"), encoding=encoding, errors=errors, newline=None)


@contextmanager
def _input_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (UnicodeError, LookupError) as error:
        raise InputError(f"{path}: {error}; give its --encoding") from error
    except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).partition(chr(10))[0]})") from error
