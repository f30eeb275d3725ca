"""Rows of input files that cannot be used, by kind."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

SHOWN_ROWS = 3


class Problem(BaseModel):
    """Rows of one file with the same thing wrong; they are not in the dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    file: str
    count: int
    first_rows: tuple[int, ...]
    """Numbers of the first SHOWN_ROWS of them, from 1, header lines not counted."""

    def __str__(self) -> str:
        rows = ", ".join(map(str, self.first_rows)) + (", ..." if self.count > len(self.first_rows) else "")
        return f"{self.file} row{'s' if self.count > 1 else ''} {rows}: {self.kind} ({self.count:,})"


def told(problems: Sequence[Problem]) -> str:
    """Problems as one line."""
    return "; ".join(map(str, problems))
