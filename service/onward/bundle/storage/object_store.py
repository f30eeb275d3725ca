"""ObjectStore: read and write the objects of an address, by obstore.

Credentials and endpoints are those of the usual environment variables: AWS_*, GOOGLE_*, AZURE_*. An endpoint that
begins with http:// is taken as it is. At this border the library's errors become StorageError.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from onward.bundle.storage.address import MEMORY, Address

if TYPE_CHECKING:
    from obstore.store import MemoryStore
    from obstore.store import ObjectStore as Backend

CONNECT_TIMEOUT = timedelta(seconds=5)
REQUEST_TIMEOUT = timedelta(seconds=60)
RETRIES = 2
RETRY_TIMEOUT = timedelta(seconds=10)
"""After it a request that failed is not tried again: whoever polls comes again anyway."""
READ_BYTES, WRITE_BYTES = 4 * 2**20, 8 * 2**20
"""Part of an object that one request reads or writes; S3 takes no smaller part than 5 MiB."""
CONCURRENCY = 4
"""Requests at once for one object."""
EXTRA = "obstore is not installed: pip install 'onward[cloud]'"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
_CODE = re.compile(r"<Code>(\w+)</Code>|ErrorCode:(\w+)|\"error\":\s*\"(\w+)\"")
_STATUS = re.compile(r"non-2xx status code: (\d{3}[\w ]*)")
_DURATION = re.compile(r" in [\d.]+ ?[nµm]?s\b")
"""Differs from failure to failure, which would make each look like another one."""
_memories: "dict[str, MemoryStore]" = {}


class StorageError(Exception):
    """An object store that did not do what was asked for; the message is one line that names address and reason."""


class Missing(StorageError):
    """There is no such object."""


class Changed(StorageError):
    """The object is not in the version that is to be replaced."""


class Version(NamedTuple):
    """A version of an object, as its store names it."""

    e_tag: str | None
    version: str | None


class Stored(NamedTuple):
    """The content of an object."""

    content: bytes
    version: Version


class Listed(NamedTuple):
    """An object."""

    name: str
    """Relative to the address."""
    size: int
    modified: datetime


def run_together(at_once: int, calls: Sequence[Callable[[], object]]) -> None:
    """Make calls in threads; raise the first error, and then make no further ones."""
    if len(calls) == 1:
        calls[0]()
        return
    with ThreadPoolExecutor(at_once) as threads:
        running = [threads.submit(call) for call in calls]
        try:
            for done in running:
                done.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


class ObjectStore:
    """The objects below an address. All methods raise StorageError."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._backend = _open(address)

    def read(self, name: str) -> Stored:
        """Return an object. Raises Missing."""
        with self._errors(name):
            import obstore

            found = obstore.get(self._backend, self._path(name))
            return Stored(bytes(found.bytes()), _version(found.meta))
        raise AssertionError

    def read_if_changed(self, name: str, known: Version | None) -> Stored | None:
        """Return an object, None if it is in a version that is known already. Raises Missing."""
        if known is None or known.e_tag is None:
            return self.read(name)
        with self._errors(name):
            import obstore
            from obstore.exceptions import NotModifiedError

            try:
                found = obstore.get(self._backend, self._path(name), options={"if_none_match": known.e_tag})
            except NotModifiedError:
                return None
            return Stored(bytes(found.bytes()), _version(found.meta))
        raise AssertionError

    def write(self, name: str, content: bytes) -> None:
        """Write an object, whatever is there."""
        with self._errors(name):
            import obstore

            obstore.put(self._backend, self._path(name), content)

    def replace(self, name: str, content: bytes, known: Version | None) -> Version:
        """Compare and swap: write an object if it is in a version that is known, None for not there at all.

        Raises Changed.
        """
        with self._errors(name):
            import obstore

            mode: Any = "create" if known is None else {key: value for key, value in known._asdict().items() if value}
            return _version(obstore.put(self._backend, self._path(name), content, mode=mode))
        raise AssertionError

    def upload(self, file: Path, name: str) -> None:
        """Write the content of a file, in several requests if it is large."""
        with self._errors(name):
            import obstore

            obstore.put(self._backend, self._path(name), file, chunk_size=WRITE_BYTES, max_concurrency=CONCURRENCY)

    def download(self, name: str, file: Path, size: int | None = None) -> None:
        """Write an object to a file, by several requests if it is large. Raises Missing, and OSError of the file.

        `size`: how many bytes it has, if that is known.
        """
        if size is None:
            size = self.size(name)
        with file.open("wb") as target:
            number = target.fileno()
            run_together(
                CONCURRENCY,
                [
                    partial(self._download_range, name, number, start, min(READ_BYTES, size - start))
                    for start in range(0, size, READ_BYTES)
                ],
            )

    def size(self, name: str) -> int:
        """Return the size of an object in bytes. Raises Missing."""
        with self._errors(name):
            import obstore

            return int(obstore.head(self._backend, self._path(name))["size"])
        raise AssertionError

    def list(self) -> Iterator[Listed]:
        """Yield all objects below the address."""
        with self._errors(""):
            import obstore

            for page in obstore.list(self._backend, self.address.key or None):
                for found in page:
                    name = str(found["path"]).removeprefix(self._path(""))
                    yield Listed(name, int(found["size"]), found["last_modified"])

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, one after another; those that are gone already do not matter."""
        for name in names:
            with self._errors(name):
                import obstore

                try:
                    obstore.delete(self._backend, self._path(name))
                except FileNotFoundError:
                    continue

    def _path(self, name: str) -> str:
        return f"{self.address.key}/{name}" if self.address.key else name

    def _download_range(self, name: str, descriptor: int, start: int, length: int) -> None:
        with self._errors(name):
            import obstore

            content = bytes(obstore.get_range(self._backend, self._path(name), start=start, length=length))
            if len(content) != length:
                raise StorageError(f"{self.address / name}: is shorter than it should be")
        view = memoryview(content)
        while view:
            written = os.pwrite(descriptor, view, start)
            view, start = view[written:], start + written

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Raise what the library raises as StorageError."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        where = self.address / name if name else self.address
        try:
            yield
        except (AlreadyExistsError, PreconditionError) as error:
            raise Changed(f"{where}: has been changed by somebody else meanwhile") from error
        except FileNotFoundError as error:
            raise Missing(f"{where}: {_reason(error, 'there is no such object')}") from error
        except (BaseError, PermissionError, OSError, ValueError) as error:
            raise StorageError(f"{where}: {_reason(error, 'failed')}") from error


def _open(address: Address) -> "Backend":
    try:
        from obstore.exceptions import BaseError
        from obstore.store import MemoryStore, from_url
    except ModuleNotFoundError as error:
        raise StorageError(f"{address}: {EXTRA}") from error
    if address.scheme == MEMORY:
        return _memories.setdefault(address.bucket, MemoryStore())
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    try:
        return from_url(
            str(address._replace(key="")),
            client_options={"allow_http": plain, "connect_timeout": CONNECT_TIMEOUT, "timeout": REQUEST_TIMEOUT},
            retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_TIMEOUT},
        )
    except (BaseError, ValueError) as error:
        raise StorageError(f"{address}: {_reason(error, 'cannot be opened')}") from error


def _version(meta: Mapping[str, Any]) -> Version:
    return Version(meta.get("e_tag"), meta.get("version"))


def _reason(error: Exception, otherwise: str) -> str:
    """Describe an error in one line, by the code that the server gave if there is one."""
    text = str(error)
    code = next((group for match in _CODE.finditer(text) for group in match.groups() if group), None)
    status = _STATUS.search(text)
    if code is not None:
        return f"the object store says {code}" + (f" ({status[1].strip()})" if status else "")
    if isinstance(error, FileNotFoundError):
        return otherwise
    if status is not None:
        return f"the object store says {status[1].strip()}"
    if "error sending request" in text or "HTTP error" in text:
        return "the object store does not answer"
    first = text.strip().partition("\n")[0]
    return f"{otherwise}: {_DURATION.sub('', first)[:300]}" if first else otherwise
