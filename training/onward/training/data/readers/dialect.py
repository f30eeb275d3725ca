"""How text files are written: separator, quotes, encoding, null marks, column names, format of times."""

import codecs
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from onward.training.errors import InputError

DEFAULT_NULLS = ("", "NULL", "null", r"\N", "nan", "NaN")
"""Texts that stand for a missing value; NA is an id."""
QUOTE = '"'


class Dialect(BaseModel):
    """The options of a preparation that describe its files; None means that each file tells."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    separator: str | None = None
    """What separates fields, of any length."""
    quote: str | None = None
    """The quote mark; empty if quote marks are ordinary text."""
    encoding: str | None = None
    """Encoding of the files that are not UTF-8."""
    nulls: tuple[str, ...] = DEFAULT_NULLS
    columns: tuple[str, ...] | None = None
    """Names of the columns of files without a header."""
    time_format: str | None = None
    """Format of times as in `strftime`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.separator == "" or "\n" in (self.separator or ""):
            raise InputError("--separator: give at least one character, such as ';' or '\\t'")
        if self.quote is not None and (len(self.quote) > 1 or not self.quote.isascii()):
            raise InputError(f"--quote {self.quote!r}: give one ASCII character, or '' if quote marks are text")
        if self.columns is not None and len(set(self.columns)) != len(self.columns):
            raise InputError("--columns: give every column its own name")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError as error:
                raise InputError(f"--encoding {self.encoding!r}: there is no such encoding; try cp1252") from error
        return self
