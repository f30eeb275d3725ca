"""The change of an item in the live catalog, and the JSON Lines file of such changes that a rebuild reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from numpy import float32
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onward.bundle.catalog.cold_start import ColdItem
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.id_rule import stored_id_fault
from onward.bundle.validation import message_of


class LiveItem(BaseModel):
    """How an item differs from its bundle; for a new item, all that is known about it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    attributes: Mapping[str, Any] = Field(default_factory=dict)
    """Attributes that differ; None removes one."""
    available: bool | None = None
    """None keeps the bundle's availability."""
    similar_to: tuple[str, ...] = ()
    """Ids of the items that a new item is said to be similar to."""
    seen_with: Mapping[str, float] = Field(default_factory=dict)
    """Ids of items that live sessions contain together with a new item, and the weight of these co-occurrences."""
    deleted: bool = False

    @classmethod
    def of(cls, stored: Any) -> Self:
        """Parse the output of `stored`; anything that does not parse counts as no difference."""
        try:
            return cls.model_validate(stored or {})
        except ValidationError:
            return cls()

    def stored(self) -> dict[str, Any]:
        """Return the change as JSON values, without defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def as_cold(self) -> ColdItem:
        """Return the evidence that a vector can be computed from."""
        attributes = {name: value for name, value in self.attributes.items() if value is not None}
        return ColdItem(attributes, self.similar_to, self.seen_with)

    def change(self, item_id: str, sequence: int, vector_D: NDArray[float32] | None) -> ItemChange:
        """Return the change in the form that `Bundle.with_changes` takes, with the vector of a new item."""
        return ItemChange(
            item_id=item_id,
            sequence=sequence,
            attributes=self.attributes,
            available=self.available,
            deleted=self.deleted,
            vector_D=vector_D,
        )


class StoredChange(LiveItem):
    """One line of a file of changes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item_id: str
    sequence: int


def change_line(item_id: str, sequence: int, item: LiveItem) -> str:
    """Return one line of a file of changes, without the newline."""
    change = StoredChange.model_validate({"item_id": item_id, "sequence": sequence, **item.stored()}, strict=False)
    return change.model_dump_json(exclude_defaults=True)


def read_changes(path: Path) -> list[StoredChange]:
    """Read a file of changes. Raises ValueError with the file, the line and the fault."""
    try:
        with path.open(encoding="utf-8") as file:
            lines = [line.removesuffix("\n") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no readable UTF-8 text") from error
    return [_parse_line(path, number, line) for number, line in enumerate(lines, start=1)]


def _parse_line(path: Path, number: int, line: str) -> StoredChange:
    try:
        change = StoredChange.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: line {number}: {place + ': ' if place else ''}{message_of(first)}") from error
    if (fault := stored_id_fault(change.item_id)) is not None:
        raise ValueError(f"{path}: line {number}: item_id: {fault}")
    return change
