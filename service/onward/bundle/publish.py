"""Publish bundles atomically: stage, check, sync to disk, rename, then replace the `current` link by a rename.

`bundles/<digest>/` are published bundles, and `bundles/current` is a link to the live one of them. A bundle that was
never live is *staged*: an empty file `bundles/.staged-<digest>` says so. `bundles/<digest>.gate.json` is the report of
the gate. `bundles/.staging-*` are bundles that are being written, each locked by the process that writes it, and
`bundles/.lock` serializes publishers.
"""

import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onward.bundle.bundle import Bundle
from onward.bundle.files.manifest import (
    BundleError,
    Manifest,
    check_files,
    is_digest,
    read_manifest,
    write_manifest,
)
from onward.bundle.gate_report import report_file
from onward.bundle.published import CURRENT, current_digest

LOCK = ".lock"
STAGING_PREFIX = ".staging-"
STAGED_PREFIX = ".staged-"
KEPT_BUNDLES = 5
LOCK_TIMEOUT_S = 30.0


@contextmanager
def stage(bundles: Path) -> Iterator[Path]:
    """Create an empty folder inside `bundles` to write a bundle into; it is removed at the end unless published."""
    bundles.mkdir(parents=True, exist_ok=True)
    folder = bundles / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
    with _publisher_lock(bundles):
        folder.mkdir()
        lock = _try_lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def publish(
    staging: Path, manifest: Manifest, bundles: Path, *, keep: int = KEPT_BUNDLES, make_live: bool = True
) -> str:
    """Publish the bundle written into `staging` in `bundles`, as the live one or as a staged one; return its digest.

    Args:
        staging: a folder of `stage(bundles)` that contains every file except the manifest.
        manifest: complete except for `files`, which is filled in here; it needs probes. The files become read-only.
        bundles: the folder of bundles.
        keep: number of newest bundles to keep that are live or were; the live one and all staged ones always stay.
        make_live: move `current` to the bundle; otherwise it is staged, until `activate` makes it live.

    Raises BundleError, leaving `current` unchanged, if the bundle does not load or another publisher holds the lock for
    `LOCK_TIMEOUT_S`.
    """
    write_manifest(staging, manifest)
    _protect_files(staging)
    digest = Bundle.load(staging).digest
    _sync_files(staging)
    with _publisher_lock(bundles):
        if not make_live and not (bundles / digest).exists():
            _staged_mark(bundles, digest).touch()
        _move_into_place(staging, bundles / digest)
        _sync(bundles)
        if make_live:
            _make_live(bundles, digest)
        _remove_abandoned(bundles)
        _prune(bundles, keep)
    return digest


def activate(bundles: Path, digest: str, *, keep: int = KEPT_BUNDLES) -> None:
    """Make a published bundle, staged or once live, the live one of `bundles`.

    It then counts as the newest one; see `publish` for `keep`. Raises BundleError, leaving `current` unchanged, if the
    bundle does not load or another publisher holds the lock.
    """
    Bundle.load(bundles / digest)
    with _publisher_lock(bundles):
        if not (bundles / digest).is_dir():
            raise BundleError(f"{digest}: another publisher has removed it")
        os.utime(bundles / digest)
        _make_live(bundles, digest)
        _remove_abandoned(bundles)
        _prune(bundles, keep)


def staged_bundles(bundles: Path) -> list[str]:
    """Return the digests of the staged bundles, newest first."""
    return [folder.name for folder in _published(bundles) if _staged_mark(bundles, folder.name).exists()]


def find_bundle(bundles: Path, start: str) -> str:
    """Return the digest of the one published bundle whose digest begins so. Raises BundleError if there is not one."""
    found = [folder.name for folder in _published(bundles) if folder.name.startswith(start)]
    if len(found) != 1:
        known = ", ".join(folder.name[:12] for folder in _published(bundles)) or "none"
        raise BundleError(f"{start}: {'several bundles begin so' if found else 'no such bundle'}; there are: {known}")
    return found[0]


def _make_live(bundles: Path, digest: str) -> None:
    _replace_current(bundles, digest)
    _sync(bundles)


def _move_into_place(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    try:
        check_files(target, read_manifest(target)[0], hashes=True)
    except BundleError as error:
        raise BundleError(f"{target.name}: published before and damaged since ({error}); remove the folder") from error


def _replace_current(bundles: Path, digest: str) -> None:
    link = bundles / f"{STAGING_PREFIX}{CURRENT}"
    link.unlink(missing_ok=True)
    link.symlink_to(digest)
    link.replace(bundles / CURRENT)


def _prune(bundles: Path, keep: int) -> None:
    """Remove all but the newest `keep` bundles; the live one and staged ones stay, and the latter do not count."""
    current = current_digest(bundles)
    if current is not None:
        _staged_mark(bundles, current).unlink(missing_ok=True)
    staged = staged_bundles(bundles)
    retired = [folder for folder in _published(bundles) if folder.name not in (current, *staged)]
    for folder in retired[max(0, keep - 1) :]:
        _remove(folder)
        report_file(bundles, folder.name).unlink(missing_ok=True)


def _published(bundles: Path) -> list[Path]:
    """Return the folders of all published bundles, newest first."""
    folders = [folder for folder in bundles.iterdir() if is_digest(folder.name) and folder.is_dir()]
    return sorted(folders, key=lambda folder: folder.stat().st_mtime_ns, reverse=True)


def _staged_mark(bundles: Path, digest: str) -> Path:
    return bundles / f"{STAGED_PREFIX}{digest}"


def _remove_abandoned(bundles: Path) -> None:
    """Remove staging folders whose process has ended, which released their locks."""
    for folder in bundles.glob(f"{STAGING_PREFIX}*"):
        if folder.is_symlink():
            folder.unlink()
        elif (lock := _try_lock(folder)) is not None:
            shutil.rmtree(folder)
            os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a bundle; renaming it first keeps readers from seeing half of it under its digest."""
    renamed = folder.with_name(f"{STAGING_PREFIX}{folder.name}")
    folder.rename(renamed)
    shutil.rmtree(renamed)


def _protect_files(folder: Path) -> None:
    """Make the files read-only: processes that have them mapped would be killed if one of them shrank."""
    for path in folder.iterdir():
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def _sync_files(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _publisher_lock(bundles: Path) -> Iterator[None]:
    """Hold the lock of `bundles`. Raises BundleError after `LOCK_TIMEOUT_S` of waiting."""
    descriptor = os.open(bundles / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    try:
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise BundleError(f"{LOCK}: another publisher has held it for {LOCK_TIMEOUT_S:.0f} s in {bundles}")
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _try_lock(folder: Path) -> int | None:
    """Lock a folder until the returned descriptor is closed or the process ends; return None if it is locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    if _lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
