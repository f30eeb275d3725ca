"""ReleaseRecord: what has happened to a bundle since it was published; the file `.releases/<digest>.json`.

The record outlives the bundle. What a bundle is now is told by the folder itself, so that bundles without a record, or
that a publisher of an earlier version has moved, are read as they are: see `onward.bundle.releases`.
"""

import os
from datetime import datetime
from getpass import getuser
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from onward.bundle.files.manifest import BundleError, Manifest
from onward.bundle.publisher_lock import sync
from onward.bundle.validation import message_of

RECORDS = ".releases"
MAX_EVENTS = 100
"""Of a bundle: earlier ones are forgotten, but for its publication."""
MAX_REASON = 500

What = Literal["published", "activated", "retired", "rolled back", "protected", "unprotected", "removed"]


class Author(NamedTuple):
    """Who changes something, and why."""

    by: str | None = None
    """None for the account of this process."""
    reason: str | None = None


THIS_ACCOUNT = Author()


class ReleaseEvent(BaseModel):
    """Something that happened to a bundle."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: str = Field(
        description="published, activated, retired (another one went live), rolled back (retired because it was bad), "
        "protected, unprotected or removed.",
        examples=["activated"],
    )
    time: AwareDatetime
    by: str | None = Field(default=None, description="The account or the key.", examples=["first"])
    reason: str | None = Field(default=None, examples=["new season"])
    overridden: str | None = Field(
        default=None,
        description="What the gate found, if it went live by force.",
        examples=["recall@20 is 0.0210 below live"],
    )


class ReleaseRecord(BaseModel):
    """What is known of a bundle, also when it has been removed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: Literal[1] = 1
    bundle: str
    """Its digest."""
    model: str | None = None
    created: AwareDatetime | None = None
    items: int | None = None
    size: int | None = None
    """Bytes of all files."""
    unfinished: bool = False
    """Whether its training was interrupted."""
    protected: bool = False
    """Whether it must not be removed."""
    events: tuple[ReleaseEvent, ...] = ()

    @classmethod
    def of(cls, digest: str, manifest: Manifest, *, unfinished: bool = False) -> Self:
        """Return the record of a bundle to which nothing has happened."""
        return cls(
            bundle=digest,
            model=manifest.model,
            created=manifest.created,
            items=manifest.items,
            size=sum(entry.size for entry in manifest.files.values()),
            unfinished=unfinished,
        )

    @classmethod
    def read(cls, bundles: Path, digest: str) -> Self | None:
        """Read the record of a bundle, None if there is none. Raises BundleError if it is damaged."""
        file = record_file(bundles, digest)
        try:
            return cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BundleError(f"{RECORDS}/{file.name}: {error.strerror}") from error
        except ValidationError as error:
            fault = message_of(error.errors()[0])
            raise BundleError(f"{RECORDS}/{file.name}: {fault}; remove this file to go on without it") from error

    def with_event(
        self, what: What, time: datetime, author: Author = THIS_ACCOUNT, *, overridden: str | None = None
    ) -> "ReleaseRecord":
        """Return the record with one more event."""
        event = ReleaseEvent(
            what=what,
            time=time,
            by=author.by or account(),
            reason=None if author.reason is None else author.reason[:MAX_REASON],
            overridden=overridden,
        )
        kept = self.events if len(self.events) < MAX_EVENTS else (self.events[0], *self.events[2:])
        protected = self.protected if what not in ("protected", "unprotected") else what == "protected"
        return self.model_copy(update={"events": (*kept, event), "protected": protected})

    def last(self, *what: What) -> ReleaseEvent | None:
        """Return the last event of these kinds, None if there is none."""
        return next((event for event in reversed(self.events) if event.what in what), None)

    def write(self, bundles: Path) -> None:
        """Write the record, whole or not at all. The caller holds the lock of the folder."""
        file = record_file(bundles, self.bundle)
        file.parent.mkdir(exist_ok=True)
        temporary = file.with_name(f".{file.name}.partial")
        temporary.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
        sync(temporary)
        os.replace(temporary, file)
        sync(file.parent)


def record_file(bundles: Path, digest: str) -> Path:
    """Return the path of a bundle's record."""
    return bundles / RECORDS / f"{digest}.json"


def account() -> str:
    """Return the name of the account of this process, or its number if it has no name, as in a container."""
    try:
        return getuser()
    except (KeyError, OSError):
        return str(os.getuid())
