"""Releases: every bundle of a folder with its state, and the changes of it: activate, roll back, protect, remove.

A bundle is *staged* until it first goes live, *live* while `current` links to it, *retired* when another one has taken
its place, and *removed* when its folder is gone. An empty file `.staged-<digest>` marks a staged bundle.
"""

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from onward.bundle.bundle import Bundle
from onward.bundle.data_report import data_file
from onward.bundle.files.manifest import MANIFEST, BundleError, is_digest, read_manifest
from onward.bundle.gate_report import report_file
from onward.bundle.published import CURRENT, current_digest
from onward.bundle.publisher_lock import publisher_lock, sync, try_lock
from onward.bundle.release_record import RECORDS, THIS_ACCOUNT, Author, ReleaseRecord, record_file

STAGING_PREFIX = ".staging-"
STAGED_PREFIX = ".staged-"
MAX_REMOVED = 100
"""Of removed bundles the newest records are kept."""
_PERIOD = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

State = Literal["staged", "live", "retired", "removed"]


class Conflict(BundleError):
    """The releases are not what the caller has seen: somebody else has changed them."""


class Retention(NamedTuple):
    """Which bundles are kept when another one goes live: the live one, staged and protected ones, and these."""

    keep: int = 5
    """Number of bundles that are live or were, those that were live last."""
    recent: timedelta = timedelta(hours=1)
    """Those that were live within this time, however many."""


DEFAULT_RETENTION = Retention()


class Release(NamedTuple):
    """A bundle, its state and its record."""

    digest: str
    state: State
    record: ReleaseRecord
    last_live: datetime | None
    """When it was live last; of a live one when it went live, None if it never was."""

    @property
    def is_protected(self) -> bool:
        """Whether it must not be removed."""
        return self.record.protected

    @property
    def activated(self) -> datetime | None:
        """When it last went live, as far as is known."""
        event = self.record.last("activated")
        return None if event is None else event.time


def list_releases(bundles: Path) -> list[Release]:
    """Return all releases: the live one, staged ones, retired ones, removed ones; of each the newest first.

    None is live if `current` is no link to a bundle. Raises BundleError if a record is damaged.
    """
    current = _current(bundles)
    if (bundles / MANIFEST).exists():
        return [_release(bundles.parent, "live", bundles.resolve())]
    folders = {folder.name: folder for folder in published(bundles)}
    present = [_release(bundles, _state(bundles, digest, current), folder) for digest, folder in folders.items()]
    gone = (file.stem for file in (bundles / RECORDS).glob("*.json") if is_digest(file.stem))
    removed = [_removed(bundles, digest) for digest in gone if digest not in folders]
    order = ("live", "staged", "retired", "removed")
    newest_first = sorted([*present, *removed], key=_age, reverse=True)
    return sorted(newest_first, key=lambda release: order.index(release.state))


def find_release(bundles: Path, start: str) -> Release:
    """Return the one release whose digest begins so. Raises BundleError if there is not one."""
    releases = list_releases(bundles)
    return _only(start, [release for release in releases if release.digest.startswith(start)], releases)


def releases_version(releases: list[Release]) -> str:
    """Return a text that changes whenever one of the releases does."""
    facts = [(of.digest, of.state, of.is_protected, str(of.activated)) for of in releases if of.state != "removed"]
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()[:16]


def staged_bundles(bundles: Path) -> list[str]:
    """Return the digests of the staged bundles, newest first."""
    return [folder.name for folder in published(bundles) if staged_mark(bundles, folder.name).exists()]


def find_bundle(bundles: Path, start: str) -> str:
    """Return the digest of the one published bundle whose digest begins so. Raises BundleError if there is not one."""
    present = [release for release in list_releases(bundles) if release.state != "removed"]
    return _only(start, [release for release in present if release.digest.startswith(start)], present).digest


def activate(
    bundles: Path,
    digest: str,
    *,
    author: Author = THIS_ACCOUNT,
    overridden: str | None = None,
    is_rollback: bool = False,
    retention: Retention | None = DEFAULT_RETENTION,
) -> None:
    """Make a published bundle, staged or once live, the live one of `bundles`.

    Args:
        bundles: the folder of bundles.
        digest: the bundle.
        author: who does it, and why.
        overridden: what the gate found, if that is to be ignored.
        is_rollback: the one that is live now is bad, and no later rollback goes back to it.
        retention: which bundles are kept; None removes none.

    Raises BundleError, leaving `current` unchanged, if the bundle does not load or another publisher holds the lock.
    """
    Bundle.load(bundles / digest)
    with publisher_lock(bundles):
        if not (bundles / digest).is_dir():
            raise BundleError(f"{digest}: another publisher has removed it")
        go_live(bundles, digest, author, overridden=overridden, is_rollback=is_rollback)
        remove_abandoned(bundles)
        if retention is not None:
            prune(bundles, retention)


