"""Find the bundle to serve: the one that the link `current` names, or one that is given by its own folder."""

import errno
import hashlib
import os
from pathlib import Path

from onward.bundle.files.manifest import MANIFEST, BundleError, is_digest, read_manifest_bytes

CURRENT = "current"


class PublishedBundles:
    """A folder of bundles, or the folder of one bundle, which may be a link such as `bundles/current`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def _is_bundle(self) -> bool:
        return os.path.lexists(self.path / MANIFEST)

    def current(self) -> str | None:
        """Return the name of the bundle to serve, which is its digest; None if none has been published.

        Raises BundleError if `current` is no link to a folder in the folder of bundles.
        """
        try:
            return self._digest() if self._is_bundle else self._linked()
        except OSError as error:
            raise BundleError(f"{self.path}: {error.strerror}") from error

    def current_folder(self) -> Path:
        """Return the folder of the bundle to serve. Raises BundleError."""
        digest = self.current()
        if digest is None:
            raise BundleError(f"{CURRENT}: no such link in {self.path}")
        return self.folder(digest)

    def folder(self, digest: str) -> Path:
        """Return the folder of a bundle, which may not exist. Only the last part of `digest` is used."""
        name = Path(digest).name
        if not self._is_bundle:
            return self.path / name
        folder = self.path.resolve()
        return folder if self.current() == name else folder.parent / name

    def _digest(self) -> str:
        """Return the digest of the single bundle."""
        name = self.path.resolve().name
        return name if is_digest(name) else hashlib.sha256(read_manifest_bytes(self.path)).hexdigest()

    def _linked(self) -> str | None:
        link = self.path / CURRENT
        try:
            target = os.readlink(link)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = "not a link to a bundle" if error.errno == errno.EINVAL else error.strerror
            raise BundleError(f"{CURRENT}: {reason} in {self.path}") from error
        try:
            folder = link.resolve(strict=True)
        except FileNotFoundError as error:
            raise BundleError(f"{CURRENT}: links to {target}, which does not exist") from error
        except (OSError, RuntimeError) as error:  # Python 3.12 and before raise the latter for a loop
            reason = error.strerror if isinstance(error, PermissionError) else "links to itself"
            raise BundleError(f"{CURRENT}: {reason} in {self.path}") from error
        if folder.parent != self.path.resolve():
            raise BundleError(f"{CURRENT}: links to {target}, which is not in {self.path}")
        return folder.name


def elsewhere_mark(bundles: Path, digest: str) -> Path:
    """Return the path of the file that marks a bundle of a working copy whose files are at its address only."""
    return bundles / f".elsewhere-{digest}"


def current_digest(bundles: Path) -> str | None:
    """Return the digest of the bundle that `current` links to, None if there is no such link. Raises BundleError."""
    return PublishedBundles(bundles).current()
