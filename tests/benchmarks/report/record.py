"""What the records of all benchmarks have in common."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt


class Part(BaseModel):
    """Something that a record holds; fields that the page does not tell of are passed over."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Index(Part):
    """How a bundle is searched."""

    description: str
    nprobe: int | None = None
    ef_search: int | None = None

    def __str__(self) -> str:
        visits = self.nprobe or self.ef_search
        return self.description if visits is None else f"{self.description} at {visits}"


class Record(BaseModel):
    """A line that a benchmark printed; what it says beyond the fields named here holds the versions of libraries."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="allow")

    file: str
    """Name of its file, without the ending."""
    processor: str
    cores: PositiveInt
    memory_gib: PositiveFloat
    python: str
    commit: str | None = None
    """Of the code that measured, with + behind it where files differed from it."""

    @property
    def versions(self) -> dict[str, str]:
        """Of libraries, by name."""
        return {
            name: value
            for name, value in (self.model_extra or {}).items()
            if isinstance(value, str) and value[:1].isdigit()
        }


def check_columns(rows: Iterable[Mapping[Any, object]]) -> None:
    """Raise ValueError where there are no rows, or where they do not hold figures of the same names."""
    names = [set(row) for row in rows]
    if not names or any(one != names[0] for one in names) or not names[0]:
        raise ValueError("figures are missing, or are not there for all that is compared")
