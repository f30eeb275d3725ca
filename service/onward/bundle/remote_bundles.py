"""Bundles at an address: fetch them, and publish what commands have done to a working copy.

    s3://shop/bundles/current                 all releases: see `onward.bundle.release_state`
    s3://shop/bundles/<digest>/...            the files of a bundle, the manifest uploaded last
    s3://shop/bundles/gate.toml               rules of the gate, if there are any

A working copy is a temporary folder like any folder of bundles, into which only those bundles are fetched that a
command needs. When the command has succeeded, new bundles are uploaded, and then `current` is replaced by
compare-and-swap.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from onward.bundle.files.manifest import (
    MANIFEST,
    BundleError,
    FileEntry,
    check_files,
    check_names,
    describe_file,
    is_digest,
    read_manifest,
)
from onward.bundle.published import CURRENT, current_digest, elsewhere_mark
from onward.bundle.release_state import ReleaseState, merged
from onward.bundle.releases import Conflict, find_bundle, list_releases, rollback_target, staged_bundles
from onward.bundle.storage import Address, Changed, Missing, ObjectStore, Place, StorageError, Version, run_together

RULES = "gate.toml"
ABANDONED = timedelta(days=1)
"""Age at which files of an upload that was never finished are removed."""
SWAPS = 10
"""How often `current` is read and replaced again while others change something else in it."""
FILES_AT_ONCE = 4

Choice = Callable[[Path], Iterable[str]]
"""Chooses, by a working copy, the digests of the bundles whose files a command needs."""


class RemoteState(NamedTuple):
    """The releases as they were read."""

    state: ReleaseState
    version: Version | None
    """None if nothing has been published at the address."""


class RemoteBundles:
    """The bundles of an address. Methods raise StorageError, and BundleError for what is damaged."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._store = ObjectStore(address)

    def read(self) -> RemoteState:
        """Read the releases, none if nothing has been published."""
        try:
            stored = self._store.read(CURRENT)
        except Missing as error:
            if "NoSuchBucket" in str(error):
                raise
            return RemoteState(ReleaseState(), None)
        return RemoteState(ReleaseState.parse(stored.content), stored.version)

    def read_if_changed(self, known: Version | None) -> RemoteState | None:
        """Read the releases, None if they are in a version that is known. Raises Missing."""
        stored = self._store.read_if_changed(CURRENT, known)
        return None if stored is None else RemoteState(ReleaseState.parse(stored.content), stored.version)

    def fetch(self, digest: str, folder: Path) -> None:
        """Write the files of a bundle into a folder, and verify them; those that are there already are kept.

        Raises BundleError if files are missing or damaged.
        """
        store = ObjectStore(self.address / digest)
        fetch_bundle(store, folder, digest)

    def fetch_rules(self, folder: Path) -> None:
        """Write the rules of the gate into a folder, if the address has any."""
        try:
            self._store.download(RULES, folder / RULES)
        except Missing:
            return

    def upload(self, digest: str, folder: Path) -> None:
        """Upload a bundle: its files, then the manifest."""
        store = ObjectStore(self.address / digest)
        names = read_manifest(folder)[0].files
        run_together(FILES_AT_ONCE, [partial(store.upload, folder / name, name) for name in names])
        store.upload(folder / MANIFEST, MANIFEST)

    def swap(self, base: RemoteState, mine: ReleaseState) -> None:
        """Publish a changed state: replace `current`, with what others have changed elsewhere in it meanwhile.

        Raises Conflict if somebody else has changed the same; new bundles are then published as staged ones.
        """
        try:
            before, now = self._swap(base, mine)
        except Conflict as error:
            new = {digest: entry for digest, entry in mine.bundles.items() if digest not in base.state.present}
            if not any(entry.present for entry in new.values()):
                raise Conflict(f"{error}; nothing was changed, look again") from error
            staged = {digest: entry.as_staged() for digest, entry in new.items()}
            kept = base.state.model_copy(update={"bundles": {**base.state.bundles, **staged}})
            self._swap(base, kept)
            names = ", ".join(digest[:12] for digest in staged)
            raise Conflict(
                f"{error}; {names} is published, but staged, not live: compare it with the live one, and activate it"
            ) from error
        for digest in set(before.present) - set(now.present):
            self._remove(digest)
        self._remove_abandoned(now)

    def _swap(self, base: RemoteState, mine: ReleaseState) -> tuple[ReleaseState, ReleaseState]:
        """Replace `current`; return what it was and is."""
        theirs = base
        for _ in range(SWAPS):
            state = merged(base.state, mine, theirs.state)
            try:
                self._store.replace(CURRENT, state.content(), theirs.version)
            except Changed:
                theirs = self.read()
                if theirs.state == state:  # the answer to this process's own write was lost, and it was tried again
                    return base.state, state
            else:
                return theirs.state, state
        raise Conflict(f"{CURRENT}: others change it all the time; try again")

    def _remove(self, digest: str) -> None:
        """Remove the files of a bundle, the manifest first: then the rest is no bundle."""
        store = ObjectStore(self.address / digest)
        names = [found.name for found in store.list()]
        store.delete(sorted(names, key=lambda name: name != MANIFEST))

    def _remove_abandoned(self, state: ReleaseState) -> None:
        """Remove what publishers have uploaded long ago and never named in `current`."""
        newest: dict[str, datetime] = {}
        for found in self._store.list():
            digest = found.name.partition("/")[0]
            if is_digest(digest) and digest not in state.present:
                newest[digest] = max(found.modified, newest.get(digest, found.modified))
        for digest, modified in newest.items():
            if datetime.now(UTC) - modified > ABANDONED:
                self._remove(digest)


