"""Publish bundles atomically: stage, check, sync to disk, rename, then replace the `current` link by a rename.

`bundles/<digest>/` are published bundles, and `bundles/current` is a link to the live one of them; see
`onward.bundle.releases`. `bundles/<digest>.gate.json` is the report of the gate, and
`bundles/<digest>.data.json` has the figures of the dataset. `bundles/.staging-*` are bundles that
are being written, each locked by the process that writes it, and `bundles/.lock` serializes publishers.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from onward.bundle.bundle import Bundle
from onward.bundle.files.manifest import BundleError, Manifest, check_files, read_manifest, write_manifest
from onward.bundle.published import elsewhere_mark
from onward.bundle.publisher_lock import publisher_lock, sync, try_lock
from onward.bundle.release_record import THIS_ACCOUNT, Author, ReleaseRecord
from onward.bundle.releases import (
    DEFAULT_RETENTION,
    STAGING_PREFIX,
    Retention,
    go_live,
    prune,
    remove_abandoned,
    staged_mark,
)


@contextmanager
def stage(bundles: Path) -> Iterator[Path]:
    """Create an empty folder inside `bundles` to write a bundle into; it is removed at the end unless published."""
    bundles.mkdir(parents=True, exist_ok=True)
    folder = bundles / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
    with publisher_lock(bundles):
        folder.mkdir()
        lock = try_lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def publish(
    staging: Path,
    manifest: Manifest,
    bundles: Path,
    *,
    make_live: bool = True,
    unfinished: bool = False,
    author: Author = THIS_ACCOUNT,
    retention: Retention = DEFAULT_RETENTION,
) -> str:
    """Publish the bundle written into `staging` in `bundles`, as the live one or as a staged one; return its digest.

    Args:
        staging: a folder of `stage(bundles)` that contains every file except the manifest.
        manifest: complete except for `files`, which is filled in here; it needs probes. The files become read-only.
        bundles: the folder of bundles.
        make_live: move `current` to the bundle; otherwise it is staged, until `activate` makes it live.
        unfinished: its training was interrupted, which the gate refuses.
        author: who publishes it, and why.
        retention: which bundles are kept.

    Raises BundleError, leaving `current` unchanged, if the bundle does not load or another publisher holds the lock for
    `LOCK_TIMEOUT_S`.
    """
    write_manifest(staging, manifest)
    _protect_files(staging)
    digest = Bundle.load(staging).digest
    _sync_files(staging)
    with publisher_lock(bundles):
        is_new = not (bundles / digest).exists()
        if is_new and not make_live:
            staged_mark(bundles, digest).touch()
        _move_into_place(staging, bundles / digest)
        sync(bundles)
        if is_new:
            _note_publication(bundles, digest, author, unfinished=unfinished)
        if make_live:
            go_live(bundles, digest, author)
        remove_abandoned(bundles)
        prune(bundles, retention)
    return digest


def _note_publication(bundles: Path, digest: str, author: Author, *, unfinished: bool) -> None:
    record = ReleaseRecord.read(bundles, digest)  # of one that was removed
    if record is None:
        record = ReleaseRecord.of(digest, read_manifest(bundles / digest)[0])
    noted = record.with_event("published", datetime.now(UTC), author)
    noted.model_copy(update={"unfinished": unfinished}).write(bundles)


def _move_into_place(staging: Path, target: Path) -> None:
    mark = elsewhere_mark(target.parent, target.name)
    if mark.exists():  # the same files are at the address of this working copy
        target.rmdir()
        mark.unlink()
    if not target.exists():
        staging.rename(target)
        return
    try:
        check_files(target, read_manifest(target)[0], hashes=True)
    except BundleError as error:
        raise BundleError(f"{target.name}: published before and damaged since ({error}); remove the folder") from error


def _protect_files(folder: Path) -> None:
    """Make the files read-only: processes that have them mapped would be killed if one of them shrank."""
    for path in folder.iterdir():
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def _sync_files(folder: Path) -> None:
    for path in folder.iterdir():
        sync(path)
    sync(folder)
