"""The file of keys: a JSON object on each line. Empty lines, and lines that begin with `#`, are comments."""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from onward.bundle.validation import message_of
from onward.service.keys.key import Key, tenants_of
from onward.service.tenants import MAX_TENANTS

MAX_FILE_BYTES = 2**20
COMMENT = b"#"
NEW_FILE_MODE = 0o600


class KeysFileError(Exception):
    """A file of keys cannot be used: the message names in one line the file, the line of it and the reason."""


def read_content(path: Path) -> bytes:
    """Read a file of keys. Raises KeysFileError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeysFileError(f"{path}: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise KeysFileError(f"{path}: longer than {MAX_FILE_BYTES} bytes")
    return content


def parse_keys(path: Path, content: bytes) -> list[Key]:
    """Parse the content of a file of keys. Raises KeysFileError."""
    keys: list[Key] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not _holds_a_key(line):
            continue
        try:
            key = Key.model_validate_json(line)
        except ValidationError as error:
            raise KeysFileError(f"{path}, line {number}: {_reason(error)}") from error
        for earlier in keys:
            if key.name == earlier.name or key.digest == earlier.digest:
                what = "name" if key.name == earlier.name else "digest"
                raise KeysFileError(f"{path}, line {number}: an earlier line has this {what}")
        keys.append(key)
    if len(tenants_of(keys)) > MAX_TENANTS:
        raise KeysFileError(f"{path}: more than {MAX_TENANTS} tenants")
    return keys


def read_keys(path: Path) -> list[Key]:
    """Return the keys of a file. Raises KeysFileError."""
    return parse_keys(path, read_content(path))


def add_key(path: Path, key: Key) -> None:
    """Append a key to a file, which is made if it is missing. Raises KeysFileError."""
    with _changing(path) as (file, lines):
        if any(known.name == key.name for known in parse_keys(file, b"\n".join(lines))):
            raise KeysFileError(f"{path}: has a key of the name {key.name} already")
        _replace(file, [*lines, key.line.encode()])


def remove_key(path: Path, name: str) -> Key:
    """Remove a key from a file and return it; the other lines stay as they are. Raises KeysFileError."""
    with _changing(path) as (file, lines):
        key = next((key for key in parse_keys(file, b"\n".join(lines)) if key.name == name), None)
        if key is None:
            raise KeysFileError(f"{path}: has no key of the name {name}")
        _replace(file, [line for line in lines if not _holds_a_key(line) or Key.model_validate_json(line) != key])
        return key


@contextmanager
def _changing(path: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """Keep other commands from changing the file meanwhile; yield it, links resolved, and its lines."""
    file = path.resolve()
    try:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield file, read_content(file).splitlines() if file.exists() else []
        finally:
            os.close(folder)
    except OSError as error:
        raise KeysFileError(f"{path}: {error.strerror}") from error


def _replace(file: Path, lines: Sequence[bytes]) -> None:
    """Write the file anew in one step, with the mode and the owner that it has. Raises OSError."""
    new = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, NEW_FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as written:
            if file.exists():
                known = file.stat()
                os.fchmod(descriptor, stat.S_IMODE(known.st_mode))
                with suppress(PermissionError):  # only root may give a file away
                    os.fchown(descriptor, known.st_uid, known.st_gid)
            written.write(b"".join(line + b"\n" for line in lines))
            written.flush()
            os.fsync(descriptor)
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _holds_a_key(line: bytes) -> bool:
    text = line.strip()
    return bool(text) and not text.startswith(COMMENT)


def _reason(error: ValidationError) -> str:
    """Describe the first fault of a line, without its value."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {message_of(first)}" if place else message_of(first)
