"""Unusable rows of input files, grouped by what is wrong with them."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

SHOWN_ROWS = 3


class RowProblem(BaseModel):
    """All rows of one file with the same problem; they are not in the dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    file: str
    count: int
    first_rows: tuple[int, ...]
    """Row numbers of the first SHOWN_ROWS of them, from 1, without header lines."""

    def __str__(self) -> str:
        rows = ", ".join(map(str, self.first_rows)) + (", ..." if self.count > len(self.first_rows) else "")
        return f"{self.file} row{'s' if self.count > 1 else ''} {rows}: {self.kind} ({self.count:,})"


def describe_problems(problems: Sequence[RowProblem]) -> str:
    """Join problems into one line of text."""
    return "; ".join(map(str, problems))