def roll_back(bundles: Path, *, author: Author = THIS_ACCOUNT, retention: Retention | None = DEFAULT_RETENTION) -> str:
    """Make the bundle live again that was live before; return its digest.

    One that was rolled back itself since it last went live is passed over. Raises BundleError if there is none.
    """
    target = rollback_target(list_releases(bundles)).digest
    Bundle.load(bundles / target)
    with publisher_lock(bundles):
        releases = list_releases(bundles)
        if rollback_target(releases).digest != target:
            raise Conflict("another publisher has made a bundle live meanwhile; look again")
        go_live(bundles, target, author, is_rollback=True)
        if retention is not None:
            prune(bundles, retention)
    return target


def rollback_target(releases: list[Release]) -> Release:
    """Return the release that a rollback makes live. Raises BundleError if there is none."""
    for release in releases:
        if release.state == "retired":
            event = release.record.last("activated", "rolled back")
            if event is None or event.what != "rolled back":
                return release
    raise BundleError("no bundle to roll back to: none is kept that was live before and was not rolled back itself")


def protect(
    bundles: Path, digest: str, *, protected: bool, author: Author = THIS_ACCOUNT, version: str | None = None
) -> None:
    """Protect a bundle from being removed, or end that.

    Raises BundleError; Conflict if `version` is given and not that of `releases_version`.
    """
    with publisher_lock(bundles):
        release = _current_release(bundles, digest, version)
        if release.state == "removed":
            raise BundleError(f"{digest[:12]}: is removed already")
        if release.is_protected != protected:
            release.record.with_event("protected" if protected else "unprotected", _now(), author).write(bundles)


def remove(
    bundles: Path,
    digest: str,
    *,
    author: Author = THIS_ACCOUNT,
    recent: timedelta = DEFAULT_RETENTION.recent,
    version: str | None = None,
) -> None:
    """Remove a bundle for good; its record stays.

    Raises BundleError if it is live, protected, or was live within `recent`; Conflict if `version` is not the current.
    """
    with publisher_lock(bundles):
        release = _current_release(bundles, digest, version)
        if (fault := removal_fault(release, recent)) is not None:
            raise BundleError(f"{digest[:12]}: {fault}")
        _remove(bundles, release, author)


def removal_fault(release: Release, recent: timedelta) -> str | None:
    """Return why a bundle must not be removed, None if it may."""
    if release.state in ("live", "removed"):
        return "is live: make another one live first" if release.state == "live" else "is removed already"
    if release.is_protected:
        return "is protected: end that first"
    if release.last_live is not None and release.last_live > _now() - recent:
        return f"was live within the last {_period_text(recent)}, so that it can be rolled back to"
    return None


def go_live(
    bundles: Path, digest: str, author: Author, *, overridden: str | None = None, is_rollback: bool = False
) -> None:
    """Move `current` to a published bundle, and note that it was activated and the one before retired.

    The caller holds the lock.
    """
    before = _current(bundles)
    records = {
        each: _record(bundles, each) for each in {before, digest} if each is not None
    }  # a damaged one ends it here
    os.utime(bundles / digest)
    replace_current(bundles, digest)
    sync(bundles)
    staged_mark(bundles, digest).unlink(missing_ok=True)
    now = _now()
    if before is not None and before != digest:
        staged_mark(bundles, before).unlink(missing_ok=True)
        records[before].with_event("rolled back" if is_rollback else "retired", now, author).write(bundles)
    records[digest].with_event("activated", now, author, overridden=overridden).write(bundles)


def replace_current(bundles: Path, digest: str) -> None:
    """Let `current` name another bundle, in one step."""
    link = bundles / f"{STAGING_PREFIX}{CURRENT}"
    link.unlink(missing_ok=True)
    link.symlink_to(digest)
    link.replace(bundles / CURRENT)


def prune(bundles: Path, retention: Retention) -> None:
    """Remove retired bundles that `retention` does not keep. The caller holds the lock."""
    retired = [release for release in list_releases(bundles) if release.state == "retired"]
    reason = Author(reason=f"beyond the {retention.keep} bundles that are kept")
    for release in retired[max(0, retention.keep - 1) :]:
        if removal_fault(release, retention.recent) is None:
            _remove(bundles, release, reason)


