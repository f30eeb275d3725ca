"""The account of a preparation: which files and columns were taken, and where every row went."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from onward.training.data.readers.sources import IgnoredFile


class ColumnTaken(BaseModel):
    """The column that was taken for a role, and whether an option named it or its name was recognized."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    column: str
    how: Literal["given", "guessed"]

    def __str__(self) -> str:
        return f"{self.role} {self.column!r} ({self.how})"


class Loss(BaseModel):
    """What one step dropped, and the option that brings it back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    events: int
    sessions: int = 0
    """Sessions that the step dropped whole."""
    items: int = 0
    """Items that the step dropped with all of their events."""
    option: str | None = None


class Account(BaseModel):
    """Where every row went: `rows` is the sum of the events of all losses and of `kept`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[ColumnTaken, ...]
    times: str | None
    """How times are written; None if the log has none."""
    files: tuple[str, ...]
    ignored: tuple[IgnoredFile, ...]
    rows: int
    """Rows of all files; a row that holds several events counts for each of them."""
    losses: tuple[Loss, ...]
    kept: int
    """Events in the dataset; an event in several parts counts once."""
    sessions: int
    """Sessions before short ones and rare items were dropped."""
    items: int
    """Items before rare ones were dropped."""
    remarks: tuple[str, ...]
    """What was taken for granted, and should be looked at."""
