"""The common fields of all benchmark records."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt


class RecordPart(BaseModel):
    """A part of a record; fields that the page does not show are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Index(RecordPart):
    """The index of a bundle."""

    description: str
    nprobe: int | None = None
    ef_search: int | None = None

    def __str__(self) -> str:
        visits = self.nprobe or self.ef_search
        return self.description if visits is None else f"{self.description} at {visits}"


class Record(BaseModel):
    """The output of a benchmark; fields not named here include the versions of libraries."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="allow")

    file: str
    """Name of its file, without the extension."""
    processor: str
    cores: PositiveInt
    memory_gib: PositiveFloat
    python: str
    commit: str | None = None
    """The commit that was measured, followed by + if the working tree had changes."""

    @property
    def versions(self) -> dict[str, str]:
        """Versions of libraries, by name."""
        return {
            name: value
            for name, value in (self.model_extra or {}).items()
            if isinstance(value, str) and value[:1].isdigit()
        }


def check_columns(rows: Iterable[Mapping[Any, object]]) -> None:
    """Raise ValueError if there are no rows, or if their columns differ."""
    names = [set(row) for row in rows]
    if not names or any(columns != names[0] for columns in names) or not names[0]:
        raise ValueError("figures are missing, or are not the same for everything that is compared")