def published(bundles: Path) -> list[Path]:
    """Return the folders of all published bundles, newest first."""
    folders = [folder for folder in bundles.iterdir() if is_digest(folder.name) and folder.is_dir()]
    return sorted(folders, key=lambda folder: folder.stat().st_mtime_ns, reverse=True)


def staged_mark(bundles: Path, digest: str) -> Path:
    """Return the path of the file that marks a staged bundle."""
    return bundles / f"{STAGED_PREFIX}{digest}"


def remove_abandoned(bundles: Path) -> None:
    """Remove staging folders whose process has ended, which released their locks. The caller holds the lock."""
    for folder in bundles.glob(f"{STAGING_PREFIX}*"):
        if folder.is_symlink():
            folder.unlink()
        elif (lock := try_lock(folder)) is not None:
            shutil.rmtree(folder)
            os.close(lock)


def parse_period(text: str) -> timedelta:
    """Parse a period: 90s, 30m, 8h, 1d. Raises ValueError."""
    if (match := _PERIOD.fullmatch(text)) is None:
        raise ValueError("write a number and s, m, h or d, such as 30m")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _period_text(period: timedelta) -> str:
    seconds = int(period.total_seconds())
    unit = next(unit for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)) if seconds % length == 0)
    return f"{seconds // {'d': 86_400, 'h': 3_600, 'm': 60, 's': 1}[unit]} {_UNITS[unit]}"


def _current_release(bundles: Path, digest: str, version: str | None) -> Release:
    releases = list_releases(bundles)
    if version is not None and version != releases_version(releases):
        raise Conflict("the releases have changed since they were read; look again")
    return _only(digest, [release for release in releases if release.digest == digest], releases)


def _only(start: str, found: list[Release], known: list[Release]) -> Release:
    if len(found) != 1:
        digests = ", ".join(of.digest[:12] for of in sorted(known, key=_age, reverse=True)) or "none"
        raise BundleError(f"{start}: {'several bundles begin so' if found else 'no such bundle'}; there are: {digests}")
    return found[0]


def _current(bundles: Path) -> str | None:
    """Return the live bundle, None also if the link to it is broken: another bundle can still be made live."""
    with suppress(BundleError):
        return current_digest(bundles)
    return None


def _state(bundles: Path, digest: str, current: str | None) -> State:
    if digest == current:
        return "live"
    return "staged" if staged_mark(bundles, digest).exists() else "retired"


def _release(bundles: Path, state: State, folder: Path) -> Release:
    record = _record(bundles, folder.name, folder)
    last_live = None
    if state != "staged":
        event = record.last("activated") if state == "live" else record.last("retired", "rolled back", "activated")
        last_live = datetime.fromtimestamp(folder.stat().st_mtime, UTC) if event is None else event.time
    return Release(record.bundle, state, record, last_live)


def _removed(bundles: Path, digest: str) -> Release:
    record = _record(bundles, digest)
    event = record.last("retired", "rolled back", "activated")
    return Release(digest, "removed", record, None if event is None else event.time)


def _age(release: Release) -> datetime:
    """Return by what releases of one state are sorted: when it was live last, else when it was published or made."""
    event = release.record.last("published")
    never = datetime.min.replace(tzinfo=UTC)
    return release.last_live or (event.time if event else None) or release.record.created or never


def _record(bundles: Path, digest: str, folder: Path | None = None) -> ReleaseRecord:
    """Return the record of a bundle; of one without a record what its manifest says."""
    record = ReleaseRecord.read(bundles, digest)
    if record is not None:
        return record
    try:
        manifest, digest = read_manifest(folder or bundles / digest)
    except BundleError:  # a damaged bundle is listed too
        return ReleaseRecord(bundle=digest)
    return ReleaseRecord.of(digest, manifest)


def _remove(bundles: Path, release: Release, author: Author) -> None:
    """Remove a bundle; renaming it first keeps readers from seeing half of it under its digest."""
    folder = bundles / release.digest
    renamed = folder.with_name(f"{STAGING_PREFIX}{folder.name}")
    folder.rename(renamed)
    shutil.rmtree(renamed)
    staged_mark(bundles, release.digest).unlink(missing_ok=True)
    release.record.with_event("removed", _now(), author).write(bundles)
    _forget(bundles)


def _forget(bundles: Path) -> None:
    """Delete the records and reports of all but the newest removed bundles."""
    removed = [release for release in list_releases(bundles) if release.state == "removed"]
    for release in removed[MAX_REMOVED:]:
        report_file(bundles, release.digest).unlink(missing_ok=True)
        data_file(bundles, release.digest).unlink(missing_ok=True)
        record_file(bundles, release.digest).unlink(missing_ok=True)


def _now() -> datetime:
    return datetime.now(UTC)
