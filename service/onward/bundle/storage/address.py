"""Where things are: a path of this machine, or an address of an object store.

`s3://BUCKET/FOLDER`, `gs://BUCKET/FOLDER` and `az://CONTAINER/FOLDER` are addresses; `memory://NAME` is one in the
memory of this process, for tests and for the library. `file:///FOLDER` is the folder itself.
"""

import re
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias
from urllib.parse import unquote

REMOTE_SCHEMES = ("s3", "gs", "az")
MEMORY = "memory"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
"""A path object has lost the second slash. One letter is no scheme."""
_FILE = re.compile(r"file:(//(localhost)?)?(/[^/].*|/)", re.DOTALL)


class AddressError(ValueError):
    """A text that is neither a path nor an address that is understood; the message is one line."""


class Address(NamedTuple):
    """A folder of an object store, or an object in it."""

    scheme: str
    bucket: str
    """Bucket or container."""
    key: str
    """Path in the bucket, without slashes around it; empty for the bucket itself."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address. Raises AddressError."""
        match = _URL.fullmatch(text)
        scheme = "" if match is None else match[1].lower()
        if match is None or scheme not in (*REMOTE_SCHEMES, MEMORY):
            known = ", ".join(f"{name}://" for name in REMOTE_SCHEMES)
            written = text if match is None else f"{match[1]}://{match[2]}"
            raise AddressError(f"{written}: unknown scheme; write a path of this machine, or {known}, file:///")
        bucket, _, key = match[2].partition("/")
        parts = [part for part in key.split("/") if part]
        if not bucket or {".", ".."} & {bucket, *parts}:
            raise AddressError(f"{text}: write {scheme}://BUCKET/FOLDER")
        return cls(scheme, bucket, "/".join(parts))

    def __truediv__(self, name: str) -> "Address":
        """Return the address of an object or folder below this one."""
        return self._replace(key=f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.key.rpartition("/")[2] or self.bucket

    def __str__(self) -> str:
        """Return the address as it is written."""
        return f"{self.scheme}://{self.bucket}/{self.key}" if self.key else f"{self.scheme}://{self.bucket}"


Place: TypeAlias = Path | Address


def place_of(text: "str | Path | Address", *, memory: bool = False) -> Place:
    """Return the path or address that a text names.

    Args:
        text: what a user wrote.
        memory: whether `memory://` may be meant, which no other process sees.

    Raises AddressError.
    """
    if isinstance(text, Address) or (match := _URL.fullmatch(str(text))) is None:
        return text if isinstance(text, Address) else Path(text)
    if match[1].lower() == "file":
        file = _FILE.fullmatch(str(text))
        if file is None:
            raise AddressError(f"{text}: write file:///FOLDER, a folder of this machine")
        return Path(unquote(file[3]))
    address = Address.parse(str(text))
    if address.scheme == MEMORY and not memory:
        raise AddressError(f"{text}: is in the memory of one process, which ends with the command; name another place")
    return address


def local_path(path: "str | Path") -> Path:
    """Return a path of this machine. Raises AddressError if it is an address."""
    place = place_of(path, memory=True)
    if isinstance(place, Address):
        raise AddressError(f"{place}: must be a path of this machine")
    return place
