"""What a bundle was trained on, in figures: the file `<digest>.data.json` beside the bundle.

Beside it and not in it: earlier revisions, which may serve the same folder, refuse a bundle with a file that they do
not know.
"""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from onward.bundle.files.manifest import BundleError
from onward.bundle.validation import message_of


class Part(BaseModel):
    """The size of a part of the dataset."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    events: int
    sessions: int
    items: int
    examples: int


class Bar(BaseModel):
    """One bar of a chart."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    label: str
    value: float


class DataReport(BaseModel):
    """The figures of the dataset that a bundle was trained on; shares are from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format_version: Literal[1] = 1
    prepared: AwareDatetime
    fingerprint: str
    rows: tuple[str, ...]
    """Where every row of the log went, one line each."""
    parts: dict[str, Part]
    session_lengths: tuple[Bar, ...]
    """Sessions by their number of events."""
    events_by_day: tuple[Bar, ...]
    """Empty if the log has no times."""
    popularity: tuple[Bar, ...]
    """Share of the events on each twentieth of the items, the most popular first."""
    repeated: float
    """Share of the events on an item that the session has had already."""
    same_as_before: float
    """Share of the events on the same item as the one before."""
    unknown_in_test: float | None
    """Share of the test events of items that training never saw; None if there is no test part."""
    drift: float | None
    """Difference of the popularities of test and training, from 0 to 1, which means that no item is in both."""

    @classmethod
    def read(cls, bundles: Path, digest: str) -> Self | None:
        """Read the report of a bundle, None if there is none. Raises BundleError if it is damaged."""
        file = data_file(bundles, digest)
        try:
            return cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else message_of(error.errors()[0])
            raise BundleError(f"{file.name}: {reason}") from error

    def write(self, bundles: Path, digest: str) -> None:
        """Write the report of a bundle, all at once."""
        file = data_file(bundles, digest)
        partial = file.with_name(f".{file.name}")
        partial.write_text(self.model_dump_json() + "\n", encoding="utf-8")
        os.replace(partial, file)


def data_file(bundles: Path, digest: str) -> Path:
    """Return the path of a bundle's report."""
    return bundles / f"{digest}.data.json"
