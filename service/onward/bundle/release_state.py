"""ReleaseState: the releases of an address in one document, the object `current`.

At an address nobody can hold a lock, so that all that publishers change lies in one object, which is replaced by
compare-and-swap: which bundle is live, which are staged, and what has happened to each. Its bundles are folders beside
it, as on a disk. A folder of the same content is made of it and read back into it, so that the rules of releases are
those of `onward.bundle.releases`.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from onward.bundle.data_report import data_file
from onward.bundle.files.manifest import BundleError, is_digest
from onward.bundle.gate_report import report_file
from onward.bundle.published import CURRENT, current_digest, elsewhere_mark
from onward.bundle.release_record import RECORDS, record_file
from onward.bundle.releases import Conflict, published, replace_current, staged_mark
from onward.bundle.validation import message_of


class ReleaseEntry(BaseModel):
    """A bundle at an address, present or removed; fields of a later version are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    present: bool
    staged: bool = False
    touched_ns: int = 0
    """When its folder was made or went live, since 1970: what bundles are ordered by."""
    record: dict[str, Any] | None = None
    gate: dict[str, Any] | None = None
    data: dict[str, Any] | None = None

    def as_staged(self) -> "ReleaseEntry":
        """Return a new bundle as it is if it has not gone live."""
        record = self.record and {
            **self.record,
            "events": [event for event in self.record.get("events", ()) if event["what"] != "activated"],
        }
        return self.model_copy(update={"staged": True, "record": record})


class ReleaseState(BaseModel):
    """All releases of an address."""

    model_config = ConfigDict(frozen=True, extra="allow")

    format_version: Literal[1] = 1
    live: str | None = None
    bundles: dict[str, ReleaseEntry] = {}

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Parse the document. Raises BundleError."""
        try:
            state = cls.model_validate_json(content)
        except ValidationError as error:
            raise BundleError(f"{CURRENT}: {message_of(error.errors()[0])}") from error
        if fault := next((name for name in (*state.bundles, state.live or "0" * 64) if not is_digest(name)), None):
            raise BundleError(f"{CURRENT}: {fault!r} is not the digest of a bundle")
        return state

    def content(self) -> bytes:
        """Return the document."""
        return self.model_dump_json(exclude_none=True, indent=1).encode() + b"\n"

    @property
    def present(self) -> list[str]:
        """The digests of all bundles whose files are at the address."""
        return [digest for digest, entry in self.bundles.items() if entry.present]

    @classmethod
    def of_folder(cls, folder: Path, before: "ReleaseState") -> "ReleaseState":
        """Return the state of a folder that was made of the state `before` and changed since."""
        recorded = [file.stem for file in (folder / RECORDS).glob("*.json") if is_digest(file.stem)]
        digests = sorted({*(bundle.name for bundle in published(folder)), *recorded})
        entries = {digest: _entry_of(folder, digest, before.bundles.get(digest)) for digest in digests}
        return before.model_copy(update={"live": current_digest(folder), "bundles": entries})

    def write_to(self, folder: Path) -> None:
        """Make a folder of the state, with marks in place of the files of bundles."""
        for digest, entry in self.bundles.items():
            if entry.present:
                (folder / digest).mkdir()
                elsewhere_mark(folder, digest).touch()
                os.utime(folder / digest, ns=(entry.touched_ns, entry.touched_ns))
            if entry.staged:
                staged_mark(folder, digest).touch()
            write_documents(folder, digest, entry)
        if self.live is not None:
            replace_current(folder, self.live)


def merged(base: ReleaseState, mine: ReleaseState, theirs: ReleaseState) -> ReleaseState:
    """Return what two publishers have made of one state. Raises Conflict if both have changed the same."""
    digests = {*base.bundles, *mine.bundles}
    changed = [digest for digest in digests if mine.bundles.get(digest) != base.bundles.get(digest)]
    if mine.live != base.live != theirs.live:
        raise Conflict(f"{CURRENT}: another publisher has made {_short(theirs.live)} live since this command began")
    for digest in changed:
        if theirs.bundles.get(digest) != base.bundles.get(digest):
            raise Conflict(f"{CURRENT}: another publisher has changed {digest[:12]} since this command began")
    entries = {**theirs.bundles, **{digest: mine.bundles[digest] for digest in changed if digest in mine.bundles}}
    for digest in base.bundles.keys() - mine.bundles.keys():
        entries.pop(digest, None)
    live = mine.live if mine.live != base.live else theirs.live
    return theirs.model_copy(update={"live": live, "bundles": entries})


def write_documents(folder: Path, digest: str, entry: ReleaseEntry) -> None:
    """Write the record and the reports of a bundle into a folder, each whole or not at all."""
    for file, content in (
        (record_file(folder, digest), entry.record),
        (report_file(folder, digest), entry.gate),
        (data_file(folder, digest), entry.data),
    ):
        if content is not None:
            file.parent.mkdir(exist_ok=True)
            partial = file.with_name(f".{file.name}.partial")
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, file)


def _entry_of(folder: Path, digest: str, before: ReleaseEntry | None) -> ReleaseEntry:
    present = (folder / digest).is_dir()
    found = ReleaseEntry(
        present=present,
        staged=staged_mark(folder, digest).exists(),
        touched_ns=(folder / digest).stat().st_mtime_ns if present else 0,
        record=_document(record_file(folder, digest)),
        gate=_document(report_file(folder, digest)),
        data=_document(data_file(folder, digest)),
    )
    return found if before is None else before.model_copy(update=found.model_dump())


def _document(file: Path) -> dict[str, Any] | None:
    with suppress(FileNotFoundError):
        content: dict[str, Any] = json.loads(file.read_bytes())
        return content
    return None


def _short(digest: str | None) -> str:
    return "no bundle" if digest is None else digest[:12]