def no_bundle(_copy: Path) -> list[str]:
    """Choose no bundle: the command needs to know what is there, and no files."""
    return []


def live_bundle(copy: Path) -> list[str]:
    """Choose the live bundle, if there is one."""
    live = current_digest(copy)
    return [] if live is None else [live]


def bundle_to_roll_back_to(copy: Path) -> list[str]:
    """Choose the bundle that a rollback makes live. Raises BundleError if there is none."""
    return [rollback_target(list_releases(copy)).digest]


def one_bundle(start: str | None) -> Choice:
    """Choose the bundle whose digest begins so, None for the newest staged one."""
    return lambda copy: staged_bundles(copy)[:1] if start is None else [find_bundle(copy, start)]


def beside_live(start: str | None) -> Choice:
    """Choose a bundle and the live one."""
    return lambda copy: {*one_bundle(start)(copy), *live_bundle(copy)}


@contextmanager
def working_copy(bundles: Place, needed: Choice = no_bundle) -> Iterator[Path]:
    """Yield the folder of bundles at a place, to be read and changed; what has changed is published in the end.

    A path is the folder itself, and nothing else happens. Of an address it is a temporary working copy.

    Args:
        bundles: the folder or address of bundles, or the address of a single bundle.
        needed: chooses the bundles whose files are fetched.

    Raises BundleError; Conflict if others have changed the same meanwhile. If the block raises, nothing is published.
    """
    if isinstance(bundles, Path):
        yield bundles
        return
    with TemporaryDirectory(prefix="onward-copy-") as folder, _named(Path(folder), bundles):
        remote = RemoteBundles(bundles)
        if (base := remote.read()).version is None and _is_bundle(bundles):
            single = Path(folder) / bundles.name
            fetch_bundle(ObjectStore(bundles), single)
            yield single
            return
        base.state.write_to(Path(folder))
        remote.fetch_rules(Path(folder))
        for digest in needed(Path(folder)):
            remote.fetch(digest, Path(folder) / digest)
            elsewhere_mark(Path(folder), digest).unlink()
            touched_ns = base.state.bundles[digest].touched_ns
            os.utime(Path(folder) / digest, ns=(touched_ns, touched_ns))
        yield Path(folder)
        mine = ReleaseState.of_folder(Path(folder), base.state)
        if mine != base.state:
            for digest in set(mine.present) - set(base.state.present):
                remote.upload(digest, Path(folder) / digest)
            remote.swap(base, mine)


def fetch_bundle(store: ObjectStore, folder: Path, digest: str | None = None) -> None:
    """Write the bundle of an address into a folder, and verify it; see `RemoteBundles.fetch`."""
    there = {found.name: found.size for found in store.list()}
    if MANIFEST not in there:
        raise BundleError(f"{MANIFEST}: missing at {store.address}: an upload that was not finished, or a removal")
    content = store.read(MANIFEST).content
    if digest is not None and sha256(content).hexdigest() != digest:
        raise BundleError(f"{MANIFEST}: damaged at {store.address}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_bytes(content)
    manifest = read_manifest(folder)[0]
    check_names(set(manifest.files), manifest)
    for name, entry in manifest.files.items():
        if there.get(name) != entry.size:
            found = "missing" if name not in there else f"{there[name]} bytes, not {entry.size},"
            raise BundleError(f"{name}: {found} at {store.address}")
    run_together(
        FILES_AT_ONCE,
        [
            partial(store.download, name, folder / name, entry.size)
            for name, entry in manifest.files.items()
            if not _is_whole(folder / name, entry)
        ],
    )
    check_files(folder, manifest, hashes=True)


def _is_whole(file: Path, entry: FileEntry) -> bool:
    """Return whether a file was fetched before."""
    return file.exists() and describe_file(file) == entry


def _is_bundle(address: Address) -> bool:
    try:
        ObjectStore(address).size(MANIFEST)
    except Missing:
        return False
    return True


@contextmanager
def _named(folder: Path, address: Address) -> Iterator[None]:
    """Name the address in place of the folder in what bundles are refused for."""
    try:
        yield
    except Conflict as error:
        raise Conflict(str(error).replace(str(folder), str(address))) from error
    except BundleError as error:
        raise BundleError(str(error).replace(str(folder), str(address))) from error
    except StorageError as error:
        raise BundleError(str(error).removeprefix(f"{address}: ").removeprefix(f"{address}/")) from error
