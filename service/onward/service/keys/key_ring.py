"""KeyRing: the keys that are accepted."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from onward.service import telemetry
from onward.service.keys.file import KeysFileError, parse_keys, read_content
from onward.service.keys.key import SCOPES, Key, tenants_of


class KeyRing:
    """The keys of SERVICE_API_KEYS, which may do everything, and those of a file, which `refresh` follows.

    If the file cannot be used, the keys that were read last stay valid, and `refusal` says why.
    """

    def __init__(self, digests: Sequence[str], file: Path | None) -> None:
        """Accept keys by their digests, and those of a file. Raises KeysFileError."""
        self._file = file
        self._own = [Key(name=f"key-{digest[:8]}", digest=digest, scopes=frozenset(SCOPES)) for digest in digests]
        self._content = b""
        self.refusal: str | None = None
        self.by_digest: Mapping[bytes, Key] = {}
        """The keys by their SHA-256 digests; replaced by a new mapping when the file changes."""
        self._accept(b"", [])
        if file is not None:
            content = read_content(file)
            self._accept(content, parse_keys(file, content))

    @property
    def tenants(self) -> set[str]:
        """The tenants of the keys, without the deployment itself."""
        return tenants_of(self.by_digest.values())

    async def refresh(self) -> None:
        """Read the file, if there is one, and accept its keys if it has changed."""
        if self._file is None:
            return
        try:
            content = await asyncio.to_thread(read_content, self._file)
            if content != self._content:
                self._accept(content, parse_keys(self._file, content))
                telemetry.keys_read(len(self.by_digest))
        except KeysFileError as error:
            if str(error) != self.refusal:
                self.refusal = str(error)
                telemetry.keys_refused(self.refusal)
        else:
            self.refusal = None

    def _accept(self, content: bytes, keys: Sequence[Key]) -> None:
        self.by_digest = {bytes.fromhex(key.digest): key for key in (*keys, *self._own)}
        self._content = content


def key_ring(digests: Sequence[str], file: Path | None) -> KeyRing | None:
    """Return the keys of a deployment; None if it has none, so that everyone is admitted. Raises KeysFileError."""
    return KeyRing(digests, file) if digests or file is not None else None
