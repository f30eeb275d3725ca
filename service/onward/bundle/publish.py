"""A new bundle goes live whole or not at all: staged, checked, synced, renamed, then pointed at by one rename.

`bundles/<digest>/` are bundles, `bundles/current` is a link to one of them, `bundles/.staging-*` are bundles in the
making, each locked by the process that makes it, and `bundles/.lock` makes publishers take turns.
"""

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onward.bundle.bundle import Bundle
from onward.bundle.files.manifest import BundleError, Manifest, check_files, read_manifest, write_manifest

CURRENT = "current"
LOCK = ".lock"
STAGING_PREFIX = ".staging-"
LOCK_TIMEOUT_S = 30.0


@contextmanager
def stage(bundles: Path) -> Iterator[Path]:
    """Make an empty folder inside `bundles` to write a bundle into; what is not published is removed at the end."""
    bundles.mkdir(parents=True, exist_ok=True)
    folder = bundles / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
    with _publishers_lock(bundles):
        folder.mkdir()
        claim = _try_lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if claim is not None:
            os.close(claim)


def publish(staging: Path, manifest: Manifest, bundles: Path, *, keep: int = 5) -> str:
    """Make the bundle written into `staging` the current one of `bundles` and return its digest.

    Args:
        staging: a folder of `stage(bundles)` that holds every file but the manifest.
        manifest: all but its `files`, which are measured here; it needs probes.
        bundles: the folder of bundles.
        keep: number of bundles to keep, the newest first; the current one always stays.

    Raises BundleError, with `current` as it was, where a reader would refuse the bundle, or where another publisher
    does not finish.
    """
    write_manifest(staging, manifest)
    digest = Bundle.load(staging).digest
    _sync_files(staging)
    with _publishers_lock(bundles):
        _move_into_place(staging, bundles / digest)
        _sync(bundles)
        _point_at(bundles, digest)
        _sync(bundles)
        _remove_dead_stagings(bundles)
        _prune(bundles, keep)
    return digest


def current_digest(bundles: Path) -> str | None:
    """Return the digest that `current` names, None where there is no such link."""
    try:
        return os.readlink(bundles / CURRENT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{CURRENT}: not a link to a bundle in {bundles}") from error


def _move_into_place(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    try:
        check_files(target, read_manifest(target)[0], hashes=True)
    except BundleError as error:
        raise BundleError(f"{target.name}: published before and damaged since ({error}); remove the folder") from error


def _point_at(bundles: Path, digest: str) -> None:
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


def _remove_dead_stagings(bundles: Path) -> None:
    for folder in bundles.glob(f"{STAGING_PREFIX}*"):
        if folder.is_symlink():
            folder.unlink()
        elif (claim := _try_lock(folder)) is not None:
            shutil.rmtree(folder)
            os.close(claim)


def _remove(folder: Path) -> None:
    """Remove a bundle so that no half of it is ever seen under its digest."""
    doomed = folder.with_name(f"{STAGING_PREFIX}{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


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
def _publishers_lock(bundles: Path) -> Iterator[None]:
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
    """Return a descriptor that holds the folder's lock until it is closed or its process ends, None if it is held."""
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
