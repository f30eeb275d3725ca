"""Count the rows of a delimited text file and find out what its quote marks mean.

By RFC 4180 a field is quoted as a whole: a quote mark opens it at its start, doubled ones inside stand for one, and the
closing one stands before a separator or the end of the line. Readers differ, without a word, in what they make of other
files. So a file is only read with quoted fields if all of its quote marks follow that rule. If none stands at the start
of a field, all are ordinary text (`TV 55"`). A file with both is written anew, if it can be told; else it is refused.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onward.training.data.readers.plain_text import scratch_file, whole_lines
from onward.training.errors import InputError

NEWLINE, RETURN = 10, 13
_NUMBER_OR_TIME = re.compile(rb"\"?-?[0-9][0-9:./ T-]*(?:Z|UTC|[+-][0-9:]+)?\"?")
MAX_FIELD_CHARACTERS = 1 << 27


@dataclass
class Survey:
    """What the bytes of a text file say."""

    rows: int = 0
    """Lines, without those that end within a quoted field."""
    blank: bool = False
    """Whether there are empty lines."""
    multiline: bool = False
    """Whether a quoted field goes over several lines."""
    quoted: bool = False
    """Whether a quote mark stands at the start of a field."""
    fault_line: int | None = None
    """Line of the first quote mark that does not follow the rule."""
    swallowed_line: int | None = None
    """Line on which a quoted field begins that holds what looks like another row."""


def survey(path: str, separator: str, quote: str | None, example: bytes) -> Survey:
    """Read a file once. `example` is a line of data, by which rows within quoted fields are recognized."""
    result = Survey()
    inside, last = False, b"\n"
    line = 1
    mark = quote.encode() if quote else None
    for chunk in whole_lines(path):
        result.blank |= b"\n\n" in chunk or b"\n\r\n" in chunk or chunk.startswith((b"\n", b"\r\n"))
        lines = chunk.count(b"\n")
        if mark is not None and (inside or mark in chunk):
            inside = _survey_quotes(result, chunk, ord(separator), ord(mark), example, inside=inside, line=line)
        else:
            result.rows += lines
        line += lines
        last = chunk[-1:]
    if last != b"\n":
        result.rows += 1
    if inside and result.fault_line is None:
        result.fault_line = line
    return result


def _survey_quotes(
    result: Survey, chunk: bytes, separator: int, quote: int, example: bytes, *, inside: bool, line: int
) -> bool:
    """Add a piece of whole lines; return whether it ends within a quoted field."""
    characters = np.frombuffer(chunk, dtype=np.uint8)
    places = np.flatnonzero(characters == quote)
    closes = (np.arange(len(places)) + inside) % 2 == 1
    before = np.where(places > 0, characters[places - 1], NEWLINE)
    after = np.where(places + 1 < len(characters), characters[np.minimum(places + 1, len(characters) - 1)], NEWLINE)
    at_start = (before == separator) | (before == NEWLINE)
    at_end = (after == separator) | (after == NEWLINE) | (after == RETURN)
    wrong = np.where(closes, ~(at_end | (after == quote)), ~(at_start | (before == quote)))
    result.quoted |= bool((at_start & ~closes).any())
    if wrong.any() and result.fault_line is None:
        result.fault_line = line + chunk.count(b"\n", 0, int(places[np.argmax(wrong)]))
    newlines = np.flatnonzero(characters == NEWLINE)
    within = (np.searchsorted(places, newlines) + inside) % 2 == 1
    result.rows += int((~within).sum())
    result.multiline |= bool(within.any())
    if within.any() and result.swallowed_line is None:
        swallowed = _first_swallowed(chunk, newlines, within, places, separator, example)
        result.swallowed_line = None if swallowed is None else line + swallowed
    return bool((len(places) + inside) % 2)


def _first_swallowed(
    chunk: bytes,
    newlines: NDArray[np.intp],
    within: NDArray[np.bool_],
    quotes: NDArray[np.intp],
    separator: int,
    example: bytes,
) -> int | None:
    """Return how many lines come before the first text in a quoted field that looks like a row of its own."""
    kinds = [_NUMBER_OR_TIME.fullmatch(field) is not None for field in example.split(bytes([separator]))]
    if not any(kinds):
        return None
    for number in np.flatnonzero(within):
        start = int(newlines[number]) + 1
        next_quote = np.searchsorted(quotes, start)
        ends = [len(chunk) if next_quote == len(quotes) else int(quotes[next_quote])]
        if number + 1 < len(newlines):
            ends.append(int(newlines[number + 1]))
        fields = chunk[start : min(ends)].rstrip(b"\r").split(bytes([separator]))
        if len(fields) == len(kinds) and all(
            _NUMBER_OR_TIME.fullmatch(field) for field, is_number in zip(fields, kinds, strict=True) if is_number
        ):
            return int(number)
    return None


def rewrite(path: str, name: str, separator: str, quote: str, scratch: Path) -> str:
    """Write a file with both quoted fields and stray quote marks anew, by RFC 4180.

    Raises InputError with the line if a quoted field does not end where a field may end.
    """
    copy = scratch_file(scratch, path)
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    with (
        Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as text,
        copy.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        rows = csv.reader(text, delimiter=separator, quotechar=quote, strict=True)
        write = csv.writer(file, delimiter=separator, quotechar=quote, lineterminator="\n").writerows
        write(_checked(rows, name, quote))
    return str(copy)


def _checked(rows: Iterator[Sequence[str]], name: str, quote: str) -> Iterator[Sequence[str]]:
    start = 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise doubtful(name, start, quote) from error
        yield row
        start = rows.line_num + 1  # type: ignore[attr-defined]


def doubtful(name: str, line: int, quote: str) -> InputError:
    """Return the error for a file whose quote marks cannot be told."""
    return InputError(
        f"{name}: line {line:,}: cannot tell whether its quote mark {quote} begins a quoted field or is text; "
        f"correct the line, or give --quote '' if quote marks are text, or --quote '{quote}' if fields are quoted"
    )
