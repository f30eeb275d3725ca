"""Find the files of events that an argument names: a file, an archive, or a folder with all folders in it."""

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from onward.training.data.readers.formats import SERVED_ANSWERS, Format, format_of, known_format
from onward.training.data.readers.remote_files import local_files
from onward.training.errors import InputError

ARCHIVE_ERRORS = (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
"""What zipfile raises: RuntimeError for encrypted files and unknown compression, the others for damaged ones."""


class IgnoredFile(BaseModel):
    """A file of a folder that is not read, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reason: str


@dataclass(frozen=True)
class Source:
    """A file to read."""

    path: str
    format: Format
    name: str
    """What messages call it: its path below the argument's folder, or its own name."""
    keys: tuple[tuple[str, str], ...] = ()
    """Columns that the names of its folders give (`date=2024-01-31/`), and their values."""
    in_folder: bool = False
    """Whether a folder was named, so that an empty file is no mistake."""


@dataclass(frozen=True)
class Found:
    """The files that an argument names."""

    sources: tuple[Source, ...]
    ignored: tuple[IgnoredFile, ...] = field(default=())


def find_sources(argument: str, file_format: Format | None, scratch: Path) -> Found:
    """Return a file, or the files of a folder or of a zip archive in order of their paths; those of an address copied.

    Raises InputError if there is no such file, or none that can be read.
    """
    place = local_files(argument, scratch, _is_read)
    if not place.exists():
        raise InputError(f"{argument}: there is no such file")
    if place.is_dir():
        return _of_folder(argument, place, file_format)
    if place.suffix.lower() == ".zip":
        return _of_folder(argument, _extracted(argument, place, scratch), file_format)
    return Found((Source(str(place), file_format or format_of(argument), place.name),))


def _of_folder(argument: str, folder: Path, file_format: Format | None) -> Found:
    sources: list[Source] = []
    ignored: list[IgnoredFile] = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        reason = _reason_to_ignore(name, file, file_format)
        if reason is None:
            sources.append(Source(str(file), file_format or format_of(name), name, tuple(_keys(name)), in_folder=True))
        else:
            ignored.append(IgnoredFile(name=name, reason=reason))
    if not sources:
        found = "; ".join(f"{file.name}: {file.reason}" for file in ignored[:3]) or "it is empty"
        raise InputError(f"{argument}: no file of this folder can be read ({found}); name the files, or give --format")
    return Found(tuple(sources), tuple(ignored))


def _is_read(name: str) -> bool:
    """Return whether a file of this name is read, whatever it holds."""
    hidden = any(part.startswith((".", "_")) for part in name.split("/"))
    return not hidden and not fnmatch(name.rpartition("/")[2], SERVED_ANSWERS)


def _reason_to_ignore(name: str, file: Path, file_format: Format | None) -> str | None:
    if any(part.startswith((".", "_")) for part in name.split("/")):
        return "hidden"
    if fnmatch(file.name, SERVED_ANSWERS):
        return "answers of a service, no events"
    if file.stat().st_size == 0:
        return "empty"
    if known_format(name) is None and not (file_format is not None and not file.suffix):
        return f"no known format ({file.suffix or 'no extension'})"
    return None


def _keys(name: str) -> Iterator[tuple[str, str]]:
    for folder in name.split("/")[:-1]:
        key, separator, value = folder.partition("=")
        if separator and key:
            yield key, value


def _extracted(argument: str, archive: Path, scratch: Path) -> Path:
    folder = scratch / f"unpacked-{len(list(scratch.iterdir()))}"
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(folder)
    except ARCHIVE_ERRORS as error:
        raise InputError(f"{argument}: cannot be unpacked ({error}); pack it anew, or name the files in it") from error
    return folder
