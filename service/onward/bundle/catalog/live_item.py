"""What is stored of an item that changed while the service runs, and the file of such changes for a rebuild."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from numpy import float32
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from onward.bundle.catalog.cold_start import ColdItem
from onward.bundle.files.changes import ItemChange
from onward.bundle.files.manifest import is_valid_id
from onward.bundle.validation import message_of


class LiveItem(BaseModel):
    """An item's difference to its bundle; of one that the bundle does not have, all that is known."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    attributes: Mapping[str, Any] = {}
    """None removes one."""
    available: bool | None = None
    similar_to: tuple[str, ...] = ()
    seen_with: Mapping[str, float] = {}
    deleted: bool = False

    @classmethod
    def of(cls, stored: Any) -> Self:
        """Read what `stored` wrote; no difference where that is none of ours."""
        try:
            return cls.model_validate(stored or {})
        except ValidationError:
            return cls()

    def stored(self) -> dict[str, Any]:
        """Write it as JSON."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def as_cold(self) -> ColdItem:
        """Return what a vector can be made from."""
        known = {name: value for name, value in self.attributes.items() if value is not None}
        return ColdItem(known, self.similar_to, self.seen_with)

    def change(self, item_id: str, sequence: int, vector_D: NDArray[float32] | None) -> ItemChange:
        """Return it as a bundle takes it, with the vector of a new item."""
        return ItemChange(
            item_id=item_id,
            sequence=sequence,
            attributes=self.attributes,
            available=self.available,
            deleted=self.deleted,
            vector_D=vector_D,
        )


class StoredChange(LiveItem):
    """A line of a file of changes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item_id: str
    sequence: int


def change_line(item_id: str, sequence: int, item: LiveItem) -> str:
    """Write a line of a file of changes, without its end."""
    change = StoredChange.model_validate({"item_id": item_id, "sequence": sequence, **item.stored()}, strict=False)
    return change.model_dump_json(exclude_defaults=True)


def read_changes(path: Path) -> list[StoredChange]:
    """Read a file of changes. Raises ValueError, which names the file, the line and what is wrong with it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no readable UTF-8 text") from error
    return [_change(path, number, line) for number, line in enumerate(lines, start=1)]


def _change(path: Path, number: int, line: str) -> StoredChange:
    try:
        change = StoredChange.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: line {number}: {place + ': ' if place else ''}{message_of(first)}") from error
    if not is_valid_id(change.item_id):
        raise ValueError(f"{path}: line {number}: item_id: an id is 1..128 visible characters")
    return change
