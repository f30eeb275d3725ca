"""Publish bundles atomically: stage, check, sync to disk, rename, then replace the `current` link by a rename.

`bundles/<digest>/` are published bundles, `bundles/current` is a link to one of them, `bundles/.staging-*` are bundles
that are being written, each locked by the process that writes it, and `bundles/.lock` serializes publishers.
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
from onward.bundle.files.manifest import BundleError, Manifest, check_files, read_manifest, write_manifest
from onward.bundle.published import CURRENT, current_digest

LOCK = ".lock"
STAGING_PREFIX = ".staging-"
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


def publish(staging: Path, manifest: Manifest, bundles: Path, *, keep: int = 5) -> str:
    """Make the bundle written into `staging` the current one of `bundles` and return its digest.

    Args:
        staging: a folder of `stage(bundles)` that contains every file except the manifest.
        manifest: complete except for `files`, which is filled in here; it needs probes. The files become read-only.
        bundles: the folder of bundles.
        keep: number of newest bundles to keep; the current one always stays.

    Raises BundleError, leaving `current` unchanged, if the bundle does not load or another publisher holds the lock for
    `LOCK_TIMEOUT_S`.
    """
    write_manifest(staging, manifest)
    _protect_files(staging)
    digest = Bundle.load(staging).digest
    _sync_files(staging)
    with _publisher_lock(bundles):
        _move_into_place(staging, bundles / digest)
        _sync(bundles)
        _replace_current(bundles, digest)
        _sync(bundles)
        _remove_abandoned(bundles)
        _prune(bundles, keep)
    return digest


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
    current = current_digest(bundles)
    published = [folder for folder in bundles.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    others = [folder for folder in published if folder.name not in (current, CURRENT)]
    others.sort(key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
    for folder in others[max(0, keep - 1) :]:
        _remove(folder)


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
